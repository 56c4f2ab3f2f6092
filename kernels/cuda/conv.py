"""Launchers of conv.cu: the convolution family on CuPy arrays, float32 and float64, one to three spatial axes.

Results are C-contiguous and bitwise reproducible.
"""

from __future__ import annotations

from ..arrays import Array
from ..geometry import ConvGeometry
from . import launch


def conv(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (K, C/G, *k) -> (N, K, *O)"""
    g = geometry
    with launch.device_of("conv", x=x, w=w):
        dtype = launch.common_type("conv", x, w)
        x, w = launch.operand("x", x, g.x_shape, dtype), launch.operand("w", w, g.w_shape, dtype)
        y = launch.empty(g.y_shape, dtype)
        launch.run("conv.cu", "conv_kernel", dtype, y.size, x, w, y, launch.struct(g))
    return y


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, K, *O) * (K, C/G, *k) -> (N, C, *I), the adjoint of conv in x: the transposed convolution"""
    g = geometry
    with launch.device_of("conv_input", y=y, w=w):
        dtype = launch.common_type("conv_input", y, w)
        y, w = launch.operand("y", y, g.y_shape, dtype), launch.operand("w", w, g.w_shape, dtype)
        x = launch.empty(g.x_shape, dtype)
        launch.run("conv.cu", "conv_input_kernel", dtype, x.size, y, w, x, launch.struct(g))
    return x


def conv_weight(x: Array, y: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (N, K, *O) -> (K, C/G, *k), the adjoint of conv in w"""
    g = geometry
    with launch.device_of("conv_weight", x=x, y=y):
        dtype = launch.common_type("conv_weight", x, y)
        x, y = launch.operand("x", x, g.x_shape, dtype), launch.operand("y", y, g.y_shape, dtype)
        w = launch.empty(g.w_shape, dtype)
        launch.run("conv.cu", "conv_weight_kernel", dtype, w.size, x, y, w, launch.struct(g))
    return w
