"""The numba.cuda kernels beside the convolutions, and the tiled convolution: in Numba's simulator against the
reference, and compiled for a device as far as that goes without one. As test_numba_cuda.py this is also the script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numba_cuda_cases import ROOT, main, reported

NEAR = {"float32": 1e-5, "float64": 1e-12}
# (N, C, …), and whether channels-last
SHAPES = {"planes": ((2, 2, 3), False), "rows": ((5, 2), True), "channels-last": ((2, 3, 2, 2), True)}
TILED: dict[str, tuple[Any, ...]] = {  # arguments of ConvGeometry.of
    "one axis": ((2, 2, 5), (3, 2, 3), 2, 1),
    "groups": ((1, 4, 3, 3), (6, 2, 2, 2), 1, 0, 1, 2),
    "three axes": ((2, 1, 3, 4, 3), (2, 1, 2, 2, 2), (2, 1, 2), (1, 0, 1), (1, 2, 1)),
    "several tiles": ((1, 1, 5), (6, 1, 3), 1, 1),
    "empty batch": ((0, 2, 4), (2, 2, 3)),
}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
SIMULATED: dict[str, Callable[[], None]] = {}
COMPILED: dict[str, Callable[[], None]] = {}


def case(group: dict[str, Callable[[], None]], *arguments: Any) -> Callable[[Callable], Callable]:
    """Registers a function, called with these arguments, under its name and theirs."""

    def register(function: Callable) -> Callable:
        group[" ".join([function.__name__, *map(str, arguments)])] = lambda: function(*arguments)
        return function

    return register


def cases(*kinds: Any) -> Callable[[Callable], Callable]:
    """The same in the simulator for every kind, in float64 and (the first) in float32."""

    def register(function: Callable) -> Callable:
        case(SIMULATED, kinds[0], "float32")(function)
        for kind in kinds:
            case(SIMULATED, kind, "float64")(function)
        return function

    return register


def near(actual: Any, expected: Any) -> None:
    """One result, or several."""
    if isinstance(expected, tuple):
        assert len(actual) == len(expected)
        for a, e in zip(actual, expected, strict=True):
            near(a, e)
    elif expected is None:
        assert actual is None
    else:
        assert type(actual) is np.ndarray and (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
        precision = NEAR[expected.dtype.name]
        np.testing.assert_allclose(actual, expected, precision, precision)


def drawn(kind: str, dtype: str) -> tuple[Callable[..., np.ndarray], np.ndarray, np.ndarray]:
    """How to draw arrays, and two of a shape of SHAPES."""
    rng = np.random.default_rng(0)
    (shape, last) = SHAPES.get(kind, ((2, 3, 2), False))
    draw = lambda *shape: np.asarray(rng.standard_normal(shape)).astype(dtype)
    lying = lambda x: np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if last else x
    return draw, lying(draw(*shape)), lying(draw(*shape))


@cases(*SHAPES)
def batch_norm(kind: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import normalization
    from minidl.kernels.reference import normalization as reference

    draw, x, g = drawn(kind, dtype)
    gamma, beta = draw(x.shape[1]), draw(x.shape[1])
    expected = reference.batch_norm(x, gamma, beta, eps=1e-3)
    y, mean, var = normalization.batch_norm(x, gamma, beta, eps=1e-3)
    assert y.strides == x.strides
    near((y, mean, var), expected)
    inputs = (g, x, gamma, *expected[1:])
    back = normalization.batch_norm_backward(*inputs, needs=[True] * 3, eps=1e-3)
    near(back, reference.batch_norm_backward(*inputs, needs=[True] * 3, eps=1e-3))


@cases(*SHAPES)
def softmax_and_cross_entropy(kind: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import losses
    from minidl.kernels.reference import normalization, reduction

    draw, x, _ = drawn(kind, dtype)
    target = np.random.default_rng(1).integers(-x.shape[1], x.shape[1], (x.shape[0], *x.shape[2:]))
    near(losses.softmax_cross_entropy(x, target), normalization.softmax_cross_entropy(x, target))
    g, lse = draw(*target.shape), normalization.softmax_cross_entropy(x, target)[1]
    back = losses.softmax_cross_entropy_backward(g, x, target, lse, needs=[True, False])
    near(back, normalization.softmax_cross_entropy_backward(g, x, target, lse, needs=[True, False]))
    loss, _ = losses.softmax_cross_entropy(x, target + 10)
    assert np.isnan(loss).all()
    for axis in (0, x.ndim - 1):
        near(losses.softmax(x, axis=axis), reduction.softmax(x, axis=axis))
        near(losses.log_softmax(x, axis=axis), reduction.log_softmax(x, axis=axis))
        for keepdims in (False, True):
            expected = reduction.logsumexp(x, axis=(axis,), keepdims=keepdims)
            near(losses.logsumexp(x, axis=(axis,), keepdims=keepdims), np.ascontiguousarray(expected))


@cases(*SHAPES)
def conv_relu_slope(kind: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import elementwise
    from minidl.kernels.reference import conv as reference

    _, y, g = drawn(kind, dtype)
    near(elementwise.conv_relu_slope(g, y), reference.conv_relu_slope(g, y))


@cases("gelu", "gelu_gradient", "gelu_tanh", "gelu_tanh_gradient")
def gelu(name: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import elementwise
    from minidl.kernels.reference import elementwise as reference

    _, x, g = drawn("planes", dtype)
    x.flat[:6] = 0, -50, 50, np.inf, -np.inf, np.nan
    arrays = (g, x) if name.endswith("gradient") else (x,)
    near(getattr(elementwise, name)(*arrays), getattr(reference, name)(*arrays))


@cases("random")
def dropout(_: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import dropout as kernels

    mask = kernels.mask(np.zeros(1), (3, 5), 0.5, 2**64 - 1)
    # Philox of Random123 in Python's integers: tests/kernels/test_cuda_host_fused.py has it with its known answers
    from test_cuda_host_fused import philox

    numbers = [u for i in range(4) for u in philox(i, 2**64 - 1)][:15]
    np.testing.assert_array_equal(mask.ravel(), [(u >> 8) / 2**24 >= 0.5 for u in numbers])
    x = np.random.default_rng(0).standard_normal((3, 5)).astype(dtype)
    near(kernels.dropout(x, mask, scale=2.0), x * mask * x.dtype.type(2))


@cases("Adam", "SGD", "momentum", "nesterov")
def optimizer(kind: str, dtype: str) -> None:
    from test_cuda_host_fused import ADAM, SGD, adam, sgd, take_adam, take_sgd

    from minidl.kernels.numba_cuda import optimizer as kernels

    p, g, mean, square = (np.random.default_rng(i).standard_normal((3, 4)).astype(dtype).T for i in range(4))
    square = abs(square)
    half = p.astype("float16")
    assert kernels.covers(p, g, mean, square) and not kernels.covers(half, half)
    if kind == "Adam":
        expected = adam(p, g, mean, square, **ADAM)
        take_adam(kernels, p, g, mean, square)
        near((p, mean, square), expected)
        return
    velocity, nesterov = None if kind == "SGD" else mean, kind == "nesterov"
    expected = sgd(p, g, velocity, nesterov=nesterov, **SGD)
    take_sgd(kernels, p, g, velocity, nesterov=nesterov)
    near((p, mean)[: len(expected)], expected)


@cases(*GATES)
def recurrence(kind: str, dtype: str) -> None:
    draw, *_ = drawn(kind, dtype)
    rows = GATES[kind] * 3
    states = (draw(2, 3),) * (2 if kind == "lstm" else 1)
    inputs = (draw(2, 2, rows), *states, draw(rows, 3), draw(rows))
    for reverse in (False, True):
        options = {"reverse": reverse} | ({"relu": reverse} if kind == "rnn" else {})
        agree(kind, inputs, options, draw)


@cases("planes", "channels-last")
def conv_gru(kind: str, dtype: str) -> None:
    from minidl.kernels.geometry import ConvGeometry

    draw, *_ = drawn(kind, dtype)
    x = draw(2, 1, 6, 2, 2) if kind == "planes" else draw(2, 1, 2, 2, 6).transpose(0, 1, 4, 2, 3)
    h, w = draw(1, 2, 2, 2), draw(6, 2, 3, 3) / 4
    geometry = ConvGeometry.of(h.shape, (4, 2, 3, 3), padding=1)
    agree("conv_gru", (x, h, w), {"geometry": geometry, "reverse": False}, draw)


def agree(kind: str, inputs: tuple, options: dict[str, Any], draw: Callable[..., np.ndarray]) -> None:
    from minidl.kernels.numba_cuda import recurrent
    from minidl.kernels.reference import recurrent as reference

    expected = getattr(reference, kind)(*inputs, **options)
    near(getattr(recurrent, kind)(*inputs, **options), expected)
    outs = expected if isinstance(expected, tuple) else (expected,)
    saved, needs = (draw(*outs[0].shape), *inputs[1:], *outs), [True] * len(inputs)
    back = getattr(recurrent, f"{kind}_backward")(*saved, needs=needs, **options)
    near(back, getattr(reference, f"{kind}_backward")(*saved, needs=needs, **options))


@cases("repeated", "empty")
def adding_at_places(kind: str, dtype: str) -> None:
    from minidl.kernels.numba_cuda import indexing as kernels
    from minidl.kernels.reference import indexing as reference

    rng, rows = np.random.default_rng(0), 7 if kind == "repeated" else 0
    y, at = rng.standard_normal((rows, 2)).astype(dtype), rng.integers(0, 3, rows)
    near(kernels.scatter(y, at=at, shape=(3, 2)), reference.scatter(y, at=at, shape=(3, 2)))
    index = rng.integers(0, 4, y.shape)
    options = {"axis": 1, "shape": (rows, 4)}
    near(kernels.scatter_add(y, index, **options), reference.scatter_add(y, index, **options))


@cases(*TILED)
def tiled(kind: str, dtype: str) -> None:
    from minidl.kernels.geometry import ConvGeometry
    from minidl.kernels.numba_cuda.tiled import conv_tiled
    from minidl.kernels.reference import conv as reference

    g, rng = ConvGeometry.of(*TILED[kind]), np.random.default_rng(0)
    x, w = (rng.integers(-4, 5, shape).astype(dtype) for shape in (g.x_shape, g.w_shape))
    near(conv_tiled(x, w, geometry=g), reference.conv(x, w, geometry=g))


@case(SIMULATED)
def the_tape_uses_them() -> None:
    """A network under minidl.backend: its gradients are those of the CPU."""
    import minidl
    from minidl import functional as F

    def gradients() -> list[np.ndarray]:
        minidl.manual_seed(0)
        x, w = minidl.randn(3, 2, 4, requires_grad=True), minidl.randn(2, 2, 3, requires_grad=True)
        one = minidl.ones(2)
        y = F.batch_norm(F.conv1d(x, w, padding=1), None, None, one, one, True)
        F.cross_entropy(F.avg_pool1d(y, 4).reshape(3, 2), minidl.tensor([0, 1, 1])).backward()
        return [x.grad.numpy(), w.grad.numpy()]

    on_cpu = gradients()
    with minidl.backend("numba_cuda"):
        near(tuple(gradients()), tuple(on_cpu))


# ---- compiled for a device
@case(COMPILED)
def kernels_compute_in_the_type_of_their_arrays() -> None:
    """Type inference and lowering, which the simulator skips: with float32 arrays nothing is a float64."""
    import numba
    from numba import types
    from numba.cuda import dispatcher
    from numba.cuda.compiler import compile_cuda

    from minidl.kernels.cuda import channels, losses
    from minidl.kernels.cuda.launch import fold
    from minidl.kernels.geometry import ConvGeometry
    from minidl.kernels.numba_cuda import dropout, elementwise, indexing, normalization, optimizer, recurrent, tiled
    from minidl.kernels.numba_cuda import losses as kernels
    from minidl.kernels.numba_cuda.launch import Geometry

    # device functions ask for the current device's capability and nothing else of it
    dispatcher.get_current_device = lambda: type("Device", (), {"compute_capability": (8, 0)})
    number = types.float32
    one, two, three, five = (types.Array(number, n, "C") for n in (1, 2, 3, 5))
    mask, target = types.Array(types.boolean, 1, "C"), types.Array(types.int64, 1, "C")
    s, r = numba.typeof(channels.plan((2, 3, 4), False)), numba.typeof(losses.plan(2, 3, 4))
    g = numba.typeof(Geometry(**fold(ConvGeometry.of((1, 1, 2), (1, 1, 1)))))
    int32, int64, uint64 = types.int32, types.int64, types.uint64
    sizes = (int64, int32)
    for kernel, arguments in [
        (normalization.batch_norm_moments_kernel, (three, three, s)),
        (normalization.batch_norm_finish_kernel, (three, one, one)),
        (normalization.batch_norm_apply_kernel, (three, one, one, one, one, three, number, s)),
        (normalization.batch_norm_sums_kernel, (three, three, one, one, three, number, s)),
        (normalization.batch_norm_sums_finish_kernel, (three, one, one)),
        (normalization.batch_norm_input_kernel, (three, three, one, one, one, one, one, three, number, s)),
        (elementwise.relu_slope_kernel, (three, three, three, three, s)),
        (elementwise.relu_slope_finish_kernel, (three, one)),
        (elementwise.gelu_kernel, (one, one, number)),
        (elementwise.gelu_gradient_kernel, (one, one, one, number, number)),
        (elementwise.gelu_tanh_kernel, (one, one, number, number)),
        (elementwise.gelu_tanh_gradient_kernel, (one, one, one, number, number, number)),
        (kernels.softmax_kernel, (three, three, r)),
        (kernels.log_softmax_kernel, (three, three, r)),
        (kernels.logsumexp_kernel, (three, one, r)),
        (kernels.softmax_cross_entropy_kernel, (three, target, one, one, r)),
        (kernels.softmax_cross_entropy_backward_kernel, (one, three, target, one, three, r)),
        (recurrent.rnn_kernel, (two, two, one, two, *sizes, int32)),
        (recurrent.rnn_backward_kernel, (two, two, two, two, *sizes, int32)),
        (recurrent.lstm_kernel, (two, two, one, two, two, two, two, *sizes)),
        (recurrent.lstm_backward_kernel, (two, two, two, two, two, two, two, *sizes)),
        (recurrent.gru_kernel, (two, two, one, two, two, two, two, *sizes)),
        (recurrent.gru_backward_kernel, (two, two, two, two, two, two, two, two, *sizes)),
        (recurrent.conv_gru_gates_kernel, (two, two, two, two, two, *sizes)),
        (recurrent.conv_gru_state_kernel, (two, two, two, two, two, two, *sizes)),
        (recurrent.conv_gru_state_backward_kernel, (two, two, two, two, two, two, two, two, *sizes)),
        (recurrent.conv_gru_gates_backward_kernel, (two, two, two, two, two, *sizes)),
        (optimizer.adam_kernel, (one,) * 4 + (number,) * 9),
        (optimizer.sgd_kernel, (one, one, one, number, number, number, number, int32)),
        (dropout.dropout_mask_kernel, (mask, uint64, uint64)),
        (dropout.dropout_kernel, (one, mask, one, number)),
        (indexing.add_runs_kernel, (target, target, one, one)),
        (tiled.conv_tiled_kernel, (five, two, three, g)),
    ]:
        compiled = compile_cuda(kernel.py_func, types.void, arguments, cc=(8, 0))
        kinds = compiled.type_annotation.typemap
        assert types.float64 not in kinds.values(), (kernel.py_func.__name__, kinds)


@pytest.fixture(scope="module")
def simulated():
    return reported(
        __file__, "simulated", "built-in"
    )  # which everybody has; test_numba_cuda.py runs the one that is installed


@pytest.fixture(scope="module", params=[(), ("built-in",)], ids=["as installed", "built-in"])
def compiled(request):
    return reported(__file__, "compiled", *request.param)


@pytest.mark.parametrize("name", SIMULATED)
def test_simulator(simulated, name):
    assert not simulated[name], simulated[name]


@pytest.mark.parametrize("name", COMPILED)
def test_compilation(compiled, name):
    assert not compiled[name], compiled[name]


FILES = ("normalization", "losses", "recurrent", "optimizer", "dropout", "elementwise", "indexing")


@pytest.mark.parametrize("name", FILES)
def test_the_two_cuda_columns_have_the_same_kernels_in_the_same_order(name):
    """For whoever lays them side by side."""
    head = r"^extern \"C\" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\("
    cplusplus = re.findall(head, (ROOT / "kernels/cuda" / f"{name}.cu").read_text(), re.M)
    python = re.findall(r"^@cuda.jit\ndef (\w+)\(", (ROOT / "kernels/numba_cuda" / f"{name}.py").read_text(), re.M)
    assert python == cplusplus and python


if __name__ == "__main__":
    main(SIMULATED, COMPILED)
