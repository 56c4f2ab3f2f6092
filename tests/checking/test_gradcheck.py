"""gradcheck finds planted mistakes, says what is wrong with them, and refuses what it cannot check."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor
from minidl.checking import Failure, GradcheckError, Report, gradcheck, gradgradcheck, load_case
from minidl.checking.report import in_layout, write_whole
from minidl.core import Primitive
from minidl.kernels import table

RNG = np.random.default_rng(0)
COUNTER = itertools.count()


def leaf(*shape: int) -> Tensor:
    return minidl.tensor(RNG.standard_normal(shape), requires_grad=True)


@pytest.fixture
def plant() -> Iterator[Callable[..., Primitive]]:
    """Primitives that vanish again after the test."""
    before = set(Primitive.names)

    def make(signature: str, *rules: Any, **kwargs: Any) -> Primitive:
        return Primitive(signature, *rules, **kwargs)

    yield make
    for name in set(Primitive.names) - before:
        del Primitive.names[name]
        del table.TABLE[name]


def failure_of(fn: Callable, inputs: Any, **options: Any) -> Failure:
    report = gradcheck(fn, inputs, raise_exception=False, **options)
    assert not report
    with pytest.raises(GradcheckError) as raised:
        gradcheck(fn, inputs, **options)
    assert raised.value.report is not None and str(raised.value) == str(raised.value.report)
    return report.failures[0]


# ---- what is right passes
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("order", [1, 2])
def test_right_gradients_pass(order: int, fast: bool):
    report = gradcheck(
        lambda x, w, n: (F.tanh(x @ w) * n, x.sum()), (leaf(2, 3), leaf(3, 2), 2), order=order, fast=fast
    )
    assert isinstance(report, Report) and report
    assert set(report.error) == set(range(1, order + 1))
    assert max(report.error.values()) < 1e-7
    assert "gradients agree" in str(report)


def test_random_directions_need_few_evaluations():
    x = leaf(8, 8)
    whole, fast = gradcheck(minidl.sin, x), gradcheck(minidl.sin, x, fast=True)
    assert fast.evaluations < 10 < 2 * 64 <= whole.evaluations


def test_inputs_of_all_kinds():
    index = minidl.tensor([0, 2])
    fn = lambda x, i, scale, nothing, fixed: x[i] * scale + fixed
    report = gradcheck(fn, (leaf(3, 2), index, 2.0, None, minidl.tensor(RNG.standard_normal(2))), order=2)
    assert report


def test_a_list_of_inputs_and_a_single_tensor():
    assert gradcheck(minidl.exp, leaf(2))
    assert gradcheck(minidl.maximum, [leaf(2), leaf(2)])
    assert minidl.gradcheck(minidl.exp, leaf(2)) and minidl.gradgradcheck(minidl.exp, leaf(2))


def test_results_in_a_graph_as_inputs():
    x = leaf(3)
    assert gradcheck(lambda y: y.exp() * y, x * 2, order=2)


def test_the_same_tensor_twice():
    x = leaf(2, 2)
    assert gradcheck(minidl.matmul, (x, x), order=2)


def test_parameters_that_the_function_reads_by_itself():
    w, b = leaf(3, 2), leaf(2)
    assert gradcheck(lambda x, *_: F.tanh(x @ w + b), (leaf(2, 3), w, b), order=2)


@pytest.mark.parametrize(
    "array",
    [
        RNG.standard_normal((4, 3)).T, RNG.standard_normal((3, 4))[::-1, ::-1], RNG.standard_normal((6, 8))[::2, 1::2],
        np.broadcast_to(RNG.standard_normal(4), (3, 4)), np.zeros((0, 4)), np.array(0.7), np.zeros((3, 0, 2)),
    ],
)  # fmt: skip
def test_memory_orders(array: np.ndarray):
    seen = set()

    def fn(x: Tensor) -> Tensor:
        seen.add(x._data.strides)
        return minidl.sin(x) * x

    before = array.copy()
    assert gradcheck(fn, Tensor(array).requires_grad_(), order=2)
    np.testing.assert_array_equal(array, before)
    if 0 not in array.strides and array.size > 1:
        assert seen == {array.strides}, "the function saw another memory order than it was given"


def test_read_only_inputs():
    array = RNG.standard_normal((2, 3))
    array.flags.writeable = False
    assert gradcheck(F.tanh, Tensor(array).requires_grad_(), order=2)


def test_tensors_get_their_arrays_back():
    x = leaf(2, 3)
    array, copy = x._data, x.numpy().copy()
    earlier = (x * x).sum()

    def fails(x: Tensor) -> Tensor:
        if next(calls) == 4:
            raise KeyError("on the way")
        return x * x

    calls = itertools.count()
    with pytest.raises(KeyError):
        gradcheck(fails, x)
    assert x._data is array
    np.testing.assert_array_equal(array, copy)
    earlier.backward()  # a graph from before is still good
    assert x.grad is not None


def test_the_random_stream_is_left_alone():
    minidl.manual_seed(0)
    state = minidl.get_rng_state()
    gradcheck(F.tanh, leaf(2), order=2, fast=True)
    assert minidl.get_rng_state() == state


def test_works_under_no_grad():
    with minidl.no_grad():
        assert gradcheck(F.tanh, leaf(2), order=2)


# ---- planted mistakes
@pytest.mark.parametrize("fast", [False, True])
def test_wrong_sign(plant: Callable, fast: bool):
    bad = plant("planted_sign(x) -> y", lambda g, y: -g * (1 - y * y), kernel=np.tanh)
    failure = failure_of(bad, leaf(2, 3), fast=fast)
    assert (failure.kind, failure.order, failure.input, failure.name, failure.output) == ("value", 1, 0, "x", 0)
    assert failure.element == failure.output_element and failure.element is not None
    assert failure.analytic == pytest.approx(-failure.numeric, rel=1e-6)
    assert failure.absolute == pytest.approx(2 * abs(failure.numeric), rel=1e-6)
    assert failure.relative == pytest.approx(2, rel=1e-6)
    assert (failure.wrong, failure.total) == (6, 36)
    assert not failure.kink
    text = str(failure)
    assert "a wrong sign: the whole analytic Jacobian is -1 times the numeric one" in text
    assert "input 0 (x), element [" in text and "output 0, element [" in text
    assert len(failure.sweep) == 7 and "1.0e-02" in text and "1.0e-08" in text


@pytest.mark.parametrize("fast", [False, True])
def test_wrong_factor(plant: Callable, fast: bool):
    bad = plant("planted_factor(x) -> y", lambda g, x: g * x, kernel=np.square)
    failure = failure_of(bad, leaf(4), fast=fast)
    assert "a wrong factor: the whole analytic Jacobian is 0.5 times the numeric one" in str(failure)


@pytest.mark.parametrize("fast", [False, True])
def test_missing_dependence_of_one_input(plant: Callable, fast: bool):
    bad = plant("planted_missing(a, b) -> y", lambda g, b: g * b, None, kernel=np.multiply)
    failure = failure_of(bad, (leaf(3), leaf(3)), fast=fast)
    assert (failure.input, failure.name, failure.analytic) == (1, "b", 0)
    assert "a missing dependence: the analytic gradient of this input is zero everywhere" in str(failure)


def test_detached_part():
    failure = failure_of(lambda x: x * x.detach(), leaf(3))
    assert "factor" in str(failure)


def test_output_that_left_the_graph():
    failure = failure_of(lambda x: (x * 2, (x * x).detach()), leaf(3))
    assert failure.output == 1 and failure.analytic == 0


def test_one_wrong_element(plant: Callable):
    def rule(g: Any, *, by: float) -> Any:
        wrong = np.zeros((2, 3))
        wrong[1, 2] = by
        return g * (2 + wrong)

    planted = plant("planted_element(x) -> y", rule, kernel=lambda x, *, by: 2 * x)
    bad = lambda x: planted(x, by=0.01)
    failure = failure_of(bad, leaf(2, 3))
    assert (failure.element, failure.output_element, failure.wrong) == ((1, 2), (1, 2), 1)
    assert failure.absolute == pytest.approx(0.01, rel=1e-4)
    # along a random direction a mistake of this element drowns in the sum over all of them unless it is larger
    report = gradcheck(lambda x: planted(x, by=0.5), leaf(2, 3), fast=True, raise_exception=False)
    assert report.failures[0].element == (1, 2)


@pytest.mark.parametrize("fast", [False, True])
def test_wrong_second_order_only(plant: Callable, fast: bool):
    # the gradient is right, its own gradient is not: the rule reads x as if it did not depend on it
    bad = plant(
        "planted_second(x) -> y", lambda g, x: g * 2 * (x.detach() if isinstance(x, Tensor) else x), kernel=np.square
    )
    x = leaf(2, 2)
    assert gradcheck(bad, x, fast=fast)
    failure = failure_of(bad, x, order=2, fast=fast)
    assert (failure.order, failure.input, failure.name) == (2, 0, "x")
    assert "order 2" in str(failure)
    report = gradgradcheck(bad, x, raise_exception=False, fast=fast)
    assert [f.order for f in report.failures] == [2]


def test_rule_that_cannot_be_differentiated(plant: Callable):
    bad = plant("planted_numpy(x) -> y", lambda g, x: g * np.asarray(2 * x), kernel=np.square)
    failure = failure_of(bad, leaf(3), order=2)
    assert (failure.kind, failure.order) == ("exception", 2)
    assert "the gradient cannot be differentiated" in str(failure)


def test_wrong_shape(plant: Callable):
    bad = plant("planted_shape(x) -> y", lambda g: g[:1], kernel=lambda x: 2 * x)
    failure = failure_of(bad, leaf(3))
    assert failure.kind == "exception"
    assert "float64[1]" in str(failure) and "float64[3]" in str(failure) and "planted_shape" in str(failure)


def test_wrong_type(plant: Callable):
    bad = plant("planted_type(x) -> y", lambda g: (2 * g).astype(np.float32), kernel=lambda x: 2 * x)
    assert "float32" in str(failure_of(bad, leaf(3)))


def test_nan(plant: Callable):
    bad = plant("planted_nan(x) -> y", lambda g, x: g * np.full_like(x, np.nan), kernel=np.copy)
    assert failure_of(bad, leaf(3)).kind == "not finite"
    with np.errstate(all="ignore"):
        assert failure_of(minidl.log, minidl.tensor(np.array([-1.0, 1.0]), requires_grad=True)).kind == "not finite"


def test_mutation_of_an_input(plant: Callable):
    def kernel(x: np.ndarray) -> np.ndarray:
        x[0] = 0
        return x * 1

    bad = plant("planted_write(x) -> y", lambda g: g, kernel=kernel)
    report = gradcheck(bad, leaf(3), raise_exception=False)
    assert [(f.kind, f.name) for f in report.failures] == [("mutation", "x")]


def test_mutation_of_the_incoming_gradient(plant: Callable):
    def rule(g: Any) -> Any:
        g *= 2
        return g

    report = gradcheck(plant("planted_gradient(x) -> y", rule, kernel=lambda x: 2 * x), leaf(3), raise_exception=False)
    failure = report.failures[0]  # core hands the caller's gradient to the rule, read-only
    assert failure.kind == "exception" and "read-only" in str(failure)


# ---- not deterministic
def test_random_function():
    failure = failure_of(lambda x: F.dropout(x), leaf(5))
    assert failure.kind == "nondeterministic"
    assert "drew from minidl's random stream" in str(failure)


def test_rare_nondeterminism():
    # the first runs agree, later ones do not
    failure = failure_of(lambda x: x * (2 + (next(COUNTER) % 5 == 4)), leaf(3))
    assert failure.kind == "nondeterministic"


def test_other_nondeterminism():
    failure = failure_of(lambda x: x * next(COUNTER), leaf(3))
    assert failure.kind == "nondeterministic" and "something else than the inputs" in str(failure)
    noise = itertools.cycle([0.0, 1e-13])
    assert gradcheck(lambda x: x + next(noise), leaf(3), nondet_tol=1e-12)


def test_nondeterministic_backward(plant: Callable):
    bad = plant("planted_noise(x) -> y", lambda g: g * (2 + next(COUNTER)), kernel=lambda x: 2 * x)
    failure = failure_of(bad, leaf(3))
    assert failure.kind == "nondeterministic" and "backward is not deterministic" in str(failure)


# ---- kinks and steps
def test_kink():
    failure = failure_of(F.relu, minidl.tensor(np.array([1.0, 0.0, -1.0]), requires_grad=True))
    assert failure.kink and failure.element == (1,)
    assert "a kink: the slopes on the left (0) and on the right (1)" in str(failure)
    assert "the analytic value is the slope on the left" in str(failure)


@pytest.mark.parametrize("fn", [abs, lambda x: x.clamp(max=0), lambda x: minidl.maximum(x, 3 * x)])
def test_other_kinks(fn: Callable):
    x = minidl.tensor(np.zeros(1), requires_grad=True)
    report = gradcheck(lambda x: fn(x) + x * x, x, raise_exception=False)
    assert report or report.failures[0].kink  # a gradient halfway between the sides agrees with the central difference


def test_a_wrong_rule_of_a_curved_function_is_no_kink(plant: Callable):
    bad = plant("planted_curved(x) -> y", lambda g, x: g * np.exp(x) * 1.5, kernel=lambda x: np.exp(3 * x))
    failure = failure_of(bad, minidl.tensor(np.array([2.0]), requires_grad=True))
    assert not failure.kink and "the differences settle at" in str(failure)


def test_a_step_too_large_is_named():
    failure = failure_of(lambda x: minidl.sin(20 * x), leaf(3), eps=0.1)
    assert "the step: with eps=" in str(failure) and "agrees with the analytic value" in str(failure)


# ---- refused
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_low_precision_is_refused(dtype: str):
    x = minidl.ones(2, dtype=dtype, requires_grad=True)
    with pytest.raises(
        TypeError,
        match=rf"input 0 \(x\) is {dtype}, and finite differences need float64(.|\n)*cube root(.|\n)*\.double\(\)",
    ):
        gradcheck(lambda x: x * x, x)
    assert gradcheck(lambda x, y: x * y.double(), (leaf(2), minidl.ones(2, dtype=dtype)))  # needs no gradient


def test_low_precision_inside_is_refused():
    with pytest.raises(TypeError, match="output 0 is float32"):
        gradcheck(lambda x: x.float(), leaf(2))


def test_nothing_to_check():
    with pytest.raises(ValueError, match=r"no input requires a gradient.*a tensor float64\[2\]"):
        gradcheck(minidl.exp, leaf(2).detach())
    with pytest.raises(ValueError, match="no input requires a gradient"):
        gradcheck(lambda: leaf(2), ())
    with pytest.raises(ValueError, match="no output carries a gradient"):
        gradcheck(minidl.floor, leaf(2))
    with pytest.raises(ValueError, match=r"no output carries a gradient.*int64\[\]"):
        gradcheck(lambda x: x.argmax(), leaf(2))
    with pytest.raises(TypeError, match=r"output 0 .* an array float64\[2\]"):
        gradcheck(lambda x: x.numpy(), leaf(2))
    with pytest.raises(TypeError, match=r"output 1 .* float"):
        gradcheck(lambda x: (x, 1.0), leaf(2))


def test_bad_options():
    for options, words in (
        ({"order": 3}, "order is 3"), ({"eps": 0}, "eps is 0"), ({"atol": -1}, "atol is -1"),
        ({"names": ["a", "b"]}, "2 names"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            gradcheck(minidl.exp, leaf(2), **options)


def test_outputs_that_change_their_shape():
    sizes = itertools.cycle([1, 1, 2])
    with pytest.raises(GradcheckError, match="shapes"):
        gradcheck(lambda x: x[: next(sizes)], leaf(3))


# ---- second order
def test_given_grad_outputs():
    x = leaf(2, 3)
    assert gradgradcheck(F.tanh, x, leaf(2, 3))
    assert gradgradcheck(
        lambda x: (x.exp(), x.sum()), x, (leaf(2, 3), minidl.tensor(np.array(2.0), requires_grad=True))
    )
    with pytest.raises(ValueError, match="must be a tensor of shape"):
        gradgradcheck(F.tanh, x, leaf(2))
    with pytest.raises(ValueError, match="1 outputs carry gradients, but there are 2"):
        gradgradcheck(F.tanh, x, (leaf(2, 3), leaf(2, 3)))


def test_linear_functions_have_second_order_through_the_incoming_gradient():
    assert gradgradcheck(lambda a, b: a + 2 * b, (leaf(2), leaf(2)), eps=1.0, atol=1e-12, rtol=1e-12)


# ---- the file
def test_saved_case_reproduces(plant: Callable, tmp_path: Path):
    bad = plant("planted_saved(x, w) -> y", lambda g, w: g * w, lambda g, x: g * x * 2, kernel=lambda x, w: x * w)
    x = Tensor(RNG.standard_normal((4, 3)).T[::-1]).requires_grad_()
    w = leaf(3, 4)
    path = tmp_path / "new folder" / "case.npz"
    with pytest.raises(GradcheckError, match="load_case") as raised:
        gradcheck(bad, (x, w), save=path)
    assert str(path) in str(raised.value)
    assert [p.name for p in path.parent.iterdir()] == ["case.npz"]  # nothing temporary is left
    case = load_case(path)
    assert (case.input, case.order, case.grad_outputs) == (1, 1, None)
    again = case.inputs
    np.testing.assert_array_equal(again[0].numpy(), x.numpy())
    assert again[0]._data.strides == x._data.strides and again[0].requires_grad
    report = gradcheck(bad, again, raise_exception=False)
    assert (report.failures[0].element, report.failures[0].analytic) == (case.element, case.analytic)
    assert case.sweep.shape == (7, 4)
    with np.load(path, allow_pickle=False) as file:  # no pickles inside
        assert {"input_0", "input_1", "about", "analytic", "numeric", "sweep"} == set(file.files)


def test_saved_case_of_second_order_and_other_inputs(plant: Callable, tmp_path: Path):
    bad = plant(
        "planted_saved2(x) -> y", lambda g, x: g * 2 * (x.detach() if isinstance(x, Tensor) else x), kernel=np.square
    )
    fn = lambda x, n, at, mode: bad(x)[at] * n
    inputs = (leaf(3), 2, minidl.tensor([0, 2]), "text")
    report = gradgradcheck(fn, inputs, save=tmp_path / "case", raise_exception=False)
    assert report.saved == tmp_path / "case.npz" and "gradgradcheck(fn, case.inputs, case.grad_outputs)" in str(report)
    case = load_case(report.saved)
    assert case.inputs[1] == 2 and case.inputs[3] == "text" and case.order == 2
    assert case.grad_outputs is not None and len(case.grad_outputs) == 1
    again = gradgradcheck(fn, case.inputs, case.grad_outputs, raise_exception=False)
    assert again.failures[0].analytic == case.analytic


def test_nothing_is_saved_when_all_is_well(tmp_path: Path):
    assert gradcheck(F.tanh, leaf(2), save=tmp_path / "case.npz").saved is None
    assert not list(tmp_path.iterdir())


def test_files_appear_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "report"
    write_whole(target, b"old")

    def refuse(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_whole(target, b"new")
    assert target.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_copies_keep_the_memory_order():
    array = RNG.standard_normal((4, 5, 6))
    for view in (
        array,
        array.transpose(2, 0, 1),
        array[::-1, ::2, ::-3],
        array[0, 0, :0],
        np.array(1.0),
        np.broadcast_to(array[0], (2, 5, 6)),
    ):
        copy = in_layout(view)
        np.testing.assert_array_equal(copy, view)
        assert copy.flags.writeable and not np.shares_memory(copy, view)
        if 0 not in view.strides and view.size:
            assert copy.strides == view.strides
