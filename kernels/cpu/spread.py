"""Convolution to few channels: first every product of a source element with the weight, then their sums.

A product of matrices gives, for each source position, what it adds to the outputs of every tap, (positions, channels *
taps); each output collects its taps from there. `direct` would fill only a few lanes of its vectors; here the taps lie
beside the channels and fill them. It pays as long as the columns are few.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .direct import Work, correlate_work, pack_weight
from .direct_loops import collect
from .finish import NOTHING, Finish
from .layout import channels_last, empty, flat, frozen
from .walks import UNIT, Axis, backward, forward

Array = np.ndarray


def conv(x: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    taps = prod(g.kernel)
    weight = flat(w).reshape(g.out_channels, g.in_channels, taps).transpose(0, 2, 1)  # (K, taps, C)
    columns = _columns(channels_last(x), weight, g.in_channels)
    y = empty((g.batch, *g.output, g.out_channels), x.dtype)
    _collect(columns, y, np.arange(taps), forward(g), g.batch, end)
    return np.moveaxis(y, -1, 1)


def conv_input(y: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    taps = prod(g.kernel)
    weight = flat(w).reshape(g.out_channels, g.in_channels, taps).transpose(1, 2, 0)  # (C, taps, K)
    columns = _columns(channels_last(y), weight, g.out_channels)
    phases = backward(g)
    reached = all(len(axis) == s for axis, s in zip(phases[3 - g.rank :], g.stride, strict=True))
    x = empty((g.batch, *g.input, g.in_channels), y.dtype)
    if not reached:
        x[...] = 0  # positions that no tap reaches belong to no walk
        end.of(np.moveaxis(x, -1, 1))
    numbers = np.arange(taps).reshape((1,) * (3 - g.rank) + g.kernel)
    for walk in product(*phases):
        spots = numbers[np.ix_(*(taps for taps, _ in walk))].reshape(-1)
        _collect(columns, x, spots, [axis for _, axis in walk], g.batch, end)
    return np.moveaxis(x, -1, 1)


def _columns(source: Array, weight: Array, run: int) -> Array:
    """(positions, columns) = source (positions, run) times weight (columns..., run)"""
    deep = weight.size // run
    positions = source.size // run
    line = Axis(positions, positions, 1, 0, 1, 1, positions, 0, 1)
    work = Work(source, [UNIT, UNIT, line], run, 1, 0, run, deep)
    out = empty((positions, deep), source.dtype)
    correlate_work(work, pack_weight(weight, work, np.arange(run), run, 0, 1, 0, run), out, 1)
    return out


def _collect(columns: Array, out: Array, spots: Array, walk: list[Axis], batch: int, end: Finish) -> None:
    if all(axis.positions for axis in walk):
        deep, length = out.shape[-1], columns.shape[1]
        collect(
            threads.count(), frozen(columns.reshape(-1)), out.reshape(-1), spots, batch, deep, length,
            *zip(*walk, strict=True), *end.arguments(deep, out.dtype),
        )  # fmt: skip
