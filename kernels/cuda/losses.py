"""Launchers of losses.cu: softmax, log_softmax, logsumexp and softmax cross-entropy on CuPy arrays, as they lie.

float32 and float64; float16 and bfloat16 are computed in float32. What the kernels have no form for (other types,
reductions over axes that lie apart) is left to the reference.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Array
from ..reference import normalization, reduction
from . import fused, launch

FILE = "losses.cu"
ROWS = np.dtype(  # struct Rows of losses.cu, field by field
    [("outer", np.int64), ("inner", np.int64), ("classes", np.int32), ("members", np.int32)]
)
CLASSES = 4  # of a thread, at least, where several share a row


class Plan(NamedTuple):
    """How rows are divided: the fields of struct Rows, and the number of blocks."""

    outer: int
    inner: int
    classes: int
    members: int
    blocks: int


@lru_cache(maxsize=4096)
def plan(outer: int, classes: int, inner: int, threads: int = fused.THREADS) -> Plan:
    """For an array (outer, classes, inner) in blocks of so many threads, a power of 2."""
    if classes >= launch.INT_LIMIT:
        raise ValueError(f"classes are counted in 32 bits; there are {classes}")
    members = min(threads, 1 << (-(-classes // CLASSES) - 1).bit_length()) if inner == 1 else 1
    return Plan(outer, inner, classes, members, -(-outer * inner // (threads // members)))


@lru_cache(maxsize=4096)
def struct(p: Plan) -> np.ndarray:
    """The plan as a kernel argument, passed by value."""
    packed = np.array(p[: len(ROWS.names or ())], ROWS)
    packed.flags.writeable = False
    return packed


def softmax(x: Array, *, axis: int) -> Array:
    """exp(x) / its sum along the axis; like x, in shape and memory order."""
    return _along("softmax", x, axis)


def log_softmax(x: Array, *, axis: int) -> Array:
    """The logarithm of softmax; like x, in shape and memory order."""
    return _along("log_softmax", x, axis)


def logsumexp(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """log(sum(exp(x))) over the axes without overflow; -inf where there is nothing to add."""
    adjacent = len(axis) > 0 and axis == tuple(range(axis[0], axis[-1] + 1))
    if not (adjacent and _covered(x)):
        return reduction.logsumexp(x, axis=axis, keepdims=keepdims)
    with launch.device_of("logsumexp", x=x):
        dtype, shape = x.dtype, x.shape
        before, reduced, after = shape[: axis[0]], shape[axis[0] : axis[-1] + 1], shape[axis[-1] + 1 :]
        y = launch.empty((*before, *(1,) * len(reduced) * keepdims, *after), dtype)
        p = plan(prod(before), prod(reduced), prod(after))
        _run("logsumexp_kernel", dtype, p, fused.flat(x, False), y)
    return y


def softmax_cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """x: (N, C, ...) logits, target: (N, ...) classes -> the loss of each element and the log-sum-exp: (N, ...).

    A target that is no class gives NaN: to raise, the host would have to wait for the device.
    """
    if not _covered(x):
        return normalization.softmax_cross_entropy(x, target)
    with launch.device_of("softmax_cross_entropy", x=x, target=target):
        dtype, last = x.dtype, fused.is_last(x)
        loss, lse = launch.empty(target.shape, dtype), launch.empty(target.shape, dtype)
        target = fused.flat(target, False, "int64")
        _run("softmax_cross_entropy_kernel", dtype, _plan(x, last), fused.flat(x, last), target, loss, lse)
    return loss, lse


def softmax_cross_entropy_backward(
    g: Array, x: Array, target: Array, lse: Array, *, needs: list[bool]
) -> tuple[Array, None]:
    if not _covered(x):
        return normalization.softmax_cross_entropy_backward(g, x, target, lse, needs=needs)
    with launch.device_of("softmax_cross_entropy_backward", g=g, x=x, target=target, lse=lse):
        dtype, last = x.dtype, fused.is_last(x)
        gx = fused.empty_as(x, last, dtype)
        rows = (fused.flat(g, False, dtype), fused.flat(x, last), fused.flat(target, False, "int64"))
        arrays = (*rows, fused.flat(lse, False, dtype), fused.flat(gx, last))
        _run("softmax_cross_entropy_backward_kernel", dtype, _plan(x, last), *arrays)
    return gx, None


def _covered(x: Array) -> bool:
    return x.dtype.name in launch.STORAGE and x.size > 0


def _plan(x: Array, last: bool) -> Plan:
    """For logits (N, C, ...)."""
    batch, classes, *axes = x.shape
    return plan(batch * prod(axes), classes, 1) if last else plan(batch, classes, prod(axes))


def _along(name: str, x: Array, axis: int) -> Array:
    if not _covered(x):
        return getattr(reduction, name)(x, axis=axis)
    with launch.device_of(name, x=x):
        order = sorted(range(x.ndim), key=lambda i: -x.strides[i])  # of the axes in memory
        source = x.transpose(order)
        if not source.flags.c_contiguous:
            order, source = list(range(x.ndim)), fused.flat(x, False)
        at = order.index(axis)
        y = launch.empty(source.shape, x.dtype)
        p = plan(prod(source.shape[:at]), x.shape[axis], prod(source.shape[at + 1 :]))
        _run(f"{name}_kernel", x.dtype, p, source, y)
        return y.transpose([order.index(i) for i in range(x.ndim)])


def _run(kernel: str, dtype: np.dtype, p: Plan, *arrays: Any) -> None:
    fused.run(FILE, kernel, dtype, (p.blocks,), fused.THREADS, *arrays, struct(p))
