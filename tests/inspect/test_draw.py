"""Drawings: what is in them, where it is, and that making one leaves no trace."""

import gc
import math
import re
import time
import weakref
import xml.etree.ElementTree as ElementTree
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
import minidl.functional as F
from minidl import nn
from minidl.inspect import Drawing, Edge, Node, draw_autograd, draw_layers, draw_recording
from minidl.inspect.layout import Cluster, place
from minidl.models import autoencoder, c3d, dcgan, vae

SVG = "{http://www.w3.org/2000/svg}"


def named_edges(drawing):
    """Edges by names, which are unique in small graphs: a layer's own, an operation's primitive."""
    names = [node.name or node.type for node in drawing.nodes]
    return [(names[e.source], names[e.target]) for e in drawing.edges]


# ---- layers
class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(Residual(), nn.Dropout())
        self.out = nn.Linear(48, 5)

    def forward(self, image):
        return self.out(self.body(image).flatten(1))


def test_layers_of_a_small_network():
    found = draw_layers(Network(), (2, 3, 4, 4))
    assert [(n.kind, n.name, n.type, n.shape, n.parameters, n.cluster) for n in found.nodes] == [
        ("input", "image", "", (2, 3, 4, 4), 0, None),
        ("layer", "body.0.conv", "Conv2d", (2, 3, 4, 4), 84, 1),
        ("layer", "body.0.norm", "BatchNorm2d", (2, 3, 4, 4), 6, 1),
        ("function", "add", "add", (2, 3, 4, 4), 0, 1),
        ("function", "relu", "relu", (2, 3, 4, 4), 0, 1),
        ("layer", "body.1", "Dropout", (2, 3, 4, 4), 0, 0),  # in evaluation mode it returns its argument
        ("function", "reshape", "reshape", (2, 48), 0, None),
        ("layer", "out", "Linear", (2, 5), 245, None),
        ("output", "output", "", (2, 5), 0, None),
    ]
    assert set(named_edges(found)) == {
        ("image", "body.0.conv"), ("body.0.conv", "body.0.norm"), ("body.0.norm", "add"), ("image", "add"),
        ("add", "relu"), ("relu", "body.1"), ("body.1", "reshape"), ("reshape", "out"), ("out", "output"),
    }  # fmt: skip
    assert len(found.edges) == 9 and {e.label for e in found.edges} == {"2×3×4×4", "2×48", "2×5"}
    assert [(c.name, c.type, c.parent) for c in found.clusters] == [
        ("body", "Sequential", None),
        ("body.0", "Residual", 0),
    ]
    assert [n.heading for n in found.nodes[1:7]] == [
        ("conv", "Conv2d"), ("norm", "BatchNorm2d"), ("", "add"), ("", "relu"), ("1", "Dropout"), ("", "reshape 2×48"),
    ]  # fmt: skip
    assert found.nodes[1].details == ("2×3×4×4 · 84 parameters",)
    assert (found.title, found.caption) == ("Network", "4 layers, 335 parameters")
    assert repr(found) == "<Drawing of Network: 9 nodes, 9 edges>"


def test_depth():
    found = draw_layers(Network(), (2, 3, 4, 4), depth=1)
    assert named_edges(found) == [("image", "body"), ("body", "reshape"), ("reshape", "out"), ("out", "output")]
    assert [n.parameters for n in found.nodes] == [0, 90, 0, 245, 0] and found.clusters == ()
    found = draw_layers(Network(), (2, 3, 4, 4), depth=2)
    assert [n.name for n in found.nodes] == ["image", "body.0", "body.1", "reshape", "out", "output"]
    with pytest.raises(ValueError, match="depth is 0; it must be at least 1, or None"):
        draw_layers(Network(), (2, 3, 4, 4), depth=0)


