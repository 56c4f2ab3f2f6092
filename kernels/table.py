"""The one table: which function computes an operation on which backend.

A row has four columns. `reference` is the specification: short, obviously right, NumPy or CuPy. `cpu` and `cuda` are
the fast paths, chosen by the type of the array; `numba_cuda` holds the same kernels as `cuda`, written to be read, and
is chosen by name. An empty cell raises: nothing falls back silently.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from .columns import COLUMNS
from .reference import conv, elementwise, indexing, linalg, normalization, pool, reduction, shape

Kernel = Callable[..., Any]


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
    # elementwise: ufuncs of the array library
    "add":               every(np.add),
    "sub":               every(np.subtract),
    "mul":               every(np.multiply),
    "div":               every(np.true_divide),
    "pow":               every(elementwise.power),
    "floor_divide":      every(elementwise.floor_divide),
    "remainder":         every(elementwise.remainder),
    "maximum":           every(np.maximum),
    "minimum":           every(np.minimum),
    "neg":               every(np.negative),
    "abs":               every(np.absolute),
    "sign":              every(np.sign),
    "exp":               every(np.exp),
    "expm1":             every(np.expm1),
    "log":               every(np.log),
    "log1p":             every(np.log1p),
    "sqrt":              every(np.sqrt),
    "sin":               every(np.sin),
    "cos":               every(np.cos),
    "tanh":              every(np.tanh),
    "floor":             every(elementwise.floor),
    "ceil":              every(elementwise.ceil),
    "round":             every(elementwise.round),
    "eq":                every(np.equal),
    "ne":                every(np.not_equal),
    "lt":                every(np.less),
    "le":                every(np.less_equal),
    "gt":                every(np.greater),
    "ge":                every(np.greater_equal),
    "bitwise_and":       every(np.bitwise_and),
    "bitwise_or":        every(np.bitwise_or),
    "bitwise_xor":       every(np.bitwise_xor),
    "invert":            every(np.invert),
    "isfinite":          every(np.isfinite),
    "isnan":             every(np.isnan),
    # elementwise: our own
    "square":            every(elementwise.square),
    "sigmoid":           every(elementwise.sigmoid),
    "softplus":          every(elementwise.softplus),
    "relu":              every(elementwise.relu),
    "positive_part":     every(elementwise.positive_part),
    "leaky_relu":        every(elementwise.leaky_relu),
    "leaky_part":        every(elementwise.leaky_part),
    "erf":               every(elementwise.erf),
    "clamp":             every(elementwise.clamp),
    "clamp_gradient":    every(elementwise.clamp_gradient),
    "hardtanh":          every(elementwise.clamp),
    "hardtanh_gradient": every(elementwise.hardtanh_gradient),
    "larger_part":       every(elementwise.larger_part),
    "log_gradient":      every(elementwise.log_gradient),
    "where":             every(elementwise.where),
    "dropout":           every(elementwise.dropout),
    "astype":            every(elementwise.astype),
    "copy":              every(elementwise.copy),
    # reductions
    "sum":               every(reduction.sum),
    "spread":            every(reduction.spread),
    "sum_to":            every(reduction.sum_to),
    "broadcast_to":      every(reduction.broadcast_to),
    "amax":              every(reduction.amax),
    "amin":              every(reduction.amin),
    "extreme_share":     every(reduction.extreme_share),
    "argmax":            every(reduction.argmax),
    "argmin":            every(reduction.argmin),
    "any":               every(reduction.any),
    "all":               every(reduction.all),
    "cumsum":            every(reduction.cumsum),
    "logsumexp":         every(reduction.logsumexp),
    "softmax":           every(reduction.softmax),
    "log_softmax":       every(reduction.log_softmax),
    # shape and indexing
    "reshape":           every(shape.reshape),
    "transpose":         every(shape.transpose),
    "flip":              every(shape.flip),
    "roll":              every(shape.roll),
    "pad":               every(shape.pad),
    "crop":              every(shape.crop),
    "cat":               every(shape.cat),
    "split":             every(shape.split),
    "stack":             every(shape.stack),
    "unbind":            every(shape.unbind),
    "getitem":           every(indexing.getitem),
    "scatter":           every(indexing.scatter),
    "gather":            every(indexing.gather),
    "scatter_add":       every(indexing.scatter_add),
    "diagonal":          every(indexing.diagonal),
    "diagonal_scatter":  every(indexing.diagonal_scatter),
    # products of matrices
    "matmul":            on_cpu(linalg.matmul, "linalg.matmul"),
    "linear":            on_cpu(linalg.linear, "linalg.linear"),
    "linear_weight":     on_cpu(linalg.linear_weight, "linalg.linear_weight"),
    "contract":          on_cpu(linalg.contract, "linalg.contract"),
    # fused
    "batch_norm":            every(normalization.batch_norm),
    "softmax_cross_entropy": every(normalization.softmax_cross_entropy),
    "batch_norm_backward":            every(normalization.batch_norm_backward),
    "softmax_cross_entropy_backward": every(normalization.softmax_cross_entropy_backward),
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
