"""Compiled kernels of the convolution family: products straight from the arrays, without columns.

Everything is three-dimensional, flat and channels-last, and goes along walks (walks.py). All tuples hold one number for
each spatial axis.

A row of a product is named by its address (an "indirect convolution", M. Dukhan, arXiv:1907.02129): the channels of one
source element, or zeros where a tap meets padding. A tile of vector.ROWS positions all of whose taps lie inside needs
one address for each position and one distance for each tap; at the edges each pair has an address of its own, and taps
that meet nothing but padding are left out.
"""

from __future__ import annotations

import numpy as np

from .compile import jit, threaded
from .vector import BYTES, PANEL, ROWS, VECTORS, move, multiply_relu, outer, take, transpose


@jit(inline=True)
def place(position, count):
    """The sample and the place on each axis of a position."""
    rest, ow = position // count[2], position % count[2]
    rest, oh = rest // count[1], rest % count[1]
    return rest // count[0], rest % count[0], oh, ow


@jit(inline=True)
def following(n, od, oh, ow, count):
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
def entry_size(taps):
    """int64 numbers that `_aim` needs for a tile."""
    return ROWS + taps * (ROWS + 2) + 4 * ROWS + 2


@threaded
def pack(
    thread, threads, weight, panels, space, spots, groups, lines, rows, deep, group_gap, line_gap, column_gap
):  # fmt: skip
    """panels (groups, parts of the columns, rows, panel): row spots[e] + line is weight[group * group_gap + line *
    line_gap + column * column_gap + e] for all columns < deep, zero behind them; where spots[e] is negative, there is
    none.

    space: for each thread as many vectors as a vector has numbers.
    """
    like, width = weight[0], weight.itemsize
    lanes, wide, length = BYTES // width, PANEL // width, spots.size
    chunk = 8 * lanes
    parts, chunks = (deep + wide - 1) // wide, (length + chunk - 1) // chunk
    tasks = groups * parts * lines * chunks
    ground, target, memory = weight.ctypes.data, panels.ctypes.data, space.ctypes.data
    spare = memory + thread * lanes * BYTES
    for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
        low, rest = task % chunks * chunk, task // chunks
        line, part, group = rest % lines, rest // lines % parts, rest // lines // parts
        to = target + ((group * parts + part) * rows + line) * PANEL
        for vector in range(VECTORS):
            k = part * wide + vector * lanes
            at = ground + (group * group_gap + line * line_gap + k * column_gap) * width
            for e in range(low, min(low + chunk, length), lanes):
                number = min(lanes, length - e)
                transpose(like, at + e * width, column_gap * width, deep - k, number, spare, BYTES, lanes)
                for j in range(number):
                    if spots[e + j] >= 0:
                        move(like, spare + j * BYTES, lanes, to + spots[e + j] * PANEL + vector * BYTES)


@jit(inline=True)
def _aim(
    table, at, begin, end, ground, zeros, target, width, out_width, taps, size, count, kernel, start, step, spacing,
    out_size, first, every, panel,
):  # fmt: skip
    """Addresses for the tile of positions begin..end (at most ROWS; the last one is repeated), from table[at] on: the
    rows of the result, then of the source. Returns the number of taps that meet the source, and the addresses of
    each tap: 0 if all taps share those of the first and `moves` is that of the whole walk.

    ground, target: addresses of source and result; width, out_width: bytes from one element of them to the next.
    Behind the addresses lie the moves of the taps (2 * taps), then the places of the positions.
    """
    rows = at + ROWS
    places = rows + taps * (ROWS + 2)
    n, od, oh, ow = place(begin, count)
    d, h, w = start[0] + od * step[0], start[1] + oh * step[1], start[2] + ow * step[2]
    inside = d >= 0 and d + (kernel[0] - 1) * spacing[0] < size[0]
    inside = inside and h >= 0 and h + (kernel[1] - 1) * spacing[1] < size[1]
    if inside and begin + ROWS <= end and ow + ROWS <= count[2]:
        # the usual case: all in one line
        last = w + (ROWS - 1) * step[2] + (kernel[2] - 1) * spacing[2]
        if w >= 0 and last < size[2]:
            a = ground + (((n * size[0] + d) * size[1] + h) * size[2] + w) * width
            line = (n * out_size[0] + first[0] + od * every[0]) * out_size[1] + first[1] + oh * every[1]
            b = target + (line * out_size[2] + first[2] + ow * every[2]) * out_width
            for i in range(ROWS):
                table[rows + i] = a + i * step[2] * width
                table[at + i] = b + i * every[2] * out_width
            return taps, 0
    inside = True
    for i in range(ROWS):
        d, h, w = start[0] + od * step[0], start[1] + oh * step[1], start[2] + ow * step[2]
        line = (n * size[0] + d) * size[1] + h
        table[rows + i] = ground + (line * size[2] + w) * width
        table[places + 4 * i], table[places + 4 * i + 1], table[places + 4 * i + 2] = d, h, w
        table[places + 4 * i + 3] = n
        inside &= d >= 0 and d + (kernel[0] - 1) * spacing[0] < size[0]
        inside &= h >= 0 and h + (kernel[1] - 1) * spacing[1] < size[1]
        inside &= w >= 0 and w + (kernel[2] - 1) * spacing[2] < size[2]
        line = (n * out_size[0] + first[0] + od * every[0]) * out_size[1] + first[1] + oh * every[1]
        table[at + i] = target + (line * out_size[2] + first[2] + ow * every[2]) * out_width
        if begin + i + 1 < end:
            n, od, oh, ow = following(n, od, oh, ow, count)
    if inside:
        return taps, 0
    live, tap = 0, 0
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            for k in range(kernel[2]):
                met = False
                for row in range(ROWS):
                    spot = places + 4 * row
                    d, h = table[spot] + i * spacing[0], table[spot + 1] + j * spacing[1]
                    w = table[spot + 2] + k * spacing[2]
                    address = zeros
                    if 0 <= d < size[0] and 0 <= h < size[1] and 0 <= w < size[2]:
                        address = ground + (((table[spot + 3] * size[0] + d) * size[1] + h) * size[2] + w) * width
                        met = True
                    table[rows + live * ROWS + row] = address
                if met:
                    table[rows + taps * ROWS + 2 * live] = 0
                    table[rows + taps * ROWS + 2 * live + 1] = tap * panel
                    live += 1
                tap += 1
    return live, ROWS


