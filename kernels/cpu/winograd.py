"""The convolution family by Winograd's minimal filtering (A. Lavin and S. Gray, arXiv:1509.09308), float32.

F(m, r) computes m x m outputs of an r x r kernel with (m + r - 1)^2 multiplications instead of (m r)^2, after linear
maps of the tile and the kernel, one axis after the other, and before one of the result (points.py has the matrices):

    y = A^T [(G w G^T) * (B^T x B)] A

Summed over channels, the products at each point are a product of matrices. All three members of the family are sums of
the same products, so the weight's gradient is G^T [sum (B^T x B) * (A dy A^T)] G, and the input's gradient of a
convolution with stride 1 is a convolution with the flipped kernel.

Only planes are transformed. Along the depth the kernel is applied directly: compared with tiles in all three axes that
takes more multiplications (4 instead of 6 times fewer than the direct algorithm), but half the transformations, which
cost as much again, and less memory; it is faster in every layer tried, and more accurate.

A convolution whose stride divides its kernel is the sum of one with stride 1 for each phase of the stride.
"""

from __future__ import annotations

from itertools import product
from math import gcd, prod
from typing import NamedTuple

import numpy as np

from ..geometry import ConvGeometry, Ints
from . import threads
from .finish import NOTHING, Finish
from .layout import add_up, channels_last, empty, flat, frozen, workers_for
from .points import FORMS
from .vector import BYTES, PANEL, ROWS, outer_rows
from .walks import backward, forward
from .weights import packed
from .winograd_loops import accumulate, accumulate_apart, convolve, expand, transform_sums, transform_weight

Array = np.ndarray

CACHE = 2**20  # bytes of points that a thread works on at a time, to stay in its L2 cache
STEADY = 96  # rows for each point from which on it does not matter that weights come from a slower cache
SUMS = 2**20  # bytes of points for each thread while the weight's gradient is summed up
TOGETHER = 2**23  # likewise if all threads share them, and wait for each other between the steps
PARTIAL_SUMS = 2**25  # bytes that the threads' own sums may take together; more do not stay in the caches
LONG = 96  # rows for each point that are worth reading and writing the sums once


