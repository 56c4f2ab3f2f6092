"""What dense networks do on the CPU beside products: activations at their output, and binary cross-entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import binary, linalg, threads
from minidl.kernels.cpu.address import address
from minidl.kernels.reference import binary as reference_binary
from minidl.kernels.reference import linalg as reference

KINDS = ("relu", "tanh", "sigmoid")
BEYOND = np.array([0, -0.0, 1e-30, -1e-30, 1e-4, -1e-4, 0.7, -0.7, 20, -20, 88, -88, 1e30, -1e30, np.inf, -np.inf])


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, names in ((linalg, ("SMALL", "SLOPES")), (binary, ("LARGE",))):
        for name in names:
            monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(linalg, "ACTIVATIONS", dict.fromkeys(KINDS, 1))
    monkeypatch.setattr(linalg, "PER_SLOPE", 1)
    monkeypatch.setattr(linalg, "SHARE", 1)
    monkeypatch.setattr(binary, "SHARE", 1)


shapes = st.lists(st.integers(1, 40), min_size=2, max_size=3).map(tuple)


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# ---- activations
@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(5, 40), st.sampled_from(KINDS), st.booleans(), st.sampled_from([np.float32, np.float64]))
@pytest.mark.usefixtures("small_is_large")
def test_activations_of_products(shape: tuple[int, ...], out: int, kind: str, biased: bool, dtype: Any) -> None:
    x, w = draw(shape, dtype), draw((out, shape[-1]), dtype, 1)
    b = draw((out,), dtype, 2) if biased else None
    y = linalg.linear_activated(x, w, b, activation=kind)
    wide = [a if a is None else a.astype(np.float64) for a in (x, w, b)]
    expected = reference.linear_activated(*wide, activation=kind)
    assert y.dtype == dtype and y.shape == expected.shape
    near = 1e-12 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(y, expected, near, near)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("small_is_large")
def test_activations_of_all_numbers(kind: str) -> None:
    """Right to a few units in the last place, at the ends and near 0; what is no number stays that."""
    numbers = np.concatenate([BEYOND, np.linspace(-30, 30, 5000)]).astype(np.float32)
    eye = np.eye(1, 8, dtype=np.float32)
    x = np.zeros((len(numbers), 8), np.float32)
    x[:, 0] = np.where(np.isfinite(numbers), numbers, 0)
    got = linalg.linear_activated(x, np.repeat(eye, 8, 0), None, activation=kind)[:, 3]
    right = reference.linear_activated(x.astype("f8"), np.repeat(eye, 8, 0).astype("f8"), None, activation=kind)[:, 3]
    np.testing.assert_allclose(got, right, 1e-6, 1e-30)
    from minidl.kernels.cpu.activation_loops import activate

    ends = np.array([np.inf, -np.inf, np.nan], np.float32)
    activate(1, ends, linalg.KINDS[kind])
    expected = {"relu": (np.inf, 0), "tanh": (1, -1), "sigmoid": (1, 0)}[kind]
    np.testing.assert_allclose(ends[:2], expected, atol=1e-30)
    assert np.isnan(ends[2])


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from(KINDS), st.sampled_from([np.float32, np.float64]), st.integers(0, 2))
@pytest.mark.usefixtures("small_is_large")
def test_slopes_of_activations(shape: tuple[int, ...], kind: str, dtype: Any, lie: int) -> None:
    g, y = draw(shape, dtype), np.clip(draw(shape, dtype, 1), -1, 1)
    if lie == 1:
        g = np.broadcast_to(g[:1], shape)
    elif lie == 2:
        y = np.asfortranarray(y)
    gz, gb = linalg.linear_activated_slope(g, y, activation=kind)
    expected = reference.linear_activated_slope(g.astype("f8"), y.astype("f8"), activation=kind)
    near = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(gz, expected[0], near, near)
    np.testing.assert_allclose(gb, expected[1], near, 10 * near)
    assert gz.dtype == gb.dtype == dtype


@pytest.mark.usefixtures("small_is_large")
def test_a_gradient_that_is_infinite_where_relu_gave_zero_is_dropped() -> None:
    g, y = np.full((4, 8), np.inf, np.float32), np.zeros((4, 8), np.float32)
    y[1] = 1
    gz, gb = linalg.linear_activated_slope(g, y, activation="relu")
    assert (gz[[0, 2, 3]] == 0).all() and np.isposinf(gz[1]).all() and np.isposinf(gb).all()


# ---- binary cross-entropy
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=4).map(tuple), st.sampled_from(["whole", "rows", "one"]))
@pytest.mark.usefixtures("small_is_large")
def test_binary_cross_entropy(shape: tuple[int, ...], repeats: str) -> None:
    x, t = 20 * draw(shape, np.float32), draw(shape, np.float32, 1) ** 2
    kept = {"whole": shape, "rows": (shape[0], *[1] * (len(shape) - 1)), "one": (1,) * len(shape)}[repeats]
    g = np.broadcast_to(draw(kept, np.float32, 2), shape)
    y = binary.binary_cross_entropy(x, t)
    gx, gt = binary.binary_cross_entropy_backward(g, x, t, needs=[True, True])
    wide = [a.astype(np.float64) for a in (g, x, t)]
    right = np.logaddexp(0, wide[1]) - wide[1] * wide[2]
    np.testing.assert_allclose(y, right, 3e-6, 3e-6)
    slopes = reference_binary.binary_cross_entropy_backward(*wide, needs=[True, True])
    for got, expected in zip((gx, gt), slopes, strict=True):
        np.testing.assert_allclose(got, expected, 1e-5, 1e-6)
    assert y.dtype == gx.dtype == np.float32


@pytest.mark.usefixtures("small_is_large")
def test_binary_cross_entropy_at_the_ends() -> None:
    x = np.concatenate([BEYOND[:-2], np.linspace(-110, 110, 3001)]).astype(np.float32)
    y = binary.binary_cross_entropy(x, np.zeros_like(x))
    np.testing.assert_allclose(y, np.logaddexp(0, x.astype("f8")), 5e-7, 2e-38)
    assert np.isnan(binary.binary_cross_entropy(np.full(5, np.nan, np.float32), np.zeros(5, np.float32))).all()
    gx, gt = binary.binary_cross_entropy_backward(np.ones_like(x), x, np.zeros_like(x), needs=[True, False])
    np.testing.assert_allclose(gx, 1 / (1 + np.exp(-np.clip(x.astype("f8"), -700, 700))), 1e-6, 2e-38)
    assert gt is None


def test_what_does_not_fit_is_left_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "LARGE", 1)
    x, t = draw((6, 8), np.float32), draw((6, 8), np.float32, 1)
    for a, b in ((x.T, t.T), (x.astype("f8"), t.astype("f8")), (x[:, ::2], t[:, ::2]), (x[:0], t[:0])):
        expected = reference_binary.binary_cross_entropy(a, b)
        if a.size:
            np.testing.assert_array_equal(binary.binary_cross_entropy(a, b), expected)
        g = np.ones_like(a)
        gx, gt = binary.binary_cross_entropy_backward(g, a, b, needs=[True, True])
        slopes = reference_binary.binary_cross_entropy_backward(g, a, b, needs=[True, True])
        np.testing.assert_allclose(gx, slopes[0], 1e-6)
        np.testing.assert_array_equal(gt, slopes[1])
    gx, gt = binary.binary_cross_entropy_backward(x, x, t, needs=[False, True])
    assert gx is None and gt is not None


def test_the_same_bits_from_call_to_call() -> None:
    x, t = draw((64, 1000), np.float32), draw((64, 1000), np.float32, 1)
    for number in {1, threads.most()}:
        with threads.limited(number):
            one, other = (binary.binary_cross_entropy(x, t) for _ in range(2))
            np.testing.assert_array_equal(one, other)
            one, other = (linalg.linear_activated_slope(x, t, activation="tanh") for _ in range(2))
            for a, b in zip(one, other, strict=True):
                np.testing.assert_array_equal(a, b)


# ---- addresses
def test_addresses() -> None:
    whole = np.zeros((6, 8), np.float32)
    frozen = whole.view()
    frozen.flags.writeable = False
    for a in (whole, whole.T, whole[1:], whole[:, 1:], whole[::-1], whole[1:1], frozen, np.float32(3) + np.zeros(())):
        array: np.ndarray = np.asarray(a)
        assert address(array) == array.ctypes.data
