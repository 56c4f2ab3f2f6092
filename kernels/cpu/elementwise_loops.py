"""Compiled elementwise functions: one pass where NumPy needs several, and no branches that could be mispredicted.

A function goes over flat arrays and writes its last argument; any other argument may be a number instead. None starts
threads: pieces.py gives each of its threads a piece.
"""

from __future__ import annotations

from math import erf as exact_erf
from math import erfc as exact_erfc

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


@jit(inline=True)
def _expm1(x):
    """exp(x) - 1 of one float32 up to 0: with exp(x) = 2^n (1 + p) it is 2^n p + (2^n - 1)."""
    shifted = np.float32(x * PER_LN2 + WHOLE)
    n = shifted - WHOLE
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    q = EXP[0]
    for k in range(1, 5):
        q = q * r + EXP[k]
    power = np.int32((shifted.view(np.int32) + 127) << 23).view(np.float32)
    y = (q * r * r + r) * power + (power - np.float32(1))
    return np.float32(-1) if x < LEAST else y


@jit
def elu(x, alpha, out):
    """Of float32."""
    for i in range(out.size):
        value = at(x, i)
        below = alpha * _expm1(np.float32(0) if value > 0 else value)
        out[np.uint64(i)] = value if value > 0 else below


@jit
def elu_gradient(g, x, alpha, out):
    """Of float32."""
    for i in range(out.size):
        value = at(x, i)
        below = alpha * exp(np.float32(0) if value > 0 else value)
        out[np.uint64(i)] = at(g, i) * (np.float32(1) if value > 0 else below)


@jit(inline=True)
def _sigmoid(x):
    """Of one float32."""
    return np.float32(1) / (np.float32(1) + exp(-x))


NEAR = np.float32(100)  # where _sigmoid is 0 or 1 exactly


@jit(inline=True)
def _within(x, end):
    return -end if x < -end else (end if x > end else x)


@jit
def sigmoid(x, out):
    for i in range(out.size):
        out[np.uint64(i)] = _sigmoid(at(x, i))


@jit
def sigmoid_gradient(g, y, out):
    for i in range(out.size):
        value = at(y, i)
        out[np.uint64(i)] = at(g, i) * (value * (out.dtype.type(1) - value))


@jit
def tanh_gradient(g, y, out):
    for i in range(out.size):
        value = at(y, i)
        out[np.uint64(i)] = at(g, i) * (out.dtype.type(1) - value * value)


@jit
def silu(x, out):
    for i in range(out.size):
        value = at(x, i)
        value = -NEAR if value < -NEAR else value  # there s is 0, and minus infinity times 0 would be NaN
        out[np.uint64(i)] = value * _sigmoid(value)


@jit
def silu_gradient(g, x, out):
    for i in range(out.size):
        value = at(x, i)
        value = _within(value, NEAR)
        s = _sigmoid(value)
        out[np.uint64(i)] = at(g, i) * (s + value * s * (np.float32(1) - s))


# log(1 + t) = 2 artanh(s) with s = t / (2 + t), which is s times a smooth function of s²; for t from 0 to 1 s² is at
# most 1/9. In single precision: wrong by 2 units in the last place at most.
_ratio = np.vectorize(lambda v: 2 * np.arctanh(np.sqrt((v + 1) / 18)) / np.sqrt((v + 1) / 18) if v > -1 else 2.0)
LOG = chebyshev.cheb2poly(chebyshev.chebinterpolate(_ratio, 5))[::-1].astype(np.float32)  # of 18 s² - 1


@jit
def softplus(x, out):
    """Of float32."""
    for i in range(out.size):
        value = at(x, i)
        t = exp(-abs(value))
        s = t / (np.float32(2) + t)
        v = np.float32(18) * s * s - np.float32(1)
        ratio = LOG[0]
        for k in range(1, 6):
            ratio = ratio * v + LOG[k]
        out[np.uint64(i)] = (np.float32(0) if value < 0 else value) + s * ratio


