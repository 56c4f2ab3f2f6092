"""The one battery: everything that every operation must do, over the table of samples.

Value against an oracle, types, first and second derivatives, empty and oddly laid out and read-only inputs, no
mutation, agreement of backends, fused primitives against their plain definitions. A new operation gets all of this
from its row.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from primitive_oracles import ORACLES

import minidl
import minidl.functional as F
from minidl.checking import gradcheck, gradgradcheck
from minidl.checking.rows import LINEAR, check_case, check_row, describe
from minidl.checking.samples import Case, Sample, of_kind, table
from minidl.core import Fused, Primitive, Tensor

PRIMITIVES = of_kind("primitive")
ROWS = list(table().values())
CHECKED = [row for row in ROWS if row.gradient == "checked"]
# what runs on bare arrays only, or takes other things than arrays
OPAQUE = {
    f"{name}_backward"
    for name in ("batch_norm", "binary_cross_entropy", "softmax_cross_entropy", "rnn", "lstm", "gru", "conv_gru")
}


def ids(row: Sample) -> str:
    return row.name


def outputs(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def plain(value: Any) -> Any:
    return value.numpy() if isinstance(value, Tensor) else value


def gradients(row: Sample, case: Case, inputs: list[Any], create_graph: bool = False) -> list[np.ndarray | None]:
    """The gradients of a fixed random weighting of the outputs."""
    out = [y for y in outputs(row.function(case)(*inputs)) if y.requires_grad]
    rng = np.random.default_rng(3)
    flowing = [Tensor(rng.standard_normal(y.shape).astype(y.dtype)) for y in out]
    leaves = [x for x in [*inputs, *case.parameters.values()] if isinstance(x, Tensor) and x.requires_grad]
    found = minidl.grad(out, leaves, flowing, create_graph=create_graph, allow_unused=True)
    return [None if g is None else g.numpy().copy() for g in found]


def assert_same(got: list, expected: list, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol, atol)


# ---- the table is complete
def test_every_primitive_has_a_sample():
    # in a process of its own: other tests define primitives too
    code = (
        "import minidl.nn, minidl.train\n"
        "from minidl.core import Primitive\n"
        "from minidl.kernels.table import TABLE\n"
        "from minidl.checking.samples import of_kind\n"
        "rows = {row.name for row in of_kind('primitive')}\n"
        "print(sorted(set(Primitive.names) ^ rows), sorted(set(TABLE) - rows))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.split("\n")[0] == "[] []", (
        f"operations without a row in minidl/checking/samples.py, or rows without one: {found}"
    )


def test_every_primitive_has_an_oracle():
    assert {row.name for row in PRIMITIVES} - {"checkpoint"} == set(ORACLES)


def test_every_public_function_has_a_sample():
    import inspect

    from minidl.functional import activation, conv, indexing, loss, normalization, products, reduction, shape

    for module in (reduction, shape, indexing, products, conv, activation, loss, normalization):
        public = {
            f"functional.{name}"
            for name, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_")
        }
        assert public <= set(table()), f"{module.__name__}: no row for {sorted(public - set(table()))}"


def test_every_layer_has_a_sample():
    from minidl import nn

    containers = {"Module", "ModuleList", "ModuleDict"}
    layers = {
        f"nn.{name}"
        for name, value in vars(nn).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and name not in containers
    }
    assert layers <= set(table()), f"no row for {sorted(layers - set(table()))}"


@pytest.mark.parametrize("row", ROWS, ids=ids)
def test_samples_repeat(row: Sample):
    first, second = row.cases(5), row.cases(5)
    assert first and len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert_same(
            [x for x in a.inputs if isinstance(x, np.ndarray)], [x for x in b.inputs if isinstance(x, np.ndarray)], 0, 0
        )


# ---- values
@pytest.mark.parametrize("backend", [None, "reference", "cpu"])
@pytest.mark.parametrize("row", [r for r in PRIMITIVES if r.name in ORACLES], ids=ids)
def test_value(row: Sample, backend: str | None):
    for case in row.cases():
        expected = outputs(ORACLES[row.name](*case.inputs, **case.params))
        with minidl.backend(backend):
            if row.name in OPAQUE:
                got = outputs(row.fn(*case.inputs, **case.params))
            else:
                got = [plain(y) for y in outputs(row.fn(*case.tensors(requires_grad=False), **case.params))]
        assert_same(got, expected, 1e-11, 1e-11)


@pytest.mark.parametrize("row", [r for r in ROWS if r.name not in OPAQUE], ids=ids)
def test_recording_changes_no_value(row: Sample):
    for case in row.cases():
        recorded = [y.numpy() for y in outputs(row.function(case)(*case.tensors()))]
        with minidl.no_grad():
            inputs = case.tensors()
            silent = outputs(row.function(case)(*inputs))
        # some functions have nothing to do and return their argument itself
        assert not any(y.requires_grad for y in silent if not any(y is x for x in inputs))
        assert_same([y.numpy() for y in silent], recorded, 0, 0)


# ---- types
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", [r for r in CHECKED if r.kind != "layer" and r.name != "astype"], ids=ids)
def test_type_is_kept(row: Sample, dtype: str):
    """A float32 input gives float32 results and gradients, close to those in float64."""
    for case in row.cases():
        if any(isinstance(v, Tensor) for v in case.params.values()) or row.name == "functional.batch_norm":
            continue  # arguments of their own, in float64
        exact, inputs = case.tensors(), case.tensors(dtype)
        wanted = [y for y in outputs(row.function(case)(*exact)) if y.is_floating_point()]
        got = [y for y in outputs(row.function(case)(*inputs)) if y.is_floating_point()]
        assert [str(y.dtype) for y in got] == [dtype] * len(got)
        assert_same([y.numpy() for y in got], [y.numpy() for y in wanted], 3e-5, 3e-5)
        found, expected = gradients(row, case, inputs), gradients(row, case, exact)
        assert {str(g.dtype) for g in found if g is not None} <= {dtype}
        assert_same(found, expected, 3e-4, 3e-4)


def test_conversion_carries_gradients_in_the_type_of_its_input():
    x = minidl.tensor(np.array([1.5, -2.0]), requires_grad=True)
    y = x.float() * 3
    assert y.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == np.float64
    np.testing.assert_array_equal(x.grad.numpy(), [3.0, 3.0])


# ---- derivatives
@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_gradients(row: Sample):
    """First and second order against differences."""
    result = check_row(row, order=2, seed=1)
    assert not result.failures, "\n".join(f"{case}\n{wrong}" for case, wrong in result.failures)
    assert result.cases


@pytest.mark.parametrize("row", [r for r in ROWS if r.gradient == "zero"], ids=ids)
def test_steps_carry_no_gradient(row: Sample):
    result = check_row(row)
    assert not result.failures, result.failures


@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_both_ways_of_running_a_rule_agree(row: Sample):
    """On bare arrays and, under create_graph, on tensors."""
    for case in row.cases():
        inputs = case.tensors()
        assert_same(gradients(row, case, inputs), gradients(row, case, inputs, create_graph=True))


def small_net(x: Tensor, w: Tensor, b: Tensor, v: Tensor) -> Tensor:
    y = F.tanh(F.conv2d(x, w, b, padding=1))
    y = F.avg_pool2d(y * y, 2)
    return F.linear(y.flatten(1), v).exp().sum()


def test_third_order_of_a_small_convolutional_net():
    """Differences of second derivatives along a direction: d/dt of u' H(x + t d) u at t = 0, against a third
    backward."""
    rng = np.random.default_rng(0)
    shapes = ((1, 1, 4, 4), (2, 1, 3, 3), (2,), (1, 8))
    point = [rng.standard_normal(s) * 0.5 for s in shapes]
    u = [rng.standard_normal(s) for s in shapes]
    d = [rng.standard_normal(s) for s in shapes]

    def curvature(at: list[np.ndarray]) -> tuple[Any, list[Tensor]]:
        leaves = [minidl.tensor(a, requires_grad=True) for a in at]
        first = minidl.grad(small_net(*leaves), leaves, create_graph=True)
        slope: Any = sum((g * Tensor(w)).sum() for g, w in zip(first, u, strict=True))
        second = minidl.grad(slope, leaves, create_graph=True)
        return sum((g * Tensor(w)).sum() for g, w in zip(second, u, strict=True)), leaves

    value, leaves = curvature(point)
    third = minidl.grad(value, leaves)
    analytic = sum(float((g.numpy() * w).sum()) for g, w in zip(third, d, strict=True))
    h = 1e-4
    above, _ = curvature([p + h * w for p, w in zip(point, d, strict=True)])
    below, _ = curvature([p - h * w for p, w in zip(point, d, strict=True)])
    numeric = (above.item() - below.item()) / (2 * h)
    assert abs(analytic) > 1
    assert analytic == pytest.approx(numeric, rel=1e-6)


# ---- memory
def transposed(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.T).T


def reversed_strides(x: np.ndarray) -> np.ndarray:
    flip = (slice(None, None, -1),) * x.ndim
    return np.asarray(x[flip].copy()[flip])


def with_gaps(x: np.ndarray) -> np.ndarray:
    room = np.zeros([2 * n for n in x.shape], x.dtype)
    inner = room[(slice(None, None, 2),) * x.ndim]
    inner[...] = x
    return np.asarray(inner)


def channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1) if x.ndim > 2 else x


LAYOUTS = (transposed, reversed_strides, with_gaps, channels_last)


def laid_out(case: Case, layout: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
    found: list[Any] = []
    for x, given in zip(case.tensors(), case.inputs, strict=True):
        if isinstance(x, Tensor):
            array = layout(x.numpy()) if x.ndim else x.numpy().copy()  # without axes there is one layout
            np.testing.assert_array_equal(array, given)
            found.append(Tensor(array).requires_grad_(x.requires_grad))
        else:
            found.append(x)
    return found


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_layout_of_inputs_does_not_matter(row: Sample, layout: Callable[[np.ndarray], np.ndarray]):
    for case in row.cases():
        plain_inputs, inputs = case.tensors(), laid_out(case, layout)
        wanted = [y.numpy() for y in outputs(row.function(case)(*plain_inputs))]
        got = [y.numpy() for y in outputs(row.function(case)(*inputs))]
        assert_same(got, wanted)
        assert_same(gradients(row, case, inputs), gradients(row, case, plain_inputs))


@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_read_only_inputs_are_enough_and_nothing_is_mutated(row: Sample):
    """Arrays that cannot be written to, also as incoming gradients, give the same results."""
    for case in row.cases():
        inputs = case.tensors()
        for x in inputs:
            if isinstance(x, Tensor):
                x._data.flags.writeable = False
        kept = [x.numpy().copy() for x in inputs if isinstance(x, Tensor)]
        out = [y for y in outputs(row.function(case)(*inputs)) if y.requires_grad]
        flowing = [np.ones(y.shape) for y in out]
        for g in flowing:
            g.flags.writeable = False
        leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
        for create_graph in (False, True):
            minidl.grad(
                out,
                leaves,
                [Tensor(g) for g in flowing],
                retain_graph=True,
                create_graph=create_graph,
                allow_unused=True,
            )
        assert_same([x.numpy() for x in inputs if isinstance(x, Tensor)], kept, 0, 0)


@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_gradients_at_rest_are_not_shared_with_inputs(row: Sample):
    """A leaf's gradient is an array of its own: writing to it would change no input and no other gradient."""
    for case in row.cases():
        inputs = case.tensors()
        out = [y for y in outputs(row.function(case)(*inputs)) if y.requires_grad]
        total = sum((y.sum() for y in out[1:]), start=out[0].sum())
        total.backward()
        leaves = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad and x.grad is not None]
        for x in leaves:
            assert x.grad is not None and x.grad.shape == x.shape and x.grad.dtype == x.dtype
            for y in leaves:
                assert not np.shares_memory(x.grad._data, y._data)


