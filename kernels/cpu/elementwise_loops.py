"""Compiled elementwise functions: one pass where NumPy needs several, and no branches that could be mispredicted.

A function goes over flat arrays and writes its last argument; any other argument may be a number instead. None starts
threads: pieces.py gives each of its threads a piece.
"""

from __future__ import annotations

from math import erf as exact_erf

import numpy as np
from numba import types
from numba.extending import overload
from numpy.polynomial import chebyshev

from .compile import jit


def at(a, i):
    """a[i], or a itself if it is a number; only inside compiled kernels."""
    raise NotImplementedError("at can only be called from compiled code")


@overload(at, inline="always")
def _at(a, i):
    if isinstance(a, types.Array):
        return lambda a, i: a[np.uint64(i)]
    return lambda a, i: a


@jit
def positive_part(g, y, out):
    for i in range(out.size):
        slope = at(g, i)
        out[np.uint64(i)] = out.dtype.type(0) if at(y, i) <= 0 else slope


@jit
def leaky_relu(x, slope, out):
    for i in range(out.size):
        value = at(x, i)
        out[np.uint64(i)] = value if value > 0 else value * slope


@jit
def leaky_part(g, x, slope, out):
    for i in range(out.size):
        value = at(g, i)
        out[np.uint64(i)] = value if at(x, i) > 0 else value * slope


@jit
def clamp_gradient(g, x, low, high, out):
    for i in range(out.size):
        value, place = at(g, i), at(x, i)
        out[np.uint64(i)] = value if (place >= low) & (place <= high) else out.dtype.type(0)


@jit
def hardtanh_gradient(g, x, low, high, out):
    for i in range(out.size):
        value, place = at(g, i), at(x, i)
        out[np.uint64(i)] = out.dtype.type(0) if (place <= low) | (place >= high) else value


@jit
def larger_part(g, a, b, out):
    for i in range(out.size):
        value, first, second = at(g, i), at(a, i), at(b, i)
        kept = out.dtype.type(0) if first < second else value
        out[np.uint64(i)] = kept * out.dtype.type(0.5) if first == second else kept


@jit
def where(condition, a, b, out):
    for i in range(out.size):
        first, second = at(a, i), at(b, i)
        out[np.uint64(i)] = first if at(condition, i) else second


@jit
def dropout(x, mask, scale, out):
    for i in range(out.size):
        out[np.uint64(i)] = at(x, i) * out.dtype.type(at(mask, i)) * scale


# erf(x) / x is a smooth function of x², so one polynomial serves the whole line; with 19 coefficients it is right to
# 3e-9, and in double precision the result is rounded once: 0.505 units in the last place at most, and no branches. From
# ERF_END on erf is 1 in single precision.
ERF_END = 3.95
_ratio = np.vectorize(lambda t: exact_erf(ERF_END * np.sqrt((t + 1) / 2)) / (ERF_END * np.sqrt((t + 1) / 2)))
ERF = chebyshev.cheb2poly(chebyshev.chebinterpolate(_ratio, 18))[::-1].copy()  # of t = 2 (x / ERF_END)² - 1


@jit
def erf(x, out):
    """Of float32."""
    for i in range(out.size):
        value = min(max(np.float64(at(x, i)), -ERF_END), ERF_END)
        t = value * value * (2 / ERF_END**2) - 1
        ratio = ERF[0]
        for k in range(1, 19):
            ratio = ratio * t + ERF[k]
        out[np.uint64(i)] = value * ratio


# exp(x) = 2^n exp(r) with whole n and |r| <= ln(2) / 2 and exp(r) = 1 + r + r² q(r). In single precision: wrong by 1.05
# units in the last place at most, and 0 for what is below the normal numbers.
_LN2, _HALF = np.log(2), np.log(2) / 2
_q = np.vectorize(lambda t: (np.expm1(t * _HALF) - t * _HALF) / (t * _HALF) ** 2 if abs(t) > 1e-4 else 0.5)
EXP = (chebyshev.cheb2poly(chebyshev.chebinterpolate(_q, 4)) / _HALF ** np.arange(5))[::-1].astype(np.float32)
PER_LN2, LN2_HIGH = np.float32(1 / _LN2), np.float32(0.693359375)  # 9 bits, so that n * LN2_HIGH is exact
LN2_LOW = np.float32(_LN2 - 0.693359375)
WHOLE = np.float32(1.5 * 2**23)  # added to a small number it leaves its nearest whole one in the last bits
LEAST, MOST = np.float32(-87.33), np.float32(88.02)


@jit(inline=True)
def exp(x):
    """Of one float32; faster than C's, as it becomes vector instructions."""
    shifted = np.float32(x * PER_LN2 + WHOLE)
    n = shifted - WHOLE
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    q = EXP[0]
    for k in range(1, 5):
        q = q * r + EXP[k]
    power = np.int32((shifted.view(np.int32) + 127) << 23).view(np.float32)
    y = (q * r * r + r + np.float32(1)) * power
    y = np.float32(0) if x < LEAST else y
    return np.float32(np.inf) if x > MOST else y
