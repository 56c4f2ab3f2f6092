"""Where functions have kinks, poles or nothing to do, and in half precision: written-out results, and PyTorch's.

A row of the first table goes through both libraries, which share names here; what is written out needs only ours.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
import minidl.functional as F
from minidl import Tensor, nn

NAN, INF = math.nan, math.inf

# f(library, its functional module, leaves in float64); the leaves; the expected gradient of each
GRADIENTS: dict[str, tuple[Callable, list[Any], list[Any]]] = {
    # an infinite gradient meets one that is 0
    "relu, sqrt": (lambda m, f, x: m.sqrt(f.relu(x)), [[-1.0, 4.0]], [[0, 0.25]]),
    "relu, log": (lambda m, f, x: m.log(f.relu(x)), [[-1.0, 4.0]], [[0, 0.25]]),
    "clamp, sqrt": (lambda m, f, x: x.clamp(0.0).sqrt(), [[-1.0, 4.0]], [[0, 0.25]]),
    "hardtanh, sqrt": (lambda m, f, x: f.hardtanh(x, 0.0, 9.0).sqrt(), [[-1.0, 4.0]], [[0, 0.25]]),
    "maximum, sqrt": (lambda m, f, x, y: m.maximum(x, y).sqrt(), [[-1.0, 4.0], [0.0, 0.0]], [[0, 0.25], [INF, 0]]),
    "minimum, sqrt": (lambda m, f, x, y: (-m.minimum(x, y)).sqrt(), [[1.0, -4.0], [0.0, 0.0]], [[0, -0.25], [INF, 0]]),
    # NaN and ties
    "relu": (lambda m, f, x: f.relu(x) * 3, [[NAN, 0.0, 1.0]], [[3, 0, 3]]),
    "clamp": (lambda m, f, x: x.clamp(0.0, 1.0), [[NAN, 0.0, 1.0, 2.0]], [[0, 1, 1, 0]]),
    "maximum": (
        lambda m, f, a, b: m.maximum(a, b), [[NAN, 1.0, 2.0], [1.0, 1.0, 3.0]], [[1, 0.5, 0], [1, 0.5, 1]]
    ),
    "minimum": (lambda m, f, a, b: m.minimum(a, b), [[NAN, 1.0, 2.0], [1.0, 1.0, 3.0]], [[1, 0.5, 1], [1, 0.5, 0]]),
    # kinks
    "elu": (lambda m, f, x: f.elu(x, 2.0), [[0.0, 1.0]], [[2, 1]]),
    "selu": (lambda m, f, x: f.selu(x), [[0.0]], [[1.0507009873554805 * 1.6732632423543772]]),
    "relu6": (lambda m, f, x: f.relu6(x), [[NAN, 0.0, 3.0, 6.0]], [[1, 0, 1, 0]]),
    "hardtanh": (lambda m, f, x: f.hardtanh(x), [[-1.0, 0.0, 1.0]], [[0, 1, 0]]),
    # roots and powers of 0
    "norm": (lambda m, f, x: x.norm(), [[0.0, 0.0]], [[0, 0]]),
    "norm 3": (lambda m, f, x: x.norm(3), [[0.0, 0.0]], [[0, 0]]),
    "norm 1/2": (lambda m, f, x: x.norm(0.5), [[0.0, 1.0]], [[0, 1]]),
    "norm of rows": (lambda m, f, x: x.norm(2, 1), [[[0.0, 0.0], [3.0, 4.0]]], [[[0, 0], [0.6, 0.8]]]),
    "norm 0": (lambda m, f, x: x.norm(0) + 0 * x.sum(), [[0.0, 5.0]], [[0, 0]]),
    "norm -inf": (lambda m, f, x: x.norm(-INF), [[-1.0, 5.0]], [[-1, 0]]),
    "std": (lambda m, f, x: x.std(0), [[[1.0, 1.0], [1.0, 3.0]]], [[[0, -(0.5**0.5)], [0, 0.5**0.5]]]),
    "0 ** b": (lambda m, f, b: 0.0**b, [[0.0, 1.0]], [[0, 0]]),
    "a ** b": (lambda m, f, a, b: a**b, [[0.0, 0.0, 2.0], [0.0, 1.0, 1.0]], [[0, 1, 1], [0, 0, 2 * math.log(2)]]),
    # losses
    "nothing but ignored targets": (
        lambda m, f, x: f.cross_entropy(x, m.tensor([-100, -100])), [[[1.0, 2.0], [3.0, 4.0]]], [[[0, 0], [0, 0]]],
    ),
    "nothing but ignored targets, smoothed": (
        lambda m, f, x: f.cross_entropy(x, m.tensor([-100]), label_smoothing=0.1), [[[1.0, 2.0]]], [[[0, 0]]],
    ),
    "variance below eps": (
        lambda m, f, v: f.gaussian_nll_loss(0 * v, 0 * v.detach(), v, eps=0.5, reduction="sum"),
        [[0.1, 0.5, 2.0]], [[1, 1, 0.25]],
    ),
    "variance of rows": (
        lambda m, f, x, v: f.gaussian_nll_loss(x, 0 * x.detach(), v, reduction="sum"),
        [[[1.0, 2.0], [0.0, 4.0]], [1.0, 2.0]], [[[1, 2], [0, 2]], [-1.5, -1.5]],
    ),
    "variance of columns": (
        lambda m, f, x, v: f.gaussian_nll_loss(x, 0 * x.detach(), v, reduction="sum"),
        [[[1.0, 2.0]], [[2.0]]], [[[0.5, 1]], [[-0.125]]],
    ),
    # softplus with a threshold
    "softplus": (lambda m, f, x: f.softplus(x, 2.0, 1.0), [[0.6, 0.0]], [[1, 0.5]]),
    # einsum with axes of length 1
    "einsum": (lambda m, f, a, b: m.einsum("ij,ij->i", a, b), [[[1.0, 2.0]], [[3.0]]], [[[3, 3]], [[3]]]),
}  # fmt: skip


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name: str):
    function, values, expected = GRADIENTS[name]
    leaves = [minidl.tensor(np.array(v), requires_grad=True) for v in values]
    for create_graph in (False, True):
        with np.errstate(all="ignore"):
            y = function(minidl, F, *leaves)
            found = minidl.grad(y.sum(), leaves, create_graph=create_graph)
        for g, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(g.numpy(), e, 1e-12, 1e-12)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient_is_torchs(name: str):
    torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")
    function, values, expected = GRADIENTS[name]
    leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in values]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = torch.autograd.grad(function(torch, torch.nn.functional, *leaves).sum(), leaves)
    for g, e in zip(found, expected, strict=True):
        np.testing.assert_allclose(g.numpy(), e, 1e-12, 1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_gradients_of_many_elements_are_those_of_few(dtype: str):
    """Large arrays take another way; whatever their layout, and with every kind of number."""
    rng = np.random.default_rng(0)
    special = np.array([NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 0.5, 2.0])
    values, flowing = (rng.choice(special, (50, 60)).astype(dtype) for _ in range(2))
    for f in (F.relu, F.hardtanh, lambda x: x.clamp(-1.0, 1.0), lambda x: minidl.maximum(x, 0.0)):

        def gradient(x: np.ndarray, g: np.ndarray, f: Callable = f) -> np.ndarray:
            leaf = minidl.tensor(x, requires_grad=True)
            return minidl.grad(f(leaf), leaf, Tensor(g))[0].numpy()

        rows = np.stack([gradient(x, g) for x, g in zip(values, flowing, strict=True)])
        np.testing.assert_array_equal(gradient(values, flowing), rows)
        np.testing.assert_array_equal(gradient(values, np.asfortranarray(flowing)), rows)
        np.testing.assert_array_equal(gradient(values.T, flowing.T).T, rows)
        assert not np.isnan(rows[~np.isnan(flowing)]).any()


@pytest.mark.parametrize("loss", [F.smooth_l1_loss, F.huber_loss])
def test_second_derivative_of_robust_losses_where_input_and_target_agree(loss: Callable):
    x = minidl.tensor(np.array([0.0, 0.3, 5.0]), requires_grad=True)
    (g,) = minidl.grad(loss(x, minidl.zeros_like(x), reduction="sum"), x, create_graph=True)
    (gg,) = minidl.grad(g.sum(), x)
    np.testing.assert_array_equal(gg.numpy(), [1, 1, 0])


def test_value_of_a_mean_over_nothing_but_ignored_targets():
    assert math.isnan(F.cross_entropy(minidl.ones(2, 3), minidl.tensor([-100, -100])).item())


# ---- half precision: sums are made in float32
def half(value: float, *shape: int) -> Tensor:
    return minidl.full(shape, value, dtype="float16")


HALVES: dict[str, tuple[Callable[[], Tensor], Any]] = {
    "sum": (lambda: half(1, 4096, 1).sum(0), [4096]),
    "mean": (lambda: half(1, 4096, 1).mean(0), [1]),
    "mean of many": (lambda: half(1, 100000).mean(), 1),
    "mean of large": (lambda: half(60000, 10).mean(), 60000),
    "cumsum": (lambda: half(1, 4096).cumsum(0)[-1], 4096),
    "var": (lambda: minidl.cat([half(-300, 5000), half(300, 5000)]).std(correction=0), 300),
    "norm": (lambda: half(300, 4, 4).norm(), 1200),
    "logsumexp": (lambda: half(0, 8192, 1).logsumexp(0), np.float16([math.log(8192)])),
    "softmax": (lambda: half(0, 4096, 1).softmax(0)[0], [1 / 4096]),
    "log_softmax": (lambda: half(0, 4096, 1).log_softmax(0)[0], np.float16([-math.log(4096)])),
    "cross_entropy": (
        lambda: F.cross_entropy(half(0, 1, 4096, 2), minidl.zeros(1, 2, dtype="int64")), np.float16(math.log(4096)),
    ),
    "avg_pool": (lambda: F.avg_pool2d(half(20, 1, 1, 64, 64), 64), [[[[20]]]]),
    "batch_norm": (
        lambda: F.batch_norm(minidl.cat([half(-200, 2500, 1), half(200, 2500, 1)]), None, None, training=True)[0], [-1],
    ),
    "mse_loss": (lambda: F.mse_loss(half(200, 4), half(0, 4) + 10), 36096),
    "erf": (lambda: minidl.erf(half(0.5, 2)), np.float16([0.5205, 0.5205])),
    "gelu": (lambda: F.gelu(half(0, 2)), [0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", HALVES)
def test_half_precision(name: str):
    call, expected = HALVES[name]
    y = call()
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.numpy(), expected, 1e-3)


def test_half_precision_gradients():
    b = minidl.zeros(1, dtype="float16", requires_grad=True)
    (minidl.ones(4096, 1, dtype="float16") + b).sum(0).sum().backward()
    assert b.grad is not None and b.grad.dtype == np.float16 and b.grad.item() == 4096
    x = half(1, 1, 1, 64, 64).requires_grad_()
    (F.avg_pool2d(x, 64) * 4096).sum().backward()
    assert x.grad is not None and x.grad.dtype == np.float16 and (x.grad.numpy() == 1).all()


# ---- nothing in, nothing out
def test_layers_without_features():
    for sizes, shape in (((3, 0), (5, 3)), ((0, 3), (5, 0)), ((0, 3), (2, 5, 0))):
        weight = minidl.zeros(sizes[1], sizes[0], requires_grad=True)
        x = minidl.ones(*shape, requires_grad=True)
        F.linear(x, weight).sum().backward()
        assert x.grad is not None and x.grad.shape == shape
        assert weight.grad is not None and weight.grad.shape == (sizes[1], sizes[0])


def test_softmax_and_its_like_over_nothing():
    x = minidl.zeros(3, 0, requires_grad=True)
    assert F.softmax(x, 1).shape == F.log_softmax(x, 1).shape == F.softmax(x, 0).shape == (3, 0)
    np.testing.assert_array_equal(x.logsumexp(1).numpy(), [-INF] * 3)
    assert x.logsumexp(1, keepdim=True).shape == (3, 1) and x.logsumexp(0).shape == (0,)
    F.softmax(x, 1).sum().backward()
    assert x.grad is not None and x.grad.shape == (3, 0)


# ---- arguments as PyTorch's
def test_randint():
    drawn = minidl.randint(2, (500,))
    assert drawn.shape == (500,) and set(drawn.tolist()) == {0, 1}
    assert set(minidl.randint(3, 5, (500,)).tolist()) == {3, 4}
    assert minidl.randint(7).shape == ()


@pytest.mark.parametrize("offset", [-3, -1, 0, 2, 4])
def test_diagonals(offset: int):
    array = np.arange(24.0).reshape(2, 3, 4)
    np.testing.assert_array_equal(Tensor(array).diagonal(offset, 1, 2).numpy(), np.diagonal(array, offset, 1, 2))
    np.testing.assert_array_equal(Tensor(array[0]).diagonal(offset).numpy(), np.diagonal(array[0], offset))


def test_no_axes_mean_all_axes_in_reductions():
    x = minidl.ones(3, 2)
    for name in ("sum", "mean", "amax", "amin", "var", "std", "norm"):
        y = x.norm(2, ()) if name == "norm" else getattr(x, name)(())
        assert y.shape == (), name
    assert x.sum([]).item() == 6
    assert x[:1].squeeze(()).shape == (1, 2) and x.flip(()).tolist() == x.tolist()  # elsewhere they mean none


def test_a_number_and_an_array_as_indices_follow_numpy():
    assert minidl.arange(24).reshape(2, 3, 4)[0, :, [0, 1]].shape == (2, 3)


def test_largest_along_an_axis_has_named_parts():
    found = minidl.tensor([[1.0, 3.0], [4.0, 2.0]]).max(1)
    assert found.values.tolist() == [3, 4] and found.indices.tolist() == [1, 0]
    values, indices = minidl.tensor([[1.0, 3.0], [4.0, 2.0]]).min(0, keepdim=True)
    assert values.tolist() == [[1, 2]] and indices.tolist() == [[0, 1]]


def test_activations_take_inplace_and_their_argument_by_name():
    x = minidl.tensor([-2.0, 1.0])
    for f in (F.relu, F.elu, F.selu, F.silu, F.leaky_relu, F.relu6, F.hardtanh):
        np.testing.assert_array_equal(f(input=x, inplace=True).numpy(), f(x).numpy())
    for f, shape in ((F.dropout, (2,)), (F.dropout1d, (2, 1)), (F.dropout2d, (2, 1, 1)), (F.dropout3d, (2, 1, 1, 1))):
        y = minidl.ones(*shape)
        assert f(y, 0.5, False, True) is y and f(y, p=0.5, training=False, inplace=True) is y
    assert x.tolist() == [-2, 1]


def test_softplus_is_a_line_beyond_its_threshold():
    x = minidl.tensor([0.4, 0.6])
    np.testing.assert_allclose(F.softplus(x, 2.0, 1.0).numpy(), [math.log(1 + math.exp(0.8)) / 2, 0.6], 1e-6)
    np.testing.assert_array_equal(nn.Softplus(2.0, threshold=1.0)(x).numpy(), F.softplus(x, 2.0, 1.0).numpy())


def test_unfold_with_much_padding():
    columns = F.unfold(minidl.ones(1, 1, 4, 4, dtype="float64"), 3, padding=2)
    assert columns.shape == (1, 9, 36)
    padded = np.pad(np.ones((4, 4)), 2)
    expected = [padded[i : i + 3, j : j + 3].ravel() for i in range(6) for j in range(6)]
    np.testing.assert_array_equal(columns.numpy()[0].T, expected)
    np.testing.assert_array_equal(F.fold(columns, 4, [3], padding=2).numpy(), np.full((1, 1, 4, 4), 9))
    assert F.unfold(minidl.ones(1, 1, 2, 2), 1, padding=2).numpy()[0, 0].tolist().count(0) == 32
    with pytest.raises(ValueError, match="fold: kernel_size"):
        F.fold(columns, 4, [3, 3, 3], padding=2)


# ---- einsum where axes of length 1 broadcast
@st.composite
def thin_equations(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    size = {letter: draw(st.integers(1, 3)) for letter in "abc"}
    terms = draw(st.lists(st.text("abc", max_size=3).filter(lambda t: len(set(t)) == len(t)), min_size=2, max_size=3))
    shapes = [tuple(draw(st.sampled_from([1, size[c]])) for c in term) for term in terms]
    letters = sorted(set("".join(terms)))
    output = draw(st.permutations(letters))[: draw(st.integers(0, len(letters)))]
    return f"{','.join(terms)}->{''.join(output)}", shapes


@settings(max_examples=200, deadline=None)
@given(case=thin_equations())
def test_einsum_broadcasts(case: tuple[str, list[tuple[int, ...]]]):
    """Against the same equation on operands that were broadcast before."""
    equation, shapes = case
    terms = equation.partition("->")[0].split(",")
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(s)) for s in shapes]
    full: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for c, n in zip(term, shape, strict=True):
            full[c] = max(n, full.get(c, 1))
    wide = [np.broadcast_to(a, [full[c] for c in term]) for a, term in zip(arrays, terms, strict=True)]
    expected = np.einsum(equation, *wide)
    y = minidl.einsum(equation, *map(Tensor, arrays))
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, 1e-10, 1e-12)
