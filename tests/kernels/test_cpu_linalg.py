"""Products of matrices on the CPU: the compiled loops against sums in float64, and who computes what."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import linalg, products, threads
from minidl.kernels.cpu.vector import PANEL

sizes = st.integers(0, 70)
some = st.integers(1, 70)
dtypes = st.sampled_from([np.float32, np.float64])
lies = st.sampled_from(["rows", "columns", "gaps", "backwards", "read-only", "spread"])
workers = st.integers(1, min(4, threads.most()))


@pytest.fixture(params=["blocks of one size", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small blocks: edges of all kinds within small matrices, and A is copied however near its terms are."""
    if request.param == "small blocks":
        monkeypatch.setattr(products, "CHUNK", 8 * PANEL)
        monkeypatch.setattr(products, "BLOCK", 1)
        monkeypatch.setattr(products, "FAR", 0)
    products._plan.cache_clear()
    yield
    products._plan.cache_clear()


@pytest.fixture
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth the compiled loops, and all threads."""
    monkeypatch.setattr(linalg, "SMALL", 0)
    monkeypatch.setattr(linalg, "SHARE", 1)
    monkeypatch.setattr(linalg, "FEW", -1)


def draw(shape: tuple[int, ...], dtype: type, lie: str = "rows") -> np.ndarray:
    """Random numbers that lie in memory as told, between others that are not numbers."""
    rng = np.random.default_rng(sum(shape))
    *stack, n, m = shape
    if lie == "spread":  # all rows are one
        return np.broadcast_to(rng.standard_normal((*stack, 1, m)).astype(dtype), shape)
    field: np.ndarray = np.full((*stack, 3 * n + 2, 3 * m + 2), np.nan, dtype)
    if lie == "columns":
        field = field.swapaxes(-1, -2).copy().swapaxes(-1, -2)
    if lie == "gaps":
        view = field[..., 1 : 1 + 3 * n : 3, 1 : 1 + 3 * m : 3]
    elif lie == "backwards":
        view = field[..., n:0:-1, 1 : 1 + m]
    else:
        view = field[..., 1 : 1 + n, 1 : 1 + m]
    view[...] = rng.standard_normal(shape)
    view.flags.writeable = lie != "read-only"
    return view


def check(got: np.ndarray, a: np.ndarray, b: np.ndarray, bias: np.ndarray | None = None) -> None:
    wide = [x.astype(np.float64) for x in (a, b)]
    want, most = np.einsum("...nk,...km->...nm", *wide), np.einsum("...nk,...km->...nm", *map(abs, wide))
    if bias is not None:
        want, most = want + bias, most + abs(bias)
    assert got.dtype == a.dtype
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    # rounding of sums in any order: half a unit for each of the terms, of which few are all wrong in one direction
    bound = 1e-10 if a.dtype == np.float64 else 2 * np.sqrt(a.shape[-1] + 1) * np.finfo(np.float32).eps
    assert np.all(abs(got - want) <= bound * most)


@settings(max_examples=300, deadline=None)
@given(some, some, some, dtypes, lies, lies, st.booleans(), workers)
@pytest.mark.usefixtures("blocks")
def test_any_sizes_and_strides(
    n: int, k: int, m: int, dtype: type, first: str, second: str, biased: bool, workers: int
) -> None:
    a, b = draw((n, k), dtype, first), draw((k, m), dtype, second)
    bias = draw((1, m), dtype)[0] if biased else None
    got = products.multiply(a, b, bias, workers)
    check(got, a, b, bias)
    np.testing.assert_array_equal(got, products.multiply(a, b, bias, workers), "the same call gave other bits")


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 9), some, some, some, dtypes, lies, lies, workers)
def test_stacks(s: int, n: int, k: int, m: int, dtype: type, first: str, second: str, workers: int) -> None:
    a, b = draw((s, n, k), dtype, first), draw((s, k, m), dtype, second)
    check(products.multiply(a, b, None, workers), a, b)


LARGE = [(128, 784, 400), (400, 128, 784), (37, 1030, 65), (613, 300, 97), (5, 2100, 300), (90, 600, 33), (1, 3000, 17)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", LARGE)
@pytest.mark.parametrize("lie", ["rows", "columns"])
def test_larger_than_a_block(shape: tuple[int, int, int], lie: str, dtype: type) -> None:
    n, k, m = shape
    a, b, bias = draw((n, k), dtype, lie), draw((k, m), dtype, lie), draw((1, m), dtype)[0]
    for number in {1, min(3, threads.most()), threads.most()}:
        check(products.multiply(a, b, bias, number), a, b, bias)


@settings(max_examples=200, deadline=None)
@given(some, some, some, dtypes, lies, lies, st.booleans(), workers)
@pytest.mark.usefixtures("blocks")
def test_nothing_else_is_written(
    n: int, k: int, m: int, dtype: type, first: str, second: str, biased: bool, workers: int
) -> None:
    """Neither around the result nor around the memory that the workers are given."""
    a, b = (products._readable(draw(s, dtype, lie)) for s, lie in (((n, k), first), ((k, m), second)))
    turned, numbers, space = products._plan(a.shape, a.strides, b.shape, b.strides, a.itemsize, workers)
    field: np.ndarray = np.full(n * m + 256, np.nan, dtype)
    memory = np.full(space + 256, 171, np.uint8)
    out, bias = field[128:-128].reshape(1, n, m), draw((1, m), dtype)[0].copy()
    left, right = (b, a) if turned else (a, b)
    address = bias.ctypes.data if biased else 0
    products.product(workers, out, memory[128:-128], numbers, left.ctypes.data, right.ctypes.data, address)
    check(out[0], a, b, bias if biased else None)
    assert np.isnan(field[:128]).all()
    assert np.isnan(field[-128:]).all()
    assert (memory[:128] == 171).all()
    assert (memory[-128:] == 171).all()


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, sizes, dtypes, lies, lies)
@pytest.mark.usefixtures("everything")
def test_operations(n: int, k: int, m: int, dtype: type, first: str, second: str) -> None:
    a, b = draw((n, k), dtype, first), draw((k, m), dtype, second)
    check(linalg.matmul(a, b), a, b)
    bias = draw((1, m), dtype)[0]
    check(linalg.linear(a, b.T, bias), a, b, bias)
    check(linalg.linear(a, b.T, None), a, b)
    check(linalg.linear_weight(a.T, b), a, b)
    check(linalg.contract(a, b, subscripts=("nk", "km", "nm")), a, b)


@pytest.mark.parametrize("n", [1, 2, 4, 5, 33])
@pytest.mark.parametrize("m", [1, 4, 5, 300])
@pytest.mark.parametrize("k", [1, 4, 5, 300])
def test_few_rows_columns_or_terms(monkeypatch: pytest.MonkeyPatch, n: int, k: int, m: int) -> None:
    """BLAS computes these, in threads of ours."""
    monkeypatch.setattr(linalg, "SMALL", 0)
    monkeypatch.setattr(linalg, "SHARE", 1)
    for lie in ("rows", "columns"):
        a, b, bias = draw((n, k), np.float32, lie), draw((k, m), np.float32, lie), draw((1, m), np.float32)[0]
        check(linalg.matmul(a, b), a, b)
        check(linalg.linear(a, b.T, bias), a, b, bias)


@pytest.mark.parametrize(
    ("a", "b"),
    [((7, 2, 3), (7, 3, 4)), ((7, 2, 3), (1, 3, 4)), ((2, 3), (5, 3, 4)), ((6, 2, 2, 3), (6, 1, 3, 2)), ((3,), (3, 4)),
     ((4, 3), (3,)), ((0, 2, 3), (0, 3, 4)), ((0, 3), (3, 4)), ((3, 0), (0, 4)), ((2, 3, 4), (4, 5)), ((3,), (3,)),
     ((2, 3), (0, 3, 4)), ((2, 3, 0), (2, 0, 4)), ((2, 1, 4, 5), (3, 5, 2))],
)  # fmt: skip
@pytest.mark.usefixtures("everything")
def test_stacks_and_vectors(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal(a), rng.standard_normal(b)
    got = linalg.matmul(x, y)
    np.testing.assert_allclose(got, x @ y, 1e-12, 1e-12)
    assert got.shape == (x @ y).shape


@pytest.mark.usefixtures("everything")
def test_sequences_of_vectors_and_other_types() -> None:
    rng = np.random.default_rng(0)
    x, w, b = rng.standard_normal((5, 4, 3)), rng.standard_normal((6, 3)), rng.standard_normal(6)
    np.testing.assert_allclose(linalg.linear(x, w, b), x @ w.T + b, 1e-12, 1e-12)
    np.testing.assert_allclose(linalg.linear(x.swapaxes(0, 1), w, b[::1]), x.swapaxes(0, 1) @ w.T + b, 1e-12, 1e-12)
    np.testing.assert_allclose(linalg.linear(x, w, np.repeat(b, 2)[::2]), x @ w.T + b, 1e-12, 1e-12)
    np.testing.assert_allclose(linalg.linear_weight(x @ w.T, x), np.einsum("abk,abi->ki", x @ w.T, x), 1e-12, 1e-12)
    stacks = rng.standard_normal((3, 6, 5)), rng.standard_normal((3, 5, 7))
    got = linalg.contract(*stacks, subscripts=("bij", "bjk", "kbi"))
    np.testing.assert_allclose(got, np.einsum("bij,bjk->kbi", *stacks), 1e-12, 1e-12)
    whole = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(linalg.matmul(whole, whole.T), whole @ whole.T)
    half = x[0].astype(np.float16)
    assert linalg.matmul(half, half.T).dtype == np.float16
    mixed = linalg.matmul(x[0].astype(np.float32), w.T)
    assert mixed.dtype == np.float64
    swapped = x[0].astype(">f8")
    np.testing.assert_allclose(linalg.matmul(swapped, w.T), x[0] @ w.T, 1e-12, 1e-12)


def test_unaligned() -> None:
    memory = np.zeros(8 * 30 + 1, np.uint8)
    a = memory[1:].view(np.float64).reshape(5, 6)
    a[...] = np.arange(30).reshape(5, 6)
    assert not a.flags.aligned
    np.testing.assert_array_equal(products.multiply(a, a.T), a @ a.T)


def test_infinities_and_what_is_no_number() -> None:
    a, b = np.ones((20, 9), np.float32), np.ones((9, 40), np.float32)
    a[3, 2], a[7, 1], b[4, 5] = np.inf, np.nan, -np.inf
    got = products.multiply(a, b)
    assert np.isposinf(got[3, 0])
    assert np.isnan(got[3, 5])
    assert np.isnan(got[7]).all()
    assert np.isneginf(got[0, 5])
    assert np.isfinite(np.delete(np.delete(got, [3, 7], 0), 5, 1)).all()
    big = np.full((20, 9), 1e38, np.float32)
    assert np.isposinf(products.multiply(big, big.T)).all()


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5), *[st.integers(1, 2000)] * 3, st.booleans(), st.booleans(), st.sampled_from([4, 8]), workers)
def test_divisions(stack: int, n: int, k: int, m: int, first: bool, second: bool, size: int, workers: int) -> None:
    """All workers are used, and few products are divided so badly that one has more than twice its share."""
    plan = products.division(stack, n, k, m, first, second, size, workers)
    parts = plan.batch_parts * plan.row_parts * plan.column_parts
    assert parts == workers
    assert plan == products.division(stack, n, k, m, first, second, size, workers)
    rows, columns = (m, n) if plan.turned else (n, m)
    if min(rows, columns) >= 64 * workers:
        alone = products.division(stack, n, k, m, first, second, size, 1)
        assert plan.cycles <= 2 * alone.cycles / workers


def test_small_products_do_not_import_numba() -> None:
    code = (
        "import sys, minidl, minidl.functional as F;"
        "x, w = minidl.ones(32, 64, requires_grad=True), minidl.ones(128, 64, requires_grad=True);"
        "F.linear(x, w).sum().backward(); (x @ w.T).sum().backward();"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
