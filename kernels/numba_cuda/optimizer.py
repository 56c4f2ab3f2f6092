"""Steps of optimizers as numba.cuda kernels, to be read beside ../cuda/optimizer.cu. All arrays: (elements,)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import cuda

from ..arrays import Array
from ..cuda import optimizer as launchers
from .launch import device_of, elementwise, thread_index

TYPES = ("float32", "float64")


@cuda.jit
def adam_kernel(p, g, mean, square, shrink, decay, beta1, rest1, beta2, rest2, eps, root, rate):
    """Adam and AdamW. shrink: what p is multiplied with first; decay: how much of p is added to the gradient; root: the
    square root of square's correction for its start from 0; rate: the learning rate over that of mean."""
    i = thread_index()
    if i >= p.size:
        return
    x = p[i] * shrink
    slope = g[i]
    if decay != 0:
        slope = x * decay + slope
    m = mean[i] * beta1 + slope * rest1
    v = square[i] * beta2 + slope * slope * rest2
    mean[i] = m
    square[i] = v
    p[i] = x - m / (math.sqrt(v) / root + eps) * rate


@cuda.jit
def sgd_kernel(p, g, decay, rate):
    """Gradient descent without momentum."""
    i = thread_index()
    if i >= p.size:
        return
    x = p[i]
    slope = g[i]
    if decay != 0:
        slope = x * decay + slope
    p[i] = x - slope * rate


@cuda.jit
def sgd_momentum_kernel(p, g, velocity, decay, momentum, keep, nesterov, rate):
    """With momentum; keep: how much of the gradient enters the velocity."""
    i = thread_index()
    if i >= p.size:
        return
    x = p[i]
    slope = g[i]
    if decay != 0:
        slope = x * decay + slope
    v = velocity[i] * momentum + slope * keep
    velocity[i] = v
    p[i] = x - (v * momentum + slope if nesterov else v) * rate


def covers(p: Any, g: Any, *state: Any) -> bool:
    """Whether a kernel can take these; see ../cuda/optimizer.py."""
    return p.dtype.name in TYPES and launchers.covers(p, g, *state)


def adam(
    p: Array, g: Array, mean: Array, square: Array, *, shrink: float, decay: float, betas: tuple[float, float],
    eps: float, root: float, rate: float,
) -> None:  # fmt: skip
    """p and the averages after a step, in place; the kernel says what the numbers are."""
    b1, b2 = betas
    _step(adam_kernel, (p, g, mean, square), shrink, decay, b1, 1 - b1, b2, 1 - b2, eps, root, rate)


def sgd(
    p: Array, g: Array, velocity: Array | None, *, decay: float, momentum: float, keep: float, nesterov: bool,
    rate: float,
) -> None:  # fmt: skip
    """p and its velocity (None: there is no momentum) after a step, in place."""
    if velocity is None:
        _step(sgd_kernel, (p, g), decay, rate)
    else:
        _step(sgd_momentum_kernel, (p, g, velocity), decay, momentum, keep, np.int32(nesterov), rate)


def _step(kernel: Any, arrays: tuple[Array, ...], *numbers: Any) -> None:
    p = arrays[0]
    with device_of("step", p=p):
        given = [n if isinstance(n, np.generic) else p.dtype.type(n) for n in numbers]
        if p.size:
            elementwise(kernel, p.size, *(a.reshape(-1) for a in launchers.in_order_of(p, arrays)), *given)
