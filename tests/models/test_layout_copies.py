"""Large arrays between the layers lie channels-last, and stay so: each training step converts only what it must.

An array that comes into the network, or into the convolutions from a dense layer, is C-ordered, and converted once for
each use: by `conv` for the value, by `conv_weight` for the gradient. A flattened array must be C-ordered, and so is the
gradient that comes back from there. The nets are small, but every layer is large enough for the fast path.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl.core import Primitive
from minidl.core.graph import Item, Junction, Node
from minidl.kernels import cpu
from minidl.models.c3d import C3D
from minidl.models.dcgan import DCGAN
from minidl.models.vae import ConvVAE
from minidl.models.vgg import VGG16

CONVERTERS = (np.require, np.ascontiguousarray)
FORWARD = {"conv_input": "conv", "conv_bias": "conv", "conv_relu": "conv"}  # all are called conv here


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Conversions of layout as "primitive shape", in order. Those of weights are left out: no layer hands them on."""
    found: list[str] = []
    running: list[tuple[Primitive, Any]] = []

    def converted(source: Any, result: Any) -> None:
        if running and isinstance(source, np.ndarray) and not np.shares_memory(source, result):
            primitive, values = running[-1]
            for slot, value in zip(primitive.slots, values, strict=False):
                if slot != "w" and isinstance(value, np.ndarray) and value.ndim > 2 and np.shares_memory(value, source):
                    found.append(f"{FORWARD.get(primitive.name, primitive.name)} {value.shape}")

    def watched(convert: Any) -> Any:
        def call(a: Any, *args: Any, **options: Any) -> Any:
            result = convert(a, *args, **options)
            converted(a, result)
            return result

        return call

    original = Primitive.run

    def run(self: Primitive, mode: Any, kind: type, values: Any, params: dict) -> Any:
        running.append((self, values))
        try:
            out = original(self, mode, kind, values, params)
            if self.name == "reshape":
                converted(values[0], out)
        finally:
            running.pop()
        return out

    monkeypatch.setattr(Primitive, "run", run)
    for convert in CONVERTERS:
        monkeypatch.setattr(np, convert.__name__, watched(convert))
    swap = import_module(f"{cpu.__name__}.layout").swap
    for module in [import_module(f"{cpu.__name__}.{m.name}") for m in iter_modules(cpu.__path__)]:
        if getattr(module, "swap", None) is swap:
            monkeypatch.setattr(module, "swap", watched(swap))
    return found


def is_channels_last(a: np.ndarray) -> bool:
    """Whether channels are innermost in memory, or each of them is a repeated number."""
    return a.shape[1] == 1 or all(a.strides[1] <= step for step, n in zip(a.strides, a.shape, strict=True) if n > 1)


def nodes(loss: Any) -> Iterator[Node]:
    seen, todo = set(), [loss.node]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += node.parents
            yield node


def backward(loss: Any) -> list[tuple[int, ...]]:
    """Run it. The shapes of gradients between layers that are not channels-last, in order."""
    found: list[tuple[int, ...]] = []

    def look(g: Any) -> None:
        if not is_channels_last(g.data):
            found.append(g.shape)

    for node in nodes(loss):
        of_layer = type(node) is Item or (node.primitive is not None and not isinstance(node, Junction))
        if of_layer and len(node.shape) > 2 and node.shape[0] > 1:  # a bias has 1 in front
            node.hooks = {0: look}
    loss.backward()
    return found


def labels(n: int) -> Any:
    return minidl.tensor(np.arange(n) % 10)


# ---- the instrument itself
def test_needless_conversions_are_found(conversions):
    w = minidl.randn(32, 32, 3, 3, requires_grad=True)
    x = minidl.randn(4, 32, 28, 28)
    y = F.conv2d(x, w, padding=1)
    spoilt = minidl.tensor(y.numpy().copy()) + 0 * y.sum()  # C-ordered again
    loss = F.conv2d(spoilt, w, padding=1).sum()
    assert conversions == ["conv (4, 32, 28, 28)"] * 2
    conversions.clear()
    loss.backward()
    assert "conv_weight (4, 32, 28, 28)" in conversions


def test_gradients_that_lost_their_layout_are_found():
    w = minidl.randn(32, 32, 3, 3, requires_grad=True)
    y = F.conv2d(minidl.randn(4, 32, 28, 28), w, padding=1)
    assert is_channels_last(y.data)
    assert backward((y * y).sum()) == []
    y = F.conv2d(minidl.randn(4, 32, 28, 28), w, padding=1)
    assert backward(y.flatten(1).square().sum()) == [(4, 32, 28, 28)]


# ---- the networks
def test_c3d(conversions):
    n, clip = 5, (3, 16, 64, 64)
    net = C3D(10, clip, width=16, units=64, dropout=0.0)
    loss = F.cross_entropy(net(minidl.randn(n, *clip)), labels(n))
    assert conversions == [f"conv {(n, *clip)}", f"reshape {(n, 128, 1, 2, 2)}"]
    conversions.clear()
    assert backward(loss) == [(n, 128, 1, 2, 2)]
    assert conversions == [f"max_unpool {(n, 128, 1, 2, 2)}", f"conv_weight {(n, *clip)}"]


def test_vgg(conversions):
    n, image = 9, (3, 64, 64)
    net = VGG16(10, image, width=16, units=64, dropout=0.0)
    loss = F.cross_entropy(net(minidl.randn(n, *image)), labels(n))
    assert conversions == [f"conv {(n, *image)}", f"reshape {(n, 128, 2, 2)}"]
    conversions.clear()
    assert backward(loss) == [(n, 128, 2, 2)]
    assert conversions == [f"max_unpool {(n, 128, 2, 2)}", f"conv_weight {(n, *image)}"]


def test_conv_vae(conversions):
    n, maps = 42, (64, 7, 7)
    net = ConvVAE((1, 28, 28), latent=20)  # one channel: either layout is the other
    loss, *_ = net.elbo(minidl.rand(n, 1, 28, 28))
    # the last layer of the encoder is flattened, the first of the decoder comes from a dense one
    assert conversions == [f"reshape {(n, *maps)}", f"conv {(n, *maps)}"]
    conversions.clear()
    assert backward(loss) == [(n, *maps)]
    assert conversions == [f"conv_weight {(n, *maps)}", f"reshape {(n, *maps)}"]


def test_dcgan(conversions):
    n, image, maps = 128, (3, 16, 16), (128, 4, 4)
    net = DCGAN(size=16, latent=50, width=64)

    # From the discriminator's last layer, a number for each image and too little work for the fast path, comes a
    # C-ordered gradient: of all that is below, no more than one array is C-ordered, and converted once.
    def below(passes: int) -> list[str]:
        taken = [c for c in conversions if c.endswith(f" {(n, *maps)}")]
        assert len(taken) <= passes
        return [c for c in conversions if c not in taken]

    loss = net.discriminator_loss(minidl.rand(n, *image))
    assert conversions == [f"conv {(n, *image)}"]  # the generator's images lie channels-last
    conversions.clear()
    assert set(backward(loss)) == {(n, *maps)}
    assert below(passes=2) == [f"conv_weight {(n, *image)}"]  # real images and drawn ones

    conversions.clear()
    loss = net.generator_loss(n)
    assert conversions == []
    assert set(backward(loss)) == {(n, *maps)}
    assert below(passes=1) == []
