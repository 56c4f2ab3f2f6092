"""Adding at places in the same order in every run; CuPy's own way, with atomic operations, is not reproducible.

The values are sorted by where they go, and one thread adds all that go to one place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import arrays
from ..arrays import Array
from ..reference import indexing as reference
from . import launch


def add_at(out: Array, index: Any, values: Array) -> None:
    """out[index] += values, counting every repetition of an index."""
    import cupy

    if out.dtype.name not in launch.STORAGE:  # sums of whole numbers are the same in any order
        arrays.add_at(out, index, values)
        return
    with launch.device_of("add_at", out=out):
        place = cupy.arange(out.size, dtype="int64").reshape(out.shape)[index]
        given = cupy.broadcast_to(values, place.shape).ravel()
        place = place.ravel()
        order = cupy.argsort(place, kind="stable")  # equal places keep their order
        wide = np.dtype("float32") if out.dtype.itemsize == 2 else out.dtype
        total = launch.operand("out", out, out.shape, wide)
        given = launch.operand("values", given, given.shape, wide)
        launch.run(
            "indexing.cu", "add_runs_kernel", wide, place.size, place[order], order, given, total, np.int64(place.size)
        )
        if total is not out:
            out[...] = total


def scatter(y: Array, *, at: Any, shape: tuple[int, ...]) -> Array:
    """The adjoint of `getitem` from `shape`: zeros with y added wherever it was read."""
    return reference.scatter(y, at=at, shape=shape, add=add_at)


def scatter_add(y: Array, index: Array, *, axis: int, shape: tuple[int, ...]) -> Array:
    """The adjoint of `gather` from `shape`."""
    return reference.scatter_add(y, index, axis=axis, shape=shape, add=add_at)