@jit
def softplus_gradient(g, x, out):
    for i in range(out.size):
        out[np.uint64(i)] = at(g, i) * _sigmoid(at(x, i))


# The normal distribution's tail Q(z) = P(standard normal > z) = exp(-z² / 2) R(z), where (z + 3) R(z) is a smooth
# function of 1 / (z + 3), and so a polynomial of TAIL_AT / (z + TAIL_AT), for z up to TAIL_END, beyond which Q is 0 in
# single precision. R is right to 4e-7 of itself, so Q is until the rounding of z² shows, at 4e-7 z².
TAIL_AT, TAIL_END = 3.0, 14.0
_low = TAIL_AT / (TAIL_AT + TAIL_END)


def _tail(v: float) -> float:
    share = (v + 1) / 2 * (1 - _low) + _low
    z = TAIL_AT / share - TAIL_AT
    return exact_erfc(z / np.sqrt(2)) / 2 * np.exp(z * z / 2) / share


TAIL = chebyshev.cheb2poly(chebyshev.chebinterpolate(np.vectorize(_tail), 8))[::-1].astype(np.float32)
TAIL_SCALE, TAIL_SHIFT = np.float32(2 / (1 - _low)), np.float32((1 + _low) / (1 - _low))
TAIL_STEP, TAIL_LAST = np.float32(1 / TAIL_AT), np.float32(TAIL_END)
DENSITY = np.float32(1 / np.sqrt(2 * np.pi))  # of the standard normal at 0


@jit(inline=True)
def _tail_ratio(z):
    """R of one float32 from 0 to TAIL_END."""
    share = np.float32(1) / (z * TAIL_STEP + np.float32(1))
    v = share * TAIL_SCALE - TAIL_SHIFT
    ratio = TAIL[0]
    for k in range(1, 9):
        ratio = ratio * v + TAIL[k]
    return ratio * share


@jit
def gelu(x, out):
    """Of float32: x - |x| Q(|x|), or without x where it is negative."""
    for i in range(out.size):
        value = at(x, i)
        z = abs(value)
        z = TAIL_LAST if z > TAIL_LAST else z
        tail = exp(np.float32(-0.5) * z * z) * _tail_ratio(z)
        out[np.uint64(i)] = (np.float32(0) if value < 0 else value) - z * tail


@jit
def gelu_gradient(g, x, out):
    """Of float32: g (P(x) + x p(x)), with the distribution P and the density p."""
    for i in range(out.size):
        value = at(x, i)
        z = abs(value)
        z = TAIL_LAST if z > TAIL_LAST else z
        lower = exp(np.float32(-0.5) * z * z) * (z * DENSITY - _tail_ratio(z))
        out[np.uint64(i)] = at(g, i) * (-lower if value < 0 else np.float32(1) + lower)


# (1 + tanh(u)) / 2 = sigmoid(2 u); 2 u = x (A + B x²)
GELU_A, GELU_B = np.float32(2 * np.sqrt(2 / np.pi)), np.float32(2 * np.sqrt(2 / np.pi) * 0.044715)
GELU_END = np.float32(10)  # where tanh is 1 or -1 in single precision, and exp(2 u) still a number


@jit
def gelu_tanh(x, out):
    """Of float32."""
    for i in range(out.size):
        value = at(x, i)
        near = _within(value, GELU_END)
        share = _sigmoid(near * (GELU_A + GELU_B * near * near))
        out[np.uint64(i)] = (near if value < 0 else value) * share


@jit
def gelu_tanh_gradient(g, x, out):
    """Of float32."""
    for i in range(out.size):
        near = _within(at(x, i), GELU_END)
        square = near * near
        e = exp(-near * (GELU_A + GELU_B * square))
        share = np.float32(1) / (np.float32(1) + e)
        slope = near * share * (e * share) * (GELU_A + np.float32(3) * GELU_B * square)
        out[np.uint64(i)] = at(g, i) * (share + slope)
