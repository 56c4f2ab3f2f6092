"""Initialisation: distributions, structure, in-place semantics."""

import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.nn import init


def test_gains():
    assert init.calculate_gain("conv3d") == init.calculate_gain("linear") == init.calculate_gain("sigmoid") == 1
    assert math.isclose(init.calculate_gain("relu"), math.sqrt(2))
    assert math.isclose(init.calculate_gain("tanh"), 5 / 3)
    assert math.isclose(init.calculate_gain("leaky_relu", 0.2), math.sqrt(2 / 1.04))
    assert init.calculate_gain("selu") == 0.75
    with pytest.raises(ValueError, match="nonlinearity is 'sine'; known are linear"):
        init.calculate_gain("sine")


SHAPE = (60, 40, 3, 3)
FAN_IN, FAN_OUT = 360, 540


@pytest.mark.parametrize(("fill", "low", "high", "std"), [
    (lambda p: init.uniform_(p, -1, 3), -1, 3, 4 / math.sqrt(12)),
    (lambda p: init.normal_(p, 0, 2), None, None, 2),
    (lambda p: init.xavier_uniform_(p, 2), -2 * math.sqrt(6 / 900), 2 * math.sqrt(6 / 900), 2 * math.sqrt(2 / 900)),
    (lambda p: init.xavier_normal_(p), None, None, math.sqrt(2 / 900)),
    (lambda p: init.kaiming_uniform_(p, math.sqrt(5)), -(FAN_IN**-0.5), FAN_IN**-0.5, (3 * FAN_IN) ** -0.5),
    (lambda p: init.kaiming_normal_(p, mode="fan_out", nonlinearity="relu"), None, None, math.sqrt(2 / FAN_OUT)),
    (lambda p: init.trunc_normal_(p, 0, 1, -1, 1), -1, 1, 0.5396),
    (lambda p: init.trunc_normal_(p, 0, 1, 5, 6), 5, 6, 0.1695),
])  # fmt: skip
def test_distributions(fill, low, high, std):
    p = nn.Parameter(np.zeros(SHAPE, np.float32))
    array = p.data
    assert fill(p) is p and p.data is array and p.dtype == "float32" and p.grad is None
    values = p.numpy()
    assert abs(values.std() / std - 1) < 0.03
    if low is not None:
        assert low <= values.min() < low + 0.1 * std and high - 2.5 * std < values.max() <= high
    else:
        assert abs(values.mean()) < 0.03 * std
    minidl.manual_seed(0)
    first = fill(p).numpy().copy()
    minidl.manual_seed(0)
    np.testing.assert_array_equal(fill(p).numpy(), first)


def test_constants_and_structure():
    p = nn.Parameter(np.full((2, 3), 7.0))
    assert (init.ones_(p).numpy() == 1).all() and (init.zeros_(p).numpy() == 0).all()
    assert (init.constant_(p, 2.5).numpy() == 2.5).all()
    np.testing.assert_array_equal(init.eye_(p).numpy(), np.eye(2, 3))
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
    init.dirac_(layer.weight, groups=2)
    x = minidl.randn(2, 4, 5, 5)
    np.testing.assert_allclose(layer(x).numpy(), x.numpy(), rtol=1e-6)
    for shape in ((5, 3), (3, 5), (4, 2, 3)):
        q = init.orthogonal_(nn.Parameter(np.zeros(shape)), gain=2).numpy().reshape(shape[0], -1)
        small = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
        np.testing.assert_allclose(small, 4 * np.eye(len(small)), atol=1e-12)
    s = init.sparse_(nn.Parameter(np.ones((10, 6))), 0.25, std=3).numpy()
    assert ((s == 0).sum(0) == 3).all() and len({tuple(column) for column in (s == 0).T}) > 1


def test_float16_and_0d():
    assert init.normal_(nn.Parameter(np.zeros(100, np.float16))).dtype == "float16"
    assert 0 <= init.uniform_(nn.Parameter(np.zeros(()))).item() < 1


def test_layers_start_like_torch():
    layer = nn.Linear(400, 300)
    bound = 1 / math.sqrt(400)
    for p in layer.parameters():
        assert 0.95 * bound < np.abs(p.numpy()).max() <= bound * (1 + 1e-6)
    conv = nn.ConvTranspose2d(30, 20, 5)  # the fan-in that torch takes is that of the second axis
    assert 0.95 < np.abs(conv.weight.numpy()).max() * math.sqrt(20 * 25) <= 1 + 1e-6
    before = layer.weight.numpy().copy()
    layer.reset_parameters()
    assert (before != layer.weight.numpy()).any()
    assert nn.Linear(0, 3)(minidl.ones(2, 0)).shape == (2, 3)


def test_skip():
    state = minidl.get_rng_state()
    with init.skip():
        big = nn.Linear(100_000, 50_000)  # 20 GB if it were written to
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        init.orthogonal_(net[0].weight)
        init.trunc_normal_(net[0].weight)
    assert minidl.get_rng_state() == state and big.weight.shape == (50_000, 100_000)
    assert not any(p.numpy().any() for p in net.parameters()) and net[1].running_var.numpy().all()
    assert nn.Linear(3, 3).weight.numpy().all()


def test_an_older_graph_refuses_to_run_backward():
    layer = nn.Linear(2, 2)
    loss = layer(minidl.randn(3, 2, requires_grad=True)).sum()
    init.zeros_(layer.weight)
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda p: init.xavier_normal_(minidl.ones(3)), ValueError, "at least 2 axes"),
    (lambda p: init.kaiming_normal_(p, mode="fan"), ValueError, "mode is 'fan'"),
    (lambda p: init.eye_(minidl.ones(3)), ValueError, "2 axes"),
    (lambda p: init.dirac_(p), ValueError, "3 to 5 axes"),
    (lambda p: init.dirac_(minidl.ones(3, 2, 1), groups=2), ValueError, "must divide the 3 output channels"),
    (lambda p: init.orthogonal_(minidl.ones(3)), ValueError, "at least 2 axes"),
    (lambda p: init.sparse_(p, 1.5), ValueError, "sparsity 1.5"),
    (lambda p: init.normal_(p, std=-1), ValueError, "std is -1"),
    (lambda p: init.trunc_normal_(p, a=2, b=1), ValueError, "a below b"),
    (lambda p: init.uniform_(minidl.tensor([1, 2])), TypeError, "int64"),
])  # fmt: skip
def test_errors(call, error, text):
    with pytest.raises(error, match=text):
        call(nn.Parameter(np.zeros((2, 3))))
