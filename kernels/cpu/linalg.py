"""Products of matrices on the CPU: compiled loops (products.py), and NumPy where there is little to do or where
reading the matrix is all there is."""

from __future__ import annotations

import numpy as np

from ..reference import linalg as reference
from . import threads
from .address import address

Array = np.ndarray

SMALL = 2**21  # multiply-adds up to which NumPy computes: the call alone of a compiled loop takes 7 us
SHARE = 2**20  # multiply-adds for each thread that make it worth waking the others
FEW = 4  # rows, columns or terms: BLAS's products of a matrix with a vector are as fast as memory
SLOPES = 2**15  # elements from which on a compiled loop is faster than the passes of NumPy
# elements for each thread that make it worth waking the others: 20 us of work
ACTIVATIONS = {"relu": 2**18, "tanh": 2**15, "sigmoid": 2**15}
PER_SLOPE = 2**15
KINDS = {"relu": 0, "tanh": 1, "sigmoid": 2}  # numbers in activation_loops.py
TYPES = (np.dtype(np.float32), np.dtype(np.float64))


def matmul(a: Array, b: Array) -> Array:
    work = a.size * b.shape[-1]
    if work <= SMALL:
        with threads.small_blas(work):
            return reference.matmul(a, b)
    if not b.size or a.ndim < 2 or b.ndim < 2 or not _covered(a, b):
        return reference.matmul(a, b)
    (n, k), m = a.shape[-2:], b.shape[-1]
    if b.ndim == 2:
        return _multiply(a.reshape(-1, k), b).reshape(*a.shape[:-1], m)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (np.broadcast_to(x, (*lead, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (a, b))
    return _multiply(a, b).reshape(*lead, n, m)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    if (work := x.size * w.shape[0]) <= SMALL:
        with threads.small_blas(work):
            return reference.linear(x, w, b)
    if not _covered(x, w, x if b is None else b):
        return reference.linear(x, w, b)
    y = _multiply(x.reshape(-1, x.shape[-1]), w.T, b)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], w.shape[0])


def linear_activated(x: Array, w: Array, b: Array | None, *, activation: str) -> Array:
    work = x.size * w.shape[0]
    if work <= SMALL or x.dtype != np.float32 or not _covered(x, w, x if b is None else b):
        return reference.linear_activated(x, w, b, activation=activation, product=linear)
    from . import activation_loops as loops

    y = linear(x, w, b)
    with threads.region(y.size, ACTIVATIONS[activation]) as workers:
        loops.activate(workers, y.reshape(-1), KINDS[activation])
    return y


def linear_activated_slope(g: Array, y: Array, *, activation: str) -> tuple[Array, Array]:
    if y.size < SLOPES or not _covered(g, y):
        return reference.linear_activated_slope(g, y, activation=activation)
    from . import activation_loops as loops

    g, y, columns = np.ascontiguousarray(g), np.ascontiguousarray(y), y.shape[-1]
    gz = np.empty(y.shape, y.dtype)
    with threads.region(y.size, PER_SLOPE) as workers:
        sums, parts = np.empty((workers, columns), y.dtype), np.empty((workers, columns))
        loops.slopes(
            workers, y.dtype.type(0), address(g), address(y), address(gz), y.size // columns, columns, sums, parts,
            KINDS[activation],
        )  # fmt: skip
    return gz, parts.sum(0).astype(y.dtype)


def linear_weight(g: Array, x: Array) -> Array:
    if (work := g.size * x.shape[-1]) <= SMALL:
        with threads.small_blas(work):
            return reference.linear_weight(g, x)
    if not _covered(g, x):
        return reference.linear_weight(g, x)
    return _multiply(g.reshape(-1, g.shape[-1]).T, x.reshape(-1, x.shape[-1]))


def contract(a: Array, b: Array, *, subscripts: tuple[str, str, str]) -> Array:
    return reference.contract(a, b, subscripts=subscripts, product=matmul)


def _covered(*arrays: Array) -> bool:
    """Whether the compiled loops can: one type, and a process in which threads may be started."""
    dtype = arrays[0].dtype
    return dtype in TYPES and all(a.dtype == dtype for a in arrays) and threads.usable()


def _multiply(a: Array, b: Array, bias: Array | None = None) -> Array:
    """Matrices, or stacks of equal length."""
    (n, k), m = a.shape[-2:], b.shape[-1]
    if a.ndim == 2 and k > FEW and min(n, m) <= FEW:
        y = _vectors(a, b) if n <= m else np.ascontiguousarray(_vectors(b.T, a.T).T)
    elif k <= FEW:
        with threads.single_threaded_blas:
            y = a @ b
    else:
        from . import products  # imports Numba, half a second

        workers = threads.count()
        # all or one: GNU OpenMP ends the threads that a smaller team leaves out, and starting them again takes longer
        return products.multiply(a, b, bias, workers if a.size * m >= SHARE * workers else 1)
    return y if bias is None else np.add(y, bias, out=y)


def _vectors(a: Array, b: Array) -> Array:
    """A few rows times a matrix, which is what has to be read: row by row, each thread some of the columns."""
    y = np.empty((len(a), b.shape[1]), a.dtype)
    workers = threads.worth(a.size * b.shape[1], SHARE)

    def task(i: int) -> None:
        part = slice(y.shape[1] * i // workers, y.shape[1] * (i + 1) // workers)
        for row, out in zip(a, y, strict=True):
            np.matmul(row, b[:, part], out=out[part])

    with threads.single_threaded_blas:
        threads.share(task, workers, workers)
    return y
