"""Launchers of normalization.cu: batch normalisation on CuPy arrays, as planes or channels-last as they lie.

float32 and float64; float16 and bfloat16 are computed in float32. Results are the same bits in every run.
"""

from __future__ import annotations

from ..arrays import Array
from ..reference import normalization as reference
from . import channels, fused, launch

FILE = "normalization.cu"


def batch_norm(x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array, Array]:
    """x: (N, C, ...), gamma and beta: (C,) -> y like x, and the mean and (biased) variance of each channel: (C,)."""
    if not x.size:
        return reference.batch_norm(x, gamma, beta, eps=eps)
    with launch.device_of("batch_norm", x=x, gamma=gamma, beta=beta):
        dtype = fused.storage("batch_norm", x, gamma, beta)
        real, last = fused.computed(dtype), fused.is_last(x)
        p = channels.plan(x.shape, last)
        x_flat, gamma, beta = (
            fused.flat(x, last, dtype),
            fused.flat(gamma, False, dtype),
            fused.flat(beta, False, dtype),
        )
        parts = launch.empty((p.channels, p.parts, 3), real)
        mean, var = launch.empty((p.channels,), real), launch.empty((p.channels,), real)
        channels.run(FILE, "batch_norm_moments_kernel", dtype, p, x_flat, parts)
        channels.collect(FILE, "batch_norm_finish_kernel", dtype, p, parts, mean, var)
        y = fused.empty_as(x, last, dtype)
        arrays = (x_flat, gamma, beta, mean, var, fused.flat(y, last))
        channels.run(FILE, "batch_norm_apply_kernel", dtype, p, *arrays, real.type(eps))
        return y, mean.astype(dtype, copy=False), var.astype(dtype, copy=False)


def batch_norm_backward(
    g: Array, x: Array, gamma: Array, mean: Array, var: Array, *, needs: list[bool], eps: float
) -> tuple[Array | None, Array | None, Array | None]:
    if not x.size:
        return reference.batch_norm_backward(g, x, gamma, mean, var, needs=needs, eps=eps)
    with launch.device_of("batch_norm_backward", g=g, x=x, gamma=gamma, mean=mean, var=var):
        dtype = fused.storage("batch_norm_backward", g, x, gamma)
        real, last = fused.computed(dtype), fused.is_last(x)
        p, number = channels.plan(x.shape, last), real.type(eps)
        x_flat, g, gamma = fused.flat(x, last, dtype), fused.flat(g, last, dtype), fused.flat(gamma, False, dtype)
        mean, var = fused.flat(mean, False, real), fused.flat(var, False, real)
        parts = launch.empty((p.channels, p.parts, 2), real)
        ggamma, gbeta = launch.empty((p.channels,), real), launch.empty((p.channels,), real)
        channels.run(FILE, "batch_norm_sums_kernel", dtype, p, g, x_flat, mean, var, parts, number)
        channels.collect(FILE, "batch_norm_sums_finish_kernel", dtype, p, parts, ggamma, gbeta)
        gx = None
        if needs[0]:
            gx = fused.empty_as(x, last, dtype)
            arrays = (g, x_flat, gamma, mean, var, ggamma, gbeta, fused.flat(gx, last))
            channels.run(FILE, "batch_norm_input_kernel", dtype, p, *arrays, number)
        ggamma, gbeta = ggamma.astype(dtype, copy=False), gbeta.astype(dtype, copy=False)
        return gx, ggamma if needs[1] else None, gbeta if needs[2] else None
