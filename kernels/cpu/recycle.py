"""Large arrays get memory that was used before, instead of new pages from the system.

The C library hands large arrays (from 128 KiB to 32 MiB on: it adapts) back to the system when they are freed, and asks
for new, zeroed pages for the next one, which may cost more than the computation on them. Told to keep freed memory, it
recycles it. That is the simplest way, and a safe one: NumPy's own arrays profit, too, and lifetimes, views, threads and
forks are the C library's, as always.

Linux with glibc; elsewhere nothing happens. The process keeps the memory of its peak until `empty_cache()`.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache
from typing import Any

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of <malloc.h>
LARGEST = 2**30  # bytes; larger arrays come from the system and go back to it


@cache
def _library() -> Any:
    """glibc, or None."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


@cache
def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory, once in this process. Whether it does.

    Not if the user has set it up: MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_ or GLIBC_TUNABLES in the environment.
    MINIDL_RECYCLE=0 turns it off.
    """
    own = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    tuned = any(name in os.environ for name in own) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    library = _library()
    if library is None or tuned or os.environ.get("MINIDL_RECYCLE") == "0":
        return False
    kept = library.mallopt(_M_MMAP_THRESHOLD, LARGEST) == 1
    return library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) == 1 and kept


class _Info(ctypes.Structure):
    """struct mallinfo2 of glibc 2.33 and later."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"
    )]  # fmt: skip


def memory_stats() -> dict[str, int]:
    """Bytes on the CPU, of the whole process: "used" by arrays and everything else; "cached": freed, and kept for the
    next arrays; "peak": the most that was ever resident.

    "used" and "cached" need glibc 2.33 or later, "peak" a POSIX system; what cannot be found out is left out.
    """
    found: dict[str, int] = {}
    library = _library()
    if library is not None and hasattr(library, "mallinfo2"):
        library.mallinfo2.restype = _Info
        info = library.mallinfo2()
        found |= {"used": info.uordblks + info.hblkhd, "cached": info.fordblks}
    try:
        import resource
    except ImportError:
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return found | {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def empty_cache() -> None:
    """Give memory that is kept for the next arrays back to the system (on the CPU; arrays in use are not touched)."""
    library = _library()
    if library is not None:
        library.malloc_trim(ctypes.c_size_t(0))
