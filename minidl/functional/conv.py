"""Convolution and pooling over one, two or three spatial axes. Inputs (N, C, *size), or (C, *size) for a single one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from ..kernels.geometry import ConvGeometry, PoolGeometry, per_axis
from ..ops import conv as ops
from ..ops import pool
from ..ops.elementwise import astype
from .arguments import check_array, check_floating, check_shape
from .shape import reshape, squeeze, unsqueeze

Sizes = int | Sequence[int]
Activation = Literal["relu"] | None


def _batched(function: str, input: Any, rank: int) -> tuple[Any, bool]:
    """input with a batch axis, and whether it was missing."""
    check_array(function, "input", input)
    if input.ndim == rank + 1:
        return unsqueeze(input, 0), True
    if input.ndim != rank + 2:
        raise ValueError(
            f"{function}: input has shape {tuple(input.shape)}; it must have {rank + 2} axes (batch, channels and "
            f"{rank} spatial), or {rank + 1} without the batch"
        )
    return input, False


def _finished(
    function: str, x: Any, weight: Any, bias: Any, activation: Activation, geometry: ConvGeometry, transposed: bool
) -> Any:
    """The convolution, or its adjoint, with bias and activation: one operation."""
    if activation not in (None, "relu"):
        raise ValueError(f'{function}: activation is {activation!r}; it must be "relu" or None')
    if bias is not None:
        check_shape(function, "bias", bias, (geometry.in_channels if transposed else geometry.out_channels,))
    if activation is not None:
        return ops.conv_relu(x, weight, bias, geometry=geometry, transposed=transposed)
    if bias is not None:
        return ops.conv_bias(x, weight, bias, geometry=geometry, transposed=transposed)
    return (ops.conv_input if transposed else ops.conv)(x, weight, geometry=geometry)


def _conv(
    rank: int, input: Any, weight: Any, bias: Any, stride: Sizes, padding: Sizes | str, dilation: Sizes, groups: int,
    activation: Activation,
) -> Any:  # fmt: skip
    function = f"conv{rank}d"
    input, single = _batched(function, input, rank)
    check_floating(function, input=input, weight=weight, bias=bias)
    try:
        geometry = ConvGeometry.of(input.shape, weight.shape, stride, padding, dilation, groups)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{function}: {error}") from None
    y = _finished(function, input, weight, bias, activation, geometry, False)
    return squeeze(y, 0) if single else y


def conv1d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes | str = 0, dilation: Sizes = 1,
    groups: int = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """Cross-correlation: (N, C, L) * (K, C/groups, k) -> (N, K, L'). See conv2d."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups, activation)


def conv2d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes | str = 0, dilation: Sizes = 1,
    groups: int = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """Cross-correlation of each image with each filter: (N, C, H, W) * (K, C/groups, kH, kW) -> (N, K, H', W').

    H' = (H + 2 padding - dilation (kH - 1) - 1) // stride + 1. padding may be "same" (stride 1 only) or "valid". groups
    splits the channels into independent convolutions. bias: (K,). Raises ValueError or TypeError naming the sizes.

    activation="relu" gives relu(conv2d(...)) as one operation, which is faster: an addition to PyTorch's signature.
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups, activation)


def conv3d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes | str = 0, dilation: Sizes = 1,
    groups: int = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """Cross-correlation: (N, C, D, H, W) * (K, C/groups, kD, kH, kW) -> (N, K, D', H', W'). See conv2d."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups, activation)


def _conv_transpose(
    rank: int, input: Any, weight: Any, bias: Any, stride: Sizes, padding: Sizes, output_padding: Sizes, groups: int,
    dilation: Sizes, activation: Activation,
) -> Any:  # fmt: skip
    function = f"conv_transpose{rank}d"
    input, single = _batched(function, input, rank)
    check_floating(function, input=input, weight=weight, bias=bias)
    try:
        geometry = ConvGeometry.transposed(input.shape, weight.shape, stride, padding, output_padding, dilation, groups)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{function}: {error}") from None
    y = _finished(function, input, weight, bias, activation, geometry, True)
    return squeeze(y, 0) if single else y


def conv_transpose1d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes = 0, output_padding: Sizes = 0,
    groups: int = 1, dilation: Sizes = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """The adjoint of conv1d: (N, K, L) * (K, C/groups, k) -> (N, C, L'). See conv_transpose2d."""
    return _conv_transpose(1, input, weight, bias, stride, padding, output_padding, groups, dilation, activation)


def conv_transpose2d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes = 0, output_padding: Sizes = 0,
    groups: int = 1, dilation: Sizes = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """The adjoint of conv2d, which maps its outputs back to its inputs: (N, K, H, W) * (K, C/groups, kH, kW) -> (N, C,
    H', W').

    H' = (H - 1) stride - 2 padding + dilation (kH - 1) + output_padding + 1. bias: (C,). activation: as in conv2d.
    """
    return _conv_transpose(2, input, weight, bias, stride, padding, output_padding, groups, dilation, activation)


def conv_transpose3d(
    input: Any, weight: Any, bias: Any = None, stride: Sizes = 1, padding: Sizes = 0, output_padding: Sizes = 0,
    groups: int = 1, dilation: Sizes = 1, *, activation: Activation = None,
) -> Any:  # fmt: skip
    """The adjoint of conv3d: (N, K, D, H, W) * (K, C/groups, kD, kH, kW) -> (N, C, D', H', W').

    See conv_transpose2d.
    """
    return _conv_transpose(3, input, weight, bias, stride, padding, output_padding, groups, dilation, activation)


def _pool_geometry(
    function: str, rank: int, input: Any, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes,
    ceil_mode: bool, pooling: bool = True,
) -> tuple[Any, bool, PoolGeometry]:  # fmt: skip
    input, single = _batched(function, input, rank)
    try:
        geometry = PoolGeometry.of(input.shape, kernel_size, stride, padding, dilation, ceil_mode, pooling=pooling)
    except (ValueError, TypeError) as error:
        raise type(error)(f"{function}: {error}") from None
    return input, single, geometry


def _max_pool(
    rank: int, input: Any, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, dilation: Sizes, ceil_mode: bool,
    return_indices: bool,
) -> Any:  # fmt: skip
    function = f"max_pool{rank}d"
    at = _pool_geometry(function, rank, input, kernel_size, stride, padding, dilation, ceil_mode)
    input, single, geometry = at
    if input.dtype.kind == "b":
        raise TypeError(f"{function}: input must hold numbers, not bool; convert it with .float()")
    y, indices = pool.max_pool(input, geometry=geometry)
    if single:
        y, indices = squeeze(y, 0), squeeze(indices, 0)
    return (y, astype(indices, dtype="int64")) if return_indices else y


def max_pool1d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window: (N, C, L) -> (N, C, L'). See max_pool2d."""
    return _max_pool(1, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'); the first one on ties, NaN before any number.

    stride defaults to kernel_size; padding never wins. ceil_mode lets a last window hang over the end, as long as it
    starts inside. return_indices adds the flat position (int64) in the input plane of each result.
    """
    return _max_pool(2, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """The largest element of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See max_pool2d."""
    return _max_pool(3, input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    rank: int, input: Any, kernel_size: Sizes, stride: Sizes | None, padding: Sizes, ceil_mode: bool,
    count_include_pad: bool, divisor_override: int | None,
) -> Any:  # fmt: skip
    function = f"avg_pool{rank}d"
    check_floating(function, input=input)
    input, single, geometry = _pool_geometry(function, rank, input, kernel_size, stride, padding, 1, ceil_mode)
    if divisor_override is not None and divisor_override == 0:
        raise ValueError(f"{function}: divisor_override must not be 0")
    y = pool.avg_pool(input, geometry=geometry, count_include_pad=count_include_pad, divisor=divisor_override)
    return squeeze(y, 0) if single else y


def avg_pool1d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """The mean of each window: (N, C, L) -> (N, C, L'). See avg_pool2d."""
    return _avg_pool(1, input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of each window: (N, C, H, W) -> (N, C, H', W').

    count_include_pad: whether padded zeros count as elements. divisor_override: divide the sum by this instead.
    """
    return _avg_pool(2, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Any, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """The mean of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See avg_pool2d."""
    return _avg_pool(3, input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def unfold(input: Any, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1) -> Any:
    """Every window of an image as a column (im2col): (N, C, H, W) -> (N, C kH kW, number of windows)."""
    input, single, geometry = _pool_geometry("unfold", 2, input, kernel_size, stride, padding, dilation, False, False)
    n, c = input.shape[:2]
    k, o = geometry.kernel, geometry.output
    columns = reshape(pool.unfold(input, geometry=geometry), (n, c * k[0] * k[1], o[0] * o[1]))
    return squeeze(columns, 0) if single else columns


def fold(
    input: Any, output_size: Sizes, kernel_size: Sizes, dilation: Sizes = 1, padding: Sizes = 0, stride: Sizes = 1
) -> Any:
    """The adjoint of unfold, summing where windows overlap: (N, C kH kW, windows) -> (N, C, *output_size)."""
    input, single = _batched("fold", input, 1)
    try:
        size = per_axis("output_size", output_size, 2, 1)
        window = per_axis("kernel_size", kernel_size, 2, 1)
    except (ValueError, TypeError) as error:
        raise type(error)(f"fold: {error}") from None
    n, rows, columns = input.shape
    taps = window[0] * window[1]
    if rows % taps:
        raise ValueError(f"fold: input has {rows} rows, which is no multiple of the window's {taps} elements")
    try:
        geometry = PoolGeometry.of((n, rows // taps, *size), window, stride, padding, dilation, pooling=False)
    except (ValueError, TypeError) as error:
        raise type(error)(f"fold: {error}") from None
    o = geometry.output
    if columns != o[0] * o[1]:
        raise ValueError(f"fold: input has {columns} columns, but an output of {size} has {o[0] * o[1]} windows")
    x = pool.fold(reshape(input, (n, rows // taps, *window, *o)), geometry=geometry)
    return squeeze(x, 0) if single else x
