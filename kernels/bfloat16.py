"""bfloat16 on arrays: the dtype is ml_dtypes', and NumPy knows it only by name. Here is who computes with it.

bfloat16 is float32 without its last 16 bits: the same range, 8 bits of precision. A kernel gets bfloat16 arrays if it
only moves elements, or rounds each result once as it is (the array library's own loops, CUDA kernels of ours). Every
other kernel gets them as float32, and its results are rounded to bfloat16 once: the same numbers, more memory. So no
kernel has to know the type to be right with it, and on the CPU none does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .arrays import is_bfloat16, is_floating

# rows that move elements and compute nothing
MOVING = frozenset((
    "alias", "astype", "broadcast_to", "cat", "checkpoint", "copy", "crop", "diagonal", "diagonal_scatter", "flip",
    "gather", "getitem", "pad", "pool_at", "reshape", "roll", "split", "spread", "stack", "transfer", "transpose",
    "unbind", "unfold",
))  # fmt: skip
# rows that are loops of NumPy and CuPy over bfloat16: one operation on float32, rounded; but not beside Python's floats
LOOPS = frozenset((
    "abs", "add", "div", "eq", "ge", "gt", "isfinite", "isnan", "le", "lt", "maximum", "minimum", "mul", "ne", "neg",
    "square", "sub",
))  # fmt: skip
# rows that take it on CUDA devices besides those with a kernel of ours: CuPy computes in float32 and rounds
ON_DEVICES = frozenset((
    "amax", "amin", "ceil", "cos", "exp", "expm1", "floor", "log", "log1p", "positive_part", "relu", "round", "sigmoid",
    "sign", "sin", "sqrt", "sum", "sum_to", "tanh", "where",
))  # fmt: skip


def concerned(values: Sequence[Any]) -> bool:
    """Whether one of the arguments is a bfloat16 array."""
    for value in values:  # in every operation of a program that uses ml_dtypes: no generator
        dtype = getattr(value, "dtype", None)
        if dtype is not None and dtype.kind == "V" and is_bfloat16(dtype):
            return True
    return False


def adapted(name: str, column: str, kernel: Callable, own: bool) -> Callable:
    """The kernel of a row for bfloat16 arrays. own: it was written for this column."""
    if name in MOVING:
        return kernel
    if column == "cuda" and (own or name in ON_DEVICES):
        return rounded(kernel, widen=False)  # a product too small for our kernels may come back as float32
    wide = rounded(kernel)
    if name not in LOOPS:
        return wide
    # NumPy and CuPy take a Python float for float32
    return lambda *args, **params: (wide if any(type(a) is float for a in args) else kernel)(*args, **params)


def rounded(kernel: Callable, widen: bool = True) -> Callable:
    """The kernel on float32 copies of bfloat16 arrays, its results rounded to bfloat16; left as they are where another
    argument is float32 or float64, the type that they then have in common. widen: False gives it the arrays themselves.
    """

    def call(*args: Any, **params: Any) -> Any:
        result = kernel(*(map(_widened, args) if widen else args), **params)
        several = isinstance(result, (tuple, list))
        if not any(_is_single(y) for y in (result if several else (result,))):
            return result
        dtypes = {a.dtype for a in args if hasattr(a, "strides") and is_floating(a.dtype)}
        if len(dtypes) > 1:
            return result
        narrow = lambda y: y.astype(*dtypes) if _is_single(y) else y
        return type(result)(map(narrow, result)) if several else narrow(result)

    return call


def _widened(value: Any) -> Any:
    return value.astype("float32") if hasattr(value, "strides") and is_bfloat16(value.dtype) else value


def _is_single(value: Any) -> bool:
    return hasattr(value, "strides") and value.dtype == np.float32
