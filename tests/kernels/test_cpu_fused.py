"""Compiled kernels of batch norm and of the optimizers, and the cross-entropy by rows, against their references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cpu_cases import framed, guarded
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minidl
from minidl import optim
from minidl.kernels.cpu import normalization, optimizer, threads
from minidl.kernels.reference import normalization as reference


@pytest.fixture
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("LARGE", 0), ("SHARE", 1), ("IN_CACHE", 5)):
        monkeypatch.setattr(normalization, name, value)
    monkeypatch.setattr(optimizer, "LARGE", 0)
    monkeypatch.setattr(optimizer, "SHARE", 1)


shapes = st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 9), st.integers(1, 12)).filter(
    lambda s: s[0] * s[2] * s[3] > 1
)


@pytest.mark.usefixtures("small_is_large")
@settings(max_examples=30)
@given(
    shapes, st.sampled_from([2, 3, 4, 5]), st.sampled_from([np.float32, np.float64]), st.booleans(), st.integers(0, 3)
)
@example((2, 3, 70, 80), 4, np.float32, False, 2)  # planes of more than a chunk
@example((9, 5, 90, 80), 4, np.float32, True, 2)  # several parts, a last row that is short
@example((3, 1100, 3, 3), 4, np.float64, True, 0)  # channels that do not fit into a block
@example((2, 100_000, 1, 1), 2, np.float32, True, 2)  # fewer rows than there would be parts
def test_batch_norm(shape: tuple[int, ...], rank: int, dtype: Any, last: bool, offset: int) -> None:
    shape = {2: (shape[0] + 1, shape[1]), 3: shape[:3], 4: shape, 5: (*shape, 2)}[rank]
    if shape[0] * int(np.prod(shape[2:])) < 2:
        return
    rng = np.random.default_rng(sum(shape))
    layout = "channels last" if last else "planes"
    make = lambda *s: np.asarray(rng.standard_normal(s)).astype(dtype)
    x = framed(make(*shape) + dtype(10**offset if offset else 0), layout)
    g, gamma, beta = framed(make(*shape), layout), framed(make(shape[1])), framed(make(shape[1]))
    with guarded(normalization):
        y, mean, var = normalization.batch_norm(x, gamma, beta, eps=1e-3)
        again = normalization.batch_norm(x, gamma, beta, eps=1e-3)
    wide = [a.astype(np.float64) for a in (x, gamma, beta)]
    expected = reference.batch_norm(*wide, eps=1e-3)
    # x itself is known to 6e-8 of its offset; divided by the deviation that is what y can be off by
    near = (1e-6 if dtype == np.float32 else 1e-14) * 10**offset
    for got, right in zip((y, mean, var), expected, strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(got, right, near * 30, near * 30 * max(1, np.abs(gamma).max()))
    for got, same in zip((y, mean, var), again, strict=True):
        np.testing.assert_array_equal(got, same, "the same call gave other bits")
    needs = [True, True, True]
    with guarded(normalization):
        found = normalization.batch_norm_backward(g, x, gamma, mean, var, needs=needs, eps=1e-3)
        none = normalization.batch_norm_backward(g, x, gamma, mean, var, needs=[False, True, False], eps=1e-3)
    right = reference.batch_norm_backward(
        g.astype(np.float64), wide[0], wide[1], mean.astype(np.float64), var.astype(np.float64), needs=needs, eps=1e-3
    )
    for a, b in zip(found, right, strict=True):
        assert a is not None and b is not None and a.dtype == dtype
        np.testing.assert_allclose(a, b, near * 100, near * 100 * max(1, np.abs(b).max()))
    assert none[0] is None and none[2] is None
    np.testing.assert_array_equal(none[1], found[1])
    if rank > 2:
        assert found[0].strides == y.strides
        assert (np.moveaxis(y, 1, -1) if last else y).flags.c_contiguous or 1 in shape


@pytest.mark.usefixtures("small_is_large")
def test_batch_norm_far_from_zero() -> None:
    """E[x²] - E[x]² would have no digit left."""
    for layout in ("planes", "channels last"):
        x = framed((np.random.default_rng(0).standard_normal((40, 7, 12, 12)) + 1e4).astype(np.float32), layout)
        ones, zeros = np.ones(7, np.float32), np.zeros(7, np.float32)
        _, mean, var = normalization.batch_norm(x, ones, zeros, eps=0.0)
        np.testing.assert_allclose(mean, x.astype(np.float64).mean((0, 2, 3)), 1e-7)
        np.testing.assert_allclose(var, x.astype(np.float64).var((0, 2, 3)), 1e-4)


@pytest.mark.usefixtures("small_is_large")
def test_batch_norm_has_the_same_bits_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for layout in ("planes", "channels last"):
        x = framed(rng.standard_normal((16, 24, 30, 30), dtype=np.float32), layout)
        gamma = rng.standard_normal(24, dtype=np.float32)
        found = set()
        for number in (1, 2, 3):
            monkeypatch.setattr(threads, "count", lambda number=number: min(number, threads.get_num_threads()))
            y, mean, var = normalization.batch_norm(x, gamma, gamma, eps=1e-5)
            back = normalization.batch_norm_backward(y, x, gamma, mean, var, needs=[True] * 3, eps=1e-5)
            found.add(b"".join(np.ascontiguousarray(a).tobytes() for a in (y, mean, var, *back)))
        assert len(found) == 1


@pytest.mark.usefixtures("small_is_large")
@pytest.mark.parametrize("shape", [(9, 4), (7, 3, 5), (1, 6), (5, 2, 3, 4)])
def test_cross_entropy_by_rows(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape)
    target = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    loss, lse = normalization.softmax_cross_entropy(x, target)
    for got, right in zip((loss, lse), reference.softmax_cross_entropy(x, target), strict=True):
        np.testing.assert_array_equal(got, right)
    g = rng.standard_normal(target.shape)
    got, _ = normalization.softmax_cross_entropy_backward(g, x, target, lse, needs=[True, False])
    right, _ = reference.softmax_cross_entropy_backward(g, x, target, lse, needs=[True, False])
    np.testing.assert_array_equal(got, right)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 300), st.sampled_from([0.0, 1.0, 30.0, 1e4]), st.integers(0, 10**6))
def test_cross_entropy_of_rows_by_compiled_loops(count: int, classes: int, spread: float, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SHARE", 1), ("IN_CACHE", 50)):
            patch.setattr(normalization, name, value)
        rng = np.random.default_rng(seed)
        x = (rng.standard_normal((count, classes)) * spread).astype(np.float32)
        target, g = rng.integers(0, classes, count), rng.standard_normal(count).astype(np.float32)
        loss, lse = normalization.softmax_cross_entropy(x, target)
        gx, _ = normalization.softmax_cross_entropy_backward(g, x, target, lse, needs=[True, False])
    wide = x.astype(np.float64)
    right, right_lse = reference.softmax_cross_entropy(wide, target)
    right_gx, _ = reference.softmax_cross_entropy_backward(g.astype(np.float64), wide, target, right_lse, needs=[True])
    near = 1e-6 * max(1, np.abs(x).max())
    np.testing.assert_allclose(lse, right_lse, 1e-6, near)
    np.testing.assert_allclose(loss, right, 1e-6, 2 * near)
    np.testing.assert_allclose(gx, right_gx, 1e-5 + 2 * near, 2 * near * np.abs(g).max())


def test_cross_entropy_of_rows_at_the_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalization, "IN_CACHE", 1)
    x = np.zeros((4, 5), np.float32)
    x[0, 1:] = -np.inf  # classes that are ruled out
    x[1, 2] = np.nan
    x[2] = [88, -88, 1e30, -1e30, 0]
    target = np.array([0, 1, 2, 3])
    with np.errstate(all="ignore"):
        loss, lse = normalization.softmax_cross_entropy(x, target)
        right = reference.softmax_cross_entropy(x, target)
        gx, _ = normalization.softmax_cross_entropy_backward(lse, x, target, lse, needs=[True, False])
        right_gx, _ = reference.softmax_cross_entropy_backward(lse, x, target, lse, needs=[True, False])
    np.testing.assert_allclose(loss, right[0], 1e-6)
    np.testing.assert_allclose(lse, right[1], 1e-6)
    np.testing.assert_allclose(gx, right_gx, 1e-6)
    with pytest.raises(IndexError):
        normalization.softmax_cross_entropy(x, target + 2)


# ---- optimizers
OPTIONS = [
    (optim.Adam, {}),
    (optim.Adam, {"weight_decay": 0.1, "betas": (0.5, 0.9), "maximize": True}),
    (optim.AdamW, {"weight_decay": 0.3}),
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "maximize": True}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["planes", "channels last"])
@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_compiled_steps_have_the_bits_of_numpy(
    kind: Any, options: dict, layout: str, dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run() -> list[np.ndarray]:
        rng = np.random.default_rng(0)
        draw = lambda: framed(rng.standard_normal((30, 7, 9, 11)).astype(dtype), layout).copy(order="K")
        p = minidl.Tensor(draw()).requires_grad_()
        optimizer = kind([p], **options)
        for _ in range(3):
            p.grad = minidl.Tensor(draw())
            optimizer.step()
        state = optimizer.state[p]
        return [p.numpy(), *(v for v in state.values() if isinstance(v, np.ndarray))]

    monkeypatch.setattr(optimizer, "worth", lambda elements: False)
    expected = run()
    monkeypatch.setattr(optimizer, "worth", lambda elements: True)
    monkeypatch.setattr(optimizer, "SHARE", 1)
    assert optimizer.covers(framed(np.zeros((30, 7, 9, 11), dtype), layout).copy(order="K"))
    got = run()
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.strides == b.strides


def test_optimizers_leave_what_does_not_fit_to_numpy() -> None:
    p = np.zeros((600, 600), np.float32)
    assert optimizer.covers(p, p.copy(), None)
    assert optimizer.covers(p.T, p.T, None)
    assert not optimizer.covers(p, p.T)
    assert not optimizer.covers(p, p.astype(np.float64))
    assert not optimizer.covers(p[::2], p[::2])
    assert not optimizer.covers(np.broadcast_to(np.float32(0), p.shape))
    assert not optimizer.covers(framed(p))  # read-only
    assert not optimizer.covers(p.astype(np.float16))
