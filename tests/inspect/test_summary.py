"""minidl.summary: rows, totals, what it leaves untouched."""

import time

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.flat = nn.Flatten()
        self.out = nn.Linear(4 * 4 * 4, 5)
        self.scale = nn.Parameter(np.ones(5, np.float32))

    def forward(self, x):
        return self.out(self.flat(self.features(x))) * self.scale


def test_rows():
    found = minidl.summary(Small(), (2, 3, 8, 8))
    assert [(r.name, r.kind, r.depth, r.output, r.parameters, r.multiply_adds, r.activation_bytes) for r in found] == [
        ("", "Small", 0, (2, 5), 5, 0, 40),
        ("features", "Sequential", 1, (2, 4, 4, 4), 0, 0, 0),
        ("features.0", "Conv2d", 2, (2, 4, 8, 8), 4 * 27 + 4, 2 * 4 * 64 * 27, 2 * 4 * 64 * 4),
        ("features.1", "BatchNorm2d", 2, (2, 4, 8, 8), 8, 0, 2 * 4 * 64 * 4),
        ("features.2", "ReLU", 2, (2, 4, 8, 8), 0, 0, 2 * 4 * 64 * 4),
        ("features.3", "MaxPool2d", 2, (2, 4, 4, 4), 0, 0, 2 * 4 * 16 * 4),
        ("flat", "Flatten", 1, (2, 64), 0, 0, 0),  # a view
        ("out", "Linear", 1, (2, 5), 64 * 5 + 5, 2 * 64 * 5, 40),
    ]
    assert found.parameters == sum(p.numel() for p in Small().parameters()) == found.trainable
    assert found.multiply_adds == 13_824 + 640
    assert found.parameter_bytes == 4 * found.parameters and found.input_bytes == 2 * 3 * 64 * 4
    assert found.buffer_bytes == 4 * 4 * 2 + 8
    assert found["features.0"].kind == "Conv2d" and len(found) == 8
    with pytest.raises(KeyError, match=r"no row is called 'nothing'; there are '', 'features', 'features.0'"):
        found["nothing"]


def test_text():
    text = str(minidl.summary(Small(), (1, 3, 8, 8)))
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "output", "parameters", "multiply-adds", "activations"]
    assert lines[4].split() == ["0", "Conv2d", "(1,", "4,", "8,", "8)", "112", "6,912", "1.0", "KiB"]
    assert lines[-2].split() == ["total", "450", "7,232", "3.3", "KiB"]
    assert lines[-1] == "input (1, 3, 8, 8), 768 B; parameters 1.8 KiB; buffers 40 B"
    ends = {len(line) for line in (lines[0], lines[1], lines[4], lines[-2])}
    assert len(ends) == 1  # aligned
    net = Small()
    net.features.requires_grad_(False)
    found = minidl.summary(net, (1, 3, 8, 8))
    assert found.trainable == 330 and "1.8 KiB, 120 of them frozen" in str(found)


def test_everything_is_left_as_it_was():
    net = Small()
    net.features.eval()
    net.out.register_forward_hook(lambda module, args, output: calls.append(1))
    calls, hooks = [], lambda: [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in net.modules()]
    modes, before, state = [m.training for m in net.modules()], hooks(), minidl.get_rng_state()
    kept = {k: v.numpy().copy() for k, v in net.state_dict().items()}
    minidl.summary(nn.Sequential(net, nn.Dropout()), (2, 3, 8, 8))
    with pytest.raises(ValueError, match="input has 2 channels"):
        minidl.summary(net, (2, 2, 8, 8))
    assert [m.training for m in net.modules()] == modes and hooks() == before and calls == [1]
    assert minidl.get_rng_state() == state
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), kept[key])
    assert minidl.is_grad_enabled() and net(minidl.ones(2, 3, 8, 8)).requires_grad
    assert np.abs(net(minidl.ones(2, 3, 8, 8)).numpy()).max() > 0  # kernels compute again


