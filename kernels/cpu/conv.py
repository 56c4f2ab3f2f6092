"""The convolution family on the CPU; what it computes is specified by `reference/conv.py`.

Which algorithm does it is decided in algorithms.py. Results of all but the smallest have channels-last strides; the
next layer reads them as they lie.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np

from ..arrays import LARGE
from ..geometry import ConvGeometry
from ..precision import is_precise
from ..reference import conv as reference
from . import plain, threads
from .algorithms import Choice, choose
from .finish import NOTHING, Finish

Array = np.ndarray

SHARE = 2**19  # multiply-adds that make one more thread worth waking
PASS = 2**17  # elements that do, where each is only looked at once


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


def conv_bias(x: Array, w: Array, b: Array, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """conv(x, w) + b, or if `transposed` conv_input(x, w) + b; b: one number for each channel of the result"""
    return _run("conv_input" if transposed else "conv", x, w, geometry, Finish(b))


def conv_relu(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """relu(conv_bias(x, w, b)); b may be None."""
    return _run("conv_input" if transposed else "conv", x, w, geometry, Finish(b, relu=True))


def conv_relu_slope(g: Array, y: Array) -> tuple[Array, Array]:
    """For y = relu(z + b) and its gradient g: that of z, as y lies in memory, and that of b.

    For a fixed number of threads the same bits every time.
    """
    fits = y.dtype in (np.float32, np.float64) and g.dtype == y.dtype
    if y.size < LARGE or not fits or not np.moveaxis(y, 1, -1).flags.c_contiguous or not threads.usable():
        return reference.conv_relu_slope(g, y)
    from .slope import masked

    with threads.region(y.size, PASS):
        return masked(g, y)


def choice_for(name: str, g: ConvGeometry, dtype: np.dtype) -> Choice:
    """What would be used for this work now, with the threads and the precision of this moment."""
    choice = choose(name, g, dtype, 1, is_precise())
    if choice.algorithm in ("plain", "reference"):
        return choice  # without asking Numba for its threads: it takes long to import
    return choose(name, g, dtype, threads.worth(g.multiply_adds, SHARE), is_precise())


def _run(name: str, a: Array, b: Array, g: ConvGeometry, end: Finish = NOTHING) -> Array:
    dtype = np.result_type(a, b)
    if dtype == np.float16:
        # there is no vector code for it; float32 is faster and rounds once instead of at every kernel position
        return _run(name, a.astype(np.float32), b.astype(np.float32), g, end).astype(dtype)
    choice = choice_for(name, g, dtype)
    if choice.algorithm == "plain":
        with threads.small_blas(g.multiply_adds):
            return end.of(getattr(plain, name)(a.astype(dtype, copy=False), b.astype(dtype, copy=False), g))
    if choice.algorithm == "reference" or not threads.usable():
        # also large work in a forked child, where the parallel runtime of the parent must not be entered
        return end.of(getattr(reference, name)(a, b, geometry=g))
    a, b = a.astype(dtype, copy=False), b.astype(dtype, copy=False)
    # only now: these modules import Numba, half a second
    module = import_module(f".{choice.algorithm}", __package__)
    with threads.region(g.multiply_adds, SHARE):
        extra = (choice.tile,) if choice.tile else ()
        return getattr(module, name)(a, b, g, *extra, *([] if end is NOTHING else [end]))