def test_a_module_used_twice_and_weights_used_elsewhere():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = self.again = nn.Linear(2, 2)
            self.twin = nn.Linear(2, 2)
            self.twin.weight = self.first.weight
            self.decoder = nn.Linear(2, 6)  # its weight is used, the module is not called
            self.scale = nn.Parameter(np.ones(6, np.float32))
            self.shift = nn.Buffer(np.ones(6, np.float32))

        def forward(self, x):
            h = self.twin(self.again(self.first(x)))
            return F.linear(h, self.decoder.weight.T.T) * self.scale + self.shift

    found = draw_layers(Tied(), (3, 2))
    assert [(n.kind, n.name, n.parameters, n.details) for n in found.nodes] == [
        ("input", "x", 0, ("3×2",)),
        ("layer", "first", 6, ("3×2 · 6 parameters",)),
        ("layer", "first", 0, ("3×2 · same weights",)),
        ("layer", "twin", 2, ("3×2 · 2 parameters",)),  # its bias
        ("parameter", "decoder.weight", 12, ("6×2",)),
        ("function", "transpose", 0, ()),
        ("function", "transpose", 0, ()),
        ("function", "linear", 0, ()),
        ("parameter", "scale", 6, ("6",)),
        ("function", "mul", 0, ()),
        ("buffer", "shift", 0, ("6",)),
        ("function", "add", 0, ()),
        ("output", "output", 0, ("3×6",)),
    ]
    pairs = [(e.source, e.target) for e in found.edges]
    assert pairs == [
        (0, 1), (1, 2), (2, 3), (4, 5), (5, 6), (3, 7), (6, 7), (7, 9), (8, 9), (9, 11), (10, 11), (11, 12)
    ]  # fmt: skip


def test_several_inputs_and_outputs():
    class Pair(nn.Module):
        def forward(self, a, b):
            return {"sum": a + b, "parts": (a, None)}

    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.gru = Pair(), nn.ConvGRU2d(2, 3, 3)

        def forward(self, x, rest, *more):
            (h,) = rest["states"]
            sequence, last = self.gru(x, h)
            both = self.pair(sequence[0], minidl.cat([*more, last[0]], 0))
            return both["sum"], both["parts"], minidl.ones(2)

    shape = (1, 3, 4, 4)
    inputs = [(5, 1, 2, 4, 4), {"states": [minidl.zeros(1, *shape)]}, minidl.zeros(1, 3, 4, 4)]
    inputs[2] = inputs[2][:0]
    found = draw_layers(Several(), inputs)
    assert named_edges(found) == [
        ("x", "gru"), ("rest[states][0]", "gru"), ("gru", "getitem"), ("gru", "getitem"), ("more[0]", "cat"),
        ("getitem", "cat"), ("getitem", "pair"), ("cat", "pair"), ("pair", "output[0]"), ("pair", "output[1][0]"),
    ]  # fmt: skip
    kinds = [(n.kind, n.name) for n in found.nodes if n.kind in ("input", "output")]
    assert kinds == [
        ("input", "x"), ("input", "rest[states][0]"), ("input", "more[0]"),
        ("output", "output[0]"), ("output", "output[1][0]"), ("output", "output[2]"),  # the last one a constant
    ]  # fmt: skip
    by_name = {n.name: n for n in found.nodes}
    assert by_name["gru"].shape == ((5, 1, 3, 4, 4), (1, 1, 3, 4, 4))
    assert by_name["pair"].shape == {"sum": shape, "parts": (shape, "NoneType")}


def test_the_same_tensor_twice_is_one_edge():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            y = self.relu(x)
            return minidl.cat([y, y], 1) * y[:, :1]

    found = draw_layers(Twice(), (2, 3))
    assert named_edges(found) == [
        ("x", "relu"), ("relu", "cat"), ("relu", "getitem"), ("cat", "mul"), ("getitem", "mul"), ("mul", "output")
    ]  # fmt: skip


def test_a_layer_alone_is_one_box():
    found = draw_layers(nn.Linear(2, 3), (1, 2))
    assert [(n.kind, n.heading, n.details) for n in found.nodes] == [
        ("input", ("input", ""), ("1×2",)), ("layer", ("", "Linear"), ("1×3 · 9 parameters",)),
        ("output", ("output", ""), ("1×3",)),
    ]  # fmt: skip
    assert named_edges(found) == [("input", "Linear"), ("Linear", "output")]
    found = draw_layers(nn.Identity(), np.zeros((2, 3), np.float32))
    assert named_edges(found) == [("input", "Identity"), ("Identity", "output")]


