"""The compiled convolutional GRU against reference/recurrent.py in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import conv_gru_loops as loops
from minidl.kernels.cpu import recurrent, threads
from minidl.kernels.cpu.algorithms import is_small
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import recurrent as reference

workers = st.integers(1, min(4, threads.most()))


@pytest.fixture(autouse=True)
def everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is worth the compiled loops, and all threads."""
    monkeypatch.setattr(recurrent, "is_small", lambda geometry: False)
    monkeypatch.setattr(recurrent, "SHARE", 1)
    monkeypatch.setattr(recurrent, "FEW", 1)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(np.float32)
    a.flags.writeable = False
    return a


def sample(steps: int, n: int, size: int, plane: tuple[int, int], kernel: tuple[int, int]) -> tuple[list[Any], Any]:
    scale = np.float32((size * kernel[0] * kernel[1]) ** -0.5)
    w = random(3 * size, size, *kernel) * scale
    h = random(n, size, *plane, seed=1)
    padding = (kernel[0] // 2, kernel[1] // 2)
    geometry = ConvGeometry.of(h.shape, (2 * size, *w.shape[1:]), padding=padding)
    return [random(steps, n, 3 * size, *plane), h, w], geometry


def wide(arrays: Any) -> list[Any]:
    return [a.astype(np.float64) for a in arrays]


def close(got: Any, want: Any, tolerance: float = 2e-5) -> None:
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        assert abs(a - b).max(initial=0) <= tolerance * max(1, abs(b).max(initial=0))


def same(a: Any, b: Any) -> None:
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)


sizes = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 20))
planes = st.tuples(st.integers(1, 9), st.integers(1, 9))
kernels = st.sampled_from([(1, 1), (3, 3), (3, 1), (5, 3)])


@settings(max_examples=40, deadline=None)
@given(sizes, planes, kernels, st.booleans(), workers)
def test_forward_and_backward(size: Any, plane: Any, kernel: Any, reverse: bool, number: int) -> None:
    args, geometry = sample(*size, plane, kernel)
    at = {"geometry": geometry, "reverse": reverse}
    with threads.limited(number):
        got = recurrent.conv_gru(*args, **at)
        same(got, recurrent.conv_gru(*args, **at))
    want = reference.conv_gru(*wide(args), **at)
    close(got, want)
    rest, needs = [random(*got[0].shape, seed=2), *args[1:], *[a.astype(np.float32) for a in want]], [True] * 3
    with threads.limited(number):
        gradients = recurrent.conv_gru_backward(*rest, needs=needs, **at)
        same(gradients, recurrent.conv_gru_backward(*rest, needs=needs, **at))
    close(gradients, reference.conv_gru_backward(*wide(rest), needs=needs, **at), 5e-5)


@pytest.mark.parametrize("reverse", [False, True])
def test_with_compiled_convolutions(reverse: bool) -> None:
    args, geometry = sample(3, 2, 33, (9, 11), (3, 3))
    at = {"geometry": geometry, "reverse": reverse}
    got = recurrent.conv_gru(*args, **at)
    close(got, reference.conv_gru(*wide(args), **at))
    rest = [random(*got[0].shape, seed=2), *args[1:], *got]
    gradients = recurrent.conv_gru_backward(*rest, needs=[True] * 3, **at)
    close(gradients, reference.conv_gru_backward(*wide(rest), needs=[True] * 3, **at), 1e-4)


def layouts(a: np.ndarray) -> list[np.ndarray]:
    """The numbers of a (T, N, C, H, W) lying in different ways."""
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 2, -1)), -1, 2)
    batch_first = np.ascontiguousarray(last.transpose(1, 0, 3, 4, 2)).transpose(1, 0, 4, 2, 3)
    spaced = np.repeat(a, 2, axis=2)[:, :, ::2]
    bytes_off = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape)
    assert not bytes_off.flags.aligned
    return [last, batch_first, spaced, a[..., ::-1].copy()[..., ::-1], np.asfortranarray(a), bytes_off]


def test_any_layout_gives_the_same_bits() -> None:
    (x, h, w), geometry = sample(3, 2, 5, (4, 6), (3, 3))
    at = {"geometry": geometry, "reverse": False}
    want = recurrent.conv_gru(x, h, w, **at)
    gy = random(*want[0].shape, seed=2)
    gradients = recurrent.conv_gru_backward(gy, h, w, *want, needs=[True] * 3, **at)
    others = zip(*map(layouts, (x, h[None], gy, *want)), strict=True)
    for x, (h,), gy, y, gates, candidates in others:
        same(recurrent.conv_gru(x, h, w, **at), want)
        same(recurrent.conv_gru_backward(gy, h, w, y, gates, candidates, needs=[True] * 3, **at), gradients)
    flat = np.broadcast_to(np.float32(0.5), gy.shape)
    spread = recurrent.conv_gru_backward(flat, h, w, *want, needs=[True] * 3, **at)
    same(recurrent.conv_gru_backward(flat.copy(), h, w, *want, needs=[True] * 3, **at), spread)


