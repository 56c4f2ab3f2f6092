"""Activation functions beyond the elementwise primitives, linear maps and dropout.

`inplace` is accepted for the sake of ported code; nothing is ever computed in place.
"""

from __future__ import annotations

from typing import Any, Literal

from ..core.random import generator
from ..core.tensor import Tensor
from ..kernels import capture, table
from ..ops import linalg, sampling
from ..ops.elementwise import elu as _elu
from ..ops.elementwise import gelu as _gelu
from ..ops.elementwise import gelu_tanh, where
from ..ops.elementwise import hardtanh as _hardtanh
from ..ops.elementwise import leaky_relu as _leaky_relu
from ..ops.elementwise import relu as _relu
from ..ops.elementwise import silu as _silu
from ..ops.elementwise import softplus as _softplus
from .arguments import check_array, check_floating, check_shape, within
from .elementwise import sigmoid, tanh


def relu(input: Any, inplace: bool = False) -> Any:
    """input where it is positive, else 0."""
    if not isinstance(input, Tensor):
        check_array("relu", "input", input)
    elif input.node is None and input.dtype.kind == "b":
        raise TypeError("relu: input must hold numbers, not bool; convert it with .float()")
    return _relu(input)


def leaky_relu(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """input where it is positive, else negative_slope * input."""
    check_floating("leaky_relu", input=input)
    return _leaky_relu(input, slope=float(negative_slope))


def relu6(input: Any, inplace: bool = False) -> Any:
    """input limited to [0, 6]. The gradient is 0 at the bounds too."""
    check_array("relu6", "input", input)
    return _hardtanh(input, min=0, max=6)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """input limited to [min_val, max_val]. Unlike that of clamp, the gradient is 0 at the bounds too."""
    input, bounds = within("hardtanh", input, min_val=min_val, max_val=max_val)
    if not bounds["min_val"] <= bounds["max_val"]:
        raise ValueError(f"hardtanh: min_val is {min_val}, max_val {max_val}; the first must be the smaller one")
    return _hardtanh(input, min=bounds["min_val"], max=bounds["max_val"])


def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """input where it is positive, else alpha * (exp(input) - 1). Clevert et al. 2016."""
    check_floating("elu", input=input)
    return _elu(input, alpha=float(alpha))


def selu(input: Any, inplace: bool = False) -> Any:
    """elu with the scale and alpha that keep mean 0 and variance 1. Klambauer et al. 2017."""
    check_floating("selu", input=input)
    return elu(input, 1.6732632423543772) * 1.0507009873554805


def silu(input: Any, inplace: bool = False) -> Any:
    """input * sigmoid(input)."""
    check_floating("silu", input=input)
    return _silu(input)


def gelu(input: Any, approximate: str = "none") -> Any:
    """input * P(standard normal < input); approximate="tanh" is the usual approximation. Hendrycks & Gimpel 2016."""
    check_floating("gelu", input=input)
    if approximate == "tanh":
        return gelu_tanh(input)
    if approximate != "none":
        raise ValueError(f'gelu: approximate is {approximate!r}; it must be "none" or "tanh"')
    return _gelu(input)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """log(1 + exp(beta * input)) / beta, a smooth relu; input itself where beta * input > threshold.

    From 20 on the two agree to nine digits: with such a threshold the formula, which does not overflow here, is used
    everywhere.
    """
    check_floating("softplus", input=input)
    smooth = _softplus(input) if beta == 1 else _softplus(input * beta) / beta
    return smooth if threshold >= 20 else where(input * beta > threshold, input, smooth)


def logsigmoid(input: Any) -> Any:
    """log(sigmoid(input)), accurate for large negative inputs."""
    check_floating("logsigmoid", input=input)
    return -_softplus(-input)


Activation = Literal["relu", "tanh", "sigmoid"] | None
ACTIVATIONS = (None, "relu", "tanh", "sigmoid")  # of `linear`


def linear(input: Any, weight: Any, bias: Any = None, *, activation: Activation = None) -> Any:
    """input @ weight.T + bias: (…, in) with weight (out, in) and bias (out,) -> (…, out).

    activation: "relu", "tanh" or "sigmoid" gives relu(linear(...)) and so on as one operation, which is faster: an
    addition to PyTorch's signature.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f'linear: activation is {activation!r}; it must be "relu", "tanh", "sigmoid" or None')
    check_floating("linear", input=input, weight=weight, bias=bias)
    if weight.ndim != 2:
        raise ValueError(f"linear: weight has shape {tuple(weight.shape)}; it must have two axes (out, in)")
    if input.ndim == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: input has shape {tuple(input.shape)}, but weight {tuple(weight.shape)} needs {weight.shape[1]} "
            f"features on the last axis"
        )
    if bias is not None:
        check_shape("linear", "bias", bias, (weight.shape[0],))
    if activation is not None:
        return linalg.linear_activated(input, weight, bias, activation=activation)
    return linalg.linear(input, weight, bias)


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """While training, each element becomes 0 with probability p, and the others are divided by 1 - p.

    Srivastava et al. 2014.
    """
    check_array("dropout", "input", input)
    return _dropout(input, p, training, input.shape)


def _channel_dropout(rank: int, input: Any, p: float, training: bool) -> Any:
    check_array(f"dropout{rank}d", "input", input)
    if input.ndim not in (rank + 1, rank + 2):
        raise ValueError(
            f"dropout{rank}d: input has shape {tuple(input.shape)}; it must have {rank + 2} axes, or {rank + 1} "
            f"unbatched"
        )
    return _dropout(input, p, training, (*input.shape[:-rank], *(1,) * rank))


def dropout1d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """dropout of whole channels of (N, C, L)."""
    return _channel_dropout(1, input, p, training)


def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """dropout of whole channels of (N, C, H, W). Tompson et al. 2015."""
    return _channel_dropout(2, input, p, training)


def dropout3d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """dropout of whole channels of (N, C, D, H, W)."""
    return _channel_dropout(3, input, p, training)


def _dropout(input: Any, p: float, training: bool, mask_shape: tuple[int, ...]) -> Any:
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is {p}; it is a probability, from 0 to 1")
    check_floating("dropout", input=input)
    if not training or p == 0:
        return input
    mask = _kept(input.data if isinstance(input, Tensor) else input, p, mask_shape)
    return sampling.dropout(input, mask, scale=1 / (1 - p) if p < 1 else 0.0)


def _kept(x: Any, p: float, shape: tuple[int, ...]) -> Any:
    """True with probability 1 - p, beside the array x. A CUDA device draws for itself, from a key: to wait for the host
    and a copy of its numbers would take longer than all the rest."""
    if table.home(type(x)) == "cpu":
        return generator().random(shape, dtype="float32") >= p
    from ..kernels.cuda.dropout import mask

    (key,) = capture.numbers(lambda: (int(generator().integers(2**64, dtype="uint64")),), "uint64")
    return mask(x, shape, p, key)


__all__ = [
    "dropout", "dropout1d", "dropout2d", "dropout3d", "elu", "gelu", "hardtanh", "leaky_relu", "linear",
    "logsigmoid", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "tanh",
]  # fmt: skip
