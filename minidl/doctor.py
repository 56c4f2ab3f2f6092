"""`minidl doctor`: what minidl stands on here, what is wrong with it, and what to do about it.

Each check looks at one thing and gives findings. A library that is broken is a finding, never a crash; what may take
the whole process down with it, a GPU's driver above all, is looked at in a process of its own.
"""

from __future__ import annotations

import json as json_
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from .core.cuda import INSTALL, driver_found
from .kernels.cuda import tuner
from .kernels.cuda.tuner import cache_home

Level = Literal["fine", "note", "problem"]
MARKS: dict[Level, str] = {"fine": " ", "note": "!", "problem": "x"}
STYLES: dict[Level, str] = {"fine": "", "note": "yellow", "problem": "bold red"}
OLD_CACHE = re.compile(r"(cpu|cuda)-[0-9a-f]{16}")
CORE = ("numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "rich", "tyro")
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn"}  # distribution -> what is imported, where they differ
LITTLE_MEMORY = 2 * 2**30  # bytes; C3D's training step takes about as much
LITTLE_DISK = 200 * 2**20
GPU_SECONDS = 60.0  # a driver may hang


@dataclass(frozen=True)
class Finding:
    """One fact. level: "problem" makes the exit status 1; a "note" may be as the user wants it."""

    section: str
    name: str
    value: str
    level: Level = "fine"
    advice: str = ""


Findings = Iterator[Finding]


def run(*, json: bool = False, clean: bool = False) -> int:
    """Print all findings; the exit status is 1 if one is a problem, else 0.

    json: as JSON. clean: first remove the cache folders of other versions.
    """
    removed = remove_old_caches() if clean else None
    findings = examine()
    bad = sum(f.level == "problem" for f in findings)
    if json:
        about: dict[str, Any] = {"findings": [asdict(f) for f in findings], "problems": bad}
        if removed is not None:
            about["removed"] = [str(path) for path in removed]
        print(json_.dumps(about, indent=2))
    else:
        _print(findings, removed)
    return 1 if bad else 0


def examine() -> list[Finding]:
    """The findings of all checks, in order."""
    found: list[Finding] = []
    for title, check in CHECKS.items():
        try:
            for finding in check():
                found.append(finding)  # one by one: what was found before a failure counts
        except Exception as error:
            advice = f"reinstall what it names: {sys.executable} -m pip install --force-reinstall …"
            found.append(Finding(title, "check", f"failed: {_words(error)}", "problem", advice))
    return found


def _words(error: BaseException) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# ---- versions
def _versions() -> Findings:
    from . import __version__

    section = "versions"
    yield Finding(section, "minidl", f"{__version__}, in {Path(__file__).parent}")
    yield Finding(section, "Python", f"{platform.python_version()}, {sys.executable}")
    needed = _requirements()
    if needed is None:
        yield Finding(section, "installed", "no", "note", "minidl runs from its folder: versions cannot be checked")
    for library in CORE:
        yield _library(section, library, (needed or {}).get(("", library), ""), "")


def _requirements() -> dict[tuple[str, str], str] | None:
    """(extra, distribution) -> the lowest version that will do; "" is no extra. None if minidl is not installed."""
    try:
        lines = requires("minidl") or []
    except PackageNotFoundError:
        return None
    found = {}
    for line in lines:
        text, _, marker = line.partition(";")
        name = re.match(r"[\w.-]+", text)
        lowest = re.search(r">=\s*([\w.]+)", text)
        extra = re.search(r"""extra == ["']([\w-]+)["']""", marker)
        if name and name[0] != "minidl":
            found[extra[1] if extra else "", name[0].lower()] = lowest[1] if lowest else ""
    return found


def _library(section: str, name: str, lowest: str, extra: str) -> Finding:
    """Whether a library is there, new enough, and can be imported. Missing, one of an extra is a note."""
    try:
        there = version(name)
    except PackageNotFoundError:
        if not extra:
            return Finding(section, name, "missing", "problem", f"pip install {name}")
        return Finding(section, name, "missing", "note", f"pip install 'minidl[{extra}]'")
    if lowest and _numbers(there) < _numbers(lowest):
        return Finding(section, name, f"{there} is too old", "problem", f"pip install '{name}>={lowest}'")
    if not extra:
        try:
            import_module(MODULES.get(name, name))
        except Exception as error:  # whatever a broken library raises
            advice = f"pip install --force-reinstall {name}"
            return Finding(section, name, f"{there} cannot be imported: {_words(error)}", "problem", advice)
    return Finding(section, name, there)


def _numbers(text: str) -> tuple[int, ...]:
    """2.13.0+cpu -> (2, 13, 0)"""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _extras() -> Findings:
    needed = _requirements() or {}
    purposes = {
        "train": "training runs, their pictures and checkpoints",
        "video": "reading videos",
        "cuda": "computing on NVIDIA GPUs",
        "torch": "a peer for minidl bench",
    }
    for extra, purpose in purposes.items():
        rows = [_library("extras", name, low, extra) for (e, name), low in needed.items() if e == extra]
        old = [row for row in rows if row.level == "problem"]
        missing = [row.name for row in rows if row.value == "missing"]
        if old:
            yield from old
        elif missing:
            advice = f"for {purpose}: pip install 'minidl[{extra}]'"
            yield Finding("extras", extra, f"without {', '.join(missing)}", "note", advice)
        elif rows:
            yield Finding("extras", extra, ", ".join(f"{row.name} {row.value}" for row in rows))


# ---- processor
def _processor() -> Findings:
    from .train.machine import machine

    section = "processor"
    yield Finding(section, "model", machine()["processor"])
    yield _simd(section)
    for variable in ("NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "OPENBLAS_CORETYPE"):
        if os.environ.get(variable):
            advice = f"unset {variable}, unless you want other instructions than the processor's own"
            yield Finding(section, variable, os.environ[variable], "note", advice)


def _simd(section: str) -> Finding:
    """The widest vectors that LLVM, hence Numba, finds."""
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    levels = {
        "AVX-512": ("avx512f", "avx512vl"), "AVX2 with FMA": ("avx2", "fma"), "AVX": ("avx",), "SSE4.2": ("sse4.2",),
        "SVE": ("sve",), "NEON": ("neon",),
    }  # fmt: skip
    level = next((name for name, wanted in levels.items() if all(features.get(f) for f in wanted)), "unknown")
    value = f"{level} ({binding.get_host_cpu_name()})"
    if level in ("AVX", "SSE4.2"):
        advice = "kernels will be slow without AVX2; where a virtual machine hides it, pass the host's CPU through"
        return Finding(section, "SIMD", value, "note", advice)
    return Finding(section, "SIMD", value)


# ---- threads
def _threads() -> Findings:
    from .kernels.cpu import threads

    section = "threads"
    cores, quota = os.cpu_count() or 1, threads.container_quota()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    yield Finding(section, "cores", f"{allowed} usable of {cores}")
    if quota is not None:
        level: Level = "note" if quota < allowed else "fine"
        advice = "raise the container's CPU limit for more (docker run --cpus)" if level == "note" else ""
        yield Finding(section, "container", f"may use {quota:g} CPUs' time", level, advice)
    yield Finding(section, "minidl", f"uses up to {threads.get_num_threads()}")
    yield from _variables(section, allowed)
    yield from _layer(section)


def _variables(section: str, cores: int) -> Findings:
    for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        text = os.environ.get(variable)
        if text is None:
            continue
        first = text.partition(",")[0].strip()
        if not first.isdigit() or int(first) < 1:
            yield Finding(section, variable, repr(text), "problem", f"make it a number of threads, or unset {variable}")
        elif int(first) > cores:
            advice = f"there are {cores} cores: more threads wait for each other; unset {variable}"
            yield Finding(section, variable, text, "problem", advice)
        elif int(first) < cores:
            yield Finding(section, variable, text, "note", f"{cores - int(first)} cores stay idle; unset it to use all")
        else:
            yield Finding(section, variable, text)


def _layer(section: str) -> Findings:
    """What runs Numba's parallel loops."""
    from numba import threading_layer
    from numba.np.ufunc import parallel

    try:
        parallel._launch_threads()
        layer = threading_layer()
    except Exception as error:
        advice = "install OpenMP (libgomp1 on Debian and Ubuntu), or unset NUMBA_THREADING_LAYER"
        yield Finding(section, "Numba's layer", f"none: {_words(error)}", "problem", advice)
        return
    if layer == "workqueue":
        advice = "each parallel loop costs nearly a millisecond more: install OpenMP (libgomp1 on Debian and Ubuntu)"
        yield Finding(section, "Numba's layer", layer, "problem", advice)
    else:
        yield Finding(section, "Numba's layer", layer)


def busy() -> Findings:
    """Whether others compute here: BLAS and OpenMP wait actively for threads that have no core."""
    if not hasattr(os, "getloadavg"):
        return
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    value = f"{load:.1f} processes want to run on {cores} cores (mean of the last minute)"
    if load > cores + 0.5:
        advice = "several threads are slower than one on a busy machine: --threads 1 or OMP_NUM_THREADS=1"
        yield Finding("load", "load", value, "note", advice)
    else:
        yield Finding("load", "load", value)


# ---- BLAS
def _blas() -> Findings:
    import_module("numpy")
    import_module("scipy.linalg")
    from threadpoolctl import threadpool_info

    section = "BLAS"
    libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
    for library in libraries:
        path = Path(library["filepath"])
        owner = next((part[: -len(".libs")] for part in path.parts if part.endswith(".libs")), path.name)
        words = filter(None, (library["internal_api"], library["version"], library.get("architecture")))
        value = f"{' '.join(words)}, {library['num_threads']} threads"
        if library.get("architecture") in ("Prescott", "Core2", "Nehalem") and _simd(section).value.startswith("AVX"):
            advice = "it takes the processor for a much older one: unset OPENBLAS_CORETYPE, or install a newer NumPy"
            yield Finding(section, owner, value, "problem", advice)
        else:
            yield Finding(section, owner, value)
    if not libraries:
        advice = "its threads cannot be limited, so they get in the way of others; the NumPy that pip installs has one"
        yield Finding(section, "libraries", "none that threadpoolctl knows", "note", advice)


# ---- memory and disk
def _memory() -> Findings:
    total, left = _meminfo("MemTotal"), _meminfo("MemAvailable")
    limit = _memory_limit()
    if total is None or left is None:
        yield Finding("memory", "memory", "the system does not tell")
        return
    if limit is not None and limit < total:
        yield Finding("memory", "container", f"may use {limit / 2**30:.1f} GiB")
        left = min(left, limit)
    value = f"{left / 2**30:.1f} GiB available of {total / 2**30:.1f}"
    if left < LITTLE_MEMORY:
        advice = "large networks will not fit: a smaller --batch-size, or --accumulate"
        yield Finding("memory", "memory", value, "note", advice)
    else:
        yield Finding("memory", "memory", value)


def _meminfo(name: str) -> int | None:
    """Bytes, from /proc/meminfo."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _memory_limit(root: str = "/sys/fs/cgroup") -> int | None:
    """Bytes that control groups (version 2 or 1) leave to this container; None: no limit."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = Path(root, name).read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None


def _cache() -> Findings:
    from .kernels.cpu.compile import cache_directory

    section = "compiled kernels"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = cache_directory()
    home = cache_home()
    if caught or folder.parent != home:
        value = str(caught[0].message) if caught else f"{home} is not writable"
        advice = "make the folder writable, or set MINIDL_CACHE_DIR to one that is"
        yield Finding(section, "folder", value, "problem", advice)
    else:
        files = [path for path in folder.glob("*.bin") if path.is_file()]
        value = f"{folder}, {len(files)} kernels, {_size(folder) / 2**20:.1f} MiB"
        if files:
            yield Finding(section, "folder", value)
        else:
            advice = "the first training step will compile some: minidl warmup does it now"
            yield Finding(section, "folder", value, "note", advice)
        free = shutil.disk_usage(folder).free
        if free < LITTLE_DISK:
            yield Finding(section, "disk", f"{free / 2**20:.0f} MiB free", "problem", f"make room below {home}")
    old = old_caches()
    if old:
        value = f"{len(old)} folders, {sum(map(_size, old)) / 2**20:.1f} MiB, in {home}"
        yield Finding(section, "other versions", value, "note", "minidl doctor --clean removes them")


def old_caches() -> list[Path]:
    """The folders of other versions of the kernels, of Python, or of Numba, which nobody may need any more."""
    from .kernels.cpu.compile import cache_directory

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # _cache tells
        current = cache_directory(), tuner.home()
    try:
        found = sorted(cache_home().iterdir())
    except OSError:
        return []
    return [p for p in found if OLD_CACHE.fullmatch(p.name) and p not in current and p.is_dir() and not p.is_symlink()]


def remove_old_caches() -> list[Path]:
    """Remove them; which ones are gone. A version still in use compiles again what it needs."""
    gone = []
    for folder in old_caches():
        shutil.rmtree(folder, ignore_errors=True)  # what is left is found again, and reported
        if not folder.exists():
            gone.append(folder)
    return gone


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # another process has just moved it
            continue
    return total


# ---- GPU
_GPU = """
import json, sys
out = {}
try:
    import cupy
    out["cupy"] = cupy.__version__
    runtime = cupy.cuda.runtime
    out["toolkit"] = runtime.runtimeGetVersion()
    try:
        from cupy.cuda import compiler
        out["cache"] = compiler.get_cache_dir()
    except Exception:  # another version's
        pass
    try:
        from cupy.cuda import nvrtc
        out["nvrtc"] = ".".join(map(str, nvrtc.getVersion()))
    except Exception as error:
        out["nvrtc error"] = f"{type(error).__name__}: {error}"
    out["driver"] = runtime.driverGetVersion()
    out["devices"] = []
    for i in range(runtime.getDeviceCount()):
        p = runtime.getDeviceProperties(i)
        name = p["name"].decode(errors="replace")
        out["devices"].append([name, p["totalGlobalMem"], f"{p['major']}.{p['minor']}"])
except BaseException as error:
    out["error"] = f"{type(error).__name__}: {error}"
print("\\n" + json.dumps(out))
"""


def _gpu() -> Findings:
    section = "GPU"
    driver = driver_found()
    if not any(map(_installed, ("cupy", "cupy-cuda13x", "cupy-cuda12x"))):
        advice = f"a driver is here: {INSTALL}, and minidl computes on the GPU" if driver else ""
        yield Finding(section, "CuPy", "missing", "note" if driver else "fine", advice)
        return
    seen, failure = _ask_gpu()
    if failure or "cupy" not in seen:
        advice = "pip install --force-reinstall 'minidl[cuda]'; the CPU can be used all the same"
        yield Finding(section, "CuPy", f"cannot be imported: {failure or seen['error']}", "problem", advice)
        return
    yield Finding(section, "CuPy", seen["cupy"])
    if "nvrtc" in seen:
        yield Finding(section, "NVRTC", seen["nvrtc"])
    else:
        advice = "it compiles the kernels: pip install 'cupy-cuda13x[ctk]'"
        level: Level = "problem" if driver else "note"
        yield Finding(section, "NVRTC", f"cannot be loaded: {seen.get('nvrtc error', 'unknown')}", level, advice)
    yield from _driver(section, seen)
    if seen.get("devices"):
        from .kernels.cuda.plan import LOWEST

        for i, (name, memory, capability) in enumerate(seen["devices"]):
            value = f"{name}, {memory / 2**30:.1f} GiB, compute capability {capability}"
            if int(capability.replace(".", "")) < LOWEST:
                advice = f"below {LOWEST / 10:.1f} the plain kernels run, without tensor cores: right, but slow"
                yield Finding(section, f"device {i}", value, "note", advice)
            else:
                yield Finding(section, f"device {i}", value)
        yield from _choices(section)
    elif driver:
        advice = "nvidia-smi says more; the driver may be older than CuPy's CUDA, the container without --gpus all"
        value = f"none can be used: {seen.get('error', 'the driver sees none')}"
        yield Finding(section, "devices", value, "problem", advice)
    else:
        yield Finding(section, "devices", "none, and no driver")


def _choices(section: str) -> Findings:
    """What `minidl warmup --tune` and `set_autotune` have measured, for each kind of device."""
    name, home = "choices of kernels", tuner.home()
    try:
        folders = [folder for folder in sorted(home.iterdir()) if folder.is_dir()]
    except OSError:
        folders = []
    for folder in folders:
        yield Finding(section, name, f"{len([*folder.glob('*.json')])} measured, in {folder}")
    if not folders:
        yield Finding(section, name, "by a model, none was measured: minidl warmup --device cuda --tune does it")
    try:
        mode = tuner.get_autotune()
    except ValueError as error:
        yield Finding(section, "autotune", str(error), "problem", "set MINIDL_AUTOTUNE to one of these, or remove it")
    else:
        yield Finding(section, "autotune", mode)


def _driver(section: str, seen: Mapping[str, Any]) -> Findings:
    """The driver's CUDA beside CuPy's, and where CuPy keeps compiled kernels."""
    toolkit, driver = seen.get("toolkit", 0), seen.get("driver", 0)
    if driver:
        value = f"for CUDA {_cuda(driver)}; CuPy has CUDA {_cuda(toolkit)}"
        if driver // 1000 < toolkit // 1000:
            advice = f"update the driver, or install a CuPy for CUDA {driver // 1000}: cupy-cuda{driver // 1000}x"
            yield Finding(section, "driver", value, "problem", advice)
        else:
            yield Finding(section, "driver", value)
    if "cache" in seen:
        folder = Path(seen["cache"]).expanduser()
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if os.access(there, os.W_OK):
            yield Finding(section, "kernels", f"{folder}, {_size(folder) / 2**20:.1f} MiB")
        else:
            advice = "each process compiles them anew: make it writable, or set CUPY_CACHE_DIR to a folder that is"
            yield Finding(section, "kernels", f"{folder} is not writable", "problem", advice)


def _cuda(number: int) -> str:
    """13020 -> 13.2"""
    return f"{number // 1000}.{number % 1000 // 10}"


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _ask_gpu() -> tuple[Mapping[str, Any], str]:
    """What CuPy says in a process of its own, and how that process failed, if it did."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _GPU], capture_output=True, text=True, timeout=GPU_SECONDS, check=False
        )
        return json_.loads(done.stdout.rpartition("\n{")[2].join(("{", ""))), ""
    except subprocess.TimeoutExpired:
        return {}, f"it hangs: no answer within {GPU_SECONDS:.0f} s"
    except ValueError:
        return {}, f"the process has ended with status {done.returncode}: {done.stderr.strip()[-200:]}"


# in this order; the load first, before the checks themselves make the machine busy
CHECKS: dict[str, Callable[[], Findings]] = {
    "load": busy,
    "versions": _versions,
    "extras": _extras,
    "processor": _processor,
    "threads": _threads,
    "BLAS": _blas,
    "memory": _memory,
    "compiled kernels": _cache,
    "GPU": _gpu,
}


def _print(findings: list[Finding], removed: list[Path] | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    say = lambda text, style="": console.print(Text(text, style), soft_wrap=True)
    if removed is not None:
        say(f"removed {len(removed)} cache folders of other versions\n")
    width = max(len(f.name) for f in findings)
    section = ""
    for f in findings:
        if f.section != section:
            section = f.section
            say(section, "bold")
        say(f" {MARKS[f.level]} {f.name:<{width}}  {f.value}", STYLES[f.level])
        if f.advice:
            say(f"   {'':<{width}}  -> {f.advice}", STYLES[f.level])
    bad, notes = (sum(f.level == level for f in findings) for level in ("problem", "note"))
    say(f"\n{bad or 'no'} problem{'' if bad == 1 else 's'} (x), {notes} note{'' if notes == 1 else 's'} (!)")
