"""Linear layers with their activation: the same as one after the other, in one operation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn
from minidl.checking import gradcheck
from minidl.models.autoencoder import MLPAutoencoder
from minidl.models.vae import MLPVAE

ALONE: dict[Any, Any] = {"relu": F.relu, "tanh": minidl.tanh, "sigmoid": minidl.sigmoid}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("kind", ALONE)
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (7,)])
def test_as_one_after_the_other(kind: Any, shape: tuple[int, ...]) -> None:
    layer, plain = nn.Linear(7, 4, activation=kind, dtype="float64"), nn.Linear(7, 4, dtype="float64")
    plain.load_state_dict(layer.state_dict())
    x, twin = (minidl.tensor(draw(*shape), requires_grad=True) for _ in range(2))
    y, expected = layer(x), ALONE[kind](plain(twin))
    assert y.node.primitive.name == "linear_activated"
    np.testing.assert_allclose(y.numpy(), expected.numpy(), 1e-13)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    for a, b in [(x, twin), *zip(layer.parameters(), plain.parameters(), strict=True)]:
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), 1e-12)


@pytest.mark.parametrize("kind", ALONE)
def test_large_ones_in_float32(kind: Any) -> None:
    """By the compiled loops, whose activations are their own."""
    arrays, weights = [draw(130, 300) / 4, draw(270, 300, seed=1) / 4, draw(270, seed=2)], draw(130, 270, seed=3)

    def gradients(dtype: str, fused: bool) -> list[np.ndarray]:
        x, w, b = (minidl.tensor(a.astype(dtype), requires_grad=True) for a in arrays)
        y = F.linear(x, w, b, activation=kind) if fused else ALONE[kind](F.linear(x, w, b))
        (y * weights.astype(dtype)).sum().backward()
        return [y.numpy(), *(a.grad.numpy() for a in (x, w, b))]

    for got, right in zip(gradients("float32", True), gradients("float64", False), strict=True):
        np.testing.assert_allclose(got, right, 1e-4, 2e-5 * abs(right).max())


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    x, w = minidl.randn(3, 4), minidl.randn(2, 4, requires_grad=True)
    F.linear(x, w, None, activation="tanh").sum().backward()
    assert x.grad is None and w.grad.shape == (2, 4)


@pytest.mark.parametrize("kind", ["tanh", "sigmoid"])
def test_second_order(kind: Any) -> None:
    x, w, b = (minidl.tensor(draw(*shape), requires_grad=True) for shape in ((3, 4), (2, 4), (2,)))
    gradcheck(lambda *args: F.linear(*args, activation=kind), (x, w, b), order=2)


def test_words() -> None:
    wrong: Any = "gelu"
    assert repr(nn.Linear(2, 3, activation="relu")) == repr(nn.Linear(2, 3))[:-1] + ", activation=relu)"
    with pytest.raises(ValueError, match="Linear: activation is 'gelu'; it must be"):
        nn.Linear(2, 3, activation=wrong)
    with pytest.raises(ValueError, match="linear: activation is 'gelu'; it must be"):
        F.linear(minidl.ones(2, 2), minidl.ones(2, 2), activation=wrong)


def test_networks_keep_the_names_of_their_parameters() -> None:
    """Those of files saved when activations were layers of their own."""
    names = set(MLPAutoencoder((1, 8, 8), (16, 8), 2).state_dict())
    layers = [f"encoder.{i}" for i in (1, 3, 5)] + [f"decoder.{i}" for i in (0, 2, 4)]
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    assert {name.rpartition(".")[0] for name in MLPVAE(hidden=5).state_dict()} == {
        "encoder.1", "mean", "logvar", "decoder.0", "pixels.0"
    }  # fmt: skip
