"""The public functions against PyTorch, where it is installed: values, first and second derivatives.

The table of samples is the table of arguments: names, order and defaults are PyTorch's, so the same call goes to both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import minidl
import minidl.functional as F
from minidl.checking.samples import Sample, of_kind
from minidl.core import Tensor

torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")
TF = torch.nn.functional


def _method(name: str) -> Callable:
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def _batch_norm(x: Any, weight: Any, bias: Any, **params: Any) -> Any:
    mean, var = torch.tensor([0.3, -0.2], dtype=x.dtype), torch.tensor([0.8, 1.3], dtype=x.dtype)
    return TF.batch_norm(x, mean, var, weight, bias, **params)


# where torch's function has another form
OTHERS: dict[str, Callable] = {
    "reshape": _method("reshape"), "permute": _method("permute"),
    "expand": _method("expand"), "repeat": _method("repeat"),
    "cat": lambda *xs, **kw: torch.cat(xs, **kw),
    "stack": lambda *xs, **kw: torch.stack(xs, **kw),
    "einsum": lambda *xs, equation: torch.einsum(equation, *xs),
    "flip": lambda x, dims: torch.flip(x, dims if isinstance(dims, tuple) else (dims,)),
    "norm": lambda x, p, dim: torch.linalg.vector_norm(x, p, dim),
    "getitem": lambda x, index: x[torch.tensor(index) if isinstance(index, list) else index],
    "batch_norm": _batch_norm,
    "reciprocal": torch.reciprocal,
    "hardtanh": lambda x, *bounds: TF.hardtanh(x, *bounds),
}  # fmt: skip
ROWS = [r for r in of_kind("function") if r.gradient == "checked" and "dropout" not in r.name]


def peer(row: Sample) -> Callable:
    name = row.name.rpartition(".")[2]
    return OTHERS.get(name) or getattr(TF, name, None) or getattr(torch, name)


def theirs(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.from_numpy(value.numpy().copy()).requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    return value


def compare(ours: Callable, other: Callable, inputs: list[Any], params: dict[str, Any], orders: int = 2) -> None:
    """Values, gradients of a random weighting of the outputs, and gradients of a random weighting of those."""
    xs = [theirs(x) for x in inputs]
    mine = ours(*inputs, **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch comments on some arguments
        its = other(*xs, **{k: theirs(v) for k, v in params.items()})
    mine = list(mine) if isinstance(mine, (tuple, list)) else [mine]
    its = list(its) if isinstance(its, (tuple, list)) else [its]
    leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    their_leaves = [x for x in xs if isinstance(x, torch.Tensor) and x.requires_grad]
    rng = np.random.default_rng(0)
    for order in range(orders + 1):
        assert [y.shape for y in mine] == [tuple(y.shape) for y in its]
        for a, b in zip(mine, its, strict=True):
            np.testing.assert_allclose(a.numpy(), b.detach().numpy(), 1e-9, 1e-9, err_msg=f"order {order}")
        pairs = [(a, b) for a, b in zip(mine, its, strict=True) if a.requires_grad and b.requires_grad]
        if order == orders or not pairs:
            return
        weights = [rng.standard_normal(a.shape) for a, _ in pairs]
        found = minidl.grad(
            [a for a, _ in pairs], leaves, [Tensor(w) for w in weights], create_graph=True, allow_unused=True
        )
        flowing = [torch.from_numpy(np.asarray(w)) for w in weights]
        peers = torch.autograd.grad([b for _, b in pairs], their_leaves, flowing, create_graph=True, allow_unused=True)
        mine = [minidl.zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
        its = [torch.zeros_like(x) if g is None else g for g, x in zip(peers, their_leaves, strict=True)]


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_samples(row: Sample):
    for case in row.cases(seed=4):
        compare(row.fn, peer(row), case.tensors(), case.params)


# ---- geometries of convolution and pooling
@st.composite
def convolutions(draw: Any, transposed: bool = False) -> tuple[int, tuple, tuple, dict]:
    """rank, shape of the input, shape of the weight, arguments."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 2))
    c, k = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    one = lambda low, high: draw(st.integers(low, high) | st.tuples(*[st.integers(low, high)] * rank))
    size = draw(st.tuples(*[st.integers(1, 5)] * rank))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * rank))
    lead = draw(st.sampled_from([(), (1,), (2,)]))
    arguments = {"stride": one(1, 3), "padding": one(0, 2), "dilation": one(1, 2), "groups": groups}
    if transposed:
        arguments["output_padding"] = one(0, 1)
        return rank, (*lead, k, *size), (k, c // groups, *kernel), arguments
    if draw(st.integers(0, 4)) == 0:
        arguments |= {"padding": "same", "stride": 1}
    return rank, (*lead, c, *size), (k, c // groups, *kernel), arguments


def _accepted(call: Callable) -> bool:
    """Whether the sizes fit."""
    try:
        call()
    except (ValueError, RuntimeError):
        return False
    return True


def _conv_case(name: str, sizes: tuple, bias: bool, relu: bool, out_axis: int) -> None:
    rank, x_shape, w_shape, arguments = sizes
    rng = np.random.default_rng(1)
    channels = w_shape[0] if out_axis == 0 else w_shape[1] * arguments["groups"]
    arrays = [rng.standard_normal(x_shape), rng.standard_normal(w_shape), rng.standard_normal(channels)]
    ours, other = getattr(F, f"{name}{rank}d"), getattr(TF, f"{name}{rank}d")
    inputs = [Tensor(a).requires_grad_() for a in arrays[: 2 + bias]]
    assume(_accepted(lambda: ours(*inputs, **arguments)))
    if relu:  # PyTorch's functions have no such argument
        compare(partial(ours, activation="relu"), lambda *x, **at: TF.relu(other(*x, **at)), inputs, arguments)
    else:
        compare(ours, other, inputs, arguments)


@settings(max_examples=60, deadline=None)
@given(sizes=convolutions(), bias=st.booleans(), relu=st.booleans())
def test_convolution(sizes: tuple, bias: bool, relu: bool):
    _conv_case("conv", sizes, bias, relu, 0)


@settings(max_examples=60, deadline=None)
@given(sizes=convolutions(transposed=True), bias=st.booleans(), relu=st.booleans())
def test_transposed_convolution(sizes: tuple, bias: bool, relu: bool):
    _conv_case("conv_transpose", sizes, bias, relu, 1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_activation_is_one_operation_that_keeps_what_it_needs(transposed: bool, bias: bool):
    x, w = (Tensor(np.random.default_rng(i).standard_normal((2, 2, 3, 3))).requires_grad_() for i in range(2))
    b = Tensor(np.ones(2)).requires_grad_() if bias else None
    f = F.conv_transpose2d if transposed else F.conv2d
    y: Any = f(x, w, b, activation="relu")
    assert y.node.primitive.name == "conv_relu"
    assert [n for n, _ in y.node.primitive.saved_arrays(y.node)] == ["x", "w", *["b"] * bias, "y"]
    np.testing.assert_array_equal(y.numpy(), F.relu(f(x, w, b)).numpy())
    if bias:
        linear: Any = f(x, w, b)
        assert linear.node.primitive.name == "conv_bias"
        assert [n for n, _ in linear.node.primitive.saved_arrays(linear.node)] == ["w", "x"]


@st.composite
def poolings(draw: Any) -> tuple[int, tuple, dict]:
    rank = draw(st.integers(1, 3))
    size = draw(st.tuples(*[st.integers(1, 6)] * rank))
    one = lambda low, high: draw(st.integers(low, high) | st.tuples(*[st.integers(low, high)] * rank))
    arguments = {"kernel_size": one(1, 3), "stride": one(1, 3), "padding": one(0, 1), "ceil_mode": draw(st.booleans())}
    return rank, (*draw(st.sampled_from([(), (2,)])), 2, *size), arguments


def _distinct(shape: tuple) -> Tensor:
    return Tensor(
        np.random.default_rng(2).permutation(int(np.prod(shape))).reshape(shape) * 0.1 - 1.03
    ).requires_grad_()


@settings(max_examples=60, deadline=None)
@given(sizes=poolings(), dilation=st.integers(1, 2), indices=st.booleans())
def test_max_pool(sizes: tuple, dilation: int, indices: bool):
    rank, shape, arguments = sizes
    arguments = {**arguments, "dilation": dilation, "return_indices": indices}
    ours, other = getattr(F, f"max_pool{rank}d"), getattr(TF, f"max_pool{rank}d")
    assume(
        _accepted(lambda: ours(_distinct(shape), **arguments))
        and _accepted(lambda: other(theirs(_distinct(shape)), **arguments))
    )
    compare(ours, other, [_distinct(shape)], arguments)


@settings(max_examples=60, deadline=None)
@given(sizes=poolings(), count_include_pad=st.booleans())
def test_avg_pool(sizes: tuple, count_include_pad: bool):
    rank, shape, arguments = sizes
    arguments = {**arguments, "count_include_pad": count_include_pad}
    ours, other = getattr(F, f"avg_pool{rank}d"), getattr(TF, f"avg_pool{rank}d")
    assume(
        _accepted(lambda: ours(_distinct(shape), **arguments))
        and _accepted(lambda: other(theirs(_distinct(shape)), **arguments))
    )
    compare(ours, other, [_distinct(shape)], arguments)


@settings(max_examples=60, deadline=None)
@given(sizes=poolings())
def test_both_refuse_the_same_poolings(sizes: tuple):
    """What torch computes we compute; we refuse only what torch refuses, or windows that hold nothing but padding."""
    rank, shape, arguments = sizes
    ours, other = getattr(F, f"max_pool{rank}d"), getattr(TF, f"max_pool{rank}d")
    if not _accepted(lambda: ours(_distinct(shape), **arguments)):
        try:
            result = other(theirs(_distinct(shape)), **arguments)
        except (RuntimeError, ValueError):
            return
        # one difference: with ceil_mode torch lets a window that is larger than the padded input hang over its end
        assert bool(torch.isinf(result).any()), "refused, though every window meets the input"


# ---- batch norm: torch's fused one is wrong above second order, so its composition is the oracle there
def test_batch_norm_third_order():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((3, 2, 2)), rng.uniform(0.5, 1.5, 2), rng.standard_normal(2)]

    def composed(x: Any, weight: Any, bias: Any) -> Any:
        mean = x.mean((0, 2), keepdim=True)
        var = ((x - mean) ** 2).mean((0, 2), keepdim=True)
        return (x - mean) / (var + 1e-5) ** 0.5 * weight.reshape(1, -1, 1) + bias.reshape(1, -1, 1)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True)

    compare(ours, composed, [Tensor(a).requires_grad_() for a in arrays], {}, orders=3)
