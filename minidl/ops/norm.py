"""Fused primitives: batch normalisation, softmax cross-entropy. Each stands beside its meaning in basic primitives."""

from __future__ import annotations

from typing import Any

from ..core.backward import Fused
from ..core.primitive import Primitive
from .elementwise import sqrt
from .indexing import gather
from .reduction import logsumexp, sum
from .shape import reshape


def _per_channel(v: Any, like: Any) -> Any:
    return reshape(v, shape=(1, -1, *(1,) * (like.ndim - 2)))


def _plain_batch_norm(x: Any, gamma: Any, beta: Any, *, eps: float) -> Any:
    axes = (0, *range(2, x.ndim))
    mean = lambda v: sum(v, axis=axes, keepdims=True) / (x.numel() // x.shape[1])
    centred = x - mean(x)
    return centred / sqrt(mean(centred * centred) + eps) * _per_channel(gamma, x) + _per_channel(beta, x)


batch_norm_backward = Primitive("batch_norm_backward(g, x, gamma, mean, var) -> gx, ggamma, gbeta", *[None] * 5)
batch_norm = Fused(
    "batch_norm(x, gamma, beta) -> y; mean, var",
    plain=_plain_batch_norm,
    backward=lambda g, x, gamma, mean, var, **at: batch_norm_backward(g, x, gamma, mean, var, **at),
)


def _plain_softmax_cross_entropy(x: Any, target: Any) -> Any:
    index = reshape(target, shape=(target.shape[0], 1, *target.shape[1:]))
    chosen = reshape(gather(x, index, axis=1), shape=target.shape)
    return logsumexp(x, axis=(1,), keepdims=False) - chosen


softmax_cross_entropy_backward = Primitive("softmax_cross_entropy_backward(g, x, target, lse) -> gx, gt", *[None] * 4)
softmax_cross_entropy = Fused(
    "softmax_cross_entropy(x, target) -> y; lse",
    plain=_plain_softmax_cross_entropy,
    backward=lambda g, x, target, lse, **at: softmax_cross_entropy_backward(g, x, target, lse, **at),
    constant=["target"],
)
