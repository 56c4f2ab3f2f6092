"""Losses as layers: options reach the function, weights are buffers."""

import numpy as np
import pytest

import minidl
from minidl import nn

rng = np.random.default_rng(0)
x, t, w = rng.standard_normal((6, 4)), rng.standard_normal((6, 4)), rng.random((6, 4))
probability, other, classes = rng.random((6, 4)), rng.random((6, 4)), np.array([0, 3, 2, -100, 1, 3])

LOSSES = [
    (lambda nn, _: nn.MSELoss(reduction="sum"), (x, t)),
    (lambda nn, _: nn.L1Loss(), (x, t)),
    (lambda nn, _: nn.SmoothL1Loss(beta=0.5), (x, t)),
    (lambda nn, _: nn.HuberLoss(delta=0.7, reduction="none"), (x, t)),
    (lambda nn, array: nn.BCELoss(weight=array(w)), (probability, other)),
    (lambda nn, array: nn.BCEWithLogitsLoss(array(w), pos_weight=array(w[0])), (x, other)),
    (lambda nn, array: nn.CrossEntropyLoss(array(w[0]), label_smoothing=0.1), (x, classes)),
    (lambda nn, _: nn.CrossEntropyLoss(ignore_index=3, reduction="sum"), (x, np.abs(classes) % 5)),
    (lambda nn, array: nn.NLLLoss(weight=array(w[0])), (x, classes)),
    (lambda nn, _: nn.KLDivLoss(reduction="batchmean", log_target=True), (x, t)),
    (lambda nn, _: nn.KLDivLoss(reduction="sum"), (x, other)),
    (lambda nn, _: nn.GaussianNLLLoss(full=True, eps=0.01), (x, t, w)),
]


@pytest.mark.parametrize(("make", "args"), LOSSES)
def test_like_torch(make, args):
    torch = pytest.importorskip("torch")
    ours, theirs = make(nn, lambda a: a), make(torch.nn, torch.from_numpy)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert repr(ours) == repr(theirs)
    a, b = minidl.tensor(args[0], requires_grad=True), torch.tensor(args[0], requires_grad=True)
    y = ours(a, *map(minidl.tensor, args[1:]))
    z = theirs(b, *map(torch.from_numpy, args[1:]))
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-10)
    y.sum().backward()
    z.sum().backward()
    np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_by_hand():
    pair = minidl.tensor(x), minidl.tensor(t)
    assert np.isclose(nn.MSELoss()(*pair).item(), ((x - t) ** 2).mean())
    assert np.isclose(nn.L1Loss(reduction="sum")(*pair).item(), np.abs(x - t).sum())
    logp = x - np.log(np.exp(x).sum(1, keepdims=True))
    target = np.array([0, 3, 2, 1, 1, 3])
    loss = nn.CrossEntropyLoss()(pair[0], minidl.tensor(target)).item()
    assert np.isclose(loss, -logp[np.arange(6), target].mean())
    weight = w[0]
    weighted = nn.CrossEntropyLoss(weight=weight)(pair[0], minidl.tensor(target)).item()
    assert np.isclose(weighted, -(weight[target] * logp[np.arange(6), target]).sum() / weight[target].sum())
    bce = nn.BCELoss()(minidl.tensor(probability), minidl.tensor(other)).item()
    assert np.isclose(bce, -(other * np.log(probability) + (1 - other) * np.log(1 - probability)).mean())


def test_weights_move_with_the_loss():
    loss = nn.CrossEntropyLoss(weight=[1.0, 2.0])
    assert loss.weight.dtype == "float32" and loss.double().weight.dtype == "float64"
    assert nn.CrossEntropyLoss().state_dict() == {}
    with pytest.raises(TypeError, match="positional"):
        nn.MSELoss("sum")  # torch's first argument has another meaning
