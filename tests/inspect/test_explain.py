"""minidl.explain: what is printed is what is chosen, and what is chosen is what runs."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.inspect.explain import PASSES, explain
from minidl.kernels.cpu import conv
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.precision import conv_precision

LAYERS = {
    "winograd": (nn.Conv2d(64, 64, 3, padding=1), (4, 64, 28, 28)),
    "strided": (nn.Conv2d(32, 64, 4, 2, 1), (8, 32, 16, 16)),
    "transposed": (nn.ConvTranspose2d(64, 32, 4, 2, 1), (8, 64, 8, 8)),
    "rgb out": (nn.ConvTranspose2d(64, 3, 4, 2, 1), (8, 64, 16, 16)),
    "grouped": (nn.Conv2d(64, 64, 3, groups=2), (2, 64, 28, 28)),
    "depthwise": (nn.Conv2d(64, 64, 3, groups=64), (8, 64, 28, 28)),
    "small": (nn.Conv2d(3, 4, 3), (1, 3, 8, 8)),
    "reflected": (nn.Conv2d(32, 32, 3, padding=1, padding_mode="reflect"), (4, 32, 20, 20)),
    "volume": (nn.Conv3d(16, 32, 3, padding="same"), (2, 16, 6, 20, 20)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_explained_is_what_runs(name):
    layer, shape = LAYERS[name]
    used, choose = {}, conv.choose

    def spy(member, g, dtype, threads, precise):
        choice = choose(member, g, dtype, threads, precise)
        used[member] = (choice, g, threads)
        return choice

    with patch.object(conv, "choose", spy):
        x = minidl.ones(shape, dtype=layer.weight.dtype, requires_grad=True)
        layer(x).sum().backward()
    explanation = explain(layer, shape)
    members = ("conv_input", "conv", "conv_weight") if layer.transposed else ("conv", "conv_input", "conv_weight")
    for which, member in zip(PASSES, members, strict=True):
        choice, geometry, threads = used[member]
        assert explanation[which] == choice
        assert explanation.geometry == geometry
        assert explanation.threads == threads or choice.algorithm == "plain"


def test_the_text():
    text = str(explain(nn.Conv2d(64, 64, 3, padding=1), (16, 64, 56, 56), threads=4))
    assert text.splitlines()[0] == "(16, 64, 56, 56) * (64, 64, 3, 3) -> (16, 64, 56, 56), float32, 4 threads, fast"
    # F(4x4) on 14 x 14 tiles of 16 images: 36 points, 64 x 64 products at each
    assert f"{36 * 16 * 14 * 14 * 64 * 64:,}" in text and "winograd F(4x4)" in text
    assert "0.25" in text  # 36 / (16 * 9)
    assert text.splitlines()[-1].startswith(f"direct sum: {16 * 56 * 56 * 64 * 64 * 9:,} multiply-adds; ")
    up = explain(nn.ConvTranspose2d(8, 4, 4, 2, 1), (2, 8, 5, 5), threads=1)
    assert str(up).startswith("(2, 8, 5, 5) * (8, 4, 4, 4) -> (2, 4, 10, 10), float32, 1 thread, fast\n")


def test_precision_and_types_change_the_choice():
    g = ConvGeometry.of((4, 64, 28, 28), (64, 64, 3, 3), padding=1)
    assert explain(g)["output"].tile == 4
    with conv_precision("precise"):
        assert explain(g)["output"].tile == 2
        assert str(explain(g)).splitlines()[0].endswith("precise")
    assert explain(g, dtype="float64")["output"].name == "direct"
    assert explain(g, dtype=np.float64).bytes == 2 * explain(g).bytes


def test_a_batch_axis_may_be_missing():
    layer = nn.Conv2d(16, 16, 3)
    assert explain(layer, (16, 30, 30)).geometry == explain(layer, (1, 16, 30, 30)).geometry


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Linear(2, 3), (1, 2)), TypeError, "conv is of type Linear"),
        ((nn.Conv2d(2, 3, 3),), TypeError, "input_shape is missing"),
        ((nn.Conv2d(2, 3, 3), (2, 9)), ValueError, "must have 4 axes"),
        ((nn.Conv2d(2, 3, 3), (1, 5, 9, 9)), ValueError, "input has 5 channels"),
        ((ConvGeometry.of((1, 2, 9, 9), (3, 2, 3, 3)), (1, 2, 9, 9)), TypeError, "together with a geometry"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        explain(*arguments)
    with pytest.raises(ValueError, match="threads is 0"):
        explain(nn.Conv2d(2, 3, 3), (1, 2, 9, 9), threads=0)


def test_precision_has_two_names():
    with pytest.raises(ValueError, match="must be 'fast' or 'precise'"), conv_precision("exact"):
        pass
