"""Depthwise separable convolutions, as in MobileNet (A. Howard et al., arXiv:1704.04861): a step of SGD."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..case import Case, Work
from .common import SGD_TRAFFIC, Library, cost, library, random, set_parameters

WIDTHS = (1, 2, 4, 4, 8, 8)  # channels after each block, of those after the first layer
STRIDES = (1, 2, 1, 2, 1)


def cases(name: str, batch: int = 16, size: int = 112, width: int = 32) -> dict[str, Case]:
    """batch, size: of the images. width: channels after the first layer, which halves the size."""
    lib, shape = library(name), (batch, 3, size, size)

    def prepare() -> Work:
        model, x = set_parameters(lib.dl, _network(lib, width)), lib.tensor(random(*shape))
        spent = cost(lib, model, shape)
        model = lib.place(model)
        optimizer = lib.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step() -> Any:
            optimizer.zero_grad()
            loss = lib.dl.square(model(x)).mean()
            loss.backward()
            optimizer.step()
            return loss

        return Work(step, 3 * spent.flops, 3 * spent.bytes + SGD_TRAFFIC * spent.parameters)

    return {"training step": Case(prepare)}


def _network(lib: Library, width: int) -> Any:
    nn = lib.nn

    def layer(before: int, after: int, kernel: int, stride: int, groups: int) -> list[Any]:
        conv = nn.Conv2d(before, after, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(after), nn.ReLU()]

    layers = layer(3, width, 3, 2, 1)
    for (before, after), stride in zip(pairwise(width * w for w in WIDTHS), STRIDES, strict=True):
        layers += layer(before, before, 3, stride, before) + layer(before, after, 1, 1, 1)
    return nn.Sequential(*layers)
