"""Sorting, comparing, and the products of matrices that have names of their own."""

from __future__ import annotations

import numpy as np
import pytest

import minidl


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable_and_its_gradient_goes_where_the_values_came_from(dim, descending):
    a = np.array([[2.0, 1.0, 2.0, 0.0], [1.0, 1.0, 3.0, 3.0]])
    x = minidl.tensor(a, requires_grad=True)
    values, indices = minidl.sort(x, dim, descending)
    order = np.argsort(-a if descending else a, axis=dim, kind="stable")
    np.testing.assert_array_equal(indices.numpy(), order)
    np.testing.assert_array_equal(values.numpy(), np.take_along_axis(a, order, dim))
    weight = np.arange(8.0).reshape(2, 4)
    (values * minidl.tensor(weight)).sum().backward()
    expected = np.zeros_like(a)
    np.put_along_axis(expected, order, weight, dim)
    np.testing.assert_array_equal(x.grad.numpy(), expected)


def test_sorting_unsigned_numbers_downwards():
    assert minidl.sort(minidl.tensor(np.array([0, 255, 3], "uint8")), descending=True).values.tolist() == [255, 3, 0]


def test_topk():
    x = minidl.tensor([[3.0, 1.0, 2.0]])
    assert minidl.topk(x, 2).values.tolist() == [[3.0, 2.0]]
    assert minidl.topk(x, 2).indices.tolist() == [[0, 2]]
    assert x.topk(1, largest=False).values.tolist() == [[1.0]]
    with pytest.raises(ValueError, match=r"k is 4; axis 1 .* has only 3 elements"):
        minidl.topk(x, 4)


def test_equal_and_allclose():
    x = minidl.tensor([1.0, 2.0])
    assert x.equal(minidl.tensor([1.0, 2.0]))
    assert not minidl.equal(x, minidl.tensor([1.0, 2.0, 3.0]))
    assert minidl.allclose(x, x + 1e-7)
    assert not x.allclose(x + 1e-3)


def test_mm_and_bmm_want_exactly_their_axes():
    a, b = minidl.rand(2, 3), minidl.rand(3, 4)
    np.testing.assert_array_equal(minidl.mm(a, b).numpy(), (a @ b).numpy())
    with pytest.raises(ValueError, match=r"mm: input has shape \(2, 3\), mat2 \(1, 3, 4\); both need two axes"):
        minidl.mm(a, b.unsqueeze(0))
    with pytest.raises(ValueError, match=r"bmm: .* both need three axes and the same first"):
        minidl.bmm(a, b)


def test_small_elementwise_functions():
    x = minidl.tensor([0.0, 4.0, float("inf")])
    assert x.isinf().tolist() == [False, False, True]
    assert minidl.logical_not(x).tolist() == [True, False, False]
    assert minidl.log2(minidl.tensor([8.0])).item() == pytest.approx(3)
    assert x.masked_fill(x > 1, -1).tolist() == [0.0, -1.0, -1.0]
    assert minidl.add(x, 1).tolist()[:2] == [1.0, 5.0]
    turned = minidl.rand(3, 2).T
    assert turned.contiguous().data.flags.c_contiguous
    assert turned.contiguous().equal(turned)


def test_every_function_explains_itself():
    for name in ("exp", "tanh", "maximum", "where", "sum", "conv"):
        function = getattr(minidl, name, None)
        if function is not None:
            assert function.__doc__
            assert function.__name__ == name
    for name in ("exp", "sum", "reshape", "sort"):
        assert getattr(minidl.Tensor, name).__doc__
