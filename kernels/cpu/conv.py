"""The convolution family on the CPU; what it computes is specified by `reference/conv.py`.

Two implementations with the same three functions, chosen by a pure function of the geometry:

plain.py    small work: NumPy's strided windows and a stack of matrix products. It needs no compiler and starts no
            threads, so tests, examples and small networks never wait for either.
columns.py  everything else: compiled, channels-last, tiles of columns that stay in cache, multiplied by BLAS on all
            cores. Its results have channels-last strides; the next layer reads them as they lie.
"""

from __future__ import annotations

import numpy as np

from ..geometry import ConvGeometry
from ..reference import conv as reference
from . import plain, threads

Array = np.ndarray

SMALL = 2**20  # multiply-adds: NumPy does them in 30-100 us, about the fixed cost of a compiled, parallel call
SHARE = 2**19  # multiply-adds that make one more thread worth waking


def conv(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (K, C/G, *k) -> (N, K, *O)"""
    return _run("conv", x, w, geometry)


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, K, *O) * (K, C/G, *k) -> (N, C, *I): the adjoint of conv in x, which is the transposed convolution."""
    return _run("conv_input", y, w, geometry)


def conv_weight(x: Array, y: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (N, K, *O) -> (K, C/G, *k): the adjoint of conv in w, C-contiguous.

    For a fixed number of threads the same bits every time.
    """
    return _run("conv_weight", x, y, geometry)


def is_small(g: ConvGeometry) -> bool:
    """Whether starting threads (and compiling, the first time) would take longer than the work itself."""
    return g.multiply_adds <= SMALL


def _run(name: str, a: Array, b: Array, g: ConvGeometry) -> Array:
    dtype = np.result_type(a, b)
    if dtype == np.float16:
        # there is no BLAS for it; float32 is faster and rounds once instead of at every kernel position
        return _run(name, a.astype(np.float32), b.astype(np.float32), g).astype(dtype)
    covered = dtype in (np.float32, np.float64) and g.rank <= 3
    if not covered or not (is_small(g) or threads.usable()):
        # the reference does the rest: numbers without a fast BLAS (integers, complex), four spatial axes, and large
        # work in a forked child, where the parallel runtime of the parent must not be entered
        return getattr(reference, name)(a, b, geometry=g)
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    if is_small(g):
        return getattr(plain, name)(a, b, g)
    from . import columns  # only now: it imports Numba and SciPy, half a second

    with threads.region(g.multiply_adds, SHARE), threads.single_threaded_blas:
        return getattr(columns, name)(a, b, g)
