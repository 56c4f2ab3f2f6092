"""Launchers of elementwise.cu: the gradients of bias and ReLU behind a convolution, and gelu, on arrays as they lie."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from ..arrays import Array
from ..reference import conv as reference
from ..reference import elementwise as reference_elementwise
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


def gelu(x: Array) -> Array:
    """x P(x), where P is the standard normal distribution."""
    return _each("gelu", x)


def gelu_gradient(g: Array, x: Array) -> Array:
    """g (P(x) + x p(x)), where p is its density."""
    return _each("gelu_gradient", g, x)


def gelu_tanh(x: Array) -> Array:
    """The approximation of gelu by tanh."""
    return _each("gelu_tanh", x)


def gelu_tanh_gradient(g: Array, x: Array) -> Array:
    """g times its derivative at x."""
    return _each("gelu_tanh_gradient", g, x)


def _each(name: str, *arrays: Array) -> Array:
    """The result of kernel `name`, which lies in memory as the last array does. What broadcasts, holds no elements or
    is of another type is left to the reference."""
    x = arrays[-1]
    if not fits(x, arrays, launch.STORAGE):
        return getattr(reference_elementwise, name)(*arrays)
    with launch.device_of(name, **{f"argument {i}": a for i, a in enumerate(arrays, 1)}):
        last = x.ndim > 2 and fused.is_last(x)
        y = fused.empty_as(x, last, x.dtype)
        flat = (fused.flat(a, last, x.dtype) for a in (*arrays, y))
        fused.elementwise(FILE, f"{name}_kernel", x.dtype, x.size, *flat, np.int64(x.size))
    return y


def fits(x: Array, arrays: tuple[Array, ...], types: Collection[str]) -> bool:
    """Whether an elementwise kernel for these types can take the arrays: as many elements each as x, and some."""
    return x.size > 0 and x.dtype.name in types and all(a.shape == x.shape and a.dtype == x.dtype for a in arrays)
