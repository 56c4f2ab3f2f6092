"""Pooling on the CPU; what it computes is specified by `reference/pool.py`.

Small work is left to the reference, which is plain NumPy: it needs no compiler and starts no threads. The rest runs in
compiled kernels (windows.py) that read planes and channels-last arrays as they lie; results lie like the input.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from ..geometry import Ints, PoolGeometry
from ..reference import pool as reference
from . import threads

Array = np.ndarray

SMALL = 2**14  # elements in all windows: NumPy reads them in about 100 us
SHARE = 2**14  # of them make one more thread worth waking


def max_pool(x: Array, *, geometry: PoolGeometry) -> tuple[Array, Array]:
    """(N, C, *I) -> the largest of each window (N, C, *O), and its flat int32 position in the plane of the input.

    Of equals the first counts, NaN is larger than every number, padding is never chosen.
    """
    return _run(_max_pool, reference.max_pool, (x,), geometry)


def max_unpool(y: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    """(N, C, *O), int32 positions (N, C, *O) -> (N, C, *I): each element of y added where its index points.

    The same bits every time. Raises IndexError if an index lies outside of its plane.
    """
    return _run(_max_unpool, reference.max_unpool, (y, indices), geometry)


def avg_pool(x: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """(N, C, *I) -> (N, C, *O): the sum of each window divided by `divisor`, or by the number of its elements."""
    return _run(_avg_pool, reference.avg_pool, (x,), geometry, count_include_pad=count_include_pad, divisor=divisor)


def avg_unpool(y: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """(N, C, *O) -> (N, C, *I): the adjoint of avg_pool. The same bits every time."""
    return _run(_avg_unpool, reference.avg_unpool, (y,), geometry, count_include_pad=count_include_pad, divisor=divisor)


def is_small(g: PoolGeometry) -> bool:
    """Whether starting threads (and compiling, the first time) would take longer than the work itself."""
    return _work(g) <= SMALL


def _work(g: PoolGeometry) -> int:
    return prod(g.y_shape) * prod(g.kernel)


def _run(fast: Callable, reference: Callable, arrays: tuple[Array, ...], g: PoolGeometry, **options):
    dtype, *indices = (a.dtype for a in arrays)
    covered = dtype in (np.float32, np.float64) and g.rank <= 3 and all(kind == np.int32 for kind in indices)
    if not covered or is_small(g) or not threads.usable():
        # the reference does the rest: other numbers, four spatial axes, small work, and all work in a forked child,
        # where the parallel runtime of the parent must not be entered
        return reference(*arrays, geometry=g, **options)
    with threads.region(_work(g), SHARE):
        return fast(*arrays, g, **options)


def _max_pool(x: Array, g: PoolGeometry) -> tuple[Array, Array]:
    from .windows import max_pool

    layout = _layout(x)
    y, indices = _empty(layout, g.y_shape, x.dtype), _empty(layout, g.y_shape, np.dtype(np.int32))
    max_pool(threads.count(), _read(x, layout), _written(y), _written(indices), *layout.sizes, *_walk(g))
    return y, indices


def _max_unpool(y: Array, indices: Array, g: PoolGeometry) -> Array:
    from .windows import max_unpool

    layout = _layout(indices)  # that of the input of max_pool; y, a gradient, may come in another
    x, wrong = _empty(layout, g.x_shape, y.dtype), np.zeros(1, np.int8)
    size, count, *_ = _walk(g)
    max_unpool(
        threads.count(), _read(y, layout), _read(indices, layout), _written(x), wrong, *layout.sizes, _block(layout),
        size, count,
    )  # fmt: skip
    if wrong[0]:
        raise IndexError(f"an index lies outside of its plane of {prod(g.input)} elements {g.input}")
    return x


def _avg_pool(x: Array, g: PoolGeometry, **options) -> Array:
    from .windows import avg_pool

    layout = _layout(x)
    y = _empty(layout, g.y_shape, x.dtype)
    avg_pool(threads.count(), _read(x, layout), _written(y), _divisors(g, x.dtype, **options), *layout.sizes, *_walk(g))
    return y


def _avg_unpool(y: Array, g: PoolGeometry, **options) -> Array:
    from .windows import avg_unpool

    layout = _layout(y)
    x, divisors = _empty(layout, g.x_shape, y.dtype), _divisors(g, y.dtype, **options)
    avg_unpool(threads.count(), _read(y, layout), _written(x), divisors, *layout.sizes, _block(layout), *_walk(g))
    return x


@lru_cache(maxsize=256)
def _divisors(g: PoolGeometry, dtype: np.dtype, count_include_pad: bool, divisor: int | None) -> Array:
    """For each window of a plane, flat: padding counts if asked, but never what ceil_mode hangs over it."""
    sizes = np.ones((), dtype)
    for n, k, o, s, p, d in zip(g.input, g.kernel, g.output, g.stride, g.padding, g.dilation, strict=True):
        place = np.arange(o)[:, None] * s - p + np.arange(k) * d
        counted = place < n + p if count_include_pad else (place >= 0) & (place < n)
        sizes = np.multiply.outer(sizes, counted.sum(1).astype(dtype))
    if divisor is not None:
        sizes = np.full(g.output, divisor, dtype)
    sizes = sizes.reshape(-1)
    sizes.flags.writeable = False
    return sizes


@lru_cache(maxsize=4096)
def _walk(g: PoolGeometry) -> tuple[Ints, ...]:
    """size, count, kernel, step, spacing and padding in front, on three axes."""
    axes = ((g.input, 1), (g.output, 1), (g.kernel, 1), (g.stride, 1), (g.dilation, 1), (g.padding, 0))
    return tuple((unit,) * (3 - g.rank) + numbers for numbers, unit in axes)


# ---- layout


class _Layout(NamedTuple):
    last: bool  # whether channels come last in memory
    sizes: tuple[int, int]  # (N * C, 1) for planes, (N, C) for channels-last


def _layout(x: Array) -> _Layout:
    last = not x.flags.c_contiguous and np.moveaxis(x, 1, -1).flags.c_contiguous
    batch, channels = x.shape[:2]
    return _Layout(last, (batch, channels) if last else (batch * channels, 1))


def _empty(layout: _Layout, shape: Ints, dtype: np.dtype) -> Array:
    batch, channels, *axes = shape
    return np.moveaxis(np.empty((batch, *axes, channels), dtype), -1, 1) if layout.last else np.empty(shape, dtype)


def _read(a: Array, layout: _Layout) -> Array:
    """The elements of a in the order of the layout: flat, and read-only (one type to compile for)."""
    ordered = np.moveaxis(a, 1, -1) if layout.last else a
    flat = np.require(ordered, requirements=["C", "A"]).reshape(-1).view()
    flat.flags.writeable = False
    return flat


def _written(a: Array) -> Array:
    """The memory of an array from `_empty`, flat."""
    return (a if a.flags.c_contiguous else np.moveaxis(a, 1, -1)).reshape(-1)


def _block(layout: _Layout) -> int:
    """Channels of a task of the adjoints: whole cache lines, but enough tasks for all threads."""
    batch, channels = layout.sizes
    parts = max(1, 2 * threads.count() // max(1, batch))
    return min(channels, max(16, -(-channels // parts)))
