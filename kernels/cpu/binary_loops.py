"""Compiled loops of the binary cross-entropy of logits, float32; reference/binary.py says what they compute.

Arrays are addresses: views of a thread's part that begin at 0 become vector code.
"""

from __future__ import annotations

import numpy as np
from numpy.polynomial import chebyshev

from .compile import jit, threaded
from .recurrent_loops import _expm1, _within, row, sigmoid

two, most = np.float32(2), np.float32(87)
# log(1 + u) = 2 artanh(s) with s = u / (2 + u), and artanh(s) / s is a smooth function of s², at most 1/9 for u <= 1
_ratio = np.vectorize(lambda z: np.arctanh(np.sqrt(z)) / np.sqrt(z) if z > 1e-12 else 1.0)
_fit = chebyshev.Chebyshev.interpolate(_ratio, 5, domain=[0, 1 / 9])
LOG1P = (2 * _fit.convert(kind=np.polynomial.Polynomial).coef)[::-1].astype(np.float32)


@jit(inline=True)
def log1p(u):
    """log(1 + u) for 0 <= u <= 1: wrong by 2 units in the last place at most."""
    s = u / (u + two)
    z = s * s
    p = LOG1P[0]
    for k in range(1, 6):
        p = p * z + LOG1P[k]
    return s * p


@threaded
def forward(thread, threads, like, size, x, t, y):
    """y = softplus(x) - x t."""
    low, high = size * thread // threads, size * (thread + 1) // threads
    logits, targets = row(like, x + low * 4, high - low), row(like, t + low * 4, high - low)
    out = row(like, y + low * 4, high - low)
    for e in range(high - low):
        i = np.uint64(e)
        value = logits[i]
        scale, rest = _expm1(-_within(abs(value), most))
        out[i] = (value if value > 0 else like) - value * targets[i] + log1p(scale * rest + scale)


@threaded
def backward(thread, threads, like, rows, columns, repeated, g, x, t, gx):
    """gx = g (sigmoid(x) - t), all (rows, columns); of g one number for each row if it is `repeated`."""
    for r in range(rows * thread // threads, rows * (thread + 1) // threads):
        at = r * columns * 4
        logits, targets, out = row(like, x + at, columns), row(like, t + at, columns), row(like, gx + at, columns)
        slopes = row(like, g + (r * 4 if repeated else at), columns)
        if repeated:
            slope = slopes[0]
            for j in range(columns):
                i = np.uint64(j)
                out[i] = slope * (sigmoid(logits[i]) - targets[i])
        else:
            for j in range(columns):
                i = np.uint64(j)
                out[i] = slopes[i] * (sigmoid(logits[i]) - targets[i])
