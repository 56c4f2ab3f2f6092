"""The convolution family as numba.cuda kernels, to be read beside ../cuda/conv.cu.

One thread computes one element of the result, every kernel gathers, nothing is added atomically.
Arrays: x (N, C, i0, i1, i2), w (F, C / groups, k0, k1, k2), y (N, F, o0, o1, o2); the C++ has their channels innermost,
and adds the bias itself. tiled.py is the next step of the course.
"""

from __future__ import annotations

from numba import cuda

from ..arrays import Array
from ..cuda.launch import common_type, operand
from ..geometry import ConvGeometry
from .elementwise import finish
from .launch import device_of, element, empty, input_at, output_at, run, thread_index


@cuda.jit
def conv_kernel(x, w, y, g):
    """y[n, f, o] = sum over c, k of x[n, c, o * stride - padding + k * dilation] * w[f, c, k]"""
    index = thread_index()
    if index >= y.size:
        return
    n, f, o0, o1, o2 = element(index, y.shape)
    channels = g.in_channels // g.groups
    first = f // (g.out_channels // g.groups) * channels  # channel of x where this filter's group begins

    total = y.dtype.type(0)
    for k0 in range(g.kernel[0]):
        i0 = input_at(o0, k0, 0, g)
        if i0 < 0:
            continue
        for k1 in range(g.kernel[1]):
            i1 = input_at(o1, k1, 1, g)
            if i1 < 0:
                continue
            for k2 in range(g.kernel[2]):
                i2 = input_at(o2, k2, 2, g)
                if i2 < 0:
                    continue
                for c in range(channels):
                    total += x[n, first + c, i0, i1, i2] * w[f, c, k0, k1, k2]
    y[n, f, o0, o1, o2] = total


@cuda.jit
def conv_input_kernel(y, w, x, g):
    """x[n, c, i] = sum over f, k of y[n, f, o] * w[f, c, k], where tap k of output o meets input i"""
    index = thread_index()
    if index >= x.size:
        return
    n, c, i0, i1, i2 = element(index, x.shape)
    channels = g.in_channels // g.groups
    filters = g.out_channels // g.groups
    first = c // channels * filters  # filter where this channel's group begins

    total = x.dtype.type(0)
    for k0 in range(g.kernel[0]):
        o0 = output_at(i0, k0, 0, g)
        if o0 < 0:
            continue
        for k1 in range(g.kernel[1]):
            o1 = output_at(i1, k1, 1, g)
            if o1 < 0:
                continue
            for k2 in range(g.kernel[2]):
                o2 = output_at(i2, k2, 2, g)
                if o2 < 0:
                    continue
                for f in range(first, first + filters):
                    total += y[n, f, o0, o1, o2] * w[f, c % channels, k0, k1, k2]
    x[n, c, i0, i1, i2] = total


@cuda.jit
def conv_weight_kernel(x, y, w, g):
    """w[f, c, k] = sum over n, o of x[n, c, o * stride - padding + k * dilation] * y[n, f, o]"""
    index = thread_index()
    if index >= w.size:
        return
    f, tap_c, k0, k1, k2 = element(index, w.shape)
    channels = g.in_channels // g.groups
    c = f // (g.out_channels // g.groups) * channels + tap_c

    total = w.dtype.type(0)
    for n in range(g.batch):
        for o0 in range(g.output[0]):
            i0 = input_at(o0, k0, 0, g)
            if i0 < 0:
                continue
            for o1 in range(g.output[1]):
                i1 = input_at(o1, k1, 1, g)
                if i1 < 0:
                    continue
                row = w.dtype.type(0)  # rows are summed apart: the rounding error of one long sum would be far larger
                for o2 in range(g.output[2]):
                    i2 = input_at(o2, k2, 2, g)
                    if i2 < 0:
                        continue
                    row += x[n, c, i0, i1, i2] * y[n, f, o0, o1, o2]
                total += row
    w[f, tap_c, k0, k1, k2] = total


def conv(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (K, C/G, *k) -> (N, K, *O)"""
    g = geometry
    with device_of("conv", x=x, w=w):
        dtype = common_type("conv", x, w)
        x, w = operand("x", x, g.x_shape, dtype), operand("w", w, g.w_shape, dtype)
        y = empty(x, g.y_shape, dtype)
        run(conv_kernel, y, g, x, w, y)
    return y


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, K, *O) * (K, C/G, *k) -> (N, C, *I), the adjoint of conv in x: the transposed convolution"""
    g = geometry
    with device_of("conv_input", y=y, w=w):
        dtype = common_type("conv_input", y, w)
        y, w = operand("y", y, g.y_shape, dtype), operand("w", w, g.w_shape, dtype)
        x = empty(y, g.x_shape, dtype)
        run(conv_input_kernel, x, g, y, w, x)
    return x


def conv_weight(x: Array, y: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (N, K, *O) -> (K, C/G, *k), the adjoint of conv in w"""
    g = geometry
    with device_of("conv_weight", x=x, y=y):
        dtype = common_type("conv_weight", x, y)
        x, y = operand("x", x, g.x_shape, dtype), operand("y", y, g.y_shape, dtype)
        w = empty(x, g.w_shape, dtype)
        run(conv_weight_kernel, w, g, x, y, w)
    return w


def conv_bias(x: Array, w: Array, b: Array, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """conv(x, w) + b, or if `transposed` conv_input(x, w) + b; b: one number for each channel of the result"""
    return finish((conv_input if transposed else conv)(x, w, geometry=geometry), b)


def conv_relu(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """relu(conv_bias(x, w, b)); b may be None"""
    return finish((conv_input if transposed else conv)(x, w, geometry=geometry), b, relu=True)
