"""Compiled activations at the output of a product of matrices, and their gradients, each in one pass."""

from __future__ import annotations

import numpy as np

from .compile import threaded
from .recurrent_loops import row, sigmoid, tanh
from .vector import width_of

RELU, TANH, SIGMOID = range(3)
ROWS = 64  # whose sums are taken in the type of the arrays; these sums are added up in float64


@threaded
def activate(thread, threads, y, kind):
    """y, flat float32, in place."""
    low, high = y.size * thread // threads, y.size * (thread + 1) // threads
    if kind == RELU:
        for e in range(low, high):
            i = np.uint64(e)
            y[i] = np.float32(0) if y[i] < 0 else y[i]
    elif kind == TANH:
        for e in range(low, high):
            i = np.uint64(e)
            y[i] = tanh(y[i])
    else:
        for e in range(low, high):
            i = np.uint64(e)
            y[i] = sigmoid(y[i])


@threaded
def slopes(thread, threads, like, g, y, gz, rows, columns, sums, parts, kind):
    """gz = g times the activation's derivative where it gave y: (rows, columns) each, of which the addresses are given,
    since views of rows that begin at 0 become vector code.

    parts: (threads, columns), float64, what the rows of a thread add up to. sums: the same in the type of the rest.
    """
    one, width = like + 1, width_of(like)
    low, high = rows * thread // threads, rows * (thread + 1) // threads
    total, some = parts[thread], sums[thread]
    total[:] = 0
    for r in range(low, high):
        if (r - low) % ROWS == 0:
            if r > low:
                total += some
            some[:] = 0
        at = r * columns * width
        slope, result, given = row(like, gz + at, columns), row(like, y + at, columns), row(like, g + at, columns)
        if kind == RELU:
            for j in range(columns):
                i = np.uint64(j)
                slope[i] = given[i] if not result[i] <= 0 else like
        elif kind == TANH:
            for j in range(columns):
                i = np.uint64(j)
                slope[i] = given[i] * (one - result[i] * result[i])
        else:
            for j in range(columns):
                i = np.uint64(j)
                slope[i] = given[i] * (result[i] * (one - result[i]))
        for j in range(columns):
            i = np.uint64(j)
            some[i] += slope[i]
    if high > low:
        total += some
