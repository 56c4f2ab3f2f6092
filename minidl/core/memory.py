"""Memory of the devices: how much there is in use, and giving back what is only kept."""

from __future__ import annotations

from typing import Any

from ..kernels.cpu import recycle
from . import cuda


def memory_stats(device: Any = None) -> dict[str, int]:
    """Bytes of memory on "cpu" (the default), "cuda" or "cuda:N".

    On the CPU, of the whole process: "used" by arrays and everything else; "cached": freed, and kept for the next
    arrays; "peak": the most that was ever resident. "used" and "cached" need glibc 2.33 or later, "peak" a POSIX
    system; what cannot be found out is left out. On a CUDA device: "used" by arrays of this process and by captured
    steps (minidl.graphs), "cached" by CuPy for the next ones, "free" and "total" of the whole device.
    """
    if device is None or str(device) == "cpu":
        return recycle.memory_stats()
    if str(device).partition(":")[0] != "cuda":
        raise ValueError(f"device is {device!r}: it must be 'cpu', 'cuda' or 'cuda:N'")
    return cuda.memory(cuda.place(str(device)).id)


def empty_cache() -> None:
    """Give memory that is kept for the next arrays back: to the system, and to all CUDA devices in use. Arrays in use
    are not touched."""
    recycle.empty_cache()
    cuda.empty_cache()
