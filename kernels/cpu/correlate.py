"""Compiled kernels of the convolution family: columns in cache, products by BLAS.

Everything is three-dimensional, flat and channels-last. What unites convolution and transposed convolution is a *walk*:
on each axis, tap t of position o reads the source at `start + o * step + t * spacing`, or a zero outside of it, and the
result belongs at `first + o * every`. A convolution is one walk; the transposed one is a walk for each phase of its
stride. All tuples hold one number for each spatial axis.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .blas import gemm
from .compile import jit
from .loops import copy, meeting


@jit(parallel=True)
def swap_axes(source, out, outer, rows, columns):
    """out (outer, columns, rows) = source (outer, rows, columns): between channels-first and channels-last."""
    block = 32  # columns at a time: a few cache lines of each source row, written to rows that stay in L1
    blocks = (columns + block - 1) // block
    for task in prange(outer * blocks):
        n, begin = task // blocks, task % blocks * block
        size = min(block, columns - begin)
        for row in range(rows):
            a = (n * rows + row) * columns + begin
            b = (n * columns + begin) * rows + row
            for column in range(size):
                out[np.uint64(b + column * rows)] = source[np.uint64(a + column)]


@jit(inline=True)
def _zero(out, b, size):
    for e in range(size):
        out[np.uint64(b + e)] = 0


@jit(inline=True)
def _place(position, count):
    """The sample and the place on each axis of a position."""
    rest, ow = position // count[2], position % count[2]
    rest, oh = rest // count[1], rest % count[1]
    return rest // count[0], rest % count[0], oh, ow


@jit(inline=True)
def _next(n, od, oh, ow, count):
    """The place after this one; counting is much cheaper than dividing."""
    ow += 1
    if ow == count[2]:
        ow, oh = 0, oh + 1
        if oh == count[1]:
            oh, od = 0, od + 1
            if od == count[0]:
                od, n = 0, n + 1
    return n, od, oh, ow


@jit(inline=True)
def _fill(source, columns, at, begin, end, rows, channels, part, size, count, kernel, start, step, spacing):
    """From columns[at] on, for each position begin..end: what its taps in kernel rows rows[0]..rows[1] see.

    A kernel row is one (depth, height) tap with all taps along the width. channels: of the source, in all; part: the
    first channel to read and how many.
    """
    depth, height, width = size
    channel, wide = part
    run = kernel[2] * wide
    together = wide == channels and (spacing[2] == 1 or kernel[2] == 1)  # a kernel row lies in one piece
    first_i, first_j = rows[0] // kernel[1], rows[0] % kernel[1]
    n, od, oh, ow = _place(begin, count)
    for _ in range(begin, end):
        w0 = start[2] + ow * step[2]
        within = together and w0 >= 0 and w0 + kernel[2] <= width
        i, j = first_i, first_j
        for _ in range(rows[0], rows[1]):
            d = start[0] + od * step[0] + i * spacing[0]
            h = start[1] + oh * step[1] + j * spacing[1]
            line = ((n * depth + d) * height + h) * width
            j += 1
            if j == kernel[1]:
                i, j = i + 1, 0
            if d < 0 or d >= depth or h < 0 or h >= height:
                _zero(columns, at, run)
                at += run
            elif within:
                copy(source, (line + w0) * channels, columns, at, run)
                at += run
            else:
                for tap in range(kernel[2]):
                    w = w0 + tap * spacing[2]
                    if 0 <= w < width:
                        copy(source, (line + w) * channels + channel, columns, at, wide)
                    else:
                        _zero(columns, at, wide)
                    at += wide
        n, od, oh, ow = _next(n, od, oh, ow, count)


@jit(parallel=True)
def fill(source, columns, positions, channels, size, count, kernel, start, step, spacing):
    """columns (positions, kernel * channels): what every position of the walk sees."""
    block = 16
    rows = kernel[0] * kernel[1]
    length = rows * kernel[2] * channels
    for task in prange((positions + block - 1) // block):
        begin = task * block
        _fill(
            source, columns, begin * length, begin, min(begin + block, positions), (0, rows), channels, (0, channels),
            size, count, kernel, start, step, spacing,
        )  # fmt: skip


@jit(parallel=True)
def correlate(
    source, weight, out, scratch, threads, tile, row_chunk, blocks, batch, groups, wide, deep, weight_turned,
    size, count, kernel, start, step, spacing, out_size, first, every,
):  # fmt: skip
    """out (batch, *out_size, groups * deep) = the walk over source (batch, *size, groups * wide) with weight.

    weight is (groups, kernel * wide, deep), or (groups, deep, kernel * wide) if weight_turned. `tile` positions are
    one task, their columns filled and multiplied `row_chunk` kernel rows at a time; `blocks` splits the output channels
    of a group. scratch: for each thread tile * (row_chunk * kernel[2] * wide + deep) elements.
    """
    positions = batch * count[0] * count[1] * count[2]
    tiles = (positions + tile - 1) // tile
    rows, run = kernel[0] * kernel[1], kernel[2] * wide
    length, channels, out_channels = rows * run, groups * wide, groups * deep
    block = (deep + blocks - 1) // blocks
    # a 1x1 kernel on every position in turn: the source itself is the columns
    direct = length == wide and size == count and start == (0, 0, 0) and step == (1, 1, 1)
    dense = out_size == count and first == (0, 0, 0) and every == (1, 1, 1)
    each = tile * (row_chunk * run + deep)
    tasks = groups * blocks * tiles
    for thread in prange(threads):
        columns = thread * each
        result = columns + tile * row_chunk * run
        for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
            group = task // (blocks * tiles)
            k0 = task // tiles % blocks * block
            deep_here = min(block, deep - k0)
            begin = task % tiles * tile
            end = min(begin + tile, positions)
            if deep_here <= 0:
                continue
            for row in range(0, rows, row_chunk):
                stop = min(row + row_chunk, rows)
                depth = (stop - row) * run
                if weight_turned:
                    w_at, ldw = (group * deep + k0) * length + row * run, length
                else:
                    w_at, ldw = (group * length + row * run) * deep + k0, deep
                beta = 0.0 if row == 0 else 1.0
                c, c_at, ldc = scratch, result, deep_here
                if dense:
                    c, c_at, ldc = out, begin * out_channels + group * deep + k0, out_channels
                if direct:
                    gemm(
                        False, weight_turned, end - begin, deep_here, depth,
                        source, begin * channels + group * wide, channels, weight, w_at, ldw, beta, c, c_at, ldc,
                    )  # fmt: skip
                else:
                    _fill(
                        source, scratch, columns, begin, end, (row, stop), channels, (group * wide, wide),
                        size, count, kernel, start, step, spacing,
                    )  # fmt: skip
                    gemm(
                        False, weight_turned, end - begin, deep_here, depth,
                        scratch, columns, depth, weight, w_at, ldw, beta, c, c_at, ldc,
                    )  # fmt: skip
            if not dense:
                n, od, oh, ow = _place(begin, count)
                for position in range(begin, end):
                    d, h, w = first[0] + od * every[0], first[1] + oh * every[1], first[2] + ow * every[2]
                    place = ((n * out_size[0] + d) * out_size[1] + h) * out_size[2] + w
                    at = place * out_channels + group * deep + k0
                    copy(scratch, result + (position - begin) * deep_here, out, at, deep_here)
                    n, od, oh, ow = _next(n, od, oh, ow, count)


@jit(parallel=True)
def correlate_weight(
    source, slope, out, parts, scratch, threads, tile, chunks, row_chunk, blocks, batch, groups, wide, deep,
    size, count, kernel, start, step, spacing,
):  # fmt: skip
    """out (groups, deep, kernel * wide) = sum over positions of slope (batch, *count, groups * deep) times columns.

    Tasks are chunks of positions x row_chunk kernel rows x blocks of output channels x groups. With more than one chunk
    each has its own sum in parts (chunks, *out.shape), added in order at the end: the same bits every time.
    scratch: for each thread tile * row_chunk * kernel[2] * wide elements.
    """
    positions = batch * count[0] * count[1] * count[2]
    rows, run = kernel[0] * kernel[1], kernel[2] * wide
    length, channels, out_channels = rows * run, groups * wide, groups * deep
    direct = length == wide and size == count and start == (0, 0, 0) and step == (1, 1, 1)
    row_chunks, block = (rows + row_chunk - 1) // row_chunk, (deep + blocks - 1) // blocks
    each = tile * row_chunk * run
    tasks = chunks * row_chunks * blocks * groups
    for thread in prange(threads):
        columns = thread * each
        for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
            group, rest = task % groups, task // groups
            k0, rest = rest % blocks * block, rest // blocks
            row, chunk = rest % row_chunks * row_chunk, rest // row_chunks
            stop, deep_here = min(row + row_chunk, rows), min(block, deep - k0)
            depth = (stop - row) * run
            if deep_here <= 0:
                continue
            low, high = chunk * positions // chunks, (chunk + 1) * positions // chunks
            place = ((chunk * groups + group) * deep + k0) * length + row * run
            for begin in range(low, high, tile):
                end = min(begin + tile, high)
                beta = 0.0 if begin == low else 1.0
                slope_at = begin * out_channels + group * deep + k0
                if direct:
                    gemm(
                        True, False, deep_here, depth, end - begin, slope, slope_at, out_channels,
                        source, begin * channels + group * wide, channels, beta, parts, place, length,
                    )  # fmt: skip
                else:
                    _fill(
                        source, scratch, columns, begin, end, (row, stop), channels, (group * wide, wide),
                        size, count, kernel, start, step, spacing,
                    )  # fmt: skip
                    gemm(
                        True, False, deep_here, depth, end - begin, slope, slope_at, out_channels,
                        scratch, columns, depth, beta, parts, place, length,
                    )  # fmt: skip
    if chunks > 1:
        total = groups * deep * length
        for thread in prange(threads):
            low, high = thread * total // threads, (thread + 1) * total // threads
            copy(parts, low, out, low, high - low)
            for chunk in range(1, chunks):
                for e in range(low, high):
                    out[np.uint64(e)] += parts[np.uint64(chunk * total + e)]


@jit(inline=True)
def _add_products(a, a_at, b, b_at, out, out_at, number):
    for e in range(number):
        out[np.uint64(out_at + e)] += a[np.uint64(a_at + e)] * b[np.uint64(b_at + e)]


@jit(parallel=True)
def depthwise(source, weight, out, batch, channels, size, count, kernel, start, step, spacing, out_size, first, every):
    """`correlate` where each group has one channel in and one out: too little for a product of matrices, but the
    channels lie side by side. weight is (kernel, channels)."""
    for row in prange(batch * count[0] * count[1]):
        n, od, oh, _ = _place(row * count[2], count)
        d, h = first[0] + od * every[0], first[1] + oh * every[1]
        target = ((n * out_size[0] + d) * out_size[1] + h) * out_size[2] + first[2]
        for ow in range(count[2]):
            _zero(out, (target + ow * every[2]) * channels, channels)
        for i in range(kernel[0]):
            d = start[0] + od * step[0] + i * spacing[0]
            for j in range(kernel[1]):
                h = start[1] + oh * step[1] + j * spacing[1]
                if d < 0 or d >= size[0] or h < 0 or h >= size[1]:
                    continue
                for k in range(kernel[2]):
                    tap = ((i * kernel[1] + j) * kernel[2] + k) * channels
                    offset = start[2] + k * spacing[2]
                    low, high = meeting(offset, size[2], count[2], step[2])
                    line = ((n * size[0] + d) * size[1] + h) * size[2] + offset
                    for ow in range(low, high):
                        a, b = (line + ow * step[2]) * channels, (target + ow * every[2]) * channels
                        _add_products(source, a, weight, tap, out, b, channels)


@jit(parallel=True)
def depthwise_weight(source, slope, parts, threads, batch, channels, size, count, kernel, start, step, spacing):
    """parts (threads, kernel, channels): what each thread's share of the rows adds to the gradient."""
    length, rows = kernel[0] * kernel[1] * kernel[2] * channels, batch * count[0] * count[1]
    for thread in prange(threads):
        _zero(parts, thread * length, length)
        for row in range(thread * rows // threads, (thread + 1) * rows // threads):
            n, od, oh, _ = _place(row * count[2], count)
            for i in range(kernel[0]):
                d = start[0] + od * step[0] + i * spacing[0]
                for j in range(kernel[1]):
                    h = start[1] + oh * step[1] + j * spacing[1]
                    if d < 0 or d >= size[0] or h < 0 or h >= size[1]:
                        continue
                    for k in range(kernel[2]):
                        tap = thread * length + ((i * kernel[1] + j) * kernel[2] + k) * channels
                        offset = start[2] + k * spacing[2]
                        low, high = meeting(offset, size[2], count[2], step[2])
                        line = ((n * size[0] + d) * size[1] + h) * size[2] + offset
                        for ow in range(low, high):
                            a, b = (line + ow * step[2]) * channels, (row * count[2] + ow) * channels
                            _add_products(source, a, slope, b, parts, tap, channels)
