"""What every column needs to know about arrays: which library one belongs to, and where its memory lives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np

from . import capture

Array = Any  # numpy.ndarray or cupy.ndarray

MANY = 8  # arrays that CuPy concatenates one by one
LARGE = 2**18  # elements from which on an elementwise operation on the CPU is worth dividing


def namespace(x: Array) -> Any:
    """The array library of x: numpy, or the module that brought x (cupy)."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    return sys.modules[type(x).__module__.partition(".")[0]]


def is_bfloat16(dtype: Any) -> bool:
    """Whether a dtype is the bfloat16 of ml_dtypes, which is of NumPy's kind V."""
    return dtype.kind == "V" and dtype.name == "bfloat16"


def is_floating(dtype: Any) -> bool:
    """Whether a dtype is floating-point: one of NumPy's, or bfloat16."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def concatenate(arrays: Sequence[Array], axis: int) -> Array:
    """One array behind the other. In a step that is captured, of more than MANY by as many copies: CuPy would send the
    addresses of all to the device, which no graph can repeat."""
    xp = namespace(arrays[0])
    if len(arrays) <= MANY or not capture.active():
        return xp.concatenate(arrays, axis)
    axis %= arrays[0].ndim
    lengths = [a.shape[axis] for a in arrays]
    shape = (*arrays[0].shape[:axis], sum(lengths), *arrays[0].shape[axis + 1 :])
    out, begin = xp.empty(shape, np.result_type(*(a.dtype for a in arrays))), 0
    for a, length in zip(arrays, lengths, strict=True):
        out[(slice(None),) * axis + (slice(begin, begin + length),)] = a
        begin += length
    return out


def stack(arrays: Sequence[Array], axis: int) -> Array:
    """The arrays side by side along a new axis."""
    xp = namespace(arrays[0])
    return xp.stack(arrays, axis) if xp is np else concatenate([xp.expand_dims(a, axis) for a in arrays], axis)


def add_at(out: Array, index: Any, values: Array) -> None:
    """out[index] += values, counting every repetition of an index."""
    if isinstance(out, np.ndarray):
        np.add.at(out, index, values)
    else:
        namespace(out).add.at(out, index, values)


def in_memory_order(kernel: Callable[..., Array]) -> Callable[..., Array]:
    """An elementwise kernel for CuPy arrays whose result lies in memory as its largest argument does; of several, the
    first without gaps.

    NumPy sees to that by itself. CuPy's results are C-contiguous, whatever came in: written across the order in which
    a channels-last argument is read, and copied back by the next convolution.
    """

    @wraps(kernel)
    def call(*args: Any, **params: Any) -> Array:
        arrays = [a for a in args if getattr(a, "ndim", 0)]
        if all(a.flags.c_contiguous for a in arrays) or params.get("out") is not None:
            return kernel(*args, **params)
        axes = range(max(a.ndim for a in arrays))
        size = max(a.size for a in arrays)
        orders = [_dense_order(a) for a in arrays if a.size == size]
        order = next((o for o in orders if o is not None), None)
        if order is None or order == [*axes] or any(a.ndim != len(axes) for a in arrays):
            return kernel(*args, **params)
        result = kernel(*(a.transpose(order) if getattr(a, "ndim", 0) else a for a in args), **params)
        return result.transpose([order.index(axis) for axis in axes])

    return call


def _dense_order(a: Array) -> list[int] | None:
    """The axes from the widest steps in memory to the narrowest; None where there are gaps or repetitions."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    return order if a.transpose(order).flags.c_contiguous else None
