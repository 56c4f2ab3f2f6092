"""Compiled sums of flat arrays, and softmax of rows.

Some thousand elements are added up in their own type, which vector instructions do best, and these sums in float64.
"""

from __future__ import annotations

import numpy as np

from .compile import jit, threaded
from .elementwise_loops import exp
from .loops import portion

CHUNK = 2**12  # elements
WIDTH = 256  # elements of a line of some whole rows, at least half of that: loops over a few columns would be slow
HEIGHT = 64  # lines that are added up in their own type


@threaded(reassociate=True)
def add_rows(thread, threads, x, width, out):
    """out[r], the sum of row r of `width` elements; the last row may be shorter."""
    begin, after = portion(thread, threads, out.size)
    for r in range(begin, after):
        end = min((r + 1) * width, x.size)
        total = 0.0
        for first in range(r * width, end, CHUNK):
            s = x.dtype.type(0)
            for e in range(first, min(first + CHUNK, end)):
                s += x[np.uint64(e)]
            total += s
        out[r] = total


@threaded
def add_columns(thread, threads, x, columns, rows, out):
    """out[p, c], the sum of column c over part p, `rows` rows; the last part may have fewer."""
    width = columns * max(1, WIDTH // columns)
    line = np.zeros(width, x.dtype)
    begin, after = portion(thread, threads, len(out))
    for p in range(begin, after):
        out[p] = 0
        end = min((p + 1) * rows * columns, x.size)
        for first in range(p * rows * columns, end, HEIGHT * width):
            line[:] = 0
            for base in range(first, min(first + HEIGHT * width, end), width):
                for e in range(min(width, end - base)):
                    line[np.uint64(e)] += x[np.uint64(base + e)]
            for base in range(0, width, columns):
                for c in range(columns):
                    out[p, c] += line[np.uint64(base + c)]


# ---- softmax and its relatives: flat arrays of rows of `width` elements, which stay in the first cache
LANES = 16


@jit(inline=True)
def largest(x, begin, end, lanes):
    """The largest number from begin to end. lanes: LANES numbers of workspace, which vectors fill."""
    lanes[:] = x[begin]
    for first in range(begin, end - LANES + 1, LANES):
        for lane in range(LANES):
            value, most = x[np.uint64(first + lane)], lanes[np.uint64(lane)]
            lanes[np.uint64(lane)] = value if value > most else most
    for e in range(max(begin, end - LANES + 1), end):
        lanes[0] = max(lanes[0], x[np.uint64(e)])
    return lanes.max()


@jit(inline=True, reassociate=True)
def _exp_sum(x, top, begin, end, y):
    """The sum of y = exp(x - top)."""
    total = np.float64(0)
    for first in range(begin, end, CHUNK):
        s = np.float32(0)
        for e in range(first, min(first + CHUNK, end)):
            value = exp(x[np.uint64(e)] - top)
            y[np.uint64(e)] = value
            s += value
        total += s
    return total


@threaded
def softmax(thread, threads, x, width, y):
    """Of float32."""
    lanes = np.empty(LANES, np.float32)
    begin, after = portion(thread, threads, x.size // width)
    for base in range(begin * width, after * width, width):
        top = largest(x, base, base + width, lanes)
        share = np.float32(1 / _exp_sum(x, top, base, base + width, y))
        for e in range(base, base + width):
            y[np.uint64(e)] *= share


@threaded
def log_softmax(thread, threads, x, width, y):
    """Of float32."""
    lanes = np.empty(LANES, np.float32)
    begin, after = portion(thread, threads, x.size // width)
    for base in range(begin * width, after * width, width):
        top = largest(x, base, base + width, lanes)
        log = np.float32(np.log(_exp_sum(x, top, base, base + width, y)))
        for e in range(base, base + width):
            y[np.uint64(e)] = (x[np.uint64(e)] - top) - log


@jit(inline=True, reassociate=True)
def _dot(a, b, begin, end):
    total = 0.0
    for first in range(begin, end, CHUNK):
        s = a.dtype.type(0)
        for e in range(first, min(first + CHUNK, end)):
            s += a[np.uint64(e)] * b[np.uint64(e)]
        total += s
    return total


@jit(inline=True, reassociate=True)
def _sum(a, begin, end):
    total = 0.0
    for first in range(begin, end, CHUNK):
        s = a.dtype.type(0)
        for e in range(first, min(first + CHUNK, end)):
            s += a[np.uint64(e)]
        total += s
    return total


@threaded
def softmax_gradient(thread, threads, g, y, width, gx):
    """Of float32."""
    begin, after = portion(thread, threads, y.size // width)
    for base in range(begin * width, after * width, width):
        mean = np.float32(_dot(g, y, base, base + width))
        for e in range(base, base + width):
            gx[np.uint64(e)] = y[np.uint64(e)] * (g[np.uint64(e)] - mean)


@threaded
def log_softmax_gradient(thread, threads, g, y, width, gx):
    """Of float32."""
    begin, after = portion(thread, threads, y.size // width)
    for base in range(begin * width, after * width, width):
        total = np.float32(_sum(g, base, base + width))
        for e in range(base, base + width):
            gx[np.uint64(e)] = g[np.uint64(e)] - exp(y[np.uint64(e)]) * total
