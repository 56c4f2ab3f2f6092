"""Whether tensors are equal, as a Python truth value."""

from __future__ import annotations

from typing import Any

from ..core import cuda
from ..core.tensor import Tensor
from ..kernels.arrays import namespace


def equal(input: Any, other: Any) -> bool:
    """Whether two tensors have the same shape and elements."""
    return tuple(input.shape) == tuple(other.shape) and bool((input == other).all())


def allclose(input: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether |input - other| <= atol + rtol |other| everywhere."""
    a, b = (x._data if isinstance(x, Tensor) else x for x in (input, other))
    with cuda.working_on(a):
        return bool(namespace(a).allclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))
