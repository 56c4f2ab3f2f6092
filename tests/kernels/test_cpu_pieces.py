"""Large arrays in pieces: the values, types and memory order that NumPy gives for the whole."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes
from scipy import special

import minidl
import minidl.functional as F
from minidl.kernels import table
from minidl.kernels.arrays import LARGE
from minidl.kernels.cpu import pieces, threads
from minidl.kernels.reference import elementwise, reduction
from minidl.ops import elementwise as ops

KERNELS: list[tuple[Any, int, dict]] = [
    (np.add, 2, {}),
    (np.exp, 1, {}),
    (np.less, 2, {}),
    (np.negative, 1, {}),
    (elementwise.sigmoid, 1, {}),
    (elementwise.softplus, 1, {}),
    (elementwise.where, 3, {}),
    (elementwise.clamp, 1, {"min": -0.5, "max": None}),
    (elementwise.positive_part, 2, {}),
    (elementwise.larger_part, 3, {}),
]


@pytest.fixture(autouse=True)
def several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small pieces, three threads, whatever the machine has."""
    for name, value in (("IN_CACHE", 7), ("SHARE", 5), ("BLOCK", 12), ("LINE", 4)):
        monkeypatch.setattr(pieces, name, value)
    monkeypatch.setattr(threads, "count", lambda: 3)


def laid_out(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, layout: str) -> np.ndarray:
    order = {"C": range(len(shape)), "F": range(len(shape))[::-1], "last": (0, *range(2, len(shape)), 1)[: len(shape)]}
    if layout in order:
        axes = list(order[layout])
        a = rng.standard_normal([shape[i] for i in axes]).astype(dtype).transpose(np.argsort(axes))
    elif layout == "repeated":
        a = np.broadcast_to(rng.standard_normal(()).astype(dtype), shape)
    else:  # with gaps
        a = rng.standard_normal((*shape[:-1], 2 * shape[-1])).astype(dtype)[..., ::2]
    return a


@given(
    array_shapes(max_dims=4, max_side=6),
    st.sampled_from(KERNELS),
    st.sampled_from(["float32", "float64", "float16"]),
    st.sampled_from(["C", "F", "last"]),
    st.lists(
        st.sampled_from(["C", "same", "same", "gaps", "repeated", "number", "0-d", "row"]), min_size=2, max_size=2
    ),
)
def test_elementwise_functions_give_what_the_whole_gives(
    shape: tuple[int, ...], kernel: tuple[Any, int, dict], dtype: str, layout: str, others: list[str]
) -> None:
    function, arguments, params = kernel
    rng = np.random.default_rng(sum(shape))
    args: list[Any] = [laid_out(rng, shape, dtype, layout)]
    for other in others[: arguments - 1]:
        if other in ("number", "0-d", "row"):
            small = {"number": 0.5, "0-d": np.array(0.5, dtype), "row": laid_out(rng, shape[-1:], dtype, "C")}
            args.append(small[other])
        else:
            args.append(laid_out(rng, shape, dtype, layout if other == "same" else other))
    if function is elementwise.where:
        args[0] = args[0] > 0
    if function is elementwise.positive_part and others[0] != "same":
        return  # takes two arrays that lie alike
    expected = function(*args, **params)
    got = pieces.elementwise(function, tuple(args), params)
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(got, expected)
    strides = lambda a: [step for step, n in zip(a.strides, shape, strict=True) if n > 1]
    assert strides(got) in (strides(expected), strides(args[0]))


LOOPS: list[tuple[Any, int, dict]] = [
    (elementwise.positive_part, 2, {}),
    (elementwise.leaky_relu, 1, {"slope": 0.1}),
    (elementwise.leaky_relu, 1, {"slope": -1.5}),
    (elementwise.leaky_part, 2, {"slope": 0.1}),
    (elementwise.clamp_gradient, 2, {"min": -0.5, "max": None}),
    (elementwise.hardtanh_gradient, 2, {"min": -0.5, "max": 0.5}),
    (elementwise.larger_part, 3, {}),
    (elementwise.where, 3, {}),
    (elementwise.dropout, 2, {"scale": 1.7}),
]
EDGES = [0.0, -0.0, 0.5, -0.5, np.nan, np.inf, -np.inf, 1e-45, -1e-45]


