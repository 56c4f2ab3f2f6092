"""The convolution family: three functions, each computing one slot of the trilinear form <conv(x, w), y> from the
others.

    conv(x, w) -> y           (N, C, *I) * (K, C/G, *k) -> (N, K, *O)
    conv_input(y, w) -> x     its adjoint in x: the transposed convolution
    conv_weight(x, y) -> w    its adjoint in w

And either of the first two with a bias for each channel of the result, and with ReLU: `conv_bias`, `conv_relu`.

One product of matrices for each kernel position; groups are an axis of their own.
"""

from __future__ import annotations

from math import prod

from ..arrays import Array, namespace
from ..geometry import ConvGeometry
from .elementwise import positive_part
from .reduction import total


def conv(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    g, xp = geometry, namespace(x)
    padded = _pad(x, g)
    y = xp.zeros((g.batch, g.groups, g.out_channels // g.groups, *g.output), xp.result_type(x, w))
    for tap, at in g.taps():
        y += xp.einsum("ngc...,gkc->ngk...", _split(padded[:, :, *at], 1, g), _split(w, 0, g)[:, :, :, *tap])
    return y.reshape(g.y_shape)


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    g, xp = geometry, namespace(y)
    padded = xp.zeros((g.batch, g.in_channels, *g.padded), xp.result_type(y, w))
    for tap, at in g.taps():
        part = xp.einsum("ngk...,gkc->ngc...", _split(y, 1, g), _split(w, 0, g)[:, :, :, *tap])
        padded[:, :, *at] += part.reshape(g.batch, g.in_channels, *g.output)
    inside = tuple(slice(lo, lo + n) for (lo, _), n in zip(g.padding, g.input, strict=True))
    return xp.ascontiguousarray(padded[:, :, *inside])


def conv_weight(x: Array, y: Array, *, geometry: ConvGeometry) -> Array:
    g, xp = geometry, namespace(x)
    padded = _pad(x, g)
    w = xp.zeros((g.groups, g.out_channels // g.groups, g.in_channels // g.groups, *g.kernel), xp.result_type(x, y))
    for tap, at in g.taps():
        w[:, :, :, *tap] = xp.einsum("ngcs,ngks->gkc", _flat(padded[:, :, *at], g), _flat(y, g))
    return w.reshape(g.w_shape)


def conv_bias(x: Array, w: Array, b: Array, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """conv(x, w) + b, or if `transposed` conv_input(x, w) + b; b: one number for each channel of the result."""
    return finish((conv_input if transposed else conv)(x, w, geometry=geometry), b)


def conv_relu(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """relu(conv_bias(x, w, b)); b may be None."""
    return finish((conv_input if transposed else conv)(x, w, geometry=geometry), b, relu=True)


def conv_relu_slope(g: Array, y: Array) -> tuple[Array, Array]:
    """For y = relu(z + b) and its gradient g: that of z, g where y > 0 (or NaN) and else 0; and that of b, (C,)."""
    gz = positive_part(g, y)
    return gz, total(gz, (0, *range(2, gz.ndim)))


def finish(y: Array, b: Array | None, relu: bool = False) -> Array:
    """y: (N, C, ...) itself, to which b: (C,) has been added, then relu applied. None adds nothing."""
    if b is not None:
        y += b.reshape(-1, *(1,) * (y.ndim - 2))
    return namespace(y).maximum(y, 0, out=y) if relu else y


def _pad(x: Array, g: ConvGeometry) -> Array:
    return namespace(x).pad(x, ((0, 0), (0, 0), *g.padding))


def _split(a: Array, axis: int, g: ConvGeometry) -> Array:
    """The channel axis as (groups, channels of a group)."""
    return a.reshape(*a.shape[:axis], g.groups, a.shape[axis] // g.groups, *a.shape[axis + 1 :])


def _flat(a: Array, g: ConvGeometry) -> Array:
    """An array of y's spatial size as (batch, groups, channels of a group, all positions)."""
    return a.reshape(g.batch, g.groups, a.shape[1] // g.groups, prod(g.output))
