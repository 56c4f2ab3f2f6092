"""Reductions: sums, moments, extremes, softmax. Names and defaults are PyTorch's; all work on bare arrays,
unrecorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..core.dtypes import DEFAULT
from ..kernels.arrays import is_floating
from ..ops import indexing, reduction, shape
from ..ops.elementwise import abs, astype, mul, sqrt, square, where
from .arguments import (
    axes_of,
    axis_of,
    check_array,
    check_floating,
    in_single,
    normalize_dim,
    reduced_axes,
    single_in_autocast,
)
from .indexing import Selection
from .shape import reshape, squeeze

Dim = int | Sequence[int] | None


def sum(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The sum over one axis, several or (None) all. Integers and booleans add up in int64."""
    return reduction.sum(input, axis=reduced_axes("sum", input, dim), keepdims=keepdim)


def mean(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The mean over one axis, several or (None) all."""
    check_floating("mean", input=input)
    if input.dtype.itemsize == 2:
        return in_single(mean, input, dim, keepdim)
    axes = reduced_axes("mean", input, dim)
    return reduction.sum(input, axis=axes, keepdims=keepdim) / _count(input, axes, "mean")


def _flat_at_zero(function: Any, x: Any) -> Any:
    """A root or power of x, which is 0 at 0; its gradient too, though the slope is infinite there."""
    zero = x == 0
    return where(zero, 0.0, function(where(zero, 1.0, x)))


def _count(input: Any, axes: tuple[int, ...], what: str) -> int:
    count = math.prod(input.shape[i] for i in axes)
    if count == 0:
        raise ValueError(
            f"{what} over axes {axes} of a tensor of shape {tuple(input.shape)}: there is nothing to average"
        )
    return count


def var(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The variance: squared deviations from the mean, summed and divided by (count - correction)."""
    check_floating("var", input=input)
    if input.dtype.itemsize == 2:
        return in_single(var, input, dim, correction, keepdim)
    axes = reduced_axes("var", input, dim)
    centred = input - mean(input, axes, keepdim=True)
    count = _count(input, axes, "var")
    if count - correction <= 0:
        raise ValueError(f"var: {count} elements leave no degree of freedom with correction={correction}")
    return reduction.sum(square(centred), axis=axes, keepdims=keepdim) / (count - correction)


def std(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The square root of `var`. Where it is 0, so is the gradient."""
    check_floating("std", input=input)
    if input.dtype.itemsize == 2:
        return in_single(std, input, dim, correction, keepdim)
    return _flat_at_zero(sqrt, var(input, dim, correction, keepdim))


def norm(input: Any, p: float = 2, dim: Dim = None, keepdim: bool = False) -> Any:
    """The p-norm (sum |x|^p)^(1/p) over axes; p may be ±math.inf, and 0 counts the elements that are not 0. Where the
    norm is 0, so is the gradient."""
    check_floating("norm", input=input)
    (input,) = single_in_autocast(input)
    if input.dtype.itemsize == 2:
        return in_single(norm, input, p, dim, keepdim)
    if p == 0:
        return sum(astype(input != 0, dtype=input.dtype), dim, keepdim)
    if p == 2:
        return _flat_at_zero(sqrt, sum(square(input), dim, keepdim))
    size = abs(input)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(size, dim, keepdim)
    if p == 1:
        return sum(size, dim, keepdim)
    powers = _flat_at_zero(lambda x: x**p, size) if 0 < p < 1 else size**p
    return _flat_at_zero(lambda x: x ** (1 / p), sum(powers, dim, keepdim))


def prod(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product over one axis or (None) all elements. Zeros are no trouble to its gradient: halves are multiplied
    with each other until one element is left. Integers and booleans multiply in int64."""
    check_array("prod", "input", input)
    (input,) = single_in_autocast(input)
    if not is_floating(input.dtype):
        input = astype(input, dtype="int64")
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = axis_of("prod", input, dim)
    if input.shape[dim] == 0:
        input = shape.pad(input, width=tuple((0, int(i == dim)) for i in range(input.ndim)), value=1)  # nothing is 1
    while (n := input.shape[dim]) > 1:
        parts = shape.split(input, axis=dim, sizes=(n // 2, n // 2, n % 2))
        half = mul(parts[0], parts[1])
        input = shape.cat(half, parts[2], axis=dim, sizes=(n // 2, 1)) if n % 2 else half
    return input if keepdim else squeeze(input, dim)


def _nonempty(what: str, input: Any, axes: tuple[int, ...]) -> None:
    if empty := [i for i in axes if input.shape[i] == 0]:
        raise ValueError(f"{what}: axis {empty[0]} of a tensor of shape {tuple(input.shape)} is empty")


def amax(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The largest element over axes. Ties share the gradient equally."""
    axes = reduced_axes("amax", input, dim)
    _nonempty("amax", input, axes)
    return reduction.amax(input, axis=axes, keepdims=keepdim)


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest element over axes. Ties share the gradient equally."""
    axes = reduced_axes("amin", input, dim)
    _nonempty("amin", input, axes)
    return reduction.amin(input, axis=axes, keepdims=keepdim)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmax, "argmax", input, dim, keepdim)


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmin, "argmin", input, dim, keepdim)


def _arg(primitive: Any, what: str, input: Any, dim: int | None, keepdim: bool) -> Any:
    check_array(what, "input", input)
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = axis_of(what, input, dim)
    _nonempty(what, input, (dim,) if input.ndim else ())
    return primitive(input, axis=dim, keepdims=keepdim)


def max(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the largest element; with it (values, indices) along that axis, where the gradient then goes."""
    return amax(input) if dim is None else _extreme(argmax, input, dim, keepdim)


def min(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the smallest element; with it (values, indices) along that axis."""
    return amin(input) if dim is None else _extreme(argmin, input, dim, keepdim)


def _extreme(arg: Any, input: Any, dim: int, keepdim: bool) -> Selection:
    index = arg(input, dim, keepdim=True)
    dim = normalize_dim(dim, input.ndim)
    values = indexing.gather(input, index, axis=dim)
    return Selection(values, index) if keepdim else Selection(squeeze(values, dim), squeeze(index, dim))


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether any element is true (nonzero)."""
    return reduction.any(input, axis=axes_of("any", input, dim), keepdims=keepdim)


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether all elements are true (nonzero)."""
    return reduction.all(input, axis=axes_of("all", input, dim), keepdims=keepdim)


def cumsum(input: Any, dim: int) -> Any:
    """Running sums along an axis."""
    return reduction.cumsum(input, axis=axis_of("cumsum", input, dim))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) over axes, without overflow; -inf over nothing."""
    check_array("logsumexp", "input", input)
    if not is_floating(input.dtype):
        input = astype(input, dtype=DEFAULT)
    return reduction.logsumexp(input, axis=reduced_axes("logsumexp", input, dim), keepdims=keepdim)


def softmax(input: Any, dim: int) -> Any:
    """exp(input) / sum(exp(input)) along an axis."""
    check_floating("softmax", input=input)
    return reduction.softmax(input, axis=axis_of("softmax", input, dim))


def log_softmax(input: Any, dim: int) -> Any:
    """log(softmax(input, dim)), computed without taking the logarithm of small numbers."""
    check_floating("log_softmax", input=input)
    return reduction.log_softmax(input, axis=axis_of("log_softmax", input, dim))