@given(
    st.sampled_from(LOOPS),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from(["C", "F", "last"]),
    st.lists(st.sampled_from(["same", "same", "repeated", "number"]), min_size=2, max_size=2),
    st.integers(0, 10**6),
)
@settings(max_examples=60)
def test_compiled_loops_give_the_bits_of_the_reference(
    kernel: tuple[Any, int, dict], dtype: str, layout: str, others: list[str], seed: int
) -> None:
    function, arguments, params = kernel
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5, 7)
    args: list[Any] = [laid_out(rng, shape, dtype, layout)]
    steps = [stride // args[0].itemsize for stride in args[0].strides]
    takes_numbers = function in (elementwise.where, elementwise.larger_part)
    for other in others[: arguments - 1]:
        array = laid_out(rng, shape, dtype, "repeated" if other == "repeated" else layout)
        args.append(0.5 if other == "number" and takes_numbers else array)
    for a in args:
        if isinstance(a, np.ndarray) and any(a.strides):
            chosen = rng.random(shape) < 0.5
            a[chosen] = rng.choice(EDGES, chosen.sum())
    if function in (elementwise.where, elementwise.dropout):
        mask = 0 if function is elementwise.where else 1
        drawn = args[mask]
        args[mask] = drawn > 0 if any(drawn.strides) else np.broadcast_to(drawn.flat[0] > 0, shape)
    with np.errstate(all="ignore"):
        expected = function(*args, **params)
        got = pieces.elementwise(function, tuple(args), params, function.__name__)
    assert got.dtype == expected.dtype and [stride // got.itemsize for stride in got.strides] == steps
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(np.signbit(got)[got == 0], np.signbit(expected)[got == 0])


def _gradient(primitive: Any) -> Any:
    """The rule of an elementwise primitive, as backward runs it on arrays that are not large."""
    return primitive.rules[0].call


@pytest.mark.parametrize(
    ("loop", "kernel", "near"),
    [
        ("elu", elementwise.elu, 2e-7),
        ("elu_gradient", elementwise.elu_gradient, 2e-7),
        ("sigmoid", elementwise.sigmoid, 2e-7),
        ("softplus", elementwise.softplus, 4e-7),
        ("softplus_gradient", _gradient(ops.softplus), 2e-7),
        ("sigmoid_gradient", _gradient(ops.sigmoid), 3e-7),
        ("tanh_gradient", _gradient(ops.tanh), 3e-7),
        ("silu", elementwise.silu, 3e-7),
        ("silu_gradient", _gradient(ops.silu), 1e-6),
        ("gelu", elementwise.gelu, 5e-7),
        ("gelu_gradient", elementwise.gelu_gradient, 5e-7),
        ("gelu_tanh", elementwise.gelu_tanh, 1e-6),
        ("gelu_tanh_gradient", elementwise.gelu_tanh_gradient, 2e-6),
    ],
)
def test_compiled_loops_of_smooth_functions(loop: str, kernel: Any, near: float) -> None:
    """Near the reference in double precision: absolutely where the result is below 1, relative to it from there on."""
    x = np.concatenate([np.linspace(-30, 30, 200_001), np.logspace(-38, 38, 2001), -np.logspace(-38, 38, 2001)])
    x = (np.tanh(x / 10) if loop in ("sigmoid_gradient", "tanh_gradient") else x).astype("float32")
    two, params = loop.endswith("_gradient"), {"alpha": 0.75} if loop.startswith("elu") else {}
    g = np.random.default_rng(0).uniform(-1, 1, x.shape).astype("float32")
    args, wide = ((g, x), (g.astype("float64"), x.astype("float64"))) if two else ((x,), (x.astype("float64"),))
    with np.errstate(all="ignore"):
        right = kernel(*wide, **params)
    got = pieces.elementwise(kernel, args, params, loop)
    assert got.dtype == x.dtype
    np.testing.assert_allclose(got, right, near, near)
    in_double = pieces.elementwise(kernel, wide, params, loop)  # the reference
    np.testing.assert_array_equal(in_double, right)
    ends = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], "float32")
    if loop in ("sigmoid_gradient", "tanh_gradient"):
        ends = ends[[0, 3, 4]]
    args = (np.ones_like(ends), ends) if two else (ends,)
    with np.errstate(all="ignore"):
        right = kernel(*(a.astype("float64") for a in args), **params)
    if loop == "silu_gradient":
        right[1:3] = 1, 0  # the limits; the formula has an infinity times 0 there
    np.testing.assert_allclose(pieces.elementwise(kernel, args, params, loop), right, near, 1e-30)