@pytest.mark.parametrize("needs", [[True, False, False], [False, True, False], [False, False, True], [False] * 3])
@pytest.mark.parametrize("reverse", [False, True])
def test_only_what_is_needed(needs: list[bool], reverse: bool) -> None:
    args, geometry = sample(3, 2, 5, (4, 6), (3, 3))
    at = {"geometry": geometry, "reverse": reverse}
    got = recurrent.conv_gru(*args, **at)
    rest = [random(*got[0].shape, seed=2), *args[1:], *got]
    everything = recurrent.conv_gru_backward(*rest, needs=[True] * 3, **at)
    some = recurrent.conv_gru_backward(*rest, needs=needs, **at)
    for need, a, b in zip(needs, some, everything, strict=True):
        if need:
            np.testing.assert_array_equal(a, b)
        else:
            assert a is None


def test_half_precision_is_computed_in_single() -> None:
    args, geometry = sample(2, 2, 5, (4, 6), (3, 3))
    args = [a.astype(np.float16) for a in args]
    at = {"geometry": geometry, "reverse": False}
    got = recurrent.conv_gru(*args, **at)
    want = recurrent.conv_gru(*[a.astype(np.float32) for a in args], **at)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == np.float16
        np.testing.assert_array_equal(a, b.astype(np.float16))


def test_float64_is_left_to_the_reference() -> None:
    args, geometry = sample(2, 2, 5, (4, 6), (3, 3))
    at = {"geometry": geometry, "reverse": False}
    for a, b in zip(recurrent.conv_gru(*wide(args), **at), reference.conv_gru(*wide(args), **at), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_small_work_does_not_wait_for_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    (x, h, w), geometry = sample(2, 1, 3, (4, 4), (3, 3))
    monkeypatch.delattr(loops, "open_gates")
    with pytest.raises(ImportError, match="open_gates"):
        recurrent.conv_gru(x, h, w, geometry=geometry, reverse=False)
    monkeypatch.setattr(recurrent, "is_small", is_small)
    assert recurrent.conv_gru(x, h, w, geometry=geometry, reverse=False)[0].shape == (2, 1, 3, 4, 4)


# ---- the loops by themselves

GUARD = 64  # numbers on both sides of each array


class Guarded:
    """Arrays of random numbers between guards."""

    def __init__(self) -> None:
        self.memory: list[np.ndarray] = []

    def __call__(self, size: int) -> np.ndarray:
        a = np.full(size + 2 * GUARD, 7, np.float32)
        a[GUARD:-GUARD] = random(size, seed=len(self.memory))
        self.memory.append(a)
        return a[GUARD:-GUARD]

    def check(self) -> None:
        for a in self.memory:
            assert (a[:GUARD] == 7).all() and (a[-GUARD:] == 7).all()


def sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), workers)
def test_passes_compute_what_they_say_and_write_nothing_else(rows: int, size: int, number: int) -> None:
    make = Guarded()
    one = lambda: make(rows * size)
    x, gx, product, gates, ggates = (make(rows * size * k) for k in (3, 3, 2, 2, 2))
    h, gated, candidate, y, gy, gh, more, gcandidate, before = (one() for _ in range(9))
    parts = lambda a, k: a.astype(np.float64).reshape(rows, k, size).transpose(1, 0, 2)
    part = lambda a: a.astype(np.float64).reshape(rows, size)
    z, r = sigmoid(parts(x, 3)[:2] + parts(product, 2))

    loops.open_gates(number, x, product, h, gates, gated, size)
    close(parts(gates, 2).astype(np.float32), [z, r], 1e-6)
    close([gated.reshape(rows, size)], [r * part(h)], 1e-6)

    c = np.tanh(parts(x, 3)[2] + part(more))
    loops.next_state(number, x, more, h, gates, candidate, y, size)
    close([candidate.reshape(rows, size)], [c], 1e-6)
    close([y.reshape(rows, size)], [part(h) + z * (c - part(h))], 1e-6)

    slope, old = part(gh) + part(gy) + part(more), part(h)
    loops.next_state_backward(number, gy, more, h, gates, candidate, gh, gx, ggates, gcandidate, before, gated, size)
    gz, gc = slope * (c - old) * z * (1 - z), slope * z * (1 - c * c)
    got = [parts(gx, 3)[0], parts(gx, 3)[2], parts(ggates, 2)[0], part(gcandidate), part(gh), part(before), part(gated)]
    want = [gz, gc, gz, gc, slope * (1 - z), old, r * old]
    close([a.astype(np.float32) for a in got], want, 2e-6)

    kept = part(gh)
    loops.open_gates_backward(number, more, h, gates, gh, gx, ggates, size)
    gr = part(more) * old * r * (1 - r)
    got = [parts(gx, 3)[1], parts(ggates, 2)[1], part(gh)]
    close([a.astype(np.float32) for a in got], [gr, gr, kept + part(more) * r], 2e-6)
    make.check()
