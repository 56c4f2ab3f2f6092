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

from .arrays import LARGE, in_memory_order
from .columns import COLUMNS
from .reference import binary, conv, elementwise, indexing, linalg, normalization, pool, reduction, shape

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


def fast(reference: Any, name: str) -> Row:
    """A kernel with a fast path on the CPU and one on CUDA; in the column to be read the reference runs."""
    return Row(reference, lazy(f"cpu.{name}"), lazy(f"cuda.{name}"), reference)


def gpu(row: Row, name: str) -> Row:
    """The row with kernels of its own in both CUDA columns, in the same place under each column's package."""
    row.cells.update(cuda=lazy(f"cuda.{name}"), numba_cuda=lazy(f"numba_cuda.{name}"))
    return row


def pieces(kernel: Any, loop: str | None = None) -> Row:
    """An elementwise function for all columns; on the CPU large arrays are divided among the cores, and go through a
    compiled `loop` of cpu/elementwise_loops.py if there is one. On CUDA devices results lie as the arguments do."""

    def call(*args: Any, **params: Any) -> Any:
        # a number, or an array that broadcasts, may come first: what NumPy is left with then is not wrong, only slower
        if getattr(args[0], "size", 0) < LARGE:
            return kernel(*args, **params)
        from .cpu.pieces import elementwise

        return elementwise(kernel, args, params, loop)

    call.whole = kernel  # type: ignore[attr-defined]
    return Row(kernel, call, in_memory_order(kernel), kernel)


def reduced(kernel: Any, how: str = "reduction") -> Row:
    """A reduction (or, with how="rows", a function of rows) for all columns, divided likewise on the CPU."""

    def call(*arrays: Any, **at: Any) -> Any:
        if arrays[-1].size < LARGE:
            return kernel(*arrays, **at)
        return getattr(import_module(f"{__package__}.cpu.pieces"), how)(kernel, *arrays, **at)

    return Row(kernel, call, kernel, kernel)


