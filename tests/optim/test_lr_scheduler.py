"""Schedules: epoch by epoch against torch, against the formulas, and resumed."""

import json
import math

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.optim import lr_scheduler as ours


def first(epoch):
    return 1 / (1 + epoch)


def second(epoch):
    return 0.9 + 0.01 * epoch


MAKERS = {
    "lambda": lambda s, o: s.LambdaLR(o, [first, second]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, [second, second]),
    "step": lambda s, o: s.StepLR(o, 3, gamma=0.5),
    "multistep": lambda s, o: s.MultiStepLR(o, [7, 2, 7], gamma=0.3),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.8),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 5, eta_min=0.01),
    "cosine of one": lambda s, o: s.CosineAnnealingLR(o, 1),
    "constant": lambda s, o: s.ConstantLR(o, 0.25, 4),
    "linear": lambda s, o: s.LinearLR(o, 0.1, 0.7, 6),
    "linear down": lambda s, o: s.LinearLR(o, 1.0, 0.0, 4),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 3, 2, eta_min=0.001),
    "equal restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4),
    "warm-up": lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 6)], [4]),
    "sequence": lambda s, o: s.SequentialLR(
        o,
        [s.MultiplicativeLR(o, second), s.ConstantLR(o, 0.5, 2), s.ExponentialLR(o, 0.9), s.StepLR(o, 2),
         s.CosineAnnealingWarmRestarts(o, 2), s.LambdaLR(o, first)],
        [3, 5, 7, 10, 13],
    ),
}  # fmt: skip


def make_optimizer(library_nn, library_optim):
    a, b = library_nn.Linear(1, 1), library_nn.Linear(1, 1)
    groups = [{"params": list(a.parameters())}, {"params": list(b.parameters()), "lr": 0.02}]
    return library_optim.SGD(groups, lr=0.5)


def rates(optimizer):
    return [g["lr"] for g in optimizer.param_groups]


def follow(optimizer, schedulers, epochs=16):
    seen = [rates(optimizer)]
    for _ in range(epochs):
        optimizer.step()
        for s in schedulers:
            s.step()
        seen.append(rates(optimizer))
        assert schedulers[-1].get_last_lr() == rates(optimizer)
    return seen


@pytest.mark.parametrize("name", MAKERS)
def test_like_torch(name):
    torch = pytest.importorskip("torch")
    theirs = torch.optim.lr_scheduler
    one, two = make_optimizer(nn, optim), make_optimizer(torch.nn, torch.optim)
    seen = follow(one, [MAKERS[name](ours, one)])
    wanted = follow(two, [MAKERS[name](theirs, two)])
    np.testing.assert_allclose(seen, wanted, rtol=1e-12, atol=1e-17)


def test_schedules_multiply():
    torch = pytest.importorskip("torch")
    theirs = torch.optim.lr_scheduler
    one, two = make_optimizer(nn, optim), make_optimizer(torch.nn, torch.optim)
    chain = lambda s, o: [s.ConstantLR(o, 0.1, 3), s.LinearLR(o, 0.5), s.ExponentialLR(o, 0.9), s.StepLR(o, 2)]
    np.testing.assert_allclose(follow(one, chain(ours, one)), follow(two, chain(theirs, two)), rtol=1e-12)


@pytest.mark.parametrize("options", [
    {}, {"mode": "max", "patience": 1}, {"threshold_mode": "abs", "threshold": 0.3, "patience": 2},
    {"patience": 0, "cooldown": 2, "factor": 0.5, "min_lr": [0.05, 0.01]}, {"patience": 0, "eps": 0.1},
    {"mode": "max", "threshold_mode": "abs", "threshold": 0.2, "patience": 1, "cooldown": 1},
])  # fmt: skip
def test_plateau_like_torch(options):
    torch = pytest.importorskip("torch")
    one, two = make_optimizer(nn, optim), make_optimizer(torch.nn, torch.optim)
    options = {"patience": 3, **options}
    a, b = ours.ReduceLROnPlateau(one, **options), torch.optim.lr_scheduler.ReduceLROnPlateau(two, **options)
    for value in np.random.default_rng(0).random(40):
        a.step(minidl.tensor(value))
        b.step(value)
        assert rates(one) == pytest.approx(rates(two), rel=1e-14) and a.get_last_lr() == rates(one)


