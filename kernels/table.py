"""The one table: which function computes an operation on which backend.

A row has four columns. `reference` is the specification: short, obviously right, NumPy or CuPy. `cpu` and `cuda` are
the fast paths, chosen by the type of the array; `numba_cuda` holds the same kernels as `cuda`, written to be read, and
is chosen by name. An empty cell raises: nothing falls back silently.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .reference import conv, elementwise, indexing, linalg, normalization, pool, reduction, shape

Kernel = Callable[..., Any]
COLUMNS = ("reference", "cpu", "cuda", "numba_cuda")


class lazy:
    """A kernel in a module of this package that is imported when it is first called for: lazy("cpu.conv.conv")."""

    def __init__(self, path: str):
        self.module, _, self.name = path.rpartition(".")

    def load(self) -> Kernel:
        return getattr(import_module(f"{__package__}.{self.module}"), self.name)

    def __repr__(self) -> str:
        return f"lazy({self.module}.{self.name})"


class Row:
    """The four cells of one operation; a cell is a function, a `lazy` one, or None."""

    def __init__(self, reference: Any = None, cpu: Any = None, cuda: Any = None, numba_cuda: Any = None):
        self.cells = dict(zip(COLUMNS, (reference, cpu, cuda, numba_cuda), strict=True))


def every(kernel: Any) -> Row:
    """One function for all columns: it is written for any array library, or is one of NumPy's ufuncs, which CuPy arrays
    answer themselves."""
    return Row(kernel, kernel, kernel, kernel)


def device(reference: Any, name: str) -> Row:
    """A kernel with an implementation of its own in each column, in the same place under each column's package."""
    return Row(reference, lazy(f"cpu.{name}"), lazy(f"cuda.{name}"), lazy(f"numba_cuda.{name}"))


def on_cpu(reference: Any, name: str) -> Row:
    """A kernel with a fast path on the CPU; elsewhere the reference runs."""
    return Row(reference, lazy(f"cpu.{name}"), reference, reference)


# fmt: off
TABLE: dict[str, Row] = {
    # the convolution family and pooling: what the project exists for
    "conv":              device(conv.conv, "conv.conv"),
    "conv_input":        device(conv.conv_input, "conv.conv_input"),
    "conv_weight":       device(conv.conv_weight, "conv.conv_weight"),
    "max_pool":          device(pool.max_pool, "pool.max_pool"),
    "max_unpool":        device(pool.max_unpool, "pool.max_unpool"),
    "pool_at":           every(pool.pool_at),
    "avg_pool":          on_cpu(pool.avg_pool, "pool.avg_pool"),
    "avg_unpool":        on_cpu(pool.avg_unpool, "pool.avg_unpool"),
    "unfold":            every(pool.unfold),
    "fold":              every(pool.fold),
}
# fmt: on

HOME: dict[type, str] = {np.ndarray: "cpu"}  # array type -> the column its operations run in


def home(kind: type) -> str:
    """The column for arrays of this type. Scalars count as CPU arrays."""
    column = HOME.get(kind)
    if column is None:
        for base in kind.__mro__:
            if base.__module__.partition(".")[0] == "cupy" and base.__name__ == "ndarray":
                column = "cuda"
            elif base in (np.ndarray, np.generic, float, int):
                column = "cpu"
        if column is None:
            raise TypeError(f"no backend computes with objects of type {kind.__module__}.{kind.__qualname__}")
        HOME[kind] = column
    return column


def find(operation: str, column: str) -> Kernel:
    """The function that computes `operation` in `column`. Raises NotImplementedError for an empty cell."""
    cell = TABLE[operation].cells[column]
    if cell is None:
        raise NotImplementedError(f"operation {operation!r} has no kernel in column {column!r} of the table")
    return cell.load() if isinstance(cell, lazy) else cell
