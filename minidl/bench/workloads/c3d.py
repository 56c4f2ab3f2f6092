"""C3D (Tran et al., 2015), the whole net: a step of SGD with momentum, and the forward pass.

Without dropout, so that both libraries compute the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from ..case import Case, Work
from .common import SGD_TRAFFIC, Library, cost, library, random, set_parameters

CLASSES = 487


def cases(
    name: str, batch: int = 2, frames: int = 16, size: int = 112, width: int = 64, units: int = 4096,
    checkpoint: int = 0,
) -> dict[str, Case]:  # fmt: skip
    """batch: clips. frames, size: of a clip. width: channels of the first convolution. units: of fc6 and fc7.
    checkpoint: 1 for a training step that keeps of each group of convolutions only its input, and computes the rest
    again for the gradient."""
    lib = library(name)
    shape = (3, frames, size, size)

    def network() -> Any:
        model = _minidl(shape, width, units) if name == "minidl" else _torch(lib, shape, width, units)
        return set_parameters(lib.dl, model)

    def forward() -> Work:
        model, x = network(), lib.tensor(random(batch, *shape))
        spent = cost(lib, model, (batch, *shape))
        model = lib.place(model)

        def step() -> Any:
            with lib.dl.no_grad():
                return model(x)

        return Work(step, spent.flops, spent.bytes)

    def train() -> Work:
        model, x = network(), lib.tensor(random(batch, *shape))
        labels = lib.tensor(np.arange(batch) % CLASSES)
        spent = cost(lib, model, (batch, *shape))
        model = lib.place(model)
        optimizer = lib.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        answer = _checkpointed(lib, model) if checkpoint else model

        def step() -> Any:
            optimizer.zero_grad()
            loss = lib.F.cross_entropy(answer(x), labels)
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


def _checkpointed(lib: Library, model: Any) -> Callable[[Any], Any]:
    """The network as a function, every group of convolutions up to its pooling a checkpoint."""
    groups: list[list[Any]] = [[]]
    if lib.name == "minidl":
        for name, box in model.named_children():
            groups[-1] += [lib.nn.Flatten(), box] if name == "fc6" else [box]
            if name in ("fc6", "fc7"):
                groups[-1].append(lib.F.relu)
            if name.startswith("pool"):
                groups.append([])
        checkpoint = lib.dl.checkpoint
    else:
        for layer in model:
            groups[-1].append(layer)
            if isinstance(layer, lib.nn.MaxPool3d):
                groups.append([])
        checkpoint = partial(import_module("torch.utils.checkpoint").checkpoint, use_reentrant=False)
    *convolutions, dense = [partial(_through, group) for group in groups]

    def answer(x: Any) -> Any:
        for group in convolutions:
            x = checkpoint(group, x)
        return dense(x)

    return answer


def _through(layers: Sequence[Callable[[Any], Any]], x: Any) -> Any:
    """The layers, one after the other."""
    for layer in layers:
        x = layer(x)
    return x
