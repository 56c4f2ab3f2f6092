"""Convolutions to few channels: first what each source element gives to all the outputs that see it, then their sums.

With few output channels most lanes of a vector would stay empty. Here the taps lie beside the channels and fill them: a
product of matrices gives (positions, taps * channels), the columns of im2col, and each row of a kernel is a run that is
added to the result where it belongs. A little at a time: the columns stay in the nearest cache.
"""

from __future__ import annotations

from dataclasses import replace
from math import gcd, prod

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .compile import jit, threaded
from .direct import pack_weight
from .direct_loops import following, place
from .finish import NOTHING, Finish
from .im2col import BLOCK, pieces, pitch
from .layout import channels_last, empty, flat, frozen
from .loops import meeting
from .vector import PANEL, ROWS, add, multiply, width_of
from .walks import forward
from .weights import packed

Array = np.ndarray


def conv(x: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    """For those that `reverses` in algorithms.py knows: a transposed convolution with the kernel backwards."""
    reach = [d * (k - 1) for k, d in zip(g.kernel, g.dilation, strict=True)]
    padding = tuple((r - before, r - after) for (before, after), r in zip(g.padding, reach, strict=True))
    other = replace(
        g, in_channels=g.out_channels, out_channels=g.in_channels, input=g.output, output=g.input, padding=padding
    )
    backwards = packed(w, lambda: np.flip(w, tuple(range(2, w.ndim))).swapaxes(0, 1), "backwards")
    return conv_input(x, backwards, other, end)


def conv_input(y: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    deep, run, columns, workers = g.in_channels, g.out_channels, g.in_channels * prod(g.kernel), threads.count()
    weight = packed(w, lambda: flat(w.reshape(run, deep, -1).transpose(2, 1, 0)), "columns")  # (taps, C, K)
    panels = pack_weight(weight, 1, columns, np.arange(run), run, 0, 1, 0, run)
    x = empty((g.batch, *g.input, deep), y.dtype)
    size, count, kernel, origin, step, spacing, *_ = zip(*forward(g), strict=True)
    gap = pitch(g, y.itemsize)
    # each image is one thread's, or if they do not go round, a part of it is
    parts = workers // gcd(g.batch, workers) if g.batch < 4 * workers else 1
    add_columns(
        workers, frozen(channels_last(y)), frozen(panels), x.reshape(-1), empty(workers * BLOCK * gap, np.uint8),
        empty(workers * 2 * BLOCK, np.int64), np.zeros(2, np.int64), BLOCK, gap, pieces(g), parts, g.batch, run,
        deep, size, count, kernel, origin, step, spacing, *end.arguments(deep, y.dtype),
    )  # fmt: skip
    return np.moveaxis(x, -1, 1)


@jit(inline=True)
def _scatter(like, columns, gap, ground, pieces, begin, end, low_line, high_line, channels, size, count, kernel, origin,
             step, spacing):  # fmt: skip
    """Adds the columns of positions begin..end, at addresses columns, columns + gap, ..., to the result at address
    ground, as far as they belong to its lines low_line..high_line (of all samples and planes)."""
    width = width_of(like)
    reach, by_w = kernel[2] // pieces, channels * width
    run, turns = reach * by_w, (reach + step[2] - 1) // step[2]
    n, od, oh, ow = place(begin, count)
    first = begin
    while first < end:  # the positions of one line
        number = min(end - first, count[2] - ow)
        at = columns + (first - begin) * gap
        for i in range(kernel[0]):
            d = origin[0] + od * step[0] + i * spacing[0]
            # neighbours overlap: they take turns, so that what one stores has left the core when the other reads it
            for turn in range(turns):
                for piece in range(kernel[1] * pieces):
                    j, k = piece // pieces, piece % pieces
                    h = origin[1] + oh * step[1] + j * spacing[1]
                    line = (n * size[0] + d) * size[1] + h
                    if d < 0 or d >= size[0] or h < 0 or h >= size[1] or line < low_line or line >= high_line:
                        continue
                    w = origin[2] + ow * step[2] + k * spacing[2]
                    to, here = ground + (line * size[2] + w) * by_w, at + (i * kernel[1] * pieces + piece) * run
                    low, high = meeting(w, size[2] - reach + 1, number, step[2])
                    for position in range(low + turn, high, turns):
                        add(like, here + position * gap, run // width, to + position * step[2] * by_w)
                    for other in range(number - high + low if turn == 0 else 0):
                        position = other if other < low else other + high - low
                        for t in range(reach):
                            v = position * step[2] + t
                            if 0 <= w + v < size[2]:
                                add(like, here + position * gap + t * by_w, channels, to + v * by_w)
        first += number
        n, od, oh, ow = following(n, od, oh, count[2] - 1, count)


@threaded
def add_columns(thread, threads, source, panels, out, space, table, moves, block, gap, pieces, parts, batch, run,
                channels, size, count, kernel, origin, step, spacing, bias, relu):  # fmt: skip
    """out (batch, *size, channels) = the transposed walk over source (batch, *count, run) with packed weights.

    Tasks are `parts` of each sample's planes, or of its lines if it has one plane; their columns are computed for
    them, also those that belong to the part beside. space: for each thread the columns of `block` (a multiple of
    ROWS) positions, `gap` bytes apart; table: 2 * block int64. moves: two zeros. bias, relu: of `Finish.arguments`.
    """
    like, zero = source[0], out.dtype.type(0)
    width, length = width_of(like), kernel[0] * kernel[1] * kernel[2] * channels
    lanes, across = PANEL // width, run * width
    axis = 0 if size[0] > 1 or count[0] > 1 else 1
    inner = size[1] if axis == 0 else 1  # lines for each place on the axis that is divided
    positions = count[0] * count[1] * count[2]
    each = positions // count[axis] if axis == 0 else count[2]
    mine, tasks = 2 * thread * block, batch * parts
    ground, target, packed, common = source.ctypes.data, out.ctypes.data, panels.ctypes.data, moves.ctypes.data
    columns, rows = space.ctypes.data + thread * block * gap, table.ctypes.data + 8 * mine
    for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
        n, part = task // parts, task % parts
        low, high = part * size[axis] // parts, (part + 1) * size[axis] // parts
        if low == high:
            continue
        low_line, high_line = n * size[0] * size[1] + low * inner, n * size[0] * size[1] + high * inner
        number = size[2] * channels
        for e in range(low_line * number, high_line * number, channels):
            for c in range(channels):
                out[np.uint64(e + c)] = bias[c] if bias.size else zero
        before = (kernel[axis] - 1) * spacing[axis]
        first = max(0, (low - origin[axis] - before + step[axis] - 1) // step[axis])
        last = min(count[axis], (high - 1 - origin[axis]) // step[axis] + 1)
        stop = n * positions + last * each
        for begin in range(n * positions + first * each, stop, block):
            number = min(block, stop - begin)
            for row in range((number + ROWS - 1) // ROWS * ROWS):  # the last one is repeated
                table[mine + row] = ground + (begin + min(row, number - 1)) * across
                table[mine + block + row] = columns + min(row, number - 1) * gap
            for column in range(0, length, lanes):
                for row in range(0, number, ROWS):
                    multiply(like, 1, run, rows + 8 * row, 0, common, packed + column * run * width,
                             rows + 8 * (block + row), column * width, 0, min(lanes, length - column), 0)  # fmt: skip
            _scatter(like, columns, gap, target, pieces, begin, begin + number, low_line, high_line, channels, size,
                     count, kernel, origin, step, spacing)  # fmt: skip
        if relu:
            for e in range(low_line * size[2] * channels, high_line * size[2] * channels):
                value = out[np.uint64(e)]
                out[np.uint64(e)] = zero if value < zero else value  # NaN stays
