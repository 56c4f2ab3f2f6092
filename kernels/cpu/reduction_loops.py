"""Compiled sums of flat arrays.

Some thousand elements are added up in their own type, which vector instructions do best, and these sums in float64.
"""

from __future__ import annotations

import numpy as np

from .compile import threaded
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
