"""Indexing: picking, sorting, triangles. Names and defaults are PyTorch's; all work on bare arrays, unrecorded."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..core import cuda
from ..core.tensor import Tensor
from ..kernels.arrays import is_bfloat16, namespace
from ..ops import indexing
from ..ops.elementwise import where
from .arguments import (
    axis_of,
    check_array,
    may_look,
    normalize_dim,
    on_its_device,
    sizes,
)


class Selection(NamedTuple):
    """What max, min, sort and topk along an axis return."""

    values: Any
    indices: Any


def getitem(input: Any, index: Any) -> Any:
    """input[index]: numbers, slices, None, ..., integer and boolean arrays or tensors, as in NumPy.

    Also as in NumPy, a number beside an array counts as an array: axes indexed by arrays that a slice separates go to
    the front. x of shape (2, 3, 4) gives x[0, :, [0, 1]] of shape (2, 3), where PyTorch's is (3, 2).
    """
    check_array("getitem", "input", input)
    if isinstance(index, tuple):
        index = tuple(_index(part, input) for part in index)
    else:
        index = _index(index, input)
    return indexing.getitem(input, at=index)


def _index(part: Any, input: Any) -> Any:
    if isinstance(part, Tensor):
        part = part._data
    elif isinstance(part, np.ndarray):
        part = part.copy()  # the graph keeps it: later changes must not reach it
    elif isinstance(part, list):
        part = np.array(part, dtype=None if part else np.int64)
    if hasattr(part, "dtype") and part.dtype.kind not in "iub":
        raise TypeError(f"an index must consist of whole numbers or booleans, not {part.dtype}")
    if isinstance(part, np.ndarray):  # beside a CUDA array it goes to the device once, and not in every use
        array = input._data if isinstance(input, Tensor) else input
        if not isinstance(array, np.ndarray):
            with cuda.working_on(array):
                part = namespace(array).asarray(part)
    if isinstance(part, float):
        raise TypeError(f"an index must be a whole number, not {part!r}")
    return part


def gather(input: Any, dim: int, index: Any) -> Any:
    """out[i][j] = input[index[i][j]][j] for dim 0.

    index: integers, as many axes as input, no longer than it elsewhere; counted from the front, from 0.
    """
    dim = axis_of("gather", input, dim)
    check_array("gather", "index", index)
    fits = index.ndim == input.ndim and all(
        m <= n for i, (m, n) in enumerate(zip(index.shape, input.shape, strict=False)) if i != dim
    )
    if index.dtype.kind not in "iu" or not fits:
        raise ValueError(
            f"gather along axis {dim}: index is {index.dtype}{list(index.shape)}; it must hold integers, have "
            f"{input.ndim} axes and be no longer than input {list(input.shape)} on the others"
        )
    values = index._data if isinstance(index, Tensor) else index
    n = input.shape[dim] if input.ndim else 1
    if values.size and may_look(values) and (values.min() < 0 or values.max() >= n):
        raise IndexError(
            f"gather along axis {dim}: index reaches from {int(values.min())} to {int(values.max())}; it must stay "
            f"within 0 … {n - 1}"
        )
    return indexing.gather(input, index, axis=dim)


def take_along_dim(input: Any, indices: Any, dim: int) -> Any:
    """`gather` with its arguments in NumPy's order."""
    return gather(input, dim, indices)


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices number index[0], index[1] … along an axis."""
    dim = axis_of("index_select", input, dim)
    return getitem(input, (slice(None),) * dim + (index,))


@on_its_device
def argsort(input: Any, dim: int = -1, descending: bool = False) -> Any:
    """The indices (int64) that sort along an axis; equal elements keep their order."""
    check_array("argsort", "input", input)
    axis = normalize_dim(dim, input.ndim)
    array = input._data if isinstance(input, Tensor) else input
    if is_bfloat16(array.dtype):  # CuPy cannot sort it
        array = array.astype("float32")
    xp = namespace(array)
    if descending:  # sorted backwards from the end, so that equal elements keep their order here, too
        order = xp.flip(array.shape[axis] - 1 - xp.argsort(xp.flip(array, axis), axis=axis, kind="stable"), axis)
    else:
        order = xp.argsort(array, axis=axis, kind="stable")
    return Tensor(order) if isinstance(input, Tensor) else order


def sort(input: Any, dim: int = -1, descending: bool = False) -> Selection:
    """(values, indices) sorted along an axis; equal elements keep their order."""
    order = argsort(input, dim, descending)
    return Selection(gather(input, dim, order), order)


def topk(input: Any, k: int, dim: int = -1, largest: bool = True) -> Selection:
    """(values, indices) of the k largest (or smallest) elements along an axis, the first one first."""
    axis = normalize_dim(dim, input.ndim)
    if not 0 <= k <= input.shape[axis]:
        raise ValueError(
            f"topk: k is {k}; axis {axis} of a tensor of shape {tuple(input.shape)} has only "
            f"{input.shape[axis]} elements"
        )
    order = argsort(input, axis, largest)
    order = getitem(order, (slice(None),) * axis + (slice(0, k),))
    return Selection(gather(input, axis, order), order)


@on_its_device
def _triangle(input: Any, diagonal: int, keep: Any) -> Any:
    xp = namespace(input._data if isinstance(input, Tensor) else input)
    if input.ndim < 2:
        raise ValueError(f"tril and triu need at least 2 axes; this tensor has shape {tuple(input.shape)}")
    return where(keep(xp.ones(input.shape[-2:], bool), diagonal), input, 0)


def tril(input: Any, diagonal: int = 0) -> Any:
    """The lower triangle of the last two axes, zeros above."""
    return _triangle(input, diagonal, np.tril)


def triu(input: Any, diagonal: int = 0) -> Any:
    """The upper triangle of the last two axes, zeros below."""
    return _triangle(input, diagonal, np.triu)


def diagonal(input: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """The diagonal over two axes, as the last axis: the main one, or one `offset` columns to the right of it."""
    a, b = axis_of("diagonal", input, dim1), axis_of("diagonal", input, dim2)
    (offset,) = sizes("diagonal", (offset,))
    if a == b:
        raise ValueError(f"diagonal: dim1 and dim2 are both {a}")
    return indexing.diagonal(input, offset=offset, axis1=a, axis2=b)
