"""The gradients of bias and ReLU behind a convolution as numba.cuda kernels, to be read beside ../cuda/elementwise.cu.
Arrays: y, g, gz (batch, channels, places), gb (channels,)."""

from __future__ import annotations

import numpy as np
from numba import cuda

from ..arrays import Array, namespace
from ..cuda import fused
from ..reference import conv as reference
from .channels import add_up, collect, for_channels, leave, lie, own_channel, own_rows, pass_over, three
from .launch import BLOCK, ZERO, device_of

TYPES = ("float32", "float64")


@cuda.jit
def relu_slope_kernel(g, y, gz, parts, s):
    """gz = g where y > 0 (or NaN), else 0; and its sum over each channel, the gradient of the bias."""
    shared = cuda.shared.array((1, BLOCK), y.dtype)
    channel = own_channel(s)
    total = y.dtype.type(0)
    if channel < s.channels:
        first, end = own_rows(s)
        for row in range(first, end, s.members):
            n, place = row // s.places, row % s.places
            slope = ZERO if y[n, channel, place] <= 0 else g[n, channel, place]
            gz[n, channel, place] = slope
            total += slope
    shared[0, cuda.threadIdx.x] = total
    add_up(shared, s.width, s.members)
    leave(shared, parts, s)


@cuda.jit
def relu_slope_finish_kernel(parts, gb):
    shared = cuda.shared.array((1, BLOCK), parts.dtype)
    collect(shared, parts)
    if cuda.threadIdx.x == 0:
        gb[cuda.blockIdx.x] = shared[0, 0]


def conv_relu_slope(g: Array, y: Array) -> tuple[Array, Array]:
    """For y = relu(z + b) and its gradient g: that of z, g where y > 0 (or NaN) and else 0; and that of b, (C,)."""
    dtype = np.result_type(g.dtype, y.dtype)
    if not y.size or dtype.name not in TYPES:
        return reference.conv_relu_slope(g, y)
    with device_of("conv_relu_slope", g=g, y=y):
        xp, (last, s) = namespace(y), lie(y)
        gz, gb = fused.empty_as(y, last, dtype), xp.empty(s.channels, dtype)
        parts = xp.empty((s.channels, 1, s.parts), dtype)
        arrays = (three(a, last, dtype) for a in (g, y, gz))
        pass_over(relu_slope_kernel, s, *arrays, parts)
        for_channels(relu_slope_finish_kernel, s, parts, gb)
    return gz, gb
