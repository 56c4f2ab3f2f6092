"""The compiled recurrences against reference/recurrent.py in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import linalg, recurrent, threads
from minidl.kernels.reference import recurrent as reference

GATES, STATES = {"lstm": 4, "gru": 3}, {"lstm": 2, "gru": 1}
kinds = st.sampled_from(list(GATES))


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth the compiled loops, and all threads."""
    monkeypatch.setattr(linalg, "SMALL", 0)
    monkeypatch.setattr(linalg, "SHARE", 1)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)
    a.flags.writeable = False
    return a


def wide(args: Any) -> list[Any]:
    return [a if a is None else a.astype(np.float64) for a in args]


def close(got: Any, want: Any, terms: int) -> None:
    for a, b in zip(got, want, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert a.dtype == np.float32
        assert a.shape == b.shape
        scale = max(1, abs(b).max(initial=0))
        assert abs(a - b).max(initial=0) <= 4e-7 * (8 + terms**0.5) * scale


def sample(kind: str, steps: int, n: int, size: int, biased: bool) -> list[Any]:
    rows = GATES[kind] * size
    states = [random(n, size, seed=i) for i in range(STATES[kind])]
    w = random(rows, size) / np.float32(size**0.5)
    return [random(steps, n, rows), *states, w, random(rows) if biased else None]


@settings(max_examples=120, deadline=None)
@given(kinds, st.integers(1, 5), st.integers(1, 40), st.integers(1, 70), st.booleans(), st.booleans(),
       st.integers(1, min(4, threads.most())))  # fmt: skip
def test_forward_and_backward(
    kind: str, steps: int, n: int, size: int, biased: bool, reverse: bool, workers: int
) -> None:
    args = sample(kind, steps, n, size, biased)
    forward, backward = getattr(recurrent, kind), getattr(recurrent, f"{kind}_backward")
    with threads.limited(workers):
        got = forward(*args, reverse=reverse)
        again = forward(*args, reverse=reverse)
    for a, b in zip(got, again, strict=True):
        np.testing.assert_array_equal(a, b, "the same call gave other bits")
    want = getattr(reference, kind)(*wide(args), reverse=reverse)
    close(got, want, size)
    gy, needs = random(*got[0].shape, seed=9), [True] * len(args)
    rest = [gy, *args[1:], *[a.astype(np.float32) for a in want]]
    with threads.limited(workers):
        gradients = backward(*rest, needs=needs, reverse=reverse)
        again = backward(*rest, needs=needs, reverse=reverse)
    for a, b in zip(gradients, again, strict=True):
        assert a is b is None or np.array_equal(a, b)
    before = getattr(reference, f"{kind}_backward")(*wide(rest), needs=needs, reverse=reverse)
    close(gradients, before, 4 * size * steps)


@pytest.mark.parametrize("kind", list(GATES))
def test_longer_than_a_block(kind: str) -> None:
    args = sample(kind, 3, 29, 600, True)
    args[0] = np.asfortranarray(args[0])
    got = getattr(recurrent, kind)(*args, reverse=False)
    want = getattr(reference, kind)(*wide(args), reverse=False)
    close(got, want, 600)
    rest = [random(*got[0].shape), *args[1:], *got]
    needs = [True] * (len(args) - 2) + [False, False]
    gradients = getattr(recurrent, f"{kind}_backward")(*rest, needs=needs, reverse=False)
    assert gradients[-2:] == (None, None)
    close(gradients, getattr(reference, f"{kind}_backward")(*wide(rest), needs=needs, reverse=False), 5000)


def gates(a: np.ndarray) -> np.ndarray:
    """Sigmoid, sigmoid, tanh and sigmoid of the numbers (1, N, 4 H), which is an LSTM without a weight."""
    _, n, rows = a.shape
    nothing = np.zeros((n, rows // 4), np.float32)
    return recurrent.lstm(a, nothing, nothing, np.zeros((rows, rows // 4), np.float32), None, reverse=False)[1]


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_reference_with_few_units(kind: str, size: int) -> None:
    """Gates of one unit lie 12 or 16 bytes apart; NumPy 2.4's np.negative goes wrong there."""
    args = sample(kind, 3, 40, size, True)
    close(getattr(reference, kind)(*args, reverse=False), getattr(reference, kind)(*wide(args), reverse=False), size)


def test_sigmoid_and_tanh_are_accurate() -> None:
    tiny = np.geomspace(1e-30, 1e-2, 2048)
    x = np.concatenate([np.linspace(-30, 30, 4096), tiny, -tiny]).astype(np.float32)
    got = gates(np.tile(x, 4)[None, None])[0, 0].reshape(4, -1)
    with np.errstate(over="ignore"):
        right = 1 / (1 + np.exp(-x.astype(np.float64)))
    for i in (0, 1, 3):
        assert (abs(got[i] - right) <= 4e-7 * right).all()
    right = np.tanh(x.astype(np.float64))
    assert (abs(got[2] - right) <= 5e-7 * abs(right)).all()


def test_extreme_numbers() -> None:
    x = np.array([np.inf, -np.inf, 1e30, -1e30, 100, -100, 0, np.nan], np.float32)
    got = gates(np.tile(x, 4)[None, None])[0, 0].reshape(4, -1)
    for i in (0, 1, 3):
        np.testing.assert_allclose(got[i], [1, 0, 1, 0, 1, 0, 0.5, np.nan], atol=1e-37)
    np.testing.assert_array_equal(got[2], [1, -1, 1, -1, 1, -1, 0, np.nan])


def test_short_sequences_of_little_work_do_not_wait_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg, "SMALL", 2**20)
    for steps, size, compiled in ((8, 16, False), (9, 16, True), (2, 512, True)):
        x, h = np.zeros((steps, 1, 4 * size), np.float32), np.zeros((1, size), np.float32)
        assert recurrent._covered(x, h) == compiled
        assert not recurrent._covered(x.astype(np.float64), h)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_types_are_left_to_the_reference(kind: str, dtype: type) -> None:
    args = [a.astype(dtype) for a in sample(kind, 2, 3, 5, True)]
    got = getattr(recurrent, kind)(*args, reverse=False)
    want = getattr(reference, kind)(*args, reverse=False)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a, b, rtol=1e-2 if dtype == np.float16 else 1e-12)
