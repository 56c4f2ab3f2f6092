"""Elementwise functions, with PyTorch's names.

Two arguments broadcast, by NumPy's rules, and their types are promoted, by PyTorch's; integers become float32 where the
result is not whole. All work on bare arrays as well, unrecorded.
"""

from __future__ import annotations

import math
from typing import Any

from ..ops import elementwise as ops
from .arguments import single_in_autocast, within


def abs(input: Any) -> Any:
    """|input|. The gradient at 0 is 0."""
    return ops.abs(input)


def add(input: Any, other: Any) -> Any:
    """input + other."""
    return ops.add(input, other)


def sub(input: Any, other: Any) -> Any:
    """input - other."""
    return ops.sub(input, other)


def mul(input: Any, other: Any) -> Any:
    """input * other."""
    return ops.mul(input, other)


def div(input: Any, other: Any) -> Any:
    """input / other; integers are divided as float32."""
    return ops.div(input, other)


def neg(input: Any) -> Any:
    """-input."""
    return ops.neg(input)


def pow(input: Any, exponent: Any) -> Any:
    """input ** exponent; either may be a number."""
    return ops.pow(input, exponent)


def square(input: Any) -> Any:
    """input * input."""
    return ops.square(input)


def sqrt(input: Any) -> Any:
    """The square root."""
    return ops.sqrt(input)


def exp(input: Any) -> Any:
    """e ** input."""
    return ops.exp(input)


def expm1(input: Any) -> Any:
    """exp(input) - 1, accurate near 0."""
    return ops.expm1(input)


def log(input: Any) -> Any:
    """The natural logarithm."""
    return ops.log(input)


def log1p(input: Any) -> Any:
    """log(1 + input), accurate near 0."""
    return ops.log1p(input)


def sin(input: Any) -> Any:
    """The sine of an angle in radians."""
    return ops.sin(input)


def cos(input: Any) -> Any:
    """The cosine of an angle in radians."""
    return ops.cos(input)


def tanh(input: Any) -> Any:
    """The hyperbolic tangent."""
    return ops.tanh(input)


def sigmoid(input: Any) -> Any:
    """1 / (1 + exp(-input)), without overflow."""
    return ops.sigmoid(input)


def erf(input: Any) -> Any:
    """The error function, 2 / sqrt(pi) times the integral of exp(-t^2) from 0 to input."""
    return ops.erf(input)


def sign(input: Any) -> Any:
    """-1, 0 or 1. No gradient flows."""
    return ops.sign(input)


def floor(input: Any) -> Any:
    """The largest whole number that is not larger. No gradient flows."""
    return ops.floor(input)


def ceil(input: Any) -> Any:
    """The smallest whole number that is not smaller. No gradient flows."""
    return ops.ceil(input)


def round(input: Any) -> Any:
    """The nearest whole number, halves to the even one. No gradient flows."""
    return ops.round(input)


def isfinite(input: Any) -> Any:
    """Whether each element is neither infinite nor NaN: booleans."""
    return ops.isfinite(input)


def isnan(input: Any) -> Any:
    """Whether each element is NaN: booleans."""
    return ops.isnan(input)


def maximum(input: Any, other: Any) -> Any:
    """The larger of each pair of elements. Equal ones share the gradient."""
    return ops.maximum(input, other)


def minimum(input: Any, other: Any) -> Any:
    """The smaller of each pair of elements. Equal ones share the gradient."""
    return ops.minimum(input, other)


def where(condition: Any, input: Any, other: Any) -> Any:
    """input where condition (booleans) holds, else other; the three broadcast against each other."""
    return ops.where(condition, input, other)


def log2(input: Any) -> Any:
    """The logarithm to base 2."""
    return ops.log(input) * (1 / math.log(2))


def clamp(input: Any, min: float | None = None, max: float | None = None) -> Any:
    """input limited to [min, max]; the gradient is 0 outside. At least one bound is needed."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    input, bounds = within("clamp", input, min=min, max=max)
    return ops.clamp(input, **bounds)


def rsqrt(input: Any) -> Any:
    """1 / sqrt(input)."""
    return 1 / ops.sqrt(*single_in_autocast(input))


def reciprocal(input: Any) -> Any:
    """1 / input."""
    return 1 / single_in_autocast(input)[0]


def isinf(input: Any) -> Any:
    """Whether each element is infinite: booleans."""
    return ops.abs(input) == math.inf


def logical_not(input: Any) -> Any:
    """Whether each element is zero or false: booleans."""
    return input == 0


def masked_fill(input: Any, mask: Any, value: float) -> Any:
    """input with `value` where mask (booleans) holds."""
    return ops.where(mask, value, input)


def clone(input: Any) -> Any:
    """A copy; gradients flow through it."""
    return ops.copy(input)
