"""Functions of tensors as arrays: arithmetic, reductions, shapes, indexing, products. Names and defaults are PyTorch's.

All of them also work on bare arrays, unrecorded. They are `minidl.*`; most are methods of Tensor as well.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..core import cuda
from ..core.dtypes import DEFAULT, result_type
from ..core.tensor import Tensor
from ..kernels.arrays import namespace
from ..ops import indexing, linalg, reduction, shape
from ..ops.elementwise import (
    abs,
    astype,
    mul,
    sqrt,
    square,
    where,
)
from ..ops.elementwise import broadcast_to as _broadcast_to
from ..ops.elementwise import clamp as _clamp
from .arguments import (
    axes_of,
    axis_of,
    check_array,
    check_floating,
    in_single,
    is_array,
    may_look,
    normalize_dim,
    on_its_device,
    reduced_axes,
    sizes,
    within,
)

Dim = int | Sequence[int] | None


def clamp(input: Any, min: float | None = None, max: float | None = None) -> Any:
    """input limited to [min, max]; the gradient is 0 outside. At least one bound is needed."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    input, bounds = within("clamp", input, min=min, max=max)
    return _clamp(input, **bounds)


def rsqrt(input: Any) -> Any:
    """1 / sqrt(input)."""
    return 1 / sqrt(input)


def reciprocal(input: Any) -> Any:
    """1 / input."""
    return 1 / input


