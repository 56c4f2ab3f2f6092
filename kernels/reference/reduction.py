"""Reductions over a tuple of axes (an empty tuple reduces nothing), and what undoes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, is_floating, namespace

Axes = tuple[int, ...]


def wide(dtype: Any) -> Any:
    """The type that elements are added up in: half precision would lose them, 2048 + 1 is 2048 in it."""
    if dtype.itemsize == 2 and is_floating(dtype):
        return "float32"
    return dtype if dtype.kind == "f" else "int64"


def total(x: Array, axis: Axes | int | None, keepdims: bool = False) -> Array:
    """The sum of floating-point numbers, in their own type."""
    return x.sum(axis, keepdims=keepdims, dtype=wide(x.dtype)).astype(x.dtype, copy=False)


def sum(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """Integers and booleans add up in int64."""
    out = x.sum(axis, keepdims=keepdims, dtype=wide(x.dtype))
    return out.astype(x.dtype, copy=False) if is_floating(x.dtype) else out


def spread(y: Array, *, shape: Axes, axis: Axes, keepdims: bool) -> Array:
    """The adjoint of `sum` from `shape`: y repeated along the summed axes (a read-only view)."""
    if type(y) is np.ndarray and y.size == 1:  # as of a loss, for which NumPy's broadcast_to takes 5 us, and this 1
        repeated = np.ndarray(shape, y.dtype, y, 0, (0,) * len(shape))
        repeated.flags.writeable = False
        return repeated
    if not keepdims:
        y = y.reshape(tuple(1 if i in axis else n for i, n in enumerate(shape)))
    return namespace(y).broadcast_to(y, shape)


def sum_to(x: Array, *, shape: Axes) -> Array:
    """The adjoint of broadcasting from `shape`: sums over every axis that was added or stretched."""
    lead = x.ndim - len(shape)
    stretched = tuple(i + lead for i, n in enumerate(shape) if n == 1 != x.shape[i + lead])
    return total(x, (*range(lead), *stretched), keepdims=True).reshape(shape)


def broadcast_to(x: Array, *, shape: Axes) -> Array:
    return namespace(x).broadcast_to(x, shape)


def amax(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return x.max(axis, keepdims=keepdims)


def amin(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return x.min(axis, keepdims=keepdims)


def extreme_share(x: Array, y: Array, *, axis: Axes, keepdims: bool) -> Array:
    """1 / (number of ties) where x equals the extreme value y of its group, else 0."""
    hit = x == spread(y, shape=x.shape, axis=axis, keepdims=keepdims)
    return hit / hit.sum(axis, keepdims=True).astype(x.dtype)


def argmax(x: Array, *, axis: int, keepdims: bool) -> Array:
    return x.argmax(axis, keepdims=keepdims)


def argmin(x: Array, *, axis: int, keepdims: bool) -> Array:
    return x.argmin(axis, keepdims=keepdims)


def any(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return x.any(axis, keepdims=keepdims)


def all(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    return x.all(axis, keepdims=keepdims)


def cumsum(x: Array, *, axis: int) -> Array:
    out = x.cumsum(axis, dtype=wide(x.dtype))
    return out.astype(x.dtype, copy=False) if is_floating(x.dtype) else out


def logsumexp(x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """log(sum(exp(x))) without overflow; -inf where there is nothing to add."""
    xp = namespace(x)
    kept = tuple(1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis)
    if x.size == 0:
        return xp.full(kept, -xp.inf, x.dtype)
    top = x.max(axis, keepdims=True)
    top = xp.where(xp.isfinite(top), top, xp.zeros((), x.dtype))
    out = xp.log(xp.exp(x - top).sum(axis, keepdims=True, dtype=wide(x.dtype))) + top
    return out.astype(x.dtype, copy=False).reshape(kept)


def softmax(x: Array, *, axis: int) -> Array:
    if x.size == 0:
        return x.copy()
    e = namespace(x).exp(x - x.max(axis, keepdims=True))
    e /= e.sum(axis, keepdims=True, dtype=wide(x.dtype))
    return e


def log_softmax(x: Array, *, axis: int) -> Array:
    if x.size == 0:
        return x.copy()
    xp = namespace(x)
    shifted = x - x.max(axis, keepdims=True)
    shifted -= xp.log(xp.exp(shifted).sum(axis, keepdims=True, dtype=wide(x.dtype)))
    return shifted


def softmax_gradient(g: Array, y: Array, *, axis: int) -> Array:
    """The gradient of the input of softmax from that of its output y."""
    return y * (g - total(g * y, axis, keepdims=True))


def log_softmax_gradient(g: Array, y: Array, *, axis: int) -> Array:
    """The gradient of the input of log_softmax from that of its output y."""
    return g - namespace(y).exp(y) * total(g, axis, keepdims=True)
