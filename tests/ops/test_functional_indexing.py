"""Indexing and einsum against NumPy, with gradients. Hypothesis draws the indices and the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl
from minidl import Tensor
from minidl.checking import gradcheck
from minidl.checking.rows import LINEAR

SHAPE = (3, 4, 2)


def check_index(shape: tuple[int, ...], index: Any, ours: Any = None) -> None:
    """Value and gradient of x[index]: each read adds its weight to the place that it read."""
    array = np.arange(float(np.prod(shape))).reshape(shape)
    expected = array[index]
    x = minidl.tensor(array, requires_grad=True)
    y = x[index if ours is None else ours]
    assert y.shape == expected.shape
    np.testing.assert_array_equal(y.numpy(), expected)
    weights = np.random.default_rng(0).integers(1, 9, expected.shape).astype(float)
    (g,) = minidl.grad(y, x, Tensor(np.asarray(weights)))
    gradient = np.zeros(array.size)
    np.add.at(gradient, expected.astype(int).ravel(), np.ravel(weights))  # each element of array is its own number
    assert g is not None
    np.testing.assert_array_equal(g.numpy().ravel(), gradient)


@settings(max_examples=150, deadline=None)
@given(index=hnp.basic_indices(SHAPE, allow_newaxis=True))
def test_basic(index: Any):
    check_index(SHAPE, index)


@st.composite
def advanced(draw: Any) -> tuple:
    """Integer arrays that broadcast, boolean masks, slices, numbers and new axes, mixed."""
    broadcast = draw(st.sampled_from([(), (2,), (3, 1), (2, 2), (0,)]))
    index: list[Any] = []
    for n in SHAPE[: draw(st.integers(1, 3))]:
        kind = draw(st.integers(0, 4))
        if kind == 0:
            shape = draw(st.sampled_from([broadcast, broadcast[1:], (1,) * len(broadcast)]))
            index.append(draw(hnp.arrays(np.int64, shape, elements=st.integers(-n, n - 1))))
        elif kind == 1:
            index.append(draw(st.integers(-n, n - 1)))
        elif kind == 2:
            index.append(
                np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n))) if not broadcast else slice(None)
            )
        else:
            ends = st.none() | st.integers(-n, n)
            index.append(slice(draw(ends), draw(ends), draw(st.sampled_from([None, 1, 2, -1]))))
    if draw(st.booleans()):
        index.insert(draw(st.integers(0, len(index))), None)
    return tuple(index)


@settings(max_examples=150, deadline=None)
@given(index=advanced())
def test_advanced(index: tuple):
    try:
        np.empty(SHAPE)[index]
    except IndexError:
        return  # masks of different counts do not broadcast
    check_index(SHAPE, index, tuple(minidl.tensor(part) if isinstance(part, np.ndarray) else part for part in index))


@settings(max_examples=50, deadline=None)
@given(mask=hnp.arrays(bool, st.sampled_from([SHAPE, SHAPE[:2], SHAPE[:1]])))
def test_boolean(mask: np.ndarray):
    check_index(SHAPE, mask)
    check_index(SHAPE, mask, minidl.tensor(mask))


@pytest.mark.parametrize(
    "index", [[0, 2, 2], [[0], [1]], np.array([1, 1]), (np.array([0, 0]), Ellipsis, 1), (Ellipsis, [0, 1])]
)
def test_lists_and_repetitions(index: Any):
    check_index(SHAPE, index)


@pytest.mark.parametrize(
    "index",
    [
        (np.array([0, 2, 2]), slice(1, 3)),
        np.array([[0, 1], [1, 1]]),
        (slice(None), np.array([True, False, True, True])),
    ],
)
def test_second_order(index: Any):
    x = minidl.tensor(np.random.default_rng(0).standard_normal(SHAPE), requires_grad=True)
    assert gradcheck(lambda x: x[index], x, order=2, **LINEAR)
    assert gradcheck(lambda x: x[index] * x[index], x, order=2, atol=1e-6, rtol=1e-6)


def test_index_arrays_are_copied():
    index = np.array([0, 1])
    x = minidl.tensor(np.arange(3.0), requires_grad=True)
    y = x[index] * x[index]
    index[:] = 2
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, 2, 0])


def test_gather_and_its_like():
    rng = np.random.default_rng(0)
    array, index = rng.standard_normal((3, 4)), rng.integers(0, 4, (3, 5))
    x = minidl.tensor(array, requires_grad=True)
    y = minidl.gather(x, 1, minidl.tensor(index))
    np.testing.assert_array_equal(y.numpy(), np.take_along_axis(array, index, 1))
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [[(row == j).sum() for j in range(4)] for row in index])
    np.testing.assert_array_equal(minidl.index_select(x, 0, minidl.tensor([2, 2, 0])).numpy(), array[[2, 2, 0]])


# ---- einsum
@st.composite
def equations(draw: Any) -> tuple[str, list[tuple[int, ...]]]:
    """An equation over at most four letters and three operands, and shapes that fit it."""
    size = {letter: draw(st.integers(1, 3)) for letter in "abcd"}
    terms = draw(st.lists(st.text("abcd", max_size=3), min_size=1, max_size=3))
    dots = draw(st.sampled_from([(), (2,), (2, 1)]))
    shapes = []
    for i, term in enumerate(terms):
        shape = tuple(size[c] for c in term)
        if dots and draw(st.booleans()):
            terms[i] = "..." + term
            shape = dots[draw(st.integers(0, len(dots) - 1)) :] + shape
        shapes.append(shape)
    equation = ",".join(terms)
    letters = sorted(set(equation) & set("abcd"))
    # NumPy wants the dots in an explicit output where an operand has them
    if draw(st.booleans()) or "..." in equation:
        output = draw(st.permutations(letters))[: draw(st.integers(0, len(letters)))]
        equation += "->" + ("..." if "..." in equation else "") + "".join(output)
    return equation, shapes


@settings(max_examples=200, deadline=None)
@given(case=equations())
def test_einsum(case: tuple[str, list[tuple[int, ...]]]):
    equation, shapes = case
    rng = np.random.default_rng(0)
    arrays = [np.asarray(rng.standard_normal(s)) for s in shapes]
    xs = [minidl.tensor(a, requires_grad=True) for a in arrays]
    y = minidl.einsum(equation, *xs)
    expected = np.einsum(equation, *arrays)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, 1e-10, 1e-12)
    # linear in each operand: moving one along a direction changes the result by the gradient along it, exactly
    weights = np.asarray(rng.standard_normal(expected.shape))
    for i, (array, g) in enumerate(zip(arrays, minidl.grad(y, xs, Tensor(weights)), strict=True)):
        assert g is not None
        direction = np.asarray(rng.standard_normal(array.shape))
        moved = np.einsum(equation, *arrays[:i], direction, *arrays[i + 1 :])
        assert float((g.numpy() * direction).sum()) == pytest.approx(float((moved * weights).sum()), rel=1e-9, abs=1e-9)
