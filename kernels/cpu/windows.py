"""Compiled kernels of pooling. x is (outer, D, H, W, inner) and y (outer, OD, OH, OW, inner), both flat.

Planes are (N * C, ..., 1) and channels-last arrays (N, ..., C): one set of loops serves both layouts, because a tap
meets a row of outputs in pieces that step evenly through both arrays: the row itself, or the channels of one position.
All tuples hold one number for each spatial axis; `before` is the padding in front.
"""

from __future__ import annotations

import numpy as np

from .compile import jit, threaded
from .loops import meeting, portion


@jit(inline=True)
def _met(tap, position, size, step, spacing, before):
    """Where a tap of one output lies, or -1 if that is padding."""
    place = position * step + tap * spacing - before
    return place if place < size else -1


@jit(inline=True)
def _take_larger(x, a, gap, y, indices, b, place, move, number):
    for e in range(number):
        value, largest, index = x[np.uint64(a + e * gap)], y[np.uint64(b + e)], indices[np.uint64(b + e)]
        # NaN is larger than every number; of equals the first stays
        better = index < 0 or (not value <= largest and largest == largest)
        y[np.uint64(b + e)] = value if better else largest
        indices[np.uint64(b + e)] = place + np.int32(e) * move if better else index


@threaded
def max_pool(thread, threads, x, y, indices, outer, inner, size, count, kernel, step, spacing, before):
    begin, end = portion(thread, threads, outer * count[0] * count[1])
    for row in range(begin, end):
        over_h = row // count[1]
        n = over_h // count[0]
        od, oh = over_h - n * count[0], row - over_h * count[1]
        out = row * count[2] * inner
        for e in range(out, out + count[2] * inner):
            y[np.uint64(e)] = 0
            indices[np.uint64(e)] = -1
        for i in range(kernel[0]):
            d = _met(i, od, size[0], step[0], spacing[0], before[0])
            for j in range(kernel[1]):
                h = _met(j, oh, size[1], step[1], spacing[1], before[1])
                if d < 0 or h < 0:
                    continue
                for k in range(kernel[2]):
                    offset = k * spacing[2] - before[2]
                    low, high = meeting(offset, size[2], count[2], step[2])
                    line = (d * size[1] + h) * size[2] + offset  # in the plane; the window's start adds ow * step
                    base = n * size[0] * size[1] * size[2] + line
                    place, move = np.int32(line + low * step[2]), np.int32(step[2])
                    if inner > 1:
                        for ow in range(low, high):
                            a, b = (base + ow * step[2]) * inner, out + ow * inner
                            _take_larger(x, a, 1, y, indices, b, np.int32(line + ow * step[2]), np.int32(0), inner)
                    elif step[2] == 1:  # constants let the compiler use vector instructions
                        _take_larger(x, base + low, 1, y, indices, out + low, place, np.int32(1), high - low)
                    elif step[2] == 2:
                        _take_larger(x, base + low * 2, 2, y, indices, out + low, place, np.int32(2), high - low)
                    else:
                        a = base + low * step[2]
                        _take_larger(x, a, step[2], y, indices, out + low, place, move, high - low)


@jit(inline=True)
def _clear(x, n, c, wide, places, inner):
    """Zeros in channels c .. c + wide of sample n."""
    if wide == inner:
        for e in range(n * places * inner, (n + 1) * places * inner):
            x[np.uint64(e)] = 0
    else:
        for place in range(places):
            for e in range(wide):
                x[np.uint64((n * places + place) * inner + c + e)] = 0


@threaded
def max_unpool(thread, threads, y, indices, x, wrong, outer, inner, block, size, count):
    """wrong[0] becomes 1 if an index lies outside of its plane; such elements are left out."""
    blocks = (inner + block - 1) // block
    places, positions = size[0] * size[1] * size[2], count[0] * count[1] * count[2]
    begin, end = portion(thread, threads, outer * blocks)
    for task in range(begin, end):
        n, c = task // blocks, task % blocks * block
        wide = min(block, inner - c)
        _clear(x, n, c, wide, places, inner)
        base, first = n * places * inner + c, n * positions * inner + c
        if inner == 1:  # the same as below without a loop around every single element
            for b in range(first, first + positions):
                index = np.int64(indices[np.uint64(b)])
                if 0 <= index < places:
                    x[np.uint64(base + index)] += y[np.uint64(b)]
                else:
                    wrong[0] = 1
        else:
            for b in range(first, first + positions * inner, inner):
                for e in range(wide):
                    index = np.int64(indices[np.uint64(b + e)])
                    if 0 <= index < places:
                        x[np.uint64(base + index * inner + e)] += y[np.uint64(b + e)]
                    else:
                        wrong[0] = 1


