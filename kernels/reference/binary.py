"""Binary cross-entropy of logits: value and gradients of the fused primitive."""

from __future__ import annotations

from ..arrays import Array
from .elementwise import sigmoid, softplus


def binary_cross_entropy(x: Array, t: Array) -> Array:
    """-(t log(s) + (1 - t) log(1 - s)), s = sigmoid(x), without its loss of accuracy. x: logits, t: targets, alike."""
    return softplus(x) - x * t


def binary_cross_entropy_backward(
    g: Array, x: Array, t: Array, *, needs: list[bool]
) -> tuple[Array | None, Array | None]:
    """The gradients of x and t, as far as they are needed."""
    return g * (sigmoid(x) - t) if needs[0] else None, -g * x if needs[1] else None
