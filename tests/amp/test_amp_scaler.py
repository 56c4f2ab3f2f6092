"""GradScaler: what it does to gradients, steps and its scale."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl import amp, nn, optim


def parameter(*values: float, dtype: str = "float32") -> nn.Parameter:
    return nn.Parameter(np.array(values, dtype))


def gradient(p: nn.Parameter, *values: float) -> None:
    p.grad = minidl.tensor(list(values), dtype=p.dtype)


def test_small_gradients_survive_float16():
    w, x = parameter(1.0), minidl.tensor([1.0], dtype="float16")

    def loss() -> minidl.Tensor:
        return ((w.half() * x).float() * 2.0**-26).sum()

    loss().backward()
    assert w.grad.item() == 0.0
    w.grad = None
    scaler, optimizer = amp.GradScaler(), optim.SGD([w], lr=1.0)
    scaler.scale(loss()).backward()
    scaler.unscale_(optimizer)
    assert w.grad.item() == 2.0**-26
    scaler.step(optimizer)
    assert not scaler.overflowed(optimizer)


def test_a_loss_of_16_bits_is_scaled_in_float32():
    assert amp.GradScaler().scale(minidl.ones(1, dtype="float16")).item() == 2.0**16


def test_numbers_too_large_for_float16_become_infinite_without_a_word():
    assert minidl.tensor([1e6]).half().item() == math.inf  # warnings are errors here


def test_a_step_is_the_same_as_without():
    steps = []
    for enabled in (True, False):
        minidl.manual_seed(0)
        net = nn.Linear(3, 2)
        optimizer, scaler = optim.Adam(net.parameters(), lr=0.1), amp.GradScaler(enabled=enabled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale((net(minidl.randn(4, 3)) ** 2).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        steps.append([p.numpy().copy() for p in net.parameters()])
        assert scaler.get_scale() == (2.0**16 if enabled else 1.0)
    for a, b in zip(*steps, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("wrong", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_an_overflow_skips_the_step_and_backs_off(wrong, dtype):
    if dtype == "bfloat16":
        dtype = minidl.bfloat16
    p, q = parameter(1.0, 2.0, dtype=dtype), parameter(3.0)
    optimizer, scaler = optim.Adam([p, q], lr=0.1), amp.GradScaler(init_scale=8.0)
    gradient(p, 1.0, wrong)
    gradient(q, 1.0)
    assert scaler.step(optimizer) is None and scaler.overflowed(optimizer)
    scaler.update()
    assert not scaler.overflowed(optimizer)
    assert p.tolist() == [1.0, 2.0] and q.item() == 3.0 and not optimizer.state
    assert scaler.get_scale() == 4.0


def test_large_gradients_are_no_overflow():
    p = parameter(1.0, 2.0)
    optimizer, scaler = optim.SGD([p], lr=1.0), amp.GradScaler(init_scale=1.0)
    gradient(p, 3e38, 3e38)  # their sum is infinite
    scaler.step(optimizer)
    assert not scaler.overflowed(optimizer) and p.tolist() != [1.0, 2.0]


def test_the_scale_grows():
    p = parameter(1.0)
    optimizer = optim.SGD([p], lr=0.0)
    scaler = amp.GradScaler(init_scale=4.0, growth_factor=3.0, backoff_factor=0.25, growth_interval=2)
    scales = []
    for value in (1.0, 1.0, 1.0, math.inf, 1.0, 1.0):
        gradient(p, value)
        scaler.step(optimizer)
        scaler.update()
        scales.append(scaler.get_scale())
    assert scales == [4.0, 12.0, 12.0, 3.0, 3.0, 9.0]
    scaler.update(7.0)
    assert scaler.get_scale() == 7.0


def test_it_does_not_grow_out_of_float32():
    p = parameter(1.0)
    optimizer, scaler = optim.SGD([p], lr=0.0), amp.GradScaler(init_scale=2.0**127, growth_interval=1)
    gradient(p, 1.0)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**127


def test_two_optimizers_are_skipped_apart():
    p, q = parameter(1.0), parameter(1.0)
    first, second = optim.SGD([p], lr=1.0), optim.SGD([q], lr=1.0)
    scaler = amp.GradScaler(init_scale=2.0)
    gradient(p, math.nan)
    gradient(q, 2.0)
    scaler.step(first)
    scaler.step(second)
    assert scaler.overflowed(first) and not scaler.overflowed(second)
    scaler.update()
    assert (p.item(), q.item(), scaler.get_scale()) == (1.0, 0.0, 1.0)


def test_clipping_sees_the_true_gradients():
    p = parameter(0.0, 0.0)
    optimizer, scaler = optim.SGD([p], lr=1.0), amp.GradScaler(init_scale=1024.0)
    scaler.scale((p * minidl.tensor([3.0, 4.0])).sum()).backward()
    assert p.grad.tolist() == [3072.0, 4096.0]
    scaler.unscale_(optimizer)
    assert nn.utils.clip_grad_norm_([p], 1.0).item() == 5.0
    scaler.step(optimizer)
    np.testing.assert_allclose(p.numpy(), [-0.6, -0.8], 1e-5)


def test_same_as_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    options = {"init_scale": 256.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}
    p, w = parameter(1.0, -1.0), torch.nn.Parameter(torch.tensor([1.0, -1.0]))
    ours, theirs = amp.GradScaler(**options), torch.amp.GradScaler("cpu", **options)
    optimizers = optim.SGD([p], lr=0.1), torch.optim.SGD([w], lr=0.1)
    for factor in (1.0, 2.0, 1.0, math.inf, 3.0, 1.0, math.nan, 1.0, 1.0, 1.0, 1.0):
        for x, scaler, optimizer in ((p, ours, optimizers[0]), (w, theirs, optimizers[1])):
            optimizer.zero_grad()
            scaler.scale((x * x * factor).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        np.testing.assert_allclose(p.numpy(), w.detach().numpy(), 1e-6)
        assert ours.get_scale() == theirs.get_scale()
        assert ours.state_dict() == theirs.state_dict()


def test_state():
    p = parameter(1.0)
    optimizer, scaler = optim.SGD([p], lr=0.0), amp.GradScaler(init_scale=4.0, growth_interval=2)
    gradient(p, 1.0)
    scaler.step(optimizer)
    scaler.update()
    again = amp.GradScaler()
    again.load_state_dict(scaler.state_dict())
    gradient(p, 1.0)
    again.step(optimizer)
    again.update()
    assert again.get_scale() == 8.0
    assert amp.GradScaler(enabled=False).state_dict() == {}
    with pytest.raises(RuntimeError, match="not enabled"):
        again.load_state_dict({})


def test_disabled_it_does_nothing():
    p = parameter(1.0)
    scaler, optimizer = amp.GradScaler(enabled=False), optim.SGD([p], lr=1.0)
    x = p * 2.0
    assert scaler.scale(x) is x and not scaler.is_enabled()
    gradient(p, math.inf)
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert p.item() == -math.inf


def test_lists_are_scaled():
    scaler = amp.GradScaler(init_scale=2.0)
    (a,), b = scaler.scale(([minidl.ones(1)], minidl.ones(1)))
    assert a.item() == b.item() == 2.0
    with pytest.raises(TypeError, match="outputs must be a tensor"):
        scaler.scale(1.0)


def test_wrong_order_is_an_error():
    p = parameter(1.0)
    optimizer, scaler = optim.SGD([p], lr=1.0), amp.GradScaler(init_scale=2.0)
    with pytest.raises(RuntimeError, match="nothing is known"):
        scaler.update()
    with pytest.raises(RuntimeError, match="none of the optimizer's parameters has a gradient"):
        scaler.step(optimizer)
    gradient(p, 2.0)
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match=r"unscale_\(\) has already been called"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(optimizer, closure=lambda: None)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has already been called"):
        scaler.step(optimizer)
    with pytest.raises(RuntimeError, match=r"step\(\) has been called"):
        scaler.unscale_(optimizer)
    assert p.item() == 0.0  # divided once


def test_float16_parameters_cannot_be_clipped():
    p = parameter(1.0, dtype="float16")
    gradient(p, 2.0)
    with pytest.raises(ValueError, match="keep the parameters in float32"):
        amp.GradScaler().unscale_(optim.SGD([p], lr=1.0))


@pytest.mark.parametrize(
    "wrong", [{"init_scale": 0.0}, {"growth_factor": 1.0}, {"backoff_factor": 1.0}, {"growth_interval": 0}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        amp.GradScaler(**wrong)
