"""Softmax, its relatives and softmax cross-entropy as numba.cuda kernels, to be read beside ../cuda/losses.cu.

Arrays: x, y, gx (outer, classes, inner); target, loss, lse, g (outer * inner,). A row is the classes of one outer and
one inner index, shared by `members` threads. r is a Plan of ../cuda/losses.py.
"""

from __future__ import annotations

import math
from math import prod

import numpy as np
from numba import cuda

from ..arrays import Array, namespace
from ..cuda import fused
from ..cuda.losses import Plan, plan
from ..reference import normalization, reduction
from .launch import BLOCK, ONE, ZERO, device_of, start

TYPES = ("float32", "float64")
LOWEST, NOTHING = np.float32(-np.inf), np.float32(np.nan)


@cuda.jit(device=True)
def join(top, total, other_top, other_total):
    """Two sums of exp(x - top) as one (Milakov & Gimelshein 2018): the larger top is that of both."""
    if other_top > top:
        return other_top, total * math.exp(top - other_top) + other_total
    if other_top == top:  # also where both are infinite: their difference would be a NaN
        return top, total + other_total
    return top, total + other_total * math.exp(other_top - top)


@cuda.jit(device=True)
def doubt(top):
    """0, but NaN where the largest number is infinite: what infinity minus infinity gives in a softmax."""
    return top - top


