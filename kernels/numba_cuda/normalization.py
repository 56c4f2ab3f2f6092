"""Batch normalisation as numba.cuda kernels, to be read beside ../cuda/normalization.cu.

Arrays: x, y, g, gx (batch, channels, places); parts (channels, rows of what is summed, blocks); the others (channels,).
"""

from __future__ import annotations

import math

from numba import cuda

from ..arrays import Array, namespace
from ..cuda import fused
from ..cuda.launch import common_type
from ..reference import normalization as reference
from .channels import add_up, collect, for_channels, leave, lie, own_channel, own_rows, pass_over, three
from .launch import BLOCK, ONE, device_of


@cuda.jit(device=True)
def join(a, i, b, j):
    """Joins the moments b[:, j] (count, mean, sum of squares around it) to a[:, i]. Chan, Golub & LeVeque 1979."""
    if b[0, j] != 0:
        total = a[0, i] + b[0, j]
        share = b[0, j] / total
        apart = b[1, j] - a[1, i]
        a[2, i] += b[2, j] + apart * apart * a[0, i] * share
        a[1, i] += apart * share
        a[0, i] = total


@cuda.jit(device=True)
def join_all(shared, width, members):
    """As channels.add_up, for moments."""
    half = members // 2
    while half > 0:
        cuda.syncthreads()
        if cuda.threadIdx.x < half * width:
            join(shared, cuda.threadIdx.x, shared, cuda.threadIdx.x + half * width)
        half //= 2


