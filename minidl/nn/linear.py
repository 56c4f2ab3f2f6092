"""Affine maps, and layers that only rearrange."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import functional as F
from ..core.tensor import Tensor
from ..functional.activation import ACTIVATIONS, Activation
from ..functional.shape import flatten, unflatten
from . import init
from .module import Module
from .parameter import Parameter, new_parameter


class Linear(Module):
    """x @ weight.T + bias: (…, in_features) -> (…, out_features).

    weight: (out_features, in_features), bias: (out_features,); both start uniform within 1 / sqrt(in_features) of 0.
    activation: "relu", "tanh" or "sigmoid" (not in PyTorch's) is applied to the result, in the same operation.
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: str | None = None, dtype: Any = None, *,
        activation: Activation = None,
    ):  # fmt: skip
        super().__init__()
        for name, value in (("in_features", in_features), ("out_features", out_features)):
            if value < 0:
                raise ValueError(f"Linear: {name} is {value}; it must not be negative")
        if activation not in ACTIVATIONS:
            raise ValueError(f'Linear: activation is {activation!r}; it must be "relu", "tanh", "sigmoid" or None')
        self.activation = activation
        self.in_features = in_features
        self.out_features = out_features
        self.weight = new_parameter((out_features, in_features), device, dtype)
        self.register_parameter("bias", new_parameter((out_features,), device, dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new parameters."""
        init.default_(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        sizes = f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        return sizes if self.activation is None else f"{sizes}, activation={self.activation}"


class Identity(Module):
    """Its argument unchanged; any constructor arguments are ignored, so that it can stand in for another layer."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__()

    def forward(self, input: Any) -> Any:
        return input


class Flatten(Module):
    """Axes start_dim to end_dim as one: (N, C, H, W) -> (N, C·H·W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        return flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """One axis as several: Unflatten(1, (C, H, W)) turns (N, C·H·W) into (N, C, H, W)."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]):
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        return unflatten(input, self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