def test_scalars_and_views_are_followed():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.Identity()

        def forward(self, x):
            x = self.norm(x)
            return x.reshape(x.shape).detach() / x.sum()

    found = draw_layers(Views(), (2, 3))
    assert named_edges(found) == [
        ("x", "norm"), ("norm", "reshape"), ("norm", "sum"), ("reshape", "div"),
        ("sum", "div"), ("div", "output"),
    ]  # fmt: skip


@pytest.mark.parametrize("compute", [False, True])
def test_compute(compute):
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.yes, self.no = nn.Linear(2, 1), nn.ReLU(), nn.Tanh()

        def forward(self, x):
            y = self.linear(x)
            return self.yes(y) if (y != 0).any() else self.no(y)

    found = draw_layers(Chooses(), minidl.ones(1, 2), compute=compute)
    assert ("linear", "yes" if compute else "no") in named_edges(found)


def test_drawing_leaves_everything_as_it_was():
    net = nn.Sequential(Network(), nn.Dropout(), nn.Flatten())
    net[0].body.eval()
    x = minidl.randn(2, 3, 4, 4, requires_grad=True)
    net(x).sum().backward()
    hooks = lambda: [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    modes, before, state = [m.training for m in net.modules()], hooks(), minidl.get_rng_state()
    kept = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    gradients = {p: p.grad for p in net.parameters()}
    first = draw_layers(net, x)
    assert draw_layers(net, (2, 3, 4, 4)) == first
    with pytest.raises(ValueError, match="input has 2 channels") as caught:
        draw_layers(net, (2, 2, 4, 4))
    assert caught.value.__notes__[-1] == "in layer '0.body.0.conv' (Conv2d), while drawing Sequential"
    assert [m.training for m in net.modules()] == modes and hooks() == before
    assert minidl.get_rng_state() == state and minidl.is_grad_enabled()
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), kept[key])
    assert all(p.grad is gradients[p] for p in net.parameters())
    assert np.abs(net(minidl.ones(2, 3, 4, 4)).numpy()).max() > 0  # kernels compute again
    assert str(minidl.summary(net, (2, 3, 4, 4))).startswith("layer")  # and nothing watches


def test_nothing_keeps_the_network():
    net = Network()
    gone = weakref.ref(net)
    gc.collect()
    gc.disable()
    try:
        drawing = draw_layers(net, (2, 3, 4, 4))
        del net
        assert gone() is None and len(drawing.nodes) == 9
    finally:
        gc.enable()


def test_layers_that_raise_are_not_drawn():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))
            self.right = nn.Linear(2, 2)

        def forward(self, x):
            try:
                return self.wrong(x)
            except ValueError:
                return self.right(x)

    found = draw_layers(nn.Sequential(Tries()), (1, 2))
    assert named_edges(found) == [("input", "0.wrong.0"), ("input", "0.right"), ("0.right", "output")]
    assert [(c.name, c.parent) for c in found.clusters] == [("0", None)]
    assert [n.cluster for n in found.nodes] == [None, 0, 0, None]
    assert [n.heading[0] for n in found.nodes] == ["input", "wrong.0", "right", "output"]


def test_arguments_of_draw_layers():
    with pytest.raises(TypeError, match="draw_layers: model must be a Module, not function"):
        draw_layers(F.linear, (1, 2))
    with pytest.raises(TypeError, match="draw_layers: input_shape is 5; it must be a shape"):
        draw_layers(nn.Linear(2, 3), 5)
    deep = nn.Sequential(*(nn.ReLU() for _ in range(10)))
    with pytest.raises(ValueError, match="draw_layers: the graph has more than most=11 nodes"):
        draw_layers(deep, (1, 2), most=11)
    assert len(draw_layers(deep, (1, 2), most=12).nodes) == 12


