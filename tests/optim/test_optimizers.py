"""Every optimizer with every option: step by step against torch, and against the formulas written out."""

import copy

import numpy as np
import pytest

import minidl
from minidl import nn, optim

VARIANTS: list[tuple[str, dict]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.2}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.8), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.9, 0.7), "amsgrad": True}),
    ("Adam", {"lr": 0.1, "maximize": True, "amsgrad": True, "weight_decay": 0.3}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.4, "amsgrad": True, "betas": (0.8, 0.6)}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.05, "alpha": 0.7, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.05, "momentum": 0.8}),
    ("RMSprop", {"lr": 0.05, "centered": True, "eps": 1e-4}),
    ("RMSprop", {"lr": 0.05, "centered": True, "momentum": 0.8, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.1, "maximize": True}),
]
IDS = [f"{name}-{'-'.join(options)}" for name, options in VARIANTS]
SHAPES = [(3, 2), (), (4,), (0,)]


def starts():
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s) for s in SHAPES]


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return [rng.standard_normal(s) * 3 if s else np.asarray(rng.standard_normal()) for s in SHAPES]


def descend(optimizer, params, steps):
    for i in steps:
        for p, g in zip(params, gradients(i), strict=True):
            p.grad = minidl.Tensor(g.astype(p.dtype))
        optimizer.step()


def parameters(dtype="float64"):
    return [nn.Parameter(a.astype(dtype)) for a in starts()]


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_like_torch_step_by_step(name, options):
    torch = pytest.importorskip("torch")
    ours = parameters()
    theirs = [torch.tensor(a, requires_grad=True) for a in starts()]
    mine, reference = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for i in range(6):
        descend(mine, ours, [i])
        for q, g in zip(theirs, gradients(i), strict=True):
            q.grad = torch.from_numpy(g.copy())
        reference.step()
        for p, q in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-12, atol=1e-14)
    # the same names of the state, so that torch's can be loaded
    left, right = mine.state_dict(), reference.state_dict()
    for number, state in right["state"].items():
        wanted = {k: v for k, v in state.items() if v is not None}
        assert left["state"][number].keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_allclose(left["state"][number][key], value.numpy(), rtol=1e-11, atol=1e-14)
    mine.load_state_dict(right)
    descend(mine, ours, [7])
    for q, g in zip(theirs, gradients(7), strict=True):
        q.grad = torch.from_numpy(g.copy())
    reference.step()
    for p, q in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(p.numpy(), q.detach().numpy(), rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_steps_are_in_place_and_keep_the_type(name, options):
    params = parameters("float32")
    arrays = [p.data for p in params]
    optimizer = getattr(optim, name)(params, **options)
    given = [minidl.Tensor(g.astype(np.float32)) for g in gradients(0)]
    before = [g.numpy().copy() for g in given]
    for p, g in zip(params, given, strict=True):
        p.grad = g
    optimizer.step()
    assert all(p.data is a for p, a in zip(params, arrays, strict=True))
    for g, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(g.numpy(), old)  # a gradient may be shared
    for p, start in zip(params, starts(), strict=True):
        assert p.dtype == "float32" and (not p.numel() or (p.numpy() != start.astype(np.float32)).all())
        state = optimizer.state[p]
        assert all(
            v.dtype == "float32" and not np.shares_memory(v, p.grad.data) for k, v in state.items() if k != "step"
        )


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=IDS)
def test_resuming_gives_the_same_steps(name, options):
    import json

    params = parameters()
    optimizer = getattr(optim, name)(params, **options)
    descend(optimizer, params, range(3))
    state = copy.deepcopy(optimizer.state_dict())
    arrays = {f"{n}.{k}": v for n, s in state["state"].items() for k, v in s.items() if isinstance(v, np.ndarray)}
    rest = json.loads(json.dumps({
        "state": {n: {k: v for k, v in s.items() if f"{n}.{k}" not in arrays} for n, s in state["state"].items()},
        "param_groups": state["param_groups"],
    }))  # fmt: skip
    for key, value in arrays.items():
        number, _, name_of_array = key.partition(".")
        rest["state"].setdefault(number, {})[name_of_array] = value
    twins = [nn.Parameter(p.numpy().copy()) for p in params]
    resumed = getattr(optim, name)(twins, lr=5.0)
    resumed.load_state_dict(rest)
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    descend(optimizer, params, range(3, 6))
    descend(resumed, twins, range(3, 6))
    for p, q in zip(params, twins, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


# ---- formulas written out
def run(make, steps=4):
    """The values of one parameter after each step, and the gradients."""
    p = nn.Parameter(np.array([1.0, -2.0]))
    optimizer = make([p])
    seen, given = [p.numpy().copy()], []
    for i in range(steps):
        g = np.random.default_rng(i).standard_normal(2)
        p.grad = minidl.tensor(g)
        optimizer.step()
        seen.append(p.numpy().copy())
        given.append(g)
    return seen, given


def test_sgd_by_hand():
    seen, given = run(lambda ps: optim.SGD(ps, 0.1, momentum=0.9, dampening=0.2, weight_decay=0.3))
    p, v = seen[0], None
    for after, g in zip(seen[1:], given, strict=True):
        g = g + 0.3 * p
        v = g if v is None else 0.9 * v + 0.8 * g
        p = p - 0.1 * v
        np.testing.assert_allclose(after, p, rtol=1e-13)
    seen, given = run(lambda ps: optim.SGD(ps, 0.1, momentum=0.9, nesterov=True))
    p, v = seen[0], 0
    for after, g in zip(seen[1:], given, strict=True):
        v = 0.9 * v + g
        p = p - 0.1 * (g + 0.9 * v)
        np.testing.assert_allclose(after, p, rtol=1e-13)


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_by_hand(decoupled):
    seen, given = run(
        lambda ps: (optim.AdamW if decoupled else optim.Adam)(ps, 0.1, (0.8, 0.9), 1e-3, weight_decay=0.2)
    )
    p, m, v = seen[0], 0, 0
    for t, (after, g) in enumerate(zip(seen[1:], given, strict=True), 1):
        g = g if decoupled else g + 0.2 * p
        p = p * (1 - 0.1 * 0.2) if decoupled else p
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        p = p - 0.1 * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
        np.testing.assert_allclose(after, p, rtol=1e-12)


def test_rmsprop_by_hand():
    seen, given = run(lambda ps: optim.RMSprop(ps, 0.1, alpha=0.8, eps=1e-3, momentum=0.5, centered=True))
    p, v, m, b = seen[0], 0, 0, 0
    for after, g in zip(seen[1:], given, strict=True):
        v, m = 0.8 * v + 0.2 * g * g, 0.8 * m + 0.2 * g
        b = 0.5 * b + g / (np.sqrt(v - m * m) + 1e-3)
        p = p - 0.1 * b
        np.testing.assert_allclose(after, p, rtol=1e-12)


def test_adagrad_by_hand():
    seen, given = run(lambda ps: optim.Adagrad(ps, 0.1, lr_decay=0.5, initial_accumulator_value=0.25))
    p, s = seen[0], 0.25
    for t, (after, g) in enumerate(zip(seen[1:], given, strict=True)):
        s = s + g * g
        p = p - 0.1 / (1 + 0.5 * t) * g / (np.sqrt(s) + 1e-10)
        np.testing.assert_allclose(after, p, rtol=1e-12)
