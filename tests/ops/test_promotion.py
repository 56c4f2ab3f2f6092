"""Which type a result has: PyTorch's rules, written out, over all pairs of types and kinds of operands."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import minidl

DTYPES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
SHORT = dict(zip(["b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8"], DTYPES, strict=True))

# rows: the type of a tensor with axes; columns, in the order of DTYPES: that of the other operand
BOTH_WITH_AXES = """
b1 u1 i1 i2 i4 i8 f2 f4 f8
u1 u1 i2 i2 i4 i8 f2 f4 f8
i1 i2 i1 i2 i4 i8 f2 f4 f8
i2 i2 i2 i2 i4 i8 f2 f4 f8
i4 i4 i4 i4 i4 i8 f2 f4 f8
i8 i8 i8 i8 i8 i8 f2 f4 f8
f2 f2 f2 f2 f2 f2 f2 f4 f8
f4 f4 f4 f4 f4 f4 f4 f4 f8
f8 f8 f8 f8 f8 f8 f8 f8 f8
"""
OTHER_WITHOUT_AXES = """
b1 u1 i1 i2 i4 i8 f2 f4 f8
u1 u1 u1 u1 u1 u1 f2 f4 f8
i1 i1 i1 i1 i1 i1 f2 f4 f8
i2 i2 i2 i2 i2 i2 f2 f4 f8
i4 i4 i4 i4 i4 i4 f2 f4 f8
i8 i8 i8 i8 i8 i8 f2 f4 f8
f2 f2 f2 f2 f2 f2 f2 f2 f2
f4 f4 f4 f4 f4 f4 f4 f4 f4
f8 f8 f8 f8 f8 f8 f8 f8 f8
"""
# columns: True, 2, 2.5; the same for tensors with and without axes
PYTHON_NUMBERS = """
b1 i8 f4
u1 u1 f4
i1 i1 f4
i2 i2 f4
i4 i4 f4
i8 i8 f4
f2 f2 f2
f4 f4 f4
f8 f8 f8
"""
NUMBERS = (True, 2, 2.5)


def rows(text: str, columns: Any) -> dict[tuple[str, Any], str]:
    cells = [[SHORT[cell] for cell in line.split()] for line in text.split("\n") if line]
    return {(a, b): cells[i][j] for i, a in enumerate(DTYPES) for j, b in enumerate(columns)}


AXES, NO_AXES, PYTHON = rows(BOTH_WITH_AXES, DTYPES), rows(OTHER_WITHOUT_AXES, DTYPES), rows(PYTHON_NUMBERS, NUMBERS)


def tensor(dtype: str, *shape: int) -> minidl.Tensor:
    return minidl.ones(*shape, dtype=dtype)


@pytest.mark.parametrize(("a", "b"), [*product(DTYPES, DTYPES)])
def test_two_tensors(a: str, b: str):
    assert str((tensor(a, 2) * tensor(b, 2)).dtype) == AXES[a, b]
    assert str((tensor(a) * tensor(b)).dtype) == AXES[a, b]  # two tensors without axes are equals
    assert str(minidl.result_type(tensor(a, 2), tensor(b, 1, 2))) == AXES[a, b]
    assert str(minidl.promote_types(np.dtype(a), np.dtype(b))) == AXES[a, b]


@pytest.mark.parametrize(("a", "b"), [*product(DTYPES, DTYPES)])
def test_tensor_beside_one_without_axes(a: str, b: str):
    assert str((tensor(a, 2) * tensor(b)).dtype) == NO_AXES[a, b]
    assert str((tensor(b) * tensor(a, 2)).dtype) == NO_AXES[a, b]
    assert str(minidl.maximum(tensor(a, 2), tensor(b)).dtype) == NO_AXES[a, b]


@pytest.mark.parametrize(("a", "number"), [*product(DTYPES, NUMBERS)])
def test_tensor_beside_a_python_number(a: str, number: float):
    for x in (tensor(a, 2), tensor(a)):
        assert str((x * number).dtype) == PYTHON[a, number]
        assert str((number * x).dtype) == PYTHON[a, number]


@pytest.mark.parametrize("a", DTYPES)
def test_other_operators_follow(a: str):
    x = tensor(a, 2)
    assert str((x < 2.5).dtype) == "bool"
    assert str((x / x).dtype) == (a if a.startswith("float") else "float32")  # true division is floating
    assert str(minidl.exp(x).dtype) == (a if a.startswith("float") else "float32")
    assert str(minidl.where(x > 0, x, 0.5).dtype) == PYTHON[a, 2.5]
    assert str(minidl.cat([x, tensor("int16", 2)]).dtype) == AXES[a, "int16"]
    assert str(x.sum().dtype) == (a if a.startswith("float") else "int64")
    if a != "bool":
        assert str((x // 2).dtype) == a
        assert str((x**2).dtype) == a


@pytest.mark.parametrize(("a", "b"), [*product(["float16", "float32", "float64"], repeat=2)])
def test_gradients_come_back_in_their_own_type(a: str, b: str):
    x, y = tensor(a, 2).requires_grad_(), tensor(b).requires_grad_()
    (x * y).sum().backward()
    assert x.grad is not None and y.grad is not None
    assert str(x.grad.dtype) == a and str(y.grad.dtype) == b
    assert y.grad.item() == 2


def test_numpy_arrays_count_as_tensors():
    assert str((np.ones(2, "float64") * tensor("float32", 2)).dtype) == "float64"
    assert str((tensor("float32", 2) + np.ones((), "float64")).dtype) == "float32"
    assert str((tensor("float32", 2) * np.float64(2)).dtype) == "float32"


@pytest.mark.parametrize("dtype", ["complex64", "datetime64[s]", "object", "float128"])
def test_other_types_are_refused_by_name(dtype: str):
    try:
        array = np.zeros(2, dtype)
    except TypeError:
        pytest.skip(f"this NumPy has no {dtype}")
    with pytest.raises(TypeError, match=r"is not supported; the supported ones are bool, uint8"):
        minidl.tensor(array)


def test_torch_agrees():
    torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")

    def other(dtype: str, *shape: int) -> Any:
        return torch.ones(shape, dtype=getattr(torch, dtype))

    for a, b in product(DTYPES, DTYPES):
        assert str(torch.result_type(other(a, 2), other(b, 2))) == f"torch.{AXES[a, b]}"
        assert str(torch.result_type(other(a, 2), other(b))) == f"torch.{NO_AXES[a, b]}"
    for a, number in product(DTYPES, NUMBERS):
        assert str(torch.result_type(other(a, 2), number)) == f"torch.{PYTHON[a, number]}"


def test_types_of_single_functions():
    """As in PyTorch: numbers alone make float32, steps keep integers, products of integers are int64."""
    whole = minidl.tensor([1, 2])
    condition = minidl.tensor([True])
    small = minidl.tensor([1, 2], dtype="int32")
    for result, dtype in (
        (minidl.where(condition, 1.0, 0.0), "float32"),
        (minidl.where(condition, 1, 0), "int64"),
        (minidl.where(condition, 1, 0.5), "float32"),
        (whole.clamp(1.5), "float32"),
        (whole.clamp(1), "int64"),
        (small.clamp(0, np.int64(1)), "int32"),
        (minidl.functional.relu6(whole), "int64"),
        (minidl.functional.hardtanh(whole, -0.5, 1.5), "float32"),
        (whole.logsumexp(0), "float32"),
        (small.prod(), "int64"),
        (tensor("bool", 2).prod(), "int64"),
        (small.round(), "int32"),
        (small.floor(), "int32"),
        (small.ceil(), "int32"),
        (minidl.erf(tensor("float16", 2)), "float16"),
        (minidl.functional.gelu(tensor("float16", 2)), "float16"),
        (minidl.arange(np.int64(3)), "int64"),
        (minidl.arange(3.0), "float32"),
    ):
        assert str(result.dtype) == dtype
    assert minidl.tensor([1, 2]).clamp(1.5).tolist() == [1.5, 2]
