"""Launchers of pool.cu: max pooling and its adjoint on CuPy arrays, float32 and float64, one to three spatial axes.

Results are C-contiguous and bitwise reproducible.
"""

from __future__ import annotations

from ..arrays import Array
from ..geometry import PoolGeometry
from . import launch


def max_pool(x: Array, *, geometry: PoolGeometry) -> tuple[Array, Array]:
    """x (N, C, *I) -> y (N, C, *O), and int32 indices of the same shape: where in the input plane each y was found."""
    g = geometry
    with launch.device_of("max_pool", x=x):
        dtype = launch.common_type("max_pool", x)
        x = launch.operand("x", x, g.x_shape, dtype)
        y, indices = launch.empty(g.y_shape, dtype), launch.empty(g.y_shape, "int32")
        launch.run("pool.cu", "max_pool_kernel", dtype, y.size, x, y, indices, launch.struct(g))
    return y, indices


def max_unpool(y: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    """(N, C, *O) -> (N, C, *I): adds each y where its index points.

    The indices must be those of a max_pool of this geometry: an index that points out of its own window is not found.
    """
    g = geometry
    with launch.device_of("max_unpool", y=y, indices=indices):
        dtype = launch.common_type("max_unpool", y)
        y = launch.operand("y", y, g.y_shape, dtype)
        indices = launch.operand("indices", indices, g.y_shape, "int32")
        x = launch.empty(g.x_shape, dtype)
        launch.run("pool.cu", "max_unpool_kernel", dtype, x.size, y, indices, x, launch.struct(g))
    return x
