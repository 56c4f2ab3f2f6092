"""Classification metrics against loops, and what they refuse."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl
from minidl import Tensor
from minidl.metrics import accuracy, class_coverage, confident_share, confusion_matrix

pairs_of_classes = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[hnp.arrays(np.int64, n, elements=st.integers(0, 6)) for _ in range(2)])
)


@st.composite
def probabilities(draw):
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 8)))
    weights = draw(hnp.arrays(np.float64, shape, elements=st.floats(0.01, 1)))
    return weights / weights.sum(1, keepdims=True)


@given(pairs_of_classes)
def test_accuracy_and_confusion_matrix_are_those_of_a_loop(pair):
    labels, predictions = pair
    counts = [[0] * 7 for _ in range(7)]
    right = 0
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        counts[label][prediction] += 1
        right += label == prediction
    assert accuracy(labels, predictions) == right / len(labels)
    matrix = confusion_matrix(labels, predictions, classes=7)
    assert matrix.tolist() == counts
    assert matrix.trace() == right
    k = max(labels.max(), predictions.max()) + 1
    np.testing.assert_array_equal(confusion_matrix(labels, predictions), matrix[:k, :k])


@given(probabilities(), st.floats(0, 1), st.floats(0, 1))
def test_shares_and_coverage_are_those_of_a_loop(rows, above, share):
    confident, counts = 0, dict.fromkeys(range(rows.shape[1]), 0)
    for row in rows.tolist():
        confident += max(row) > above
        counts[row.index(max(row))] += 1
    assert confident_share(rows, above) == confident / len(rows)
    assert class_coverage(rows, share) == sum(count / len(rows) > share for count in counts.values())


def test_both_limits_are_exclusive():
    rows = np.array([[0.75, 0.25], [0.25, 0.75], [0.25, 0.75], [0.25, 0.75]])
    assert (confident_share(rows, 0.75), confident_share(rows, 0.74)) == (0, 1)
    assert (class_coverage(rows, 0.25), class_coverage(rows, 0.24)) == (1, 2)


def test_a_sampler_that_lost_modes_is_confident_and_found_out():
    rows = np.tile(np.eye(10)[3], (100, 1))
    assert confident_share(rows) == 1
    assert class_coverage(rows) == 1


def test_tensors_and_float32_softmaxes_are_taken():
    minidl.manual_seed(0)
    rows = (20 * minidl.randn(500, 10)).softmax(1)
    assert confident_share(rows) == confident_share(rows.numpy()) > 0.5
    assert class_coverage(rows) == 10
    assert accuracy(Tensor(np.array([1, 2])), np.array([1, 3])) == 0.5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: accuracy([1, 2], [1]), ValueError, "labels are 2 and predictions 1; there must be one for each"),
        (lambda: accuracy([], []), ValueError, "labels has shape (0,); it must be (N,)"),
        (lambda: accuracy([0], [[0.5, 0.5]]), ValueError, "predictions has shape (1, 2); it must be (N,)"),
        (lambda: accuracy([0], [0.0]), TypeError, "predictions holds float64; it must hold class numbers"),
        (lambda: accuracy([-1], [0]), ValueError, "labels holds -1; class numbers begin at 0"),
        (lambda: confusion_matrix([3], [0], classes=3), ValueError, "classes is 3, but class 3 occurs"),
        (lambda: confident_share([[2.0, -1.0]]), ValueError, "apply a softmax to logits first"),
        (lambda: confident_share([[0.5, 0.4]]), ValueError, "its rows must add up to 1"),
        (lambda: confident_share([0.5, 0.5]), ValueError, "probabilities has shape (2,)"),
        (lambda: confident_share(np.full((1, 2, 2), 0.25)), ValueError, "it must be (N, K)"),
        (lambda: confident_share([[np.nan, 1.0]]), ValueError, "probabilities holds NaN or infinity, first in row 0"),
        (lambda: confident_share([[0.5, 0.5]], above=90), ValueError, "above is 90; it must be between 0 and 1"),
        (lambda: class_coverage([[0.5, 0.5]], share=2), ValueError, "share is 2; it must be between 0 and 1"),
        (lambda: class_coverage([["a", "b"]]), TypeError, "it must hold real numbers"),
    ],
)
def test_refusals_name_the_argument_and_what_would_fit(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()