FULL_SIZE = {
    "C3D": (c3d.C3D, (1, 3, 16, 112, 112), 18),
    "SmallC3D": (c3d.SmallC3D, (1, 3, 16, 112, 112), 15),
    "MLPVAE": (vae.MLPVAE, (1, 1, 28, 28), 7),
    "ConvVAE": (vae.ConvVAE, (1, 1, 28, 28), 9),
    "Generator": (dcgan.Generator, (1, 100), 15),
    "Discriminator": (dcgan.Discriminator, (1, 3, 64, 64), 12),
    "MLPAutoencoder": (autoencoder.MLPAutoencoder, (1, 1, 8, 8), 8),
    "ConvAutoencoder": (autoencoder.ConvAutoencoder, (1, 1, 8, 8), 10),
    "LinearAutoencoder": (autoencoder.LinearAutoencoder, (1, 1, 8, 8), 4),
}


@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_networks(name):
    build, shape, layers = FULL_SIZE[name]
    with nn.init.skip():
        net = build()
    start = time.perf_counter()
    found = draw_layers(net, shape)
    picture = found.to_svg()
    assert time.perf_counter() - start < 2  # C3D takes 0.3 s
    assert sum(n.kind == "layer" for n in found.nodes) == layers
    assert sum(n.parameters for n in found.nodes) == sum(p.numel() for p in net.parameters())
    root = ElementTree.fromstring(picture)
    assert float(root.get("width")) < 800  # long chains are not wide
    reached = {0}  # every box is on a way from the input
    for node in found.nodes[1:]:
        assert any(e.source in reached for e in found.edges if e.target == node.id)
        reached.add(node.id)


def test_two_heads():
    found = draw_layers(vae.MLPVAE(), (1, 1, 28, 28))
    assert {("encoder.1", "mean"), ("encoder.1", "logvar"), ("mean", "add"), ("logvar", "clamp")} <= set(
        named_edges(found)
    )


# ---- the autograd graph
def test_autograd_of_an_expression():
    a = minidl.tensor([1.0, 2.0], requires_grad=True)
    b = minidl.tensor([[3.0], [4.0]], requires_grad=True)
    c = minidl.ones(2, 2)
    y = (minidl.tanh(a * b) * c + a).sum()
    found = draw_autograd(y, {"a": a, "b": b, "unused": c})
    assert [(n.kind, n.name, n.type, n.shape, n.saved, n.saved_bytes) for n in found.nodes] == [
        ("leaf", "a", "", (2,), (), 0),
        ("leaf", "b", "", (2, 1), (), 0),
        ("operation", "", "mul", (2, 2), (("a", 8), ("b", 8)), 16),
        ("operation", "", "tanh", (2, 2), (("y", 16),), 16),
        ("operation", "", "mul", (2, 2), (("b", 16),), 16),
        ("operation", "", "add", (2, 2), (), 0),
        ("operation", "", "sum", (), (), 0),
        ("output", "output", "", (), (), 0),
    ]
    assert [(e.source, e.target, e.label) for e in found.edges] == [
        (0, 2, "a"), (1, 2, "b"), (2, 3, "x"), (3, 4, "a"), (4, 5, "a"), (0, 5, "b"), (5, 6, "x"), (6, 7, ""),
    ]  # fmt: skip
    assert found.nodes[2].details == ("2×2", "keeps a, b: 16 B")
    assert found.caption == "5 operations, which keep 48 B of memory for the gradients"


def test_an_array_kept_twice_counts_once():
    x = minidl.randn(3, requires_grad=True)
    found = draw_autograd(x * x)
    leaf, product, _ = found.nodes
    assert product.saved == (("a", 12), ("b", 12)) and product.saved_bytes == 12
    assert found.edges[0] == Edge(leaf.id, product.id, "a, b") and leaf.heading == ("", "leaf")