# ---- backends
@pytest.mark.parametrize("row", CHECKED, ids=ids)
def test_reference_and_cpu_agree(row: Sample):
    for case in row.cases(seed=2):
        found = []
        for backend in ("reference", "cpu"):
            with minidl.backend(backend):
                inputs = case.tensors()
                values = [y.numpy() for y in outputs(row.function(case)(*inputs))]
                found.append(values + gradients(row, case, inputs))
        assert_same(found[0], found[1])


# ---- fused primitives
@pytest.mark.parametrize("row", [r for r in PRIMITIVES if isinstance(r.fn, Fused)], ids=ids)
def test_fused_is_its_plain_definition(row: Sample):
    fused = row.fn
    assert isinstance(fused, Fused)
    twin = Sample(row.name, "function", fused.plain, row.build)
    for case in row.cases():
        inputs = case.tensors()
        assert_same([outputs(fused(*inputs, **case.params))[0].numpy()], [fused.plain(*inputs, **case.params).numpy()])
        assert_same(gradients(row, case, inputs), gradients(twin, case, inputs))


@pytest.mark.parametrize("row", [r for r in PRIMITIVES if isinstance(r.fn, Fused)], ids=ids)
def test_fused_computes_the_gradients_asked_for_only(row: Sample):
    for case in row.cases():
        inputs = case.tensors()
        whole = gradients(row, case, inputs)
        floats = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        for position, i in enumerate(floats):
            alone = [x.detach() if j != i and isinstance(x, Tensor) else x for j, x in enumerate(inputs)]
            assert_same(gradients(row, case, alone), [whole[position]])