def test_erf_of_single_precision_is_right_to_the_last_place() -> None:
    x = np.concatenate([np.linspace(-6, 6, 200_001), np.logspace(-40, 1, 20_001), -np.logspace(-40, 1, 20_001)])
    x = x.astype("float32")
    right = special.erf(x.astype("float64"))
    got = pieces.elementwise(elementwise.erf, (x,), {}, "erf")
    assert np.max(np.abs(got - right) / np.spacing(np.abs(right).astype("float32"))) < 0.51
    ends = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], "float32")
    got = pieces.elementwise(elementwise.erf, (ends,), {}, "erf")
    np.testing.assert_array_equal(got, special.erf(ends))
    assert np.signbit(got[4])
    double = x.astype("float64")
    np.testing.assert_array_equal(pieces.elementwise(elementwise.erf, (double,), {}, "erf"), special.erf(double))


@given(
    array_shapes(max_dims=4, max_side=6),
    st.sampled_from([reduction.sum, reduction.amax, reduction.amin, reduction.any, reduction.all]),
    st.sampled_from(["float32", "float64", "float16", "int64", "bool"]),
    st.sampled_from(["C", "F", "last", "gaps", "repeated"]),
    st.booleans(),
    st.data(),
)
def test_reductions_give_what_the_whole_gives(
    shape: tuple[int, ...], kernel: Any, dtype: str, layout: str, keepdims: bool, data: st.DataObject
) -> None:
    axis = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1)))))
    x = (laid_out(np.random.default_rng(sum(shape)), shape, "float64", layout) * 4).astype(dtype)
    expected = kernel(x, axis=axis, keepdims=keepdims)
    got = pieces.reduction(kernel, x, axis=axis, keepdims=keepdims)
    assert got.dtype == expected.dtype and got.shape == expected.shape
    exact = kernel is not reduction.sum or dtype not in ("float32", "float64")
    near = 0 if exact else 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(got, expected, near, 40 * near)
    kept = tuple(1 if i in axis else n for i, n in enumerate(shape))
    if kernel is reduction.sum and np.dtype(dtype).kind == "f":
        np.testing.assert_allclose(
            pieces.sum_to(reduction.sum_to, x, shape=kept), reduction.sum_to(x, shape=kept), near, 40 * near
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((300_001,), (0,)), ((70, 5000), (1,)), ((5000, 3), (0,)), ((700, 300), (0,)), ((9, 7, 900), (0, 2))],
)
def test_large_sums_are_accurate(
    shape: tuple[int, ...], axis: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "BLOCK", 2**17)
    x = (np.random.default_rng(0).random(shape) + 1).astype(dtype)
    got = pieces.reduction(reduction.sum, x, axis=axis, keepdims=False)
    right = x.astype("longdouble").sum(axis)
    assert np.max(np.abs(got - right) / right) < (2e-7 if dtype == "float32" else 1e-14)


@given(array_shapes(max_dims=4, max_side=6), st.sampled_from(["C", "F", "last", "gaps"]), st.data())
def test_functions_of_rows_give_what_the_whole_gives(shape: tuple[int, ...], layout: str, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = laid_out(np.random.default_rng(sum(shape)), shape, "float32", layout)
    for kernel in (reduction.softmax, reduction.log_softmax):
        y = kernel(x, axis=axis)
        np.testing.assert_allclose(pieces.rows(kernel, x, axis=axis), y, 1e-6, 1e-7)
        back = {"softmax": reduction.softmax_gradient, "log_softmax": reduction.log_softmax_gradient}[kernel.__name__]
        for g in (laid_out(np.random.default_rng(1), shape, "float32", layout), np.broadcast_to(np.float32(2), shape)):
            got = pieces.rows(back, g, y, axis=axis)
            np.testing.assert_allclose(got, back(g, y, axis=axis), 1e-6, 2e-6)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 100, 5000])
