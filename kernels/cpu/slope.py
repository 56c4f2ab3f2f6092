"""The gradient of ReLU and of the bias before it, in one pass: `conv_relu_slope` in reference/conv.py."""

from __future__ import annotations

import numpy as np

from . import threads
from .compile import threaded
from .layout import channels_last, empty, frozen

Array = np.ndarray

LINE = 512  # elements of a line, at least half of that: loops over a few channels are too short for vectors
LINES = 64  # whose sums are taken in the type of the array; these sums are added up in float64


def masked(g: Array, y: Array) -> tuple[Array, Array]:
    """y: (N, C, ...), channels-last without gaps, float32 or float64, as g is."""
    channels = y.shape[1]
    line, workers = max(1, LINE // channels) * channels, threads.count()
    gz = empty(y.size, y.dtype)
    sums, parts = np.empty(workers * line, y.dtype), np.zeros(workers * line)
    mask_and_sum(workers, frozen(channels_last(g)), frozen(channels_last(y)), gz, sums, parts, line, LINES)
    total = parts.reshape(-1, channels).sum(0).astype(y.dtype)
    return np.moveaxis(gz.reshape(np.moveaxis(y, 1, -1).shape), -1, 1), total


@threaded
def mask_and_sum(thread, threads, g, y, gz, sums, parts, line, block):
    """gz = g where y > 0 (or NaN), else 0; parts (threads, line), float64: the sum over the lines that a thread has.

    All arrays are flat; the last line may be short. sums: for each thread a line.
    """
    size = g.size
    lines = (size + line - 1) // line
    mine = thread * line
    high = (thread + 1) * lines // threads
    for low in range(thread * lines // threads, high, block):
        for e in range(mine, mine + line):
            sums[np.uint64(e)] = 0
        for at in range(low * line, min(min(low + block, high) * line, size), line):
            for e in range(min(line, size - at)):
                here = np.uint64(at + e)
                value = g[here] if not y[here] <= 0 else g.dtype.type(0)
                gz[here] = value
                sums[np.uint64(mine + e)] += value
        for e in range(mine, mine + line):
            parts[np.uint64(e)] += sums[np.uint64(e)]
