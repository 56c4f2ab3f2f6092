"""Recurrent layers over sequences of vectors, and their cells, in PyTorch's forms."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, ClassVar

from .. import functional as F
from ..core.tensor import Tensor
from ..functional.arguments import check_floating, is_array
from ..functional.creation import zeros
from ..functional.recurrent import gru, gru_step, lstm, lstm_step, rnn, rnn_relu_step, rnn_tanh_step
from ..functional.shape import cat, squeeze, stack, transpose, unbind, unsqueeze
from . import init
from .module import Module
from .parameter import new_parameter

_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_STEPS = {"tanh": rnn_tanh_step, "relu": rnn_relu_step}


def _check_sizes(name: str, **sizes: int) -> None:
    for argument, value in sizes.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}: {argument} is {value!r}; it must be a whole number")
        if value < 1:
            raise ValueError(f"{name}: {argument} is {value}; it must be at least 1")


def _check_nonlinearity(name: str, nonlinearity: str) -> None:
    if nonlinearity not in _STEPS:
        raise ValueError(f'{name}: nonlinearity is {nonlinearity!r}; it must be "tanh" or "relu"')


class _Weighted(Module):
    """Parameters of rows for each gate, one gate after the other, all uniform within 1 / sqrt(hidden_size) of 0."""

    gates: ClassVar[int]
    states: ClassVar[int] = 1  # how many tensors the recurrence passes on: h, or h and c
    input_size: int
    hidden_size: int

    def _add_weights(self, suffix: str, inputs: int, bias: bool, device: str | None, dtype: Any) -> None:
        rows = self.gates * self.hidden_size
        shapes = ((rows, inputs), (rows, self.hidden_size), (rows,), (rows,))
        for kind, shape in zip(_KINDS, shapes, strict=True):
            wanted = bias or kind.startswith("weight")
            self.register_parameter(kind + suffix, new_parameter(shape, device, dtype) if wanted else None)

    def _weights(self, suffix: str) -> tuple[Any, ...]:
        return tuple(self._parameters[kind + suffix] for kind in _KINDS)

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def _given(self, hx: Any) -> list:
        """The initial states as a list; empty if none are given."""
        if hx is None:
            return []
        name = type(self).__name__
        if self.states == 1:
            if not is_array(hx):
                raise TypeError(f"{name}: the initial state must be a tensor, not {type(hx).__name__}")
            return [hx]
        if not isinstance(hx, (tuple, list)) or len(hx) != 2 or not all(map(is_array, hx)):
            raise TypeError(f"{name}: the initial states must be a pair of tensors (h_0, c_0), not {type(hx).__name__}")
        return list(hx)

    def _initial(self, input: Any, hx: Any, shape: tuple[int, ...], weight: Any) -> list:
        """The initial states, checked, or zeros."""
        given, names = self._given(hx), ("h_0", "c_0")
        name = type(self).__name__
        check_floating(name, input=input, weight=weight, **dict(zip(names, given, strict=False)))
        for what, state in zip(names, given, strict=False):
            if tuple(state.shape) != shape:
                raise ValueError(
                    f"{name}: {what} has shape {tuple(state.shape)}, but an input of shape {tuple(input.shape)} needs "
                    f"{shape}"
                )
        return given or [zeros(shape, dtype=weight.dtype, device=weight.device)] * self.states


class _Cell(_Weighted):
    """One step of a recurrence; see RNNCell."""

    def __init__(self, input_size: int, hidden_size: int, bias: bool, device: str | None, dtype: Any):
        super().__init__()
        _check_sizes(type(self).__name__, input_size=input_size, hidden_size=hidden_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.bias = bias
        self._add_weights("", input_size, bias, device, dtype)
        self.reset_parameters()

    def _step(self) -> Callable[..., tuple]:
        """The function from (W_ih x + b_ih, W_hh h + b_hh, *states) to the new states."""
        raise NotImplementedError

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        name = type(self).__name__
        if not is_array(input):
            raise TypeError(f"{name}: input must be a tensor, not {type(input).__name__}")
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"{name}: input has shape {tuple(input.shape)}; it must be (N, {self.input_size}), or "
                f"({self.input_size},) without the batch"
            )
        w_ih, w_hh, b_ih, b_hh = self._weights("")
        states = self._initial(input, hx, (*input.shape[:-1], self.hidden_size), w_ih)
        new = self._step()(F.linear(input, w_ih, b_ih), F.linear(states[0], w_hh, b_hh), *states)
        return new if self.states > 1 else new[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class RNNCell(_Cell):
    """h = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu: one step of RNN.

    (N, input_size), h (N, hidden_size) or None for zeros -> h (N, hidden_size); or all without the batch axis.
    weight_ih: (hidden_size, input_size), weight_hh: (hidden_size, hidden_size), bias_ih and bias_hh: (hidden_size,),
    all starting uniform within 1 / sqrt(hidden_size) of 0.
    """

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh",
        device: str | None = None, dtype: Any = None,
    ):  # fmt: skip
        _check_nonlinearity("RNNCell", nonlinearity)
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = nonlinearity

    def _step(self) -> Callable[..., tuple]:
        return _STEPS[self.nonlinearity]

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.nonlinearity == "tanh" else f", nonlinearity={self.nonlinearity}")


class LSTMCell(_Cell):
    """One step of LSTM: (N, input_size), (h, c) or None for zeros -> (h, c), each (N, hidden_size). The rows of the
    parameters belong to the gates i, f, g, o, hidden_size each; see LSTM and RNNCell."""

    gates = 4
    states = 2

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: str | None = None, dtype: Any = None
    ):
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def _step(self) -> Callable[..., tuple]:
        return lstm_step


class GRUCell(_Cell):
    """One step of GRU: (N, input_size), h or None for zeros -> h (N, hidden_size). The rows of the parameters belong to
    r, z, n, hidden_size each; see GRU and RNNCell."""

    gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: str | None = None, dtype: Any = None
    ):
        super().__init__(input_size, hidden_size, bias, device, dtype)

    def _step(self) -> Callable[..., tuple]:
        return gru_step


class _Recurrent(_Weighted):
    """Layers of a recurrence over a sequence; see RNN."""

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, bias: bool, batch_first: bool, dropout: float,
        bidirectional: bool, device: str | None, dtype: Any,
    ):  # fmt: skip
        super().__init__()
        name = type(self).__name__
        _check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        for argument, value in (("bias", bias), ("batch_first", batch_first), ("bidirectional", bidirectional)):
            if not isinstance(value, bool):  # arguments by position are easily mistaken here
                raise TypeError(f"{name}: {argument} is {value!r}; it must be True or False")
        if isinstance(dropout, bool) or not isinstance(dropout, (int, float)) or not 0 <= dropout <= 1:
            raise ValueError(f"{name}: dropout is {dropout!r}; it is a probability, from 0 to 1")
        if dropout and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} has no effect: it comes after each layer but the last, and num_layers is 1",
                stacklevel=3,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self._suffixes = ("", "_reverse") if bidirectional else ("",)
        for layer in range(num_layers):
            inputs = input_size if layer == 0 else hidden_size * len(self._suffixes)
            for suffix in self._suffixes:
                self._add_weights(f"_l{layer}{suffix}", inputs, bias, device, dtype)
        self.reset_parameters()

    def flatten_parameters(self) -> None:
        """Nothing: here for the sake of ported code."""

    def _scan(self, x: Any, suffix: str, states: list, time: int) -> tuple[Any, tuple]:
        """One layer in one direction: all of its h, stacked along the axis `time`, and its last states."""
        w_ih, w_hh, b_ih, b_hh = self._weights(suffix)
        products = F.linear(x, w_ih, b_ih)  # for all steps at once
        if time:
            products = transpose(products, 0, 1)
        y, last = self._recurrence(products, *states, w_hh, b_hh, suffix.endswith("_reverse"))
        return transpose(y, 0, 1) if time else y, last

    def _recurrence(self, x: Any, *rest: Any) -> tuple[Any, tuple]:
        """All h, and the last states. x: the products with the inputs; rest: the states, weight, bias, direction."""
        raise NotImplementedError

    def _check_input(self, input: Any) -> None:
        name = type(self).__name__
        if not is_array(input):
            raise TypeError(
                f"{name}: input must be a tensor, not {type(input).__name__}; there are no packed sequences here: pad "
                f"them to one length and pick each one's last output"
            )
        size, time = self.input_size, 1 if self.batch_first and input.ndim == 3 else 0
        if input.ndim not in (2, 3) or input.shape[-1] != size:
            batched = f"(N, T, {size})" if self.batch_first else f"(T, N, {size})"
            raise ValueError(
                f"{name}: input has shape {tuple(input.shape)}; it must be {batched}, or (T, {size}) without the batch"
            )
        if input.shape[time] == 0:
            raise ValueError(f"{name}: input has shape {tuple(input.shape)}; it must have at least one step")

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        self._check_input(input)
        single = input.ndim == 2
        time = 1 if self.batch_first else 0
        ways = len(self._suffixes)
        count = self.num_layers * ways
        batch = () if single else (input.shape[1 - time],)
        initial = self._initial(input, hx, (count, *batch, self.hidden_size), self._parameters["weight_ih_l0"])
        x: Any = input
        if single:
            x, initial = unsqueeze(x, 1 - time), [unsqueeze(s, 1) for s in initial]
        starts = list(zip(*(unbind(s, 0) for s in initial), strict=True))  # the states of each layer and direction
        ends: list[tuple] = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for way, suffix in enumerate(self._suffixes):
                y, end = self._scan(x, f"_l{layer}{suffix}", list(starts[layer * ways + way]), time)
                outputs.append(y)
                ends.append(end)
            x = cat(outputs, -1) if ways > 1 else outputs[0]
        final = [stack(s, 0) for s in zip(*ends, strict=True)]
        if single:
            x, final = squeeze(x, 1 - time), [squeeze(s, 1) for s in final]
        return x, tuple(final) if self.states > 1 else final[0]

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        parts += [f"num_layers={self.num_layers}"] if self.num_layers != 1 else []
        parts += [] if self.bias else ["bias=False"]
        parts += ["batch_first=True"] if self.batch_first else []
        parts += [f"dropout={self.dropout}"] if self.dropout else []
        parts += ["bidirectional=True"] if self.bidirectional else []
        return ", ".join(parts)


class RNN(_Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh), or relu, over a sequence. Elman 1990.

    (T, N, input_size), h_0 (num_layers · D, N, hidden_size) or None for zeros -> output (T, N, D · hidden_size) of the
    last layer, h_n (num_layers · D, N, hidden_size), with D = 2 if bidirectional, else 1. batch_first: input and output
    are (N, T, …), the states stay as they are. Without the batch: (T, input_size), (num_layers · D, hidden_size).

    Each layer above the first takes the outputs of the one below, in training mode with dropout. bidirectional: a
    second recurrence goes backwards, and the outputs of both are joined; in the states it follows the forward one of
    its layer.

    weight_ih_l0: (hidden_size, input_size; D · hidden_size above the first layer), weight_hh_l0: (hidden_size,
    hidden_size), bias_ih_l0 and bias_hh_l0: (hidden_size,); l1 … for the other layers, _reverse for the way back. All
    start uniform within 1 / sqrt(hidden_size) of 0. Sequences of different lengths are padded by the caller: packed
    sequences are not supported. Raises ValueError or TypeError naming the sizes.
    """

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False, device: str | None = None,
        dtype: Any = None,
    ):  # fmt: skip
        _check_nonlinearity("RNN", nonlinearity)
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        )  # fmt: skip
        self.nonlinearity = nonlinearity

    def _recurrence(self, x: Any, *rest: Any) -> tuple[Any, tuple]:
        return rnn(x, *rest, relu=self.nonlinearity == "relu")


