"""Recurrences after the products with the inputs, which a layer computes for all steps at once.

The layers of `minidl.nn` hold the weights and check what they are given; the recurrences are primitives
(ops/recurrent.py). Sequences are (T, N, …) here; reverse: from the last step to the first.
"""

from __future__ import annotations

from typing import Any

from ..kernels.geometry import ConvGeometry
from ..ops import recurrent as ops
from ..ops.indexing import getitem


def rnn_tanh_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """h = tanh(x + u). x = W_ih input + b_ih and u = W_hh h + b_hh: (N, H). Elman 1990."""
    return (ops.rnn_step(x, u, h, relu=False),)


def rnn_relu_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """h = relu(x + u); see rnn_tanh_step."""
    return (ops.rnn_step(x, u, h, relu=True),)


def lstm_step(x: Any, u: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The new h and c; see ops/recurrent.py."""
    return ops.lstm_step(x, u, h, c)


def gru_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """The new h; see ops/recurrent.py."""
    return (ops.gru_step(x, u, h),)


def _last(y: Any, reverse: bool) -> Any:
    return getitem(y, at=0 if reverse else -1)


def rnn(x: Any, h: Any, w: Any, b: Any, reverse: bool, *, relu: bool) -> tuple[Any, tuple[Any]]:
    """All h of a plain recurrence, (T, N, H), and the last: from x = W_ih input + b_ih (T, N, H), the first h (N, H), w
    (H, H) and b (H,) or None."""
    y = ops.rnn(x, h, w, b, relu=relu, reverse=reverse)
    return y, (_last(y, reverse),)


def lstm(x: Any, h: Any, c: Any, w: Any, b: Any, reverse: bool) -> tuple[Any, tuple[Any, Any]]:
    """All h of a long short-term memory, (T, N, H), and the last h and c. x: (T, N, 4 H), h, c: (N, H), w: (4 H, H)."""
    y, *_ = ops.lstm(x, h, c, w, b, reverse=reverse)
    states = getitem(y, at=slice(0, x.shape[0]))
    return states, (_last(states, reverse), getitem(y, at=-1))


def gru(x: Any, h: Any, w: Any, b: Any, reverse: bool) -> tuple[Any, tuple[Any]]:
    """All h of gated recurrent units, (T, N, H), and the last. x: (T, N, 3 H), h: (N, H), w: (3 H, H)."""
    y, *_ = ops.gru(x, h, w, b, reverse=reverse)
    return y, (_last(y, reverse),)


def conv_gru(x: Any, h: Any, w: Any, padding: Any, reverse: bool) -> tuple[Any, Any]:
    """All h of a convolutional GRU, (T, N, C, H, W), and the last. x: (T, N, 3 C, H, W), h: (N, C, H, W), w: (3 C, C,
    kH, kW)."""
    gates = (2 * h.shape[1], *w.shape[1:])
    y, *_ = ops.conv_gru(x, h, w, geometry=ConvGeometry.of(h.shape, gates, padding=padding), reverse=reverse)
    return y, _last(y, reverse)
