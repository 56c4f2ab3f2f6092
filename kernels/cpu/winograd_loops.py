"""Compiled kernels of Winograd convolution: tiles into points, products at each point, points into tiles.

Everything is three-dimensional, flat and channels-last, as in direct_loops.py. Tiles lie in planes, across height and
width; along the depth the convolution is direct: its taps are terms of the products, like channels. So are the phases
of a stride in the plane, each of which has its own part of the kernel. Both together are called *terms*.

A *column* is what lies at one place of a plane, all along the depth. Each thread transforms a block of columns,
multiplies it and transforms the result back before it takes the next, so that the block stays in its cache. As points
a block is (points, columns, entries along the depth, phases, channels), channels filled up to whole vectors.

Tuples hold a number for depth, height and width, or for height and width. `which` is the place of a matrix in
one of the lists of points.py, reach the width of a tile as points. Addresses, and gaps between them, are in bytes.
"""

from __future__ import annotations

from .compile import jit, threaded
from .direct_loops import following, place
from .points import INTO, OF_SUMS, OF_WEIGHT, OUT_OF
from .vector import BYTES, PANEL, ROWS, move, move_some, multiply, outer, take, transforms, transpose, width_of

_into_points, _out_of_points = transforms(INTO), transforms(OUT_OF)
_weight_points, _sum_points = transforms(OF_WEIGHT), transforms(OF_SUMS)


