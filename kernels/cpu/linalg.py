"""Products of matrices: NumPy's, with as many BLAS threads as the work is worth."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from math import prod

import numpy as np

from ..reference import linalg as reference
from . import threads

Array = np.ndarray

# Multiply-adds. OpenBLAS itself uses one thread up to SERIAL. From there to SHARED, waking the others costs more than
# they save, and far more on a busy machine: 1 M of them were measured at 0.02 ms with one thread, 0.3 to 35 ms with
# four.
SERIAL = 2**18
SHARED = 2**22


def matmul(a: Array, b: Array) -> Array:
    with _threads_for(a.size * b.shape[-1] if b.ndim > 1 else a.size):
        return reference.matmul(a, b)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    with _threads_for(x.size * w.shape[0]):
        return reference.linear(x, w, b)


def linear_weight(g: Array, x: Array) -> Array:
    with _threads_for(g.size * x.shape[-1]):
        return reference.linear_weight(g, x)


def contract(a: Array, b: Array, *, subscripts: tuple[str, str, str]) -> Array:
    only_b = prod(n for i, n in zip(subscripts[1], b.shape, strict=True) if i not in subscripts[0])
    with _threads_for(a.size * only_b):
        return reference.contract(a, b, subscripts=subscripts)


def _threads_for(work: int) -> AbstractContextManager:
    return threads.single_threaded_blas if SERIAL < work < SHARED else nullcontext()
