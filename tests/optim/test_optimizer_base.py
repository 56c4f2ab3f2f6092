"""Groups, state, errors, and what a step does to graphs."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim

ALL = [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad]


def two():
    return nn.Parameter(np.ones(2, np.float32)), nn.Parameter(np.ones(3, np.float32))


def test_groups_have_their_own_options():
    p, q = two()
    optimizer = optim.SGD([{"params": p, "lr": 1.0}, {"params": [q]}], lr=0.1, momentum=0.5)
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 0.1] and optimizer.param_groups[0]["momentum"] == 0.5
    assert optimizer.defaults["lr"] == 0.1
    p.grad, q.grad = minidl.ones(2), minidl.ones(3)
    optimizer.step()
    np.testing.assert_allclose(p.numpy(), 0)
    np.testing.assert_allclose(q.numpy(), 0.9, rtol=1e-6)
    optimizer.param_groups[1]["lr"] = 0  # options may change at any time
    optimizer.step()
    np.testing.assert_allclose(q.numpy(), 0.9, rtol=1e-6)
    late = nn.Parameter([1.0])
    optimizer.add_param_group({"params": late, "lr": 2.0})
    assert len(optimizer.param_groups) == 3 and optimizer.param_groups[2]["params"] == [late]
    assert "Parameter Group 2\n    dampening: 0\n    lr: 2.0" in repr(optimizer)


def test_parameters_without_gradients_stay():
    p, q = two()
    optimizer = optim.Adam([p, q])
    p.grad = minidl.ones(2)
    optimizer.step()
    assert (q.numpy() == 1).all() and q not in optimizer.state and p in optimizer.state
    assert list(optimizer.state_dict()["state"]) == [0]
    gradient = p.grad
    optimizer.zero_grad(set_to_none=False)
    assert not p.grad.numpy().any() and gradient.numpy().all()
    optimizer.zero_grad()
    assert p.grad is None


def test_closure():
    p, _ = two()
    optimizer = optim.SGD([p], lr=0.5)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with minidl.no_grad():  # the closure records all the same
        assert optimizer.step(closure).item() == 2
    assert (p.numpy() == 0).all()
    assert optimizer.step() is None


@pytest.mark.parametrize("kind", ALL)
def test_a_graph_that_used_the_old_values_refuses_to_run_backward(kind):
    p, _ = two()
    optimizer = kind([p])
    loss = p.square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match=r"square: argument x .* was changed in place"):
        loss.backward()
    p.square().sum().backward()


@pytest.mark.parametrize("kind", ALL)
def test_training_with_memory_in_another_order(kind):
    """State follows the strides of the parameter, whatever they are."""
    array = np.asfortranarray(np.random.default_rng(0).standard_normal((4, 3)))
    p, q = nn.Parameter(array), nn.Parameter(np.ascontiguousarray(array))
    a, b = kind([p]), kind([q])
    for _ in range(3):
        for r, optimizer in ((p, a), (q, b)):
            optimizer.zero_grad()
            (r * r).sum().backward()
            optimizer.step()
    np.testing.assert_array_equal(p.numpy(), q.numpy())
    assert p.data is array and array.flags.f_contiguous
    assert all(v.strides == array.strides for v in a.state[p].values() if isinstance(v, np.ndarray))
    fresh = kind([p])
    fresh.load_state_dict(a.state_dict())
    for key, value in fresh.state[p].items():
        if isinstance(value, np.ndarray):
            assert value.strides == array.strides and not np.shares_memory(value, a.state[p][key])


@pytest.mark.parametrize("kind", ALL)
def test_every_optimizer_trains(kind):
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = kind(net.parameters(), lr=0.1 if kind in (optim.SGD, optim.Adagrad) else 0.01)
    x = minidl.randn(64, 2)
    target = minidl.tensor(np.sin(x.numpy().sum(1, keepdims=True)))
    losses = []
    for _ in range(150):
        optimizer.zero_grad()
        loss = nn.MSELoss()(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


def test_gradient_clipping_between_backward_and_step():
    p, q = two()
    optimizer = optim.SGD([p, q], lr=1.0)
    (p.sum() + q.sum()).backward()
    nn.utils.clip_grad_norm_([p, q], 0.5)
    optimizer.step()
    moved = np.concatenate([1 - p.numpy(), 1 - q.numpy()])
    assert abs(np.linalg.norm(moved) - 0.5) < 1e-5


def test_loading_a_state_that_does_not_fit():
    p, q = two()
    optimizer = optim.Adam([p, q])
    p.grad, q.grad = minidl.ones(2), minidl.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"the state has groups of \[2\] parameters, this optimizer of \[1\]"):
        optim.Adam([p]).load_state_dict(state)
    other = optim.Adam([q, p])
    with pytest.raises(ValueError, match=r"exp_avg of parameter 0 has shape \(2,\) in the state, the parameter \(3,\)"):
        other.load_state_dict(state)
    state["param_groups"][0]["lr"] = -1
    with pytest.raises(ValueError, match="lr is -1"):
        optim.Adam([p, q]).load_state_dict(state)
    assert not other.state and other.param_groups[0]["lr"] == 1e-3


def test_loading_the_state_of_an_unknown_parameter():
    p, _ = two()
    optimizer = optim.Adam([p])
    state = {**optimizer.state_dict(), "state": {7: {"step": 1}}}
    with pytest.raises(ValueError, match="the state is of parameter 7, but its groups hold only 0"):
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("other", ALL)
def test_only_the_state_of_the_same_optimizer_is_loaded(kind, other):
    def trained(kind):
        options = {
            optim.SGD: {"momentum": 0.9},
            optim.Adam: {"amsgrad": True},
            optim.RMSprop: {"momentum": 0.9, "centered": True},
        }
        p, _ = two()
        optimizer = kind([p], **options.get(kind, {}))
        p.grad = minidl.ones(2)
        optimizer.step()
        return optimizer

    state, mine = trained(other).state_dict(), trained(kind)
    if kind is other or {kind, other} == {optim.Adam, optim.AdamW}:
        mine.load_state_dict(state)
        assert set(mine.state_dict()["state"][0]) == set(state["state"][0])
        return
    before = mine.state_dict()
    with pytest.raises(ValueError, match=f"that of {kind.__name__} .*: it is the state of another optimizer"):
        mine.load_state_dict(state)
    assert mine.state_dict()["param_groups"] == before["param_groups"]


def test_state_dict_structure():
    p, q = two()
    optimizer = optim.SGD([{"params": [p]}, {"params": [q], "lr": 1.0}], lr=0.1, momentum=0.9)
    q.grad = minidl.ones(3)
    optimizer.step()
    state = optimizer.state_dict()
    assert [g["params"] for g in state["param_groups"]] == [[0], [1]] and state["param_groups"][1]["lr"] == 1.0
    assert list(state["state"]) == [1] and (state["state"][1]["momentum_buffer"] == 1).all()
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[1]["params"] == [q]


a, b = two()
net = nn.Linear(2, 2)
result = (a * 2).sum()


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda: optim.SGD([a], lr=-1), ValueError, "lr is -1; it must not be negative"),
    (lambda: optim.SGD([{"params": [a], "lr": -2}]), ValueError, "lr is -2"),
    (lambda: optim.SGD([a], weight_decay=-1), ValueError, "weight_decay is -1"),
    (lambda: optim.SGD([a], momentum=float("nan")), ValueError, "momentum is nan"),
    (lambda: optim.SGD([a], nesterov=True), ValueError, "nesterov needs momentum and no dampening"),
    (lambda: optim.Adam([a], betas=(0.9, 1.0)), ValueError, r"betas is \(0.9, 1.0\); it must be .* less than 1"),
    (lambda: optim.Adam([a], betas=0.9), ValueError, "betas is 0.9; it must be two numbers"),
    (lambda: optim.AdamW([a], eps=-1), ValueError, "eps is -1"),
    (lambda: optim.RMSprop([a], alpha=-0.1), ValueError, "alpha is -0.1"),
    (lambda: optim.Adagrad([a], lr_decay=-1), ValueError, "lr_decay is -1"),
    (lambda: optim.SGD([]), ValueError, "params is empty"),
    (lambda: optim.SGD(iter(())), ValueError, "params is empty"),
    (lambda: optim.SGD(a), TypeError, "must be a list of tensors or of groups, not one Parameter"),
    (lambda: optim.Adam(net), TypeError, r"is a Linear, not its parameters: write Adam\(net.parameters\(\), …\)"),
    (lambda: optim.SGD(nn.Sequential(net)), TypeError, "params is a Sequential, not its parameters"),
    (lambda: optim.SGD([{"params": net}]), TypeError, '"params" is a Linear, not its parameters'),
    (lambda: optim.SGD(net.parameters), TypeError, r"not a method; write SGD\(net.parameters\(\), …\), with brackets"),
    (lambda: optim.SGD(None), TypeError, "params must be a list of tensors or of groups, not a NoneType"),
    (lambda: optim.SGD([a], lr=None), TypeError, "lr is None; it must be a number"),
    (lambda: optim.SGD([a], lr="0.1"), TypeError, "lr is '0.1'; it must be a number"),
    (lambda: optim.Adam([a], betas=(0.9, None)), TypeError, "betas is None; it must be a number"),
    (lambda: optim.SGD([{"params": {a, b}}]), TypeError, "give a list, not a set"),
    (lambda: optim.SGD([{"lr": 1}]), TypeError, 'a group is a dict with the key "params"'),
    (lambda: optim.SGD([a, 3]), TypeError, r"params\[1\] of group 0 is a int, not a tensor"),
    (lambda: optim.SGD([a, result]), ValueError, r"params\[1\] of group 0 .* is no leaf"),
    (lambda: optim.SGD([minidl.tensor([1])]), TypeError, "is int64; only floating-point"),
    (lambda: optim.SGD([a, b, a]), ValueError, r"params\[2\] of group 0 .* is in group 0 already"),
    (lambda: optim.SGD([{"params": [a, b]}, {"params": b}]), ValueError, r"params\[0\] of group 1 .* in group 0"),
    (lambda: optim.Optimizer([a], {}).update(None, None, {}, {}), NotImplementedError, r"defines no update\(\)"),
])  # fmt: skip
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()
