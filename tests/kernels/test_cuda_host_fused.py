"""The CUDA kernels beside the convolutions on the CPU, against the reference, in several thread orders."""

from __future__ import annotations

import os
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import minidl
from minidl import functional as F
from minidl.checking import cuda_host
from minidl.checking.cuda_host import installed, thread_order
from minidl.kernels.cuda import (
    channels,
    dropout,
    elementwise,
    fused,
    launch,
    losses,
    normalization,
    optimizer,
    recurrent,
)
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference_conv
from minidl.kernels.reference import elementwise as reference_elementwise
from minidl.kernels.reference import normalization as reference_normalization
from minidl.kernels.reference import recurrent as reference_recurrent
from minidl.kernels.reference import reduction

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

ORDERS = (0, 1, 2)  # of threads and blocks: ascending, descending, a shuffle
# what a result may differ by, relative to the largest number around: the rounding of its type, times what sums add
NEAR = {"float32": 2e-6, "float64": 1e-13, "float16": 2e-3}  # bfloat16: test_cuda_bfloat16_fused.py
DTYPES = st.sampled_from(list(NEAR))
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=5).map(tuple)  # (N, C, …)


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cupy():
    with installed() as library:
        yield library


def normal(rng: np.random.Generator, shape: Any, dtype: str, last: bool = False) -> np.ndarray:
    """Normal numbers as the type holds them, channels-last in memory if asked for."""
    x = np.asarray(rng.standard_normal(shape)).astype(dtype)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x


def wide(a: Any) -> Any:
    """16-bit numbers as float32: what the kernels compute in."""
    return a.astype("float32") if getattr(a, "dtype", None) == np.float16 else a


def lies_like(actual: Any, x: np.ndarray) -> bool:
    """Whether the axes of both (those of size 1 tell nothing) have the same order in memory."""
    order = lambda a: [stride for stride, size in zip(a.strides, a.shape, strict=True) if size > 1]
    return order(actual) == order(x)


def close(actual: Any, expected: np.ndarray | None, dtype: str) -> None:
    """A result of the stand-in against an array of the reference: its type and, to its precision, its values."""
    if expected is None:
        assert actual is None
        return
    actual = actual.get()
    assert actual.dtype == dtype and actual.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual.astype("float64"), expected.astype("float64"), NEAR[dtype], NEAR[dtype] * scale)


# ---- batch norm
@given(SHAPES, DTYPES, st.booleans(), st.sampled_from([0, 100]), SEEDS)
@example((40, 3, 30), "float32", False, 1000, 0)  # far from 0, where E[x^2] - E[x]^2 would lose all digits
@example((90, 70), "float64", True, 0, 1)  # several blocks side by side and behind each other
@example((3, 5, 45, 41), "float32", True, 0, 2)
@settings(max_examples=30)
def test_batch_norm(shape, dtype, last, offset, seed):
    rng = np.random.default_rng(seed)
    x, g = (normal(rng, shape, dtype, last) for _ in range(2))
    x = x + np.asarray(offset).astype(x.dtype) if dtype in ("float32", "float64") else x
    gamma, beta = (normal(rng, shape[1], dtype) for _ in range(2))
    with np.errstate(all="ignore"):
        y, mean, var = reference_normalization.batch_norm(*map(wide, (x, gamma, beta)), eps=1e-1)
        saved = [v.astype(x.dtype) for v in (mean, var)]
        grads = reference_normalization.batch_norm_backward(
            *map(wide, (g, x, gamma, *saved)), needs=[True] * 3, eps=1e-1
        )
    with installed() as cupy:
        out = normalization.batch_norm(*map(cupy.asarray, (x, gamma, beta)), eps=1e-1)
        back = normalization.batch_norm_backward(*map(cupy.asarray, (g, x, gamma, *saved)), needs=[True] * 3, eps=1e-1)
        assert lies_like(out[0], x) and lies_like(back[0], x)
        precision = NEAR[dtype] * max(1, offset)  # x itself is rounded relative to its offset
        for actual, expected in zip((*out, *back), (y, mean, var, *grads), strict=True):
            scale = precision * max(1.0, float(np.abs(expected).max()))
            assert actual.dtype == x.dtype
            np.testing.assert_allclose(actual.get().astype("f8"), expected.astype("f8"), precision, scale * 4)


