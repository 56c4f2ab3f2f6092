"""Layers that make images smaller or larger without parameters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from .. import functional as F
from ..core.tensor import Tensor
from ..functional.creation import constant
from ..functional.products import matmul
from ..functional.reduction import mean
from ..functional.shape import broadcast_to, movedim, reshape
from .module import Module

Sizes = int | Sequence[int]


class _MaxPool(Module):
    """The largest element of each window; see MaxPool2d."""

    num_spatial_dims: ClassVar[int]

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, dilation: Sizes = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def forward(self, input: Tensor) -> Any:
        function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[self.num_spatial_dims - 1]
        return function(
            input, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The largest element of each window: (N, C, L) -> (N, C, L'). See MaxPool2d."""

    num_spatial_dims = 1


class MaxPool2d(_MaxPool):
    """The largest element of each window: (N, C, H, W) -> (N, C, H', W'), or without the batch axis.

    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1, rounded up instead with ceil_mode. stride
    defaults to kernel_size. return_indices: also return the flat position (int64) of each result in its input plane.
    """

    num_spatial_dims = 2


class MaxPool3d(_MaxPool):
    """The largest element of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See MaxPool2d."""

    num_spatial_dims = 3


class _AvgPool(Module):
    """The mean of each window; see AvgPool2d."""

    num_spatial_dims: ClassVar[int]

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def forward(self, input: Tensor) -> Tensor:
        options: Any = (input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)
        if self.num_spatial_dims == 1:
            return F.avg_pool1d(*options)
        function: Any = F.avg_pool2d if self.num_spatial_dims == 2 else F.avg_pool3d
        return function(*options, self.divisor_override)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window: (N, C, L) -> (N, C, L'). See AvgPool2d."""

    num_spatial_dims = 1

    def __init__(
        self, kernel_size: Sizes, stride: Sizes | None = None, padding: Sizes = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):  # fmt: skip
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)


class AvgPool2d(_AvgPool):
    """The mean of each window: (N, C, H, W) -> (N, C, H', W'), or without the batch axis; sizes as in MaxPool2d.

    count_include_pad: whether padded zeros count as elements. divisor_override: divide the sums by this instead.
    """

    num_spatial_dims = 2


class AvgPool3d(_AvgPool):
    """The mean of each window: (N, C, D, H, W) -> (N, C, D', H', W'). See AvgPool2d."""

    num_spatial_dims = 3


class _AdaptiveAvgPool(Module):
    """Means over as many windows as are asked for; see AdaptiveAvgPool2d."""

    num_spatial_dims: ClassVar[int]

    def __init__(self, output_size: int | Sequence[int | None] | None):
        super().__init__()
        self.output_size = tuple(output_size) if isinstance(output_size, Sequence) else output_size
        rank = self.num_spatial_dims
        sizes = self.output_size if isinstance(self.output_size, tuple) else (self.output_size,) * rank
        if len(sizes) != rank or any(m is not None and m < 1 for m in sizes):
            raise ValueError(
                f"{type(self).__name__}: output_size is {output_size}; it must be a positive number or None, or {rank} "
                f"of them"
            )
        self._sizes = sizes

    def forward(self, input: Tensor) -> Tensor:
        rank = self.num_spatial_dims
        if input.ndim not in (rank + 1, rank + 2) or not all(input.shape[-rank:]):
            raise ValueError(
                f"{type(self).__name__}: input has shape {tuple(input.shape)}; it needs {rank + 2} axes, or {rank + 1} "
                f"without the batch, and no empty ones"
            )
        if self._sizes == (1,) * rank:
            return mean(input, tuple(range(-rank, 0)), keepdim=True)
        for axis, m in zip(range(-rank, 0), self._sizes, strict=True):
            if m is not None and m != input.shape[axis]:
                bins = constant(partial(_bins, input.shape[axis], m, input.dtype), input)
                input = movedim(matmul(movedim(input, axis, -1), Tensor(bins)), -1, axis)
        return input

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


def _bins(n: int, m: int, dtype: Any) -> np.ndarray:
    """The matrix (n, m) that averages n elements over m windows; window i reaches from floor(i n/m) to ceil((i+1)
    n/m)."""
    bins = np.zeros((n, m), dtype)
    for i in range(m):
        start, end = i * n // m, -(-(i + 1) * n // m)
        bins[start:end, i] = 1 / (end - start)
    return bins


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """Means over output_size windows: (N, C, L) -> (N, C, output_size). See AdaptiveAvgPool2d."""

    num_spatial_dims = 1


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """Means over windows that cover the image, as many as asked for: (N, C, H, W) -> (N, C, *output_size).

    output_size: one number for both axes, or a pair in which None keeps an axis as it is; 1 gives the mean of each
    channel.
    """

    num_spatial_dims = 2


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """Means over windows that cover the volume: (N, C, D, H, W) -> (N, C, *output_size). See AdaptiveAvgPool2d."""

    num_spatial_dims = 3


class Upsample(Module):
    """Every element repeated: (N, C, H, W) -> (N, C, scale_factor·H, scale_factor·W), with one to three spatial axes.

    scale_factor: a whole number, or one for each spatial axis. mode: only "nearest".
    """

    def __init__(self, *, scale_factor: Sizes, mode: str = "nearest"):
        super().__init__()
        factors = tuple(scale_factor) if isinstance(scale_factor, Sequence) else (scale_factor,)
        if mode != "nearest" or any(f != int(f) or f < 1 for f in factors):
            raise ValueError(
                f'Upsample: scale_factor is {scale_factor}, mode {mode!r}; only whole factors with "nearest" are known'
            )
        self.scale_factor = scale_factor
        self.mode = mode
        self._factors = tuple(int(f) for f in factors)

    def forward(self, input: Tensor) -> Tensor:
        rank = input.ndim - 2
        factors = self._factors * rank if len(self._factors) == 1 else self._factors
        if rank < 1 or len(factors) != rank:
            raise ValueError(
                f"Upsample: input has shape {tuple(input.shape)}; it needs a batch, a channel and "
                f"{len(self._factors)} spatial axes for scale_factor={self.scale_factor}"
            )
        lead, size = input.shape[:2], input.shape[2:]
        apart = reshape(input, (*lead, *(m for n in size for m in (n, 1))))
        wide = broadcast_to(apart, (*lead, *(m for pair in zip(size, factors, strict=True) for m in pair)))
        return reshape(wide, (*lead, *(n * f for n, f in zip(size, factors, strict=True))))

    def extra_repr(self) -> str:
        return f"scale_factor={self.scale_factor}, mode={self.mode!r}"
