"""On a real device: the kernels beside the convolutions, of both columns, against the reference on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference_conv
from minidl.kernels.reference import elementwise as reference_elementwise
from minidl.kernels.reference import indexing as reference_indexing
from minidl.kernels.reference import normalization as reference_normalization
from minidl.kernels.reference import recurrent as reference_recurrent
from minidl.kernels.reference import reduction

pytestmark = pytest.mark.gpu

# relative to the largest number of a result: sums run in another order, products are fused with sums, and functions
# such as exp are the device's own
NEAR = {"float32": 1e-5, "float64": 1e-12}
SHAPES = [(64, 10), (4, 3, 1000), (8, 33, 17, 19), (2, 5, 6, 7, 8)]
GATES = {"rnn": 1, "lstm": 4, "gru": 3}


def drawn(shape: Any, dtype: str, seed: int = 0, last: bool = False) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(shape).astype(dtype)
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x


def near(actual: Any, expected: Any) -> None:
    """One result, or several."""
    if isinstance(expected, tuple):
        for a, e in zip(actual, expected, strict=True):
            near(a, e)
    elif expected is not None:
        host = actual.get()
        assert (host.dtype, host.shape) == (expected.dtype, expected.shape)
        bound = NEAR[expected.dtype.name] * abs(expected).max(initial=1)
        np.testing.assert_allclose(host, expected, rtol=0, atol=bound)


def device(cupy: Any, arrays: Any) -> list:
    return [None if a is None else cupy.asarray(a) for a in arrays]


@pytest.mark.parametrize("last", [False, True], ids=["planes", "channels-last"])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", SHAPES)
def test_batch_norm(cupy, column, shape, dtype, last):
    x, g, gamma = drawn(shape, dtype, 0, last) + np.asarray(3, dtype), drawn(shape, dtype, 1), drawn(shape[1], dtype)
    expected = reference_normalization.batch_norm(x, gamma, gamma, eps=1e-5)
    near(column("normalization").batch_norm(*device(cupy, (x, gamma, gamma)), eps=1e-5), expected)
    saved = (g, x, gamma, *expected[1:])
    back = column("normalization").batch_norm_backward(*device(cupy, saved), needs=[True] * 3, eps=1e-5)
    near(back, reference_normalization.batch_norm_backward(*saved, needs=[True] * 3, eps=1e-5))


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shape", [*SHAPES, (3, 5000)])
def test_softmax_and_cross_entropy(cupy, column, shape, dtype):
    losses, x = column("losses"), drawn(shape, dtype)
    target = np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
    expected = reference_normalization.softmax_cross_entropy(x, target)
    near(losses.softmax_cross_entropy(*device(cupy, (x, target))), expected)
    saved = (drawn(target.shape, dtype), x, target, expected[1])
    back, _ = losses.softmax_cross_entropy_backward(*device(cupy, saved), needs=[True, False])
    near(back, reference_normalization.softmax_cross_entropy_backward(*saved, needs=[True, False])[0])
    for axis in range(len(shape)):
        for name in ("softmax", "log_softmax"):
            near(getattr(losses, name)(cupy.asarray(x), axis=axis), getattr(reduction, name)(x, axis=axis))
        expected = reduction.logsumexp(x, axis=(axis,), keepdims=True)
        near(losses.logsumexp(cupy.asarray(x), axis=(axis,), keepdims=True), expected)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("kind", [*GATES, "conv_gru"])
def test_recurrences(cupy, column, kind, dtype, reverse):
    options: dict[str, Any] = {"reverse": reverse}
    if kind == "conv_gru":
        h = drawn((2, 4, 9, 8), dtype)
        inputs = (drawn((5, 2, 12, 9, 8), dtype), h, drawn((12, 4, 3, 3), dtype, 1) / 8)
        options["geometry"] = ConvGeometry.of(h.shape, (8, 4, 3, 3), padding=1)
    else:
        rows, h = GATES[kind] * 20, drawn((6, 20), dtype)
        inputs = (drawn((5, 6, rows), dtype), *(h,) * (2 if kind == "lstm" else 1), drawn((rows, 20), dtype, 1) / 8)
        inputs += (drawn(rows, dtype, 2),)
        options |= {"relu": False} if kind == "rnn" else {}
    expected = getattr(reference_recurrent, kind)(*inputs, **options)
    near(getattr(column("recurrent"), kind)(*device(cupy, inputs), **options), expected)
    outs = expected if isinstance(expected, tuple) else (expected,)
    saved, needs = (drawn(outs[0].shape, dtype, 3), *inputs[1:], *outs), [True] * len(inputs)
    back = getattr(column("recurrent"), f"{kind}_backward")(*device(cupy, saved), needs=needs, **options)
    near(back, getattr(reference_recurrent, f"{kind}_backward")(*saved, needs=needs, **options))


def test_conv_relu_slope(cupy, column):
    y, g = drawn((4, 33, 17, 19), "float32"), drawn((4, 33, 17, 19), "float32", 1)
    near(column("elementwise").conv_relu_slope(*device(cupy, (g, y))), reference_conv.conv_relu_slope(g, y))


@pytest.mark.parametrize("name", ["gelu", "gelu_gradient", "gelu_tanh", "gelu_tanh_gradient"])
@pytest.mark.parametrize("dtype", NEAR)
def test_gelu(cupy, column, name, dtype):
    g, x = (drawn((4, 33, 17, 19), dtype, seed, last=True) * np.asarray(3, dtype) for seed in range(2))
    arrays = (g, x) if name.endswith("gradient") else (x,)
    near(getattr(column("elementwise"), name)(*device(cupy, arrays)), getattr(reference_elementwise, name)(*arrays))


def test_adding_at_places(cupy, column):
    y, at = drawn((5000, 7), "float32"), np.random.default_rng(1).integers(0, 40, 5000)
    wide = reference_indexing.scatter(y.astype("float64"), at=at, shape=(40, 7)).astype("float32")
    near(column("indexing").scatter(cupy.asarray(y), at=cupy.asarray(at), shape=(40, 7)), wide)


def test_masks_are_those_of_the_other_column(cupy):
    from minidl.kernels.cuda import dropout as cplusplus
    from minidl.kernels.numba_cuda import dropout as python

    one = cupy.zeros(1)
    masks = [kernels.mask(one, (1001, 37), 0.3, 2**64 - 5) for kernels in (cplusplus, python)]
    assert (masks[0] == masks[1]).all() and abs(float(masks[0].mean()) - 0.7) < 0.01


@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, lambda p: optim.SGD(p, lr=0.1, momentum=0.9)])
def test_optimizers_take_the_steps_of_the_cpu(cupy, make, dtype):
    start = drawn((300, 40), dtype)
    p = [minidl.tensor(start, requires_grad=True), minidl.tensor(start, requires_grad=True, device="cuda")]
    for parameter in p:
        optimizer = make([parameter])
        for _ in range(3):
            optimizer.zero_grad()
            (parameter * parameter).sum().backward()
            optimizer.step()
    bound = NEAR[dtype]
    np.testing.assert_allclose(p[1].cpu().detach().numpy(), p[0].detach().numpy(), rtol=bound, atol=bound)


def test_half_precision_is_computed_in_single(cupy):
    from minidl.kernels.cuda import normalization

    x = (drawn((64, 8, 30, 30), "float32") * 10 + 100).astype("float16")
    one, zero = np.ones(8, "float16"), np.zeros(8, "float16")
    y, mean, var = normalization.batch_norm(*device(cupy, (x, one, zero)), eps=1e-5)
    expected = reference_normalization.batch_norm(*(a.astype("float32") for a in (x, one, zero)), eps=1e-5)
    for actual, right in zip((y, mean, var), expected, strict=True):
        np.testing.assert_allclose(actual.get().astype("float32"), right, rtol=2e-3, atol=2e-3)


def test_a_hundred_runs_give_the_same_bits(cupy, column):
    x, g = device(cupy, (drawn((16, 33, 30, 30), "float32"), drawn((16, 33, 30, 30), "float32", 1)))
    gamma, target = cupy.ones(33, "float32"), cupy.zeros((16, 30, 30), "int64")
    normalization, losses = column("normalization"), column("losses")

    def bits() -> list[bytes]:
        y, mean, var = normalization.batch_norm(x, gamma, gamma, eps=1e-5)
        back = normalization.batch_norm_backward(g, x, gamma, mean, var, needs=[True] * 3, eps=1e-5)
        loss, lse = losses.softmax_cross_entropy(x, target)
        slopes = column("elementwise").conv_relu_slope(g, x)
        return [a.get().tobytes() for a in (y, mean, var, *back, loss, lse, *slopes)]

    first = bits()
    assert all(bits() == first for _ in range(100))


def test_training_repeats_itself_bit_for_bit(cupy):
    """Dropout draws on the device, from minidl's seed."""

    def trained() -> bytes:
        minidl.manual_seed(0)
        net = nn.Sequential(nn.Linear(20, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 5))
        net.to("cuda")
        optimizer, x = optim.Adam(net.parameters()), minidl.randn(32, 20, device="cuda")
        target = minidl.tensor(np.arange(32) % 5, device="cuda")
        for _ in range(20):
            optimizer.zero_grad()
            minidl.functional.cross_entropy(net(x), target).backward()
            optimizer.step()
        return b"".join(p.cpu().detach().numpy().tobytes() for p in net.parameters())

    assert trained() == trained()


def test_memory_does_not_grow(cupy):
    from minidl.kernels.cuda import normalization

    x, one = cupy.ones((8, 16, 20, 20), "float32"), cupy.ones(16, "float32")
    normalization.batch_norm(x, one, one, eps=1e-5)
    pool = cupy.get_default_memory_pool()
    used = pool.used_bytes()
    for _ in range(1000):
        normalization.batch_norm(x, one, one, eps=1e-5)
    assert pool.used_bytes() == used
