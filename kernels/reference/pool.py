"""Pooling as adjoint pairs, x: (N, C, *I) and y: (N, C, *O).

max_pool(x) -> y, indices      the largest of each window and its flat position in the input plane (first on ties)
max_unpool(y, indices) -> x    adds each y where its index points
pool_at(x, indices) -> y       reads x where each index points; the adjoint of max_unpool
avg_pool(x) -> y               the mean of each window;  avg_unpool(y) -> x its adjoint
unfold(x) -> columns           every window laid out: (N, C, *k, *O);  fold(columns) -> x its adjoint
"""

from __future__ import annotations

from math import prod

from ..arrays import Array, add_at, namespace
from ..geometry import PoolGeometry
from .reduction import wide

INDEX = "int32"  # type of the indices in every column


def max_pool(x: Array, *, geometry: PoolGeometry) -> tuple[Array, Array]:
    """NaN wins over every number, as in NumPy's maximum."""
    g, xp = geometry, namespace(x)
    lowest = -xp.inf if x.dtype.kind == "f" else xp.iinfo(x.dtype).min
    padded = xp.pad(x, ((0, 0), (0, 0), *g.reach), constant_values=lowest)
    place = xp.pad(xp.arange(prod(g.input), dtype=INDEX).reshape(g.input), g.reach, constant_values=-1)
    y: Array = None
    indices: Array = None
    for _, at in g.taps():
        value, where = padded[:, :, *at], xp.broadcast_to(place[at], g.y_shape)
        if y is None:
            y, indices = value.copy(), where.copy()
        else:
            # a padded position (index -1) yields to any real one, even to one of the lowest value
            better = ((value > y) | ((value != value) & (y == y)) | (indices < 0)) & (where >= 0)
            y, indices = xp.where(better, value, y), xp.where(better, where, indices)
    return y, indices


def max_unpool(y: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    g, xp = geometry, namespace(y)
    planes, size = g.batch * g.channels, prod(g.input)
    x = xp.zeros(planes * size, y.dtype)
    offset = xp.arange(planes).reshape(g.batch, g.channels, *(1,) * g.rank) * size
    add_at(x, (indices + offset).ravel(), y.ravel())
    return x.reshape(g.x_shape)


def pool_at(x: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    g, xp = geometry, namespace(x)
    planes = x.reshape(g.batch, g.channels, prod(g.input))
    flat = indices.reshape(g.batch, g.channels, prod(g.output))
    return xp.take_along_axis(planes, flat, axis=2).reshape(g.y_shape)


def avg_pool(x: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    g, xp = geometry, namespace(x)
    padded = xp.pad(x, ((0, 0), (0, 0), *g.reach))
    y = xp.zeros(g.y_shape, wide(x.dtype))
    for _, at in g.taps():
        y += padded[:, :, *at]
    return (y / _window_sizes(xp, y.dtype, g, count_include_pad, divisor)).astype(x.dtype, copy=False)


def avg_unpool(y: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    g, xp = geometry, namespace(y)
    kind = xp.dtype(wide(y.dtype))
    share = y / _window_sizes(xp, kind, g, count_include_pad, divisor)
    padded = xp.zeros((g.batch, g.channels, *_reached(g)), kind)
    for _, at in g.taps():
        padded[:, :, *at] += share
    return xp.ascontiguousarray(padded[:, :, *_inside(g)], dtype=y.dtype)


def unfold(x: Array, *, geometry: PoolGeometry) -> Array:
    g, xp = geometry, namespace(x)
    padded = xp.pad(x, ((0, 0), (0, 0), *g.reach))
    columns = xp.empty((g.batch, g.channels, *g.kernel, *g.output), x.dtype)
    for tap, at in g.taps():
        columns[:, :, *tap] = padded[:, :, *at]
    return columns


def fold(columns: Array, *, geometry: PoolGeometry) -> Array:
    g, xp = geometry, namespace(columns)
    padded = xp.zeros((g.batch, g.channels, *_reached(g)), columns.dtype)
    for tap, at in g.taps():
        padded[:, :, *at] += columns[:, :, *tap]
    return xp.ascontiguousarray(padded[:, :, *_inside(g)])


def _reached(g: PoolGeometry) -> tuple[int, ...]:
    return tuple(n + lo + hi for n, (lo, hi) in zip(g.input, g.reach, strict=True))


def _inside(g: PoolGeometry) -> tuple[slice, ...]:
    return tuple(slice(lo, lo + n) for n, (lo, _) in zip(g.input, g.reach, strict=True))


def _window_sizes(xp, dtype, g: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """What each window's sum is divided by. Padding counts if asked, but never what ceil_mode hangs over it."""
    if divisor is not None:
        return dtype.type(divisor)
    sizes = xp.ones((), dtype)
    for axis, (n, k, o, s, p, d) in enumerate(
        zip(g.input, g.kernel, g.output, g.stride, g.padding, g.dilation, strict=True)
    ):
        position = xp.arange(o)[:, None] * s - p + xp.arange(k) * d
        counted = (position < n + p) if count_include_pad else (position >= 0) & (position < n)
        sizes = sizes * counted.sum(1).astype(dtype).reshape(-1, *(1,) * (g.rank - 1 - axis))
    return sizes
