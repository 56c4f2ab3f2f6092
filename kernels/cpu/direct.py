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
from .algorithms import merges
from .direct_loops import correlate, correlate_weight, entry_size, pack
from .finish import NOTHING, Finish
from .layout import add_up, channels_last, empty, flat, frozen, swap
from .vector import BYTES, PANEL, ROWS, outer_rows
from .walks import Axis, backward, forward
from .weights import packed

Array = np.ndarray

BLOCK = 8  # tiles of positions that share what is read of the weight
MOST = 32  # tiles that a thread works on at a time at most
PACKED = 2**18  # bytes of a panel that a thread uses at a time, to stay in its L2 cache
POSITIONS = 256  # at a time in the weight's gradient
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
    deep = g.out_channels // g.groups
    if merges(g):
        work, w = _merged(x, g), packed(w, lambda: _merged_weight(w, g), "merged")
        rows = work.walk[0].kernel * work.walk[1].kernel * work.run
        panels = pack_weight(w, work, np.arange(rows), rows, 0, 1, 0, rows)
    else:
        wide, taps = g.in_channels // g.groups, prod(g.kernel)
        work = Work(channels_last(x), forward(g), g.in_channels, g.groups, wide, wide, deep)
        spots = np.arange(taps * wide).reshape(taps, wide).T  # a column's numbers lie in the order (wide, taps)
        panels = pack_weight(w, work, spots, taps * wide, deep * wide * taps, 1, 0, wide * taps)
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
            panels = pack_weight(w, work, spots, picks.size * wide, wide * deep * taps, wide, deep * taps, taps)
            correlate_work(work, panels, x, g.batch, end)
    return np.moveaxis(x, -1, 1)


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    wide, deep, taps = g.in_channels // g.groups, g.out_channels // g.groups, prod(g.kernel)
    slope = channels_last(y)
    if merges(g):
        sums = _correlate_weight(_merged(x, g), slope, g.batch)  # (rows, taps of a row, C, K)
        w = sums.reshape(-1, g.kernel[-1], wide, deep).transpose(3, 2, 0, 1)
        return np.ascontiguousarray(w).reshape(g.w_shape)
    work = Work(channels_last(x), forward(g), g.in_channels, g.groups, wide, wide, deep)
    sums = _correlate_weight(work, slope, g.batch)  # (G, taps, C/G, K/G)
    if wide == 1 or taps == 1:
        return swap(sums, g.groups, taps * wide, deep).reshape(g.w_shape)
    return swap(swap(sums, g.groups, taps * wide, deep), g.groups * deep, taps, wide).reshape(g.w_shape)


# ---- few channels: the taps of a kernel row lie side by side in the source, if its lines have their padding


def _merged(x: Array, g: ConvGeometry) -> Work:
    c = g.in_channels
    lines = channels_last(x).reshape(-1, g.input[-1] * c)
    before, _ = g.padding[-1]
    padded = empty((len(lines), g.padded[-1] * c), x.dtype)
    padded[:, : before * c] = 0
    padded[:, before * c : before * c + lines.shape[1]] = lines
    padded[:, before * c + lines.shape[1] :] = 0
    *walk, width = forward(g)
    width = width._replace(size=g.padded[-1], kernel=1, start=0)
    return Work(padded.reshape(-1), [*walk, width], c, 1, 0, g.kernel[-1] * c, g.out_channels)


def _merged_weight(w: Array, g: ConvGeometry) -> Array:
    """(K, kernel rows, taps of a row * C)"""
    return np.ascontiguousarray(w.reshape(g.out_channels, g.in_channels, -1, g.kernel[-1]).transpose(0, 2, 3, 1))


# ---- calling the kernels


def pack_weight(
    w: Array, work: Work, spots: Array, rows: int, group_gap: int, lines: int, line_gap: int, column_gap: int
) -> Array:
    """The weight as `pack` in direct_loops.py makes it of lines with these spots and gaps."""

    def make() -> Array:
        lanes, workers = BYTES // w.itemsize, threads.count()
        panels = empty(work.groups * -(-work.deep * w.itemsize // PANEL) * rows * PANEL // w.itemsize, w.dtype)
        space = empty(workers * lanes * BYTES, np.uint8)
        pack(
            workers, frozen(flat(w)), panels, space, frozen(spots.reshape(-1)), work.groups, lines, rows, work.deep,
            group_gap, line_gap, column_gap,
        )  # fmt: skip
        return panels

    form = (spots.tobytes(), rows, work.groups, work.deep, group_gap, lines, line_gap, column_gap)
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
        block, parts, min(chunks, taps), batch, work.groups, work.deep, work.channels, work.wide, work.run,
        size, count, kernel, start, step, spacing, out_size, first, every,
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
        workers, frozen(work.source), frozen(slope), sums, frozen(zeros), np.empty(workers * PANEL, np.uint8),
        np.empty(workers * (POSITIONS + rows), np.int64), chunks, parts, rows, POSITIONS, batch, work.groups, work.deep,
        work.channels, work.wide, work.run, size, count, kernel, start, step, spacing,
    )  # fmt: skip
    if chunks > 1:
        add_up(workers, sums, chunks, length)
    return sums[:length]