# ---- reductions
def sum(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The sum over one axis, several or (None) all. Integers and booleans add up in int64."""
    return reduction.sum(input, axis=reduced_axes("sum", input, dim), keepdims=keepdim)


def mean(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The mean over one axis, several or (None) all."""
    check_floating("mean", input=input)
    if input.dtype.itemsize == 2:
        return in_single(mean, input, dim, keepdim)
    axes = reduced_axes("mean", input, dim)
    return reduction.sum(input, axis=axes, keepdims=keepdim) / _count(input, axes, "mean")


def _flat_at_zero(function: Any, x: Any) -> Any:
    """A root or power of x, which is 0 at 0; its gradient too, though the slope is infinite there."""
    zero = x == 0
    return where(zero, 0.0, function(where(zero, 1.0, x)))


def _count(input: Any, axes: tuple[int, ...], what: str) -> int:
    count = math.prod(input.shape[i] for i in axes)
    if count == 0:
        raise ValueError(
            f"{what} over axes {axes} of a tensor of shape {tuple(input.shape)}: there is nothing to average"
        )
    return count


def var(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The variance: squared deviations from the mean, summed and divided by (count - correction)."""
    check_floating("var", input=input)
    if input.dtype.itemsize == 2:
        return in_single(var, input, dim, correction, keepdim)
    axes = reduced_axes("var", input, dim)
    centred = input - mean(input, axes, keepdim=True)
    count = _count(input, axes, "var")
    if count - correction <= 0:
        raise ValueError(f"var: {count} elements leave no degree of freedom with correction={correction}")
    return reduction.sum(square(centred), axis=axes, keepdims=keepdim) / (count - correction)


def std(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The square root of `var`. Where it is 0, so is the gradient."""
    check_floating("std", input=input)
    if input.dtype.itemsize == 2:
        return in_single(std, input, dim, correction, keepdim)
    return _flat_at_zero(sqrt, var(input, dim, correction, keepdim))


def norm(input: Any, p: float = 2, dim: Dim = None, keepdim: bool = False) -> Any:
    """The p-norm (sum |x|^p)^(1/p) over axes; p may be ±math.inf, and 0 counts the elements that are not 0. Where the
    norm is 0, so is the gradient."""
    check_floating("norm", input=input)
    if input.dtype.itemsize == 2:
        return in_single(norm, input, p, dim, keepdim)
    if p == 0:
        return sum(astype(input != 0, dtype=input.dtype), dim, keepdim)
    if p == 2:
        return _flat_at_zero(sqrt, sum(square(input), dim, keepdim))
    size = abs(input)
    if p in (math.inf, -math.inf):
        return (amax if p > 0 else amin)(size, dim, keepdim)
    if p == 1:
        return sum(size, dim, keepdim)
    powers = _flat_at_zero(lambda x: x**p, size) if 0 < p < 1 else size**p
    return _flat_at_zero(lambda x: x ** (1 / p), sum(powers, dim, keepdim))


def prod(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product over one axis or (None) all elements. Zeros are no trouble to its gradient: halves are multiplied
    with each other until one element is left. Integers and booleans multiply in int64."""
    check_array("prod", "input", input)
    if input.dtype.kind != "f":
        input = astype(input, dtype="int64")
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = axis_of("prod", input, dim)
    if input.shape[dim] == 0:
        input = shape.pad(input, width=tuple((0, int(i == dim)) for i in range(input.ndim)), value=1)  # nothing is 1
    while (n := input.shape[dim]) > 1:
        parts = shape.split(input, axis=dim, sizes=(n // 2, n // 2, n % 2))
        half = mul(parts[0], parts[1])
        input = shape.cat(half, parts[2], axis=dim, sizes=(n // 2, 1)) if n % 2 else half
    return input if keepdim else squeeze(input, dim)


def _nonempty(what: str, input: Any, axes: tuple[int, ...]) -> None:
    if empty := [i for i in axes if input.shape[i] == 0]:
        raise ValueError(f"{what}: axis {empty[0]} of a tensor of shape {tuple(input.shape)} is empty")


def amax(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The largest element over axes. Ties share the gradient equally."""
    axes = reduced_axes("amax", input, dim)
    _nonempty("amax", input, axes)
    return reduction.amax(input, axis=axes, keepdims=keepdim)


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest element over axes. Ties share the gradient equally."""
    axes = reduced_axes("amin", input, dim)
    _nonempty("amin", input, axes)
    return reduction.amin(input, axis=axes, keepdims=keepdim)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmax, "argmax", input, dim, keepdim)


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmin, "argmin", input, dim, keepdim)


def _arg(primitive: Any, what: str, input: Any, dim: int | None, keepdim: bool) -> Any:
    check_array(what, "input", input)
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = axis_of(what, input, dim)
    _nonempty(what, input, (dim,) if input.ndim else ())
    return primitive(input, axis=dim, keepdims=keepdim)


class Selection(NamedTuple):
    """What max, min, sort and topk along an axis return."""

    values: Any
    indices: Any


def max(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the largest element; with it (values, indices) along that axis, where the gradient then goes."""
    return amax(input) if dim is None else _extreme(argmax, input, dim, keepdim)


def min(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the smallest element; with it (values, indices) along that axis."""
    return amin(input) if dim is None else _extreme(argmin, input, dim, keepdim)


def _extreme(arg: Any, input: Any, dim: int, keepdim: bool) -> Selection:
    index = arg(input, dim, keepdim=True)
    dim = normalize_dim(dim, input.ndim)
    values = indexing.gather(input, index, axis=dim)
    return Selection(values, index) if keepdim else Selection(squeeze(values, dim), squeeze(index, dim))


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether any element is true (nonzero)."""
    return reduction.any(input, axis=axes_of("any", input, dim), keepdims=keepdim)


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether all elements are true (nonzero)."""
    return reduction.all(input, axis=axes_of("all", input, dim), keepdims=keepdim)


def cumsum(input: Any, dim: int) -> Any:
    """Running sums along an axis."""
    return reduction.cumsum(input, axis=axis_of("cumsum", input, dim))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) over axes, without overflow; -inf over nothing."""
    check_array("logsumexp", "input", input)
    if input.dtype.kind != "f":
        input = astype(input, dtype=DEFAULT)
    return reduction.logsumexp(input, axis=reduced_axes("logsumexp", input, dim), keepdims=keepdim)


def softmax(input: Any, dim: int) -> Any:
    """exp(input) / sum(exp(input)) along an axis."""
    check_floating("softmax", input=input)
    return reduction.softmax(input, axis=axis_of("softmax", input, dim))


def log_softmax(input: Any, dim: int) -> Any:
    """log(softmax(input, dim)), computed without taking the logarithm of small numbers."""
    check_floating("log_softmax", input=input)
    return reduction.log_softmax(input, axis=axis_of("log_softmax", input, dim))


# ---- shape
def reshape(input: Any, *size: Any) -> Any:
    """The same elements in another shape; one size may be -1."""
    check_array("reshape", "input", input)
    given = sizes("reshape", size)
    wanted = list(given)
    count = math.prod(input.shape)
    if wanted.count(-1) == 1:
        known = math.prod(n for n in wanted if n != -1)
        if known and count % known == 0:
            wanted[wanted.index(-1)] = count // known
    if math.prod(wanted) != count or builtins.min(wanted, default=0) < 0:
        raise ValueError(
            f"reshape: a tensor of shape {tuple(input.shape)} ({count} elements) cannot become {sizes('reshape', size)}"
        )
    return shape.reshape(input, shape=tuple(wanted))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Axes start_dim to end_dim as one."""
    lo, hi = axis_of("flatten", input, start_dim), axis_of("flatten", input, end_dim)
    if lo > hi:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(input, (*input.shape[:lo], math.prod(input.shape[lo : hi + 1]), *input.shape[hi + 1 :]))


def unflatten(input: Any, dim: int, size: Sequence[int]) -> Any:
    """One axis as several of these sizes."""
    dim = axis_of("unflatten", input, dim)
    if math.prod(size) != input.shape[dim]:
        raise ValueError(f"unflatten: axis {dim} has {input.shape[dim]} elements, which {tuple(size)} does not give")
    return reshape(input, (*input.shape[:dim], *size, *input.shape[dim + 1 :]))


def permute(input: Any, *dims: Any) -> Any:
    """The axes in another order."""
    order = sizes("permute", dims)
    axes = tuple(axis_of("permute", input, d) for d in order)
    if sorted(axes) != list(range(input.ndim)):
        raise ValueError(
            f"permute: {sizes('permute', dims)} is no order of the {input.ndim} axes of shape {tuple(input.shape)}"
        )
    return shape.transpose(input, axes=axes)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    axes = list(range(input.ndim))
    a, b = axis_of("transpose", input, dim0), axis_of("transpose", input, dim1)
    axes[a], axes[b] = axes[b], axes[a]
    return shape.transpose(input, axes=tuple(axes))


def movedim(input: Any, source: int, destination: int) -> Any:
    """One axis moved to another place."""
    axes = list(range(input.ndim))
    axis = axes.pop(axis_of("movedim", input, source))
    axes.insert(axis_of("movedim", input, destination), axis)
    return shape.transpose(input, axes=tuple(axes))


def squeeze(input: Any, dim: Dim = None) -> Any:
    """Without the axes of size 1: all of them, or those named that are."""
    axes = axes_of("squeeze", input, dim)
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in axes))


def unsqueeze(input: Any, dim: int) -> Any:
    """With a new axis of size 1 at dim."""
    check_array("unsqueeze", "input", input)
    dim = normalize_dim(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:dim], 1, *input.shape[dim:]))


def broadcast_to(input: Any, size: Sequence[int]) -> Any:
    """input repeated (without copying) to a larger shape, by NumPy's rules."""
    return _expanded("broadcast_to", input, sizes("broadcast_to", (size,)))


def expand(input: Any, *size: Any) -> Any:
    """Like broadcast_to; -1 keeps an axis as it is."""
    check_array("expand", "input", input)
    wanted = sizes("expand", size)
    lead = len(wanted) - input.ndim
    full = tuple(input.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(wanted))
    return _expanded("expand", input, full)


def _expanded(function: str, input: Any, size: tuple[int, ...]) -> Any:
    check_array(function, "input", input)
    try:
        return _broadcast_to(input, shape=size)
    except ValueError:
        raise ValueError(
            f"{function}: a tensor of shape {tuple(input.shape)} cannot be expanded to {size}: on each axis counted "
            f"from the end the sizes must be equal, or that of the tensor 1"
        ) from None


def repeat(input: Any, *counts: Any) -> Any:
    """input laid side by side, counts[i] times along axis i."""
    times = sizes("repeat", counts)
    if len(times) < input.ndim:
        raise ValueError(f"repeat: {len(times)} counts for a tensor of {input.ndim} axes")
    input = reshape(input, (1,) * (len(times) - input.ndim) + tuple(input.shape))
    tiled = reshape(input, tuple(m for n in input.shape for m in (1, n)))
    tiled = _broadcast_to(tiled, shape=tuple(m for t, n in zip(times, input.shape, strict=True) for m in (t, n)))
    return reshape(tiled, tuple(t * n for t, n in zip(times, input.shape, strict=True)))


def flip(input: Any, dims: Dim) -> Any:
    """The order of the elements along axes reversed."""
    return shape.flip(input, axis=axes_of("flip", input, dims))


def roll(input: Any, shifts: int | Sequence[int], dims: int | Sequence[int]) -> Any:
    """Elements shifted along axes; what leaves at one end enters at the other."""
    shift = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axis = tuple(axis_of("roll", input, d) for d in ((dims,) if isinstance(dims, int) else dims))
    if len(shift) != len(axis):
        raise ValueError(f"roll: {len(shift)} shifts for {len(axis)} dims")
    return shape.roll(input, shift=shift, axis=axis)


def _common(function: str, tensors: Any) -> list:
    """A list of tensors of one type."""
    if is_array(tensors):
        raise TypeError(f"{function}: expects a list or tuple of tensors, not one {type(tensors).__name__}")
    found = list(tensors)
    if not found:
        raise ValueError(f"{function}: the list of tensors is empty")
    for i, x in enumerate(found):
        check_array(function, f"tensors[{i}]", x)
        if x.ndim == 0 and function == "cat":
            raise ValueError(f"cat: tensors[{i}] has no axis to join along; use stack")
    dtype = result_type(*found)
    return [x if x.dtype == dtype else astype(x, dtype=dtype) for x in found]


def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors joined along an axis; their other sizes agree."""
    xs = _common("cat", tensors)
    first = xs[0]
    axis = normalize_dim(dim, first.ndim)
    for i, x in enumerate(xs):
        if x.ndim != first.ndim or x.shape[:axis] + x.shape[axis + 1 :] != first.shape[:axis] + first.shape[axis + 1 :]:
            raise ValueError(
                f"cat along axis {axis}: tensors[{i}] has shape {tuple(x.shape)}, tensors[0] {tuple(first.shape)}; "
                f"they may differ on that axis only"
            )
    return shape.cat(*xs, axis=axis, sizes=tuple(x.shape[axis] for x in xs))


def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    """Tensors of one shape joined along a new axis."""
    xs = _common("stack", tensors)
    for i, x in enumerate(xs):
        if x.shape != xs[0].shape:
            raise ValueError(f"stack: tensors[{i}] has shape {tuple(x.shape)}, tensors[0] {tuple(xs[0].shape)}")
    return shape.stack(*xs, axis=normalize_dim(dim, xs[0].ndim + 1))


def split(input: Any, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple:
    """Parts along an axis: of one size (the last may be smaller), or of the given sizes."""
    axis = axis_of("split", input, dim)
    if input.ndim == 0:
        raise ValueError("split: a tensor without axes has no parts")
    n = input.shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise ValueError(f"split: the size of a part is {size}; it must be at least 1")
        lengths = [size] * (n // size) + ([n % size] if n % size else [])
    else:
        lengths = list(sizes("split", (split_size_or_sections,)))
        if math.fsum(lengths) != n or builtins.min(lengths, default=0) < 0:
            raise ValueError(
                f"split: sizes {lengths} do not add up to {n}, the length of axis {axis}, or are not all at least 0"
            )
    return tuple(shape.split(input, axis=axis, sizes=tuple(lengths or [0])))


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple:
    """`chunks` parts of (nearly) equal length along an axis."""
    axis = axis_of("chunk", input, dim)
    (chunks,) = sizes("chunk", (chunks,))
    if chunks < 1:
        raise ValueError(f"chunk: chunks is {chunks}; it must be at least 1")
    if input.ndim == 0:
        raise ValueError("chunk: a tensor without axes has no parts")
    return split(input, -(-input.shape[axis] // chunks) or 1, axis)


def unbind(input: Any, dim: int = 0) -> tuple:
    """The slices along an axis, without that axis."""
    axis = axis_of("unbind", input, dim)
    if input.ndim == 0:
        raise ValueError("unbind: a tensor without axes has no slices")
    return tuple(shape.unbind(input, axis=axis)) if input.shape[axis] else ()


def pad(input: Any, pad: Sequence[int], mode: str = "constant", value: float = 0.0) -> Any:
    """input with a border. pad: (before, after) of the last axis, then of the one before it, and so on; negative
    numbers crop. mode: "constant", "reflect", "replicate" or "circular"."""
    if len(pad) % 2 or len(pad) > 2 * input.ndim:
        raise ValueError(f"pad: {list(pad)} must be pairs (before, after), at most {input.ndim} of them")
    pairs = [(0, 0)] * (input.ndim - len(pad) // 2) + list(zip(pad[::2], pad[1::2], strict=True))[::-1]
    cut = tuple((-builtins.min(lo, 0), -builtins.min(hi, 0)) for lo, hi in pairs)
    width = tuple((builtins.max(lo, 0), builtins.max(hi, 0)) for lo, hi in pairs)
    for i, (n, (lo, hi)) in enumerate(zip(input.shape, cut, strict=True)):
        if lo + hi > n:
            raise ValueError(f"pad: {list(pad)} crops {lo + hi} from axis {i} of size {n}")
    if cut != ((0, 0),) * input.ndim:
        input = shape.crop(input, width=cut)
    if mode == "constant":
        return shape.pad(input, width=width, value=value) if width != ((0, 0),) * input.ndim else input
    modes = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    if mode not in modes:
        raise ValueError(f'pad: mode is {mode!r}; it must be "constant", "reflect", "replicate" or "circular"')
    for axis, (lo, hi) in enumerate(width):
        if lo or hi:
            n = input.shape[axis]
            room = {"reflect": n - 1, "circular": n}.get(mode, math.inf)
            if builtins.max(lo, hi) > room or n == 0:
                raise ValueError(f"pad: {(lo, hi)} is too much for axis {axis} of size {n} with mode={mode!r}")
            index = np.pad(np.arange(n), (lo, hi), mode=modes[mode])  # type: ignore[call-overload]
            input = index_select(input, axis, index)
    return input


# ---- indexing
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
    fits = index.ndim == input.ndim and builtins.all(
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


# ---- products
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
