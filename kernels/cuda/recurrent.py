"""Recurrences on CuPy arrays: the products of each step, and between them one kernel of recurrent.cu for all its gates.

The specification is ../reference/recurrent.py; results have its formats. The loops here serve ../numba_cuda, too, which
brings kernels and products of its own: its `Column`. 16-bit arrays are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array, namespace
from ..geometry import ConvGeometry
from . import conv, fused, launch, linalg


class Column(NamedTuple):
    """What the loops are made of.

    run(kernel, elements, *arguments) launches a kernel with a thread for each unit of the state, device_of(operation,
    **arrays) is where they live, linear and conv are the modules of products.
    """

    run: Callable[..., None]
    device_of: Callable[..., Any]
    linear: Any
    conv: Any


def _run(kernel: str, elements: int, *arguments: Any) -> None:
    fused.elementwise("recurrent.cu", kernel, arguments[0].dtype, elements, *arguments)


CUDA = Column(_run, launch.device_of, linalg, conv)


def _in_place_and_type(loop: Callable) -> Callable:
    """On the device of the arrays; those of 16 bits are computed with in float32, the results rounded once."""

    @wraps(loop)
    def call(*args: Any, column: Column = CUDA, **params: Any) -> Any:
        arrays = {f"argument {i}": a for i, a in enumerate(args) if a is not None}
        with column.device_of(loop.__name__, **arrays):
            dtype = fused.storage(loop.__name__, *arrays.values())
            real = fused.computed(dtype)
            out = loop(*(None if a is None else a.astype(real, copy=False) for a in args), column=column, **params)
            back = lambda a: None if a is None else a.astype(dtype, copy=False)
            return tuple(map(back, out)) if isinstance(out, tuple) else back(out)

    return call


def _order(steps: int, reverse: bool) -> range:
    return range(steps)[::-1] if reverse else range(steps)


def _previous(first: Array, y: Array, t: int, reverse: bool) -> Array:
    """The state that step t started from."""
    at = t + 1 if reverse else t - 1
    return y[at] if 0 <= at < len(y) else first


def _all_previous(first: Array, y: Array, reverse: bool) -> Array:
    """The same of all steps, as one array."""
    before = namespace(y).empty_like(y)
    if reverse:
        before[:-1], before[-1] = y[1:], first
    else:
        before[0], before[1:] = first, y[:-1]
    return before


def _flat(*arrays: Array) -> tuple[Array, ...]:
    return tuple(fused.flat(a, False) for a in arrays)


def _sizes(h: Array) -> tuple[Any, Any]:
    """Of a state (N, H), as kernels take them: elements and units of a row."""
    return np.int64(h.size), np.int32(h.shape[-1])


def _bias(b: Array | None, w: Array) -> Array:
    return namespace(w).zeros(len(w), w.dtype) if b is None else fused.flat(b, False)


def _product(h: Array, w: Array, column: Column) -> Array:
    """h: (N, in), w: (out, in) -> (N, out). Which way round the library leaves it is its own affair."""
    return fused.flat(column.linear.linear(h, w, None), False)


def _weights(g: Array, before: Array, bias: Array | None, needs: list[bool], column: Column) -> tuple[Any, Any]:
    """The gradients of w and b from those of all products (T, N, rows) and what they were computed from (T, N, H)."""
    gw = column.linear.linear_weight(g, before) if needs[0] else None
    return gw, g.sum((0, 1)) if needs[1] and bias is not None else None


# ---- plain recurrence
@_in_place_and_type
def rnn(x: Array, h: Array, w: Array, b: Array | None, *, relu: bool, reverse: bool, column: Column) -> Array:
    """h_t = tanh(x_t + w h + b), or relu -> all h: (T, N, H)."""
    x, h = _flat(x, h)
    bias, sizes, relu_flag = _bias(b, w), _sizes(h), np.int32(relu)
    y = namespace(x).empty((len(x), *h.shape), x.dtype)
    for t in _order(len(x), reverse):
        u = _product(h, w, column)
        column.run("rnn_kernel", h.size, x[t], u, bias, y[t], *sizes, relu_flag)
        h = y[t]
    return y


@_in_place_and_type
def rnn_backward(
    g: Array, h: Array, w: Array, b: Array | None, y: Array, *, needs: list[bool], relu: bool, reverse: bool,
    column: Column,
) -> tuple:  # fmt: skip
    g, h, y = _flat(g, h, y)
    sizes, relu_flag = _sizes(h), np.int32(relu)
    gx, product = namespace(y).empty_like(y), namespace(h).zeros_like(h)
    for t in _order(len(y), not reverse):
        column.run("rnn_backward_kernel", h.size, g[t], product, y[t], gx[t], *sizes, relu_flag)
        product = _product(gx[t], w.T, column)
    return gx, product, *_weights(gx, _all_previous(h, y, reverse), b, needs[2:], column)


# ---- long short-term memory
@_in_place_and_type
def lstm(
    x: Array, h: Array, c: Array, w: Array, b: Array | None, *, reverse: bool, column: Column
) -> tuple[Array, Array, Array]:
    """All h and then the last c: (T + 1, N, H); the gates i, f, g, o: (T, N, 4 H), and all c: (T, N, H)."""
    x, h, c = _flat(x, h, c)
    bias, sizes, xp = _bias(b, w), _sizes(h), namespace(x)
    y = xp.empty((len(x) + 1, *h.shape), x.dtype)
    gates, cells = xp.empty(x.shape, x.dtype), xp.empty((len(x), *h.shape), x.dtype)
    for t in _order(len(x), reverse):
        u = _product(h, w, column)
        column.run("lstm_kernel", h.size, x[t], u, bias, c, gates[t], cells[t], y[t], *sizes)
        h, c = y[t], cells[t]
    y[-1] = c
    return y, gates, cells


@_in_place_and_type
def lstm_backward(
    gy: Array, h: Array, c: Array, w: Array, b: Array | None, y: Array, gates: Array, cells: Array, *,
    needs: list[bool], reverse: bool, column: Column,
) -> tuple:  # fmt: skip
    gy, h, c, y, gates, cells = _flat(gy, h, c, y, gates, cells)
    sizes, xp = _sizes(h), namespace(h)
    gx, product, gc = xp.empty_like(gates), xp.zeros_like(h), gy[-1].copy()
    for t in _order(len(gates), not reverse):
        before = _previous(c, cells, t, reverse)
        column.run("lstm_backward_kernel", h.size, gy[t], product, gates[t], cells[t], before, gc, gx[t], *sizes)
        product = _product(gx[t], w.T, column)
    return gx, product, gc, *_weights(gx, _all_previous(h, y[:-1], reverse), b, needs[3:], column)


# ---- gated recurrent units
@_in_place_and_type
def gru(
    x: Array, h: Array, w: Array, b: Array | None, *, reverse: bool, column: Column
) -> tuple[Array, Array, Array]:  # fmt: skip
    """All h: (T, N, H); the gates r, z, n: (T, N, 3 H), and the last third of w h + b at each step: (T, N, H)."""
    x, h = _flat(x, h)
    bias, sizes, xp = _bias(b, w), _sizes(h), namespace(x)
    y, inner = xp.empty((len(x), *h.shape), x.dtype), xp.empty((len(x), *h.shape), x.dtype)
    gates = xp.empty(x.shape, x.dtype)
    for t in _order(len(x), reverse):
        u = _product(h, w, column)
        column.run("gru_kernel", h.size, x[t], u, bias, h, gates[t], inner[t], y[t], *sizes)
        h = y[t]
    return y, gates, inner


@_in_place_and_type
def gru_backward(
    gy: Array, h: Array, w: Array, b: Array | None, y: Array, gates: Array, inner: Array, *, needs: list[bool],
    reverse: bool, column: Column,
) -> tuple:  # fmt: skip
    gy, h, y, gates, inner = _flat(gy, h, y, gates, inner)
    sizes, xp = _sizes(h), namespace(h)
    gx, gu, product, carry = xp.empty_like(gates), xp.empty_like(gates), xp.zeros_like(h), xp.zeros_like(h)
    for t in _order(len(gates), not reverse):
        saved = (gates[t], inner[t], _previous(h, y, t, reverse))
        column.run("gru_backward_kernel", h.size, gy[t], product, *saved, carry, gx[t], gu[t], *sizes)
        product = _product(gu[t], w.T, column)
    return gx, carry + product, *_weights(gu, _all_previous(h, y, reverse), b, needs[2:], column)


# ---- convolutional gated recurrent units
class _Planes:
    """How the arrays of a convolutional GRU lie: as its x does, channels-last or C-contiguous."""

    def __init__(self, x: Array, h: Array):
        self.last = len(x) > 0 and fused.is_last(x[0])
        self.library, self.dtype = namespace(x), x.dtype
        self.elements = h.size
        self.sizes = np.int64(h.size), np.int32(h.shape[1] if self.last else prod(h.shape[1:]))

    def empty(self, steps: int, batch: int, channels: int, *axes: int) -> Array:
        """(T, N, C, H, W), uninitialised."""
        if not self.last:
            return self.library.empty((steps, batch, channels, *axes), self.dtype)
        return self.library.empty((steps, batch, *axes, channels), self.dtype).transpose(0, 1, 4, 2, 3)

    def flat(self, *arrays: Array) -> tuple[Array, ...]:
        """Arrays (N, C, H, W), as the kernels read them: views where they lie right."""
        return tuple(fused.flat(a, self.last) for a in arrays)


@_in_place_and_type
def conv_gru(
    x: Array, h: Array, w: Array, *, geometry: ConvGeometry, reverse: bool, column: Column
) -> tuple[Array, Array, Array]:
    """x: (T, N, 3 C, H, W), h: (N, C, H, W), w: (3 C, C, kH, kW) -> all h: (T, N, C, H, W); the gates z, r: (T, N, 2 C,
    H, W), and the candidates: (T, N, C, H, W). geometry: of h's convolution with the gates' part of w."""
    steps, size = len(x), h.shape[1]
    last, lie = replace(geometry, out_channels=size), _Planes(x, h)
    y, candidates = lie.empty(steps, *h.shape), lie.empty(steps, *h.shape)
    gates, gated = lie.empty(steps, len(h), 2 * size, *h.shape[2:]), lie.empty(1, *h.shape)[0]
    for t in _order(steps, reverse):
        u = column.conv.conv(h, w[: 2 * size], geometry=geometry)
        arrays = lie.flat(x[t], u, h, gates[t], gated)
        column.run("conv_gru_gates_kernel", lie.elements, *arrays, *lie.sizes)
        v = column.conv.conv(gated, w[2 * size :], geometry=last)
        arrays = lie.flat(x[t], v, h, gates[t], candidates[t], y[t])
        column.run("conv_gru_state_kernel", lie.elements, *arrays, *lie.sizes)
        h = y[t]
    return y, gates, candidates


@_in_place_and_type
def conv_gru_backward(
    gy: Array, h: Array, w: Array, y: Array, gates: Array, candidates: Array, *, needs: list[bool],
    geometry: ConvGeometry, reverse: bool, column: Column,
) -> tuple:  # fmt: skip
    xp, size, steps = namespace(gy), h.shape[1], len(y)
    last, lie = replace(geometry, out_channels=size), _Planes(gates, h)
    gzr, gc = lie.empty(*gates.shape), lie.empty(*candidates.shape)
    (carry,) = lie.flat(lie.empty(1, *h.shape)[0])
    carry[...] = 0
    product: Any = lie.empty(1, *h.shape)[0]
    product[...] = 0
    for t in _order(steps, not reverse):
        before = _previous(h, y, t, reverse)
        arrays = lie.flat(gy[t], product, gates[t], candidates[t], before)
        outs = (carry, *lie.flat(gzr[t], gc[t]))
        column.run("conv_gru_state_backward_kernel", lie.elements, *arrays, *outs, *lie.sizes)
        gated = column.conv.conv_input(gc[t], w[2 * size :], geometry=last)
        arrays = (*lie.flat(gated, gates[t], before), carry, *lie.flat(gzr[t]))
        column.run("conv_gru_gates_backward_kernel", lie.elements, *arrays, *lie.sizes)
        product = column.conv.conv_input(gzr[t], w[: 2 * size], geometry=geometry)
    gh = product + (carry.transpose(0, 3, 1, 2) if lie.last else carry)
    gw = None
    if needs[2]:
        before = _all_previous(h, y, reverse)
        joined = lambda a: a.reshape(-1, *a.shape[2:])  # all steps are one batch
        many = steps * geometry.batch
        kinds = ((before, gzr, geometry), (before * gates[:, :, size:], gc, last))
        parts = [column.conv.conv_weight(joined(a), joined(g), geometry=replace(k, batch=many)) for a, g, k in kinds]
        gw = xp.concatenate(parts)
    return xp.concatenate((gzr, gc), 2) if needs[0] else None, gh, gw
