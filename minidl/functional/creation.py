"""New tensors: of given values, and random ones (drawn from the stream that `manual_seed` starts)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np

from ..core import cuda
from ..core.dtypes import DEFAULT, as_dtype
from ..core.random import generator
from ..core.tensor import Tensor, place_of, to_device
from ..kernels import capture
from .arguments import sizes


def _filled(make: str, device: str | None, requires_grad: bool, *args: Any) -> Tensor:
    """np.zeros and the like, or CuPy's on a device: nothing travels there."""
    place = None if device is None else place_of(device)
    if place is None:
        return _new(getattr(np, make)(*args), None, requires_grad)
    with place, cuda.naming(make):
        result = Tensor(getattr(cuda.cupy(), make)(*args))
    return result.requires_grad_() if requires_grad else result


def _new(array: np.ndarray, device: str | None, requires_grad: bool) -> Tensor:
    return _made(lambda: array, device, requires_grad)


def _made(make: Callable[[], np.ndarray], device: str | None, requires_grad: bool) -> Tensor:
    """Of the array that make() gives; in a step that is captured, of one that it gives before every replay."""
    place = None if device is None else place_of(device)
    if place is None:
        result = Tensor(make())
    else:
        with place:
            result = Tensor(capture.array(make, lambda array: to_device(array, f"cuda:{place.id}")))
    return result.requires_grad_() if requires_grad else result


def constant(make: Callable[[], np.ndarray], beside: Any) -> Any:
    """The array that make() gives, every time the same one, where a tensor or an array is."""
    array = beside._data if isinstance(beside, Tensor) else beside
    if isinstance(array, np.ndarray):
        return make()
    with cuda.working_on(array):
        return capture.array(make, partial(to_device, device=f"cuda:{array.device.id}"))


def _dtype(dtype: Any) -> np.dtype:
    return DEFAULT if dtype is None else as_dtype(dtype)


def zeros(*size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Zeros of this shape: zeros(2, 3) or zeros((2, 3))."""
    return _filled("zeros", device, requires_grad, sizes("zeros", size), _dtype(dtype))


def ones(*size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Ones of this shape."""
    return _filled("ones", device, requires_grad, sizes("ones", size), _dtype(dtype))


def empty(*size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Memory of this shape, not initialised."""
    return _filled("empty", device, requires_grad, sizes("empty", size), _dtype(dtype))


def full(
    size: Any, fill_value: float, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere; without dtype its own type (int64, float32 or bool)."""
    if dtype is None:
        dtype = "bool" if isinstance(fill_value, bool) else "int64" if isinstance(fill_value, int) else DEFAULT
    return _filled("full", device, requires_grad, sizes("full", (size,)), fill_value, as_dtype(dtype))


def arange(
    start: float, end: float | None = None, step: float = 1, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """start, start + step, … below end; arange(n) counts from 0. Whole numbers give int64, others float32."""
    if end is None:
        start, end = 0, start
    if dtype is None:
        dtype = "int64" if all(isinstance(v, Integral) for v in (start, end, step)) else DEFAULT
    return _new(np.arange(start, end, step).astype(as_dtype(dtype)), device, False)


def linspace(start: float, end: float, steps: int, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """`steps` equally spaced values from start to end."""
    return _new(np.linspace(start, end, steps, dtype=_dtype(dtype)), device, False)


def eye(n: int, m: int | None = None, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Ones on the diagonal, zeros elsewhere: (n, m)."""
    return _new(np.eye(n, m, dtype=_dtype(dtype)), device, False)


def rand(*size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Uniform random numbers in [0, 1)."""
    return _made(_draw("random", sizes("rand", size), _dtype(dtype)), device, requires_grad)


def randn(*size: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Random numbers from the standard normal distribution."""
    return _made(_draw("standard_normal", sizes("randn", size), _dtype(dtype)), device, requires_grad)


def _draw(method: str, size: tuple[int, ...], dtype: np.dtype) -> Callable[[], np.ndarray]:
    """A function that draws from minidl's stream."""
    drawn = np.float64 if dtype == np.float64 else np.float32
    return lambda: np.asarray(getattr(generator(), method)(size, dtype=drawn)).astype(dtype, copy=False)


def randint(
    low: int,
    high: int | Sequence[int] | None = None,
    size: Any = (),
    *,
    dtype: Any = "int64",
    device: str | None = None,
) -> Tensor:
    """Random whole numbers in [low, high); randint(n, size) in [0, n)."""
    if isinstance(high, Sequence):
        low, high, size = 0, low, high
    if high is None:
        low, high = 0, low
    shape, kind = sizes("randint", (size,)), as_dtype(dtype)
    return _made(lambda: np.asarray(generator().integers(low, high, shape)).astype(kind), device, False)


def randperm(n: int, *, device: str | None = None) -> Tensor:
    """0 … n-1 in random order."""
    return _made(lambda: generator().permutation(n), device, False)


def bernoulli(input: Any) -> Tensor:
    """1 with the probability that each element of input gives, else 0; of input's shape and type."""
    p = input._data if isinstance(input, Tensor) else input
    draw = lambda: np.asarray(generator().random(p.shape))
    if isinstance(p, np.ndarray):
        return Tensor((draw() < p).astype(p.dtype))
    with cuda.working("bernoulli", p):
        return Tensor((capture.array(draw, lambda u: to_device(u, f"cuda:{p.device.id}")) < p).astype(p.dtype))


def _like(make: Callable, input: Any, dtype: Any, *args: Any) -> Tensor:
    device = input.device if isinstance(input, Tensor) else None
    return make(tuple(input.shape), *args, dtype=dtype or input.dtype, device=device)


def zeros_like(input: Any, *, dtype: Any = None) -> Tensor:
    """Zeros of input's shape, type and device."""
    return _like(zeros, input, dtype)


def ones_like(input: Any, *, dtype: Any = None) -> Tensor:
    """Ones of input's shape, type and device."""
    return _like(ones, input, dtype)


def full_like(input: Any, fill_value: float, *, dtype: Any = None) -> Tensor:
    """One value in input's shape, type and device."""
    return _like(full, input, dtype, fill_value)


def rand_like(input: Any, *, dtype: Any = None) -> Tensor:
    """Uniform random numbers in [0, 1) of input's shape, type and device."""
    return _like(rand, input, dtype)


def randn_like(input: Any, *, dtype: Any = None) -> Tensor:
    """Standard normal random numbers of input's shape, type and device."""
    return _like(randn, input, dtype)
