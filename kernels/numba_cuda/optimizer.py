"""Steps of optimizers as numba.cuda kernels, to be read beside ../cuda/optimizer.cu. All arrays: (elements,)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import cuda

from ..arrays import Array, namespace
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
def sgd_kernel(p, g, velocity, decay, momentum, keep, rate, nesterov):
    """Gradient descent. Without momentum the velocity is empty; keep: how much of the gradient enters it."""
    i = thread_index()
    if i >= p.size:
        return
    x = p[i]
    slope = g[i]
    if decay != 0:
        slope = x * decay + slope
    if velocity.size:
        v = velocity[i] * momentum + slope * keep
        velocity[i] = v
        slope = v * momentum + slope if nesterov else v
    p[i] = x - slope * rate


def worth(elements: int) -> bool:
    """Whether a kernel pays for parameters of so many elements in all: always."""
    return True


def covers(p: Any, g: Any, *state: Any) -> bool:
    """Whether a kernel can take these; see ../cuda/optimizer.py."""
    return p.dtype.name in TYPES and launchers.covers(p, g, *state)


def adam(
    tensors: Sequence[tuple[Array, Array, Array, Array]], numbers: Sequence[tuple[float, float]], *, shrink: float,
    decay: float, betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """Parameters and their averages after a step, in place, one after the other (../cuda has one launch for all).

    tensors: (p, g, mean, square) of each parameter, numbers: its (root, rate); the kernel says what they are.
    """
    b1, b2 = betas
    for arrays, (root, rate) in zip(tensors, numbers, strict=True):
        _step(adam_kernel, arrays, shrink, decay, b1, 1 - b1, b2, 1 - b2, eps, root, rate)


def sgd(
    tensors: Sequence[tuple[Array, Array, Array | None]], numbers: Sequence[tuple[float]], *, decay: float,
    momentum: float, nesterov: bool, rate: float,
) -> None:  # fmt: skip
    """Parameters and their velocities after a step, in place.

    tensors: (p, g, velocity) of each parameter, None where there is no momentum; numbers: its (keep,).
    """
    for (p, g, velocity), (keep,) in zip(tensors, numbers, strict=True):
        moving = namespace(p).empty(0, p.dtype) if velocity is None else velocity
        _step(sgd_kernel, (p, g, moving), decay, momentum, keep, rate, np.int32(nesterov))


def _step(kernel: Any, arrays: Sequence[Array], *numbers: Any) -> None:
    p = arrays[0]
    with device_of("step", p=p):
        given = [n if isinstance(n, np.generic) else p.dtype.type(n) for n in numbers]
        if p.size:
            lying = [a.reshape(-1) for a in launchers.in_order_of(p, arrays)]
            elementwise(kernel, p.size, *lying, *given)
