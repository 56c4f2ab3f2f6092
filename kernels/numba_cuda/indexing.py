"""Adding at places as a numba.cuda kernel, to be read beside ../cuda/indexing.cu.

place: (n,) flat positions in out, sorted; order: (n,) which value goes there; values: (n,); out: (elements,).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cuda

from .. import arrays
from ..arrays import Array, namespace
from ..reference import indexing as reference
from .launch import device_of, elementwise, thread_index

TYPES = ("float32", "float64")


@cuda.jit
def add_runs_kernel(place, order, values, out):
    """Values that go to the same place are added by one thread, in their order."""
    i = thread_index()
    if i >= place.size or (i > 0 and place[i - 1] == place[i]):
        return  # another thread's run
    total = out[place[i]]
    j = i
    while j < place.size and place[j] == place[i]:
        total += values[order[j]]
        j += 1
    out[place[i]] = total


def add_at(out: Array, index: Any, values: Array) -> None:
    """out[index] += values, counting every repetition of an index."""
    if out.dtype.name not in TYPES:
        arrays.add_at(out, index, values)
        return
    xp = namespace(out)
    with device_of("add_at", out=out):
        place = xp.arange(out.size, dtype=np.int64).reshape(out.shape)[index]
        given = xp.ascontiguousarray(xp.broadcast_to(values, place.shape), out.dtype).reshape(-1)
        place = place.reshape(-1)
        if not place.size:
            return
        order = xp.argsort(place, kind="stable")  # equal places keep their order
        total = xp.ascontiguousarray(out)
        elementwise(add_runs_kernel, place.size, place[order], order, given, total.reshape(-1))
        if total is not out:
            out[...] = total


def scatter(y: Array, *, at: Any, shape: tuple[int, ...]) -> Array:
    """The adjoint of `getitem` from `shape`: zeros with y added wherever it was read."""
    return reference.scatter(y, at=at, shape=shape, add=add_at)


def scatter_add(y: Array, index: Array, *, axis: int, shape: tuple[int, ...]) -> Array:
    """The adjoint of `gather` from `shape`."""
    return reference.scatter_add(y, index, axis=axis, shape=shape, add=add_at)
