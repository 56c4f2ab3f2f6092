"""Clipping of gradients, parameters as a vector."""

import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.nn import utils


def params(*gradients, dtype="float64"):
    made = []
    for g in gradients:
        p = nn.Parameter(np.zeros(np.shape(g), dtype))
        p.grad = minidl.tensor(np.asarray(g, dtype))
        made.append(p)
    return [*made, nn.Parameter(np.zeros(2, dtype))]  # one without a gradient


GRADIENTS = (np.array([[3.0, -4.0], [0.5, 0.0]]), np.array(12.0), np.array([-1.0]))


@pytest.mark.parametrize("p", [1, 2, 3.5, math.inf])
@pytest.mark.parametrize("limit", [0.5, 100.0])
def test_clip_grad_norm(p, limit):
    ps = params(*GRADIENTS)
    before = [q.grad for q in ps[:-1]]
    norm = np.linalg.norm(np.concatenate([g.ravel() for g in GRADIENTS]), p)
    total = utils.clip_grad_norm_(iter(ps), limit, p)
    assert total.shape == () and math.isclose(total.item(), norm, rel_tol=1e-12)
    factor = min(1, limit / (norm + 1e-6))
    for q, g, old in zip(ps, GRADIENTS, before, strict=False):
        np.testing.assert_allclose(q.grad.numpy(), g * factor, rtol=1e-12)
        np.testing.assert_array_equal(old.numpy(), g)  # the old gradient may be shared: it was not written to
    assert ps[-1].grad is None


def test_clip_grad_norm_edges():
    assert utils.clip_grad_norm_([nn.Parameter([1.0])], 1.0).item() == 0
    ps = params(np.array([np.inf, 1.0]))
    with pytest.raises(RuntimeError, match=r"the total 2.0-norm of 1 gradients is inf"):
        utils.clip_grad_norm_(ps, 1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="norm_type is 0"):
        utils.get_total_norm([p.grad for p in ps[:-1]], 0)
    ps = params(np.array([np.nan, 1.0]))
    assert np.isnan(utils.clip_grad_norm_(ps, 1.0).item()) and np.isnan(ps[0].grad.numpy()).all()
    (p, _) = params(np.full(100, 200.0), dtype="float16")  # the sum of squares overflows
    assert utils.clip_grad_norm_(p, 1.0).item() == 2000 and p.grad.dtype == "float16"
    (p, _) = params(np.ones(4), dtype="float32")
    utils.clip_grad_norm_(p, 1.0)
    assert p.grad.dtype == "float32"


def test_clip_grad_value():
    ps = params(*GRADIENTS)
    old = ps[0].grad
    utils.clip_grad_value_(ps, 3.5)
    np.testing.assert_array_equal(ps[0].grad.numpy(), [[3, -3.5], [0.5, 0]])
    assert ps[1].grad.item() == 3.5 and old.numpy()[0, 1] == -4
    with pytest.raises(ValueError, match="clip_value is -1"):
        utils.clip_grad_value_(ps, -1)


def test_like_torch():
    torch = pytest.importorskip("torch")
    ps = params(*GRADIENTS)
    theirs = [torch.zeros(g.shape, dtype=torch.float64, requires_grad=True) for g in GRADIENTS]
    for q, g in zip(theirs, GRADIENTS, strict=True):
        q.grad = torch.from_numpy(g.copy())
    total = torch.nn.utils.clip_grad_norm_(theirs, 1.5)
    assert math.isclose(utils.clip_grad_norm_(ps, 1.5).item(), total.item(), rel_tol=1e-14)
    for p, q in zip(ps, theirs, strict=False):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-14)


def test_vector():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    vector = utils.parameters_to_vector(net.parameters())
    assert vector.shape == (13,)
    np.testing.assert_array_equal(vector.numpy()[:6].reshape(3, 2), net[0].weight.numpy())
    (vector * 2).sum().backward()
    assert (net[1].weight.grad.numpy() == 2).all()
    loss = net(minidl.ones(1, 2)).sum()
    utils.vector_to_parameters(minidl.tensor(np.arange(13.0)), net.parameters())
    np.testing.assert_array_equal(net[1].weight.numpy(), [[9, 10, 11]])
    assert net[0].weight.dtype == "float32"
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()
    with pytest.raises(ValueError, match=r"need shape \(13,\), the vector has \(12,\)"):
        utils.vector_to_parameters(minidl.ones(12), net.parameters())
