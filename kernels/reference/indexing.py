"""Reading elements at places, and the adjoints that add to those places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays import Array, add_at, namespace


def getitem(x: Array, *, at: Any) -> Array:
    return x[at]


def scatter(y: Array, *, at: Any, shape: tuple[int, ...], add: Callable = add_at) -> Array:
    """The adjoint of `getitem` from `shape`: zeros with y added wherever it was read."""
    x = namespace(y).zeros(shape, y.dtype)
    parts = at if isinstance(at, tuple) else (at,)
    if all(isinstance(p, (int, slice, type(None), type(Ellipsis))) for p in parts):
        x[at] = y  # nothing is read twice
    else:
        add(x, at, y)
    return x


def gather(x: Array, index: Array, *, axis: int) -> Array:
    """y[i, j, k] = x[i, index[i, j, k], k] for axis 1; index may be shorter than x on the other axes."""
    return x[_places(x.shape, index, axis)]


def scatter_add(y: Array, index: Array, *, axis: int, shape: tuple[int, ...], add: Callable = add_at) -> Array:
    """The adjoint of `gather` from `shape`."""
    x = namespace(y).zeros(shape, y.dtype)
    add(x, _places(shape, index, axis), y)
    return x


def _places(shape: tuple[int, ...], index: Array, axis: int) -> tuple[Array, ...]:
    xp = namespace(index)
    grid = [xp.arange(n).reshape(-1, *(1,) * (index.ndim - 1 - i)) for i, n in enumerate(index.shape)]
    grid[axis] = index
    return tuple(grid)


def diagonal(x: Array, *, offset: int, axis1: int, axis2: int) -> Array:
    return x.diagonal(offset, axis1, axis2)


def diagonal_scatter(y: Array, *, offset: int, axis1: int, axis2: int, shape: tuple[int, ...]) -> Array:
    """The adjoint of `diagonal` from `shape`."""
    xp = namespace(y)
    x = xp.zeros(shape, y.dtype)
    ends = xp.moveaxis(x, (axis1, axis2), (-2, -1))
    n = xp.arange(y.shape[-1])
    ends[..., n + max(-offset, 0), n + max(offset, 0)] = y
    return x