@cuda.jit
def batch_norm_moments_kernel(x, parts, s):
    """The moments of each channel's elements in this block: Welford 1962, one element after the other."""
    shared = cuda.shared.array((3, BLOCK), x.dtype)
    channel = own_channel(s)
    count = mean = squares = x.dtype.type(0)
    if channel < s.channels:
        first, end = own_rows(s)
        for row in range(first, end, s.members):
            value = x[row // s.places, channel, row % s.places]  # the C++ steps on without dividing
            count += ONE
            before = value - mean
            mean += before * (ONE / count)
            squares += before * (value - mean)
    shared[0, cuda.threadIdx.x] = count
    shared[1, cuda.threadIdx.x] = mean
    shared[2, cuda.threadIdx.x] = squares
    join_all(shared, s.width, s.members)
    leave(shared, parts, s)


@cuda.jit
def batch_norm_finish_kernel(parts, mean, var):
    """Mean and variance of a channel from the parts of all blocks."""
    shared = cuda.shared.array((3, BLOCK), parts.dtype)
    for row in range(3):
        shared[row, cuda.threadIdx.x] = 0
    for i in range(cuda.threadIdx.x, parts.shape[2], cuda.blockDim.x):
        join(shared, cuda.threadIdx.x, parts[cuda.blockIdx.x], i)
    join_all(shared, 1, cuda.blockDim.x)
    if cuda.threadIdx.x == 0:
        mean[cuda.blockIdx.x] = shared[1, 0]
        var[cuda.blockIdx.x] = shared[2, 0] / shared[0, 0]


@cuda.jit
def batch_norm_apply_kernel(x, gamma, beta, mean, var, y, eps, s):
    """y = (x - mean) * gamma / sqrt(var + eps) + beta"""
    channel = own_channel(s)
    if channel >= s.channels:
        return
    centre = mean[channel]
    scale = gamma[channel] / math.sqrt(var[channel] + eps)
    first, end = own_rows(s)
    for row in range(first, end, s.members):
        n, place = row // s.places, row % s.places
        y[n, channel, place] = (x[n, channel, place] - centre) * scale + beta[channel]


@cuda.jit
def batch_norm_sums_kernel(g, x, mean, var, parts, eps, s):
    """Sums of g and of g times the normalised x: the gradients of beta and gamma, and what gx is made of."""
    shared = cuda.shared.array((2, BLOCK), x.dtype)
    channel = own_channel(s)
    of_g = of_normal = x.dtype.type(0)
    if channel < s.channels:
        centre = mean[channel]
        scale = ONE / math.sqrt(var[channel] + eps)
        first, end = own_rows(s)
        for row in range(first, end, s.members):
            n, place = row // s.places, row % s.places
            slope = g[n, channel, place]
            of_g += slope
            of_normal += slope * ((x[n, channel, place] - centre) * scale)
    shared[0, cuda.threadIdx.x] = of_g
    shared[1, cuda.threadIdx.x] = of_normal
    add_up(shared, s.width, s.members)
    leave(shared, parts, s)


@cuda.jit
def batch_norm_sums_finish_kernel(parts, ggamma, gbeta):
    shared = cuda.shared.array((2, BLOCK), parts.dtype)
    collect(shared, parts)
    if cuda.threadIdx.x == 0:
        gbeta[cuda.blockIdx.x] = shared[0, 0]
        ggamma[cuda.blockIdx.x] = shared[1, 0]


@cuda.jit
def batch_norm_input_kernel(g, x, gamma, mean, var, ggamma, gbeta, gx, eps, s):
    """gx = gamma / sqrt(var + eps) * (g - mean of g - normal * mean of (g * normal))"""
    channel = own_channel(s)
    if channel >= s.channels:
        return
    count = x.dtype.type(s.batch * s.places)
    centre = mean[channel]
    scale = ONE / math.sqrt(var[channel] + eps)
    of_g = gbeta[channel] / count
    of_normal = ggamma[channel] / count
    factor = gamma[channel] * scale
    first, end = own_rows(s)
    for row in range(first, end, s.members):
        n, place = row // s.places, row % s.places
        normal = (x[n, channel, place] - centre) * scale
        gx[n, channel, place] = (g[n, channel, place] - of_g - normal * of_normal) * factor


def batch_norm(x: Array, gamma: Array, beta: Array, *, eps: float) -> tuple[Array, Array, Array]:
    """x: (N, C, ...), gamma and beta: (C,) -> y like x, and the mean and (biased) variance of each channel: (C,)."""
    if not x.size:
        return reference.batch_norm(x, gamma, beta, eps=eps)
    with device_of("batch_norm", x=x, gamma=gamma, beta=beta):
        dtype, xp = common_type("batch_norm", x, gamma, beta), namespace(x)
        last, s = lie(x)
        flat = three(x, last, dtype)
        gamma, beta = fused.flat(gamma, False, dtype), fused.flat(beta, False, dtype)
        parts = xp.empty((s.channels, 3, s.parts), dtype)
        mean, var = xp.empty(s.channels, dtype), xp.empty(s.channels, dtype)
        pass_over(batch_norm_moments_kernel, s, flat, parts)
        for_channels(batch_norm_finish_kernel, s, parts, mean, var)
        y = fused.empty_as(x, last, dtype)
        pass_over(batch_norm_apply_kernel, s, flat, gamma, beta, mean, var, three(y, last, dtype), dtype.type(eps))
    return y, mean, var


def batch_norm_backward(
    g: Array, x: Array, gamma: Array, mean: Array, var: Array, *, needs: list[bool], eps: float
) -> tuple[Array | None, Array | None, Array | None]:
    if not x.size:
        return reference.batch_norm_backward(g, x, gamma, mean, var, needs=needs, eps=eps)
    with device_of("batch_norm_backward", g=g, x=x, gamma=gamma, mean=mean, var=var):
        dtype, xp = common_type("batch_norm_backward", g, x, gamma), namespace(x)
        last, s = lie(x)
        g, flat = three(g, last, dtype), three(x, last, dtype)
        gamma, mean, var = (fused.flat(v, False, dtype) for v in (gamma, mean, var))
        parts = xp.empty((s.channels, 2, s.parts), dtype)
        ggamma, gbeta, gx = xp.empty(s.channels, dtype), xp.empty(s.channels, dtype), None
        pass_over(batch_norm_sums_kernel, s, g, flat, mean, var, parts, dtype.type(eps))
        for_channels(batch_norm_sums_finish_kernel, s, parts, ggamma, gbeta)
        if needs[0]:
            gx = fused.empty_as(x, last, dtype)
            arrays = (g, flat, gamma, mean, var, ggamma, gbeta, three(gx, last, dtype))
            pass_over(batch_norm_input_kernel, s, *arrays, dtype.type(eps))
    return gx, ggamma if needs[1] else None, gbeta if needs[2] else None