def test_softmax_of_rows_by_compiled_loops(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against double precision; rows with NaN and infinities, and numbers whose exponentials are infinite."""
    monkeypatch.setattr(pieces, "SHARE", 1)
    rng = np.random.default_rng(width)
    x = (rng.standard_normal((40, width)) * 3 + rng.uniform(-500, 500, (40, 1))).astype("float32")
    g = rng.standard_normal(x.shape, dtype="float32")
    x[0, rng.integers(width)], x[1, rng.integers(width)], x[2] = np.nan, np.inf, -np.inf
    x[3, rng.integers(width)] = -np.inf
    for forward, backward in (
        (reduction.softmax, reduction.softmax_gradient), (reduction.log_softmax, reduction.log_softmax_gradient),
    ):  # fmt: skip
        with np.errstate(all="ignore"):
            right = forward(x.astype("float64"), axis=1)
            # x - max is rounded, so a logarithm far from 0 is known to 6e-8 of itself
            y = pieces.rows(forward, x, axis=1)
        np.testing.assert_allclose(y, right, 4e-7, 4e-7)
        back = backward(g[4:].astype("float64"), y[4:].astype("float64"), axis=1)
        np.testing.assert_allclose(pieces.rows(backward, g[4:], y[4:], axis=1), back, 1e-5, 1e-5)


def test_a_sum_has_the_same_bits_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((40, 50), dtype="float32")
    found = set()
    for number in (1, 2, 3, 8):
        monkeypatch.setattr(threads, "count", lambda number=number: number)
        both = [pieces.reduction(reduction.sum, x, axis=axis, keepdims=False) for axis in ((0,), (0, 1))]
        found.add(b"".join(a.tobytes() for a in both))
    assert len(found) == 1


def test_warnings_and_error_settings_are_those_of_the_caller() -> None:
    x = np.linspace(-1, 1, 101)
    with warnings.catch_warnings(record=True) as caught, np.errstate(invalid="warn"):
        warnings.simplefilter("always")
        pieces.elementwise(np.sqrt, (x,), {})
    assert {str(w.message) for w in caught} == {"invalid value encountered in sqrt"}
    with np.errstate(invalid="raise"), pytest.raises(FloatingPointError, match="sqrt"):
        pieces.elementwise(np.sqrt, (x,), {})
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("error")
        pieces.elementwise(np.sqrt, (x,), {})


def test_whole_numbers_divided_by_zero_are_an_error() -> None:
    x = np.arange(100)
    with pytest.raises(ZeroDivisionError):
        pieces.elementwise(elementwise.floor_divide, (x, x[::-1].copy()), {})


# ---- through tensors, at the real size
def large(seed: int, grad: bool = True, last: bool = False) -> Any:
    shape = (2, 8, 128, LARGE // 2048)
    x = np.random.default_rng(seed).standard_normal(shape, dtype="float32")
    if last:
        x = np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)
    return minidl.Tensor(x).requires_grad_(grad)


@pytest.mark.parametrize("last", [False, True])
def test_gradients_of_large_arrays(last: bool) -> None:
    x, y = large(0, last=last), large(1, last=last)

    def f(x: Any, y: Any) -> Any:
        z = F.relu(x * y) + (x / (y * y + 1)).tanh() - minidl.exp(-x * x) ** 2 + minidl.maximum(x, y).sigmoid() * 1.5
        return z + minidl.where(x > 0, y, x * 0.5) + 2 / (x.abs() + 1)

    z = f(x, y)
    assert z.numpy().strides == x.numpy().strides
    z.sum().backward()
    small = [minidl.Tensor(a.numpy()[:, :, :5].copy(order="K")).requires_grad_() for a in (x, y)]
    part = f(*small)
    part.sum().backward()
    np.testing.assert_allclose(z.numpy()[:, :, :5], part.numpy(), 1e-6, 1e-6)  # sigmoid has a loop of its own
    for a, b in zip((x, y), small, strict=True):
        np.testing.assert_allclose(a.grad.numpy()[:, :, :5], b.grad.numpy(), 1e-6, 1e-6)
        assert a.grad.numpy().strides == a.numpy().strides


def test_large_arrays_do_not_take_the_short_way() -> None:
    """The kernel of the table divides; a small array's is NumPy's own function."""
    x = large(0)
    minidl.exp(x), minidl.exp(x[:1, :1]), x + x, x[:1] + x[:1], 1.5 * x
    assert table.TABLE["exp"].cells["cpu"].whole is np.exp
    assert table.TABLE["exp"].cells["reference"] is np.exp
