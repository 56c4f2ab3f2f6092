"""The convolution family with compiled kernels: how the work is laid out and divided; the loops are in correlate.py.

Inside, arrays are flat and channels-last without gaps: x (N, *I, C), y (N, *O, K), weight (K, *k, C/G). An array that
already lies like this is used as it is; others are turned first, and results that must not lie like this, afterwards.

Where the weight is larger than all columns together, as in the last layers of a network, it is not touched: instead the
columns are brought into its order, and the convolution is one product of matrices (`weight_is_larger`).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import gcd, prod
from typing import Any, NamedTuple

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .correlate import correlate, correlate_weight, depthwise, depthwise_weight, fill, swap_axes

Array = np.ndarray

TILE, LEAST_TILE = 512, 128  # output positions multiplied at a time: they must repay BLAS's repacking of the weight
COLUMNS = 2**19  # bytes of columns that a thread works on at a time, to stay in its L2 cache
PARTIAL_SUMS = 2**26  # bytes that the threads' own sums of the weight's gradient may take
SMALL_PRODUCT = 10**6  # multiply-adds up to which OpenBLAS skips repacking, which is worth smaller tiles
SMALL_WEIGHT = 2**16  # numbers; turning such a weight costs nothing


class Axis(NamedTuple):
    """One axis of a walk: tap t of position o reads `start + o * step + t * spacing`, writes `first + o * every`."""

    size: int  # of what is read
    positions: int
    kernel: int  # taps
    start: int
    step: int
    spacing: int
    out_size: int  # of what is written
    first: int
    every: int


UNIT = Axis(1, 1, 1, 0, 1, 1, 1, 0, 1)


def conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    y = np.empty((g.batch, *g.output, g.out_channels), x.dtype)
    wide, deep, taps = g.in_channels // g.groups, g.out_channels // g.groups, prod(g.kernel)
    if is_depthwise(g):
        _depthwise(channels_last(x), _swap(w, 1, g.groups, taps), y, _forward(g), g)
    elif weight_is_larger(g):
        _product(_all_columns(x, g), _flat(w), y, g.in_channels * taps, g.out_channels, weight_turned=True)
    elif w.size <= SMALL_WEIGHT:
        # (G, taps * C/G, K/G) is the way around in which BLAS libraries with a path for small matrices are faster
        weight = _swap(channels_last(w), g.groups, deep, taps * wide)
        _correlate(channels_last(x), weight, y, _forward(g), g.batch, g.groups, wide, deep, weight_turned=False)
    else:
        _correlate(
            channels_last(x), channels_last(w), y, _forward(g), g.batch, g.groups, wide, deep, weight_turned=True
        )
    return np.moveaxis(y, -1, 1)


def conv_input(y: Array, w: Array, g: ConvGeometry) -> Array:
    wide, deep = g.out_channels // g.groups, g.in_channels // g.groups
    source = channels_last(y)
    if weight_is_larger(g):
        columns = np.empty((g.batch * prod(g.output), g.in_channels * prod(g.kernel)), y.dtype)
        _product(source, _flat(w), columns, g.out_channels, columns.shape[1], weight_turned=False)
        return _fold(columns, g)
    phases = _backward(g)
    # positions that no tap reaches belong to no walk
    reached = all(len(axis) == s for axis, s in zip(phases[3 - g.rank :], g.stride, strict=True))
    x = (np.empty if reached else np.zeros)((g.batch, *g.input, g.in_channels), y.dtype)
    weight = channels_last(w).reshape(g.groups, wide, *(1,) * (3 - g.rank), *g.kernel, deep)
    for walk in product(*phases):
        taps = weight[:, :, *(taps for taps, _ in walk)]
        taps = np.ascontiguousarray(taps.transpose(0, 2, 3, 4, 1, 5)).reshape(-1)  # (G, taps, K/G, C/G)
        axes = [axis for _, axis in walk]
        if is_depthwise(g):
            _depthwise(source, _swap(taps, 1, g.groups, taps.size // g.groups), x, axes, g)
            continue
        _correlate(source, taps, x, axes, g.batch, g.groups, wide, deep, weight_turned=False)
    return np.moveaxis(x, -1, 1)


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    positions, taps, wide = g.batch * prod(g.output), prod(g.kernel), g.in_channels // g.groups
    slope = channels_last(y)
    if is_depthwise(g):
        return _depthwise_weight(channels_last(x), slope, _forward(g), g)
    if weight_is_larger(g):
        columns = _all_columns(x, g)
        w = _correlate_weight(columns, slope, _line(positions), 1, 1, g.in_channels * taps, g.out_channels)
    else:
        deep = g.out_channels // g.groups
        w = _correlate_weight(channels_last(x), slope, _forward(g), g.batch, g.groups, wide, deep)
        w = _swap(w, g.out_channels, taps, wide)
    return w.reshape(g.w_shape)


# ---- one product with the weight as it lies, (K, C * taps)


def weight_is_larger(g: ConvGeometry) -> bool:
    """Whether there are fewer columns, one for each output position, than rows of the weight."""
    return g.groups == 1 and g.batch * prod(g.output) < g.out_channels


def _all_columns(x: Array, g: ConvGeometry) -> Array:
    """(positions, C * taps): what each output position sees."""
    size, count, kernel, start, step, spacing, *_ = zip(*_forward(g), strict=True)
    positions, taps = g.batch * prod(count), prod(kernel)
    columns = np.empty(positions * taps * g.in_channels, x.dtype)
    fill(_frozen(channels_last(x)), columns, positions, g.in_channels, size, count, kernel, start, step, spacing)
    return _swap(columns, positions, taps, g.in_channels)


def _fold(columns: Array, g: ConvGeometry) -> Array:
    """x, each element the sum of what is at its place in all columns (positions, C * taps)."""
    columns = _swap(columns, columns.shape[0], g.in_channels, prod(g.kernel))
    columns = columns.reshape(g.batch, *g.output, *g.kernel, g.in_channels)
    x = np.zeros((g.batch, *g.padded, g.in_channels), columns.dtype)
    everywhere: tuple[Any, ...] = (slice(None),) * (1 + g.rank)
    for tap, at in g.taps():
        x[:, *at] += columns[(*everywhere, *tap)]
    inside = (slice(before, before + n) for (before, _), n in zip(g.padding, g.input, strict=True))
    return np.moveaxis(np.ascontiguousarray(x[:, *inside]), -1, 1)


def _product(a: Array, w: Array, out: Array, wide: int, deep: int, *, weight_turned: bool) -> None:
    """out (positions, deep) = a (positions, wide) @ w, as a convolution with a single tap."""
    _correlate(a, w, out, _line(out.size // deep), 1, 1, wide, deep, weight_turned=weight_turned)


# ---- one channel in and out of each group


def is_depthwise(g: ConvGeometry) -> bool:
    return g.groups == g.in_channels == g.out_channels > 1


def _depthwise(source: Array, weight: Array, out: Array, walk: list[Axis], g: ConvGeometry) -> None:
    depthwise(_frozen(source), _frozen(weight), out.reshape(-1), g.batch, g.groups, *zip(*walk, strict=True))


def _depthwise_weight(source: Array, slope: Array, walk: list[Axis], g: ConvGeometry) -> Array:
    workers, taps = threads.count(), prod(g.kernel)
    parts = np.empty(workers * taps * g.groups, source.dtype)
    walk_source = tuple(zip(*walk, strict=True))[:6]
    depthwise_weight(_frozen(source), _frozen(slope), parts, workers, g.batch, g.groups, *walk_source)
    w = parts.reshape(workers, taps, g.groups).sum(0)
    return np.ascontiguousarray(w.T).reshape(g.w_shape)


# ---- walks


def _line(positions: int) -> list[Axis]:
    return [UNIT, UNIT, Axis(positions, positions, 1, 0, 1, 1, positions, 0, 1)]


def _forward(g: ConvGeometry) -> list[Axis]:
    axes = [
        Axis(n, o, k, -before, s, d, o, 0, 1)
        for n, o, k, (before, _), s, d in zip(g.input, g.output, g.kernel, g.padding, g.stride, g.dilation, strict=True)
    ]
    return [UNIT] * (3 - g.rank) + axes


def _backward(g: ConvGeometry) -> list[list[tuple[slice, Axis]]]:
    """For each axis the phases of the transposed convolution, each with the taps that reach its positions."""
    axes = [
        _phases(n, o, k, before, s, d)
        for n, o, k, (before, _), s, d in zip(g.input, g.output, g.kernel, g.padding, g.stride, g.dilation, strict=True)
    ]
    return [[(slice(None), UNIT)]] * (3 - g.rank) + axes


def _phases(n: int, o: int, k: int, before: int, s: int, d: int) -> list[tuple[slice, Axis]]:
    """Input position i meets tap t at output (i + before - t * d) / s, where that is whole: with i + before = s * q + r
    (r is the phase) at q - (t * d - r) / s. Taken backwards, from the last one, the taps read ascending outputs.
    """
    phases = []
    for r in range(s):
        taps = [t for t in range(k) if (t * d - r) % s == 0]
        if taps:
            apart = s // gcd(s, d)
            q = -(-(before - r) // s)  # the first input position of this phase
            first = s * q + r - before
            count = max(0, -(-(n - first) // s))
            start = q - (taps[-1] * d - r) // s
            axis = Axis(o, count, len(taps), start, 1, d * apart // s, n, first, s)
            phases.append((slice(taps[-1], None, -apart), axis))
    return phases


# ---- division of the work


class Plan(NamedTuple):
    """How the compiled kernels divide the work."""

    threads: int
    tile: int  # output positions of a task
    row_chunk: int  # kernel rows whose columns are filled and multiplied at a time
    blocks: int  # parts of a group's output channels
    chunks: int  # parts of the positions in the weight's gradient; each has a sum of its own


@lru_cache(maxsize=4096)
def plan(
    positions: int, rows: int, run: int, deep: int, groups: int, direct: bool, itemsize: int, workers: int
) -> Plan:
    """For `positions` outputs of `deep` channels in each of `groups`, with a kernel of `rows` rows of `run` numbers;
    `direct` if the source serves as columns and no cache has to hold them.

    As a rule the positions are divided among the threads. Where they are fewer than the channels, the weight is the
    larger matrix: then its channels are divided, and each thread reads only its part.
    """
    length = rows * run
    most = TILE if direct else min(TILE, max(LEAST_TILE, COLUMNS // (run * itemsize)))
    if most > SMALL_PRODUCT // (length * deep) >= LEAST_TILE:
        most = SMALL_PRODUCT // (length * deep)
    few = positions < LEAST_TILE * workers
    blocks = min(workers, deep) if few and positions <= deep and groups == 1 else 1
    share = -(-positions // (1 if blocks > 1 else workers))
    tile = -(-share // -(-share // most))  # tiles of one size, as many for each thread
    row_chunk = min(rows, max(1, COLUMNS // (tile * run * itemsize)))
    chunks = 1 if few or workers * groups * deep * length * itemsize > PARTIAL_SUMS else workers
    return Plan(workers, tile, row_chunk, blocks, chunks)


def _plan(walk: list[Axis], batch: int, groups: int, wide: int, deep: int, itemsize: int) -> Plan:
    *_, kernel = (axis.kernel for axis in walk)
    rows = walk[0].kernel * walk[1].kernel
    direct = all(a.kernel == 1 and a.size == a.positions and (a.start, a.step) == (0, 1) for a in walk)
    positions = batch * prod(axis.positions for axis in walk)
    return plan(positions, rows, kernel * wide, deep, groups, direct, itemsize, threads.count())


def _correlate(
    source: Array, weight: Array, out: Array, walk: list[Axis], batch: int, groups: int, wide: int, deep: int,
    *, weight_turned: bool,
) -> None:  # fmt: skip
    if not all(axis.positions for axis in walk):
        return
    size, count, kernel, start, step, spacing, out_size, first, every = zip(*walk, strict=True)
    p = _plan(walk, batch, groups, wide, deep, out.itemsize)
    scratch = np.empty(p.threads * p.tile * (p.row_chunk * kernel[2] * wide + deep), out.dtype)
    correlate(
        _frozen(source), _frozen(weight), out.reshape(-1), scratch, p.threads, p.tile, p.row_chunk, p.blocks,
        batch, groups, wide, deep, weight_turned, size, count, kernel, start, step, spacing, out_size, first, every,
    )  # fmt: skip


def _correlate_weight(
    source: Array, slope: Array, walk: list[Axis], batch: int, groups: int, wide: int, deep: int
) -> Array:
    """(G, deep, taps * wide)"""
    size, count, kernel, start, step, spacing, *_ = zip(*walk, strict=True)
    p = _plan(walk, batch, groups, wide, deep, source.itemsize)
    w = np.empty(groups * deep * prod(kernel) * wide, source.dtype)
    parts = w if p.chunks == 1 else np.empty(p.chunks * w.size, w.dtype)
    scratch = np.empty(p.threads * p.tile * p.row_chunk * kernel[2] * wide, w.dtype)
    correlate_weight(
        _frozen(source), _frozen(slope), w, parts, scratch, p.threads, p.tile, p.chunks, p.row_chunk, p.blocks,
        batch, groups, wide, deep, size, count, kernel, start, step, spacing,
    )  # fmt: skip
    return w


# ---- layout


def channels_last(a: Array) -> Array:
    """The elements of a (N, C, *spatial) in the order (N, *spatial, C), flat; no copy if they lie in it already."""
    moved = np.moveaxis(a, 1, -1)
    if moved.flags.c_contiguous and moved.flags.aligned:
        return moved.reshape(-1)
    return _swap(a, a.shape[0], a.shape[1], prod(a.shape[2:]))


def _swap(a: Array, outer: int, rows: int, columns: int) -> Array:
    """a, of any shape, as (outer, rows, columns) with its last two axes exchanged, flat."""
    a = _flat(a)
    if rows == 1 or columns == 1:
        return a
    out = np.empty(a.size, a.dtype)
    swap_axes(_frozen(a), out, outer, rows, columns)
    return out


def _flat(a: Array) -> Array:
    return np.require(a, requirements=["C", "A"]).reshape(-1)


def _frozen(a: Array) -> Array:
    """A read-only view: what a kernel only reads always has this one type, so it is compiled once, not twice."""
    view = a.view()
    view.flags.writeable = False
    return view
