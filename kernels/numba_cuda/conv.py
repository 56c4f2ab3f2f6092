"""The convolution family as numba.cuda kernels, to be read beside ../cuda/conv.cu.

One thread computes one element of the result, every kernel gathers, nothing is added atomically.
Arrays: x (N, C, i0, i1, i2), w (F, C / groups, k0, k1, k2), y (N, F, o0, o1, o2), bias (channels of the result,); the
C++ has channels innermost. tiled.py is the next step of the course.
"""

from __future__ import annotations

from numba import cuda

from ..arrays import Array
from ..cuda.launch import common_type, operand
from ..geometry import ConvGeometry
from ..reference import conv as reference
from .launch import ZERO, device_of, element, empty, input_at, output_at, run, thread_index


@cuda.jit(device=True)
def finished(total, bias, c, has_bias, relu):
    """What becomes of a sum: the bias of channel c is added if there is one, ReLU applied if asked (NaN stays NaN)."""
    if has_bias:
        total += bias[c]
    return ZERO if relu and total <= 0 else total


@cuda.jit
def conv_kernel(x, w, y, g, bias, has_bias, relu):
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
    y[n, f, o0, o1, o2] = finished(total, bias, f, has_bias, relu)


@cuda.jit
def conv_input_kernel(y, w, x, g, bias, has_bias, relu):
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
    x[n, c, i0, i1, i2] = finished(total, bias, c, has_bias, relu)


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
    return _gather("conv", x, w, None, False, geometry, False)


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, K, *O) * (K, C/G, *k) -> (N, C, *I), the adjoint of conv in x: the transposed convolution"""
    return _gather("conv_input", y, w, None, False, geometry, True)


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
    return _gather("conv_bias", x, w, b, False, geometry, transposed)


def conv_relu(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """relu(conv_bias(x, w, b)); b may be None"""
    return _gather("conv_relu", x, w, b, True, geometry, transposed)


def _gather(operation: str, x: Array, w: Array, b: Array | None, relu: bool, g: ConvGeometry, adjoint: bool) -> Array:
    """conv, or its adjoint in x, then bias and ReLU."""
    name, kernel = ("y", conv_input_kernel) if adjoint else ("x", conv_kernel)
    shape, result = (g.y_shape, g.x_shape) if adjoint else (g.x_shape, g.y_shape)
    arrays = {name: x, "w": w} if b is None else {name: x, "w": w, "b": b}
    with device_of(operation, **arrays):
        dtype = common_type(operation, *arrays.values())
        x, w = operand(name, x, shape, dtype), operand("w", w, g.w_shape, dtype)
        y = empty(x, result, dtype)
        bias = w.reshape(-1) if b is None else operand("b", b, result[1:2], dtype)  # w: an array that is not read
        run(kernel, y, g, x, w, y, others=(bias, b is not None, relu))
        if not (x.size and w.size):  # sums over nothing
            reference.finish(y, b, relu)
    return y