def test_batch_norm_gives_what_is_needed(cupy):
    x = cupy.asarray(np.random.default_rng(0).standard_normal((4, 3, 5), "float32"))
    one = cupy.ones(3, "float32")
    y, mean, var = normalization.batch_norm(x, one, one, eps=1e-5)
    for needs in ([True, False, False], [False, True, False], [False, False, True]):
        back = normalization.batch_norm_backward(y, x, one, mean, var, needs=needs, eps=1e-5)
        assert [a is not None for a in back] == needs


def test_passes_over_channels_cover_every_element_once():
    for shape, last in [((2, 3, 4), False), ((2, 3, 4), True), ((70, 33), True), ((9, 2, 3000), False), ((1, 1), True)]:
        p = channels.plan(shape, last)
        rows = p.batch * p.places
        assert rows * p.channels == prod(shape)
        assert (p.parts - 1) * p.rows_of_part < rows <= p.parts * p.rows_of_part
        assert p.groups * p.width >= p.channels > (p.groups - 1) * p.width
        assert p.width * p.members == fused.THREADS and p.members & (p.members - 1) == 0
        assert p.parts <= channels.PARTS
    assert channels.plan((32, 64, 56, 56), False).parts > 1  # enough blocks to fill a device


def test_rows_are_divided_among_threads():
    for outer, classes, inner in [(5, 1000, 1), (300, 3, 1), (2, 21, 50), (1, 1, 1), (7, 10**6, 1)]:
        p = losses.plan(outer, classes, inner)
        assert p.members & (p.members - 1) == 0 and p.members <= fused.THREADS
        rows = fused.THREADS // p.members  # of a block
        assert (p.blocks - 1) * rows < outer * inner <= p.blocks * rows
        assert p.members == 1 or inner == 1
    with pytest.raises(ValueError, match="counted in 32 bits"):
        losses.plan(1, 2**31, 1)


# ---- softmax and cross-entropy
@given(SHAPES, DTYPES, st.booleans(), SEEDS)
@example((5, 1000), "float32", False, 0)  # a row for each block
@example((300, 3), "float64", False, 1)  # many rows in a block
@example((1, 1), "float32", False, 2)
@settings(max_examples=30)
def test_softmax_cross_entropy(shape, dtype, last, seed):
    rng = np.random.default_rng(seed)
    x, target = normal(rng, shape, dtype, last), rng.integers(-shape[1], shape[1], (shape[0], *shape[2:]))
    g = normal(rng, target.shape, dtype)
    loss, lse = reference_normalization.softmax_cross_entropy(wide(x), target)
    saved = lse.astype(x.dtype)
    (gx, _) = reference_normalization.softmax_cross_entropy_backward(
        wide(g), wide(x), target, wide(saved), needs=[True, False]
    )
    with installed() as cupy:
        x, target, g, saved = map(cupy.asarray, (x, target, g, saved))
        out = losses.softmax_cross_entropy(x, target)
        back, none = losses.softmax_cross_entropy_backward(g, x, target, saved, needs=[True, False])
        assert none is None and lies_like(back, x)
        for actual, expected in zip((*out, back), (loss, lse, gx), strict=True):
            close(actual, expected, dtype)


@given(SHAPES, DTYPES, st.booleans(), SEEDS, st.data())
@settings(max_examples=30)
def test_softmax(shape, dtype, last, seed, data):
    rng = np.random.default_rng(seed)
    x, axis = normal(rng, shape, dtype, last), data.draw(st.integers(0, len(shape) - 1))
    axes = tuple(range(axis, data.draw(st.integers(axis, len(shape) - 1)) + 1))
    with installed() as cupy:
        device = cupy.asarray(x)
        for name in ("softmax", "log_softmax"):
            y = getattr(losses, name)(device, axis=axis)
            assert lies_like(y, x)
            close(y, getattr(reduction, name)(wide(x), axis=axis), dtype)
        for keepdims in (False, True):
            y = losses.logsumexp(device, axis=axes, keepdims=keepdims)
            close(y, reduction.logsumexp(wide(x), axis=axes, keepdims=keepdims), dtype)


