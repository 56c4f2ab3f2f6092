"""Convolutions and transposed convolutions over one, two or three spatial axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .. import functional as F
from ..core.tensor import Tensor
from ..functional.conv import Activation
from ..kernels.geometry import per_axis
from . import init
from .module import Module
from .parameter import Parameter, new_parameter

Sizes = int | Sequence[int]

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _Conv(Module):
    """What all convolutions have in common: sizes, checks, parameters."""

    num_spatial_dims: ClassVar[int]
    transposed: ClassVar[bool]
    bias: Parameter | None
    padding: Any  # a tuple, or a word

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes, padding: Sizes | str,
        dilation: Sizes, output_padding: Sizes, groups: int, bias: bool, padding_mode: str, device: str | None,
        dtype: Any, activation: Activation,
    ):  # fmt: skip
        super().__init__()
        name, rank = type(self).__name__, self.num_spatial_dims
        if groups < 1 or in_channels % groups or out_channels % groups or min(in_channels, out_channels) < 1:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}, "
                f"and all must be positive"
            )
        try:
            self.kernel_size = per_axis("kernel_size", kernel_size, rank, 1)
            self.stride = per_axis("stride", stride, rank, 1)
            self.padding = padding if isinstance(padding, str) else per_axis("padding", padding, rank, 0)
            self.dilation = per_axis("dilation", dilation, rank, 1)
            self.output_padding = per_axis("output_padding", output_padding, rank, 0)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{name}: {error}") from None
        if isinstance(padding, str) and (self.transposed or padding not in ("same", "valid")):
            words = "" if self.transposed else ', "same" or "valid"'
            raise ValueError(f"{name}: padding is {padding!r}; it must be a number or one for each axis{words}")
        if padding == "same" and any(s != 1 for s in self.stride):
            raise ValueError(f'{name}: padding="same" keeps the size only with stride 1; stride is {self.stride}')
        if padding_mode not in _PAD_MODES or (self.transposed and padding_mode != "zeros"):
            modes = '"zeros"' if self.transposed else ", ".join(f'"{m}"' for m in _PAD_MODES)
            raise ValueError(f"{name}: padding_mode is {padding_mode!r}; it must be {modes}")
        if activation not in (None, "relu"):
            raise ValueError(f'{name}: activation is {activation!r}; it must be "relu" or None')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.groups = groups
        self.padding_mode = padding_mode
        self.activation = activation
        first, second = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        self.weight = new_parameter((first, second // groups, *self.kernel_size), device, dtype)
        self.register_parameter("bias", new_parameter((out_channels,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        init.default_(self.weight, self.bias)

    def extra_repr(self) -> str:
        ones = (1,) * self.num_spatial_dims
        zeros = (0,) * self.num_spatial_dims
        parts = [f"{self.in_channels}, {self.out_channels}"]
        parts += [f"kernel_size={self.kernel_size}, stride={self.stride}"]
        parts += [f"padding={self.padding}"] if self.padding != zeros else []
        parts += [f"dilation={self.dilation}"] if self.dilation != ones else []
        parts += [f"output_padding={self.output_padding}"] if self.output_padding != zeros else []
        parts += [f"groups={self.groups}"] if self.groups != 1 else []
        parts += ["bias=False"] if self.bias is None else []
        parts += [f"padding_mode={self.padding_mode}"] if self.padding_mode != "zeros" else []
        parts += [f"activation={self.activation}"] if self.activation is not None else []
        return ", ".join(parts)


class _Correlation(_Conv):
    """Correlation with learned filters; see Conv2d."""

    transposed = False

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes | str = 0,
        dilation: Sizes = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros", device: str | None = None,
        dtype: Any = None, *, activation: Activation = None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, 0, groups, bias, padding_mode, device,
            dtype, activation,
        )  # fmt: skip

    def _border(self) -> list[int]:
        """The padding in the order of functional.pad: (before, after) of the last axis first."""
        if self.padding == "valid":
            return [0, 0] * self.num_spatial_dims
        if self.padding == "same":
            spare = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            pairs = [(n // 2, n - n // 2) for n in spare]
        else:
            pairs = [(p, p) for p in self.padding]
        return [n for pair in reversed(pairs) for n in pair]

    def forward(self, input: Tensor) -> Tensor:
        function = (F.conv1d, F.conv2d, F.conv3d)[self.num_spatial_dims - 1]
        padding = self.padding
        if self.padding_mode != "zeros":
            input, padding = F.pad(input, self._border(), mode=_PAD_MODES[self.padding_mode]), 0
        return function(
            input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups, activation=self.activation
        )


class _Transposed(_Conv):
    """The adjoint of a correlation with learned filters; see ConvTranspose2d."""

    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Sizes, stride: Sizes = 1, padding: Sizes = 0,
        output_padding: Sizes = 0, groups: int = 1, bias: bool = True, dilation: Sizes = 1, padding_mode: str = "zeros",
        device: str | None = None, dtype: Any = None, *, activation: Activation = None,
    ):  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, output_padding, groups, bias,
            padding_mode, device, dtype, activation,
        )  # fmt: skip

    def _output_padding(self, size: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
        """The output_padding that gives an output of this size."""
        wanted = tuple(wanted)[-self.num_spatial_dims :]
        least = tuple(
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                size[-self.num_spatial_dims :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        )
        most = tuple(m + max(s, d) - 1 for m, s, d in zip(least, self.stride, self.dilation, strict=True))
        if len(wanted) != len(least) or not all(a <= w <= b for a, w, b in zip(least, wanted, most, strict=True)):
            raise ValueError(
                f"{type(self).__name__}: output_size is {wanted}; for an input of shape {tuple(size)} it must lie "
                f"between {least} and {most}"
            )
        return tuple(w - m for w, m in zip(wanted, least, strict=True))

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[self.num_spatial_dims - 1]
        extra = self.output_padding if output_size is None else self._output_padding(input.shape, output_size)
        return function(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation,
            activation=self.activation,
        )  # fmt: skip


class Conv1d(_Correlation):
    """Cross-correlation over one axis: (N, C, L) -> (N, K, L'), weight (K, C/groups, k). See Conv2d."""

    num_spatial_dims = 1


class Conv2d(_Correlation):
    """Cross-correlation with learned filters: (N, C, H, W) -> (N, K, H', W'), or without the batch axis.

    H' = (H + 2 padding - dilation (kernel_size - 1) - 1) // stride + 1. weight: (K, C/groups, kH, kW), bias: (K,), both
    starting uniform within 1 / sqrt(C/groups · kH · kW) of 0. Sizes are one number, or one for each spatial axis.

    padding: also "same" (stride 1 only) or "valid". padding_mode: what the border holds, "zeros", "reflect",
    "replicate" or "circular". groups splits the channels into independent convolutions. activation="relu" (not in
    PyTorch) applies ReLU as part of the convolution. Raises ValueError naming what does not fit.
    """

    num_spatial_dims = 2


class Conv3d(_Correlation):
    """Cross-correlation over three axes: (N, C, D, H, W) -> (N, K, D', H', W'), weight (K, C/groups, kD, kH, kW).
    See Conv2d."""

    num_spatial_dims = 3


class ConvTranspose1d(_Transposed):
    """The adjoint of Conv1d: (N, C, L) -> (N, K, L'), weight (C, K/groups, k). See ConvTranspose2d."""

    num_spatial_dims = 1


class ConvTranspose2d(_Transposed):
    """The adjoint of a Conv2d from K to C channels, for making images larger: (N, C, H, W) -> (N, K, H', W').

    H' = (H - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1. weight: (C, K/groups, kH, kW),
    bias: (K,). Several sizes lead Conv2d to the same output; output_padding, or `output_size` in the call, says which
    of them to go back to. activation: as in Conv2d. Zeiler et al. 2010.
    """

    num_spatial_dims = 2


class ConvTranspose3d(_Transposed):
    """The adjoint of Conv3d: (N, C, D, H, W) -> (N, K, D', H', W'), weight (C, K/groups, kD, kH, kW).
    See ConvTranspose2d."""

    num_spatial_dims = 3
