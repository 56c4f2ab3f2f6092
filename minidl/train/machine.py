"""What a run was made on: the facts that its speed and its last digits depend on."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from .threads import available


def machine() -> dict[str, str]:
    """Processor, memory, operating system, versions and threads, each as words; "GPU" only if CuPy is in use already.

    Nothing is imported for it that was not: a run on the CPU does not wake the GPU. What a system does not tell (there
    may be no /proc) is "unknown", and never an error.
    """
    facts = {
        "processor": _processor(),
        "cores": f"{available()} usable of {os.cpu_count() or 'an unknown number'}",
        "memory": _memory(),
        "operating system": _system(),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "NumPy": f"{np.__version__}, {_blas()}",
        "Numba": _version("numba"),
        "minidl": __version__,
        "threads": _threads(),
    }
    if "cupy" in sys.modules:
        facts["GPU"] = _gpu(sys.modules["cupy"])
    return facts


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)  # ARM kernels give none
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    except (AttributeError, ValueError, OSError):  # not a POSIX system, or one that does not count them
        return "unknown"


def _system() -> str:
    kernel = f"{platform.system()} {platform.release()} {platform.machine()}"
    try:
        return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, {kernel}"
    except (OSError, KeyError):
        return kernel


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "unknown"


def _blas_libraries() -> list[dict[str, Any]]:
    from threadpoolctl import threadpool_info

    return [library for library in threadpool_info() if library["user_api"] == "blas"]


def _blas() -> str:
    names = [
        " ".join(filter(None, (library["internal_api"], library["version"], library.get("architecture"))))
        for library in _blas_libraries()
    ]
    return f"BLAS: {', '.join(dict.fromkeys(names)) or 'unknown'}"


def _threads() -> str:
    """How many threads compute, as it is now; `limit_threads` changes it."""
    counts = sorted({library["num_threads"] for library in _blas_libraries()})
    parts = [f"BLAS {'/'.join(map(str, counts)) or 'unknown'}"]
    if "numba" in sys.modules:
        from ..kernels.cpu.threads import start_threads

        start_threads()  # asked first, Numba would start them itself
        parts.append(f"Numba {sys.modules['numba'].get_num_threads()}")
    return ", ".join(parts)


def _gpu(cupy: Any) -> str:
    """Name, memory and driver of the current device, and CuPy's version."""
    runtime = cupy.cuda.runtime
    library = f"CuPy {cupy.__version__}"
    try:
        device = runtime.getDeviceProperties(runtime.getDevice())
        driver, toolkit = _cuda_version(runtime.driverGetVersion()), _cuda_version(runtime.runtimeGetVersion())
    except runtime.CUDARuntimeError as error:
        return f"none that can be used ({error}), {library}"
    name = device["name"].decode(errors="replace")
    memory = f"{device['totalGlobalMem'] / 2**30:.1f} GiB"
    return f"{name}, {memory}, driver for CUDA {driver}, CUDA {toolkit}, {library}"


def _cuda_version(number: int) -> str:
    """13020 -> 13.2"""
    return f"{number // 1000}.{number % 1000 // 10}"