INFINITE = np.array(
    [[1, 2, np.inf], [-np.inf] * 3, [-np.inf, 0, 1], [np.nan, 1, 2], [np.inf, np.inf, 1], [1, np.inf, np.nan]]
)


def test_infinities_and_nan_are_those_of_the_reference(cupy):
    x, target = cupy.asarray(INFINITE), np.zeros(len(INFINITE), int)
    with np.errstate(all="ignore"):
        for name in ("softmax", "log_softmax"):
            expected = getattr(reduction, name)(INFINITE, axis=1)
            np.testing.assert_allclose(getattr(losses, name)(x, axis=1).get(), expected)
        expected = reduction.logsumexp(INFINITE, axis=(1,), keepdims=False)
        np.testing.assert_allclose(losses.logsumexp(x, axis=(1,), keepdims=False).get(), expected)
        expected = reference_normalization.softmax_cross_entropy(INFINITE, target)
    for actual, right in zip(losses.softmax_cross_entropy(x, cupy.asarray(target)), expected, strict=True):
        np.testing.assert_allclose(actual.get(), right)


def test_what_is_no_class_gives_nan_and_reads_nothing_outside(cupy):
    x, target = cupy.zeros((4, 3), "float32"), cupy.asarray([0, 3, -4, 10**12])
    loss, lse = losses.softmax_cross_entropy(x, target)
    assert np.isnan(loss.get()).tolist() == [False, True, True, True]
    gx, _ = losses.softmax_cross_entropy_backward(cupy.ones(4, "float32"), x, target, lse, needs=[True, False])
    np.testing.assert_allclose(gx.get().sum(1), [0, 1, 1, 1], atol=1e-6)


def test_what_the_kernels_have_no_form_for_is_the_reference_s(cupy, monkeypatch):
    monkeypatch.setattr(fused, "run", lambda *_: pytest.fail("launched"))
    x = cupy.asarray(np.random.default_rng(0).standard_normal((2, 3, 4)))
    apart = losses.logsumexp(x, axis=(0, 2), keepdims=True)
    np.testing.assert_allclose(apart.get(), reduction.logsumexp(x.get(), axis=(0, 2), keepdims=True))
    assert losses.softmax(x[:0], axis=1).shape == (0, 3, 4)
    assert losses.logsumexp(x[:, :0], axis=(1,), keepdims=False).get().tolist() == [[-np.inf] * 4] * 2


# ---- recurrences
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


@pytest.mark.parametrize("kind", GATES)
@given(DTYPES, st.booleans(), st.booleans(), st.booleans(), SEEDS)
@settings(max_examples=12)
def test_recurrences(kind, dtype, reverse, biased, relu, seed):
    rng = np.random.default_rng(seed)
    steps, batch, size = rng.integers(1, 4), rng.integers(1, 3), rng.integers(2, 6)
    rows = GATES[kind] * size
    x, h, c = (normal(rng, shape, dtype) for shape in ((steps, batch, rows), (batch, size), (batch, size)))
    w, b = normal(rng, (rows, size), dtype), normal(rng, rows, dtype) if biased else None
    inputs = (x, h, c, w, b) if kind == "lstm" else (x, h, w, b)
    options = {"reverse": reverse} | ({"relu": relu} if kind == "rnn" else {})
    agree(kind, inputs, options, rng, dtype)


def agree(kind: str, inputs: tuple, options: dict[str, Any], rng: np.random.Generator, dtype: str) -> None:
    """A recurrence and its gradients are those of the reference, which is given the same residuals."""
    listed = lambda out: out if isinstance(out, tuple) else (out,)
    expected = listed(getattr(reference_recurrent, kind)(*inputs, **options))
    g = normal(rng, expected[0].shape, dtype)
    saved = (g, *inputs[1:], *expected)
    needs = [True] * len(inputs)
    grads = getattr(reference_recurrent, f"{kind}_backward")(*saved, needs=needs, **options)
    with installed() as cupy:
        device = lambda arrays: [None if a is None else cupy.asarray(a) for a in arrays]
        out = listed(getattr(recurrent, kind)(*device(inputs), **options))
        back = getattr(recurrent, f"{kind}_backward")(*device(saved), needs=needs, **options)
        for actual, right in zip((*out, *back), (*expected, *grads), strict=True):
            close(actual, right, dtype)


