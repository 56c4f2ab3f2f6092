"""The gates of recurrent networks as numba.cuda kernels, to be read beside ../cuda/recurrent.cu.

One thread computes one unit of the state: element j of row n. Arrays of the state: (rows, size); of several gates:
(rows, gates * size), in each row first all units of the first gate. The loops over time are those of
../cuda/recurrent.py.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from numba import cuda

from ..cuda import recurrent as loops
from ..reference import linalg
from . import conv as convolutions
from .launch import ONE, ZERO, device_of, elementwise, thread_index


@cuda.jit(device=True)
def sigmoid(a):
    return ONE / (ONE + math.exp(-a))


# ---- plain recurrence: h = tanh(x + u + b), or relu; u = w h
@cuda.jit
def rnn_kernel(x, u, b, y, elements, size, relu):
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    a = x[n, j] + (u[n, j] + b[j])
    if relu:
        y[n, j] = ZERO if a <= 0 else a
    else:
        y[n, j] = math.tanh(a)


@cuda.jit
def rnn_backward_kernel(gy, product, y, gx, elements, size, relu):
    """The gradient of x + u; `product` is what came back through the product of the step after."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    g = gy[n, j] + product[n, j]
    h = y[n, j]
    if relu:
        gx[n, j] = ZERO if h <= 0 else g
    else:
        gx[n, j] = g * (ONE - h * h)


# ---- long short-term memory: gates i, f, g, o; c = f * c + i * g; h = o * tanh(c)
@cuda.jit
def lstm_kernel(x, u, b, before, gates, cells, y, elements, size):
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    i = sigmoid(x[n, j] + (u[n, j] + b[j]))
    f = sigmoid(x[n, size + j] + (u[n, size + j] + b[size + j]))
    g = math.tanh(x[n, 2 * size + j] + (u[n, 2 * size + j] + b[2 * size + j]))
    o = sigmoid(x[n, 3 * size + j] + (u[n, 3 * size + j] + b[3 * size + j]))
    gates[n, j] = i
    gates[n, size + j] = f
    gates[n, 2 * size + j] = g
    gates[n, 3 * size + j] = o
    c = f * before[n, j] + i * g
    cells[n, j] = c
    y[n, j] = o * math.tanh(c)


@cuda.jit
def lstm_backward_kernel(gy, product, gates, cells, before, gc, gx, elements, size):
    """gc: the gradient of c, of this step's before, of the step before's after."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    i, f, g, o = gates[n, j], gates[n, size + j], gates[n, 2 * size + j], gates[n, 3 * size + j]
    squashed = math.tanh(cells[n, j])
    gh = product[n, j] + gy[n, j]
    slope = gc[n, j] + gh * o * (ONE - squashed * squashed)
    gx[n, j] = slope * g * (i * (ONE - i))
    gx[n, size + j] = slope * before[n, j] * (f * (ONE - f))
    gx[n, 2 * size + j] = slope * i * (ONE - g * g)
    gx[n, 3 * size + j] = gh * squashed * (o * (ONE - o))
    gc[n, j] = slope * f


# ---- gated recurrent units: gates r, z, n; inner = the last third of u + b; h = (1 - z) * n + z * h
@cuda.jit
def gru_kernel(x, u, b, before, gates, inner, y, elements, size):
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    r = sigmoid(x[n, j] + (u[n, j] + b[j]))
    z = sigmoid(x[n, size + j] + (u[n, size + j] + b[size + j]))
    through = u[n, 2 * size + j] + b[2 * size + j]
    new = math.tanh(r * through + x[n, 2 * size + j])
    gates[n, j] = r
    gates[n, size + j] = z
    gates[n, 2 * size + j] = new
    inner[n, j] = through
    y[n, j] = (before[n, j] - new) * z + new


@cuda.jit
def gru_backward_kernel(gy, product, gates, inner, before, carry, gx, gu, elements, size):
    """gx: of x; gu: of w h + b; carry: what of the gradient of h goes past the product to the step before."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    r, z, new = gates[n, j], gates[n, size + j], gates[n, 2 * size + j]
    gh = carry[n, j] + product[n, j] + gy[n, j]
    gn = gh * (ONE - z) * (ONE - new * new)
    gr = gn * inner[n, j] * (r * (ONE - r))
    gz = gh * (before[n, j] - new) * (z * (ONE - z))
    gx[n, j] = gr
    gx[n, size + j] = gz
    gx[n, 2 * size + j] = gn
    gu[n, j] = gr
    gu[n, size + j] = gz
    gu[n, 2 * size + j] = gn * r
    carry[n, j] = gh * z


# ---- convolutional gated recurrent units: gates z, r; c = tanh(x + v), v = w_c * (r h); h = h + z (c - h)
@cuda.jit
def conv_gru_gates_kernel(x, u, before, gates, gated, elements, size):
    """Both gates, and r h for the second product."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    r = sigmoid(x[n, size + j] + u[n, size + j])
    gates[n, j] = sigmoid(x[n, j] + u[n, j])
    gates[n, size + j] = r
    gated[n, j] = r * before[n, j]


@cuda.jit
def conv_gru_state_kernel(x, v, before, gates, candidates, y, elements, size):
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    c = math.tanh(x[n, 2 * size + j] + v[n, j])
    candidates[n, j] = c
    y[n, j] = (c - before[n, j]) * gates[n, j] + before[n, j]


@cuda.jit
def conv_gru_state_backward_kernel(gy, product, gates, candidates, before, carry, gzr, gc, elements, size):
    """Back through the second kernel: the gradients of z's and c's sums, and what goes past the products."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    z, c = gates[n, j], candidates[n, j]
    gh = carry[n, j] + product[n, j] + gy[n, j]
    gc[n, j] = (ONE - c * c) * (gh * z)
    gzr[n, j] = (ONE - z) * z * (gh * (c - before[n, j]))
    carry[n, j] = gh - gh * z


@cuda.jit
def conv_gru_gates_backward_kernel(gated, gates, before, carry, gzr, elements, size):
    """Back through the first kernel; gated: the gradient of r h, from the second product."""
    index = thread_index()
    if index >= elements:
        return
    n, j = index // size, index % size
    r = gates[n, size + j]
    gzr[n, size + j] = (ONE - r) * r * (gated[n, j] * before[n, j])
    carry[n, j] += gated[n, j] * r


def _run(kernel: str, elements: int, *arguments: Any) -> None:
    """Launches the kernel of this name; arrays of the state, and of its gates, as rows."""
    _, size, *_ = (a for a in arguments if not a.ndim)  # elements, and then units of a row
    rows = elements // int(size)
    elementwise(globals()[kernel], elements, *(a.reshape(rows, -1) if a.ndim > 1 else a for a in arguments))


NUMBA = loops.Column(_run, device_of, linalg, convolutions)
rnn, rnn_backward = partial(loops.rnn, column=NUMBA), partial(loops.rnn_backward, column=NUMBA)
lstm, lstm_backward = partial(loops.lstm, column=NUMBA), partial(loops.lstm_backward, column=NUMBA)
gru, gru_backward = partial(loops.gru, column=NUMBA), partial(loops.gru_backward, column=NUMBA)
conv_gru, conv_gru_backward = partial(loops.conv_gru, column=NUMBA), partial(loops.conv_gru_backward, column=NUMBA)
