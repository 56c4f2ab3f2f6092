"""Steps of optimizers by compiled kernels (optimizer_loops.py): all parameters in one pass, divided among the threads
as if they were one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from . import threads
from .address import address

Array = np.ndarray

LARGE = 2**18  # elements of all parameters; for fewer nobody waits for a compiler
SMALL = 2**12  # the same where Numba is at work already
SHARE = 2**16
TYPES = (np.dtype(np.float32), np.dtype(np.float64))


def worth(elements: int) -> bool:
    """Whether a kernel pays for parameters of so many elements in all; NumPy's steps have the same bits."""
    return threads.usable() and elements >= (SMALL if "numba" in sys.modules else LARGE)


def covers(*arrays: Any) -> bool:
    """Whether a kernel can take these (None: nothing there): of one type, lying in one order without gaps."""
    p = arrays[0]
    dtype, strides = p.dtype, p.strides
    if dtype not in TYPES or not p.flags.writeable:  # NumPy says that it is read-only
        return False
    for a in arrays:
        if a is not None and not (a.dtype == dtype and a.strides == strides and a.flags.aligned):
            return False
    return p.flags.forc or p.transpose(sorted(range(p.ndim), key=lambda axis: -strides[axis])).flags.c_contiguous


def adam(
    tensors: Sequence[tuple[Array, Array, Array, Array]], numbers: Sequence[tuple[float, float]], *, shrink: float,
    decay: float, betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """Parameters and their averages after a step, in place.

    tensors: (p, g, mean, square) of each parameter, numbers: its (root, rate); all of one type. optimizer_loops.adam
    says what the numbers are.
    """
    from .optimizer_loops import adam

    b1, b2 = betas
    _run(adam, tensors, numbers, (shrink, decay, b1, 1 - b1, b2, 1 - b2, eps))


def sgd(
    tensors: Sequence[tuple[Array, Array, Array | None]], numbers: Sequence[tuple[float]], *, decay: float,
    momentum: float, nesterov: bool, rate: float,
) -> None:  # fmt: skip
    """Parameters and their velocities after a step, in place.

    tensors: (p, g, velocity) of each parameter, None where there is no momentum; numbers: its (keep,).
    """
    from .optimizer_loops import sgd

    _run(sgd, tensors, numbers, (decay, momentum, rate), nesterov)


def _run(kernel: Any, tensors: Sequence[tuple], numbers: Sequence[tuple], constants: tuple, *flags: bool) -> None:
    """kernel(threads, like, table, numbers, *constants, *flags). table: for each tensor how many elements come before
    it, how many it has, and its arrays' addresses."""
    number = tensors[0][0].dtype.type
    table, before = [], 0
    for arrays in tensors:
        size = arrays[0].size
        table.append((before, size, *[0 if a is None else address(a) for a in arrays]))
        before += size
    with threads.region(before, SHARE) as workers:
        kernel(
            workers, number(0), np.array(table, np.int64), np.array(numbers, number), *map(number, constants),
            *flags,
        )  # fmt: skip