@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels-last"])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", NEAR)
def test_convolutional_gru(dtype, reverse, last):
    rng = np.random.default_rng(0)
    steps, batch, size, axes = 3, 2, 4, (3, 5)
    x = normal(rng, (steps * batch, 3 * size, *axes), dtype, last).reshape(steps, batch, 3 * size, *axes)
    h, w = normal(rng, (batch, size, *axes), dtype), normal(rng, (3 * size, size, 3, 3), dtype) / 4
    geometry = ConvGeometry.of(h.shape, (2 * size, size, 3, 3), padding=1)
    agree("conv_gru", (x, h, w.astype(x.dtype)), {"geometry": geometry, "reverse": reverse}, rng, dtype)


# ---- optimizers
ADAM = {"shrink": 0.99, "decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-3, "root": 0.3, "rate": 0.05}
SGD = {"decay": 0.1, "momentum": 0.9, "keep": 0.8, "rate": 0.05}


def adam(p, g, mean, square, *, shrink, decay, betas, eps, root, rate):
    p = p * shrink
    g = g + decay * p
    mean = betas[0] * mean + (1 - betas[0]) * g
    square = betas[1] * square + (1 - betas[1]) * g * g
    return p - rate * mean / (np.sqrt(square) / root + eps), mean, square


def sgd(p, g, velocity, *, decay, momentum, keep, nesterov, rate):
    g = g + decay * p
    if velocity is None:
        return (p - rate * g,)
    velocity = momentum * velocity + keep * g
    return p - rate * (g + momentum * velocity if nesterov else velocity), velocity


def take_adam(kernels, *arrays):
    """A step of one parameter by these kernels."""
    options = {name: ADAM[name] for name in ("shrink", "decay", "betas", "eps")}
    kernels.adam([arrays], [(ADAM["root"], ADAM["rate"])], **options)


def take_sgd(kernels, *arrays, nesterov):
    options = {name: SGD[name] for name in ("decay", "momentum", "rate")}
    kernels.sgd([arrays], [(SGD["keep"],)], nesterov=nesterov, **options)


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", [(), (300,), (3, 4, 5)])
def test_steps_of_optimizers(cupy, shape, dtype):
    rng = np.random.default_rng(0)
    p, g, mean, square = (normal(rng, shape, dtype) for _ in range(4))
    square = abs(square)
    if len(shape) == 3:  # parameters may lie in any order
        p, g, mean, square = (a.transpose(1, 2, 0) for a in (p, g, mean, square))
    device = [cupy.asarray(a) for a in (p, g, mean, square)]
    assert optimizer.covers(*device)
    take_adam(optimizer, *device)
    for actual, right in zip((device[0], *device[2:]), adam(*map(wide, (p, g, mean, square)), **ADAM), strict=True):
        close(actual, np.asarray(right), dtype)
    for velocity in (None, mean):
        for nesterov in (False, True):
            device = [None if a is None else cupy.asarray(a) for a in (p, g, velocity)]
            take_sgd(optimizer, *device, nesterov=nesterov)
            moving = None if velocity is None else wide(velocity)
            right = sgd(wide(p), wide(g), moving, nesterov=nesterov, **SGD)
            for actual, value in zip(device[::2], right, strict=False):
                close(actual, np.asarray(value), dtype)


def test_steps_take_gradients_that_lie_otherwise_but_no_such_state(cupy):
    p, g = cupy.zeros((3, 4)), cupy.asarray(np.arange(12.0).reshape(4, 3)).T
    assert optimizer.covers(p, g, None) and not optimizer.covers(p, p, g)
    assert not optimizer.covers(p, p.astype("float32")) and not optimizer.covers(p[:, ::2], p[:, ::2])
    optimizer.sgd([(p, g, None)], [(1,)], decay=0, momentum=0, nesterov=False, rate=1)
    np.testing.assert_array_equal(p.get(), -g.get())


SIZES = [1, 255, 256, 257, 0, 1000, 3, *range(2 * optimizer.MOST)]  # more than fit into two launches


@pytest.mark.parametrize("order", ORDERS)
def test_a_step_of_many_tensors(cupy, order):
    """Each with numbers of its own, between others' memory that must stay as it is."""
    rng = np.random.default_rng(0)
    draw = lambda: [cupy.asarray(rng.standard_normal(n)) for n in SIZES]
    fields = [[cupy.asarray(np.full(n + 64, 7.0)) for n in SIZES] for _ in range(3)]
    gradients, values = draw(), [draw() for _ in fields]
    for arrays, places in zip(values, fields, strict=True):
        for a, place in zip(arrays, places, strict=True):
            place[32 : 32 + a.size] = abs(a)
    framed = [[place[32 : 32 + n] for place, n in zip(places, SIZES, strict=True)] for places in fields]
    before = [[a.get().copy() for a in arrays] for arrays in framed]
    numbers = [(1 + i / 100, 0.01 * i) for i in range(len(SIZES))]
    options = {"shrink": 0.99, "decay": 0.1, "betas": (0.9, 0.99), "eps": 1e-3}
    p, mean, square = framed
    with thread_order(order):
        optimizer.adam([*zip(p, gradients, mean, square, strict=True)], numbers, **options)
    for i, (root, rate) in enumerate(numbers):
        right = adam(before[0][i], gradients[i].get(), before[1][i], before[2][i], **options, root=root, rate=rate)
        for a, expected in zip((p[i], mean[i], square[i]), right, strict=True):
            close(a, expected, "float64")
    velocities = [None if i % 3 == 0 else v for i, v in enumerate(mean)]
    before = [[a.get().copy() for a in arrays] for arrays in (p, mean)]
    with thread_order(order):
        optimizer.sgd(
            [*zip(p, gradients, velocities, strict=True)], [(keep,) for _, keep in numbers], decay=0.1, momentum=0.9,
            nesterov=True, rate=0.5,
        )  # fmt: skip
    for i, (_, keep) in enumerate(numbers):
        velocity = None if velocities[i] is None else before[1][i]
        given = (before[0][i], gradients[i].get(), velocity)
        right = sgd(*given, decay=0.1, momentum=0.9, keep=keep, nesterov=True, rate=0.5)
        for a, expected in zip((p[i], mean[i]), right, strict=False):
            close(a, expected, "float64")
    for places in fields:
        for place, n in zip(places, SIZES, strict=True):
            host = place.get()
            assert (host[:32] == 7).all() and (host[32 + n :] == 7).all()


def test_one_launch_for_many_tensors(cupy, monkeypatch):
    launched = []
    original = fused.run
    monkeypatch.setattr(fused, "run", lambda *given: (launched.append(given[1]), original(*given)))
    parameters = [minidl.ones(n, device="cuda", requires_grad=True) for n in range(1, 20)]
    for p in parameters:
        p.grad = minidl.ones(p.shape[0], device="cuda")
    minidl.optim.Adam(parameters).step()
    assert launched == ["adam_kernel"]


# ---- dropout
def philox(counter: int, key: int) -> list[int]:
    """Philox-4x32-10 in Python's integers."""
    c, k, low = [counter >> 32 * i & 0xFFFFFFFF for i in range(4)], [key & 0xFFFFFFFF, key >> 32], 0xFFFFFFFF
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [b >> 32 ^ c[1] ^ k[0], b & low, a >> 32 ^ c[3] ^ k[1], a & low]
        k = [k[0] + 0x9E3779B9 & low, k[1] + 0xBB67AE85 & low]
    return c


def test_philox_has_the_published_numbers():
    """The known answers that come with its authors' code, Random123."""
    ones = 2**128 - 1
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert philox(ones, 2**64 - 1) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = philox(0x03707344_13198A2E_85A308D3_243F6A88, 0x299F31D0_A4093822)
    assert pi == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@given(st.integers(0, 70), st.floats(0, 1), st.integers(0, 2**64 - 1))
@settings(max_examples=20)
def test_masks_are_philox_s_numbers_compared(size, p, key):
    with installed() as cupy:
        mask = dropout.mask(cupy.zeros(1), (size,), p, key)
        assert mask.dtype == bool
        drawn = [u for i in range(-(-size // 4)) for u in philox(i, key)][:size]
        np.testing.assert_array_equal(mask.get(), [(u >> 8) / 2**24 >= p for u in drawn])


def test_masks_keep_what_they_should(cupy):
    draw = lambda p, key=1: dropout.mask(cupy.zeros(1), (100, 100), p, key).get()
    assert draw(0.0).all() and not draw(1.0).any()
    assert abs(draw(0.3).mean() - 0.7) < 0.02  # four standard deviations
    assert (draw(0.5) == draw(0.5)).all() and abs((draw(0.5) == draw(0.5, 2)).mean() - 0.5) < 0.02


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("last", [False, True])
def test_dropout(cupy, dtype, last):
    rng = np.random.default_rng(0)
    x, mask = normal(rng, (2, 3, 4, 5), dtype, last), rng.random((2, 3, 4, 5)) < 0.5
    y = dropout.dropout(cupy.asarray(x), cupy.asarray(mask), scale=1.25)
    assert lies_like(y, x)
    close(y, wide(x) * mask * np.float32(1.25), dtype)
    channel = mask[:, :, :1, :1]  # of whole channels: it broadcasts
    close(dropout.dropout(cupy.asarray(x), cupy.asarray(channel), scale=1.25), x * channel * 1.25, dtype)


def test_the_engine_draws_masks_on_the_device_of_its_input_and_does_not_wait(cupy):
    x = minidl.ones(40, 50, device="cuda:1", requires_grad=True)

    def dropped() -> list[np.ndarray]:
        minidl.manual_seed(7)
        x.grad = None
        cupy.waits.clear()
        y = F.dropout(x, 0.25)
        y.sum().backward()
        assert not cupy.waits and y.data.device.id == 1
        return [y.data.get(), F.dropout2d(x.reshape(4, 10, 10, 5)).data.get(), x.grad.data.get()]

    first, again = dropped(), dropped()
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert abs((first[0] == 0).mean() - 0.25) < 0.05 and (first[0] == first[2]).all()
    assert set(first[1].reshape(40, 50).sum(1)) == {0.0, 100.0}  # whole channels


# ---- gradients of bias and ReLU
@given(SHAPES, DTYPES, st.booleans(), SEEDS)
@settings(max_examples=20)
def test_conv_relu_slope(shape, dtype, last, seed):
    rng = np.random.default_rng(seed)
    y, g = (normal(rng, shape, dtype, last) for _ in range(2))
    slope = reference_conv.conv_relu_slope(wide(g), wide(y))
    with installed() as cupy:
        for actual, right in zip(elementwise.conv_relu_slope(*map(cupy.asarray, (g, y))), slope, strict=True):
            close(actual, right, dtype)


def test_the_gradient_of_relu_passes_nan(cupy):
    y = cupy.asarray(np.array([[[np.nan, -1.0, 0.0, 1.0]]]))
    gz, gb = elementwise.conv_relu_slope(cupy.ones((1, 1, 4)), y)
    assert gz.get().tolist() == [[[1, 0, 0, 1]]] and gb.get().tolist() == [2]


# ---- gelu
GELU = ("gelu", "gelu_gradient", "gelu_tanh", "gelu_tanh_gradient")


@given(st.sampled_from(GELU), SHAPES, DTYPES, st.booleans(), SEEDS)
@settings(max_examples=30)
def test_gelu(name, shape, dtype, last, seed):
    rng = np.random.default_rng(seed)
    g, x = (normal(rng, shape, dtype, last) * np.asarray(3, dtype) for _ in range(2))
    arrays = (g, x) if name.endswith("gradient") else (x,)
    with installed() as cupy:
        y = getattr(elementwise, name)(*map(cupy.asarray, arrays))
        assert lies_like(y, x)
        close(y, getattr(reference_elementwise, name)(*map(wide, arrays)).astype(dtype), dtype)


@pytest.mark.parametrize("name", GELU)
def test_gelu_at_the_ends(cupy, name):
    ends = cupy.asarray(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 0.0]))
    ones = (cupy.ones(6),) if name.endswith("gradient") else ()
    expected = [np.nan, 1, 0, 1, 0, 0.5] if ones else [np.nan, np.inf, 0, 1e30, 0, 0]
    np.testing.assert_array_equal(getattr(elementwise, name)(*ones, ends).get(), expected)
    column = cupy.zeros((3, 1))  # what broadcasts is the reference's
    other = (cupy.ones((3, 2)),) if ones else ()
    assert getattr(elementwise, name)(*other, column).shape == ((3, 2) if ones else (3, 1))


# ---- all of them
def test_every_thread_order_gives_the_same_bits(cupy):
    rng = np.random.default_rng(0)
    array = lambda *shape: cupy.asarray(rng.standard_normal(shape, "float32"))
    x, g, gamma = array(20, 5, 6, 7), array(20, 5, 6, 7), array(5)
    target = cupy.asarray(rng.integers(0, 5, (20, 6, 7)))
    logits, rows = array(9, 300), array(2, 3, 12)
    h, w = array(3, 4), array(12, 4)

    def bits() -> list[bytes]:
        y, mean, var = normalization.batch_norm(x, gamma, gamma, eps=1e-5)
        back = normalization.batch_norm_backward(g, x, gamma, mean, var, needs=[True] * 3, eps=1e-5)
        loss, lse = losses.softmax_cross_entropy(x, target)
        gx, _ = losses.softmax_cross_entropy_backward(lse, x, target, lse, needs=[True, False])
        states, gates, inner = recurrent.gru(rows, h, w, None, reverse=False)
        args = (states, h, w, None, states, gates, inner)
        grads = recurrent.gru_backward(*args, needs=[True] * 4, reverse=False)[:3]
        slopes = elementwise.conv_relu_slope(g, x)
        results = (y, mean, var, *back, loss, lse, gx, states, gates, inner, *grads, *slopes)
        results += (losses.softmax(logits, axis=1), dropout.mask(x, (50, 50), 0.5, 7))
        return [result.get().tobytes() for result in results]

    first = bits()
    for order in ORDERS:
        with thread_order(order):
            assert bits() == first


def test_other_types_are_refused_by_name(cupy):
    x, v = cupy.zeros((2, 3), "int32"), cupy.zeros(3, "int32")
    with pytest.raises(NotImplementedError, match=r"batch_norm on CUDA takes float32, .*, not int32"):
        normalization.batch_norm(x, v, v, eps=1e-5)
    with pytest.raises(TypeError, match="gamma is a ndarray"):
        normalization.batch_norm(cupy.zeros((2, 3)), np.zeros(3), cupy.zeros(3), eps=1e-5)


def test_more_blocks_than_a_launch_can_have_are_refused(cupy):
    with pytest.raises(ValueError, match="more than one launch can have"):
        fused.run("losses.cu", "softmax_kernel", np.dtype("float32"), (launch.INT_LIMIT,), 256)


# ---- with the address sanitizer: the tests above, in a process of their own
SANITIZED = r"""
import sys
import pytest
from minidl.checking.cuda_host import module
from minidl.kernels.cuda import launch

sanitize = ("-fsanitize=address", "-g", "-fno-omit-frame-pointer")
module.FLAGS = (*(flag for flag in module.FLAGS if flag != "-fno-sanitize=all"), *sanitize)
module.FENCE = 0  # the sanitizer has its own
if sys.argv[1] == "planted":
    source, bound = launch.source, "min(begin + s.rows_of_part, rows)"
    launch.source = lambda file: source(file).replace(bound, "begin + s.rows_of_part + 64")
tests = "test_batch_norm or softmax or no_class or recurrences or steps_of or masks or test_dropout or bias_and"
sys.exit(pytest.main(["-q", "-x", "-s", "-p", "no:cacheprovider", sys.argv[2], "-k", f"({tests}) and not engine"]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["right", "planted"])
def test_address_sanitizer(case, tmp_path):
    command = cuda_host.compiler()
    if command != ["g++"]:
        pytest.skip("the sanitizer's library is looked for beside g++")
    asked = [*command, "-print-file-name=libasan.so"]
    library = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LD_PRELOAD": library,
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONMALLOC": "malloc",
    }
    run = [sys.executable, "-c", SANITIZED, case, __file__]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
    if case == "right":
        assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-3000:] + done.stderr[-3000:]
    else:
        assert done.returncode and "AddressSanitizer: heap-buffer-overflow" in done.stderr
