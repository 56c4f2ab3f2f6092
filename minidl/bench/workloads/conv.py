"""Typical convolutions and poolings, forward and backward, float32. Inputs require gradients, as inside a network."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

# name: (input, weight, stride, padding)
LAYERS = {
    "conv2d 3x3 64->64, 56x56, batch 16": ((16, 64, 56, 56), (64, 64, 3, 3), 1, 1),
    "conv2d 3x3 16->32, 28x28, batch 128": ((128, 16, 28, 28), (32, 16, 3, 3), 1, 1),
    "conv2d 4x4/2 64->128, 32x32, batch 32": ((32, 64, 32, 32), (128, 64, 4, 4), 2, 1),
    "conv3d 3x3x3 64->128, 8x28x28, batch 2": ((2, 64, 8, 28, 28), (128, 64, 3, 3, 3), 1, 1),
    "conv3d 3x3x3 512->512, 2x7x7, batch 2": ((2, 512, 2, 7, 7), (512, 512, 3, 3, 3), 1, 1),
}
POOLS = {
    "max_pool2d 2, 32x64x56x56": ((32, 64, 56, 56), 2),
    "max_pool3d 2, 2x128x16x56x56": ((2, 128, 16, 56, 56), 2),
}


def cases(library: str) -> dict[str, Callable[[], float]]:
    dl: Any = import_module(library)
    functional: Any = import_module("torch.nn.functional" if library == "torch" else "minidl.functional")
    rng = np.random.default_rng(0)

    def leaf(shape: tuple[int, ...]) -> Any:
        return dl.tensor(rng.standard_normal(shape, dtype="float32"), requires_grad=True)

    def timed(make: Callable[[], tuple[list[Any], Callable[[], Any]]], backward: bool) -> Callable[[], float]:
        state: list[Any] = []

        def run() -> float:
            if not state:
                leaves, forward = make()
                state.extend((leaves, forward, dl.ones_like(forward().detach())))
            leaves, forward, seed = state
            for x in leaves:
                x.grad = None
            start = time.perf_counter()
            y = forward()
            if backward:
                y.backward(seed)
            return time.perf_counter() - start

        return run

    def conv(x_shape: tuple, w_shape: tuple, stride: int, padding: int) -> tuple[list[Any], Callable[[], Any]]:
        x, w = leaf(x_shape), leaf(w_shape)
        function = getattr(functional, f"conv{len(x_shape) - 2}d")
        return [x, w], lambda: function(x, w, None, stride, padding)

    def pool(x_shape: tuple, size: int) -> tuple[list[Any], Callable[[], Any]]:
        x = leaf(x_shape)
        function = getattr(functional, f"max_pool{len(x_shape) - 2}d")
        return [x], lambda: function(x, size)

    out = {}
    for make, table in ((conv, LAYERS), (pool, POOLS)):
        for name, arguments in table.items():
            for label, backward in (("forward", False), ("forward + backward", True)):
                out[f"{name}: {label}"] = timed(lambda make=make, a=arguments: make(*a), backward)  # type: ignore[misc]
    return out
