"""Where an array lies, for kernels that are given addresses."""

from __future__ import annotations

from ctypes import addressof, c_char
from typing import Any


def address(a: Any) -> int:
    """Of the first element. ndarray.ctypes.data tells it too, but takes 2 us: as long as a small product."""
    flags = a.flags
    if not flags.writeable or not a.size:
        return a.ctypes.data
    if flags.c_contiguous:
        return addressof(c_char.from_buffer(a))
    return addressof(c_char.from_buffer(a.T)) if flags.f_contiguous else a.ctypes.data