def test_primitives_are_known_by_their_names():
    assert all(Primitive.names[row.name] is row.fn for row in PRIMITIVES)


# ---- the check itself is worth something here
@pytest.mark.parametrize("name", ["conv", "matmul", "functional.conv2d", "nn.Conv2d"])
def test_step_one_is_exact_for_bilinear_operations(name: str):
    row = table()[name]
    for case in row.cases():
        report = check_case(row, case, order=2)
        assert report and max(report.error.values()) < 1e-12, describe(case)


def test_random_directions_agree_too():
    for name in ("tanh", "conv", "functional.cross_entropy", "nn.BatchNorm2d"):
        result = check_row(table()[name], order=2, fast=True)
        assert not result.failures, result.failures


def test_inputs_that_depend_on_each_other():
    """The same tensor in both places, and an input that is another's ancestor."""
    x = minidl.tensor(np.array([[0.3, -0.4], [1.2, 0.7]]), requires_grad=True)
    assert gradcheck(lambda a: minidl.matmul(a, a), x, order=2, **LINEAR | {"eps": 1e-5, "rtol": 1e-6, "atol": 1e-6})
    w = minidl.tensor(np.random.default_rng(0).standard_normal((1, 1, 3, 3)), requires_grad=True)
    assert gradgradcheck(lambda k: F.conv2d(F.conv2d(k, k, padding=1), k, padding=1), w, rtol=1e-5, atol=1e-5)
