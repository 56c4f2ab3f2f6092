"""Single layers, forward and backward, on contiguous input and on channels-last input, as convolutions leave it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..case import Case, Work
from .common import library, random


def batch_norm(name: str, batch: int = 32, channels: int = 64, size: int = 56) -> dict[str, Case]:
    """Of images (batch, channels, size, size)."""
    shape = (batch, channels, size, size)
    return _layer(name, shape, shape, lambda nn: nn.BatchNorm2d(channels))


def max_pool3d(name: str, batch: int = 2, channels: int = 128, frames: int = 16, size: int = 56) -> dict[str, Case]:
    """2x2x2, of clips (batch, channels, frames, size, size)."""
    pooled = (batch, channels, frames // 2, size // 2, size // 2)
    return _layer(name, (batch, channels, frames, size, size), pooled, lambda nn: nn.MaxPool3d(2))


def _layer(
    name: str, shape: tuple[int, ...], out: tuple[int, ...], build: Callable[[Any], Any]
) -> dict[str, Case]:  # fmt: skip
    lib = library(name)

    def prepare(channels_last: bool) -> Work:
        def laid_out(array: np.ndarray) -> Any:
            if channels_last:
                array = np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
            return lib.tensor(array)

        layer = lib.place(build(lib.nn))
        x, seed = laid_out(random(*shape)), laid_out(random(*out, seed=1))
        x.requires_grad = True

        def step() -> Any:
            x.grad = None
            layer(x).backward(seed)
            return x.grad

        # x and the gradient of y are read, y and the gradient of x written
        return Work(step, bytes=2.0 * 4 * (np.prod(shape) + np.prod(out)))

    return {
        "forward + backward": Case(lambda: prepare(False)),
        "forward + backward, channels last": Case(lambda: prepare(True)),
    }