def test_saved_bytes_are_those_of_the_nodes():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    loss = F.cross_entropy(net(minidl.randn(2, 3, 8, 8)), minidl.tensor([0, 1]))
    found = draw_autograd(loss, net)
    assert {n.name for n in found.nodes if n.kind == "leaf"} == {name for name, _ in net.named_parameters()}
    todo, kept, seen = [loss.node], {}, set()
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += node.parents
            if node.primitive is not None:
                kept[node.primitive.name] = held(node.saved)
    assert kept == {n.type: n.saved_bytes for n in found.nodes if n.kind == "operation"} and sum(kept.values()) > 4000
    loss.backward()
    freed = draw_autograd(loss, net)
    assert {n.saved_bytes for n in freed.nodes} == {0} and freed.edges == found.edges
    assert all(n.details[-1] == "freed" for n in freed.nodes if n.kind == "operation")


def held(saved):
    """Bytes of the arrays in nested tuples and lists, each once."""
    found = {}

    def collect(value):
        if isinstance(value, np.ndarray):
            found[id(value)] = value.nbytes
        elif isinstance(value, (tuple, list)):
            for part in value:
                collect(part)

    collect(saved)
    return sum(found.values())


def test_several_outputs_of_one_operation():
    x = minidl.randn(4, 2, requires_grad=True)
    first, second = minidl.split(x, 2)
    values, _ = F.max_pool2d(first.reshape(1, 1, 2, 2) * 2, 2, return_indices=True)
    found = draw_autograd([values, second], {"x": x, "second": second})
    labels = {(found.nodes[e.source].type, found.nodes[e.target].type or "-"): e.label for e in found.edges}
    assert labels == {
        ("", "split"): "y", ("split", "reshape"): "xs[0] → x", ("reshape", "mul"): "a", ("mul", "max_pool"): "x",
        ("max_pool", "-"): "y", ("split", "-"): "xs[1]",
    }  # fmt: skip
    split = next(n for n in found.nodes if n.type == "split")
    assert split.shape == ((2, 2), (2, 2)) and split.name == "second"
    assert [n.name for n in found.nodes if n.kind == "output"] == ["output[0]", "output[1]"]


def test_lists_of_arguments():
    x = minidl.randn(2, requires_grad=True)
    found = draw_autograd(minidl.cat([x, minidl.ones(1), x], 0))
    assert [e.label for e in found.edges] == ["xs[0], xs[2]", ""]


def test_double_backward():
    x = minidl.tensor([0.5], requires_grad=True)
    y = minidl.tanh(x)
    (g,) = minidl.grad(y, x, create_graph=True)
    found = draw_autograd(g, {"x": x, "y": y})
    types = [n.type or n.name for n in found.nodes]  # of g (1 - y²), with the seed a constant
    assert types == ["x", "tanh", "mul", "sub", "mul", "output"]
    assert [(e.source, e.target) for e in found.edges] == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert found.nodes[1].name == "y"
    (second,) = minidl.grad(g, x, create_graph=True)
    assert len(draw_autograd(second).nodes) > len(types)
    np.testing.assert_allclose(second.item(), -2 * np.tanh(0.5) * (1 - np.tanh(0.5) ** 2), rtol=1e-5)


def test_checkpoints():
    w = minidl.ones(3, requires_grad=True)
    x = minidl.randn(3, requires_grad=True)
    found = draw_autograd(minidl.checkpoint(lambda v: (v * w).exp(), x), {"w": w, "x": x})
    assert named_edges(found) == [("x", "checkpoint"), ("w", "checkpoint"), ("checkpoint", "output")]


def test_drawing_a_graph_does_not_change_it():
    net = nn.Linear(2, 2)
    loss = net(minidl.ones(1, 2)).square().sum()
    state = minidl.get_rng_state()
    before = draw_autograd(loss, net)
    assert draw_autograd(loss, net) == before and minidl.get_rng_state() == state
    assert net.weight.grad is None
    loss.backward()
    assert net.weight.grad is not None


def test_a_chain_longer_than_pythons_stack():
    x = minidl.ones(1, requires_grad=True)
    y = x
    for _ in range(3000):
        y = y * 1
    with pytest.raises(ValueError, match=r"the graph has more than most=300 nodes, .* or give a larger `most`"):
        draw_autograd(y)
    found = draw_autograd(y, most=4000)
    assert len(found.nodes) == 3002 and ElementTree.fromstring(found.to_svg()).tag == f"{SVG}svg"


