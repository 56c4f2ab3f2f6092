"""The doctor finds what is wrong, says what to do, and survives what is broken."""

from __future__ import annotations

import json
import os

import pytest

from minidl import doctor
from minidl.doctor import Finding

CURRENT, OLD = "cpu-0123456789abcdef", "cpu-fedcba9876543210"


def rows(check):
    return {f.name: f for f in check()}


def test_a_healthy_installation(capsys):
    assert {f.section for f in doctor.examine()} == set(doctor.CHECKS)
    for library in ("numpy", "scipy", "numba"):
        assert rows(doctor._versions)[library].level == "fine"


def test_the_exit_status_and_the_screen(capsys, monkeypatch):
    good, bad = Finding("a", "x", "1"), Finding("b", "y", "too old", "problem", "do this")
    note = Finding("b", "zzz", "[/so] so", "note")
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: iter([good]), "b": lambda: iter([bad, note])})
    assert doctor.run() == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [
        "a", "   x    1", "b", " x y    too old", "        -> do this", " ! zzz  [/so] so", "",
        "1 problem (x), 1 note (!)",
    ]  # fmt: skip
    monkeypatch.setattr(doctor, "CHECKS", {"a": lambda: iter([good, note])})
    assert doctor.run(json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["problems"] == 0 and said["findings"][1]["level"] == "note" and "removed" not in said


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken():
        yield Finding("a", "before", "1")
        raise RuntimeError("the library is\nin pieces")

    monkeypatch.setattr(doctor, "CHECKS", {"a": broken, "b": lambda: iter([Finding("b", "after", "2")])})
    found = doctor.examine()
    assert [f.level for f in found] == ["fine", "problem", "fine"] and found[-1].name == "after"
    assert found[1].value == "failed: RuntimeError: the library is"


def test_the_command(capsys):
    from minidl import cli

    status = cli.main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert status == (said["problems"] > 0) and {f["name"] for f in said["findings"]} >= {"minidl", "cores", "SIMD"}


# ---- versions


def test_missing_and_old_libraries(monkeypatch):
    there = {"numpy": "1.26.4", "scipy": "1.17.0", "torch": "2.13.0+cpu", "matplotlib": "3.8.4"}

    def version(name):
        if name not in there:
            raise doctor.PackageNotFoundError(name)
        return there[name]

    monkeypatch.setattr(doctor, "version", version)
    monkeypatch.setattr(doctor, "requires", lambda name: [
        "numpy>=2.0", "scipy>=1.13", "numba>=0.61", 'matplotlib>=3.9; extra == "train"', 'av>=12; extra == "video"',
        "torch>=2.4; extra == 'torch'", 'minidl[train]; extra == "test"', 'cupy-cuda13x>=14; extra == "cuda"',
    ])  # fmt: skip
    found = rows(doctor._versions)
    assert (found["numpy"].level, found["numpy"].advice) == ("problem", "pip install 'numpy>=2.0'")
    assert (found["numba"].value, found["numba"].level) == ("missing", "problem")
    assert found["scipy"].level == "fine"
    extras = rows(doctor._extras)
    assert extras["video"] == Finding(
        "extras", "video", "without av", "note", "for reading videos: pip install 'minidl[video]'"
    )
    assert extras["matplotlib"].level == "problem" and extras["torch"].value == "torch 2.13.0+cpu"


def test_a_library_that_cannot_be_imported(tmp_path, monkeypatch):
    (tmp_path / "brokenlib.py").write_text("raise OSError('libfoo.so: no such file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "version", lambda name: "1.0")
    found = doctor._library("versions", "brokenlib", "", "")
    assert found.level == "problem" and "cannot be imported: OSError: libfoo.so: no such file" in found.value


def test_running_from_a_folder(monkeypatch):
    def requires(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", requires)
    assert rows(doctor._versions)["installed"].level == "note"


@pytest.mark.parametrize(("text", "numbers"), [("2.13.0+cpu", (2, 13, 0)), ("1.17rc1", (1, 17)), ("?", ())])
def test_version_numbers(text, numbers):
    assert doctor._numbers(text) == numbers


# ---- threads and load


@pytest.mark.parametrize(
    ("text", "level", "words"),
    [
        ("8", "problem", "there are 4 cores"), ("many", "problem", "make it a number"), ("0", "problem", "make it"),
        ("4", "fine", ""), ("2,1", "note", "2 cores stay idle"),
    ],
)  # fmt: skip
def test_variables(monkeypatch, text, level, words):
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    found = {f.name: f for f in doctor._variables("threads", 4)}["OMP_NUM_THREADS"]
    assert found.level == level and words in found.advice


def test_a_container_with_less_time_than_cores(monkeypatch):
    from minidl.kernels.cpu import threads

    monkeypatch.setattr(threads, "container_quota", lambda: 0.5)
    found = rows(doctor._threads)["container"]
    assert found.level == "note" and "0.5 CPUs" in found.value


@pytest.mark.parametrize(("load", "level"), [(0.3, "fine"), (4.0, "fine"), (9.0, "note")])
def test_a_busy_machine(monkeypatch, load, level):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    (found,) = doctor.busy()
    assert found.level == level and ("--threads 1" in found.advice) == (level == "note")


def test_numbas_layer(monkeypatch):
    import numba
    from numba.np.ufunc import parallel

    monkeypatch.setattr(parallel, "_launch_threads", lambda: None)
    monkeypatch.setattr(numba, "threading_layer", lambda: "workqueue")
    (found,) = doctor._layer("threads")
    assert found.level == "problem" and "libgomp1" in found.advice

    def refuse():
        raise ValueError("No threading layer could be loaded.\nHINT: …")

    monkeypatch.setattr(parallel, "_launch_threads", refuse)
    (found,) = doctor._layer("threads")
    assert found.value == "none: ValueError: No threading layer could be loaded."


# ---- processor, BLAS, memory


def test_simd_levels(monkeypatch):
    from llvmlite import binding

    for features, words, level in (
        ({"avx2": True, "fma": True, "avx": True}, "AVX2", "fine"), ({"avx": True, "avx2": False}, "AVX ", "note"),
        ({"neon": True}, "NEON", "fine"), ({}, "unknown", "fine"),
    ):  # fmt: skip
        monkeypatch.setattr(binding, "get_host_cpu_features", lambda features=features: features)
        found = doctor._simd("processor")
        assert found.value.startswith(words) and found.level == level


def test_blas_that_takes_the_processor_for_an_old_one(monkeypatch):
    import threadpoolctl

    one = {"user_api": "blas", "internal_api": "openblas", "version": "0.3.30", "num_threads": 4}
    libraries = [one | {"filepath": "/x/numpy.libs/libopenblas.so", "architecture": "Prescott"}, {"user_api": "openmp"}]
    monkeypatch.setattr(threadpoolctl, "threadpool_info", lambda: libraries)
    monkeypatch.setattr(doctor, "_simd", lambda section: Finding(section, "SIMD", "AVX2 with FMA (znver3)"))
    (found,) = doctor._blas()
    assert (found.name, found.level) == ("numpy", "problem") and found.value == "openblas 0.3.30 Prescott, 4 threads"
    del libraries[0]
    (found,) = doctor._blas()
    assert found.level == "note"


def test_little_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "_meminfo", {"MemTotal": 2**35, "MemAvailable": 2**34}.get)
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    real = doctor._memory_limit
    monkeypatch.setattr(doctor, "_memory_limit", lambda: real(str(tmp_path)))
    found = rows(doctor._memory)
    assert found["container"].value == "may use 1.0 GiB" and found["memory"].level == "note"
    (tmp_path / "memory.max").write_text("max\n")
    assert real(str(tmp_path)) is None and real(str(tmp_path / "none")) is None


# ---- the cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    from minidl.kernels.cpu import compile

    home = tmp_path / "cache"
    for name in (CURRENT, OLD, "cpu-notes", "other"):
        (home / name).mkdir(parents=True)
    (home / OLD / "a.bin").write_bytes(bytes(2**20))
    (home / "cpu-ffffffffffffffff").symlink_to(tmp_path)
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(home))
    monkeypatch.setattr(compile, "cache_directory", lambda: home / CURRENT)
    return home


def test_an_empty_cache_and_folders_of_other_versions(cache):
    found = rows(doctor._cache)
    assert found["folder"].level == "note" and "minidl warmup" in found["folder"].advice
    assert found["other versions"].value == f"1 folders, 1.0 MiB, in {cache}"
    (cache / CURRENT / "a.bin").write_bytes(b"123")
    assert rows(doctor._cache)["folder"].level == "fine"


def test_clean_removes_only_those(cache, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", {"compiled kernels": doctor._cache})
    assert doctor.run(clean=True, json=True) == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [str(cache / OLD)]
    assert sorted(path.name for path in cache.iterdir()) == [CURRENT, "cpu-ffffffffffffffff", "cpu-notes", "other"]
    assert doctor.run(clean=True) == 0
    assert capsys.readouterr().out.startswith("removed 0 cache folders")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    from minidl.kernels.cpu import compile

    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(blocked))
    compile.cache_directory.cache_clear()
    try:
        found = rows(doctor._cache)["folder"]
        assert found.level == "problem" and "MINIDL_CACHE_DIR" in found.advice and str(blocked) in found.value
    finally:
        compile.cache_directory.cache_clear()


# ---- the GPU


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    """Puts the text of a module cupy in front of the one that is installed, if any; it appears to be installed."""
    monkeypatch.setattr(doctor, "_installed", lambda name: name == "cupy")
    monkeypatch.setattr(doctor.Path, "exists", lambda self: False)  # no driver
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return (tmp_path / "cupy.py").write_text


RUNTIME = """
import sys, types
__version__ = "14.0"
class runtime:
    runtimeGetVersion = driverGetVersion = staticmethod(lambda: 13000)
    getDeviceCount = staticmethod(lambda: 1)
    getDeviceProperties = staticmethod(lambda i: dict(name=b"Fast GPU", totalGlobalMem=2**34, major=9, minor=0))
cuda = types.ModuleType("cupy.cuda")
cuda.runtime, cuda.nvrtc = runtime, types.SimpleNamespace(getVersion=lambda: (13, 0))
sys.modules["cupy.cuda"] = cuda
"""


def test_a_gpu(cupy):
    cupy("print('greetings')\n" + RUNTIME)
    found = rows(doctor._gpu)
    assert found["device 0"].value == "Fast GPU, 16.0 GiB, compute capability 9.0"
    assert found["NVRTC"].value == "13.0" and {f.level for f in found.values()} == {"fine"}
    assert found["driver"].value == "for CUDA 13.0; CuPy has CUDA 13.0"


def test_an_old_driver_and_an_old_gpu(cupy):
    old = "runtime.driverGetVersion = staticmethod(lambda: 12040)\n"
    properties = "dict(name=b'Old', totalGlobalMem=1, major=7, minor=5)"
    small = f"runtime.getDeviceProperties = staticmethod(lambda i: {properties})"
    cupy(RUNTIME + old + small)
    found = rows(doctor._gpu)
    assert found["driver"].level == "problem" and "cupy-cuda12x" in found["driver"].advice
    assert found["device 0"].level == "note" and "tensor cores" in found["device 0"].advice


def test_where_compiled_kernels_are_kept(tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a.cubin").write_bytes(bytes(2**20))
    for folder, size in ((kept, "1.0"), (tmp_path / "to" / "come", "0.0")):
        (found,) = doctor._driver("GPU", {"cache": str(folder)})
        assert found.value == f"{folder}, {size} MiB" and found.level == "fine"
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    (found,) = doctor._driver("GPU", {"cache": str(kept)})
    assert found.level == "problem" and "CUPY_CACHE_DIR" in found.advice


def test_no_device_is_fine_without_a_driver_and_a_problem_with_one(cupy, monkeypatch):
    cupy(RUNTIME + "def none(): raise RuntimeError('cudaErrorNoDevice')\nruntime.getDeviceCount = none")
    assert rows(doctor._gpu)["devices"].level == "fine"
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    found = rows(doctor._gpu)["devices"]
    assert found.level == "problem" and "cudaErrorNoDevice" in found.value


def test_nvrtc_that_cannot_be_loaded(cupy):
    cupy(RUNTIME + "def bad(): raise OSError('libnvrtc.so.13')\ncuda.nvrtc.getVersion = bad")
    found = rows(doctor._gpu)["NVRTC"]
    assert found.level == "note" and "libnvrtc.so.13" in found.value and "ctk" in found.advice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('libcuda.so.1')", "ImportError: libcuda.so.1"),
        ("import os, sys; sys.stderr.write('Aborted'); sys.stderr.flush(); os._exit(134)", "status 134: Aborted"),
        ("import time; time.sleep(60)", "it hangs: no answer within 1 s"),
    ],
)
def test_a_broken_cupy_is_reported(cupy, monkeypatch, text, words):
    monkeypatch.setattr(doctor, "GPU_SECONDS", 1.0)
    cupy(text)
    found = rows(doctor._gpu)
    assert list(found) == ["CuPy"] and found["CuPy"].level == "problem" and words in found["CuPy"].value


def test_no_cupy(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda name: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    (found,) = doctor._gpu()
    assert found.level == "note" and "minidl[cuda]" in found.advice
