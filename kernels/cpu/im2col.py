"""Convolutions of few channels: what each output sees is copied side by side (im2col), a little at a time.

A tap of few channels is too short a run for the inner loops, which would mostly look for rows. Copied, the window of an
output is one run, (taps, channels). The windows of a block of outputs stay in the nearest cache while they meet all
output channels.
"""

from __future__ import annotations

from math import prod

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .compile import jit, threaded
from .direct import pack_weight, unpacked
from .direct_loops import following, place
from .finish import NOTHING, Finish
from .layout import LINE, add_up, channels_last, empty, frozen, workers_for
from .loops import meeting
from .vector import BYTES, PANEL, ROWS, move, multiply_relu, outer, outer_rows, take, width_of
from .walks import forward

Array = np.ndarray

BLOCK = 8 * ROWS  # windows at a time


def pieces(g: ConvGeometry) -> int:
    """The runs of numbers that a row of a window is in a channels-last image."""
    return 1 if g.dilation[-1] == 1 else g.kernel[-1]


def pitch(g: ConvGeometry, itemsize: int) -> int:
    """Bytes from one window to the next: whole vectors are written, the last one, too."""
    return -(-(prod(g.w_shape[1:]) * itemsize + BYTES) // LINE) * LINE


def conv(x: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    channels, taps, workers = g.in_channels, prod(g.kernel), threads.count()
    spots = np.arange(taps * channels).reshape(taps, channels).T  # those of a column lie in the order (channels, taps)
    panels = pack_weight(w, 1, g.out_channels, spots, taps * channels, 0, 1, 0, channels * taps)
    y = empty((g.batch, *g.output, g.out_channels), x.dtype)
    size, count, kernel, origin, step, spacing, *_ = zip(*forward(g), strict=True)
    gap = pitch(g, x.itemsize)
    multiply_windows(
        workers, frozen(channels_last(x)), frozen(panels), y.reshape(-1), empty(workers * BLOCK * gap, np.uint8),
        empty(workers * 2 * BLOCK, np.int64), np.zeros(2, np.int64), np.zeros(1, np.int64), BLOCK, gap, pieces(g),
        g.batch, channels, g.out_channels, size, count, kernel, origin, step, spacing,
        *end.arguments(g.out_channels, x.dtype),
    )  # fmt: skip
    return np.moveaxis(y, -1, 1)


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    length, workers, gap = prod(g.w_shape[1:]), threads.count(), pitch(g, x.itemsize)
    size, count, kernel, origin, step, spacing, *_ = zip(*forward(g), strict=True)
    rows = outer_rows(length)
    sums = empty(workers * length * g.out_channels, x.dtype)
    sum_windows(
        workers, frozen(channels_last(x)), frozen(channels_last(y)), sums,
        empty(workers * (BLOCK * gap + PANEL), np.uint8), empty(workers * (BLOCK + rows), np.int64), rows, BLOCK,
        gap, pieces(g), g.batch, g.in_channels, g.out_channels, size, count, kernel, origin, step, spacing,
    )  # fmt: skip
    if workers > 1:
        add_up(workers_for(sums.size), sums, workers, length * g.out_channels)
    return unpacked(sums[: length * g.out_channels], g)


@jit(inline=True)
def _windows(like, ground, to, gap, pieces, begin, end, channels, size, count, kernel, origin, step,
             spacing):  # fmt: skip
    """The windows of positions begin..end, (taps, channels), at addresses to, to + gap, ...

    Vectors are written whole; what comes too much is overwritten by the next piece of the same window, or lies behind
    its end.
    """
    width = width_of(like)
    reach, by_w = kernel[2] // pieces, channels * width
    run = reach * by_w
    n, od, oh, ow = place(begin, count)
    first = begin
    while first < end:  # the positions of one line
        number = min(end - first, count[2] - ow)
        at = to + (first - begin) * gap
        for i in range(kernel[0]):
            d = origin[0] + od * step[0] + i * spacing[0]
            for j in range(kernel[1]):
                h = origin[1] + oh * step[1] + j * spacing[1]
                line = ground + ((n * size[0] + d) * size[1] + h) * size[2] * by_w
                there = 0 <= d < size[0] and 0 <= h < size[1]
                for k in range(pieces):
                    w = origin[2] + ow * step[2] + k * spacing[2]
                    # positions all of whose taps lie inside
                    low, high = meeting(w, size[2] - reach + 1, number if there else 0, step[2])
                    a, b = line + (w + low * step[2]) * by_w, at + low * gap
                    for _ in range(low, high):
                        for e in range(0, run, BYTES):
                            move(like, a + e, min(BYTES, run - e) // width, b + e)
                        a, b = a + step[2] * by_w, b + gap
                    for other in range(number - high + low):
                        position = other if other < low else other + high - low
                        for t in range(reach):
                            v, b = w + position * step[2] + t, at + position * gap + t * by_w
                            full = there and 0 <= v < size[2]
                            for e in range(0, by_w, BYTES):
                                if full:
                                    move(like, line + v * by_w + e, min(BYTES, by_w - e) // width, b + e)
                                else:
                                    move(like, ground, 0, b + e)
                    at += run
        first += number
        n, od, oh, ow = following(n, od, oh, count[2] - 1, count)


@threaded
def multiply_windows(thread, threads, source, panels, out, space, table, moves, taken, block, gap, pieces, batch,
                     channels, deep, size, count, kernel, origin, step, spacing, bias, relu):  # fmt: skip
    """out (batch, *count, deep) = the windows of source (batch, *size, channels), times packed weights.

    panels: from `pack` in direct_loops.py. space: for each thread `block` (a multiple of ROWS) windows, `gap` bytes
    apart; table: 2 * block int64. moves: two zeros, taken: one. bias, relu: of `Finish.arguments`.
    """
    like, positions = source[0], batch * count[0] * count[1] * count[2]
    width, length = width_of(like), kernel[0] * kernel[1] * kernel[2] * channels
    lanes, across = PANEL // width, deep * width
    ground, target, packed, zero = source.ctypes.data, out.ctypes.data, panels.ctypes.data, moves.ctypes.data
    begins = bias.ctypes.data if bias.size else 0
    mine = 2 * thread * block
    windows, rows = space.ctypes.data + thread * block * gap, table.ctypes.data + 8 * mine
    while True:
        begin = take(taken.ctypes.data) * block
        if begin >= positions:
            break
        number = min(block, positions - begin)
        for row in range((number + ROWS - 1) // ROWS * ROWS):  # the last one is repeated
            table[mine + row] = windows + min(row, number - 1) * gap
            table[mine + block + row] = target + (begin + min(row, number - 1)) * across
        _windows(like, ground, windows, gap, pieces, begin, begin + number, channels, size, count, kernel, origin, step,
                 spacing)  # fmt: skip
        for k0 in range(0, deep, lanes):
            for row in range(0, number, ROWS):
                multiply_relu(
                    like, 1, length, rows + 8 * row, 0, zero, packed + k0 * length * width, rows + 8 * (block + row),
                    k0 * width, 0, min(lanes, deep - k0), 0, begins + k0 * width if begins else 0, relu,
                )  # fmt: skip


@threaded
def sum_windows(thread, threads, source, slope, sums, space, table, rows, block, gap, pieces, batch, channels, deep,
                size, count, kernel, origin, step, spacing):  # fmt: skip
    """sums (threads, taps, channels, deep): over each thread's positions, windows times slope.

    slope is (batch, *count, deep). rows: of `outer`, at most taps * channels. space: for each thread `block`
    windows, `gap` bytes apart, and a panel; table: block + rows int64.
    """
    like, positions = source[0], batch * count[0] * count[1] * count[2]
    width, length = width_of(like), kernel[0] * kernel[1] * kernel[2] * channels
    lanes, across = PANEL // width, deep * width
    ground, other, total = source.ctypes.data, slope.ctypes.data, sums.ctypes.data
    mine, own = thread * (block + rows), thread * length * deep
    windows, addresses = space.ctypes.data + thread * (block * gap + PANEL), table.ctypes.data + 8 * mine
    unused = windows + block * gap
    for row in range(block):
        table[mine + row] = windows + row * gap
    for e in range(own, own + length * deep):
        sums[np.uint64(e)] = 0
    last = (thread + 1) * positions // threads
    for begin in range(thread * positions // threads, last, block):
        number = min(block, last - begin)
        _windows(like, ground, windows, gap, pieces, begin, begin + number, channels, size, count, kernel, origin, step,
                 spacing)  # fmt: skip
        for k0 in range(0, deep, lanes):
            for strip in range(0, length, rows):  # the last one reaches back over rows that are not its own
                e0 = min(strip, length - rows)
                for i in range(rows):
                    at = total + (own + (e0 + i) * deep + k0) * width
                    table[mine + block + i] = at if e0 + i >= strip else unused
                outer(like, rows, number, addresses, e0 * width, other + begin * across + k0 * width, across,
                      addresses + 8 * block, min(lanes, deep - k0), 1)  # fmt: skip
