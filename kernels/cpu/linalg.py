"""Products of matrices: NumPy's, divided among the cores where there is enough to do.

Each thread multiplies a part with a BLAS of one thread. BLAS's own threads wait for each other in busy loops: on a
machine whose cores are taken, products of milliseconds were seen to take seconds with them.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..reference import linalg as reference
from . import threads

Array = np.ndarray

# Multiply-adds. OpenBLAS itself uses one thread up to SERIAL. From there on a thread gets at least a SHARE: waking one
# for less costs more than it saves.
SERIAL = 2**18
SHARE = 2**21


def matmul(a: Array, b: Array) -> Array:
    work = a.size * b.shape[-1] if b.ndim > 1 else a.size
    if work <= SERIAL or a.ndim < 2 or b.ndim < 2:
        return reference.matmul(a, b)
    if a.ndim == b.ndim == 2:
        return _product(a, b)
    return _stacked(a, b, work)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    if x.size * w.shape[0] <= SERIAL:
        return reference.linear(x, w, b)
    y = _product(x.reshape(-1, x.shape[-1]), w.T).reshape(*x.shape[:-1], w.shape[0])
    if b is not None:
        y += b
    return y


def linear_weight(g: Array, x: Array) -> Array:
    if g.size * x.shape[-1] <= SERIAL:
        return reference.linear_weight(g, x)
    return _product(g.reshape(-1, g.shape[-1]).T, x.reshape(-1, x.shape[-1]))


def contract(a: Array, b: Array, *, subscripts: tuple[str, str, str]) -> Array:
    only_b = prod(n for i, n in zip(subscripts[1], b.shape, strict=True) if i not in subscripts[0])
    if a.size * only_b <= SERIAL:
        return reference.contract(a, b, subscripts=subscripts)
    with threads.blas_threads(threads.worth(a.size * only_b, SHARE)):
        return reference.contract(a, b, subscripts=subscripts)


def _product(a: Array, b: Array) -> Array:
    """(n, k) @ (k, m), by rows or by columns, of which there are more."""
    (n, k), m = a.shape, b.shape[1]
    workers, length = threads.worth(n * k * m, SHARE), max(n, m)
    with threads.single_threaded_blas:
        if workers == 1:
            return a @ b
        out = np.empty((n, m), np.result_type(a, b))
        tasks = min(length, workers if n * k * m < 8 * workers * SHARE else 2 * workers)
        parts = [slice(length * i // tasks, length * (i + 1) // tasks) for i in range(tasks)]

        def task(i: int) -> None:
            if n >= m:
                np.matmul(a[parts[i]], b, out=out[parts[i]])
            else:
                np.matmul(a, b[:, parts[i]], out=out[:, parts[i]])

        threads.share(task, tasks, workers)
    return out


def _stacked(a: Array, b: Array, work: int) -> Array:
    """A product of stacks of matrices, by the first axis of the stack if both have it."""
    workers = threads.worth(work, SHARE)
    with threads.single_threaded_blas:
        if workers == 1 or a.ndim != b.ndim or a.shape[0] != b.shape[0] or a.shape[0] < workers:
            return reference.matmul(a, b)
        parts: list[Any] = [None] * workers
        ends = [len(a) * i // workers for i in range(workers + 1)]

        def task(i: int) -> None:
            parts[i] = reference.matmul(a[ends[i] : ends[i + 1]], b[ends[i] : ends[i + 1]])

        threads.share(task, workers, workers)
    return np.concatenate(parts)
