"""Binary cross-entropy of logits, fused, beside its meaning in basic primitives."""

from __future__ import annotations

from ..core.backward import Fused
from ..core.primitive import Primitive
from .elementwise import softplus

binary_cross_entropy_backward = Primitive("binary_cross_entropy_backward(g, x, t) -> gx, gt", *[None] * 3)
binary_cross_entropy = Fused(
    "binary_cross_entropy(x, t) -> y",
    plain=lambda x, t: softplus(x) - x * t,
    backward=lambda g, x, t, **at: binary_cross_entropy_backward(g, x, t, **at),
)
