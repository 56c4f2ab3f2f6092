"""Recurrences over a whole sequence: the products with the inputs are there, one loop does the rest.

x: (T, N, rows of all gates), h (and c): (N, H), w: (rows, H), b: (rows,) or None. The backward kernels go back through
time once and leave the gradient of the weight to one product over all steps. reverse: from the last step to the first.
`family` is where the products come from: this column's linear and linear_weight, or its convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from typing import Any

import numpy as np

from ..arrays import Array, namespace
from ..geometry import ConvGeometry
from . import conv as convolutions
from . import linalg


def _in_single(kernel: Callable) -> Callable:
    """Half precision is computed in float32: sums over all steps would leave its range."""

    @wraps(kernel)
    def call(*args: Any, **params: Any) -> Any:
        if args[0].dtype.itemsize != 2:
            return kernel(*args, **params)
        half, floating = args[0].dtype, lambda a: getattr(getattr(a, "dtype", None), "kind", "") == "f"
        out = kernel(*[a.astype("float32") if floating(a) else a for a in args], **params)
        back = lambda a: a.astype(half) if floating(a) else a
        return back(out) if not isinstance(out, tuple) else tuple(map(back, out))

    return call


def _order(steps: int, reverse: bool) -> Iterator[int]:
    return iter(range(steps)[::-1] if reverse else range(steps))


def _before(first: Array, y: Array, reverse: bool) -> Array:
    """The state that each step started from: `first`, then those of y (T, ...), lying as y does."""
    before = namespace(y).empty_like(y)
    if reverse:
        before[:-1], before[-1] = y[1:], first
    else:
        before[0], before[1:] = first, y[:-1]
    return before


def _sigmoid(a: Array) -> None:
    """In place."""
    xp = namespace(a)
    xp.multiply(a, -1, out=a)  # NumPy 2.4's negative reads float32 at steps of 16 bytes wrongly
    with np.errstate(over="ignore"):  # 1 / infinity is right
        xp.exp(a, out=a)
    a += 1
    xp.reciprocal(a, out=a)


def _slices(size: int, count: int) -> list[Any]:
    """What takes gate number 0, 1, … of `size` rows each."""
    return [(..., slice(i * size, (i + 1) * size)) for i in range(count)]


def _weights(g: Array, before: Array, bias: Array | None, needs: list[bool], family: Any) -> tuple[Any, Any]:
    """The gradients of w and b from those of all products (T, N, rows) and what they were computed from (T, N, H)."""
    gw = family.linear_weight(g, before) if needs[0] else None
    return gw, g.sum((0, 1)) if needs[1] and bias is not None else None


# ---- plain recurrence
@_in_single
def rnn(x: Array, h: Array, w: Array, b: Array | None, *, relu: bool, reverse: bool, family: Any = linalg) -> Array:
    """h_t = tanh(x_t + w h + b), or relu -> all h: (T, N, H)."""
    xp = namespace(x)
    y = xp.empty((len(x), *h.shape), x.dtype)
    for t in _order(len(x), reverse):
        h = xp.add(x[t], family.linear(h, w, b), out=y[t])
        xp.maximum(h, 0, out=h) if relu else xp.tanh(h, out=h)
    return y


@_in_single
def rnn_backward(
    g: Array, h: Array, w: Array, b: Array | None, y: Array, *, needs: list[bool], relu: bool, reverse: bool,
    family: Any = linalg,
) -> tuple:  # fmt: skip
    xp = namespace(g)
    gx = xp.empty_like(y)
    gh = xp.zeros_like(y[0])
    for t in _order(len(y), not reverse):
        gx[t] = (g[t] + gh) * (~(y[t] <= 0) if relu else 1 - y[t] * y[t])
        gh = family.linear(gx[t], w.T, None)
    return gx, gh, *_weights(gx, _before(h, y, reverse), b, needs[2:], family)


# ---- long short-term memory
@_in_single
def lstm(
    x: Array, h: Array, c: Array, w: Array, b: Array | None, *, reverse: bool, family: Any = linalg
) -> tuple[Array, Array, Array]:
    """All h and then the last c: (T + 1, N, H); the gates i, f, g, o: (T, N, 4 H), and all c: (T, N, H)."""
    xp, size = namespace(x), h.shape[-1]
    i, f, g, o = _slices(size, 4)
    y = xp.empty((len(x) + 1, *h.shape), x.dtype)
    gates, cells = xp.empty(x.shape, x.dtype), xp.empty((len(x), *h.shape), x.dtype)
    for t in _order(len(x), reverse):
        a = xp.add(x[t], family.linear(h, w, b), out=gates[t])
        _sigmoid(a[..., : 2 * size])
        _sigmoid(a[o])
        xp.tanh(a[g], out=a[g])
        c = xp.multiply(a[f], c, out=cells[t])
        c += a[i] * a[g]
        h = xp.multiply(a[o], xp.tanh(c), out=y[t])
    y[-1] = c
    return y, gates, cells


@_in_single
def lstm_backward(
    gy: Array, h: Array, c: Array, w: Array, b: Array | None, y: Array, gates: Array, cells: Array, *,
    needs: list[bool], reverse: bool, family: Any = linalg,
) -> tuple:  # fmt: skip
    xp, size = namespace(gy), h.shape[-1]
    i, f, g, o = _slices(size, 4)
    before = _before(c, cells, reverse)
    gx, gh, gc = xp.empty_like(gates), xp.zeros_like(h), gy[-1].copy()
    for t in _order(len(gates), not reverse):
        a, d, squashed = gates[t], gx[t], xp.tanh(cells[t])
        gh = gh + gy[t]
        gc += gh * a[o] * (1 - squashed * squashed)
        d[i] = gc * a[g] * (a[i] * (1 - a[i]))
        d[f] = gc * before[t] * (a[f] * (1 - a[f]))
        d[g] = gc * a[i] * (1 - a[g] * a[g])
        d[o] = gh * squashed * (a[o] * (1 - a[o]))
        gc *= a[f]
        gh = family.linear(d, w.T, None)
    return gx, gh, gc, *_weights(gx, _before(h, y[:-1], reverse), b, needs[3:], family)


# ---- gated recurrent units
@_in_single
def gru(
    x: Array, h: Array, w: Array, b: Array | None, *, reverse: bool, family: Any = linalg
) -> tuple[Array, Array, Array]:
    """All h: (T, N, H); the gates r, z, n: (T, N, 3 H), and the last third of w h + b at each step: (T, N, H)."""
    xp, size = namespace(x), h.shape[-1]
    r, z, n = _slices(size, 3)
    y, inner = xp.empty((len(x), *h.shape), x.dtype), xp.empty((len(x), *h.shape), x.dtype)
    gates = xp.empty(x.shape, x.dtype)
    for t in _order(len(x), reverse):
        u, a = family.linear(h, w, b), gates[t]
        inner[t] = u[n]
        xp.add(x[t][..., : 2 * size], u[..., : 2 * size], out=a[..., : 2 * size])
        _sigmoid(a[..., : 2 * size])
        xp.multiply(a[r], u[n], out=a[n])
        a[n] += x[t][n]
        xp.tanh(a[n], out=a[n])
        before, h = h, y[t]
        xp.subtract(before, a[n], out=h)
        h *= a[z]
        h += a[n]
    return y, gates, inner


@_in_single
def gru_backward(
    gy: Array, h: Array, w: Array, b: Array | None, y: Array, gates: Array, inner: Array, *, needs: list[bool],
    reverse: bool, family: Any = linalg,
) -> tuple:  # fmt: skip
    xp, size = namespace(gy), h.shape[-1]
    r, z, n = _slices(size, 3)
    before = _before(h, y, reverse)
    gx, gu, gh = xp.empty_like(gates), xp.empty_like(gates), xp.zeros_like(h)
    for t in _order(len(gates), not reverse):
        a, d, du = gates[t], gx[t], gu[t]
        gh = gh + gy[t]
        d[n] = gh * (1 - a[z]) * (1 - a[n] * a[n])
        d[r] = d[n] * inner[t] * (a[r] * (1 - a[r]))
        d[z] = gh * (before[t] - a[n]) * (a[z] * (1 - a[z]))
        du[...] = d
        du[n] *= a[r]
        gh = gh * a[z] + family.linear(du, w.T, None)
    return gx, gh, *_weights(gu, before, b, needs[2:], family)


# ---- convolutional gated recurrent units
@_in_single
def conv_gru(
    x: Array, h: Array, w: Array, *, geometry: ConvGeometry, reverse: bool, family: Any = convolutions
) -> tuple[Array, Array, Array]:
    """x: (T, N, 3 C, H, W), h: (N, C, H, W), w: (3 C, C, kH, kW) -> all h: (T, N, C, H, W); the gates z, r: (T, N, 2 C,
    H, W), and the candidates: (T, N, C, H, W). geometry: of h's convolution with the gates' part of w."""
    xp, size = namespace(x), h.shape[1]
    last = replace(geometry, out_channels=size)
    y, gates = xp.empty_like(x[:, :, :size]), xp.empty_like(x[:, :, : 2 * size])
    candidates = xp.empty_like(y)
    for t in _order(len(x), reverse):
        zr, c = gates[t], candidates[t]
        xp.add(x[t, :, : 2 * size], family.conv(h, w[: 2 * size], geometry=geometry), out=zr)
        _sigmoid(zr)
        z, r = zr[:, :size], zr[:, size:]
        xp.add(x[t, :, 2 * size :], family.conv(r * h, w[2 * size :], geometry=last), out=c)
        xp.tanh(c, out=c)
        before, h = h, y[t]
        xp.subtract(c, before, out=h)
        h *= z
        h += before
    return y, gates, candidates


@_in_single
def conv_gru_backward(
    gy: Array, h: Array, w: Array, y: Array, gates: Array, candidates: Array, *, needs: list[bool],
    geometry: ConvGeometry, reverse: bool, family: Any = convolutions,
) -> tuple:  # fmt: skip
    xp, size, steps = namespace(gy), h.shape[1], len(y)
    last = replace(geometry, out_channels=size)
    before = _before(h, y, reverse)
    gzr, gc, gh = xp.empty_like(gates), xp.empty_like(candidates), xp.zeros_like(y[0])
    for t in _order(steps, not reverse):
        z, r, c, old = gates[t, :, :size], gates[t, :, size:], candidates[t], before[t]
        gh += gy[t]
        slope = xp.multiply(c, c, out=gc[t])  # of the tanh
        xp.subtract(1, slope, out=slope)
        through = gh * z
        slope *= through
        gate = gzr[t]  # first the slope of both sigmoids
        xp.subtract(1, gates[t], out=gate)
        gate *= gates[t]
        gate[:, :size] *= gh * (c - old)
        gated = family.conv_input(slope, w[2 * size :], geometry=last)  # the gradient of r · h
        gate[:, size:] *= gated * old
        gh -= through
        gh += gated * r
        gh += family.conv_input(gate, w[: 2 * size], geometry=geometry)
    gw = None
    if needs[2]:
        joined = lambda a: a.reshape(-1, *a.shape[2:])  # all steps are one batch
        many = steps * geometry.batch
        kinds = ((before, gzr, geometry), (before * gates[:, :, size:], gc, last))
        parts = [family.conv_weight(joined(a), joined(g), geometry=replace(k, batch=many)) for a, g, k in kinds]
        gw = xp.concatenate(parts)
    return xp.concatenate((gzr, gc), 2) if needs[0] else None, gh, gw