def test_modules_used_twice_and_not_at_all():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 2)
            self.middle = self.again = nn.Linear(2, 2)
            self.decoder = nn.Linear(2, 6)  # its weight is used, the module is not called
            self.unused = nn.ReLU()

        def forward(self, x):
            h = self.again(self.middle(self.encoder(x)))
            return F.linear(h, self.decoder.weight)

    found = minidl.summary(Tied(), (3, 6))
    assert [(r.name, r.calls) for r in found] == [("", 1), ("encoder", 1), ("middle", 2), ("decoder", 0)]
    assert found["middle"].parameters == 6 and found["middle"].multiply_adds == 2 * 3 * 4
    assert found["middle"].activation_bytes == 2 * 3 * 2 * 4
    assert found[""].multiply_adds == 3 * 6 * 2  # the function that forward calls
    assert found["decoder"].output is None and found["decoder"].parameters == 18
    assert found.parameters == sum(p.numel() for p in Tied().parameters())
    assert "middle Linear ×2" in str(found) and "not called" in str(found)
    shared = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    shared[1].weight = shared[0].weight
    assert [r.parameters for r in minidl.summary(shared, (1, 2))] == [0, 6, 2]


@pytest.mark.parametrize("compute", [False, True])
def test_products_of_every_kind(compute):
    class Products(nn.Module):
        def __init__(self):
            super().__init__()
            self.up = nn.ConvTranspose2d(2, 3, 2, stride=2)
            self.grouped = nn.Conv2d(4, 4, 3, groups=2, dilation=2)

        def forward(self, x, y):
            a = self.up(x).sum()
            b = self.grouped(y).sum()
            m = minidl.ones(5, 2, 3) @ minidl.ones(3, 4)
            e = minidl.einsum("ij,jk->ik", minidl.ones(2, 3), minidl.ones(3, 7))
            return {"sum": a + b, "m": [m, e]}, F.avg_pool2d(y, 2), None

    found = minidl.summary(Products(), [(1, 2, 3, 3), (1, 4, 6, 6)], compute=compute)
    assert found["up"].multiply_adds == 9 * 2 * 3 * 4  # each input meets each tap of each filter once
    assert found["grouped"].multiply_adds == 4 * 2 * 2 * (2 * 9)
    assert found[""].multiply_adds == 5 * 2 * 3 * 4 + 2 * 3 * 7
    assert found[""].output == ({"sum": (), "m": [(5, 2, 4), (2, 7)]}, (1, 4, 3, 3), "NoneType")
    assert found.inputs == [(1, 2, 3, 3), (1, 4, 6, 6)]


