"""Batch normalisation and softmax cross-entropy on the CPU; reference/normalization.py says what they compute.

Small arrays are left to the reference, which is plain NumPy. Large ones are normalised by compiled kernels
(normalization_loops.py), as planes or channels-last as they lie; the cross-entropy of many rows is the reference's, a
few rows at a time, which stay in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import LARGE
from ..reference import normalization as reference
from . import threads
from .pieces import IN_CACHE, SHARE

Array = np.ndarray

LINE = 512  # elements of a line of a channels-last array, at least half of that
PARTS = 32  # of its lines, at most: by the size alone, so that the bits are the same with any number of threads


def batch_norm(x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array, Array]:
    """x: (N, C, ...), gamma and beta: (C,) -> y like x, and the mean and (biased) variance of each channel: (C,)."""
    if not _covered(x, gamma, beta):
        return reference.batch_norm(x, gamma, beta, eps=eps)
    from . import normalization_loops as loops

    last = _is_last(x)
    y = _empty_like(x, last)
    mean, var = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    arrays = (_read(x, last), *map(_read, (gamma, beta)), _flat(y, last), mean, var)
    with threads.region(x.size, SHARE):
        (loops.rows if last else loops.planes)(*arrays, *_sizes(x, last), eps)
    return y, mean, var


def batch_norm_backward(
    g: Array, x: Array, gamma: Array, mean: Array, var: Array, *, needs: list[bool], eps: float
) -> tuple[Array | None, Array | None, Array | None]:
    if not _covered(x, g, gamma, mean, var):
        return reference.batch_norm_backward(g, x, gamma, mean, var, needs=needs, eps=eps)
    from . import normalization_loops as loops

    last = _is_last(x)
    gx = _empty_like(x, last) if needs[0] else np.empty((0,) * x.ndim, x.dtype)
    ggamma, gbeta = np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    arrays = (_read(g, last), _read(x, last), *map(_read, (gamma, mean, var)), _flat(gx, last), ggamma, gbeta)
    with threads.region(x.size, SHARE):
        (loops.rows_backward if last else loops.planes_backward)(*arrays, *_sizes(x, last), eps)
    return gx if needs[0] else None, ggamma if needs[1] else None, gbeta if needs[2] else None


def softmax_cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """x: (N, C, ...) logits, target: (N, ...) classes -> the loss of each element and the log-sum-exp: (N, ...)."""
    if x.size < 2 * IN_CACHE:
        return reference.softmax_cross_entropy(x, target)
    loss, lse = np.empty(target.shape, x.dtype), np.empty(target.shape, x.dtype)

    def part(at: slice) -> None:
        loss[at], lse[at] = reference.softmax_cross_entropy(x[at], target[at])

    _by_samples(part, x)
    return loss, lse


def softmax_cross_entropy_backward(
    g: Array, x: Array, target: Array, lse: Array, *, needs: list[bool]
) -> tuple[Array, None]:
    if x.size < 2 * IN_CACHE:
        return reference.softmax_cross_entropy_backward(g, x, target, lse, needs=needs)
    gx = np.empty_like(x)

    def part(at: slice) -> None:
        gx[at], _ = reference.softmax_cross_entropy_backward(g[at], x[at], target[at], lse[at], needs=needs)

    _by_samples(part, x)
    return gx, None


def _by_samples(part: Any, x: Array) -> None:
    """part(slice of samples) for all samples, by all threads."""
    step = max(1, IN_CACHE * len(x) // x.size)

    def task(i: int) -> None:
        part(slice(i * step, (i + 1) * step))

    threads.share(task, -(-len(x) // step), threads.worth(x.size, SHARE))


# ---- layout
def _covered(x: Array, *others: Array) -> bool:
    same = x.dtype in (np.float32, np.float64) and all(a.dtype == x.dtype for a in others)
    return same and x.size >= LARGE and threads.usable()


def _is_last(x: Array) -> bool:
    """Whether channels are innermost in memory."""
    return x.ndim == 2 or (not x.flags.c_contiguous and np.moveaxis(x, 1, -1).flags.c_contiguous)


def _empty_like(x: Array, last: bool) -> Array:
    if not last:
        return np.empty(x.shape, x.dtype)
    batch, channels, *axes = x.shape
    return np.moveaxis(np.empty((batch, *axes, channels), x.dtype), -1, 1)


def _flat(x: Array, last: bool) -> Array:
    """The elements in the order of the layout; a view where they lie so."""
    return np.require(np.moveaxis(x, 1, -1) if last else x, requirements=["C", "A"]).reshape(-1)


def _read(x: Array, last: bool = False) -> Array:
    """The same, read-only: one type to compile for."""
    flat = _flat(x, last).view()
    flat.flags.writeable = False
    return flat


def _sizes(x: Array, last: bool) -> tuple[int, ...]:
    """What the loops are told of the shape: (batch, channels, places), or (rows, channels, width of a line, parts)."""
    batch, channels, *_ = x.shape
    places = x.size // (batch * channels)
    if not last:
        return batch, channels, places
    width = channels * max(1, LINE // channels)
    return batch * places, channels, width, max(1, min(PARTS, x.size // max(16 * width, 2**16)))