@pytest.mark.parametrize("mult", [1, 2, 3])
def test_restarts_at_fractions_of_epochs(mult):
    optimizer = make_optimizer(nn, optim)
    scheduler = ours.CosineAnnealingWarmRestarts(optimizer, 3, mult)
    for epoch in np.linspace(0, 41, 83).tolist():
        scheduler.step(epoch)
        since, period = epoch, 3
        while since >= period:
            since, period = since - period, period * mult
        assert math.isclose(rates(optimizer)[0], 0.25 * (1 + math.cos(math.pi * since / period)), rel_tol=1e-12)
    with pytest.raises(ValueError, match="epoch is -1"):
        scheduler.step(-1)


def test_by_hand():
    base = np.array([0.5, 0.02])
    cases = {
        "lambda": lambda t: base * [first(t), second(t)],
        "step": lambda t: base * 0.5 ** (t // 3),
        "multistep": lambda t: base * 0.3 ** ((t >= 2) + 2 * (t >= 7)),
        "exponential": lambda t: base * 0.8**t,
        "cosine": lambda t: 0.01 + (base - 0.01) * (1 + math.cos(math.pi * t / 5)) / 2,
        "constant": lambda t: base * (0.25 if t < 4 else 1),
        "linear": lambda t: base * (0.1 + 0.6 * min(t, 6) / 6),
    }
    for name, formula in cases.items():
        optimizer = make_optimizer(nn, optim)
        seen = follow(optimizer, [MAKERS[name](ours, optimizer)])
        np.testing.assert_allclose(seen, [formula(t) for t in range(17)], rtol=1e-11, err_msg=name)


@pytest.mark.parametrize("name", MAKERS)
def test_resuming(name):
    one = make_optimizer(nn, optim)
    whole = MAKERS[name](ours, one)
    follow(one, [whole], 6)
    saved = json.loads(json.dumps([one.state_dict(), whole.state_dict()]))
    two = make_optimizer(nn, optim)
    rest = MAKERS[name](ours, two)
    two.load_state_dict(saved[0])
    rest.load_state_dict(saved[1])
    assert rest.get_last_lr() == whole.get_last_lr()
    assert follow(two, [rest], 9) == follow(one, [whole], 9)


def test_resuming_a_plateau():
    one, two = make_optimizer(nn, optim), make_optimizer(nn, optim)
    a, b = (ours.ReduceLROnPlateau(o, patience=2, cooldown=1) for o in (one, two))
    for value in (3.0, 2.0, 2.0, 2.0):
        a.step(value)
    two.load_state_dict(one.state_dict())
    b.load_state_dict(json.loads(json.dumps(a.state_dict())))
    for value in (2.0, 2.0, 2.0, 2.0, 1.0):
        a.step(value)
        b.step(value)
        assert rates(one) == rates(two)
    assert rates(one)[0] < 0.5


@pytest.mark.parametrize(("make", "error", "text"), [
    (lambda o: ours.StepLR(3, 1), TypeError, "StepLR schedules an optimizer, not a int"),
    (lambda o: ours.StepLR(o, 0), ValueError, "step_size is 0"),
    (lambda o: ours.LambdaLR(o, [first]), ValueError, "1 functions for 2 groups"),
    (lambda o: ours.LinearLR(o, 0), ValueError, "start_factor is 0"),
    (lambda o: ours.ConstantLR(o, 2), ValueError, "factor is 2"),
    (lambda o: ours.CosineAnnealingLR(o, 0), ValueError, "T_max is 0"),
    (lambda o: ours.CosineAnnealingWarmRestarts(o, 1.5), ValueError, "T_0 is 1.5"),
    (lambda o: ours.ReduceLROnPlateau(o, "low"), ValueError, "mode is 'low'"),
    (lambda o: ours.ReduceLROnPlateau(o, factor=1), ValueError, "factor is 1"),
    (lambda o: ours.ReduceLROnPlateau(o, min_lr=[1, 2, 3]), ValueError, "3 values of min_lr for 2 groups"),
    (lambda o: ours.SequentialLR(o, [], []), ValueError, "0 schedules need 0 milestones"),
    (lambda o: ours.SequentialLR(o, [ours.StepLR(o, 1)] * 2, []), ValueError, "2 schedules need 1 milestones, not 0"),
    (lambda o: ours.SequentialLR(o, [ours.StepLR(o, 1)] * 3, [3, 2]), ValueError, "positive and rising"),
    (lambda o: ours.SequentialLR(o, [ours.ReduceLROnPlateau(o)], []), TypeError, "counts no epochs"),  # type: ignore[list-item]
    (lambda o: ours.SequentialLR(make_optimizer(nn, optim), [ours.StepLR(o, 1)], []), ValueError, "another optimizer"),
    (lambda o: ours.LRScheduler(o), NotImplementedError, r"LRScheduler defines no next_lr\(\)"),
])  # fmt: skip
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make(make_optimizer(nn, optim))