class Sides(NamedTuple):
    """A convolution with stride 1 or a stride of the plane, as the kernels need it: over (depth, height, width)."""

    size: Ints  # of what is read
    out_size: Ints  # of what is written
    outputs: Ints
    offset: Ints  # where the first output's first tap reads
    first: Ints  # where in height and width the first output goes
    every: int  # from one output to the next
    taps: int  # along the depth
    spacing: int  # of these
    stride: int  # in the plane
    kernel: int  # in the plane, of each phase of the stride
    tile: int

    @property
    def reach(self) -> int:
        return self.tile + self.kernel - 1

    @property
    def planes(self) -> tuple[int, int]:
        """Tiles in height and width."""
        return -(-self.outputs[1] // self.tile), -(-self.outputs[2] // self.tile)

    @property
    def entries(self) -> int:
        """Planes of the source that a column holds, with the empty ones around it."""
        return self.out_size[0] + (self.taps - 1) * self.spacing

    @property
    def form(self) -> int:
        """The place of F(tile, kernel) in the lists of points.py."""
        return FORMS.index((self.tile, self.kernel))


class Weight(NamedTuple):
    """Where the kernels find the numbers of a weight (K, C, *k): all in elements."""

    planes: Array  # of each term: where its plane of the kernel begins
    starts: Array  # and in there its first tap
    channel: int  # from one input channel of the convolution to the next
    column: int  # likewise of the output
    taps: tuple[int, int]


def forward_sides(g: ConvGeometry, tile: int) -> tuple[Sides, Weight]:
    depth, height, width = forward(g)
    stride, kernel, length = g.stride[-1], g.kernel[-1], prod(g.kernel)
    phases = [i * kernel + j for i in range(stride) for j in range(stride)]
    planes = np.repeat(np.arange(depth.kernel) * kernel**2, len(phases))
    weight = Weight(planes, np.tile(phases, depth.kernel), length, g.in_channels * length, (stride * kernel, stride))
    size, positions, _, start, *_ = zip(depth, height, width, strict=True)
    sides = Sides(
        size, positions, positions, start, (0, 0), 1, depth.kernel, depth.spacing, stride, kernel // stride, tile
    )
    return sides, weight


def input_sides(g: ConvGeometry, tile: int) -> tuple[list[Sides], Weight]:
    """For each phase of the stride: its outputs are a convolution with stride 1 with a part of the kernel, flipped. The
    terms of the weight are those of the first phase, then those of the second, ..."""
    kernel, length = g.kernel[-1], prod(g.kernel)
    phases, planes, starts, gaps = [], [], [], (0, 0)
    for phase in product(*backward(g)):
        taps, axes = zip(*phase, strict=True)
        planes.append(np.array(taps[0]) * kernel**2)
        starts.append(np.full(planes[-1].size, taps[1].start * kernel + taps[2].start))
        gaps = taps[1].step * kernel, taps[2].step
        size, positions, (depth, height, _), start, _, (spacing, *_), out_size, first, (*_, every) = zip(
            *axes, strict=True
        )
        phases.append(Sides(size, out_size, positions, start, first[1:], every, depth, spacing, 1, height, tile))
    return phases, Weight(np.concatenate(planes), np.concatenate(starts), g.in_channels * length, length, gaps)


def conv(x: Array, w: Array, g: ConvGeometry, tile: int, end: Finish = NOTHING) -> Array:
    y = empty((g.batch, *g.output, g.out_channels), x.dtype)
    sides, weight = forward_sides(g, tile)
    _convolve(channels_last(x), w, y, g.batch, g.in_channels, g.out_channels, [sides], weight, end)
    return np.moveaxis(y, -1, 1)


def conv_input(y: Array, w: Array, g: ConvGeometry, tile: int, end: Finish = NOTHING) -> Array:
    x = empty((g.batch, *g.input, g.in_channels), y.dtype)
    phases, weight = input_sides(g, tile)
    _convolve(channels_last(y), w, x, g.batch, g.out_channels, g.in_channels, phases, weight, end)
    return np.moveaxis(x, -1, 1)


def _filled(channels: int, itemsize: int) -> int:
    return -(-channels * itemsize // BYTES) * BYTES


def spaced(gap: int) -> int:
    return (gap // BYTES | 1) * BYTES


def _moves(s: Sides, channels: int, itemsize: int, panel: int) -> Array:
    """For each term, depth tap by depth tap and phase by phase, where it reads, and its panel."""
    wide = _filled(channels, itemsize)
    phases = s.stride**2
    pairs = [
        ((t * s.spacing * phases + p) * wide, (t * phases + p) * panel) for t in range(s.taps) for p in range(phases)
    ]
    return np.array(pairs).reshape(-1)


def _convolve(
    source: Array, w: Array, out: Array, batch: int, channels: int, deep: int, phases: list[Sides], weight: Weight,
    end: Finish,
) -> None:  # fmt: skip
    s, itemsize, workers = phases[0], out.itemsize, threads.count()
    panels = _panels(w, channels, deep, len(phases), s, weight)
    block = block_columns(batch, channels, deep, itemsize, phases, workers)
    space = empty(workers * block_bytes(block, channels, deep, itemsize, s), np.uint8)
    table = np.empty(workers * 2 * -(-block * s.out_size[0] // ROWS) * ROWS, np.int64)
    moves = _moves(s, channels, itemsize, channels * PANEL)
    places = np.array([(*p.offset, *p.first, *p.outputs, *p.planes) for p in phases])
    convolve(
        workers, frozen(source), frozen(panels), out.reshape(-1), space, table, moves, places.reshape(-1),
        np.zeros(1, np.int64), block, batch, channels, deep, s.size, s.out_size, s.entries, s.tile, s.every, s.stride,
        s.reach, s.form, s.form, *end.arguments(deep, out.dtype),
    )  # fmt: skip


def _panels(w: Array, channels: int, deep: int, phases: int, s: Sides, weight: Weight) -> Array:
    def make() -> Array:
        terms, area = weight.starts.size // phases, w.shape[-1] ** 2
        parts = -(-deep * w.itemsize // PANEL)
        panels = empty(phases * s.reach**2 * spaced(parts * terms * channels * PANEL) // w.itemsize, w.dtype)
        workers = workers_for(panels.size)
        scratch = empty(workers * (area + s.kernel * s.reach) * BYTES, np.uint8)
        transform_weight(
            workers, frozen(flat(w)), panels, scratch, weight.planes, weight.starts, phases, channels,
            deep, weight.channel, weight.column, weight.taps, area, s.kernel, s.reach, s.form,
        )  # fmt: skip
        return panels

    form = (weight.planes.tobytes(), weight.starts.tobytes(), weight.channel, weight.column, weight.taps, s.form)
    return packed(w, make, "winograd", channels, deep, *form)


def block_bytes(columns: int, channels: int, deep: int, itemsize: int, s: Sides) -> int:
    """Memory of a thread for so many columns as points, in and out, and scratch."""
    left = columns * s.entries * s.stride**2 * _filled(channels, itemsize)
    right = columns * s.out_size[0] * _filled(deep, itemsize)
    return s.reach**2 * (spaced(left) + spaced(right) + 2 * BYTES)


def block_columns(batch: int, channels: int, deep: int, itemsize: int, phases: list[Sides], workers: int) -> int:
    """Columns that a thread transforms at a time: as many as stay in its cache, but enough for each weight that is
    read, and about the same for all threads."""
    s = phases[0]
    number = batch * max(prod(p.planes) for p in phases)
    weight = s.taps * s.stride**2 * s.reach**2 * channels * deep * itemsize
    rows = STEADY if weight > CACHE else ROWS
    most = max(-(-rows // s.out_size[0]), CACHE // block_bytes(1, channels, deep, itemsize, s))
    together = workers // gcd(workers, len(phases))  # blocks of each phase that keep all threads busy
    rounds = -(-number // (together * most))
    return -(-number // (together * rounds))


def conv_weight(x: Array, y: Array, g: ConvGeometry, tile: int) -> Array:
    s, weight = forward_sides(g, tile)
    x, y = channels_last(x), channels_last(y)
    size = s.reach**2 * spaced(weight.starts.size * g.in_channels * _filled(g.out_channels, x.itemsize))
    sums = (_sums_apart if threads.count() * size <= PARTIAL_SUMS else _sums_together)(x, y, g, s, weight, size)
    area, workers = g.kernel[-1] ** 2, workers_for(sums.size)
    w = np.empty(g.w_shape, sums.dtype)
    scratch = empty(workers * (area + s.kernel * s.reach) * BYTES, np.uint8)
    transform_sums(
        workers, frozen(sums), w.reshape(-1), scratch, weight.planes, weight.starts, g.in_channels, g.out_channels,
        weight.channel, weight.column, weight.taps, area, s.kernel, s.reach, s.form,
    )  # fmt: skip
    return w


def _sums_apart(x: Array, y: Array, g: ConvGeometry, s: Sides, weight: Weight, size: int) -> Array:
    """Every thread goes through a part of the columns and has sums of its own: one parallel region."""
    itemsize, workers, channels, deep = x.itemsize, threads.count(), g.in_channels, g.out_channels
    block = sum_columns(-(-g.batch * prod(s.planes) // workers), g, s, itemsize, SUMS)
    rows = outer_rows(channels)
    sums = empty(workers * size // itemsize, x.dtype)
    space = empty(workers * (block_bytes(block, channels, deep, itemsize, s) + PANEL), np.uint8)
    table = np.empty(workers * (block * s.out_size[0] + rows), np.int64)
    accumulate_apart(
        workers, frozen(x), frozen(y), sums, space, table, _moves(s, channels, itemsize, 0), rows, block, g.batch,
        channels, deep, s.size, s.out_size, s.planes, s.entries, s.tile, s.offset, s.stride, s.reach,
        s.form, len(FORMS) + s.form,
    )  # fmt: skip
    if workers > 1:
        add_up(workers_for(sums.size), sums, workers, size // itemsize)
    return sums[: size // itemsize]


def _sums_together(x: Array, y: Array, g: ConvGeometry, s: Sides, weight: Weight, size: int) -> Array:
    """All threads transform the same columns, then each sums up a part of the points."""
    itemsize, workers, channels, deep = x.itemsize, threads.count(), g.in_channels, g.out_channels
    number, depth, points = g.batch * prod(s.planes), s.out_size[0], s.reach**2
    block = sum_columns(number, g, s, itemsize, workers * TOGETHER)
    left = empty(points * spaced(block * s.entries * s.stride**2 * _filled(channels, itemsize)), np.uint8)
    right = empty(points * spaced(block * depth * _filled(deep, itemsize)), np.uint8)
    sums = empty(size // itemsize, x.dtype)
    scratch = empty(workers * 2 * points * BYTES, np.uint8)
    rows = outer_rows(channels)
    table = np.empty(block * depth + workers * rows, np.int64)
    spare = np.empty(workers * PANEL, np.uint8)
    moves = _moves(s, channels, itemsize, 0)
    column, entry = np.divmod(np.arange(block * depth), depth)
    table[: block * depth] = left.ctypes.data + (column * s.entries + entry) * s.stride**2 * _filled(channels, itemsize)
    x, y = frozen(x), frozen(y)
    for low in range(0, number, block):
        high = min(low + block, number)
        expand(workers, x, left, scratch, low, high, channels, s.size, s.planes, s.entries, s.tile, s.offset, s.stride,
               s.reach, s.reach, s.form)  # fmt: skip
        expand(workers, y, right, scratch, low, high, deep, s.out_size, s.planes, depth, s.tile, (0, 0, 0), 1, s.tile,
               s.reach, len(FORMS) + s.form)  # fmt: skip
        accumulate(workers, left, right, sums, spare, table, moves, rows, high - low, s.entries, depth, channels,
                   s.stride, deep, s.reach, int(low > 0))  # fmt: skip
    return sums


def sum_columns(number: int, g: ConvGeometry, s: Sides, itemsize: int, room: int) -> int:
    """Of `number` columns those whose products are summed up at a time: as many as fit into so many bytes, but enough
    for the sums."""
    most = max(room // block_bytes(1, g.in_channels, g.out_channels, itemsize, s), -(-LONG // s.out_size[0]))
    return -(-number // -(-number // most))
