"""Launchers of pool.cu: pooling and its adjoints on CuPy arrays, one to three spatial axes; float32, float64, float16
and bfloat16 (the last two are summed in float32).

Results have their channels innermost in memory and are bitwise reproducible.
"""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..geometry import PoolGeometry
from . import launch


def max_pool(x: Array, *, geometry: PoolGeometry) -> tuple[Array, Array]:
    """x (N, C, *I) -> y (N, C, *O), and int32 indices of the same shape: where in the input plane each y was found."""
    g = geometry
    with launch.device_of("max_pool", x=x):
        dtype = launch.common_type("max_pool", x, among=launch.STORAGE)
        x = launch.channels_last("x", x, g.x_shape, dtype)
        y, indices = launch.empty_channels_last(g.y_shape, dtype), launch.empty_channels_last(g.y_shape, "int32")
        launch.run("pool.cu", "max_pool_kernel", dtype, y.size, x, y, indices, launch.struct(g))
    return y, indices


def max_unpool(y: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    """(N, C, *O) -> (N, C, *I): adds each y where its index points.

    The indices must be those of a max_pool of this geometry: an index that points out of its own window is not found.
    """
    g = geometry
    with launch.device_of("max_unpool", y=y, indices=indices):
        dtype = launch.common_type("max_unpool", y, among=launch.STORAGE)
        y = launch.channels_last("y", y, g.y_shape, dtype)
        indices = launch.channels_last("indices", indices, g.y_shape, "int32")
        x = launch.empty_channels_last(g.x_shape, dtype)
        launch.run("pool.cu", "max_unpool_kernel", dtype, x.size, y, indices, x, launch.struct(g))
    return x


def avg_pool(x: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """x (N, C, *I) -> (N, C, *O), the mean of each window; ../reference/pool.py says what it is divided by."""
    g = geometry
    with launch.device_of("avg_pool", x=x):
        dtype = launch.common_type("avg_pool", x, among=launch.STORAGE)
        x = launch.channels_last("x", x, g.x_shape, dtype)
        y = launch.empty_channels_last(g.y_shape, dtype)
        numbers = (np.int32(count_include_pad), np.int64(divisor or 0))
        launch.run("pool.cu", "avg_pool_kernel", dtype, y.size, x, y, launch.struct(g), *numbers)
    return y


def avg_unpool(y: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """(N, C, *O) -> (N, C, *I), the adjoint of avg_pool"""
    g = geometry
    with launch.device_of("avg_unpool", y=y):
        dtype = launch.common_type("avg_unpool", y, among=launch.STORAGE)
        y = launch.channels_last("y", y, g.y_shape, dtype)
        x = launch.empty_channels_last(g.x_shape, dtype)
        numbers = (np.int32(count_include_pad), np.int64(divisor or 0))
        launch.run("pool.cu", "avg_unpool_kernel", dtype, x.size, y, x, launch.struct(g), *numbers)
    return x
