"""Samples of the layers of `minidl.nn`, in float64, with respect to their inputs and their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import nn
from ..core.random import replay
from ..core.tensor import Tensor
from .sample import Case, Rng, Sample, away, distinct, normal, positive, scattered
from .samples_functional import SEED, SPACES

Draw = Callable[[Rng], tuple[np.ndarray, ...]]


def _seeded(layer: Any) -> Callable:
    """The layer, drawing the same random numbers at every call."""

    def call(*inputs: Any) -> Any:
        with replay(SEED):
            return layer(*inputs)

    return call


def _flat(layer: Any) -> Callable:
    """An LSTM with its states as arguments and results of their own."""

    def call(input: Any, *states: Any) -> tuple:
        output, end = layer(input, states or None)
        return output, *end

    return call


def _joined(cell: Any) -> Callable:
    """The same of an LSTMCell."""
    return lambda input, *states: cell(input, states or None)


def _layer(
    name: str,
    *variants: tuple[Draw, tuple, dict],
    linear: bool = False,
    train: bool | None = None,
    wrap: Callable[[Any], Callable] | None = None,
) -> Sample:
    """A row from (inputs, constructor arguments, keyword arguments). train: None checks the training mode only, which
    is the default of a new layer; False also the evaluation mode. wrap: makes of the layer the function to check."""

    def build(rng: Rng) -> Iterator[Case]:
        for draw, args, kwargs in variants:
            for training in (True,) if train is None else (True, train):
                inputs = draw(rng)
                with replay(dict(np.random.PCG64(int(rng.integers(2**32))).state)):
                    layer = getattr(nn, name)(*args, **kwargs).double()
                layer.train(training)
                parameters = dict(layer.named_parameters())
                note = ", ".join(
                    [*map(repr, args), *(f"{k}={v!r}" for k, v in kwargs.items()), *([] if training else ["eval"])]
                )
                yield Case(inputs, {}, note, fn=wrap(layer) if wrap else layer, parameters=parameters)

    return Sample(f"nn.{name}", "layer", getattr(nn, name), build, linear)


def _x(*shape: int, draw: Callable[..., np.ndarray] = normal) -> Draw:
    return lambda rng: (draw(rng, *shape),)


def _several(*shapes: tuple[int, ...]) -> Draw:
    return lambda rng: tuple(normal(rng, *shape) for shape in shapes)


def _pair(rng: Rng) -> tuple[np.ndarray, ...]:
    """Input and target, whose differences stay away from 0, 0.5 and 1."""
    target = normal(rng, 2, 3)
    return target + rng.choice([-1.4, -0.8, -0.2, 0.3, 0.7, 1.5], (2, 3)), target


def _probabilities(rng: Rng) -> tuple[np.ndarray, ...]:
    return rng.uniform(0.1, 0.9, (2, 3)), rng.uniform(0.1, 0.9, (2, 3))


def _classes(rng: Rng) -> tuple[np.ndarray, ...]:
    return normal(rng, 4, 3), np.array([0, 2, 1, 1])


def _likelihood(rng: Rng) -> tuple[np.ndarray, ...]:
    return normal(rng, 2, 3), normal(rng, 2, 3), positive(rng, 2, 3)


def _spatial() -> Iterator[Sample]:
    for rank in (1, 2, 3):
        space, small = SPACES[rank], (2,) * rank
        yield _layer(
            f"Conv{rank}d",
            (_x(1, 2, *space), (2, 3, 2), {"stride": 2, "padding": 1}),
            (_x(1, 2, *space), (2, 2, 2), {"groups": 2, "padding": "same", "bias": False}),
            (_x(1, *space), (1, 1, 2), {"padding": 1, "padding_mode": "circular"}),
            linear=True,
        )
        yield _layer(
            f"ConvTranspose{rank}d",
            (_x(1, 2, *small), (2, 1, 2), {"stride": 2, "padding": 1, "output_padding": 1}),
            (_x(1, 2, *small), (2, 2, 2), {"groups": 2, "bias": False}),
            linear=True,
        )
        yield _layer(
            f"MaxPool{rank}d",
            (_x(1, 1, *space, draw=distinct), (2,), {"stride": 1}),
            (_x(1, 2, *space, draw=distinct), (2,), {"padding": 1, "ceil_mode": True}),
        )
        yield _layer(
            f"AvgPool{rank}d",
            (_x(1, 1, *space), (2,), {"stride": 1}),
            (_x(1, 2, *space), (2,), {"padding": 1, "ceil_mode": True, "count_include_pad": False}),
            linear=True,
        )
        yield _layer(f"AdaptiveAvgPool{rank}d", (_x(1, 2, *space), (2,), {}), (_x(1, 2, *space), (1,), {}), linear=True)
        shapes = {1: ((4, 2), (2, 2, 2)), 2: ((2, 2, 2, 2),), 3: ((2, 2, 1, 2, 2),)}[rank]
        yield _layer(
            f"BatchNorm{rank}d",
            *((_x(*shape, draw=scattered), (2,), {}) for shape in shapes),
            (_x(*shapes[0], draw=scattered), (2,), {"affine": False}),
            train=False,
        )
        yield _layer(f"Dropout{rank}d", (_x(2, 2, *small), (0.4,), {}), linear=True, train=False, wrap=_seeded)
    yield _layer("Dropout", (_x(2, 3), (), {}), linear=True, train=False, wrap=_seeded)
    yield _layer("Upsample", (_x(1, 2, 2, 3), (), {"scale_factor": 2}), linear=True)


def _pointwise() -> Iterator[Sample]:
    smooth: tuple[Draw, tuple, dict] = (_x(2, 3), (), {})
    kinked: tuple[Draw, tuple, dict] = (_x(2, 3, draw=away), (), {})
    for name in ("ReLU", "LeakyReLU", "ELU", "SELU"):
        yield _layer(name, kinked)
    for name in ("Sigmoid", "Tanh", "SiLU", "Softplus", "LogSigmoid", "GELU"):
        yield _layer(name, smooth)
    yield _layer("ReLU6", (_x(4, 4, draw=lambda rng, *s: distinct(rng, *s) * 6), (), {}))
    yield _layer("Hardtanh", (_x(4, 4, draw=lambda rng, *s: distinct(rng, *s) * 2), (), {}))
    for name in ("Softmax", "LogSoftmax"):
        yield _layer(name, (_x(2, 3), (1,), {}))


def _losses() -> Iterator[Sample]:
    weight = Tensor(np.array([0.5, 1.0, 2.0]))
    for name in ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"):
        yield _layer(name, (_pair, (), {}), (_pair, (), {"reduction": "sum"}), (_pair, (), {"reduction": "none"}))
    yield _layer("BCELoss", (_probabilities, (), {}), (_probabilities, (weight,), {}))
    yield _layer("BCEWithLogitsLoss", (_probabilities, (), {}), (_probabilities, (), {"pos_weight": weight}))
    yield _layer("KLDivLoss", (_probabilities, (), {"reduction": "batchmean"}))
    yield _layer("GaussianNLLLoss", (_likelihood, (), {}), (_likelihood, (), {"full": True}))
    yield _layer("NLLLoss", (_classes, (), {}), (_classes, (weight,), {}), linear=True)
    yield _layer("CrossEntropyLoss", (_classes, (), {}), (_classes, (weight,), {"label_smoothing": 0.1}))


def _recurrent() -> Iterator[Sample]:
    batch, states = _x(2, 2, 2), _several((2, 2, 2), (1, 2, 2))
    both = {"num_layers": 2, "bidirectional": True}
    yield _layer(
        "RNN", (batch, (2, 2), both), (states, (2, 2), {"nonlinearity": "relu"}), (_x(3, 2), (2, 1), {"bias": False})
    )
    yield _layer("GRU", (batch, (2, 1), both | {"batch_first": True}), (states, (2, 2), {"bias": False}))
    pair = _several((2, 1, 2), (1, 1, 2), (1, 1, 2))
    yield _layer("LSTM", (batch, (2, 1), both), (pair, (2, 2), {}), wrap=_flat)
    vectors, three = _several((2, 2), (2, 2)), _several((2, 2), (2, 2), (2, 2))
    yield _layer("RNNCell", (_x(2, 3), (3, 2), {}), (vectors, (2, 2), {"bias": False, "nonlinearity": "relu"}))
    yield _layer("GRUCell", (_x(3), (3, 2), {}), (vectors, (2, 2), {"bias": False}))
    yield _layer("LSTMCell", (_x(2, 3), (3, 2), {}), (three, (2, 2), {}), wrap=_joined)
    yield _layer(
        "ConvGRU2d",
        (_x(2, 1, 1, 2, 2), (1, 1, 3), {"bias": True}),
        (_several((2, 2, 1, 1, 2), (2, 2, 1, 1, 2)), (1, 1, (1, 3)), {"bidirectional": True}),
        (_x(1, 2, 1, 1, 2), (1, 1, (1, 3)), {"num_layers": 2, "stacked": "gates", "batch_first": True}),
        (
            _several((2, 1, 1, 1, 2), (2, 1, 1, 1, 2), (2, 1, 1, 1, 2)),
            (1, 1, (1, 3)),
            {"num_layers": 2, "lower_channels": 1},
        ),
    )


def _network(rng: Rng) -> Iterator[Case]:
    """Layers in a row, as people use them."""
    with replay(SEED):
        layers = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 2)
        network = nn.Sequential(*layers).double()
    yield Case(
        (normal(rng, 3, 1, 3, 3),),
        {},
        "conv, batch norm, tanh, pool, linear",
        (),
        network,
        dict(network.named_parameters()),
    )


def samples() -> Iterator[Sample]:
    yield _layer("Linear", (_x(2, 3), (3, 2), {}), (_x(2, 2, 3), (3, 2), {"bias": False}), linear=True)
    yield _layer("Identity", (_x(2, 3), (), {}), linear=True)
    yield _layer("Flatten", (_x(2, 3, 2), (), {}), linear=True)
    yield _layer("Unflatten", (_x(2, 6), (1, (2, 3)), {}), linear=True)
    yield from _spatial()
    yield from _recurrent()
    yield from _pointwise()
    yield from _losses()
    yield Sample("nn.Sequential", "layer", nn.Sequential, _network)
