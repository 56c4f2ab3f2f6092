"""The convolutional GRU: a recurrence whose state is an image."""

from __future__ import annotations

import math
from typing import Any

from .. import functional as F
from ..core.tensor import Tensor
from ..functional.arguments import check_floating, is_array
from ..functional.creation import zeros
from ..functional.recurrent import conv_gru
from ..functional.shape import cat, reshape, split, stack, transpose, unbind
from ..kernels.geometry import per_axis
from . import init
from .conv import Sizes
from .module import Module
from .parameter import new_parameter


class ConvGRU2d(Module):
    """Gated recurrent units over a sequence of images; all products are convolutions that keep the size. Ballas et al.,
    "Delving Deeper into Convolutional Networks for Learning Video Representations" (ICLR 2016), their GRU-RCN.

        z = sigmoid(Wz * x + Uz * h')        r = sigmoid(Wr * x + Ur * h')
        c = tanh(W * x + U * (r · h'))       h = (1 - z) · h' + z · c        h' the previous h

    (T, N, input_channels, H, W), h_0 (num_layers · D, N, hidden_channels, H, W) or None for zeros -> output (T, N,
    D · hidden_channels, H, W) of the last layer, h_n of the shape of h_0, with D = 2 if bidirectional, else 1.
    batch_first: input and output are (N, T, …). The conventions are the paper's, not those of nn.GRU: z lets the
    candidate in, r is applied to h' before U, and there are no biases unless asked for.

    stacked says what a layer above the first takes. "plain": the outputs of the layer below as its x. "gates": x is the
    input of the whole module again, and the state s of the layer below at the same time enters the gates, but not the
    candidate (the paper's stacked GRU-RCN):

        z = sigmoid(Wz * x + Vz * s + Uz * h')        r = sigmoid(Wr * x + Vr * s + Ur * h')

    lower_channels: the gates of the first layer take such a sequence too, `lower` in the call, of shape (T, N,
    lower_channels, H, W). The paper's levels, whose x differ in size, are one such layer each, and in between
    the states are max-pooled. bidirectional: as in nn.RNN.

    weight_ih_l0: (3 hidden_channels, input_channels, kH, kW) and weight_hh_l0: (3 hidden_channels, hidden_channels, kH,
    kW), rows for z, r, c; weight_lh_l1: (2 hidden_channels, channels below, kH, kW), rows for z, r; bias_ih_l0:
    (3 hidden_channels,), one bias, as a second would add nothing. l1 … for the other layers, _reverse for the way back.
    All start uniform within 1 / sqrt(hidden_channels · kH · kW) of 0, as nn.GRU on single pixels.

    kernel_size must be odd. Raises ValueError or TypeError naming the sizes.
    """

    def __init__(
        self, input_channels: int, hidden_channels: int, kernel_size: Sizes, num_layers: int = 1, bias: bool = False,
        batch_first: bool = False, bidirectional: bool = False, stacked: str = "plain", lower_channels: int = 0,
        device: str | None = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        sizes = {"input_channels": input_channels, "hidden_channels": hidden_channels, "num_layers": num_layers}
        for argument, value in sizes.items():
            if value < 1:
                raise ValueError(f"ConvGRU2d: {argument} is {value}; it must be at least 1")
        if lower_channels < 0:
            raise ValueError(f"ConvGRU2d: lower_channels is {lower_channels}; it must not be negative")
        if stacked not in ("plain", "gates"):
            raise ValueError(f'ConvGRU2d: stacked is {stacked!r}; it must be "plain" or "gates"')
        try:
            self.kernel_size = per_axis("kernel_size", kernel_size, 2, 1)
        except (ValueError, TypeError) as error:
            raise type(error)(f"ConvGRU2d: {error}") from None
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(
                f"ConvGRU2d: kernel_size is {kernel_size}; it must be odd, so that the state keeps its size with the "
                f"same padding on all sides"
            )
        self.input_channels = input_channels
        self.hidden_channels = hidden_channels
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.stacked = stacked
        self.lower_channels = lower_channels
        self._padding = tuple(k // 2 for k in self.kernel_size)
        self._suffixes = ("", "_reverse") if bidirectional else ("",)
        outputs = hidden_channels * len(self._suffixes)
        new = lambda rows, inputs: new_parameter((rows * hidden_channels, inputs, *self.kernel_size), device, dtype)
        for layer in range(num_layers):
            below = outputs if layer else lower_channels
            plain = layer > 0 and stacked == "plain"
            for way in self._suffixes:
                suffix = f"_l{layer}{way}"
                self.register_parameter("weight_ih" + suffix, new(3, below if plain else input_channels))
                self.register_parameter("weight_hh" + suffix, new(3, hidden_channels))
                self.register_parameter("weight_lh" + suffix, new(2, below) if below and not plain else None)
                vector = new_parameter((3 * hidden_channels,), device, dtype) if bias else None
                self.register_parameter("bias_ih" + suffix, vector)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        bound = 1 / math.sqrt(self.hidden_channels * math.prod(self.kernel_size))
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _frames(self, x: Any, weight: Any, bias: Any) -> Any:
        """The convolution of all frames at once: (T, N, C, H, W) -> (T, N, K, H, W), or batch first."""
        y = F.conv2d(reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:])), weight, bias, padding=self._padding)
        return reshape(y, (*x.shape[:2], *y.shape[1:]))

    def _scan(self, x: Any, lower: Any, suffix: str, h: Any, time: int) -> tuple[Any, Any]:
        """One layer in one direction: all of its h, stacked along the axis `time`, and the last one."""
        w_ih, w_hh, w_lh, b = (self._parameters[k + suffix] for k in ("weight_ih", "weight_hh", "weight_lh", "bias_ih"))
        products = self._frames(x, w_ih, b)
        if w_lh is not None:
            gates, candidate = split(products, (2 * self.hidden_channels, self.hidden_channels), 2)
            products = cat([gates + self._frames(lower, w_lh, None), candidate], 2)
        if time:
            products = transpose(products, 0, 1)
        y, last = conv_gru(products, h, w_hh, self._padding, suffix.endswith("_reverse"))
        return transpose(y, 0, 1) if time else y, last

    def _check(self, input: Any, h_0: Any, lower: Any) -> tuple[int, ...]:
        """The shape of all states together."""
        for what, value in (("input", input), ("h_0", h_0), ("lower", lower)):
            if not is_array(value) and (value is not None or what == "input"):
                raise TypeError(f"ConvGRU2d: {what} must be a tensor, not {type(value).__name__}")
        check_floating("ConvGRU2d", input=input, weight=self._parameters["weight_ih_l0"], h_0=h_0, lower=lower)
        layout = "(N, T, {}, H, W)" if self.batch_first else "(T, N, {}, H, W)"
        if input.ndim != 5 or input.shape[2] != self.input_channels:
            wanted = layout.format(self.input_channels)
            raise ValueError(f"ConvGRU2d: input has shape {tuple(input.shape)}; it must be {wanted}")
        if input.shape[1 if self.batch_first else 0] == 0:
            raise ValueError(f"ConvGRU2d: input has shape {tuple(input.shape)}; it must have at least one frame")
        if (lower is not None) != (self.lower_channels > 0):
            wanted = "needs a sequence `lower`" if lower is None else "takes no `lower`"
            raise ValueError(f"ConvGRU2d: with lower_channels={self.lower_channels} the call {wanted}")
        below = (*input.shape[:2], self.lower_channels, *input.shape[3:])
        if lower is not None and tuple(lower.shape) != below:
            raise ValueError(f"ConvGRU2d: lower has shape {tuple(lower.shape)}, but must have shape {below}")
        batch = input.shape[0 if self.batch_first else 1]
        shape = (self.num_layers * len(self._suffixes), batch, self.hidden_channels, *input.shape[3:])
        if h_0 is not None and tuple(h_0.shape) != shape:
            raise ValueError(
                f"ConvGRU2d: h_0 has shape {tuple(h_0.shape)}, but an input of shape {tuple(input.shape)} needs {shape}"
            )
        return shape

    def forward(self, input: Tensor, h_0: Tensor | None = None, lower: Tensor | None = None) -> tuple[Tensor, Tensor]:
        shape = self._check(input, h_0, lower)
        weight: Any = self._parameters["weight_ih_l0"]
        starts = unbind(zeros(shape, dtype=weight.dtype, device=weight.device) if h_0 is None else h_0, 0)
        time, ways = int(self.batch_first), len(self._suffixes)
        x: Any = input
        below: Any = lower
        ends = []
        for layer in range(self.num_layers):
            outputs = []
            for way, suffix in enumerate(self._suffixes):
                y, end = self._scan(x, below, f"_l{layer}{suffix}", starts[layer * ways + way], time)
                outputs.append(y)
                ends.append(end)
            below = cat(outputs, 2) if ways > 1 else outputs[0]
            if self.stacked == "plain":
                x = below
        return below, stack(ends, 0)

    def extra_repr(self) -> str:
        parts = [f"{self.input_channels}, {self.hidden_channels}, kernel_size={self.kernel_size}"]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers != 1 else []
        parts += ["bias=True"] if self.bias else []
        parts += ["batch_first=True"] if self.batch_first else []
        parts += ["bidirectional=True"] if self.bidirectional else []
        parts += [f'stacked="{self.stacked}"'] if self.stacked != "plain" else []
        parts += [f"lower_channels={self.lower_channels}"] if self.lower_channels else []
        return ", ".join(parts)
