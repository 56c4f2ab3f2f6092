"""Checks that the public functions share. Every error names the argument, what was given and what would fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np

from ..core import cuda
from ..core.dtypes import DEFAULT
from ..core.mode import MODE
from ..core.tensor import Tensor
from ..kernels.arrays import is_floating
from ..ops.elementwise import astype


def is_array(value: Any) -> bool:
    return isinstance(value, Tensor) or hasattr(value, "strides")


def check_array(function: str, name: str, value: Any) -> None:
    """Public functions work on tensors and, unrecorded, on bare arrays."""
    if not is_array(value):
        raise TypeError(f"{function}: {name} must be a tensor, not {type(value).__name__}")


def check_floating(function: str, **arrays: Any) -> None:
    """All given arrays (None is skipped) are tensors of one and the same floating-point type. The types that
    amp.autocast casts count as one inside it."""
    first: tuple[str, np.dtype, bool] | None = None
    autocast = MODE.get().autocast
    for name, value in arrays.items():
        if value is None:
            continue
        check_array(function, name, value)
        if not is_floating(value.dtype):
            raise TypeError(f"{function}: {name} must be floating-point, not {value.dtype}; convert it with .float()")
        cast = autocast is not None and autocast.covers(value)
        if first is None:
            first = (name, value.dtype, cast)
        elif value.dtype != first[1] and not (cast and first[2]):
            raise TypeError(
                f"{function}: {first[0]} is {first[1]} but {name} is {value.dtype}; give both the same type with "
                f".to(dtype)"
            )


def on_its_device(function: Callable) -> Callable:
    """For functions that also compute on bare arrays: the device of the first argument is the current one inside."""

    @wraps(function)
    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        array = input._data if isinstance(input, Tensor) else input
        if isinstance(array, np.ndarray):
            return function(input, *args, **kwargs)
        with cuda.working_on(array):
            return function(input, *args, **kwargs)

    return call


def may_look(value: Any) -> bool:
    """Whether to check the elements of an argument. On a CUDA device the host would have to wait for them, so there it
    is done only inside `detect_anomaly()`."""
    array = value._data if isinstance(value, Tensor) else value
    return isinstance(array, np.ndarray) or MODE.get().anomaly


def check_shape(function: str, name: str, value: Any, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        raise ValueError(f"{function}: {name} has shape {value.shape}, but must have shape {shape}")


def normalize_dim(dim: int, ndim: int) -> int:
    """An axis counted from the front."""
    try:
        index = dim.__index__()
    except AttributeError:
        raise TypeError(f"dim must be a whole number, not {dim!r}") from None
    if not -max(ndim, 1) <= index < max(ndim, 1):
        raise IndexError(
            f"dim {dim} is out of range for a tensor with {ndim} axes ({-max(ndim, 1)} … {max(ndim, 1) - 1})"
        )
    return index % max(ndim, 1)


def normalize_dims(dim: int | Iterable[int] | None, ndim: int) -> tuple[int, ...]:
    """Axes counted from the front, sorted; None means all of them."""
    if dim is None:
        return tuple(range(ndim))
    dims = [normalize_dim(d, ndim) for d in (dim if isinstance(dim, Iterable) else (dim,))]
    if len(set(dims)) != len(dims):
        raise ValueError(f"dim {dim} names an axis twice")
    return tuple(sorted(dims)) if ndim else ()


def axis_of(function: str, input: Any, dim: int) -> int:
    """An axis of a tensor, counted from the front."""
    check_array(function, "input", input)
    try:
        return normalize_dim(dim, input.ndim)
    except (IndexError, TypeError) as error:
        raise type(error)(f"{function}: {error}") from None


def axes_of(function: str, input: Any, dim: int | Iterable[int] | None) -> tuple[int, ...]:
    """Axes of a tensor, counted from the front, sorted; None means all of them."""
    check_array(function, "input", input)
    try:
        return normalize_dims(dim, input.ndim)
    except (IndexError, TypeError, ValueError) as error:
        raise type(error)(f"{function}: {error}") from None


def reduced_axes(function: str, input: Any, dim: int | Iterable[int] | None) -> tuple[int, ...]:
    """The same for sums and their like, where () means all axes as well."""
    return axes_of(function, input, None if isinstance(dim, (tuple, list)) and not dim else dim)


def sizes(function: str, args: tuple) -> tuple[int, ...]:
    """f(2, 3), f((2, 3)) and f([2, 3]) all mean (2, 3)."""
    if len(args) == 1 and isinstance(args[0], Iterable):
        args = tuple(args[0])
    try:
        return tuple(n.__index__() for n in args)
    except (AttributeError, TypeError):
        raise TypeError(f"{function}: sizes must be whole numbers, not {', '.join(map(repr, args))}") from None


def within(function: str, input: Any, **bounds: Any) -> tuple[Any, dict[str, Any]]:
    """input and bounds that go together: Python numbers, and beside fractions no integers."""
    check_array(function, "input", input)
    for name, bound in bounds.items():
        if isinstance(bound, np.generic):
            bounds[name] = bound.item()
        elif bound is not None and not isinstance(bound, (int, float)):
            raise TypeError(
                f"{function}: {name} must be a number, not {type(bound).__name__}; for tensors there are maximum and "
                f"minimum"
            )
    if not is_floating(input.dtype) and any(isinstance(bound, float) for bound in bounds.values()):
        input = astype(input, dtype=DEFAULT)
    return input, bounds


def single_in_autocast(*tensors: Any) -> tuple:
    """Inside amp.autocast what it casts as float32, for functions whose every part needs that; else as they are."""
    autocast = MODE.get().autocast
    return tensors if autocast is None else tuple(map(autocast.single, tensors))


def in_single(function: Any, input: Any, *args: Any) -> Any:
    """A function of half-precision numbers whose sums would leave their range: computed in float32."""
    return astype(function(astype(input, dtype=DEFAULT), *args), dtype=input.dtype)
