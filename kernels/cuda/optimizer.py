"""Launchers of optimizer.cu: steps of optimizers on CuPy arrays, in place. The counterpart of ../cpu/optimizer.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, namespace
from . import fused, launch

FILE = "optimizer.cu"


def covers(p: Any, g: Any, *state: Any) -> bool:
    """Whether a kernel can take these (None: nothing there): of one type, p and the state lying in one order without
    gaps. A gradient that lies otherwise is copied."""
    given = [a for a in (p, *state) if a is not None]
    same = all(a.dtype == p.dtype and a.shape == p.shape for a in (g, *given))
    order = _order(p)
    return same and p.dtype.name in launch.STORAGE and all(a.transpose(order).flags.c_contiguous for a in given)


def adam(
    p: Array, g: Array, mean: Array, square: Array, *, shrink: float, decay: float, betas: tuple[float, float],
    eps: float, root: float, rate: float,
) -> None:  # fmt: skip
    """p and the averages after a step, in place; optimizer.cu says what the numbers are."""
    b1, b2 = betas
    _step("adam_kernel", (p, g, mean, square), shrink, decay, b1, 1 - b1, b2, 1 - b2, eps, root, rate)


def sgd(
    p: Array, g: Array, velocity: Array | None, *, decay: float, momentum: float, keep: float, nesterov: bool,
    rate: float,
) -> None:  # fmt: skip
    """p and its velocity (None: there is no momentum) after a step, in place."""
    if velocity is None:
        _step("sgd_kernel", (p, g), decay, rate)
    else:
        _step("sgd_momentum_kernel", (p, g, velocity), decay, momentum, keep, np.int32(nesterov), rate)


def _step(kernel: str, arrays: tuple[Array, ...], *numbers: Any) -> None:
    p = arrays[0]
    with launch.device_of(kernel, p=p):
        real = fused.computed(p.dtype).type
        given = [n if isinstance(n, np.generic) else real(n) for n in numbers]
        fused.elementwise(FILE, kernel, p.dtype, p.size, *in_order_of(p, arrays), np.int64(p.size), *given)


def _order(a: Array) -> list[int]:
    return sorted(range(a.ndim), key=lambda axis: -a.strides[axis])


def in_order_of(p: Array, arrays: tuple[Array, ...]) -> list[Array]:
    """The arrays with their elements in the order in which p lies in memory: views where they lie so."""
    order = _order(p) or None
    return [namespace(p).ascontiguousarray(a.transpose(order)) for a in arrays]