def test_compute_gives_values():
    class Chooses(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            y = self.linear(x)
            seen.append(y.numpy())
            return y

    seen, net, x = [], Chooses(), minidl.randn(3, 2)
    minidl.summary(net, x)
    minidl.summary(net, x, compute=True)
    np.testing.assert_array_equal(seen[0], np.zeros((3, 2)))
    np.testing.assert_allclose(seen[1], net.linear(x).numpy(), rtol=1e-6)


@pytest.mark.parametrize(("layer", "shape", "multiply_adds"), [
    (lambda: nn.RNN(3, 4), (5, 2, 3), 5 * 2 * (3 * 4 + 4 * 4)),
    (lambda: nn.GRU(3, 4, 2, batch_first=True), (2, 5, 3), 5 * 2 * 3 * (3 * 4 + 4 * 4 + 4 * 4 + 4 * 4)),
    (lambda: nn.LSTM(3, 4, bidirectional=True), (5, 2, 3), 5 * 2 * 2 * 4 * (3 * 4 + 4 * 4)),
    (lambda: nn.LSTMCell(3, 4), (2, 3), 2 * 4 * (3 * 4 + 4 * 4)),
    (lambda: nn.ConvGRU2d(3, 4, 3), (5, 2, 3, 6, 7), 5 * 2 * 42 * 9 * 3 * (3 * 4 + 4 * 4)),
])  # fmt: skip
def test_recurrent_layers(layer, shape, multiply_adds):
    (row,) = minidl.summary(layer(), shape)
    assert row.multiply_adds == multiply_adds
    output = layer()(minidl.zeros(shape))
    assert str(row.output).replace(" ", "") == str(shapes(output)).replace(" ", "")


def shapes(value):
    return tuple(map(shapes, value)) if isinstance(value, tuple) else value.shape


def test_types_of_inputs():
    assert minidl.summary(nn.Linear(2, 3).double(), (1, 2)).input_bytes == 16
    found = minidl.summary(nn.LSTM(2, 3), [(4, 1, 2), (minidl.zeros(1, 1, 3), minidl.zeros(1, 1, 3))])
    assert found.inputs == [(4, 1, 2), ((1, 1, 3), (1, 1, 3))] and found.input_bytes == 4 * 14
    assert minidl.summary(nn.GRU(2, 3), [(4, 1, 2), None]).rows[0].output == ((4, 1, 3), (1, 1, 3))
    assert minidl.summary(nn.ReLU(), np.int64([2, 3]).tolist()).input_bytes == 24
    assert minidl.summary(nn.Flatten(), (2, 3, 4), dtype="int64").input_bytes == 8 * 24
    assert minidl.summary(nn.Identity(), np.zeros((2, 3), np.float32))[""].activation_bytes == 0
    with pytest.raises(TypeError, match=r"input_shape is 5; it must be a shape such as \(1, 3, 224, 224\)"):
        minidl.summary(nn.Linear(2, 3), 5)
    with pytest.raises(TypeError, match="model must be a Module, not function"):
        minidl.summary(F.linear, (1, 2))


def test_a_layer_that_fails_and_is_caught():
    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.wrong, self.right = nn.Linear(4, 2), nn.Linear(2, 2)

        def forward(self, x):
            try:
                return self.wrong(x)
            except ValueError:
                return self.right(F.linear(x, self.right.weight))

    found = minidl.summary(nn.Sequential(Tries()), (1, 2))
    assert [(r.name, r.output) for r in found] == [("", (1, 2)), ("0", (1, 2)), ("0.wrong", None), ("0.right", (1, 2))]
    assert found.multiply_adds == 8


def test_errors_name_the_layer():
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)))
    with pytest.raises(ValueError, match="linear: input has shape") as caught:
        minidl.summary(net, (1, 2))
    assert "in layer '0.1' (Linear), while summarising Sequential" in caught.value.__notes__


def test_full_size_networks_are_traced_without_work():
    """VGG-16, whose 15.5 thousand million multiply-adds take seconds; the weights are never touched."""
    layers: list[nn.Module] = []
    channels = 3
    with nn.init.skip():
        for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        dense = [nn.Linear(25_088, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
        net = nn.Sequential(*layers, nn.Flatten(), *dense)
    start = time.perf_counter()
    found = minidl.summary(net, (1, 3, 224, 224))
    assert time.perf_counter() - start < 5  # it takes 0.2 s
    assert found.parameters == 138_357_544 and found.multiply_adds == 15_470_264_320
    assert found["30"].output == (1, 512, 7, 7)


def test_an_activation_inside_a_layer_is_shown():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, activation="relu"), nn.ConvTranspose2d(2, 1, 3))
    found = minidl.summary(net, (1, 1, 5, 5))
    assert [row.kind for row in found.rows] == ["Sequential", "Conv2d + relu", "ConvTranspose2d"]
    assert "0 Conv2d + relu" in str(found)
    assert [n.type for n in minidl.draw_layers(net, (1, 1, 5, 5)).nodes if n.kind == "layer"] == [
        "Conv2d + relu", "ConvTranspose2d",
    ]  # fmt: skip
