"""Master weights: 16-bit parameters whose updates are not lost."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import amp, nn, optim

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

KINDS = [
    (optim.SGD, {"lr": 1e-3}), (optim.SGD, {"lr": 1e-3, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, {"lr": 1e-3}), (optim.Adam, {"lr": 1e-3, "amsgrad": True, "maximize": True}),
    (optim.AdamW, {"lr": 1e-3}), (optim.RMSprop, {"lr": 1e-4}), (optim.Adagrad, {"lr": 1e-3}),
]  # fmt: skip
TYPES = ["bfloat16", "float16"]


def parameters(dtype: str) -> list[nn.Parameter]:
    rng = np.random.default_rng(0)
    whole = [rng.standard_normal(s).astype(np.float32) for s in ((3, 4), (5,), (400, 30))]
    return [nn.Parameter(minidl.tensor(a).to("bfloat16").to(dtype).data) for a in whole]


def give_gradients(params: list[nn.Parameter], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for p in params:
        p.grad = minidl.tensor(rng.standard_normal(p.shape)).to("bfloat16").to(p.dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_updates_are_those_of_float32(kind, options, dtype):
    narrow, wide = parameters(dtype), parameters("float32")
    optimizers = [kind(params, **options) for params in (narrow, wide)]
    for seed in range(4):
        for params, optimizer in zip((narrow, wide), optimizers, strict=True):
            give_gradients(params, seed)
            optimizer.step()
    for p, q in zip(narrow, wide, strict=True):
        state = optimizers[0].state[p]
        np.testing.assert_array_equal(state["master"], q.data)
        assert p.dtype == dtype
        np.testing.assert_array_equal(p.data, q.data.astype(p.dtype))
        assert {a.dtype for a in state.values() if hasattr(a, "strides")} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", TYPES)
def test_small_updates_are_lost_without_them(dtype):
    ends = {}
    for kept in (True, False):
        p = nn.Parameter(minidl.ones(3, dtype=dtype))
        optimizer = optim.SGD([{"params": [p], "master_weights": kept}], lr=2e-4)
        for _ in range(1000):
            p.grad = minidl.ones(3, dtype=dtype)
            optimizer.step()
        ends[kept] = p.float().tolist()
        assert ("master" in optimizer.state[p]) == kept
    np.testing.assert_allclose(ends[True], 0.8, 1e-2)
    assert ends[False] == [1.0] * 3


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_without_them_the_state_has_the_parameters_type(kind, options):
    params = parameters("bfloat16")
    optimizer = kind([{"params": params, "master_weights": False}], **options)
    give_gradients(params, 0)
    optimizer.step()
    for p in params:
        assert {a.dtype for a in optimizer.state[p].values() if hasattr(a, "strides")} <= {p.dtype}
        assert np.isfinite(p.data.astype("f4")).all()


def test_float32_parameters_have_none():
    p = nn.Parameter(np.ones(2, np.float32))
    optimizer = optim.Adam([p])
    p.grad = minidl.ones(2)
    optimizer.step()
    assert "master" not in optimizer.state[p]


def test_a_run_goes_on_bit_for_bit():
    first, second = parameters("bfloat16"), parameters("bfloat16")
    one, other = optim.Adam(first, lr=1e-3), optim.Adam(second, lr=1e-3)
    for seed in range(3):
        give_gradients(first, seed)
        one.step()
    for p, q in zip(first, second, strict=True):
        q.data = p.data.copy()
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    assert all(other.state[q]["master"].dtype == np.float32 for q in second)
    for params, optimizer in ((first, one), (second, other)):
        give_gradients(params, 9)
        optimizer.step()
    for p, q in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.state[p]["master"], other.state[q]["master"])
        np.testing.assert_array_equal(p.data, q.data)


def test_a_state_without_them_can_be_loaded():
    params = parameters("bfloat16")
    plain = optim.Adam([{"params": params, "master_weights": False}], lr=1e-3)
    give_gradients(params, 0)
    plain.step()
    state = plain.state_dict()
    del state["param_groups"][0]["master_weights"]
    optimizer = optim.Adam(params, lr=1e-3)
    optimizer.load_state_dict(state)
    assert optimizer.state[params[0]]["exp_avg"].dtype == np.float32
    give_gradients(params, 1)
    optimizer.step()
    assert optimizer.state[params[0]]["master"].dtype == np.float32


@pytest.mark.parametrize("write", ["in place", "a new array", "load_state_dict"])
def test_a_parameter_written_by_others_takes_its_master_along(write):
    layer = nn.Linear(2, 1, bias=False).bfloat16()
    p = layer.weight
    p.data[...] = 1.0
    optimizer = optim.SGD([p], lr=1e-3)
    give_gradients([p], 0)
    p.grad = minidl.ones(1, 2, dtype=p.dtype)
    optimizer.step()
    kept = optimizer.state[p]["master"].copy()
    np.testing.assert_array_equal(kept, np.float32([[0.999, 0.999]]))
    changed = p.data.copy()
    changed[0, 1] = 3.0
    if write == "in place":
        p.data[0, 1] = 3.0
        p.mutated()
    elif write == "a new array":
        p.data = changed
    else:
        layer.load_state_dict({"weight": changed})
    p.grad = minidl.zeros(1, 2, dtype=p.dtype)
    optimizer.step()
    np.testing.assert_array_equal(optimizer.state[p]["master"], [[kept[0, 0], 3.0]])
    np.testing.assert_array_equal(p.float().numpy(), [[1.0, 3.0]])


def test_a_moving_average_does_not_lose_them():
    layer = nn.Linear(2, 1, bias=False).bfloat16()
    p = layer.weight
    p.data[...] = 1.0
    optimizer, average = optim.SGD([p], lr=1e-3), optim.ExponentialMovingAverage(layer, 0.99)
    for _ in range(3):
        p.grad = minidl.ones(1, 2, dtype=p.dtype)
        optimizer.step()
        average.update()
        before, mean = optimizer.state[p]["master"].copy(), average.average["weight"].copy()
        with average.applied():
            np.testing.assert_array_equal(p.data, mean.astype(p.dtype))
        np.testing.assert_array_equal(average.average["weight"], mean)
        p.grad = minidl.zeros(1, 2, dtype=p.dtype)
        optimizer.step()
        np.testing.assert_array_equal(optimizer.state[p]["master"], before)
    assert average.average["weight"].dtype == np.float32


@pytest.mark.parametrize("kept", [True, False])
def test_scaled_gradients_of_float16_are_divided_in_float32(kept):
    p = nn.Parameter(minidl.ones(2, dtype="float16"))
    optimizer = optim.SGD([{"params": [p], "master_weights": kept}], lr=2.0**10)
    scaler = amp.GradScaler(init_scale=2.0**16)
    scaler.scale((p.float() * 2.0**-26).sum()).backward()  # 2^-26 is 0 in float16
    assert p.grad.tolist() == [2.0**-10] * 2
    scaler.step(optimizer)
    scaler.update()
    assert optimizer.grad_scale == 1.0
    if kept:
        np.testing.assert_array_equal(optimizer.state[p]["master"], np.float32(1 - 2.0**-16))
    else:
        assert p.tolist() == [1.0, 1.0]


def test_a_network_in_bfloat16_learns():
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3)).bfloat16()
    x, y = minidl.randn(32, 8, dtype=minidl.bfloat16), minidl.randint(3, (32,))
    optimizer = optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_the_option_is_checked():
    p = nn.Parameter(minidl.ones(2, dtype="float16"))
    with pytest.raises(ValueError, match="master_weights is 'no'; it must be True or False"):
        optim.SGD([{"params": [p], "master_weights": "no"}], lr=0.1)
