"""NumPy on large arrays: the same functions, on pieces of the arrays, by all cores.

An elementwise function may be computed piece by piece, in any order: every element comes out with the same bits. A
single NumPy call is divided among the threads. A function of several calls runs on pieces that stay in a core's cache,
so that what it computes in between never travels to memory; that pays on one thread as well. A reduction is divided
along the axis that is outermost in memory. Sums and softmax (reduction_loops.py), and functions that
NumPy needs several passes for (elementwise_loops.py), are compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from inspect import signature
from math import prod
from typing import Any

import numpy as np

from ..reference import reduction as reference
from . import threads

Array = np.ndarray
Axes = tuple[int, ...]

IN_CACHE = 2**16  # elements of each array in a piece for a function of several calls
SHARE = 2**17  # elements that make one more thread worth waking
BLOCK = 2**17  # elements of a block of a sum
# loops of elementwise_loops.py that know float32 only
SINGLE = frozenset((
    "elu", "elu_gradient", "erf", "gelu", "gelu_gradient", "gelu_tanh", "gelu_tanh_gradient", "sigmoid", "silu",
    "silu_gradient", "softplus", "softplus_gradient",
))  # fmt: skip
LINE = 2**11  # elements: lines of a block are added to each other first, which vector instructions do best


def elementwise(kernel: Callable, args: tuple, params: dict, loop: str | None = None) -> Any:
    """kernel(*args, **params) for a function that treats each element by itself; what does not fit is left to it whole.

    It fits if all arrays with axes have one shape and lie in memory without gaps in one order of axes, as the result
    then does. Numbers and arrays without axes go with each piece, and so does an array that repeats one element.
    loop: a function of elementwise_loops.py that does the same to floating-point numbers in one pass.
    """
    plan = _plan(args)
    if plan is None:
        return kernel(*args, **params)
    shape, order, flat = plan
    size, single = prod(shape), _writes(kernel)
    workers = threads.worth(size, 2 * SHARE if single or loop else SHARE)
    if single and workers == 1:
        return kernel(*args, **params)

    def piece(start: int, stop: int, **out: Any) -> Any:
        return kernel(*[cut(start, stop) if callable(cut) else cut for cut in flat], **params, **out)

    with np.errstate(all="ignore"):  # what is wrong with the first element will be reported once, below
        result = np.empty(size, np.asarray(piece(0, 1)).dtype)
    compiled = None if loop is None else _compiled(loop, args, flat, params, result.dtype)
    step = -(-size // (2 * workers)) if single or compiled else IN_CACHE

    def task(i: int) -> None:
        part, start = result[i * step : (i + 1) * step], i * step
        if compiled:
            compiled(start, start + part.size, part)
        elif single:
            piece(start, start + part.size, out=part)
        else:
            part[...] = piece(start, start + part.size)

    threads.share(task, -(-size // step), workers)
    return result.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))


@cache
def _writes(kernel: Callable) -> bool:
    """Whether the function is a single pass that can write its result into a given array."""
    return isinstance(kernel, np.ufunc) or "out" in signature(kernel).parameters


def _compiled(loop: str, args: tuple, flat: list[Any], params: dict, dtype: np.dtype) -> Callable | None:
    """What computes a piece with a compiled loop, given start, stop and where to write; None for types that it does not
    know."""
    if dtype not in ((np.float32,) if loop in SINGLE else (np.float32, np.float64)):
        return None
    cuts: list[Any] = []
    for a, cut in zip(args, flat, strict=True):
        if isinstance(a, (int, float)):
            cuts.append(dtype.type(a))
        elif a.dtype != dtype and a.dtype != bool:
            return None
        else:
            cuts.append(cut if callable(cut) and any(a.strides) else a.flat[0])
    from . import elementwise_loops

    function = getattr(elementwise_loops, loop)
    numbers = [dtype.type(value if value is not None else _UNBOUNDED[name]) for name, value in params.items()]
    return lambda start, stop, out: function(
        *[cut(start, stop) if callable(cut) else cut for cut in cuts], *numbers, out
    )


_UNBOUNDED = {"min": -np.inf, "max": np.inf}


def _plan(args: tuple) -> tuple[Axes, list[int], list[Any]] | None:
    """The arrays' shape, the order of their axes in memory, and how each argument is cut; None: it does not fit."""
    first = next((a for a in args if isinstance(a, Array) and a.size and any(a.strides)), None)
    if first is None:
        return None
    order = _order(first)
    flat: list[Any] = []
    for a in args:
        if not isinstance(a, Array) or not a.ndim:
            flat.append(a)
        elif a.shape != first.shape:
            return None
        elif not any(a.strides):
            flat.append(_repeated(a))
        else:
            turned = a.transpose(order)
            if not turned.flags.c_contiguous:
                return None
            flat.append(_sliced(turned.reshape(-1).view()))
    return first.shape, order, flat


