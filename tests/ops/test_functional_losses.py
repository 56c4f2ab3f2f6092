"""Losses and activations against their formulas, written out element by element with the math module."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor

RNG = np.random.default_rng(0)
X = RNG.standard_normal((3, 4))
T = RNG.standard_normal((3, 4))
P, Q = RNG.uniform(0.05, 0.95, (2, 3, 4))
V = RNG.uniform(0.5, 2.0, (3, 4))
log, exp = math.log, math.exp


def normal_density(x: float, mean: float, var: float) -> float:
    return exp(-((x - mean) ** 2) / (2 * var)) / math.sqrt(2 * math.pi * var)


# our function, its arguments, the formula of one element
ELEMENTWISE: dict[str, tuple[Callable, tuple[np.ndarray, ...], Callable]] = {
    "mse_loss": (F.mse_loss, (X, T), lambda x, t: (x - t) ** 2),
    "l1_loss": (F.l1_loss, (X, T), lambda x, t: abs(x - t)),
    "smooth_l1_loss": (F.smooth_l1_loss, (X, T), lambda x, t: (x - t) ** 2 / 2 if abs(x - t) < 1 else abs(x - t) - 0.5),
    "huber_loss": (
        lambda x, t, **kw: F.huber_loss(x, t, delta=0.5, **kw), (X, T),
        lambda x, t: (x - t) ** 2 / 2 if abs(x - t) < 0.5 else 0.5 * (abs(x - t) - 0.25),
    ),
    "binary_cross_entropy": (F.binary_cross_entropy, (P, Q), lambda p, q: -q * log(p) - (1 - q) * log(1 - p)),
    "binary_cross_entropy_with_logits": (
        F.binary_cross_entropy_with_logits, (X, Q),
        lambda x, q: -q * log(1 / (1 + exp(-x))) - (1 - q) * log(1 - 1 / (1 + exp(-x))),
    ),
    "kl_div": (F.kl_div, (np.log(P), Q), lambda logp, q: q * (log(q) - logp)),
    "kl_div of logarithms": (
        lambda x, t, **kw: F.kl_div(x, t, log_target=True, **kw), (np.log(P), np.log(Q)),
        lambda logp, logq: exp(logq) * (logq - logp),
    ),
    "gaussian_nll_loss": (
        lambda x, t, v, **kw: F.gaussian_nll_loss(x, t, v, full=True, **kw), (X, T, V),
        lambda mean, x, var: -log(normal_density(x, mean, var)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_losses(name: str):
    loss, arrays, formula = ELEMENTWISE[name]
    expected = np.vectorize(formula)(*arrays)
    inputs = [Tensor(a) for a in arrays]
    np.testing.assert_allclose(loss(*inputs, reduction="none").numpy(), expected, 1e-12)
    assert loss(*inputs, reduction="sum").item() == pytest.approx(expected.sum())
    assert loss(*inputs).item() == pytest.approx(expected.mean())


def test_kl_div_batchmean_divides_by_the_batch():
    loss = F.kl_div(Tensor(np.log(P)), Tensor(Q), reduction="batchmean").item()
    assert loss == pytest.approx(float((Q * np.log(Q / P)).sum()) / 3)


def test_kl_div_of_a_zero_probability():
    assert F.kl_div(minidl.tensor([-1.0, -2.0]), minidl.tensor([0.0, 0.0]), reduction="sum").item() == 0


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy(reduction: str, weighted: bool, ignore: bool, smoothing: float):
    classes = np.array([0, 3, 1])
    if ignore:
        classes[1] = -100
    weight = np.array([0.5, 1.0, 2.0, 0.25]) if weighted else np.ones(4)
    losses, weights = [], []
    for row, k in zip(X, classes, strict=True):
        total = math.fsum(exp(v) for v in row)
        nll = [-log(exp(v) / total) for v in row]
        kept = k != -100
        hard = weight[k] * nll[k] if kept else 0.0
        soft = sum(w * n for w, n in zip(weight, nll, strict=True)) / 4 if kept else 0.0
        losses.append((1 - smoothing) * hard + smoothing * soft)
        weights.append(weight[k] if kept else 0.0)
    expected = {"none": np.array(losses), "sum": sum(losses), "mean": sum(losses) / sum(weights)}[reduction]
    arguments: dict[str, Any] = {"weight": Tensor(weight) if weighted else None, "reduction": reduction}
    got = F.cross_entropy(Tensor(X), Tensor(classes), label_smoothing=smoothing, **arguments)
    np.testing.assert_allclose(got.numpy(), expected, 1e-12)
    if not smoothing:
        logp = Tensor(X - np.log(np.exp(X).sum(1, keepdims=True)))
        np.testing.assert_allclose(F.nll_loss(logp, Tensor(classes), **arguments).numpy(), expected, 1e-12)


def test_cross_entropy_with_probabilities():
    target = np.exp(T) / np.exp(T).sum(1, keepdims=True)
    expected = -(target * np.log(np.exp(X) / np.exp(X).sum(1, keepdims=True))).sum(1)
    np.testing.assert_allclose(F.cross_entropy(Tensor(X), Tensor(target), reduction="none").numpy(), expected, 1e-12)
    assert F.cross_entropy(Tensor(X), Tensor(target)).item() == pytest.approx(expected.mean())


def test_cross_entropy_over_positions():
    x, classes = RNG.standard_normal((2, 3, 4, 5)), RNG.integers(0, 3, (2, 4, 5))
    flat = F.cross_entropy(Tensor(x.transpose(0, 2, 3, 1).reshape(-1, 3)), Tensor(classes.ravel()), reduction="none")
    got = F.cross_entropy(Tensor(x), Tensor(classes), reduction="none")
    np.testing.assert_allclose(got.numpy(), flat.numpy().reshape(2, 4, 5), 1e-12)


ACTIVATIONS: dict[str, tuple[Callable, Callable]] = {
    "leaky_relu": (F.leaky_relu, lambda x: x if x > 0 else 0.01 * x),
    "relu6": (lambda x: F.relu6(x * 10), lambda x: min(max(10 * x, 0), 6)),
    "hardtanh": (F.hardtanh, lambda x: min(max(x, -1), 1)),
    "elu": (lambda x: F.elu(x, 0.7), lambda x: x if x > 0 else 0.7 * (exp(x) - 1)),
    "selu": (F.selu, lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * (exp(x) - 1))),
    "silu": (F.silu, lambda x: x / (1 + exp(-x))),
    "gelu": (F.gelu, lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
    "gelu tanh": (
        lambda x: F.gelu(x, "tanh"), lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "softplus": (lambda x: F.softplus(x, 2.0), lambda x: log(1 + exp(2 * x)) / 2),
    "logsigmoid": (F.logsigmoid, lambda x: -log(1 + exp(-x))),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str):
    function, formula = ACTIVATIONS[name]
    np.testing.assert_allclose(function(Tensor(X)).numpy(), np.vectorize(formula)(X), 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_far_out_values_stay_finite(dtype: str):
    """Where the formulas overflow the functions do not, nor do their gradients."""
    far = np.array([-1e4, -800.0, 0.0, 800.0, 1e4], dtype)
    for function, expected in (
        (F.sigmoid, [0, 0, 0.5, 1, 1]), (F.softplus, [0, 0, log(2), 800, 1e4]),
        (F.logsigmoid, [-1e4, -800, -log(2), 0, 0]), (F.elu, [-1, -1, 0, 800, 1e4]),
        (F.silu, [0, 0, 0, 800, 1e4]), (F.tanh, [-1, -1, 0, 1, 1]),
    ):  # fmt: skip
        x = minidl.tensor(far, requires_grad=True)
        y = function(x)
        y.sum().backward()
        np.testing.assert_allclose(y.numpy(), expected, 1e-6)
        assert x.grad is not None and np.isfinite(x.grad.numpy()).all()
    along: Any
    for along in (F.softmax, F.log_softmax, F.logsumexp):
        x = minidl.tensor(far, requires_grad=True)
        y = along(x, 0)
        y.sum().backward()
        assert x.grad is not None and np.isfinite(y.numpy()).all() and np.isfinite(x.grad.numpy()).all()
    x = minidl.tensor(far, requires_grad=True)
    F.binary_cross_entropy_with_logits(x, minidl.ones_like(x)).backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), [-0.2, -0.2, -0.1, 0, 0], 1e-6)


def test_dropout():
    minidl.manual_seed(0)
    x = minidl.ones(200, 300, requires_grad=True)
    y = F.dropout(x, 0.3)
    kept = y.numpy() != 0
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    np.testing.assert_allclose(y.numpy()[kept], 1 / 0.7, 1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert F.dropout(x, 0.3, training=False) is x
    assert not F.dropout(x, 1.0).numpy().any()
    channels = F.dropout2d(minidl.ones(50, 20, 3, 3), 0.5).numpy()
    assert np.isin(channels.reshape(1000, 9).sum(1), [0, 18]).all()


def test_batch_norm_moves_running_statistics():
    x = RNG.standard_normal((6, 2, 3)) * 3 + 1
    mean, var = minidl.zeros(2, dtype="float64"), minidl.ones(2, dtype="float64")
    y = F.batch_norm(Tensor(x), mean, var, training=True, momentum=0.2)
    flat = x.transpose(1, 0, 2).reshape(2, -1)
    np.testing.assert_allclose(mean.numpy(), 0.2 * flat.mean(1), 1e-12)
    np.testing.assert_allclose(var.numpy(), 0.8 + 0.2 * flat.var(1, ddof=1), 1e-12)
    np.testing.assert_allclose(y.numpy().mean((0, 2)), 0, atol=1e-12)
    np.testing.assert_allclose(y.numpy().var((0, 2)), 1, 1e-4)
    z = F.batch_norm(Tensor(x), mean, var)
    expected = (x - mean.numpy()[:, None]) / np.sqrt(var.numpy()[:, None] + 1e-5)
    np.testing.assert_allclose(z.numpy(), expected, 1e-12)
