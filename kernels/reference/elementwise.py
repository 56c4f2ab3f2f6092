"""Elementwise functions that are not a ufunc of the array library already."""

from __future__ import annotations

import math

from ..arrays import Array, namespace


def power(a: Array, b: Array) -> Array:
    return a**b  # the operator has fast ways for exponents like 2 and 0.5


def chosen(a: Array, b: Array) -> Array:
    """The share of maximum(a, b)'s gradient that goes to a: 1 where a is larger, half where they are equal.

    One of the two may be a Python number.
    """
    like = a if hasattr(a, "dtype") else b
    return (a > b) + namespace(like).asarray(0.5, like.dtype) * (a == b)


def log_gradient(g: Array, a: Array) -> Array:
    """g * log(a), 0 where g is 0: the exponent's share of the gradient of a ** b. a may be a Python number."""
    xp = namespace(g)
    a = xp.asarray(a, getattr(a, "dtype", g.dtype))
    return g * xp.log(xp.where(g == 0, xp.ones((), a.dtype), a))


def where(condition: Array, a: Array, b: Array) -> Array:
    """a where condition holds, else b; a Python number takes the other's type."""
    xp = namespace(condition)
    if not hasattr(a, "dtype"):
        a = xp.asarray(a, getattr(b, "dtype", None))
    if not hasattr(b, "dtype"):
        b = xp.asarray(b, a.dtype)
    return xp.where(condition, a, b)


def clamp(x: Array, *, min: float | None, max: float | None) -> Array:
    return x.clip(min, max)


def clamp_gradient(g: Array, x: Array, *, min: float | None, max: float | None) -> Array:
    """g where x lies within the bounds (inclusive), else 0."""
    inside = namespace(x).ones(x.shape, bool)
    if min is not None:
        inside &= x >= min
    if max is not None:
        inside &= x <= max
    return g * inside


def square(x: Array) -> Array:
    return x * x


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), accurate and without overflow at both ends."""
    xp = namespace(x)
    e = xp.exp(-abs(x))
    return xp.where(x >= 0, xp.ones((), x.dtype), e) / (1 + e)


def softplus(x: Array) -> Array:
    """log(1 + exp(x)) without overflow."""
    xp = namespace(x)
    return xp.logaddexp(x, xp.zeros((), x.dtype))


def relu(x: Array) -> Array:
    return namespace(x).maximum(x, 0)


def positive_part(g: Array, y: Array) -> Array:
    """g where y > 0, else 0."""
    return g * (y > 0)


def leaky_relu(x: Array, *, slope: float) -> Array:
    xp = namespace(x)
    return xp.where(x > 0, x, x * xp.asarray(slope, x.dtype))


def leaky_part(g: Array, x: Array, *, slope: float) -> Array:
    """g where x > 0, else slope * g."""
    xp = namespace(g)
    return xp.where(x > 0, g, g * xp.asarray(slope, g.dtype))


def erf(x: Array) -> Array:
    if namespace(x).__name__ == "numpy":
        from scipy.special import erf
    else:
        from cupyx.scipy.special import erf
    return erf(x)


ERF_SLOPE = 2 / math.sqrt(math.pi)


def dropout(x: Array, mask: Array, *, scale: float) -> Array:
    """x where the (boolean) mask keeps it, times scale; 0 elsewhere."""
    return x * mask * namespace(x).asarray(scale, x.dtype)


def astype(x: Array, *, dtype) -> Array:
    return x.astype(dtype, copy=False)


def copy(x: Array) -> Array:
    return x.copy(order="K")
