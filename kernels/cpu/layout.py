"""Between channels-first and channels-last: how the compiled kernels of convolution see arrays."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from . import threads
from .compile import threaded
from .vector import BYTES, transpose

Array = np.ndarray

LINE = 64  # bytes of a cache line
PASS = 2**16  # numbers that make one more thread worth waking, where each is only moved or added


def empty(shape: int | tuple[int, ...], dtype: Any) -> Array:
    """np.empty, aligned to cache lines: vectors that lie across two of them take twice as long to load."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.empty(size + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + size].view(dtype).reshape(shape)


@threaded
def swap_axes(thread, threads, source, out, outer, rows, columns):
    """out (outer, columns, rows) = source (outer, rows, columns)."""
    like, width = source[0], source.itemsize
    lanes = BYTES // width
    block = 4 * lanes  # columns at a time: a few cache lines of each source row
    blocks = (columns + block - 1) // block
    ground, target = source.ctypes.data, out.ctypes.data
    tasks = outer * blocks
    for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
        n, low = task // blocks, task % blocks * block
        for row in range(0, rows, lanes):
            for column in range(low, min(low + block, columns), lanes):
                number = min(lanes, rows - row)
                transpose(
                    like, ground + ((n * rows + row) * columns + column) * width, columns * width, number,
                    min(lanes, columns - column), target + ((n * columns + column) * rows + row) * width, rows * width,
                    number,
                )  # fmt: skip


@threaded
def add_up(thread, threads, parts, number, length):
    """The first of `number` arrays, each so long, becomes the sum of all, always added in their order."""
    for e in range(thread * length // threads, (thread + 1) * length // threads):
        value = parts[np.uint64(e)]
        for part in range(1, number):
            value += parts[np.uint64(part * length + e)]
        parts[np.uint64(e)] = value


def channels_last(a: Array) -> Array:
    """The elements of a (N, C, *spatial) in the order (N, *spatial, C), flat; no copy if they lie in it already."""
    moved = np.moveaxis(a, 1, -1)
    if moved.flags.c_contiguous and moved.flags.aligned:
        return moved.reshape(-1)
    return swap(a, a.shape[0], a.shape[1], prod(a.shape[2:]))


def swap(a: Array, outer: int, rows: int, columns: int) -> Array:
    """a, of any shape, as (outer, rows, columns) with its last two axes exchanged, flat."""
    a = flat(a)
    if rows == 1 or columns == 1:
        return a
    out = empty(a.size, a.dtype)
    swap_axes(workers_for(a.size), frozen(a), out, outer, rows, columns)
    return out


def workers_for(size: int) -> int:
    """Threads for one pass over so many numbers."""
    return threads.worth(size, PASS)


def flat(a: Array) -> Array:
    return np.require(a, requirements=["C", "A"]).reshape(-1)


def frozen(a: Array) -> Array:
    """A read-only view: what a kernel only reads always has this one type, so it is compiled once, not twice."""
    view = a.view()
    view.flags.writeable = False
    return view
