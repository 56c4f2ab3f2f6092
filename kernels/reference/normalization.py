"""Batch normalisation and softmax cross-entropy: value and gradients of the fused primitives."""

from __future__ import annotations

from ..arrays import Array, namespace
from .reduction import wide


def _channels(v: Array, ndim: int) -> Array:
    return v.reshape(1, -1, *(1,) * (ndim - 2))


def batch_norm(x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array, Array]:
    """x: (N, C, ...), gamma and beta: (C,) -> y like x, and the mean and (biased) variance of each channel: (C,)."""
    if x.dtype.itemsize == 2:  # squares and sums leave the range of half precision
        y, mean, var = batch_norm(*(a.astype("float32") for a in (x, gamma, beta)), eps=eps)
        return y.astype(x.dtype), mean.astype(x.dtype), var.astype(x.dtype)
    axes = (0, *range(2, x.ndim))
    mean = x.mean(axes)
    centred = x - _channels(mean, x.ndim)
    var = (centred * centred).mean(axes)
    scale = gamma / namespace(x).sqrt(var + eps)
    centred *= _channels(scale, x.ndim)
    centred += _channels(beta, x.ndim)
    return centred, mean, var


def batch_norm_backward(
    g: Array, x: Array, gamma: Array, mean: Array, var: Array, *, needs: list[bool], eps: float
) -> tuple[Array | None, Array | None, Array | None]:
    if x.dtype.itemsize == 2:
        single = [a.astype("float32") for a in (g, x, gamma, mean, var)]
        results = batch_norm_backward(*single, needs=needs, eps=eps)
        gx, ggamma, gbeta = (None if a is None else a.astype(x.dtype) for a in results)
        return gx, ggamma, gbeta
    axes = (0, *range(2, x.ndim))
    rstd = 1 / namespace(x).sqrt(var + eps)
    normal = (x - _channels(mean, x.ndim)) * _channels(rstd, x.ndim)
    gbeta = g.sum(axes)
    ggamma = (g * normal).sum(axes)
    gx = None
    if needs[0]:
        count = x.size // max(x.shape[1], 1)
        normal *= _channels(ggamma / count, x.ndim)
        gx = g - _channels(gbeta / count, x.ndim)
        gx -= normal
        gx *= _channels(gamma * rstd, x.ndim)
    return gx, ggamma if needs[1] else None, gbeta if needs[2] else None


def softmax_cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """x: (N, C, ...) logits, target: (N, ...) classes -> the loss of each element and the log-sum-exp: (N, ...)."""
    xp = namespace(x)
    top = x.max(1, keepdims=True)
    e = x - top
    xp.exp(e, out=e)
    lse = (xp.log(e.sum(1, keepdims=True, dtype=wide(x.dtype))) + top)[:, 0].astype(x.dtype, copy=False)
    if x.ndim == 2:  # the general way takes NumPy ten times as long for a few rows
        return lse - x[xp.arange(len(x)), target], lse
    return lse - xp.take_along_axis(x, target[:, None], 1)[:, 0], lse


def softmax_cross_entropy_backward(
    g: Array, x: Array, target: Array, lse: Array, *, needs: list[bool]
) -> tuple[Array, None]:
    xp = namespace(x)
    gx = x - lse[:, None]
    xp.exp(gx, out=gx)
    if x.ndim == 2:
        gx[xp.arange(len(x)), target] -= 1
    else:
        at = target[:, None]
        xp.put_along_axis(gx, at, xp.take_along_axis(gx, at, 1) - 1, 1)
    gx *= g[:, None]
    return gx, None
