"""One pass over a parameter, its gradient and its state for a step of an optimizer.

Each element goes through the operations of minidl/optim in their order, so the bits are those of its NumPy code.
"""

from __future__ import annotations

import numpy as np

from .compile import threaded


@threaded
def adam(thread, threads, p, g, mean, square, shrink, decay, beta1, rest1, beta2, rest2, eps, root, rate):
    """shrink: what p is multiplied with first; decay: how much of it is added to g."""
    for e in range(p.size * thread // threads, p.size * (thread + 1) // threads):
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
def sgd(thread, threads, p, g, velocity, decay, momentum, keep, nesterov, rate):
    """velocity: empty without momentum."""
    for e in range(p.size * thread // threads, p.size * (thread + 1) // threads):
        i = np.uint64(e)
        x, slope = p[i], g[i]
        if decay != 0:
            slope = x * decay + slope
        if velocity.size:
            v = velocity[i] * momentum + slope * keep
            velocity[i] = v
            slope = v * momentum + slope if nesterov else v
        p[i] = x - slope * rate