@threaded
def correlate(
    thread, threads, source, panels, out, zeros, moves, table, taken, block, parts, chunks, batch, groups, deep,
    channels, shift, run, size, count, kernel, origin, step, spacing, out_size, first, every, bias, relu,
):  # fmt: skip
    """out (batch, *out_size, groups * deep) = the walk over source (batch, *size, channels) with packed weights.

    Group g reads `run` numbers from channel g * shift on. panels: from `pack`. moves: for each tap, the bytes from a
    position's first tap to this one, and from the first panel. zeros: as long as a row of the source and a run.
    Tasks are blocks of `block` tiles x `parts` of the pairs of group and panel; the taps are multiplied in `chunks`, so
    that the part of the panel in use stays in cache. table: for each thread block * entry_size(taps). taken: a zero.
    bias, relu: of `Finish.arguments`.
    """
    like, bytes_ = zeros[0], out.itemsize
    taps, lanes = kernel[0] * kernel[1] * kernel[2], PANEL // out.itemsize
    positions = batch * count[0] * count[1] * count[2]
    tiles = (positions + ROWS - 1) // ROWS
    blocks, columns = (tiles + block - 1) // block, (deep + lanes - 1) // lanes
    pairs, panel = groups * columns, run * PANEL
    each = entry_size(taps)
    ground, target, nothing = source.ctypes.data, out.ctypes.data, zeros.ctypes.data
    packed, common, addresses = panels.ctypes.data, moves.ctypes.data, table.ctypes.data
    begins = bias.ctypes.data if bias.size else 0
    tasks = blocks * parts
    mine = thread * block * each
    while True:
        task = take(taken.ctypes.data)
        if task >= tasks:
            break
        low = task // parts * block
        number = min(block, tiles - low)
        part = task % parts
        for tile in range(number):
            at = mine + tile * each
            begin = (low + tile) * ROWS
            table[at + each - 2], table[at + each - 1] = _aim(
                table, at, begin, min(begin + ROWS, positions), ground, nothing, target,
                channels * bytes_, groups * deep * bytes_, taps,
                size, count, kernel, origin, step, spacing, out_size, first, every, panel,
            )  # fmt: skip
        for pair in range(part * pairs // parts, (part + 1) * pairs // parts):
            group, k0 = pair // columns, pair % columns * lanes
            for chunk in range(chunks):
                for tile in range(number):
                    at = mine + tile * each
                    live, apart = table[at + each - 2], table[at + each - 1]
                    begin, end = chunk * live // chunks, (chunk + 1) * live // chunks
                    here = addresses + 8 * at
                    by = here + 8 * (ROWS + taps * ROWS) if apart else common
                    column = group * deep + k0
                    multiply_relu(
                        like, end - begin, run, here + 8 * (ROWS + begin * apart), apart, by + 16 * begin,
                        packed + pair * taps * panel, here, column * bytes_, group * shift * bytes_,
                        min(lanes, deep - k0), chunk, begins + column * bytes_ if begins else 0,
                        relu if chunk == chunks - 1 else 0,
                    )  # fmt: skip


@jit(inline=True)
def _sight(table, at, begin, end, tap, ground, zeros, width, size, count, start, step, spacing):
    """table[at:] = where one tap of each position begin..end reads. Returns whether any of it is in the source."""
    n, od, oh, ow = place(begin, count)
    met = False
    for position in range(end - begin):
        d, h = start[0] + od * step[0] + tap[0] * spacing[0], start[1] + oh * step[1] + tap[1] * spacing[1]
        w = start[2] + ow * step[2] + tap[2] * spacing[2]
        address = zeros
        if 0 <= d < size[0] and 0 <= h < size[1] and 0 <= w < size[2]:
            address = ground + (((n * size[0] + d) * size[1] + h) * size[2] + w) * width
            met = True
        table[at + position] = address
        n, od, oh, ow = following(n, od, oh, ow, count)
    return met


@threaded
def correlate_weight(
    thread, threads, source, slope, sums, zeros, space, table, chunks, parts, rows, block, batch, groups, deep,
    channels, shift, run, size, count, kernel, origin, step, spacing,
):  # fmt: skip
    """sums (chunks, groups, taps, run, deep) = sum over positions of what each tap reads times slope.

    slope is (batch, *count, groups * deep). There are chunks * parts tasks, one for each thread: a chunk of the
    positions x a part of the taps. rows: of `outer`, at most run; block: positions at a time. For each task, space is
    block + 1 panels, and table (block + 1) * taps + rows int64.
    """
    like, bytes_ = zeros[0], sums.itemsize
    taps, lanes = kernel[0] * kernel[1] * kernel[2], PANEL // sums.itemsize
    positions = batch * count[0] * count[1] * count[2]
    strips, half = (run + rows - 1) // rows, BYTES // sums.itemsize
    pitch = groups * deep * bytes_
    ground, other, nothing = source.ctypes.data, slope.ctypes.data, zeros.ctypes.data
    addresses, total = table.ctypes.data, sums.ctypes.data
    for task in range(thread * chunks * parts // threads, (thread + 1) * chunks * parts // threads):
        chunk, part = task // parts, task % parts
        mine, panel = task * ((block + 1) * taps + rows), space.ctypes.data + task * (block + 1) * PANEL
        met, targets, unused = mine + block * taps, mine + (block + 1) * taps, panel + block * PANEL
        low, high = chunk * positions // chunks, (chunk + 1) * positions // chunks
        units = taps * strips  # each is a strip of `rows` channels of one tap
        lead, last = part * units // parts, (part + 1) * units // parts
        for group in range(groups):
            for unit in range(lead, last):
                tap, strip = unit // strips, unit % strips
                at = ((chunk * groups + group) * taps + tap) * run * deep
                for e in range(at + strip * rows * deep, at + min(strip * rows + rows, run) * deep):
                    sums[np.uint64(e)] = 0
        for begin in range(low, high, block):
            end = min(begin + block, high)
            for tap in range(lead // strips, (last + strips - 1) // strips):
                where = (tap // (kernel[1] * kernel[2]), tap // kernel[2] % kernel[1], tap % kernel[2])
                table[met + tap] = _sight(table, mine + tap * block, begin, end, where, ground, nothing,
                                          channels * bytes_, size, count, origin, step, spacing)  # fmt: skip
            for group in range(groups):
                for k0 in range(0, deep, lanes):
                    # all units read it, so it is brought together: its rows lie far apart, and would share few places
                    # of the nearest cache
                    number = min(lanes, deep - k0)
                    at = other + begin * pitch + (group * deep + k0) * bytes_
                    for position in range(end - begin):
                        move(like, at, min(half, number), panel + position * PANEL)
                        if number > half:
                            move(like, at + BYTES, number - half, panel + position * PANEL + BYTES)
                        at += pitch
                    for unit in range(lead, last):
                        tap, strip = unit // strips, unit % strips
                        if not table[met + tap]:
                            continue
                        new = strip * rows  # the last strip reaches back over channels that are not its own
                        e0 = min(new, run - rows)
                        for i in range(rows):
                            place_ = (((chunk * groups + group) * taps + tap) * run + e0 + i) * deep + k0
                            table[targets + i] = total + place_ * bytes_ if e0 + i >= new else unused
                        outer(like, rows, end - begin, addresses + 8 * (mine + tap * block),
                              (group * shift + e0) * bytes_, panel, PANEL, addresses + 8 * targets, number,
                              1)  # fmt: skip