def test_arguments_of_draw_autograd():
    x = minidl.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="output does not require gradients, so nothing was recorded"):
        draw_autograd(minidl.ones(1))
    with pytest.raises(TypeError, match="output must be a tensor or several, not int"):
        draw_autograd([x, 3])
    with pytest.raises(TypeError, match="names must be a module or a mapping of names to tensors, not list"):
        draw_autograd(x, [x])
    with pytest.raises(TypeError, match=r"names\['x'\] must be a tensor, not float"):
        draw_autograd(x, {"x": 1.0})
    assert [n.kind for n in draw_autograd(x).nodes] == ["leaf", "output"]


# ---- layout
@st.composite
def graphs(draw):
    """Boxes in the order of a computation, edges forward, clusters over ranges of boxes, one inside another."""
    n = draw(st.integers(1, 12))
    side = st.integers(1, 200)
    sizes = draw(st.lists(st.tuples(side, side), min_size=n, max_size=n))
    pairs = list(combinations(range(n), 2))
    edges = draw(st.lists(st.sampled_from(pairs), max_size=24, unique=True)) if pairs else []
    inside, clusters = [-1] * n, []

    def divide(first, last, parent):
        if draw(st.booleans()) and len(clusters) < 6:
            clusters.append(Cluster(parent, (draw(st.integers(10, 300)), 20)))
            me = len(clusters) - 1
            inside[first:last] = [me] * (last - first)
            if last - first > 1:
                middle = draw(st.integers(first + 1, last - 1))
                divide(first, middle, me)
                divide(middle, last, me)

    middle = draw(st.integers(0, n - 1))
    divide(middle, n, -1)
    if middle:
        divide(0, middle, -1)
    return sizes, edges, inside, clusters


def above(cluster, clusters):
    """A cluster and those around it."""
    found = set()
    while cluster != -1:
        found.add(cluster)
        cluster = clusters[cluster].parent
    return found


def overlap(a, b):
    return (
        a.x < b.x + b.width - 1e-6 and b.x < a.x + a.width - 1e-6
        and a.y < b.y + b.height - 1e-6 and b.y < a.y + a.height - 1e-6
    )  # fmt: skip


def contains(outer, inner):
    return (
        outer.x <= inner.x + 1e-6 and inner.x + inner.width <= outer.x + outer.width + 1e-6
        and outer.y <= inner.y + 1e-6 and inner.y + inner.height <= outer.y + outer.height + 1e-6
    )  # fmt: skip


def along(points):
    """Points of a curve as it is drawn: Bézier pieces with vertical tangents."""
    for (x0, y0), (x1, y1) in pairwise(points):
        for t in np.linspace(0, 1, 9):
            yield x0 + (x1 - x0) * (3 * t**2 - 2 * t**3), y0 + (y1 - y0) * (1.5 * t - 1.5 * t**2 + t**3)


def within(rect, x, y):
    return rect.x + 1e-6 < x < rect.x + rect.width - 1e-6 and rect.y + 1e-6 < y < rect.y + rect.height - 1e-6


@given(graphs())
def test_layout(graph):
    sizes, edges, inside, clusters = graph
    found = place(*graph)
    assert found == place(*graph)  # deterministic
    assert [(b.width, b.height) for b in found.boxes] == sizes
    page = found.boxes[0]._replace(x=0.0, y=0.0, width=found.width, height=found.height)
    assert all(contains(page, rect) for rect in (*found.boxes, *found.clusters))
    for a, b in combinations(found.boxes, 2):
        assert not overlap(a, b)
    for u, v in edges:
        assert found.boxes[u].y + found.boxes[u].height < found.boxes[v].y  # downward
    for i, (cluster, frame) in enumerate(zip(clusters, found.clusters, strict=True)):
        assert frame.width >= cluster.label[0]
        if cluster.parent != -1:
            assert contains(found.clusters[cluster.parent], frame)
        for k, box in enumerate(found.boxes):
            own = i in above(inside[k], clusters)
            assert contains(frame, box) if own else not overlap(frame, box)
            assert not own or box.y > frame.y + 20  # below the label
        for k, other in enumerate(found.clusters):
            if k not in above(i, clusters) and i not in above(k, clusters):
                assert not overlap(frame, other)
    for curve in found.curves:
        u, v = edges[curve.edge]
        for x, y in along(curve.points):
            assert within(page._replace(x=-0.1, y=-0.1, width=page.width + 0.2, height=page.height + 0.2), x, y)
            assert not any(within(box, x, y) for box in found.boxes)
            for i, frame in enumerate(found.clusters):
                if i not in above(inside[u], clusters) | above(inside[v], clusters):
                    assert not within(frame, x, y)
        assert all(y0 <= y1 + 1e-6 for (_, y0), (_, y1) in pairwise(curve.points))


