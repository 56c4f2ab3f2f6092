"""Products of matrices and vectors. Names and semantics are PyTorch's; all work on bare arrays, unrecorded."""

from __future__ import annotations

from typing import Any

from ..core.dtypes import result_type
from ..core.tensor import Tensor
from ..ops import linalg
from ..ops.elementwise import astype
from .arguments import (
    check_array,
)
from .shape import squeeze, unsqueeze


def matmul(input: Any, other: Any) -> Any:
    """Product of matrices, or of stacks of them: (…, n, k) @ (…, k, m) -> (…, n, m). A vector counts as a row on the
    left and as a column on the right."""
    for name, x in (("input", input), ("other", other)):
        check_array("matmul", name, x)
        if x.ndim == 0:
            raise ValueError(f"matmul: {name} has no axes; use * for a product with a number")
    inner = other.shape[0] if other.ndim == 1 else other.shape[-2]
    if input.shape[-1] != inner:
        raise ValueError(
            f"matmul: input {list(input.shape)} has rows of {input.shape[-1]}, but other {list(other.shape)} has "
            f"columns of {inner}; these must be equal"
        )
    dtype = result_type(input, other) if isinstance(input, Tensor) or isinstance(other, Tensor) else None
    if dtype is not None and not input.dtype == other.dtype == dtype:
        input, other = (x if x.dtype == dtype else astype(x, dtype=dtype) for x in (input, other))
    row, column = input.ndim == 1, other.ndim == 1
    if row:
        input = unsqueeze(input, 0)
    if column:
        other = unsqueeze(other, 1)
    try:
        out = linalg.matmul(input, other)
    except ValueError as error:
        error.args = (
            f"matmul: input has shape {tuple(input.shape)}, other {tuple(other.shape)}: on each axis before the last "
            f"two, counted from the end, they must be equal or 1",
        )
        raise
    if row:
        out = squeeze(out, -2)
    return squeeze(out, -1) if column else out


def bmm(input: Any, mat2: Any) -> Any:
    """Products of two stacks of matrices of one length: (b, n, k), (b, k, m) -> (b, n, m)."""
    if input.ndim != 3 or mat2.ndim != 3 or input.shape[0] != mat2.shape[0]:
        raise ValueError(
            f"bmm: input has shape {tuple(input.shape)}, mat2 {tuple(mat2.shape)}; both need three axes and the "
            f"same first"
        )
    return matmul(input, mat2)


def mm(input: Any, mat2: Any) -> Any:
    """The product of two matrices: (n, k), (k, m) -> (n, m)."""
    if input.ndim != 2 or mat2.ndim != 2:
        raise ValueError(f"mm: input has shape {tuple(input.shape)}, mat2 {tuple(mat2.shape)}; both need two axes")
    return matmul(input, mat2)


def outer(input: Any, other: Any) -> Any:
    """(n,), (m,) -> (n, m): every product."""
    return unsqueeze(input, 1) * unsqueeze(other, 0)
