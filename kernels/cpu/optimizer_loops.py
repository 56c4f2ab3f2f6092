"""One pass over parameters, their gradients and their state for a step of an optimizer.

Each element goes through the operations of minidl/optim in their order, so the bits are those of its NumPy code. The
elements of all parameters are numbered as if they lay one behind the other; a thread has some of these numbers.
"""

from __future__ import annotations

import numpy as np

from .compile import jit, threaded
from .recurrent_loops import row

BEFORE, SIZE, ARRAYS = 0, 1, 2  # columns of a table: elements before a parameter, its own, addresses of its arrays


@jit(inline=True)
def mine(thread, threads, table, t):
    """Which elements of parameter t are this thread's: from, to."""
    last = len(table) - 1
    total = table[last, BEFORE] + table[last, SIZE]
    low, high = total * thread // threads - table[t, BEFORE], total * (thread + 1) // threads - table[t, BEFORE]
    return max(low, 0), min(high, table[t, SIZE])


@threaded
def adam(thread, threads, like, table, numbers, shrink, decay, beta1, rest1, beta2, rest2, eps):
    """shrink: what p is multiplied with first; decay: how much of it is added to g. numbers: for each parameter the
    root of what corrects the second average for its start from 0, and the rate, corrected for the first."""
    for t in range(len(table)):
        low, high = mine(thread, threads, table, t)
        size = table[t, SIZE]
        p, g = row(like, table[t, ARRAYS], size), row(like, table[t, ARRAYS + 1], size)
        mean, square = row(like, table[t, ARRAYS + 2], size), row(like, table[t, ARRAYS + 3], size)
        root, rate = numbers[t, 0], numbers[t, 1]
        for e in range(low, high):
            i = np.uint64(e)
            x, slope = p[i] * shrink, g[i]
            if decay != 0:
                slope = x * decay + slope
            m = mean[i] * beta1 + slope * rest1
            v = square[i] * beta2 + slope * slope * rest2
            mean[i] = m
            square[i] = v
            p[i] = x - m / (np.sqrt(v) / root + eps) * rate


@threaded
def sgd(thread, threads, like, table, numbers, decay, momentum, rate, nesterov):
    """Without momentum the velocity's address is 0. numbers: for each parameter how much of g enters the velocity."""
    for t in range(len(table)):
        low, high = mine(thread, threads, table, t)
        size, moving = table[t, SIZE], table[t, ARRAYS + 2] != 0
        p, g = row(like, table[t, ARRAYS], size), row(like, table[t, ARRAYS + 1], size)
        velocity, keep = row(like, table[t, ARRAYS + 2], size), numbers[t, 0]
        for e in range(low, high):
            i = np.uint64(e)
            x, slope = p[i], g[i]
            if decay != 0:
                slope = x * decay + slope
            if moving:
                v = velocity[i] * momentum + slope * keep
                velocity[i] = v
                slope = v * momentum + slope if nesterov else v
            p[i] = x - slope * rate
