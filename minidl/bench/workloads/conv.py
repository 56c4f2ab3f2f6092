"""Typical convolutions and poolings, forward and backward, float32. Inputs require gradients, as inside a network;
first layers have none to give.

Each is measured on contiguous input and on channels-last input, as the layer before leaves it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..case import Case, Work
from .common import library, random


class Layer(NamedTuple):
    """A convolution: shapes of input and weight, and the rest. transposed: weight is (in, out, *kernel)."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    padding: int = 1
    groups: int = 1
    transposed: bool = False


LAYERS = {
    "conv2d 3x3 64->64, 56x56, batch 16": Layer((16, 64, 56, 56), (64, 64, 3, 3)),
    "conv2d 3x3 16->32, 28x28, batch 128": Layer((128, 16, 28, 28), (32, 16, 3, 3)),
    "conv2d 3x3 64->128, 28x28, batch 4 (ConvGRU)": Layer((4, 64, 28, 28), (128, 64, 3, 3)),
    "C3D conv1 3->64, 16x112x112, batch 2": Layer((2, 3, 16, 112, 112), (64, 3, 3, 3, 3)),
    "C3D conv2 64->128, 16x56x56, batch 2": Layer((2, 64, 16, 56, 56), (128, 64, 3, 3, 3)),
    "C3D conv3a 128->256, 8x28x28, batch 2": Layer((2, 128, 8, 28, 28), (256, 128, 3, 3, 3)),
    "C3D conv3b 256->256, 8x28x28, batch 2": Layer((2, 256, 8, 28, 28), (256, 256, 3, 3, 3)),
    "C3D conv4a 256->512, 4x14x14, batch 2": Layer((2, 256, 4, 14, 14), (512, 256, 3, 3, 3)),
    "C3D conv4b 512->512, 4x14x14, batch 2": Layer((2, 512, 4, 14, 14), (512, 512, 3, 3, 3)),
    "C3D conv5 512->512, 2x7x7, batch 2": Layer((2, 512, 2, 7, 7), (512, 512, 3, 3, 3)),
    "DCGAN 4x4/2 3->64, 64x64, batch 32": Layer((32, 3, 64, 64), (64, 3, 4, 4), 2),
    "DCGAN 4x4/2 64->128, 32x32, batch 32": Layer((32, 64, 32, 32), (128, 64, 4, 4), 2),
    "DCGAN 4x4/2 128->256, 16x16, batch 32": Layer((32, 128, 16, 16), (256, 128, 4, 4), 2),
    "DCGAN 4x4/2 256->512, 8x8, batch 32": Layer((32, 256, 8, 8), (512, 256, 4, 4), 2),
    "DCGAN up 4x4/2 512->256, 4x4, batch 32": Layer((32, 512, 4, 4), (512, 256, 4, 4), 2, transposed=True),
    "DCGAN up 4x4/2 256->128, 8x8, batch 32": Layer((32, 256, 8, 8), (256, 128, 4, 4), 2, transposed=True),
    "DCGAN up 4x4/2 128->64, 16x16, batch 32": Layer((32, 128, 16, 16), (128, 64, 4, 4), 2, transposed=True),
    "DCGAN up 4x4/2 64->3, 32x32, batch 32": Layer((32, 64, 32, 32), (64, 3, 4, 4), 2, transposed=True),
    "conv2d 1x1 64->256, 56x56, batch 16": Layer((16, 64, 56, 56), (256, 64, 1, 1), 1, 0),
    "conv2d 3x3 64->64 in 4 groups, 56x56, batch 16": Layer((16, 64, 56, 56), (64, 16, 3, 3), groups=4),
    "conv2d 3x3 64 channels depthwise, 56x56, batch 16": Layer((16, 64, 56, 56), (64, 1, 3, 3), groups=64),
}
POOLS = {
    "max_pool2d 2, 32x64x56x56": ((32, 64, 56, 56), 2),
    "max_pool3d 2, 2x128x16x56x56": ((2, 128, 16, 56, 56), 2),
}
Make = Callable[[Any, bool], tuple[list[Any], Callable[[], Any]]]  # (library, channels last) -> leaves, forward


def cases(name: str) -> dict[str, Case]:
    return dict(_cases(library(name)))


def _cases(lib: Any) -> Iterator[tuple[str, Case]]:
    made: dict[str, tuple[Make, float]] = {}
    for title, layer in LAYERS.items():
        positions = prod(layer.x[2:]) if layer.transposed else prod(layer.x[2:]) // layer.stride ** (len(layer.x) - 2)
        made[title] = partial(_conv, layer), 2.0 * layer.x[0] * positions * prod(layer.w)
    made |= {title: (partial(_pool, *at), 0.0) for title, at in POOLS.items()}
    for title, (make, flops) in made.items():
        for layout in ("", ", channels last"):
            for backward in (False, True):
                what = "forward + backward" if backward else "forward"
                yield f"{title}: {what}{layout}", Case(partial(_work, lib, make, flops, bool(layout), backward))


def _work(lib: Any, make: Make, flops: float, channels_last: bool, backward: bool) -> Work:
    leaves, forward = make(lib, channels_last)
    y = forward()
    seed = _laid_out(lib, random(*y.shape, seed=2), channels_last)

    def step() -> Any:
        for leaf in leaves:
            leaf.grad = None
        out = forward()
        if not backward:
            return out
        out.backward(seed)
        return leaves[-1].grad

    # the gradients by input and weight cost as much as the output, each
    return Work(step, flops * (1 + backward * sum(leaf.requires_grad for leaf in leaves)))


def _conv(layer: Layer, lib: Any, channels_last: bool) -> tuple[list[Any], Callable[[], Any]]:
    x = _laid_out(lib, random(*layer.x), channels_last)
    # PyTorch wants the weight in the same order to work without turning; for minidl it makes no difference
    w = _laid_out(lib, random(*layer.w, seed=1), channels_last and lib.name == "torch")
    x.requires_grad, w.requires_grad = layer.x[1] > 3, True
    rank = len(layer.x) - 2
    if layer.transposed:
        up = getattr(lib.F, f"conv_transpose{rank}d")
        return [x, w], lambda: up(x, w, None, layer.stride, layer.padding)
    function = getattr(lib.F, f"conv{rank}d")
    return [x, w], lambda: function(x, w, None, layer.stride, layer.padding, 1, layer.groups)


def _pool(shape: tuple[int, ...], size: int, lib: Any, channels_last: bool) -> tuple[list[Any], Callable[[], Any]]:
    x = _laid_out(lib, random(*shape), channels_last)
    x.requires_grad = True
    function = getattr(lib.F, f"max_pool{len(shape) - 2}d")
    return [x], lambda: function(x, size)


def _laid_out(lib: Any, array: np.ndarray, channels_last: bool) -> Any:
    if channels_last:
        array = np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    return lib.tensor(array)
