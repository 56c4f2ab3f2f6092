"""A convolutional GRU (Ballas et al., 2016) over a sequence: forward and backward, also to the frames.

PyTorch has no such layer: there it is what everybody writes, two convolutions of [x, h] in every step of time.
"""

from __future__ import annotations

from typing import Any

from ..case import Case, Work
from .common import cost, library, random


def cases(name: str, batch: int = 4, frames: int = 10, size: int = 28, channels: int = 64) -> dict[str, Case]:
    """batch: sequences. frames: of each. size: pixels on a side. channels: of frames and state, a 3x3 kernel."""
    lib = library(name)
    scale = 1 / (3 * channels**0.5)
    w_x, w_h = (random(3 * channels, channels, 3, 3, seed=s, scale=scale) for s in (1, 2))  # rows for z, r, candidate

    def prepare() -> Work:
        x = lib.tensor(random(frames, batch, channels, size, size), requires_grad=True)
        model = _minidl(w_x, w_h) if name == "minidl" else _torch(lib, w_x, w_h)
        spent = cost(lib, model, tuple(x.shape))
        model = lib.place(model)

        def step() -> Any:
            for p in (x, *model.parameters()):
                p.grad = None
            y, _ = model(x)
            lib.dl.square(y).mean().backward()
            return x.grad

        return Work(step, 3 * spent.flops, 3 * spent.bytes)

    return {"forward + backward": Case(prepare)}


def _minidl(w_x: Any, w_h: Any) -> Any:
    from minidl import nn

    gru = nn.ConvGRU2d(w_x.shape[1], w_h.shape[1], 3)
    gru.weight_ih_l0.data[...], gru.weight_hh_l0.data[...] = w_x, w_h
    return gru


def _torch(lib: Any, w_x: Any, w_h: Any) -> Any:
    dl, nn = lib.dl, lib.nn
    hidden = w_h.shape[1]
    inputs = w_x.shape[1] + hidden

    class ConvGRU(lib.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates = nn.Conv2d(inputs, 2 * hidden, 3, padding=1, bias=False)
            self.candidate = nn.Conv2d(inputs, hidden, 3, padding=1, bias=False)

        def forward(self, x: Any) -> Any:
            h = x.new_zeros(x.shape[1], hidden, *x.shape[3:])
            states = []
            for frame in x:
                z, r = dl.sigmoid(self.gates(dl.cat([frame, h], 1))).chunk(2, 1)
                c = dl.tanh(self.candidate(dl.cat([frame, r * h], 1)))
                h = (1 - z) * h + z * c
                states.append(h)
            return dl.stack(states), h

    model = ConvGRU()
    weights = dl.cat([dl.tensor(w_x), dl.tensor(w_h)], 1)
    model.gates.weight.data[...], model.candidate.weight.data[...] = weights[: 2 * hidden], weights[2 * hidden :]
    return model