@given(graphs())
def test_the_parts_of_an_edge_meet(graph):
    """Following the curves that start from one box leads to all boxes that it has edges to, and to no other."""
    _, edges, _, _ = graph
    found = place(*graph)
    for u, box in enumerate(found.boxes):
        curves = [c for c in found.curves if edges[c.edge][0] == u]
        reached = [(box.x + box.width / 2, box.y + box.height)]
        ends = []
        while True:
            new = [c for c in curves if any(math.dist(c.points[0], p) < 1e-6 for p in reached)]
            if not new:
                break
            for c in new:
                curves.remove(c)
                reached += c.points
                ends += [c.points[-1]] if c.arrow else []
        assert not curves
        tops = [(b.x + b.width / 2, b.y) for b in (found.boxes[v] for a, v in edges if a == u)]
        assert len(tops) == len(ends)
        assert all(math.dist(a, b) < 1e-6 for a, b in zip(sorted(tops), sorted(ends), strict=True))


def test_simple_layouts():
    chain = place([(50, 20), (90, 20), (30, 20)], [(0, 1), (1, 2)])
    assert [b.x + b.width / 2 for b in chain.boxes] == [45.0] * 3 and chain.width == 90
    diamond = place([(40, 20)] * 4, [(0, 1), (0, 2), (1, 3), (2, 3)])
    assert diamond.boxes[0].x == diamond.boxes[3].x == (diamond.boxes[1].x + diamond.boxes[2].x) / 2
    crossed = place([(40, 20)] * 4, [(0, 3), (1, 2)])  # two straight edges
    assert [len(c.points) for c in crossed.curves] == [2, 2]
    assert all(c.points[0][0] == c.points[-1][0] for c in crossed.curves)
    skip = place([(40, 20)] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    assert {b.x for b in skip.boxes[1:3]} == {skip.boxes[1].x}
    assert place([], []).boxes == []
    with pytest.raises(ValueError, match="the graph has a cycle"):
        place([(1, 1)] * 2, [(0, 1), (1, 0)])
    with pytest.raises(ValueError, match="the graph has a cycle"):  # 0 and 2 are one cluster
        place([(1, 1)] * 3, [(0, 1), (1, 2)], [0, -1, 0], [Cluster(-1, (5, 5))])


# ---- files
STRANGE = '<a href="x">&\'\\ \x00\x1b\n]]> Ünïcode 日本 \ud800'


def strange():
    heading = (STRANGE, STRANGE)
    nodes = tuple(Node(i, "layer", STRANGE, STRANGE, (1,), heading=heading, details=(STRANGE,)) for i in range(2))
    return Drawing(STRANGE, STRANGE, nodes, (Edge(0, 1, STRANGE),))


def texts(root):
    return ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]


def test_svg_is_xml_with_escaped_names():
    root = ElementTree.fromstring(strange().to_svg().encode())
    assert root.tag == f"{SVG}svg" and root.find(f"{SVG}title").text.startswith('<a href="x">&')
    assert not list(root.iter(f"{SVG}a")) and any("日本" in text for text in texts(root))
    found = draw_layers(Network(), (2, 3, 4, 4))
    root = ElementTree.fromstring(found.to_svg())
    assert found._repr_svg_() == found.to_svg()
    shown = texts(root)
    assert shown[0] == "Network" and {"conv Conv2d", "0 Residual", "add", "2×3×4×4 · 84 parameters"} <= set(shown)
    assert sum(e.get("class") == "tip" for e in root.iter(f"{SVG}path")) == len(found.edges)
    assert "http" not in found.to_svg().replace("http://www.w3.org/2000/svg", "") and "url(" not in found.to_svg()
    assert "prefers-color-scheme:dark" in found.to_svg()


