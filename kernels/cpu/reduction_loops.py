"""Compiled sums of flat arrays. None starts threads: pieces.py gives each of its threads a part.

Some thousand elements are added up in their own type, which vector instructions do best, and these sums in float64.
"""

from __future__ import annotations

import numpy as np

from .compile import jit

CHUNK = 2**12  # elements
WIDTH = 256  # elements of a line of some whole rows, at least half of that: loops over a few columns would be slow
HEIGHT = 64  # lines that are added up in their own type


@jit(reassociate=True)
def add_rows(x, width, start, stop, out):
    """out[r] for the rows from start to stop of `width` elements; the last of all may be shorter."""
    for r in range(start, stop):
        end = min((r + 1) * width, x.size)
        total = 0.0
        for first in range(r * width, end, CHUNK):
            s = x.dtype.type(0)
            for e in range(first, min(first + CHUNK, end)):
                s += x[np.uint64(e)]
            total += s
        out[r] = total


@jit
def add_columns(x, columns, rows, start, stop, out):
    """out[p, c], the sum of column c over part p, for the parts from start to stop of `rows` rows; the last of all may
    have fewer."""
    width = columns * max(1, WIDTH // columns)
    line = np.zeros(width, x.dtype)
    for p in range(start, stop):
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
