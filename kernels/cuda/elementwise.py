"""Launcher of elementwise.cu: the gradients of bias and ReLU behind a convolution, on CuPy arrays as they lie."""

from __future__ import annotations

import numpy as np

from ..arrays import Array
from ..reference import conv as reference
from . import channels, fused, launch

FILE = "elementwise.cu"


def conv_relu_slope(g: Array, y: Array) -> tuple[Array, Array]:
    """For y = relu(z + b) and its gradient g: that of z, g where y > 0 (or NaN) and else 0; and that of b, (C,)."""
    dtype = np.result_type(g.dtype, y.dtype)
    if not y.size or dtype.name not in launch.STORAGE:
        return reference.conv_relu_slope(g, y)
    with launch.device_of("conv_relu_slope", g=g, y=y):
        real, last = fused.computed(dtype), fused.is_last(y)
        p = channels.plan(y.shape, last)
        gz, gb = fused.empty_as(y, last, dtype), launch.empty((p.channels,), real)
        parts = launch.empty((p.channels, p.parts), real)
        arrays = (fused.flat(g, last, dtype), fused.flat(y, last, dtype), fused.flat(gz, last), parts)
        channels.run(FILE, "relu_slope_kernel", dtype, p, *arrays)
        channels.collect(FILE, "relu_slope_finish_kernel", dtype, p, parts, gb)
    return gz, gb.astype(dtype, copy=False)
