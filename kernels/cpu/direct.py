"""The convolution family by its definition: products straight from the arrays (direct_loops.py), any geometry.

Inside, arrays are flat and channels-last without gaps: x (N, *I, C), y (N, *O, K). The weight is packed into panels:
for each group, for each few output channels, what their kernel positions and input channels need, in the order of use.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import NamedTuple

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .direct_loops import correlate, correlate_weight, entry_size, pack
from .finish import NOTHING, Finish
from .layout import add_up, channels_last, empty, flat, frozen, swap, workers_for
from .vector import BYTES, PANEL, ROWS, outer_rows
from .walks import Axis, backward, forward
from .weights import packed

Array = np.ndarray

BLOCK = 8  # tiles of positions that share what is read of the weight
MOST = 32  # tiles that a thread works on at a time at most
PACKED = 2**18  # bytes of a panel that a thread uses at a time, to stay in its L2 cache
POSITIONS = 128  # at a time in the weight's gradient
PARTIAL_SUMS = 2**25  # bytes that the threads' own sums of the weight's gradient may take together


class Work(NamedTuple):
    """A source as a walk reads it: `run` numbers from channel group * wide on."""

    source: Array  # flat
    walk: list[Axis]
    channels: int  # from one position of the source to the next
    groups: int
    wide: int
    run: int
    deep: int  # output channels of a group


def conv(x: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    wide, deep, taps = g.in_channels // g.groups, g.out_channels // g.groups, prod(g.kernel)
    work = Work(channels_last(x), forward(g), g.in_channels, g.groups, wide, wide, deep)
    spots = np.arange(taps * wide).reshape(taps, wide).T  # a column's numbers lie in the order (wide, taps)
    panels = pack_weight(w, g.groups, deep, spots, taps * wide, deep * wide * taps, 1, 0, wide * taps)
    y = empty((g.batch, *g.output, g.out_channels), x.dtype)
    correlate_work(work, panels, y, g.batch, end)
    return np.moveaxis(y, -1, 1)


def conv_input(y: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    wide, deep, taps = g.out_channels // g.groups, g.in_channels // g.groups, prod(g.kernel)
    phases = backward(g)
    # positions that no tap reaches belong to no walk
    reached = all(len(axis) == s for axis, s in zip(phases[3 - g.rank :], g.stride, strict=True))
    x = empty((g.batch, *g.input, g.in_channels), y.dtype)
    if not reached:
        x[...] = 0
        end.of(np.moveaxis(x, -1, 1))
    source = channels_last(y)
    numbers = np.arange(taps).reshape((1,) * (3 - g.rank) + g.kernel)
    for walk in product(*phases):
        picks = numbers[np.ix_(*(taps for taps, _ in walk))].reshape(-1)
        spots = np.full(taps, -1)
        spots[picks] = np.arange(picks.size) * wide
        work = Work(source, [axis for _, axis in walk], g.out_channels, g.groups, wide, wide, deep)
        if all(axis.positions for axis in work.walk):
            rows = picks.size * wide
            panels = pack_weight(w, g.groups, deep, spots, rows, wide * deep * taps, wide, deep * taps, taps)
            correlate_work(work, panels, x, g.batch, end)
    return np.moveaxis(x, -1, 1)


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    wide, deep = g.in_channels // g.groups, g.out_channels // g.groups
    work = Work(channels_last(x), forward(g), g.in_channels, g.groups, wide, wide, deep)
    return unpacked(_correlate_weight(work, channels_last(y), g.batch), g)


def unpacked(sums: Array, g: ConvGeometry) -> Array:
    """The gradient of the weight from (groups, taps, channels, output channels of a group), flat."""
    wide, deep, taps = g.in_channels // g.groups, g.out_channels // g.groups, prod(g.kernel)
    turned = swap(sums, g.groups, taps * wide, deep)
    if wide > 1 and taps > 1:
        turned = swap(turned, g.groups * deep, taps, wide)
    return turned.reshape(g.w_shape)


# ---- calling the kernels


def pack_weight(
    w: Array, groups: int, deep: int, spots: Array, rows: int, group_gap: int, lines: int, line_gap: int,
    column_gap: int,
) -> Array:  # fmt: skip
    """The weight as `pack` in direct_loops.py makes it of lines with these spots and gaps."""

    def make() -> Array:
        lanes, workers = BYTES // w.itemsize, workers_for(w.size)
        panels = empty(groups * -(-deep * w.itemsize // PANEL) * rows * PANEL // w.itemsize, w.dtype)
        space = empty(workers * lanes * BYTES, np.uint8)
        pack(
            workers, frozen(flat(w)), panels, space, frozen(spots.reshape(-1)), groups, lines, rows, deep,
            group_gap, line_gap, column_gap,
        )  # fmt: skip
        return panels

    form = (spots.tobytes(), rows, groups, deep, group_gap, lines, line_gap, column_gap)
    return packed(w, make, "direct", *form)


def correlate_work(work: Work, panels: Array, out: Array, batch: int, end: Finish = NOTHING) -> None:
    size, count, kernel, start, step, spacing, out_size, first, every = zip(*work.walk, strict=True)
    itemsize, workers, taps = out.itemsize, threads.count(), prod(kernel)
    tiles = -(-batch * prod(count) // ROWS)
    pairs = work.groups * -(-work.deep * itemsize // PANEL)
    block, parts = division(tiles, pairs, workers)
    chunks = -(-taps * work.run * PANEL // PACKED)
    table = np.empty(workers * block * entry_size.py_func(taps), np.int64)
    zeros = np.zeros(work.groups * work.wide + work.run, out.dtype)
    offsets = [[t * d for t in range(k)] for k, d in zip(kernel, spacing, strict=True)]
    places = [(d * size[1] + h) * size[2] + w for d, h, w in product(*offsets)]
    moves = [(a * work.channels * itemsize, tap * work.run * PANEL) for tap, a in enumerate(places)]
    correlate(
        workers, frozen(work.source), frozen(panels), out.reshape(-1), frozen(zeros), frozen(np.array(moves)), table,
        np.zeros(1, np.int64), block, parts, min(chunks, taps), batch, work.groups, work.deep, work.channels,
        work.wide, work.run, size, count, kernel, start, step, spacing, out_size, first, every,
        *end.arguments(work.groups * work.deep, out.dtype),
    )  # fmt: skip


def division(tiles: int, pairs: int, workers: int) -> tuple[int, int]:
    """Tiles of a task, and parts into which its pairs of group and panel are divided.

    As a rule the positions are divided among the threads, into blocks of one size. Where they are few, the panels are:
    then each thread reads only its part of the weight.
    """
    if tiles < BLOCK * workers and pairs >= workers > 1:
        return min(tiles, MOST), workers
    rounds = -(-tiles // (workers * BLOCK))
    return -(-tiles // (workers * rounds)), 1


def _correlate_weight(work: Work, slope: Array, batch: int) -> Array:
    """(G, taps, run, deep), flat"""
    size, count, kernel, start, step, spacing, *_ = zip(*work.walk, strict=True)
    workers, taps, itemsize = threads.count(), prod(kernel), slope.itemsize
    rows = outer_rows(work.run)
    length = work.groups * taps * work.run * work.deep
    # a chunk of the positions for each thread, if there is memory for as many sums, or a part of the sums for each
    alone = batch * prod(count) < 2 * POSITIONS * workers or workers * length * itemsize > PARTIAL_SUMS
    chunks, parts = (1, workers) if alone else (workers, 1)
    sums = empty(chunks * length, slope.dtype)
    zeros = np.zeros(work.groups * work.wide + work.run, slope.dtype)
    correlate_weight(
        workers, frozen(work.source), frozen(slope), sums, frozen(zeros),
        empty(workers * (POSITIONS + 1) * PANEL, np.uint8),
        np.empty(workers * ((POSITIONS + 1) * taps + rows), np.int64), chunks, parts, rows, POSITIONS, batch,
        work.groups, work.deep, work.channels, work.wide, work.run, size, count, kernel, start, step, spacing,
    )  # fmt: skip
    if chunks > 1:
        add_up(workers_for(sums.size), sums, chunks, length)
    return sums[:length]
