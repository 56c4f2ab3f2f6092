"""C3D (Tran et al., 2015), the whole net: a step of SGD with momentum, and the forward pass.

Without dropout, so that both libraries compute the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..case import Case, Work
from .common import SGD_TRAFFIC, Library, cost, library, random, set_parameters

CLASSES = 487


def cases(
    name: str, batch: int = 2, frames: int = 16, size: int = 112, width: int = 64, units: int = 4096
) -> dict[str, Case]:
    """batch: clips. frames, size: of a clip. width: channels of the first convolution. units: of fc6 and fc7."""
    lib = library(name)
    shape = (3, frames, size, size)

    def network() -> Any:
        model = _minidl(shape, width, units) if name == "minidl" else _torch(lib, shape, width, units)
        return set_parameters(lib.dl, model)

    def forward() -> Work:
        model, x = network(), lib.dl.tensor(random(batch, *shape))
        spent = cost(lib, model, (batch, *shape))

        def step() -> Any:
            with lib.dl.no_grad():
                return model(x)

        return Work(step, spent.flops, spent.bytes)

    def train() -> Work:
        model, x = network(), lib.dl.tensor(random(batch, *shape))
        labels = lib.dl.tensor(np.arange(batch) % CLASSES)
        optimizer = lib.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        spent = cost(lib, model, (batch, *shape))

        def step() -> Any:
            optimizer.zero_grad()
            loss = lib.F.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            return loss

        return Work(step, 3 * spent.flops, 3 * spent.bytes + SGD_TRAFFIC * spent.parameters)

    return {"training step": Case(train), "forward": Case(forward)}


def _minidl(shape: tuple[int, ...], width: int, units: int) -> Any:
    from minidl import nn
    from minidl.models.c3d import C3D

    with nn.init.skip():
        return C3D(CLASSES, shape, width, units, dropout=0.0)


def _torch(lib: Library, shape: tuple[int, ...], width: int, units: int) -> Any:
    nn = lib.nn

    def group(inputs: int, outputs: int, convolutions: int, pool: Any) -> list[Any]:
        layers = []
        for i in range(convolutions):
            layers += [nn.Conv3d(outputs if i else inputs, outputs, 3, padding=1), nn.ReLU()]
        return [*layers, nn.MaxPool3d(pool, ceil_mode=True)]

    channels, frames, height, columns = shape
    cells = -(-frames // 16) * -(-height // 32) * -(-columns // 32)
    return nn.Sequential(
        *group(channels, width, 1, (1, 2, 2)),
        *group(width, 2 * width, 1, 2),
        *group(2 * width, 4 * width, 2, 2),
        *group(4 * width, 8 * width, 2, 2),
        *group(8 * width, 8 * width, 2, 2),
        nn.Flatten(),
        nn.Linear(8 * width * cells, units),
        nn.ReLU(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Linear(units, CLASSES),
    )
