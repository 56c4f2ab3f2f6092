"""Products of matrices divided among threads, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl.kernels.cpu import linalg, threads

sizes = st.integers(1, 20)


@pytest.fixture(autouse=True)
def divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth three threads, whatever the machine has."""
    monkeypatch.setattr(linalg, "SERIAL", -1)
    monkeypatch.setattr(linalg, "SHARE", 1)
    monkeypatch.setattr(threads, "count", lambda: 3)


def draw(shape: tuple[int, ...], turned: bool) -> np.ndarray:
    rng = np.random.default_rng(sum(shape))
    return rng.standard_normal(shape[::-1]).T if turned else rng.standard_normal(shape)


@given(sizes, sizes, sizes, st.booleans(), st.booleans())
def test_two_matrices(n: int, k: int, m: int, first: bool, second: bool) -> None:
    a, b = draw((n, k), first), draw((k, m), second)
    got = linalg.matmul(a, b)
    np.testing.assert_allclose(got, np.einsum("nk,km->nm", a, b), 1e-12, 1e-12)
    np.testing.assert_array_equal(got, linalg.matmul(a, b), "the same call gave other bits")
    assert got.flags.c_contiguous
    np.testing.assert_allclose(linalg.linear(a, b.T, b[0]), np.einsum("nk,km->nm", a, b) + b[0], 1e-12, 1e-12)
    np.testing.assert_allclose(linalg.linear_weight(a, a[:, :1]), np.einsum("nk,nj->kj", a, a[:, :1]), 1e-12, 1e-12)


@pytest.mark.parametrize(
    ("a", "b"),
    [((7, 2, 3), (7, 3, 4)), ((7, 2, 3), (1, 3, 4)), ((2, 3), (5, 3, 4)), ((6, 2, 2, 3), (6, 1, 3, 2)), ((3,), (3, 4)),
     ((4, 3), (3,)), ((0, 2, 3), (0, 3, 4)), ((0, 3), (3, 4)), ((3, 0), (0, 4)), ((2, 3, 4), (4, 5))],
)  # fmt: skip
def test_stacks_and_vectors(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = draw(a, False), draw(b, False)
    got = linalg.matmul(x, y)
    np.testing.assert_allclose(got, x @ y, 1e-12, 1e-12)
    assert got.shape == (x @ y).shape


def test_sequences_of_vectors_and_whole_numbers() -> None:
    x, w = draw((5, 4, 3), False), draw((6, 3), False)
    np.testing.assert_allclose(linalg.linear(x, w, None), x @ w.T, 1e-12, 1e-12)
    np.testing.assert_allclose(linalg.linear_weight(x @ w.T, x), np.einsum("abk,abi->ki", x @ w.T, x), 1e-12, 1e-12)
    whole = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(linalg.matmul(whole, whole.T), whole @ whole.T)
