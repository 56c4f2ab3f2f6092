"""Steps of optimizers on large parameters, by compiled kernels (optimizer_loops.py)."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import threads

Array = np.ndarray

LARGE = 2**18  # elements; smaller parameters are NumPy's, and nobody waits for a compiler because of them
SHARE = 2**16


def covers(*arrays: Any) -> bool:
    """Whether a kernel can take these (None: nothing there): large, of one type, lying in one order without gaps."""
    p = arrays[0]
    if not isinstance(p, Array) or p.size < LARGE or p.dtype not in (np.float32, np.float64) or not threads.usable():
        return False
    given = [a for a in arrays if a is not None]
    dense = all(a.dtype == p.dtype and a.strides == p.strides and a.flags.aligned for a in given)
    return dense and p.transpose(_order(p)).flags.c_contiguous


def adam(
    p: Array, g: Array, mean: Array, square: Array, *, shrink: float, decay: float, betas: tuple[float, float],
    eps: float, root: float, rate: float,
) -> None:  # fmt: skip
    """p and the averages after a step, in place. The keywords are those of optimizer_loops.adam."""
    from .optimizer_loops import adam

    (b1, b2), number = betas, p.dtype.type
    numbers = map(number, (shrink, decay, b1, 1 - b1, b2, 1 - b2, eps, root, rate))
    with threads.region(p.size, SHARE):
        adam(threads.count(), _flat(p), _read(g), _flat(mean), _flat(square), *numbers)


def sgd(
    p: Array, g: Array, velocity: Array | None, *, decay: float, momentum: float, keep: float, nesterov: bool,
    rate: float,
) -> None:  # fmt: skip
    """p and its velocity (None: there is no momentum) after a step, in place."""
    from .optimizer_loops import sgd

    number = p.dtype.type
    moving = np.empty(0, p.dtype) if velocity is None else _flat(velocity)
    with threads.region(p.size, SHARE):
        sgd(threads.count(), _flat(p), _read(g), moving, *map(number, (decay, momentum, keep)), nesterov, number(rate))


def _order(a: Array) -> list[int]:
    return sorted(range(a.ndim), key=lambda axis: -a.strides[axis])


def _flat(a: Array) -> Array:
    return a.transpose(_order(a)).reshape(-1)


def _read(a: Array) -> Array:
    """Flat and read-only: one type to compile for."""
    flat = _flat(a).view()
    flat.flags.writeable = False
    return flat
