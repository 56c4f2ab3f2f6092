"""Launchers of dropout.cu: the mask that dropout needs, drawn on the device, and dropout itself."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..arrays import Array
from ..reference import elementwise as reference
from . import fused, launch

FILE = "dropout.cu"
DRAWN = 4  # numbers of a thread
BITS = 24  # of a uniform number


def threshold(p: float) -> int:
    """The least number of 2^-24 that is at least p: where drawn numbers begin to be kept."""
    return int(np.ceil(p * 2**BITS))


def mask(like: Array, shape: tuple[int, ...], p: float, key: Any) -> Array:
    """Booleans on the device of `like`, each False with probability p. key: 64 bits, or a CuPy array of one uint64; the
    same key, the same mask."""
    with launch.device_of("dropout", like=like):
        kept, size = launch.empty(shape, bool), prod(shape)
        numbers = (np.int64(size), launch.number(key, "uint64"), np.uint32(threshold(p)))
        blocks = -(-size // (DRAWN * fused.THREADS))
        kernel, dtype = "dropout_mask_kernel", np.dtype("float32")
        fused.run(FILE, kernel, dtype, (blocks,), fused.THREADS, kept.reshape(-1), *numbers)
    return kept


def dropout(x: Array, mask: Array, *, scale: float) -> Array:
    """x where the (boolean) mask keeps it, times scale; 0 elsewhere."""
    if mask.shape != x.shape or x.dtype.name not in launch.STORAGE or not x.size:
        return reference.dropout(x, mask, scale=scale)
    with launch.device_of("dropout", x=x, mask=mask):
        last = x.ndim > 2 and fused.is_last(x)
        y, number = fused.empty_as(x, last, x.dtype), fused.computed(x.dtype).type(scale)
        arrays = (fused.flat(x, last), fused.flat(mask, last, bool), fused.flat(y, last))
        fused.elementwise(FILE, "dropout_kernel", x.dtype, x.size, *arrays, np.int64(x.size), number)
    return y