@cuda.jit(device=True)
def own_row(r):
    """(outer, inner, member) of this thread."""
    row = cuda.blockIdx.x * (cuda.blockDim.x // r.members) + cuda.threadIdx.x // r.members
    return row // r.inner, row % r.inner, cuda.threadIdx.x % r.members


@cuda.jit(device=True)
def row_total(x, shared, r):
    """(top, total) of this thread's row, for all its members: they join in a tree, in the same order in every run."""
    o, i, member = own_row(r)
    top, total = x.dtype.type(LOWEST), x.dtype.type(0)
    if o < r.outer:
        for c in range(member, r.classes, r.members):
            top, total = join(top, total, x[o, c, i], ONE)
    shared[0, cuda.threadIdx.x] = top
    shared[1, cuda.threadIdx.x] = total
    half = r.members // 2
    while half > 0:
        cuda.syncthreads()
        if member < half:
            other = cuda.threadIdx.x + half
            top, total = join(top, total, shared[0, other], shared[1, other])
            shared[0, cuda.threadIdx.x] = top
            shared[1, cuda.threadIdx.x] = total
        half //= 2
    cuda.syncthreads()
    first = cuda.threadIdx.x - member
    return shared[0, first], shared[1, first]


@cuda.jit(device=True)
def target_class(target, r):
    """The class of a row. Negative numbers count from the end; -1 is for what is no class."""
    if target < 0:
        target += r.classes
    return target if 0 <= target < r.classes else -1


@cuda.jit
def softmax_kernel(x, y, r):
    shared = cuda.shared.array((2, BLOCK), x.dtype)
    o, i, member = own_row(r)
    top, total = row_total(x, shared, r)
    if o < r.outer:
        for c in range(member, r.classes, r.members):
            y[o, c, i] = math.exp(x[o, c, i] - top) / (total + doubt(top))


@cuda.jit
def log_softmax_kernel(x, y, r):
    shared = cuda.shared.array((2, BLOCK), x.dtype)
    o, i, member = own_row(r)
    top, total = row_total(x, shared, r)
    if o < r.outer:
        logarithm = math.log(total) + doubt(top)
        for c in range(member, r.classes, r.members):
            y[o, c, i] = x[o, c, i] - top - logarithm


@cuda.jit
def logsumexp_kernel(x, y, r):
    shared = cuda.shared.array((2, BLOCK), x.dtype)
    o, i, member = own_row(r)
    top, total = row_total(x, shared, r)
    if o < r.outer and member == 0:
        y[o * r.inner + i] = math.log(total) + top


@cuda.jit
def softmax_cross_entropy_kernel(x, target, loss, lse, r):
    """loss = log-sum-exp of the row - x of its class; NaN where the target is no class."""
    shared = cuda.shared.array((2, BLOCK), x.dtype)
    o, i, member = own_row(r)
    top, total = row_total(x, shared, r)
    if o < r.outer and member == 0:
        row = o * r.inner + i
        chosen = target_class(target[row], r)
        lse[row] = math.log(total) + top + doubt(top)
        loss[row] = lse[row] - x[o, chosen, i] if chosen >= 0 else x.dtype.type(NOTHING)


@cuda.jit
def softmax_cross_entropy_backward_kernel(g, x, target, lse, gx, r):
    """gx = g * (softmax - 1 at the class of the row)"""
    o, i, member = own_row(r)
    if o >= r.outer:
        return
    row = o * r.inner + i
    chosen = target_class(target[row], r)
    for c in range(member, r.classes, r.members):
        gx[o, c, i] = g[row] * (math.exp(x[o, c, i] - lse[row]) - (ONE if c == chosen else ZERO))


def softmax(x: Array, *, axis: int) -> Array:
    """exp(x) / its sum along the axis; C-contiguous."""
    return _along(softmax_kernel, x, axis) if _covered(x) else reduction.softmax(x, axis=axis)


def log_softmax(x: Array, *, axis: int) -> Array:
    """The logarithm of softmax; C-contiguous."""
    return _along(log_softmax_kernel, x, axis) if _covered(x) else reduction.log_softmax(x, axis=axis)


def logsumexp(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """log(sum(exp(x))) over the axes without overflow; -inf where there is nothing to add."""
    adjacent = len(axis) > 0 and axis == tuple(range(axis[0], axis[-1] + 1))
    if not (adjacent and _covered(x)):
        return reduction.logsumexp(x, axis=axis, keepdims=keepdims)
    with device_of("logsumexp", x=x):
        before, reduced, after = x.shape[: axis[0]], x.shape[axis[0] : axis[-1] + 1], x.shape[axis[-1] + 1 :]
        y = namespace(x).empty((*before, *(1,) * len(reduced) * keepdims, *after), x.dtype)
        r = plan(prod(before), prod(reduced), prod(after), BLOCK)
        _run(logsumexp_kernel, r, _three(fused.flat(x, False), r), y.reshape(-1))
    return y


def softmax_cross_entropy(x: Array, target: Array) -> tuple[Array, Array]:
    """x: (N, C, ...) logits, target: (N, ...) classes -> the loss of each element and the log-sum-exp: (N, ...)."""
    if not _covered(x):
        return normalization.softmax_cross_entropy(x, target)
    with device_of("softmax_cross_entropy", x=x, target=target):
        xp, (last, r) = namespace(x), _lie(x)
        loss, lse = xp.empty(target.shape, x.dtype), xp.empty(target.shape, x.dtype)
        target = fused.flat(target, False, "int64").reshape(-1)
        arrays = (_three(fused.flat(x, last), r), target, loss.reshape(-1), lse.reshape(-1))
        _run(softmax_cross_entropy_kernel, r, *arrays)
    return loss, lse


def softmax_cross_entropy_backward(
    g: Array, x: Array, target: Array, lse: Array, *, needs: list[bool]
) -> tuple[Array, None]:
    if not _covered(x):
        return normalization.softmax_cross_entropy_backward(g, x, target, lse, needs=needs)
    with device_of("softmax_cross_entropy_backward", g=g, x=x, target=target, lse=lse):
        last, r = _lie(x)
        gx = fused.empty_as(x, last, x.dtype)
        g, lse = (fused.flat(a, False, x.dtype).reshape(-1) for a in (g, lse))
        target = fused.flat(target, False, "int64").reshape(-1)
        arrays = (g, _three(fused.flat(x, last), r), target, lse, _three(fused.flat(gx, last), r))
        _run(softmax_cross_entropy_backward_kernel, r, *arrays)
    return gx, None


def _covered(x: Array) -> bool:
    return x.dtype.name in TYPES and x.size > 0


def _lie(x: Array) -> tuple[bool, Plan]:
    """Whether logits (N, C, ...) are channels-last, and how their rows are divided."""
    last, (batch, classes, *axes) = fused.is_last(x), x.shape
    if last:
        return last, plan(batch * prod(axes), classes, 1, BLOCK)
    return last, plan(batch, classes, prod(axes), BLOCK)


def _three(x: Array, r: Plan) -> Array:
    return x.reshape(r.outer, r.classes, r.inner)


def _along(kernel, x: Array, axis: int) -> Array:
    with device_of("softmax", x=x):
        r = plan(prod(x.shape[:axis]), x.shape[axis], prod(x.shape[axis + 1 :]), BLOCK)
        y = namespace(x).empty(x.shape, x.dtype)
        _run(kernel, r, _three(fused.flat(x, False), r), _three(y, r))
    return y


def _run(kernel, r: Plan, *arrays: Array) -> None:
    start(kernel, (r.blocks,), (BLOCK,), *arrays, r)
