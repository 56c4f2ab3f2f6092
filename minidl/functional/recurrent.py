"""One step of each recurrence, after the products with the inputs, which a layer computes for all steps at once.

The layers of `minidl.nn` hold the weights and the loop over time; what happens to the gates happens here.
"""

from __future__ import annotations

from typing import Any

from ..ops.elementwise import relu, sigmoid, tanh
from .array import chunk, split
from .conv import conv2d


def rnn_tanh_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """h = tanh(x + u). x = W_ih input + b_ih and u = W_hh h + b_hh: (N, H). Elman 1990."""
    return (tanh(x + u),)


def rnn_relu_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """h = relu(x + u); see rnn_tanh_step."""
    return (relu(x + u),)


def lstm_step(x: Any, u: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """The new h and c. Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000.

        i, f, g, o = sigmoid, sigmoid, tanh, sigmoid of the four quarters of x + u
        c = f · c + i · g
        h = o · tanh(c)

    x = W_ih input + b_ih and u = W_hh h + b_hh: (N, 4 H); h and c: (N, H).
    """
    i, f, g, o = chunk(x + u, 4, -1)
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def gru_step(x: Any, u: Any, h: Any) -> tuple[Any]:
    """The new h. Cho et al. 2014, in the variant of cuDNN and PyTorch: r is applied after the product with h.

        r, z = sigmoid of the first two thirds of x + u
        n = tanh(x_n + r · u_n)         x_n, u_n: the last thirds
        h = (1 - z) · n + z · h

    x = W_ih input + b_ih and u = W_hh h + b_hh: (N, 3 H); h: (N, H).
    """
    size = h.shape[-1]
    x_gates, x_n = split(x, (2 * size, size), -1)
    u_gates, u_n = split(u, (2 * size, size), -1)
    r, z = chunk(sigmoid(x_gates + u_gates), 2, -1)
    n = tanh(x_n + r * u_n)
    return (n + z * (h - n),)


def conv_gru_step(x_gates: Any, x_candidate: Any, h: Any, u_gates: Any, u_candidate: Any, padding: Any) -> Any:
    """The new h of a convolutional GRU. Ballas et al. 2016.

        z, r = sigmoid of the halves of x_gates + u_gates * h         (* convolves)
        c = tanh(x_candidate + u_candidate * (r · h))
        h = (1 - z) · h + z · c

    Not as in gru_step: z lets the candidate in (there it keeps the old state), and r is applied before the product with
    h. x_gates: (N, 2 C, H, W), x_candidate and h: (N, C, H, W), u_gates: (2 C, C, kH, kW), u_candidate: (C, C, kH, kW).
    """
    z, r = chunk(sigmoid(x_gates + conv2d(h, u_gates, padding=padding)), 2, 1)
    c = tanh(x_candidate + conv2d(r * h, u_candidate, padding=padding))
    return h + z * (c - h)
