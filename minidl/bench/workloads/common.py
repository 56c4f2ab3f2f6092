"""What the workloads share: libraries by name, equal weights and data for both, and the counting of work."""

from __future__ import annotations

import math
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from .. import devices


class Library(NamedTuple):
    """The parts of a library that have the same names in both."""

    name: str
    dl: Any
    nn: Any
    F: Any
    optim: Any

    def tensor(self, array: np.ndarray, requires_grad: bool = False) -> Any:
        """The array as a tensor where this process computes; a copy in the same memory order."""
        return devices.tensor(self.dl, array, requires_grad)

    def place(self, model: Any) -> Any:
        """The network where this process computes; to be called before an optimizer is made for it."""
        return devices.place(model)


def library(name: str) -> Library:
    """PyTorch or minidl."""
    functional = "torch.nn.functional" if name == "torch" else "minidl.functional"
    return Library(name, import_module(name), *map(import_module, (f"{name}.nn", functional, f"{name}.optim")))


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """The same normal numbers on both sides, float32."""
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(scale)


def set_parameters(dl: Any, model: Any, seed: int = 0) -> Any:
    """Give a network weights that depend only on the order and the shapes of its parameters: N(0, 1 / numbers that an
    output sums); biases 0, weights of batch norm 1. Returns the network."""
    rng = np.random.default_rng(seed)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            values = rng.standard_normal(tuple(p.shape), dtype=np.float32)
            values *= np.float32(1 / math.sqrt(math.prod(p.shape[1:])))
        else:
            values = np.full(tuple(p.shape), 0 if name.endswith("bias") else 1, np.float32)
        p.data[...] = dl.from_numpy(values).data
    return model


class Cost(NamedTuple):
    """Of one forward pass of a network."""

    flops: float = 0.0
    bytes: float = 0.0
    parameters: float = 0.0  # bytes


def cost(lib: Library, model: Any, shape: tuple[int, ...]) -> Cost:
    """What one forward pass costs, for input of a shape; counted for minidl, as its peer's network is the same.

    Multiply-adds are two operations each. Bytes: parameters and inputs read, what each layer gives written and read.
    Backward is taken for twice as much, although no gradient of the input is needed.
    """
    if lib.name != "minidl":
        return Cost()
    from minidl.inspect import summary

    s = summary(model, shape)
    moved = s.parameter_bytes + s.input_bytes + 2 * s.activation_bytes
    return Cost(2.0 * s.multiply_adds, moved, s.parameter_bytes)


SGD_TRAFFIC = 5  # parameter, gradient and velocity read, parameter and velocity written
ADAM_TRAFFIC = 7  # the same with two averages
