"""Recurrences on the CPU. reference/recurrent.py says what is computed and what the arrays are.

For float32, LSTM and GRU are compiled loops over all steps (recurrent_loops.py), and the convolutional GRU is compiled
passes between the convolutions of this column (conv_gru_loops.py). The others are the reference's, over the products
and convolutions of this column.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np

from ..geometry import ConvGeometry
from ..reference import recurrent as reference
from . import conv, linalg, threads, weights
from .address import address
from .algorithms import is_small

Array = np.ndarray

SHORT = 8  # steps of a small sequence that NumPy computes: they are not worth starting the compiler for

rnn = partial(reference.rnn, family=linalg)
rnn_backward = partial(reference.rnn_backward, family=linalg)


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
    large = len(x) > SHORT or x.size * h.shape[-1] > linalg.SMALL
    return same and large and threads.usable()


def _bias(w: Array, b: Array | None) -> Array:
    return np.zeros(len(w), w.dtype) if b is None else b


def _copy(a: Array) -> Array:
    return np.array(a, order="C")


def _lying(a: Array) -> Array:
    """a, or a copy, in C's order and aligned; np.require takes 2 us to see that nothing is to be done."""
    return a if a.flags.c_contiguous and a.flags.aligned else np.require(a, requirements=["C", "A"])


