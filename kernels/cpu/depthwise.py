"""Convolutions with one channel in and one out of each group: too little for products of matrices, but the channels lie
side by side.
"""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from ..geometry import ConvGeometry
from . import threads
from .compile import threaded
from .direct_loops import place
from .finish import NOTHING, Finish
from .layout import channels_last, empty, flat, frozen, swap
from .loops import meeting
from .vector import BYTES, SIDE, WIDE, dots, weighted
from .walks import Axis, backward, forward

Array = np.ndarray


def conv(x: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    y = empty((g.batch, *g.output, g.groups), x.dtype)
    _depthwise(channels_last(x), swap(w, 1, g.groups, prod(g.kernel)), y, forward(g), g, end)
    return np.moveaxis(y, -1, 1)


def conv_input(y: Array, w: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    phases = backward(g)
    reached = all(len(axis) == s for axis, s in zip(phases[3 - g.rank :], g.stride, strict=True))
    x = empty((g.batch, *g.input, g.groups), y.dtype)
    if not reached:
        x[...] = 0  # positions that no tap reaches belong to no walk
        end.of(np.moveaxis(x, -1, 1))
    source = channels_last(y)
    weight = flat(w).reshape(g.groups, -1)
    numbers = np.arange(prod(g.kernel)).reshape((1,) * (3 - g.rank) + g.kernel)
    for walk in product(*phases):
        picks = numbers[np.ix_(*(taps for taps, _ in walk))].reshape(-1)
        taps = np.ascontiguousarray(weight[:, picks].T).reshape(-1)
        _depthwise(source, taps, x, [axis for _, axis in walk], g, end)
    return np.moveaxis(x, -1, 1)


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    workers, taps = threads.count(), prod(g.kernel)
    parts = empty(workers * taps * g.groups, x.dtype)
    walk = tuple(zip(*forward(g), strict=True))[:6]
    depthwise_weight(workers, frozen(channels_last(x)), frozen(channels_last(y)), parts, g.batch, g.groups, *walk)
    w = parts.reshape(workers, taps, g.groups).sum(0)
    return np.ascontiguousarray(w.T).reshape(g.w_shape)


def _depthwise(source: Array, weight: Array, out: Array, walk: list[Axis], g: ConvGeometry, end: Finish) -> None:
    if not all(axis.positions for axis in walk):
        return
    size, _, kernel, _, _, spacing, *_ = zip(*walk, strict=True)
    offsets = [[t * d for t in range(k)] for k, d in zip(kernel, spacing, strict=True)]
    moves = [((d * size[1] + h) * size[2] + w) * g.groups * out.itemsize for d, h, w in product(*offsets)]
    zeros, workers = np.zeros(g.groups, out.dtype), threads.count()
    table = np.empty(workers * len(moves), np.int64)
    depthwise(
        workers, frozen(source), frozen(weight), out.reshape(-1), frozen(zeros), np.array(moves), table, g.batch,
        g.groups, *zip(*walk, strict=True), *end.arguments(g.groups, out.dtype),
    )  # fmt: skip


@threaded
def depthwise(thread, threads, source, weight, out, zeros, moves, table, batch, channels, size, count, kernel, origin,
              step, spacing, out_size, first, every, bias, relu):  # fmt: skip
    """out (batch, *out_size, channels) = the walk over source (batch, *size, channels), each channel by itself.

    weight: (kernel, channels). moves: for each tap the bytes from a position's first tap to it. zeros: `channels`.
    table: for each thread an int64 for each tap. bias, relu: of `Finish.arguments`.
    """
    like, width = zeros[0], source.itemsize
    lanes, taps = WIDE * BYTES // width, moves.size
    lines, pitch = batch * count[0] * count[1], channels * width
    ground, target, factors, nothing = source.ctypes.data, out.ctypes.data, weight.ctypes.data, zeros.ctypes.data
    common, addresses, begins = moves.ctypes.data, table.ctypes.data, bias.ctypes.data if bias.size else 0
    mine = thread * taps
    for line in range(thread * lines // threads, (thread + 1) * lines // threads):
        n, od, oh, _ = place(line * count[2], count)
        d, h = origin[0] + od * step[0], origin[1] + oh * step[1]
        inside = d >= 0 and d + (kernel[0] - 1) * spacing[0] < size[0]
        inside = inside and h >= 0 and h + (kernel[1] - 1) * spacing[1] < size[1]
        row = ((n * size[0] + d) * size[1] + h) * size[2]
        to = (n * out_size[0] + first[0] + od * every[0]) * out_size[1] + first[1] + oh * every[1]
        to = to * out_size[2] + first[2]
        low, high = meeting(origin[2], size[2] - (kernel[2] - 1) * spacing[2], count[2] if inside else 0, step[2])
        ow, number = 0, 0
        while ow < count[2]:
            w = origin[2] + ow * step[2]
            here, base, number = common, ground + (row + w) * pitch, SIDE if low <= ow <= high - SIDE else 1
            if ow < low or ow >= high:
                here, base, tap = addresses + 8 * mine, 0, mine
                for i in range(kernel[0]):
                    for j in range(kernel[1]):
                        y, z = d + i * spacing[0], h + j * spacing[1]
                        for k in range(kernel[2]):
                            x = w + k * spacing[2]
                            table[tap] = nothing
                            if 0 <= y < size[0] and 0 <= z < size[1] and 0 <= x < size[2]:
                                table[tap] = ground + (((n * size[0] + y) * size[1] + z) * size[2] + x) * pitch
                            tap += 1
            at = target + (to + ow * every[2]) * pitch
            for c in range(0, channels, lanes):
                weighted(like, taps, here, base + c * width, factors + c * width, pitch, at + c * width,
                         min(lanes, channels - c), begins + c * width if begins else 0, relu, number,
                         step[2] * pitch, every[2] * pitch)  # fmt: skip
            ow += number


@threaded
def depthwise_weight(
    thread, threads, source, slope, parts, batch, channels, size, count, kernel, origin, step, spacing
):
    """parts (threads, kernel, channels): what each thread's share of the lines adds to the gradient."""
    like, width = parts[0], parts.itemsize
    lanes, pitch = WIDE * BYTES // width, channels * width
    length, lines = kernel[0] * kernel[1] * kernel[2] * channels, batch * count[0] * count[1]
    ground, other, target = source.ctypes.data, slope.ctypes.data, parts.ctypes.data
    for e in range(thread * length, (thread + 1) * length):
        parts[np.uint64(e)] = 0
    for line in range(thread * lines // threads, (thread + 1) * lines // threads):
        n, od, oh, _ = place(line * count[2], count)
        for i in range(kernel[0]):
            d = origin[0] + od * step[0] + i * spacing[0]
            for j in range(kernel[1]):
                h = origin[1] + oh * step[1] + j * spacing[1]
                if d < 0 or d >= size[0] or h < 0 or h >= size[1]:
                    continue
                for k in range(kernel[2]):
                    w = origin[2] + k * spacing[2]
                    low, high = meeting(w, size[2], count[2], step[2])
                    a = ground + (((n * size[0] + d) * size[1] + h) * size[2] + w + low * step[2]) * pitch
                    b = other + (line * count[2] + low) * pitch
                    at = target + (thread * length + ((i * kernel[1] + j) * kernel[2] + k) * channels) * width
                    for c in range(0, channels, lanes):
                        dots(like, high - low, a + c * width, step[2] * pitch, b + c * width, pitch, at + c * width,
                             min(lanes, channels - c))  # fmt: skip