@jit(inline=True)
def spaced(gap):
    """At least `gap` bytes from one point to the next, such that the points spread over all sets of a cache."""
    return (gap // BYTES | 1) * BYTES


@jit(inline=True)
def filled(channels, width):
    """Bytes of so many channels in whole vectors."""
    return (channels * width + BYTES - 1) // BYTES * BYTES


@jit(inline=True)
def _into(like, ground, channels, size, begin, end, planes, entries, tile, offset, stride, patch, reach, which,
          points, apart, scratch):  # fmt: skip
    """Columns begin..end of the source, at address ground, as points, from address `points` on.

    planes: tiles in height and width. In the plane a tile is patch x patch numbers `stride` apart for each phase; the
    first is at place * tile * stride + phase + offset. Entry e of a column is the source's plane e + offset.
    scratch: the address of patch * (patch + reach) vectors.
    """
    width = width_of(like)
    by_w = channels * width
    by_h = size[2] * by_w
    by_d = size[1] * by_h
    second, across = scratch + patch * patch * BYTES, reach * BYTES
    count = (planes[0], planes[1], entries)
    span = (patch - 1) * stride
    n, th, tw, entry = place(begin * entries, count)
    to = points
    for _ in range((end - begin) * entries):
        d = entry + offset[0]
        for phase in range(stride * stride):
            h, w = th * tile * stride + phase // stride + offset[1], tw * tile * stride + phase % stride + offset[2]
            inside = h >= 0 and w >= 0 and h + span < size[1] and w + span < size[2]
            corner = ground + n * size[0] * by_d + d * by_d + h * by_h + w * by_w
            for vector in range(0, by_w, BYTES):
                if d < 0 or d >= size[0]:
                    for point in range(reach * reach):
                        move(like, ground, 0, to + point * apart)
                    to += BYTES
                    continue
                a, line, pixel = corner + vector, by_h * stride, by_w * stride
                number = min(BYTES, by_w - vector) // width
                if not inside or number * width < BYTES:
                    spot = scratch
                    for j in range(0, patch * stride, stride):
                        met = 0 <= h + j < size[1]
                        for k in range(0, patch * stride, stride):
                            move(like, a + j * by_h + k * by_w, number if met and 0 <= w + k < size[2] else 0, spot)
                            spot += BYTES
                    a, line, pixel = scratch, patch * BYTES, BYTES
                _into_points(like, which, patch, a, line, pixel, second, across, BYTES, 0, 0)
                _into_points(like, which, reach, second, BYTES, across, to, apart, reach * apart, 0, 0)
                to += BYTES
        n, th, tw, entry = following(n, th, tw, entry, count)


@jit(inline=True)
def _out_of(like, points, apart, ground, channels, size, begin, end, planes, count, tile, first, every, reach, which,
            scratch, bias, relu):  # fmt: skip
    """Columns begin..end of the result, at address ground, from points: tiles side by side.

    There are `count` outputs, which go to first + place * every in height and width.

    scratch: the address of tile * (tile + reach) vectors.
    """
    width = width_of(like)
    by_w = channels * width
    by_h = size[2] * by_w
    by_d = size[1] * by_h
    line, pixel = by_h * every, by_w * every
    second, across = scratch + tile * tile * BYTES, reach * BYTES
    tiles = (planes[0], planes[1], size[0])
    n, th, tw, d = place(begin * size[0], tiles)
    a = points
    for _ in range((end - begin) * size[0]):
        h, w = th * tile, tw * tile
        rows, pixels = min(tile, count[1] - h), min(tile, count[2] - w)
        h, w = first[0] + h * every, first[1] + w * every
        corner = ground + n * size[0] * by_d + d * by_d + h * by_h + w * by_w
        for vector in range(0, by_w, BYTES):
            number = min(BYTES, by_w - vector) // width
            begins = bias + vector if bias else 0
            _out_of_points(like, which, reach, a, apart, reach * apart, second, BYTES, across, 0, 0)
            if pixels == tile and number * width == BYTES:
                _out_of_points(like, which, rows, second, across, BYTES, corner + vector, line, pixel, begins, relu)
            else:
                _out_of_points(like, which, rows, second, across, BYTES, scratch, tile * BYTES, BYTES, begins, relu)
                for j in range(rows):
                    for k in range(pixels):
                        spot = scratch + (j * tile + k) * BYTES
                        move_some(like, spot, number, corner + vector + j * line + k * pixel)
            a += BYTES
        n, th, tw, d = following(n, th, tw, d, tiles)


@threaded
def convolve(thread, threads, source, panels, out, space, table, moves, places, taken, block, batch, channels, deep,
             size, out_size, entries, tile, every, stride, reach, into, out_of, bias, relu):  # fmt: skip
    """out (batch, *out_size, deep) from source (batch, *size, channels) and panels from `transform_weight`, for each
    phase of a transposed convolution.

    places: for each phase the offset, first, outputs and planes (ten int64): there are `outputs`, which go to first +
    place * every in height and width. taken: a zero.
    moves: for each term the bytes from the points of an output to those that the term reads, and from the first panel.
    space: bytes; for each thread the points of `block` columns, in and out, and 2 * reach**2 vectors of scratch. table:
    for each thread 2 * block * out_size[0] int64, rounded up to ROWS. bias, relu: of `Finish.arguments`.
    """
    like = source[0]
    width, terms, points, phases = width_of(like), moves.size // 2, reach * reach, places.size // 10
    wide, broad = stride * stride * filled(channels, width), filled(deep, width)
    parts, tall = (deep * width + PANEL - 1) // PANEL, (block * out_size[0] + ROWS - 1) // ROWS * ROWS
    left_half, right_half = points * spaced(block * entries * wide), points * spaced(block * out_size[0] * broad)
    each = left_half + right_half + 2 * points * BYTES
    panel = terms * channels * PANEL
    ground, target, weights = source.ctypes.data, out.ctypes.data, panels.ctypes.data
    common, memory, addresses = moves.ctypes.data, space.ctypes.data, table.ctypes.data
    begins = bias.ctypes.data if bias.size else 0
    left = memory + thread * each
    right = left + left_half
    scratch = right + right_half
    rows = thread * 2 * tall
    at = addresses + 8 * rows
    most = 0  # columns of a phase
    for phase in range(phases):
        most = max(most, batch * places[10 * phase + 8] * places[10 * phase + 9])
    blocks = (most + block - 1) // block
    while True:
        task = take(taken.ctypes.data)
        if task >= blocks * phases:
            break
        phase, begin = task // blocks, task % blocks * block
        p = 10 * phase
        offset, first = (places[p], places[p + 1], places[p + 2]), (places[p + 3], places[p + 4])
        outputs, planes = (places[p + 5], places[p + 6], places[p + 7]), (places[p + 8], places[p + 9])
        end = min(begin + block, batch * planes[0] * planes[1])
        if begin >= end:
            continue
        count = (end - begin) * out_size[0]
        for row in range((count + ROWS - 1) // ROWS * ROWS):
            entry = min(row, count - 1)
            column, d = entry // out_size[0], entry % out_size[0]
            table[rows + row] = left + (column * entries + d) * wide
            table[rows + tall + row] = right + entry * broad
        apart, gap = spaced((end - begin) * entries * wide), spaced(count * broad)
        _into(like, ground, channels, size, begin, end, planes, entries, tile, offset, stride, reach, reach,
              into, left, apart, scratch)  # fmt: skip
        for point in range(points):
            for part in range(parts):
                here = weights + (phase * points + point) * spaced(parts * panel) + part * panel
                for row in range(0, count, ROWS):
                    multiply(
                        like, terms, channels, at + 8 * row, 0, common, here, at + 8 * (tall + row),
                        point * gap + part * PANEL, point * apart, (min(PANEL, broad - part * PANEL)) // width, 0,
                    )  # fmt: skip
        _out_of(like, right, gap, target, deep, out_size, begin, end, planes, outputs, tile, first, every, reach,
                out_of, scratch, begins, relu)  # fmt: skip


@threaded
def transform_weight(thread, threads, weight, panels, space, planes, starts, phases, channels, deep, channel_gap,
                     column_gap, tap_gaps, area, kernel, reach, which):  # fmt: skip
    """panels (phases, points, parts, terms, channels, panel): weight[planes[e] + channel * channel_gap + column *
    column_gap + starts[e] + (j, k) . tap_gaps], for j, k < kernel, as points, where e = phase * terms + term. The last
    two summands stay below `area`.

    space: for each thread area + kernel * reach vectors.
    """
    like, terms = weight[0], starts.size // phases
    width = width_of(like)
    lanes, wide = BYTES // width, PANEL // width
    parts, across = (deep + wide - 1) // wide, reach * BYTES
    each, apart = parts * terms * channels, spaced(parts * terms * channels * PANEL)
    ground, target, memory = weight.ctypes.data, panels.ctypes.data, space.ctypes.data
    first = memory + thread * (area + kernel * reach) * BYTES
    second = first + area * BYTES
    line, pixel = tap_gaps[0] * BYTES, tap_gaps[1] * BYTES
    # one after the other these fill the memory at each point from front to back
    for task in range(thread * phases * each // threads, (thread + 1) * phases * each // threads):
        phase, row = task // each, task % each
        channel, part = row % channels, row // channels // terms
        e = phase * terms + row // channels % terms
        for k0 in range(part * wide, part * wide + wide, lanes):
            at = ground + (planes[e] + channel * channel_gap + k0 * column_gap) * width
            for tap in range(0, area, lanes):
                transpose(like, at + tap * width, column_gap * width, deep - k0, min(lanes, area - tap),
                          first + tap * BYTES, BYTES, lanes)  # fmt: skip
            _weight_points(like, which, kernel, first + starts[e] * BYTES, line, pixel, second, across, BYTES, 0, 0)
            to = target + phase * reach * reach * apart + row * PANEL + (k0 - part * wide) * width
            _weight_points(like, which, reach, second, BYTES, across, to, apart, reach * apart, 0, 0)


@threaded
def expand(thread, threads, source, space, scratch, low, high, channels, size, planes, entries, tile, offset, stride,
           patch, reach, which):  # fmt: skip
    """space: columns low..high of the source as points. scratch: for each thread patch * (patch + reach) vectors."""
    like = source[0]
    row = entries * stride * stride * filled(channels, width_of(like))
    apart = spaced((high - low) * row)
    ground, points, memory = source.ctypes.data, space.ctypes.data, scratch.ctypes.data
    begin, end = low + thread * (high - low) // threads, low + (thread + 1) * (high - low) // threads
    _into(like, ground, channels, size, begin, end, planes, entries, tile, offset, stride, patch, reach, which,
          points + (begin - low) * row, apart, memory + thread * patch * (patch + reach) * BYTES)  # fmt: skip


@jit(inline=True)
def _accumulate(like, left, right, apart, gap, sums, table, addresses, lines, count, begin, end, mine, spare, moves,
                rows, channels, broad, terms, more):  # fmt: skip
    """Units begin..end of `accumulate`, each a strip of rows of one term at one point, for `count` outputs whose
    entries are at the addresses from table[lines] on."""
    strips, parts = (channels + rows - 1) // rows, (broad + PANEL - 1) // PANEL
    across, width = spaced(terms * channels * broad), width_of(like)
    for unit in range(begin, end):
        strip, term, point = unit % strips, unit // strips % terms, unit // strips // terms
        new = strip * rows  # the last strip reaches back over channels that are not its own
        e0 = min(new, channels - rows)
        for part in range(parts):
            for i in range(rows):
                at = sums + point * across + (term * channels + e0 + i) * broad + part * PANEL
                table[mine + i] = at if e0 + i >= new else spare
            outer(
                like, rows, count, addresses + 8 * lines, point * apart + moves[2 * term] + e0 * width,
                right + point * gap + part * PANEL, broad, addresses + 8 * mine,
                min(PANEL, broad - part * PANEL) // width, more,
            )  # fmt: skip


@threaded
def accumulate(thread, threads, left, right, sums, spare, table, moves, rows, columns, entries, depth, channels, stride,
               deep, reach, more):  # fmt: skip
    """sums (points, terms, channels, filled deep) = or, if `more`, += for each point and term the products of channels
    in left (the source as points) and right (the slope as points), summed over `columns` with `depth` outputs each.

    rows: of `outer`, at most channels. table: for each output where in left its entry begins, then `rows` int64 for
    each thread; spare: for each thread a panel.
    """
    like = sums[0]
    width, terms = width_of(like), moves.size // 2
    wide, broad, count = stride * stride * filled(channels, width), filled(deep, width), columns * depth
    apart, gap = spaced(columns * entries * wide), spaced(count * broad)
    units = reach * reach * terms * ((channels + rows - 1) // rows)
    ground, slope, total = left.ctypes.data, right.ctypes.data, sums.ctypes.data
    addresses, unused = table.ctypes.data, spare.ctypes.data
    begin, end = thread * units // threads, (thread + 1) * units // threads
    _accumulate(
        like, ground, slope, apart, gap, total, table, addresses, 0, count, begin, end, count + thread * rows,
        unused + thread * PANEL, moves, rows, channels, broad, terms, more,
    )  # fmt: skip


@threaded
def accumulate_apart(thread, threads, source, slope, sums, space, table, moves, rows, block, batch, channels, deep,
                     size, out_size, planes, entries, tile, offset, stride, reach, into, sloping):  # fmt: skip
    """sums (threads, ...), each as of `accumulate`, from the arrays: each thread transforms and sums up a part of the
    columns, in sums of its own.

    space: for each thread the points of `block` columns, of source and slope, scratch (2 * reach**2 vectors) and a
    panel. table: for each thread block * out_size[0] + rows int64.
    """
    like = source[0]
    width, terms, points = width_of(like), moves.size // 2, reach * reach
    wide, broad = stride * stride * filled(channels, width), filled(deep, width)
    number, depth = batch * planes[0] * planes[1], out_size[0]
    left_half, right_half = points * spaced(block * entries * wide), points * spaced(block * depth * broad)
    each = left_half + right_half + 2 * points * BYTES + PANEL
    length = points * spaced(terms * channels * broad)
    units = points * terms * ((channels + rows - 1) // rows)
    ground, other, total = source.ctypes.data, slope.ctypes.data, sums.ctypes.data
    addresses, memory = table.ctypes.data, space.ctypes.data
    left = memory + thread * each
    right = left + left_half
    scratch = right + right_half
    lines = thread * (block * depth + rows)
    low, high = thread * number // threads, (thread + 1) * number // threads
    for begin in range(low, high, block):
        end = min(begin + block, high)
        count = (end - begin) * depth
        apart, gap = spaced((end - begin) * entries * wide), spaced(count * broad)
        for row in range(count):
            table[lines + row] = left + (row // depth * entries + row % depth) * wide
        _into(like, ground, channels, size, begin, end, planes, entries, tile, offset, stride, reach, reach, into,
              left, apart, scratch)  # fmt: skip
        _into(like, other, deep, out_size, begin, end, planes, depth, tile, (0, 0, 0), 1, tile, reach, sloping,
              right, gap, scratch)  # fmt: skip
        _accumulate(like, left, right, apart, gap, total + thread * length, table, addresses, lines, count, 0,
                    units, lines + block * depth, scratch + 2 * points * BYTES, moves, rows, channels, broad,
                    terms, int(begin > low))  # fmt: skip
    if low == high:
        for e in range(thread * length // width, (thread + 1) * length // width):
            sums[e] = 0


@threaded
def transform_sums(thread, threads, sums, weight, space, planes, starts, channels, deep, channel_gap, column_gap,
                   tap_gaps, area, kernel, reach, which):  # fmt: skip
    """The gradient of the weight, laid out as in `transform_weight`, from the sums of its points."""
    like, terms = sums[0], starts.size
    width = width_of(like)
    lanes, broad = BYTES // width, filled(deep, width)
    apart, across, line, pixel = (
        spaced(terms * channels * broad),
        reach * BYTES,
        tap_gaps[0] * BYTES,
        tap_gaps[1] * BYTES,
    )
    phases = area // kernel // kernel  # terms that share a plane of the kernel
    groups = terms // phases
    tasks = channels * groups
    source, target, memory = sums.ctypes.data, weight.ctypes.data, space.ctypes.data
    first = memory + thread * (area + kernel * reach) * BYTES
    second = first + area * BYTES
    for task in range(thread * tasks // threads, (thread + 1) * tasks // threads):
        channel, group = task // groups, task % groups
        for k0 in range(0, deep, lanes):
            for term in range(group * phases, (group + 1) * phases):
                at = source + (term * channels + channel) * broad + k0 * width
                _sum_points(like, which, reach, at, apart, reach * apart, second, BYTES, across, 0, 0)
                _sum_points(like, which, kernel, second, across, BYTES, first + starts[term] * BYTES, line, pixel, 0, 0)
            to = target + (planes[group * phases] + channel * channel_gap + k0 * column_gap) * width
            number = min(lanes, deep - k0)
            for tap in range(0, area, lanes):
                count = min(lanes, area - tap)
                # the vectors, one for each tap, become rows of taps
                transpose(like, first + tap * BYTES, BYTES, count, number, to + tap * width, column_gap * width, count)