# fmt: off
TABLE: dict[str, Row] = {
    # the convolution family and pooling: what the project exists for
    "conv":              device(conv.conv, "conv.conv"),
    "conv_input":        device(conv.conv_input, "conv.conv_input"),
    "conv_weight":       device(conv.conv_weight, "conv.conv_weight"),
    "conv_bias":         device(conv.conv_bias, "conv.conv_bias"),
    "conv_relu":         device(conv.conv_relu, "conv.conv_relu"),
    "conv_relu_slope":   gpu(on_cpu(conv.conv_relu_slope, "conv.conv_relu_slope"), "elementwise.conv_relu_slope"),
    "max_pool":          device(pool.max_pool, "pool.max_pool"),
    "max_unpool":        device(pool.max_unpool, "pool.max_unpool"),
    "pool_at":           every(pool.pool_at),
    "avg_pool":          device(pool.avg_pool, "pool.avg_pool"),
    "avg_unpool":        device(pool.avg_unpool, "pool.avg_unpool"),
    "unfold":            every(pool.unfold),
    "fold":              every(pool.fold),
    # elementwise: ufuncs of the array library
    "add":               pieces(np.add),
    "sub":               pieces(np.subtract),
    "mul":               pieces(np.multiply),
    "div":               pieces(np.true_divide),
    "pow":               pieces(elementwise.power),
    "floor_divide":      pieces(elementwise.floor_divide),
    "remainder":         pieces(elementwise.remainder),
    "maximum":           pieces(np.maximum),
    "minimum":           pieces(np.minimum),
    "neg":               pieces(np.negative),
    "abs":               pieces(np.absolute),
    "sign":              pieces(np.sign),
    "exp":               pieces(np.exp),
    "expm1":             pieces(np.expm1),
    "log":               pieces(np.log),
    "log1p":             pieces(np.log1p),
    "sqrt":              pieces(np.sqrt),
    "sin":               pieces(np.sin),
    "cos":               pieces(np.cos),
    "tanh":              pieces(np.tanh),
    "floor":             pieces(elementwise.floor),
    "ceil":              pieces(elementwise.ceil),
    "round":             pieces(elementwise.round),
    "eq":                pieces(np.equal),
    "ne":                pieces(np.not_equal),
    "lt":                pieces(np.less),
    "le":                pieces(np.less_equal),
    "gt":                pieces(np.greater),
    "ge":                pieces(np.greater_equal),
    "bitwise_and":       pieces(np.bitwise_and),
    "bitwise_or":        pieces(np.bitwise_or),
    "bitwise_xor":       pieces(np.bitwise_xor),
    "invert":            pieces(np.invert),
    "isfinite":          pieces(np.isfinite),
    "isnan":             pieces(np.isnan),
    # elementwise: our own
    "square":            pieces(elementwise.square),
    "sigmoid":           pieces(elementwise.sigmoid, "sigmoid"),
    "softplus":          pieces(elementwise.softplus, "softplus"),
    "silu":              pieces(elementwise.silu, "silu"),
    "elu":               pieces(elementwise.elu, "elu"),
    "elu_gradient":      pieces(elementwise.elu_gradient, "elu_gradient"),
    "gelu":              gpu(pieces(elementwise.gelu, "gelu"), "elementwise.gelu"),
    "gelu_gradient":     gpu(pieces(elementwise.gelu_gradient, "gelu_gradient"), "elementwise.gelu_gradient"),
    "gelu_tanh":         gpu(pieces(elementwise.gelu_tanh, "gelu_tanh"), "elementwise.gelu_tanh"),
    "gelu_tanh_gradient":
        gpu(pieces(elementwise.gelu_tanh_gradient, "gelu_tanh_gradient"), "elementwise.gelu_tanh_gradient"),
    "relu":              pieces(elementwise.relu),
    "positive_part":     pieces(elementwise.positive_part, "positive_part"),
    "leaky_relu":        pieces(elementwise.leaky_relu, "leaky_relu"),
    "leaky_part":        pieces(elementwise.leaky_part, "leaky_part"),
    "erf":               pieces(elementwise.erf, "erf"),
    "clamp":             pieces(elementwise.clamp),
    "clamp_gradient":    pieces(elementwise.clamp_gradient, "clamp_gradient"),
    "hardtanh":          pieces(elementwise.clamp),
    "hardtanh_gradient": pieces(elementwise.hardtanh_gradient, "hardtanh_gradient"),
    "larger_part":       pieces(elementwise.larger_part, "larger_part"),
    "log_gradient":      pieces(elementwise.log_gradient),
    "where":             pieces(elementwise.where, "where"),
    "dropout":           gpu(pieces(elementwise.dropout, "dropout"), "dropout.dropout"),
    "astype":            every(elementwise.astype),
    "copy":              every(elementwise.copy),
    # reductions
    "sum":               reduced(reduction.sum),
    "spread":            every(reduction.spread),
    "sum_to":            reduced(reduction.sum_to, "sum_to"),
    "broadcast_to":      every(reduction.broadcast_to),
    "amax":              reduced(reduction.amax),
    "amin":              reduced(reduction.amin),
    "extreme_share":     every(reduction.extreme_share),
    "argmax":            every(reduction.argmax),
    "argmin":            every(reduction.argmin),
    "any":               reduced(reduction.any),
    "all":               reduced(reduction.all),
    "cumsum":            every(reduction.cumsum),
    "logsumexp":         gpu(every(reduction.logsumexp), "losses.logsumexp"),
    "softmax":           gpu(reduced(reduction.softmax, "rows"), "losses.softmax"),
    "log_softmax":       gpu(reduced(reduction.log_softmax, "rows"), "losses.log_softmax"),
    "softmax_gradient":  reduced(reduction.softmax_gradient, "rows"),
    "log_softmax_gradient": reduced(reduction.log_softmax_gradient, "rows"),
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
    "scatter":           gpu(every(indexing.scatter), "indexing.scatter"),
    "gather":            every(indexing.gather),
    "scatter_add":       gpu(every(indexing.scatter_add), "indexing.scatter_add"),
    "diagonal":          every(indexing.diagonal),
    "diagonal_scatter":  every(indexing.diagonal_scatter),
    # products of matrices
    "matmul":            fast(linalg.matmul, "linalg.matmul"),
    "linear":            fast(linalg.linear, "linalg.linear"),
    "linear_activated":  fast(linalg.linear_activated, "linalg.linear_activated"),
    "linear_activated_slope":
        on_cpu(linalg.linear_activated_slope, "linalg.linear_activated_slope"),
    "linear_weight":     fast(linalg.linear_weight, "linalg.linear_weight"),
    "contract":          fast(linalg.contract, "linalg.contract"),
    # recurrences
    "rnn":               device(lazy("reference.recurrent.rnn"), "recurrent.rnn"),
    "rnn_backward":      device(lazy("reference.recurrent.rnn_backward"), "recurrent.rnn_backward"),
    "lstm":              device(lazy("reference.recurrent.lstm"), "recurrent.lstm"),
    "lstm_backward":     device(lazy("reference.recurrent.lstm_backward"), "recurrent.lstm_backward"),
    "gru":               device(lazy("reference.recurrent.gru"), "recurrent.gru"),
    "gru_backward":      device(lazy("reference.recurrent.gru_backward"), "recurrent.gru_backward"),
    "conv_gru":          device(lazy("reference.recurrent.conv_gru"), "recurrent.conv_gru"),
    "conv_gru_backward": device(lazy("reference.recurrent.conv_gru_backward"), "recurrent.conv_gru_backward"),
    # fused
    "batch_norm":            device(normalization.batch_norm, "normalization.batch_norm"),
    "softmax_cross_entropy":
        gpu(on_cpu(normalization.softmax_cross_entropy, "normalization.softmax_cross_entropy"),
            "losses.softmax_cross_entropy"),
    "binary_cross_entropy":          on_cpu(binary.binary_cross_entropy, "binary.binary_cross_entropy"),
    "binary_cross_entropy_backward":
        on_cpu(binary.binary_cross_entropy_backward, "binary.binary_cross_entropy_backward"),
    "batch_norm_backward":
        device(normalization.batch_norm_backward, "normalization.batch_norm_backward"),
    "softmax_cross_entropy_backward":
        gpu(on_cpu(normalization.softmax_cross_entropy_backward, "normalization.softmax_cross_entropy_backward"),
            "losses.softmax_cross_entropy_backward"),
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


def own(operation: str, column: str) -> bool:
    """Whether the kernel of a column was written for it: neither the reference nor an array library's function."""
    cell = TABLE[operation].cells.get(column)
    return isinstance(cell, lazy) and cell.module.partition(".")[0] == column


def find(operation: str, column: str) -> Kernel:
    """The function that computes `operation` in `column`. Raises NotImplementedError for an empty cell."""
    cell = TABLE[operation].cells[column]
    if cell is None:
        raise NotImplementedError(f"operation {operation!r} has no kernel in column {column!r} of the table")
    return cell.load() if isinstance(cell, lazy) else cell
