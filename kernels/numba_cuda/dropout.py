"""Dropout and its generator as numba.cuda kernels, to be read beside ../cuda/dropout.cu. All arrays: (elements,)."""

from __future__ import annotations

from math import prod

import numpy as np
from numba import cuda

from ..arrays import Array, namespace
from ..cuda import fused
from ..cuda.dropout import DRAWN, threshold
from ..reference import elementwise as reference
from .launch import device_of, elementwise, thread_index

LOW = np.uint64(0xFFFFFFFF)  # the lower 32 bits
HALF = np.uint64(32)


@cuda.jit(device=True)
def philox(counter, key):
    """Philox-4x32-10 (Salmon et al. 2011): ten rounds, each of two products of 32 by 32 bits whose halves are crossed
    and mixed with a key that moves on by constants. Everything is 64 bits wide: Numba has no products of 32 bits."""
    c0, c1, c2, c3 = counter & LOW, counter >> HALF, np.uint64(0), np.uint64(0)
    k0, k1 = key & LOW, key >> HALF
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1 = (b >> HALF) ^ c1 ^ k0, b & LOW
        c2, c3 = (a >> HALF) ^ c3 ^ k1, a & LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & LOW, (k1 + np.uint64(0xBB67AE85)) & LOW
    return c0, c1, c2, c3


@cuda.jit
def dropout_mask_kernel(mask, key, least):
    """mask[e] = whether a uniform number u[e] of 24 bits, in [0, 1), is at least p: `least` is p as a number of 2^-24.
    One thread draws four."""
    i = thread_index()
    if 4 * i >= mask.size:
        return
    drawn = philox(np.uint64(i), key)
    for k in range(4):
        if 4 * i + k < mask.size:
            mask[4 * i + k] = (drawn[k] >> np.uint64(8)) >= least


@cuda.jit
def dropout_kernel(x, mask, y, scale):
    """x where the mask keeps it, times scale; 0 elsewhere (as a product, so that what is no number stays none)."""
    i = thread_index()
    if i < x.size:
        y[i] = x[i] * x.dtype.type(mask[i]) * scale


def mask(like: Array, shape: tuple[int, ...], p: float, key: int) -> Array:
    """Booleans where `like` is, each False with probability p. key: 64 bits; the same key, the same mask."""
    with device_of("dropout", like=like):
        kept = namespace(like).empty(shape, bool)
        if kept.size:
            numbers = (np.uint64(key), np.uint64(threshold(p)))
            elementwise(dropout_mask_kernel, -(-prod(shape) // DRAWN), kept.reshape(-1), *numbers)
    return kept


def dropout(x: Array, mask: Array, *, scale: float) -> Array:
    """x where the (boolean) mask keeps it, times scale; 0 elsewhere."""
    if mask.shape != x.shape or x.dtype.name not in ("float32", "float64") or not x.size:
        return reference.dropout(x, mask, scale=scale)
    with device_of("dropout", x=x, mask=mask):
        y = namespace(x).empty(x.shape, x.dtype)
        arrays = (fused.flat(a, False).reshape(-1) for a in (x, mask, y))
        elementwise(dropout_kernel, x.size, *arrays, x.dtype.type(scale))
    return y
