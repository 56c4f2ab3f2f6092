"""Batch normalisation and softmax cross-entropy on the CPU; reference/normalization.py says what they compute.

Small arrays are left to the reference, which is plain NumPy. Large ones are normalised by compiled kernels
(normalization_loops.py), as planes or channels-last as they lie, and so is the cross-entropy of rows in single
precision computed; what else there is of it is the reference's, a few samples at a time, which stay in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import LARGE
from ..reference import normalization as reference
from . import threads
from .pieces import IN_CACHE, SHARE

Array = np.ndarray

FEW = 64  # classes
PARTS = 32  # of the rows of an array, at most


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
        if last:
            _rows(*arrays, eps=eps)
        else:
            loops.planes(threads.count(), *arrays, *_sizes(x), eps)
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
        if last:
            _rows_backward(*arrays, eps=eps)
        else:
            loops.planes_backward(threads.count(), *arrays, *_sizes(x), eps)
    return gx if needs[0] else None, ggamma if needs[1] else None, gbeta if needs[2] else None


def _rows(x: Array, gamma: Array, beta: Array, y: Array, mean: Array, var: Array, *, eps: float) -> None:
    """Of (count, channels), flat; writes y, mean and var."""
    from . import normalization_loops as loops

    parts, channels = _parts(x, len(mean)), len(mean)
    means, squares, counts = np.empty((parts, channels)), np.empty((parts, channels)), np.empty(parts)
    loops.moments(threads.count(), x, means, squares, counts)
    loops.merge(means, squares, counts)
    mean[:], var[:] = means[0], squares[0] / counts[0]
    k = (gamma / np.sqrt(squares[0] / counts[0] + eps)).astype(x.dtype)
    loops.normalize(threads.count(), x, *map(_read, (mean, k, beta)), y)


def _rows_backward(
    g: Array, x: Array, gamma: Array, mean: Array, var: Array, gx: Array, ggamma: Array, gbeta: Array, *, eps: float
) -> None:
    """The same of the gradient; gx is left as it is if it is empty."""
    from . import normalization_loops as loops

    parts, channels = _parts(x, len(mean)), len(mean)
    sums, products = np.empty((parts, channels)), np.empty((parts, channels))
    loops.products(threads.count(), g, x, mean, sums, products)
    s, t, rstd = sums.sum(0), products.sum(0), 1 / np.sqrt(var.astype(np.float64) + eps)
    gbeta[:], ggamma[:] = s, t * rstd
    if gx.size:
        count = x.size // channels
        vectors = [v.astype(x.dtype) for v in (gamma * rstd, s / count, t * rstd * rstd / count)]
        loops.denormalize(threads.count(), g, x, mean, *map(_read, vectors), gx)


def _parts(x: Array, channels: int) -> int:
    """By the size alone, so that the bits are the same with any number of threads; each has a row."""
    return max(1, min(PARTS, x.size // max(2**16, channels)))


def softmax_cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """x: (N, C, ...) logits, target: (N, ...) classes -> the loss of each element and the log-sum-exp: (N, ...)."""
    if x.size < 2 * IN_CACHE:
        few = x.ndim == 2 and x.shape[1] <= FEW and x.itemsize > 2
        return _by_classes(x, target) if few else reference.softmax_cross_entropy(x, target)
    loss, lse = np.empty(target.shape, x.dtype), np.empty(target.shape, x.dtype)
    if _are_rows(x, target):
        from .normalization_loops import cross_entropy

        cross_entropy(_workers(x), _read(x), _read(target), x.shape[1], loss, lse)
        return loss, lse

    def part(at: slice) -> None:
        loss[at], lse[at] = reference.softmax_cross_entropy(x[at], target[at])

    _by_samples(part, x)
    return loss, lse


def _by_classes(x: Array, target: Array) -> tuple[Array, Array]:
    """The same of rows of a few classes: NumPy's reductions along short rows take as long as for 100 classes, those
    along the first axis are vector code."""
    columns = x.T.copy()
    top = columns.max(0)
    lse = np.log(np.exp(columns - top).sum(0)) + top
    return lse - x[np.arange(len(x)), target], lse


def softmax_cross_entropy_backward(
    g: Array, x: Array, target: Array, lse: Array, *, needs: list[bool]
) -> tuple[Array, None]:
    if x.size < 2 * IN_CACHE:
        return reference.softmax_cross_entropy_backward(g, x, target, lse, needs=needs)
    if _are_rows(x, target) and g.dtype == x.dtype:
        from .layout import empty
        from .normalization_loops import cross_entropy_backward

        gx = empty(x.shape, x.dtype)
        cross_entropy_backward(_workers(x), *map(_read, (g, x, target, lse)), x.shape[1], gx.reshape(-1))
        return gx, None
    gx = np.empty_like(x)

    def part(at: slice) -> None:
        gx[at], _ = reference.softmax_cross_entropy_backward(g[at], x[at], target[at], lse[at], needs=needs)

    _by_samples(part, x)
    return gx, None


def _workers(x: Array) -> int:
    return threads.worth(x.size, SHARE) if threads.usable() else 1


def _are_rows(x: Array, target: Array) -> bool:
    """Whether the loops can take them; a class that does not exist is the reference's, which says so."""
    fits = x.ndim == 2 and x.dtype == np.float32 and x.flags.c_contiguous and target.dtype == np.int64
    return fits and target.min() >= 0 and target.max() < x.shape[1]


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
    from .layout import empty

    if not last:
        return empty(x.shape, x.dtype)
    batch, channels, *axes = x.shape
    return np.moveaxis(empty((batch, *axes, channels), x.dtype), -1, 1)


def _flat(x: Array, last: bool) -> Array:
    """The elements in the order of the layout; a view where they lie so."""
    return np.require(np.moveaxis(x, 1, -1) if last else x, requirements=["C", "A"]).reshape(-1)


def _read(x: Array, last: bool = False) -> Array:
    """The same, read-only: one type to compile for."""
    flat = _flat(x, last).view()
    flat.flags.writeable = False
    return flat


def _sizes(x: Array) -> tuple[int, int, int]:
    """Batch, channels, places."""
    batch, channels, *_ = x.shape
    return batch, channels, x.size // (batch * channels)
