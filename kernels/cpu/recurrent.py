"""Recurrences on the CPU. reference/recurrent.py says what is computed and what the arrays are.

LSTM and GRU are compiled loops over all steps (recurrent_loops.py) for float32; the others are the reference's, over
the products and convolutions of this column.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..reference import recurrent as reference
from . import conv, linalg, threads, weights

Array = np.ndarray

rnn = partial(reference.rnn, family=linalg)
rnn_backward = partial(reference.rnn_backward, family=linalg)


def conv_gru(*args: Any, **params: Any) -> tuple:
    with weights.kept():
        return reference.conv_gru(*args, **params, family=conv)


def conv_gru_backward(*args: Any, **params: Any) -> tuple:
    with weights.kept():
        return reference.conv_gru_backward(*args, **params, family=conv)


def lstm(x: Array, h: Array, c: Array, w: Array, b: Array | None, *, reverse: bool) -> tuple[Array, Array, Array]:
    if not _covered(x, h, c, w, b):
        return reference.lstm(x, h, c, w, b, reverse=reverse, family=linalg)
    y, gates = np.empty((len(x) + 1, *h.shape), x.dtype), np.empty(x.shape, x.dtype)
    cells = np.empty((len(x), *h.shape), x.dtype)
    _run("lstm", x, h, reverse, X=x, H=h, C=c, PANELS=_packed(w.T), BIAS=_bias(w, b), Y=y, GATES=gates, CELLS=cells)
    return y, gates, cells


def lstm_backward(
    gy: Array, h: Array, c: Array, w: Array, b: Array | None, y: Array, gates: Array, cells: Array, *,
    needs: list[bool], reverse: bool,
) -> tuple:  # fmt: skip
    if not _covered(gates, h, c, w, b, gy, y, cells):
        return reference.lstm_backward(gy, h, c, w, b, y, gates, cells, needs=needs, reverse=reverse, family=linalg)
    gx, gh, gc = np.empty(gates.shape, gates.dtype), _copy(gy[0 if reverse else -2]), _copy(gy[-1])
    zeros = np.zeros(h.shape[1], gy.dtype)
    _run(
        "lstm_backward", gates, h, reverse, C=c, PANELS=_packed(w), GATES=gates, CELLS=cells, GY=gy, GX=gx, GH=gh,
        GC=gc, ZEROS=zeros,
    )  # fmt: skip
    before = reference._before(h, y[:-1], reverse)
    return gx, gh, gc, *reference._weights(gx, before, b, needs[3:], linalg)


def gru(x: Array, h: Array, w: Array, b: Array | None, *, reverse: bool) -> tuple[Array, Array, Array]:
    if not _covered(x, h, w, b):
        return reference.gru(x, h, w, b, reverse=reverse, family=linalg)
    y, inner = np.empty((len(x), *h.shape), x.dtype), np.empty((len(x), *h.shape), x.dtype)
    gates, two = np.empty(x.shape, x.dtype), 2 * h.shape[1]
    _run(
        "gru", x, h, reverse, X=x, H=h, PANELS=_packed(w[:two].T), INNER_PANELS=_packed(w[two:].T), BIAS=_bias(w, b),
        Y=y, GATES=gates, INNER=inner,
    )  # fmt: skip
    return y, gates, inner


def gru_backward(
    gy: Array, h: Array, w: Array, b: Array | None, y: Array, gates: Array, inner: Array, *, needs: list[bool],
    reverse: bool,
) -> tuple:  # fmt: skip
    if not _covered(gates, h, w, b, gy, y, inner):
        return reference.gru_backward(gy, h, w, b, y, gates, inner, needs=needs, reverse=reverse, family=linalg)
    gx, gu = np.empty(gates.shape, gates.dtype), np.empty(gates.shape, gates.dtype)
    gh, zeros = _copy(gy[0 if reverse else -1]), np.zeros(h.shape[1], gy.dtype)
    _run(
        "gru_backward", gates, h, reverse, H=h, PANELS=_packed(w), Y=y, GATES=gates, INNER=inner, GY=gy, GX=gx, GU=gu,
        GH=gh, ZEROS=zeros,
    )  # fmt: skip
    return gx, gh, *reference._weights(gu, reference._before(h, y, reverse), b, needs[2:], linalg)


def _covered(x: Array, h: Array, *others: Array | None) -> bool:
    """Whether the compiled loops can, and are worth it: x (T, N, rows of all gates), h (N, H)."""
    same = all(a is None or a.dtype == np.float32 for a in (x, h, *others))
    return same and x.size * h.shape[-1] > linalg.SMALL and threads.usable()


def _bias(w: Array, b: Array | None) -> Array:
    return np.zeros(len(w), w.dtype) if b is None else b


def _copy(a: Array) -> Array:
    return np.array(a, order="C")


def _packed(b: Array) -> Array:
    """The matrix b in panels, as many columns as two vector registers hold."""
    from .recurrent_loops import PANEL, packed

    b = b if b.flags.aligned and b.itemsize in b.strides else np.ascontiguousarray(b)
    terms, columns = b.shape
    panels = np.empty(-(-columns * 4 // PANEL) * terms * PANEL // 4, np.float32)
    packed(b.ctypes.data, *b.strides, terms, columns, panels)
    return panels


def _run(name: str, x: Array, h: Array, reverse: bool, **arrays: Array) -> None:
    """Call the compiled loop with a job: sizes, and the addresses of the arrays by their names there."""
    from . import products, recurrent_loops  # products: which starts Numba's threads

    workers = threads.count()
    n, size = h.shape
    if n < products.UNIT * workers or x.size * size < linalg.SHARE * workers:
        workers = 1
    job = np.zeros(20, np.int64)
    job[:4] = len(x), n, size, reverse
    held = {key: np.require(a, requirements=["C", "A"]) for key, a in arrays.items()}
    for key, a in held.items():
        job[getattr(recurrent_loops, key)] = a.ctypes.data
    getattr(recurrent_loops, name)(workers, job)
