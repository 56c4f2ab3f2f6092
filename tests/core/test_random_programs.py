"""Random programs, written for both libraries at once: values and gradients to second order agree with PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl

torch = pytest.importorskip("torch")

# each step: (tensors so far -> a new tensor) in terms of a library `dl` that has the names both share
UNARY = [
    lambda dl, x: dl.tanh(x),
    lambda dl, x: dl.sigmoid(x),
    lambda dl, x: dl.exp(x * 0.3),
    lambda dl, x: dl.log(x * x + 1.5),
    lambda dl, x: dl.sqrt(x * x + 0.5),
    lambda dl, x: dl.relu(x) * x,
    lambda dl, x: -x / 2 + 1,
    lambda dl, x: 1.5 - x,
    lambda dl, x: x**3 * 0.2,
    lambda dl, x: dl.sin(x) * dl.cos(x),
    lambda dl, x: dl.where(x > 0.1, x, x * x),
    lambda dl, x: dl.clamp(x, -1.0, 1.2) * x,
    lambda dl, x: dl.abs(x),
]
SHAPING = [
    lambda dl, x: dl.softmax(x, -1),
    lambda dl, x: dl.log_softmax(x, -1) * 0.3,
    lambda dl, x: dl.logsumexp(x, -1),
    lambda dl, x: x.sum(0),
    lambda dl, x: x.mean(-1),
    lambda dl, x: dl.amax(x, -1),
    lambda dl, x: x.max(0)[0],
    lambda dl, x: dl.cumsum(x, 0) * 0.5,
    lambda dl, x: dl.flip(x, (0,)),
    lambda dl, x: x.reshape(-1),
    lambda dl, x: dl.stack(tuple(dl.unbind(x, 0)), -1),
    lambda dl, x: dl.cat((x, x * 2), 0),
    lambda dl, x: x[..., ::2],
    lambda dl, x: x[[0, -1, 0]],
    lambda dl, x: dl.var(x, 0, correction=0),
    lambda dl, x: x.unsqueeze(0).expand(2, *x.shape),
    lambda dl, x: dl.movedim(x, 0, -1),
    lambda dl, x: dl.roll(x, 1, 0),
]
BINARY = [
    lambda dl, x, y: x + y,
    lambda dl, x, y: x - y * 0.5,
    lambda dl, x, y: x * y,
    lambda dl, x, y: x / (y * y + 1),
    lambda dl, x, y: dl.maximum(x, y),
    lambda dl, x, y: dl.minimum(x, y * 2),
    lambda dl, x, y: (x * x + 0.5) ** (y * 0.3),
]


def broadcastable(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


@st.composite
def programs(draw):
    """A list of (arguments, function) for tensors that start as three leaves, chosen so that shapes fit."""
    shapes: list[tuple[int, ...]] = [(3, 4), (4,), (3, 1)]
    steps = []
    for _ in range(draw(st.integers(2, 8))):
        i = draw(st.integers(0, len(shapes) - 1))
        kind = draw(st.sampled_from("ubs"))
        partners = [j for j, s in enumerate(shapes) if broadcastable(shapes[i], s)]
        if kind == "b":
            args = (i, draw(st.sampled_from(partners)))
            function = draw(st.sampled_from(BINARY))
        else:
            args = (i,)
            with_axes = [s for s in SHAPING if len(shapes[i])] if kind == "s" else []
            function = draw(st.sampled_from(with_axes or UNARY))
        probe = function(torch, *(torch.ones(shapes[j], dtype=torch.float64) for j in args))
        if probe.numel() > 200:
            continue
        steps.append((args, function))
        shapes.append(tuple(probe.shape))
    return steps


def run(dl, leaves, steps, weights):
    tensors = list(leaves)
    for args, function in steps:
        tensors.append(function(dl, *(tensors[i] for i in args)))
    return sum((t * t * float(w)).sum() for t, w in zip(tensors, weights, strict=False))


@settings(max_examples=150)
@given(steps=programs(), seed=st.integers(0, 2**32 - 1))
def test_agrees_with_pytorch(steps, seed):
    rng = np.random.default_rng(seed)
    arrays = [rng.normal(size=s) for s in ((3, 4), (4,), (3, 1))]
    directions = [rng.normal(size=a.shape) for a in arrays]
    weights = rng.normal(size=3 + len(steps))
    ours = [minidl.tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = run(minidl, ours, steps, weights), run(torch, theirs, steps, weights)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), rtol=1e-9, atol=1e-9)

    first = minidl.grad(y, ours, create_graph=True)
    expected = torch.autograd.grad(z, theirs, create_graph=True)
    y.backward(retain_graph=True)  # the same gradients by rules on bare arrays
    for g, x, e in zip(first, ours, expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e.detach().numpy(), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(x.grad.numpy(), e.detach().numpy(), rtol=1e-8, atol=1e-8)

    s = sum((g * minidl.tensor(d)).sum() for g, d in zip(first, directions, strict=True))
    t = sum((g * torch.tensor(d)).sum() for g, d in zip(expected, directions, strict=True))
    second = minidl.grad(s, ours, allow_unused=True)
    wanted = torch.autograd.grad(t, theirs, allow_unused=True)
    for g, e in zip(second, wanted, strict=True):
        g = 0 if g is None else g.numpy()
        e = 0 if e is None else e.numpy()
        np.testing.assert_allclose(g, e, rtol=1e-7, atol=1e-7)