def test_text_fits_its_box():
    """Measured in a wide monospaced font, in bold."""
    matplotlib, ImageFont = pytest.importorskip("matplotlib"), pytest.importorskip("PIL.ImageFont")
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSansMono-Bold.ttf")
    font = ImageFont.truetype(str(path), 120)
    net = nn.Sequential({"wide" * 30: nn.Sequential(nn.Linear(2, 10_000), nn.ReLU(), nn.Flatten())})
    for found in (draw_layers(net, (1, 2)), draw_layers(vae.MLPVAE(), (1, 1, 28, 28))):
        root = ElementTree.fromstring(found.to_svg())
        width = float(root.get("width"))
        assert width < 900
        for group in root.iter(f"{SVG}g"):
            rect = group.find(f"{SVG}rect")
            for text in group.findall(f"{SVG}text") if rect is not None else ():
                length = font.getlength("".join(text.itertext())) / 10
                room = float(rect.get("width"))
                assert length < room - (12 if text.get("text-anchor") == "middle" else 18)
                assert float(rect.get("y")) < float(text.get("y")) < float(rect.get("y")) + float(rect.get("height"))
        for text in root.findall(f"{SVG}text"):
            assert font.getlength(text.text) * float(text.get("font-size", 12)) / 120 < width - 20


def test_dot():
    found = draw_layers(Network(), (2, 3, 4, 4))
    text = found.to_dot()
    assert text.startswith('digraph "Network" {') and text.endswith("}\n")
    assert re.findall(r"n(\d+) -> n(\d+)", text) == [(str(e.source), str(e.target)) for e in found.edges]
    assert 'n1 [label="conv Conv2d\\n2×3×4×4 · 84 parameters"];' in text
    order = ["subgraph cluster_0 {", 'label="body Sequential"', "subgraph cluster_1 {", "n1 [", "}\n  }"]
    assert [text.index(part) for part in order] == sorted(text.index(part) for part in order)
    assert text.count("{") == text.count("}") == 3
    quoted = strange().to_dot().splitlines()[3]
    assert quoted.startswith('  n0 [label="<a href=\\"x\\">&\'\\\\ ') and "\x1b" not in quoted and "\x00" not in quoted


def test_save(tmp_path, monkeypatch):
    found = draw_layers(nn.Linear(2, 3), (1, 2))
    found.save(tmp_path / "net.svg")
    found.save(str(tmp_path / "net.dot"))
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == found.to_svg()
    assert (tmp_path / "net.dot").read_text(encoding="utf-8") == found.to_dot()
    with pytest.raises(ValueError, match=r"'net.png': its ending must be one of .svg, .dot"):
        found.save("net.png")
    with pytest.raises(FileNotFoundError):
        found.save(tmp_path / "nowhere" / "net.svg")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space left"):
        draw_layers(nn.ReLU(), (1, 2)).save(tmp_path / "net.svg")
    assert (tmp_path / "net.svg").read_text(encoding="utf-8") == found.to_svg()  # the old one is still there
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.dot", "net.svg"]


def test_a_network_s_recording_is_that_of_its_output_and_computes_nothing():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    x = minidl.zeros(1, 1, 4, 4)
    computed = draw_autograd(net(x), net)
    drawn = draw_recording(net, (1, 1, 4, 4))
    assert (drawn.nodes, drawn.edges) == (computed.nodes, computed.edges)
    with nn.init.skip():
        large = nn.Conv2d(4096, 4096, 9, padding=4)  # 2.8 GB of weights, 5.6e12 multiply-adds
    assert len(draw_recording(large, (1, 4096, 64, 64)).nodes) == 4  # weight, bias, conv_bias, output
