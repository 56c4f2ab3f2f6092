"""The deep autoencoder of Hinton and Salakhutdinov (2006) for 28 x 28 pixels: a step of Adam on the squared error.

PyTorch's Adam is the fused one, which is its fastest.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..case import Case, Work
from .common import ADAM_TRAFFIC, Library, cost, library, random, set_parameters

CODE = 30


def cases(name: str, batch: int = 128, size: int = 28, width: int = 1000) -> dict[str, Case]:
    """batch, size: of the images. width: units of the first layer; the next have half and a quarter."""
    lib = library(name)
    hidden = [width, width // 2, width // 4]

    def prepare() -> Work:
        model = set_parameters(lib.dl, _minidl(size, hidden) if name == "minidl" else _torch(lib, size, hidden))
        images = lib.dl.sigmoid(lib.tensor(random(batch, 1, size, size)))
        spent = cost(lib, model, tuple(images.shape))
        model = lib.place(model)
        optimizer = lib.optim.Adam(model.parameters(), lr=1e-3, **({} if name == "minidl" else {"fused": True}))

        def step() -> Any:
            optimizer.zero_grad()
            loss = lib.F.mse_loss(model(images), images)
            loss.backward()
            optimizer.step()
            return loss

        return Work(step, 3 * spent.flops, 3 * spent.bytes + ADAM_TRAFFIC * spent.parameters)

    return {"training step": Case(prepare)}


def _minidl(size: int, hidden: list[int]) -> Any:
    from minidl.models.autoencoder import MLPAutoencoder

    return MLPAutoencoder((1, size, size), hidden, CODE)


def _torch(lib: Library, size: int, hidden: list[int]) -> Any:
    nn = lib.nn

    def dense(sizes: list[int]) -> list[Any]:
        layers: list[Any] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        return layers[:-1]

    sizes = [size * size, *hidden, CODE]
    shape = (1, size, size)
    return nn.Sequential(nn.Flatten(), *dense(sizes), *dense(sizes[::-1]), nn.Sigmoid(), nn.Unflatten(1, shape))
