"""Products of matrices on CuPy arrays, multiplied as `set_float32_matmul_precision` says.

A product of matrices is a convolution with a kernel of one tap: rows are its positions, terms its channels, columns its
filters, and each product of a stack is a group. So what that setting or the type of the arrays sends to tensor cores
(float32 but for "highest", float16, bfloat16) goes through the tiles of conv.py, summed in float32, the bias added
before results are rounded.

cuBLAS, through CuPy, computes the rest: float64 and "highest", for which it is strict and its tiles were tuned on
devices, as ours were not; and what is too small for tiles, has columns too few for a stack's, or is on devices without
TF32. There it is as exact as asked or more, but for CUPY_TF32=1 in the environment: CuPy then has cuBLAS round float32
to TF32. float32 that must not be rounded ("highest", "tf32x3") is always computed here then. So is everything in a step
that becomes a CUDA graph, float64 included: CuPy lets no product of cuBLAS be captured.
"""

from __future__ import annotations

import os
from functools import lru_cache, partial
from math import prod

import numpy as np

from .. import capture
from ..arrays import Array, namespace
from ..geometry import ConvGeometry
from ..precision import float32_products
from ..reference import linalg as reference
from . import conv, launch, plan

TYPES = ("float32", "float16", "bfloat16")  # that tensor cores multiply, one way or another


def matmul(a: Array, b: Array) -> Array:
    """(..., n, k) @ (..., k, m) -> (..., n, m); stacks broadcast."""
    if a.ndim < 2 or b.ndim < 2:
        return reference.matmul(a, b)
    if b.ndim == 2:
        transposed = a.ndim == 2 and _by_columns(a)  # a gradient's
        y = _sum_of_rows(a.T, b) if transposed else _rows(a, b.T, None)
        return reference.matmul(a, b) if y is None else y
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (n, k), m = a.shape[-2:], b.shape[-1]
    g = _geometry("conv_input", prod(lead), n, k, m, a, b)
    if g is None:
        return reference.matmul(a, b)
    xp = namespace(a)
    a, b = (xp.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (a, b))
    side_by_side = a.transpose(1, 0, 2).reshape(n, -1)  # channels of all groups, at each position
    y = conv.conv_input(_signal(side_by_side), b.reshape(-1, m)[:, :, None], geometry=g)
    return y[0].T.reshape(n, len(a), m).transpose(1, 0, 2).reshape(*lead, n, m)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """x: (..., in), w: (out, in), b: (out,) or None -> (..., out)."""
    y = _rows(x, w, b)
    return reference.linear(x, w, b) if y is None else y


def linear_activated(x: Array, w: Array, b: Array | None, *, activation: str) -> Array:
    """The activation of `linear`, in place."""
    return reference.linear_activated(x, w, b, activation=activation, product=linear)


def linear_weight(g: Array, x: Array) -> Array:
    """The adjoint of `linear` in w: g (..., out), x (..., in) -> (out, in)."""
    w = _sum_of_rows(g, x)
    return reference.linear_weight(g, x) if w is None else w


contract = partial(reference.contract, product=matmul)


def _rows(x: Array, w: Array, b: Array | None) -> Array | None:
    """x (..., k), w (m, k), b (m,) or None -> (..., m): the convolution; or its adjoint, where w lies transposed. None:
    it is CuPy's."""
    adjoint = _by_columns(w)
    arrays = (x, w) if b is None else (x, w, b)
    g = _geometry("conv_input" if adjoint else "conv", 1, prod(x.shape[:-1]), x.shape[-1], len(w), *arrays)
    if g is None:
        return None
    taps = (w.T if adjoint else w)[:, :, None]
    if b is not None:
        y = conv.conv_bias(_signal(x), taps, b, geometry=g, transposed=adjoint)
    else:
        y = (conv.conv_input if adjoint else conv.conv)(_signal(x), taps, geometry=g)
    return y[0].T.reshape(*x.shape[:-1], len(w))


def _sum_of_rows(a: Array, b: Array) -> Array | None:
    """a (..., n), b (..., m) -> (n, m), the sum of the rows' outer products: the convolution's gradient in its weights.
    None: it is CuPy's."""
    g = _geometry("conv_weight", 1, prod(a.shape[:-1]), b.shape[-1], a.shape[-1], a, b)
    return None if g is None else conv.conv_weight(_signal(b), _signal(a), geometry=g)[:, :, 0]


def _by_columns(x: Array) -> bool:
    """Whether a matrix is the transpose of one whose rows follow each other in memory."""
    return x.flags.f_contiguous and not x.flags.c_contiguous


def _signal(x: Array) -> Array:
    """Rows (..., channels) as positions of one signal (1, channels, positions)."""
    return x.reshape(prod(x.shape[:-1]), x.shape[-1]).T[None]


def _geometry(
    operation: str, stack: int, positions: int, channels: int, filters: int, *arrays: Array
) -> ConvGeometry | None:
    """The products of these arrays as one convolution, from `channels` to `filters` in each group (conv_input: its
    adjoint maps so); None where they are CuPy's."""
    dtype, captured = arrays[0].dtype, capture.active()
    known = dtype.name in (launch.STORAGE if captured else TYPES) and all(a.dtype == dtype for a in arrays)
    if not known or 0 in (stack, positions, channels, filters):
        return None
    if captured:
        return _products(operation, stack, positions, channels, filters)
    precision = float32_products()
    rounded = dtype == np.float32 and precision in ("highest", "tf32x3") and _cupy_rounds()
    if dtype == np.float32 and precision == "highest" and not rounded:
        return None
    place = launch.device_of("a product of matrices", **{f"argument {i}": a for i, a in enumerate(arrays)})
    device = plan.Device(*launch.properties(place.id))
    if device.capability < plan.LOWEST:  # nor is there TF32, whatever the environment says
        return None
    g, adjoint = _products(operation, stack, positions, channels, filters), operation == "conv_input"
    if operation == "conv_weight":
        chosen = plan.weight(g, dtype.name, precision, device)
    else:
        chosen = plan.gather(g, adjoint, dtype.name, precision, device, len(arrays) > 2)
    return g if chosen.instance is not None or rounded else None


@lru_cache(maxsize=4096)
def _products(operation: str, groups: int, positions: int, channels: int, filters: int) -> ConvGeometry:
    """The convolution with kernel size 1 over one signal that `_geometry` speaks of."""
    if operation == "conv_input":
        channels, filters = filters, channels
    x, w = (1, groups * channels, positions), (groups * filters, channels, 1)
    return ConvGeometry.of(x, w, groups=groups)


def _cupy_rounds() -> bool:
    """Whether CuPy multiplies float32 as TF32. CuPy looks once, at its first product; the variable is not to change."""
    return int(os.environ.get("CUPY_TF32", "0")) > 0
