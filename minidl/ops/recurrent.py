"""Recurrences over a whole sequence, fused: one node for all steps, and one product for the gradient of the weight.

Each stands beside its meaning in basic primitives, a loop over single steps; the cells of `minidl.nn` use the same
steps. What the steps need of the inputs, W x + b, is computed for all of them before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..core.backward import Fused
from ..core.primitive import Primitive
from .conv import conv
from .elementwise import relu as _relu
from .elementwise import sigmoid, tanh
from .linalg import linear
from .shape import split, stack, unbind


def rnn_step(x: Any, u: Any, h: Any, *, relu: bool) -> Any:
    """The new h = tanh(x + u), or relu. x = W_ih input + b_ih and u = W_hh h + b_hh: (N, H). Elman 1990."""
    return _relu(x + u) if relu else tanh(x + u)


def lstm_step(x: Any, u: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The new h and c. Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

        i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of the four quarters of x + u
        c = f · c + i · g
        h = o · tanh(c)

    x = W_ih input + b_ih and u = W_hh h + b_hh: (N, 4 H); h and c: (N, H).
    """
    i, f, g, o = split(x + u, axis=h.ndim - 1, sizes=(h.shape[-1],) * 4)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def gru_step(x: Any, u: Any, h: Any) -> Any:
    """The new h. Cho et al. 2014, in the variant of cuDNN and PyTorch: r is applied after the product with h.

        r, z = sigmoid of the first two thirds of x + u
        n = tanh(x_n + r · u_n)         x_n, u_n: the last thirds
        h = (1 - z) · n + z · h

    x = W_ih input + b_ih and u = W_hh h + b_hh: (N, 3 H); h: (N, H).
    """
    size, axis = h.shape[-1], h.ndim - 1
    x_gates, x_n = split(x, axis=axis, sizes=(2 * size, size))
    u_gates, u_n = split(u, axis=axis, sizes=(2 * size, size))
    r, z = split(sigmoid(x_gates + u_gates), axis=axis, sizes=(size, size))
    n = tanh(x_n + r * u_n)
    return n + z * (h - n)


def conv_gru_step(x: Any, h: Any, w: Any, *, geometry: Any) -> Any:
    """The new h of a convolutional GRU. Ballas et al. 2016.

        z, r = sigmoid of the first two thirds of x + w * h         (* convolves)
        c = tanh(x_c + w_c * (r · h))                               x_c, w_c: the last thirds
        h = (1 - z) · h + z · c

    Not as in gru_step: z lets the candidate in (there it keeps the old state), and r is applied before the product with
    h. x: (N, 3 C, H, W), h: (N, C, H, W), w: (3 C, C, kH, kW); geometry: of w's first two thirds.
    """
    size = h.shape[1]
    x_gates, x_candidate = split(x, axis=1, sizes=(2 * size, size))
    w_gates, w_candidate = split(w, axis=0, sizes=(2 * size, size))
    z, r = split(sigmoid(x_gates + conv(h, w_gates, geometry=geometry)), axis=1, sizes=(size, size))
    last = replace(geometry, out_channels=size)
    c = tanh(x_candidate + conv(r * h, w_candidate, geometry=last))
    return h + z * (c - h)


def _scan(step: Callable, x: Any, state: Any, reverse: bool) -> tuple[Any, Any]:
    """The h of all steps, stacked, and the last state. step: from one of x and the state to (h, the new state)."""
    outputs = []
    steps = list(unbind(x, axis=0))  # slices would make backward quadratic
    for at in reversed(steps) if reverse else steps:
        h, state = step(at, state)
        outputs.append(h)
    return stack(*(outputs[::-1] if reverse else outputs), axis=0), state


def _plain_rnn(x: Any, h: Any, w: Any, b: Any, *, relu: bool, reverse: bool) -> Any:
    return _scan(lambda at, h: (rnn_step(at, linear(h, w, b), h, relu=relu),) * 2, x, h, reverse)[0]


def _plain_lstm(x: Any, h: Any, c: Any, w: Any, b: Any, *, reverse: bool) -> Any:
    def step(at: Any, state: Any) -> Any:
        new = lstm_step(at, linear(state[0], w, b), *state)
        return new[0], new

    y, (_, c) = _scan(step, x, (h, c), reverse)
    return stack(*unbind(y, axis=0), c, axis=0)


def _plain_gru(x: Any, h: Any, w: Any, b: Any, *, reverse: bool) -> Any:
    return _scan(lambda at, h: (gru_step(at, linear(h, w, b), h),) * 2, x, h, reverse)[0]


def _plain_conv_gru(x: Any, h: Any, w: Any, *, geometry: Any, reverse: bool) -> Any:
    return _scan(lambda at, h: (conv_gru_step(at, h, w, geometry=geometry),) * 2, x, h, reverse)[0]


rnn_backward = Primitive("rnn_backward(g, h, w, b, y) -> gx, gh, gw, gb", *[None] * 5)
rnn = Fused(
    "rnn(x, h, w, b) -> y",
    plain=_plain_rnn,
    backward=lambda g, h, w, b, y, **at: rnn_backward(g, h, w, b, y, **at),
)

# y: all h, and after them the last c
lstm_backward = Primitive("lstm_backward(g, h, c, w, b, y, gates, cells) -> gx, gh, gc, gw, gb", *[None] * 8)
lstm = Fused(
    "lstm(x, h, c, w, b) -> y; gates, cells",
    plain=_plain_lstm,
    backward=lambda g, h, c, w, b, y, gates, cells, **at: lstm_backward(g, h, c, w, b, y, gates, cells, **at),
)

gru_backward = Primitive("gru_backward(g, h, w, b, y, gates, inner) -> gx, gh, gw, gb", *[None] * 7)
gru = Fused(
    "gru(x, h, w, b) -> y; gates, inner",
    plain=_plain_gru,
    backward=lambda g, h, w, b, y, gates, inner, **at: gru_backward(g, h, w, b, y, gates, inner, **at),
)

conv_gru_backward = Primitive("conv_gru_backward(g, h, w, y, gates, candidates) -> gx, gh, gw", *[None] * 6)
conv_gru = Fused(
    "conv_gru(x, h, w) -> y; gates, candidates",
    plain=_plain_conv_gru,
    backward=lambda g, h, w, y, gates, candidates, **at: conv_gru_backward(g, h, w, y, gates, candidates, **at),
)