def _packed(b: Array) -> Array:
    """The matrix b in panels, as many columns as two vector registers hold."""
    from .recurrent_loops import PANEL, packed

    b = b if b.flags.aligned and b.itemsize in b.strides else np.ascontiguousarray(b)
    terms, columns = b.shape
    panels = np.empty(-(-columns * 4 // PANEL) * terms * PANEL // 4, np.float32)
    packed(address(b), *b.strides, terms, columns, panels)
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
    held = {key: _lying(a) for key, a in arrays.items()}
    for key, a in held.items():
        job[getattr(recurrent_loops, key)] = address(a)
    getattr(recurrent_loops, name)(workers, job)


# ---- convolutional gated recurrent units

SHARE = 2**15  # numbers of gates and candidates in a step that make one more thread worth waking
FEW = 4  # channels: loops over fewer are no faster than NumPy's passes over all positions


@reference._in_single
def conv_gru(x: Array, h: Array, w: Array, *, geometry: ConvGeometry, reverse: bool) -> tuple[Array, Array, Array]:
    with weights.kept():
        if not _compiled(geometry, x, h, w):
            return reference.conv_gru(x, h, w, geometry=geometry, reverse=reverse, family=conv)
        return _conv_gru(x, h, w, geometry, reverse)


@reference._in_single
def conv_gru_backward(
    gy: Array, h: Array, w: Array, y: Array, gates: Array, candidates: Array, *, needs: list[bool],
    geometry: ConvGeometry, reverse: bool,
) -> tuple:  # fmt: skip
    arrays = gy, h, w, y, gates, candidates
    with weights.kept():
        if not _compiled(geometry, *arrays):
            return reference.conv_gru_backward(*arrays, needs=needs, geometry=geometry, reverse=reverse, family=conv)
        return _conv_gru_backward(*arrays, needs, geometry, reverse)


def _compiled(g: ConvGeometry, *arrays: Array) -> bool:
    """Whether the compiled passes can, and are worth it: only where the convolutions are compiled, too."""
    worth = g.in_channels >= FEW and not is_small(g)
    return worth and all(a.dtype == np.float32 for a in arrays) and threads.usable()


def _conv_gru(x: Array, h: Array, w: Array, g: ConvGeometry, reverse: bool) -> tuple[Array, Array, Array]:
    from .conv_gru_loops import next_state, open_gates
    from .layout import empty, frozen

    steps, size = len(x), h.shape[1]
    workers, last = threads.worth(3 * h.size, SHARE), replace(g, out_channels=size)
    x, (state,) = _rows(x), _rows(h[None])
    y, gates, candidates = (empty((steps, k * h.size), h.dtype) for k in (1, 2, 1))
    gated = empty(h.size, h.dtype)
    for t in reference._order(steps, reverse):
        given, old = frozen(x[t]), frozen(state)
        product = _row(conv.conv(_image(state, g), w[: 2 * size], geometry=g))
        open_gates(workers, given, frozen(product), old, gates[t], gated, size)
        product = _row(conv.conv(_image(gated, g), w[2 * size :], geometry=last))
        next_state(workers, given, frozen(product), old, frozen(gates[t]), candidates[t], y[t], size)
        state = y[t]
    return _images(y, g), _images(gates, g), _images(candidates, g)


def _conv_gru_backward(
    gy: Array, h: Array, w: Array, y: Array, gates: Array, candidates: Array, needs: list[bool], g: ConvGeometry,
    reverse: bool,
) -> tuple:  # fmt: skip
    from .conv_gru_loops import next_state_backward, open_gates_backward
    from .layout import empty, frozen

    steps, size = len(y), h.shape[1]
    workers, last = threads.worth(3 * h.size, SHARE), replace(g, out_channels=size)
    gy, y, gates, candidates, (first,) = map(_rows, (gy, y, gates, candidates, h[None]))

    def rows(parts: int, wanted: bool) -> Array:
        """Of all steps, if somebody wants them; else all share the memory of one."""
        made = empty((steps if wanted else 1, parts * h.size), h.dtype)
        return made if wanted else np.lib.stride_tricks.as_strided(made, (steps, made.size), (0, h.itemsize))

    gx, ggates, gcandidates = rows(3, needs[0]), rows(2, needs[2]), rows(1, needs[2])
    before, gated = rows(1, needs[2]), rows(1, needs[2])
    gh, more = np.zeros((2, h.size), h.dtype)
    order = list(reference._order(steps, not reverse))
    for t, earlier in zip(order, [*order[1:], None], strict=True):
        old, opened = frozen(first if earlier is None else y[earlier]), frozen(gates[t])
        next_state_backward(
            workers, frozen(gy[t]), frozen(more), old, opened, frozen(candidates[t]), gh, gx[t], ggates[t],
            gcandidates[t], before[t], gated[t], size,
        )  # fmt: skip
        ggated = _row(conv.conv_input(_image(gcandidates[t], g), w[2 * size :], geometry=last))
        open_gates_backward(workers, frozen(ggated), old, opened, gh, gx[t], ggates[t], size)
        if earlier is not None or needs[1]:
            more = _row(conv.conv_input(_image(ggates[t], g), w[: 2 * size], geometry=g))
    gw = None
    if needs[2]:
        whole = lambda a: _image(a.reshape(-1), replace(g, batch=steps * g.batch))  # all steps as one batch
        pairs = (before, ggates, g), (gated, gcandidates, last)
        gw = np.concatenate([
            conv.conv_weight(whole(a), whole(b), geometry=replace(k, batch=steps * g.batch)) for a, b, k in pairs
        ])  # fmt: skip
    return _images(gx, g) if needs[0] else None, _image(gh + more, g) if needs[1] else None, gw


def _rows(a: Array) -> Array:
    """(T, N, C, H, W) as (T, numbers): of each step in the order (N, H, W, C). No copy if they lie in it already."""
    from .layout import swap

    if a.strides[2] == a.itemsize:
        return _lying(a.transpose(0, 1, 3, 4, 2)).reshape(len(a), -1)
    return swap(a, len(a) * a.shape[1], a.shape[2], prod(a.shape[3:])).reshape(len(a), -1)


def _row(a: Array) -> Array:
    """One step's (N, C, H, W) likewise."""
    return _rows(a[None])[0]


def _images(a: Array, g: ConvGeometry) -> Array:
    """(T, numbers) as (T, N, C, H, W)."""
    return a.reshape(len(a), g.batch, *g.input, -1).transpose(0, 1, 4, 2, 3)


def _image(a: Array, g: ConvGeometry) -> Array:
    return a.reshape(g.batch, *g.input, -1).transpose(0, 3, 1, 2)
