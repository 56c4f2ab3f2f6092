"""One pass over a parameter, its gradient and its state for a step of an optimizer.

Each element goes through the operations of minidl/optim in their order, so the bits are those of its NumPy code.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compile import jit

BLOCK = 2**14  # elements of a task


@jit(parallel=True)
def adam(p, g, mean, square, shrink, decay, beta1, rest1, beta2, rest2, eps, root, rate):
    """shrink: what p is multiplied with first; decay: how much of it is added to g."""
    for task in prange((p.size + BLOCK - 1) // BLOCK):
        for e in range(task * BLOCK, min((task + 1) * BLOCK, p.size)):
            i = np.uint64(e)
            x, slope = p[i] * shrink, g[i]
            if decay != 0:
                slope = x * decay + slope
            m = mean[i] * beta1 + slope * rest1
            v = square[i] * beta2 + slope * slope * rest2
            mean[i] = m
            square[i] = v
            p[i] = x - m / (np.sqrt(v) / root + eps) * rate


@jit(parallel=True)
def sgd(p, g, velocity, decay, momentum, keep, nesterov, rate):
    """velocity: empty without momentum."""
    for task in prange((p.size + BLOCK - 1) // BLOCK):
        for e in range(task * BLOCK, min((task + 1) * BLOCK, p.size)):
            i = np.uint64(e)
            x, slope = p[i], g[i]
            if decay != 0:
                slope = x * decay + slope
            if velocity.size:
                v = velocity[i] * momentum + slope * keep
                velocity[i] = v
                slope = v * momentum + slope if nesterov else v
            p[i] = x - slope * rate