class LSTM(_Recurrent):
    """Long short-term memory over a sequence. Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000.

        i, f, o = sigmoid(W x_t + b + U h_{t-1} + b'), each with weights of its own;  g = tanh(…) likewise
        c_t = f · c_{t-1} + i · g,   h_t = o · tanh(c_t)

    input, (h_0, c_0) or None -> output, (h_n, c_n): shapes, options and parameters as in RNN, the states in pairs of
    one shape. The rows of the parameters belong to i, f, g, o, hidden_size each. Projections (proj_size) are not
    supported.
    """

    gates = 4
    states = 2

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: str | None = None,
        dtype: Any = None,
    ):  # fmt: skip
        if proj_size:
            raise NotImplementedError(f"LSTM: proj_size is {proj_size}; projections are not supported, only 0 is")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def _recurrence(self, x: Any, *rest: Any) -> tuple[Any, tuple]:
        return lstm(x, *rest)


class GRU(_Recurrent):
    """Gated recurrent units over a sequence. Cho et al. 2014, in the variant of cuDNN and PyTorch.

        r, z = sigmoid(W x_t + b + U h_{t-1} + b'), each with weights of its own
        n = tanh(W_n x_t + b_n + r · (U_n h_{t-1} + b'_n))
        h_t = (1 - z) · n + z · h_{t-1}

    Shapes, options and parameters as in RNN. The rows of the parameters belong to r, z, n, hidden_size each.
    """

    gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, device: str | None = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype)

    def _recurrence(self, x: Any, *rest: Any) -> tuple[Any, tuple]:
        return gru(x, *rest)
