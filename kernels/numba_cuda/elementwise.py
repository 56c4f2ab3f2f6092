"""The gradients of bias and ReLU behind a convolution, and gelu, as numba.cuda kernels, to be read beside
../cuda/elementwise.cu. Arrays: y, g, gz (batch, channels, places), gb (channels,); those of gelu (elements,)."""

from __future__ import annotations

from collections.abc import Callable
from math import erfc, exp, pi, sqrt, tanh
from typing import Any

import numpy as np
from numba import cuda

from ..arrays import Array, namespace
from ..cuda import fused
from ..cuda.elementwise import fits
from ..reference import conv as reference
from ..reference import elementwise as reference_elementwise
from .channels import add_up, collect, for_channels, leave, lie, own_channel, own_rows, pass_over, three
from .launch import BLOCK, ONE, SIMULATED, ZERO, device_of, elementwise, thread_index

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


# ---- gelu: x P(x), where P is the standard normal distribution, as max(x, 0) - |x| P(-|x|); NaN stays NaN. Constants
# that single precision does not hold exactly are arguments: in the kernels they would be of one type for all arrays.
# from 40 on P, and tanh in gelu_tanh, are as good as constant; types as of ZERO and ONE
FAR, HALF = (40, 0.5) if SIMULATED else (np.float32(40), np.float32(0.5))
ROOT, DENSITY = sqrt(0.5), 1 / sqrt(2 * pi)
A = sqrt(2 / pi)
B = A * 0.044715


@cuda.jit(device=True)
def within(a, end):
    return -end if a < -end else (end if a > end else a)


@cuda.jit
def gelu_kernel(x, y, root):
    i = thread_index()
    if i < x.size:
        a = x[i]
        z = within(-a if a < ZERO else a, FAR)
        y[i] = (ZERO if a < ZERO else a) - z * (HALF * erfc(z * root))


@cuda.jit
def gelu_gradient_kernel(g, x, gx, root, density):
    """g (P(x) + x p(x)), where p is the density of the standard normal distribution."""
    i = thread_index()
    if i < x.size:
        a = x[i]
        z = within(-a if a < ZERO else a, FAR)
        lower = z * exp(-HALF * z * z) * density - HALF * erfc(z * root)
        gx[i] = g[i] * (-lower if a < ZERO else ONE + lower)


@cuda.jit
def gelu_tanh_kernel(x, y, linear, cubic):
    """The approximation x (1 + tanh(u)) / 2 with u = linear x + cubic x³."""
    i = thread_index()
    if i < x.size:
        a = x[i]
        near = within(a, FAR)
        t = tanh(near * (linear + cubic * near * near))
        y[i] = (near if a < ZERO else a) * (HALF * (ONE + t))


@cuda.jit
def gelu_tanh_gradient_kernel(g, x, gx, linear, cubic, slope):
    """slope: three times `cubic`."""
    i = thread_index()
    if i < x.size:
        near = within(x[i], FAR)
        square = near * near
        t = tanh(near * (linear + cubic * square))
        gx[i] = g[i] * (HALF * (ONE + t + near * (ONE - t * t) * (linear + slope * square)))


def gelu(x: Array) -> Array:
    """x P(x), where P is the standard normal distribution."""
    return _each(gelu_kernel, reference_elementwise.gelu, (x,), ROOT)


def gelu_gradient(g: Array, x: Array) -> Array:
    """g (P(x) + x p(x)), where p is its density."""
    return _each(gelu_gradient_kernel, reference_elementwise.gelu_gradient, (g, x), ROOT, DENSITY)


def gelu_tanh(x: Array) -> Array:
    """The approximation of gelu by tanh."""
    return _each(gelu_tanh_kernel, reference_elementwise.gelu_tanh, (x,), A, B)


def gelu_tanh_gradient(g: Array, x: Array) -> Array:
    """g times its derivative at x."""
    return _each(gelu_tanh_gradient_kernel, reference_elementwise.gelu_tanh_gradient, (g, x), A, B, 3 * B)


def _each(kernel: Any, otherwise: Callable[..., Array], arrays: tuple[Array, ...], *numbers: float) -> Array:
    """The kernel's result. What broadcasts, holds no elements or is of another type is left to the reference."""
    x = arrays[-1]
    if not fits(x, arrays, TYPES):
        return otherwise(*arrays)
    with device_of(otherwise.__name__, **{f"argument {i}": a for i, a in enumerate(arrays, 1)}):
        y = namespace(x).empty(x.shape, x.dtype)
        flat = (fused.flat(a, False).reshape(-1) for a in (*arrays, y))
        elementwise(kernel, x.size, *flat, *map(x.dtype.type, numbers))
    return y
