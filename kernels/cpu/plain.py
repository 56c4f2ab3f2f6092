"""The convolution family in plain NumPy, for small work: every window copied out, then one stack of matrix products.

x and y keep their layout as (N, G, channels of a group, ...); the weight is (G, K/G, C/G * k), as it lies in memory.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..geometry import ConvGeometry

Array = np.ndarray


def conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    return (_weight(w, g) @ _windows(x, g)).reshape(g.y_shape)


def conv_input(y: Array, w: Array, g: ConvGeometry) -> Array:
    columns = _weight(w, g).swapaxes(1, 2) @ _output(y, g)
    columns = columns.reshape(g.batch, g.in_channels, *g.kernel, *g.output)
    padded = np.zeros((g.batch, g.in_channels, *g.padded), y.dtype)
    for tap, at in g.taps():
        padded[:, :, *at] += columns[:, :, *tap]
    return np.ascontiguousarray(padded[:, :, *_inside(g)])


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    return (_output(y, g) @ _windows(x, g).swapaxes(2, 3)).sum(0).reshape(g.w_shape)


def _weight(w: Array, g: ConvGeometry) -> Array:
    return w.reshape(g.groups, g.out_channels // g.groups, prod(g.w_shape[1:]))


def _output(y: Array, g: ConvGeometry) -> Array:
    return y.reshape(g.batch, g.groups, g.out_channels // g.groups, prod(g.output))


def _inside(g: ConvGeometry) -> tuple[slice, ...]:
    return tuple(slice(lo, lo + n) for (lo, _), n in zip(g.padding, g.input, strict=True))


def _windows(x: Array, g: ConvGeometry) -> Array:
    """(N, G, C/G * k, O): what each output position sees."""
    padded = x
    if any(map(any, g.padding)):
        padded = np.zeros((g.batch, g.in_channels, *g.padded), x.dtype)
        padded[:, :, *_inside(g)] = x
    batch, channel, *axes = padded.strides
    taps = (stride * d for stride, d in zip(axes, g.dilation, strict=True))
    steps = (stride * s for stride, s in zip(axes, g.stride, strict=True))
    windows = np.lib.stride_tricks.as_strided(
        padded,
        (g.batch, g.in_channels, *g.kernel, *g.output),
        (batch, channel, *taps, *steps),
        writeable=False,
    )
    return windows.reshape(g.batch, g.groups, prod(g.w_shape[1:]), prod(g.output))