@jit(inline=True)
def _add(source, a, gap_a, out, b, gap_b, number):
    for e in range(number):
        out[np.uint64(b + e * gap_b)] += source[np.uint64(a + e * gap_a)]


@jit(inline=True)
def _add_quotients(source, a, divisor, at, move, out, b, gap, number):
    for e in range(number):
        out[np.uint64(b + e * gap)] += source[np.uint64(a + e)] / divisor[np.uint64(at + e * move)]


@threaded
def avg_pool(thread, threads, x, y, divisor, outer, inner, size, count, kernel, step, spacing, before):
    """divisor: (OD, OH, OW), what each window's sum is divided by."""
    begin, end = portion(thread, threads, outer * count[0] * count[1])
    for row in range(begin, end):
        over_h = row // count[1]
        n = over_h // count[0]
        od, oh = over_h - n * count[0], row - over_h * count[1]
        out = row * count[2] * inner
        for e in range(out, out + count[2] * inner):
            y[np.uint64(e)] = 0
        for i in range(kernel[0]):
            d = _met(i, od, size[0], step[0], spacing[0], before[0])
            for j in range(kernel[1]):
                h = _met(j, oh, size[1], step[1], spacing[1], before[1])
                if d < 0 or h < 0:
                    continue
                for k in range(kernel[2]):
                    offset = k * spacing[2] - before[2]
                    low, high = meeting(offset, size[2], count[2], step[2])
                    base = ((n * size[0] + d) * size[1] + h) * size[2] + offset
                    if inner > 1:
                        for ow in range(low, high):
                            _add(x, (base + ow * step[2]) * inner, 1, y, out + ow * inner, 1, inner)
                    elif step[2] == 1:
                        _add(x, base + low, 1, y, out + low, 1, high - low)
                    elif step[2] == 2:
                        _add(x, base + low * 2, 2, y, out + low, 1, high - low)
                    else:
                        _add(x, base + low * step[2], step[2], y, out + low, 1, high - low)
        first = (od * count[1] + oh) * count[2]
        for ow in range(count[2]):
            for e in range(inner):
                y[np.uint64(out + ow * inner + e)] /= divisor[np.uint64(first + ow)]


@threaded
def avg_unpool(thread, threads, y, x, divisor, outer, inner, block, size, count, kernel, step, spacing, before):
    """Each task owns some channels of one sample, or a plane, and adds up its windows in order."""
    blocks = (inner + block - 1) // block
    places = size[0] * size[1] * size[2]
    begin, end = portion(thread, threads, outer * blocks)
    for task in range(begin, end):
        n, c = task // blocks, task % blocks * block
        wide = min(block, inner - c)
        _clear(x, n, c, wide, places, inner)
        for od in range(count[0]):
            for oh in range(count[1]):
                first = (od * count[1] + oh) * count[2]
                row = ((n * count[0] + od) * count[1] + oh) * count[2]
                for i in range(kernel[0]):
                    d = _met(i, od, size[0], step[0], spacing[0], before[0])
                    for j in range(kernel[1]):
                        h = _met(j, oh, size[1], step[1], spacing[1], before[1])
                        if d < 0 or h < 0:
                            continue
                        for k in range(kernel[2]):
                            offset = k * spacing[2] - before[2]
                            low, high = meeting(offset, size[2], count[2], step[2])
                            base = ((n * size[0] + d) * size[1] + h) * size[2] + offset
                            if inner > 1:
                                for ow in range(low, high):
                                    a, b = (row + ow) * inner + c, (base + ow * step[2]) * inner + c
                                    _add_quotients(y, a, divisor, first + ow, 0, x, b, 1, wide)
                            elif step[2] == 1:
                                _add_quotients(y, row + low, divisor, first + low, 1, x, base + low, 1, high - low)
                            elif step[2] == 2:
                                b = base + low * 2
                                _add_quotients(y, row + low, divisor, first + low, 1, x, b, 2, high - low)
                            else:
                                b = base + low * step[2]
                                _add_quotients(y, row + low, divisor, first + low, 1, x, b, step[2], high - low)
