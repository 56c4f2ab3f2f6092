"""The three products of a convolution, each by itself: forward, the gradient of the input, the gradient of the weight.

What a training step of C3D spends its time with. PyTorch's are those of its backend, cuDNN on a CUDA device.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

from ..case import Case, Work
from .common import Library, library, random

# name -> shapes of the input (without the batch) and the weight; stride 1, padding 1
LAYERS = {
    "C3D conv1 3->64, 16x112x112": ((3, 16, 112, 112), (64, 3, 3, 3, 3)),
    "C3D conv2 64->128, 16x56x56": ((64, 16, 56, 56), (128, 64, 3, 3, 3)),
    "C3D conv3a 128->256, 8x28x28": ((128, 8, 28, 28), (256, 128, 3, 3, 3)),
    "C3D conv3b 256->256, 8x28x28": ((256, 8, 28, 28), (256, 256, 3, 3, 3)),
    "C3D conv4a 256->512, 4x14x14": ((256, 4, 14, 14), (512, 256, 3, 3, 3)),
    "C3D conv4b 512->512, 4x14x14": ((512, 4, 14, 14), (512, 512, 3, 3, 3)),
    "C3D conv5 512->512, 2x7x7": ((512, 2, 7, 7), (512, 512, 3, 3, 3)),
}
PARTS = ("forward", "gradient of the input", "gradient of the weight")


def cases(name: str, batch: int = 16, divide: int = 1) -> dict[str, Case]:
    """batch: clips. divide: channels and pixels on a side by so much, for a quick look."""
    lib = library(name)
    return {
        f"{title}: {part}": Case(partial(_work, lib, part, batch, x, w, divide))
        for title, (x, w) in LAYERS.items()
        for part in PARTS
        if part != PARTS[1] or w[1] > 3  # images need no gradient
    }


def _work(
    lib: Library, part: str, batch: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], divide: int
) -> Work:  # fmt: skip
    smaller = lambda n: max(1, n // divide)
    channels, frames, height, width = x_shape
    x_shape = (batch, smaller(channels), frames, smaller(height), smaller(width))
    w_shape = (smaller(w_shape[0]), smaller(w_shape[1]), *w_shape[2:])
    y_shape = (batch, w_shape[0], *x_shape[2:])
    x, w, y = (lib.tensor(random(*shape, seed=i)) for i, shape in enumerate((x_shape, w_shape, y_shape)))
    step = (_minidl if lib.name == "minidl" else _torch)(lib, part, x, w, y)
    flops = 2.0 * prod(y_shape) * prod(w_shape[1:])
    return Work(step, flops, 4.0 * (prod(x_shape) + prod(w_shape) + prod(y_shape)))


def _minidl(lib: Library, part: str, x: Any, w: Any, y: Any) -> Callable[[], Any]:
    from minidl.kernels.geometry import ConvGeometry
    from minidl.ops import conv

    g = ConvGeometry.of(x.shape, w.shape, 1, 1)
    if part == PARTS[0]:
        return lambda: conv.conv(x, w, geometry=g)
    if part == PARTS[1]:
        return lambda: conv.conv_input(y, w, geometry=g)
    return lambda: conv.conv_weight(x, y, geometry=g)


def _torch(lib: Library, part: str, x: Any, w: Any, y: Any) -> Callable[[], Any]:
    if part == PARTS[0]:
        return lambda: lib.F.conv3d(x, w, None, 1, 1)
    wanted = (part == PARTS[1], part == PARTS[2], False)
    backward = lib.dl.ops.aten.convolution_backward
    which = wanted.index(True)
    return lambda: backward(y, x, w, None, (1,) * 3, (1,) * 3, (1,) * 3, False, (0,) * 3, 1, wanted)[which]