def _sliced(a: Array) -> Callable[[int, int], Array]:
    a.flags.writeable = False  # one type to compile for
    return lambda start, stop: a[start:stop]


def _repeated(a: Array) -> Callable[[int, int], Array]:
    element = a[(slice(0, 1),) * a.ndim].reshape(1)
    return lambda start, stop: np.broadcast_to(element, (stop - start,))


def reduction(kernel: Callable, x: Array, *, axis: Axes, keepdims: bool) -> Array:
    """kernel(x, axis=, keepdims=), where the result of the whole is the kernel's result of those of its blocks.

    Divided along the axis that is outermost in memory. If the result keeps that one, its bits are NumPy's; else the
    blocks' results are reduced in turn (and their size does not depend on the threads, so neither do the bits). Sums
    are those of compiled loops, for the usual layouts.
    """
    if not axis or (x.dtype.kind == "f" and x.itemsize == 2):  # the sums of blocks would leave the range of half
        return kernel(x, axis=axis, keepdims=keepdims)
    shape = [1 if i in axis else n for i, n in enumerate(x.shape) if keepdims or i not in axis]
    if kernel in (reference.sum, reference.total) and x.dtype in (np.float32, np.float64):
        total = _summed(x, axis)
        if total is not None:
            return total.reshape(shape)
    order = _order(x)
    flat = len(axis) == x.ndim and x.transpose(order).flags.c_contiguous
    if flat:
        x, order, axis = x.transpose(order).reshape(-1), [0], (0,)
    outer = order[0]
    step = max(1, BLOCK * x.shape[outer] // x.size)
    tasks = -(-x.shape[outer] // step)
    parts: list[Any] = [None] * tasks

    def task(i: int) -> None:
        part = x[(slice(None),) * outer + (slice(i * step, (i + 1) * step),)]
        if flat and part.size % LINE == 0:
            part = kernel(part.reshape(-1, LINE), axis=(0,), keepdims=False)
        parts[i] = kernel(part, axis=axis, keepdims=True)

    threads.share(task, tasks, threads.worth(x.size, SHARE))
    out = np.concatenate(parts, outer)
    if outer in axis:
        out = kernel(out, axis=(outer,), keepdims=True)
    return out.reshape(shape)


def _summed(x: Array, axis: Axes) -> Array | None:
    """The sum of floating-point numbers, without the axes; None: they do not lie as the loops need it.

    In memory order, axes that are summed and axes that are kept must come in one, two or (summed, kept, summed) groups.
    """
    order = _order(x)
    turned = x.transpose(order)
    if not turned.flags.c_contiguous:
        return None
    flat, groups = turned.reshape(-1).view(), _groups([(i in axis, x.shape[i]) for i in order])
    flat.flags.writeable = False
    match groups:
        case [(True, _)]:
            sums = _sums_of_rows(flat, BLOCK).sum()
        case [(False, _), (True, width)]:
            sums = _sums_of_rows(flat, width)
        case [(True, _), (False, columns)]:
            sums = _sums_of_columns(flat, columns)
        case [(True, _), (False, columns), (True, width)]:
            sums = _sums_of_rows(flat, width).reshape(-1, columns).sum(0)
        case _:
            return None
    kept = [i for i in order if i not in axis]
    return sums.astype(x.dtype).reshape([x.shape[i] for i in kept]).transpose(np.argsort(kept))


def _groups(axes: list[tuple[bool, int]]) -> list[tuple[bool, int]]:
    """Neighbours that are summed, or kept, as one axis; axes of length 1 are either."""
    found: list[tuple[bool, int]] = []
    for summed, n in axes:
        if n == 1:
            continue
        if found and found[-1][0] == summed:
            found[-1] = summed, found[-1][1] * n
        else:
            found.append((summed, n))
    return found


def _sums_of_rows(flat: Array, width: int) -> Array:
    from .reduction_loops import add_rows

    out = np.empty(-(-flat.size // width))
    add_rows(_workers(flat), flat, width, out)
    return out


def _sums_of_columns(flat: Array, columns: int) -> Array:
    from .reduction_loops import add_columns

    rows = max(1, BLOCK // columns)
    parts = np.empty((-(-flat.size // columns // rows), columns))
    add_columns(_workers(flat), flat, columns, rows, parts)
    return parts.sum(0)


def _workers(flat: Array) -> int:
    """Threads for a sum, which is soon done."""
    return threads.worth(flat.size, 4 * SHARE) if threads.usable() else 1


def sum_to(kernel: Callable, x: Array, *, shape: Axes) -> Array:
    """kernel(x, shape=), the reference's sum_to, as a reduction."""
    lead = x.ndim - len(shape)
    axis = (*range(lead), *[i + lead for i, n in enumerate(shape) if n == 1 != x.shape[i + lead]])
    return reduction(reference.total, x, axis=axis, keepdims=True).reshape(shape)


def rows(kernel: Callable, *arrays: Array, axis: int) -> Array:
    """kernel(*arrays, axis=) for what mixes elements along one axis only and keeps the shape of all its arrays, as
    softmax does and its gradient: some rows at a time, which stay in cache. Rows of single precision without gaps go
    through the loop of reduction_loops.py that has the kernel's name."""
    x = arrays[-1]
    if axis == x.ndim - 1 and all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays):
        return _looped(kernel.__name__, arrays)
    order = _order(x)
    others = [i for i in order if i != axis]
    if not others or not x.transpose(order).flags.c_contiguous:
        return kernel(*arrays, axis=axis)
    many = [i for i in others if x.shape[i] >= 4 * threads.count()]
    outer = (many or sorted(others, key=lambda i: -x.shape[i]))[0]
    step = max(1, IN_CACHE * x.shape[outer] // x.size)
    result = np.empty_like(x)  # with the same order of axes, as NumPy's functions have it

    def task(i: int) -> None:
        at = (slice(None),) * outer + (slice(i * step, (i + 1) * step),)
        result[at] = kernel(*(a[at] for a in arrays), axis=axis)

    threads.share(task, -(-x.shape[outer] // step), threads.worth(x.size, SHARE))
    return result


def _looped(name: str, arrays: tuple[Array, ...]) -> Array:
    """A loop over rows: all arrays and the result are C-contiguous."""
    from . import reduction_loops
    from .layout import empty, frozen

    x = arrays[-1]
    result = empty(x.shape, x.dtype)
    workers = threads.worth(x.size, SHARE) if threads.usable() else 1
    getattr(reduction_loops, name)(workers, *(frozen(a.reshape(-1)) for a in arrays), x.shape[-1], result.reshape(-1))
    return result


def _order(x: Array) -> list[int]:
    """The axes as they lie in memory, from the outermost to the innermost."""
    return sorted(range(x.ndim), key=lambda i: -abs(x.strides[i]))
