"""Functions of tensors as arrays: arithmetic, reductions, shapes, indexing, products. Names and defaults are PyTorch's.

All of them also work on bare arrays, unrecorded. They are `minidl.*`; most are methods of Tensor as well.
"""

from __future__ import annotations

import builtins
import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..core.dtypes import result_type
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
from .arguments import check_array, is_array, normalize_dim, normalize_dims, sizes

Dim = int | Sequence[int] | None


def clamp(input: Any, min: float | None = None, max: float | None = None) -> Any:
    """input limited to [min, max]; the gradient is 0 outside. At least one bound is needed."""
    if min is None and max is None:
        raise ValueError("clamp: give min, max or both")
    return _clamp(input, min=min, max=max)


def rsqrt(input: Any) -> Any:
    """1 / sqrt(input)."""
    return 1 / sqrt(input)


def reciprocal(input: Any) -> Any:
    """1 / input."""
    return 1 / input


# ---- reductions
def sum(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The sum over one axis, several or (None) all. Integers and booleans add up in int64."""
    return reduction.sum(input, axis=normalize_dims(dim, input.ndim), keepdims=keepdim)


def mean(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The mean over one axis, several or (None) all."""
    if input.dtype.kind != "f":
        raise TypeError(f"mean needs a floating-point tensor, not {input.dtype}; convert it with .float()")
    axes = normalize_dims(dim, input.ndim)
    return reduction.sum(input, axis=axes, keepdims=keepdim) / _count(input, axes, "mean")


def _count(input: Any, axes: tuple[int, ...], what: str) -> int:
    count = math.prod(input.shape[i] for i in axes)
    if count == 0:
        raise ValueError(
            f"{what} over axes {axes} of a tensor of shape {tuple(input.shape)}: there is nothing to average"
        )
    return count


def var(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The variance: squared deviations from the mean, summed and divided by (count - correction)."""
    axes = normalize_dims(dim, input.ndim)
    centred = input - mean(input, axes, keepdim=True)
    count = _count(input, axes, "var")
    if count - correction <= 0:
        raise ValueError(f"var: {count} elements leave no degree of freedom with correction={correction}")
    return reduction.sum(square(centred), axis=axes, keepdims=keepdim) / (count - correction)


def std(input: Any, dim: Dim = None, correction: float = 1, keepdim: bool = False) -> Any:
    """The square root of `var`."""
    return sqrt(var(input, dim, correction, keepdim))


def norm(input: Any, p: float = 2, dim: Dim = None, keepdim: bool = False) -> Any:
    """The p-norm (sum |x|^p)^(1/p) over axes; p may be math.inf."""
    if p == math.inf:
        return amax(abs(input), dim, keepdim)
    if p == 2:
        return sqrt(sum(square(input), dim, keepdim))
    if p == 1:
        return sum(abs(input), dim, keepdim)
    return sum(abs(input) ** p, dim, keepdim) ** (1 / p)


def prod(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The product over one axis or (None) all elements. Zeros are no trouble to its gradient: halves are multiplied
    with each other until one element is left."""
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = normalize_dim(dim, input.ndim)
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
    axes = normalize_dims(dim, input.ndim)
    _nonempty("amax", input, axes)
    return reduction.amax(input, axis=axes, keepdims=keepdim)


def amin(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """The smallest element over axes. Ties share the gradient equally."""
    axes = normalize_dims(dim, input.ndim)
    _nonempty("amin", input, axes)
    return reduction.amin(input, axis=axes, keepdims=keepdim)


def argmax(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the largest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmax, "argmax", input, dim, keepdim)


def argmin(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The index of the smallest element along dim, or (None) in the flattened tensor; the first one on ties."""
    return _arg(reduction.argmin, "argmin", input, dim, keepdim)


def _arg(primitive: Any, what: str, input: Any, dim: int | None, keepdim: bool) -> Any:
    if dim is None:
        input, dim = reshape(input, (-1,)), 0
    dim = normalize_dim(dim, input.ndim)
    _nonempty(what, input, (dim,) if input.ndim else ())
    return primitive(input, axis=dim, keepdims=keepdim)


def max(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the largest element; with it (values, indices) along that axis, where the gradient then goes."""
    return amax(input) if dim is None else _extreme(argmax, input, dim, keepdim)


def min(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """Without dim the smallest element; with it (values, indices) along that axis."""
    return amin(input) if dim is None else _extreme(argmin, input, dim, keepdim)


def _extreme(arg: Any, input: Any, dim: int, keepdim: bool) -> tuple[Any, Any]:
    dim = normalize_dim(dim, input.ndim)
    index = arg(input, dim, keepdim=True)
    values = gather(input, dim, index)
    return (values, index) if keepdim else (squeeze(values, dim), squeeze(index, dim))


def any(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether any element is true (nonzero)."""
    return reduction.any(input, axis=normalize_dims(dim, input.ndim), keepdims=keepdim)


def all(input: Any, dim: Dim = None, keepdim: bool = False) -> Any:
    """Whether all elements are true (nonzero)."""
    return reduction.all(input, axis=normalize_dims(dim, input.ndim), keepdims=keepdim)


def cumsum(input: Any, dim: int) -> Any:
    """Running sums along an axis."""
    return reduction.cumsum(input, axis=normalize_dim(dim, input.ndim))


def logsumexp(input: Any, dim: Dim, keepdim: bool = False) -> Any:
    """log(sum(exp(input))) over axes, without overflow."""
    return reduction.logsumexp(input, axis=normalize_dims(dim, input.ndim), keepdims=keepdim)


def softmax(input: Any, dim: int) -> Any:
    """exp(input) / sum(exp(input)) along an axis."""
    return reduction.softmax(input, axis=normalize_dim(dim, input.ndim))


def log_softmax(input: Any, dim: int) -> Any:
    """log(softmax(input, dim)), computed without taking the logarithm of small numbers."""
    return reduction.log_softmax(input, axis=normalize_dim(dim, input.ndim))


# ---- shape
def reshape(input: Any, *size: Any) -> Any:
    """The same elements in another shape; one size may be -1."""
    check_array("reshape", "input", input)
    wanted = list(sizes(size))
    count = math.prod(input.shape)
    if wanted.count(-1) == 1:
        known = math.prod(n for n in wanted if n != -1)
        if known and count % known == 0:
            wanted[wanted.index(-1)] = count // known
    if math.prod(wanted) != count or builtins.min(wanted, default=0) < 0:
        raise ValueError(
            f"reshape: a tensor of shape {tuple(input.shape)} ({count} elements) cannot become {sizes(size)}"
        )
    return shape.reshape(input, shape=tuple(wanted))


def flatten(input: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Axes start_dim to end_dim as one."""
    lo, hi = normalize_dim(start_dim, input.ndim), normalize_dim(end_dim, input.ndim)
    if lo > hi:
        raise ValueError(f"flatten: start_dim {start_dim} lies behind end_dim {end_dim}")
    return reshape(input, (*input.shape[:lo], math.prod(input.shape[lo : hi + 1]), *input.shape[hi + 1 :]))


def unflatten(input: Any, dim: int, size: Sequence[int]) -> Any:
    """One axis as several of these sizes."""
    dim = normalize_dim(dim, input.ndim)
    if math.prod(size) != input.shape[dim]:
        raise ValueError(f"unflatten: axis {dim} has {input.shape[dim]} elements, which {tuple(size)} does not give")
    return reshape(input, (*input.shape[:dim], *size, *input.shape[dim + 1 :]))


def permute(input: Any, *dims: Any) -> Any:
    """The axes in another order."""
    axes = tuple(normalize_dim(d, input.ndim) for d in sizes(dims))
    if sorted(axes) != list(range(input.ndim)):
        raise ValueError(f"permute: {sizes(dims)} is no order of the {input.ndim} axes of shape {tuple(input.shape)}")
    return shape.transpose(input, axes=axes)


def transpose(input: Any, dim0: int, dim1: int) -> Any:
    """Two axes exchanged."""
    axes = list(range(input.ndim))
    a, b = normalize_dim(dim0, input.ndim), normalize_dim(dim1, input.ndim)
    axes[a], axes[b] = axes[b], axes[a]
    return shape.transpose(input, axes=tuple(axes))


def movedim(input: Any, source: int, destination: int) -> Any:
    """One axis moved to another place."""
    axes = list(range(input.ndim))
    axis = axes.pop(normalize_dim(source, input.ndim))
    axes.insert(normalize_dim(destination, input.ndim), axis)
    return shape.transpose(input, axes=tuple(axes))


def squeeze(input: Any, dim: Dim = None) -> Any:
    """Without the axes of size 1: all of them, or those named that are."""
    axes = normalize_dims(dim, input.ndim)
    return reshape(input, tuple(n for i, n in enumerate(input.shape) if n != 1 or i not in axes))


def unsqueeze(input: Any, dim: int) -> Any:
    """With a new axis of size 1 at dim."""
    dim = normalize_dim(dim, input.ndim + 1)
    return reshape(input, (*input.shape[:dim], 1, *input.shape[dim:]))


def broadcast_to(input: Any, size: Sequence[int]) -> Any:
    """input repeated (without copying) to a larger shape, by NumPy's rules."""
    return _broadcast_to(input, shape=tuple(size))


def expand(input: Any, *size: Any) -> Any:
    """Like broadcast_to; -1 keeps an axis as it is."""
    wanted = sizes(size)
    lead = len(wanted) - input.ndim
    full = tuple(input.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(wanted))
    return _broadcast_to(input, shape=full)


def repeat(input: Any, *counts: Any) -> Any:
    """input laid side by side, counts[i] times along axis i."""
    times = sizes(counts)
    if len(times) < input.ndim:
        raise ValueError(f"repeat: {len(times)} counts for a tensor of {input.ndim} axes")
    input = reshape(input, (1,) * (len(times) - input.ndim) + tuple(input.shape))
    tiled = reshape(input, tuple(m for n in input.shape for m in (1, n)))
    tiled = _broadcast_to(tiled, shape=tuple(m for t, n in zip(times, input.shape, strict=True) for m in (t, n)))
    return reshape(tiled, tuple(t * n for t, n in zip(times, input.shape, strict=True)))


def flip(input: Any, dims: Dim) -> Any:
    """The order of the elements along axes reversed."""
    return shape.flip(input, axis=normalize_dims(dims, input.ndim))


def roll(input: Any, shifts: int | Sequence[int], dims: int | Sequence[int]) -> Any:
    """Elements shifted along axes; what leaves at one end enters at the other."""
    shift = (shifts,) if isinstance(shifts, int) else tuple(shifts)
    axis = tuple(normalize_dim(d, input.ndim) for d in ((dims,) if isinstance(dims, int) else dims))
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
    axis = normalize_dim(dim, input.ndim)
    n = input.shape[axis]
    if isinstance(split_size_or_sections, int):
        size = split_size_or_sections
        if size < 1:
            raise ValueError(f"split: the size of a part is {size}; it must be at least 1")
        lengths = [size] * (n // size) + ([n % size] if n % size else [])
    else:
        lengths = list(split_size_or_sections)
        if math.fsum(lengths) != n:
            raise ValueError(f"split: sizes {lengths} do not add up to {n}, the length of axis {axis}")
    return tuple(shape.split(input, axis=axis, sizes=tuple(lengths or [0])))


def chunk(input: Any, chunks: int, dim: int = 0) -> tuple:
    """`chunks` parts of (nearly) equal length along an axis."""
    axis = normalize_dim(dim, input.ndim)
    return split(input, -(-input.shape[axis] // chunks) or 1, axis)


def unbind(input: Any, dim: int = 0) -> tuple:
    """The slices along an axis, without that axis."""
    axis = normalize_dim(dim, input.ndim)
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
    """input[index]: numbers, slices, None, ..., integer and boolean arrays or tensors, as in NumPy."""
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
    if isinstance(part, float):
        raise TypeError(f"an index must be a whole number, not {part!r}")
    return part


def gather(input: Any, dim: int, index: Any) -> Any:
    """out[i][j] = input[index[i][j]][j] for dim 0.

    index: integers, as many axes as input, no longer than it elsewhere.
    """
    dim = normalize_dim(dim, input.ndim)
    check_array("gather", "index", index)
    fits = index.ndim == input.ndim and builtins.all(
        m <= n for i, (m, n) in enumerate(zip(index.shape, input.shape, strict=False)) if i != dim
    )
    if index.dtype.kind not in "iu" or not fits:
        raise ValueError(
            f"gather along axis {dim}: index is {index.dtype}{list(index.shape)}; it must hold integers, have "
            f"{input.ndim} axes and be no longer than input {list(input.shape)} on the others"
        )
    return indexing.gather(input, index, axis=dim)


def take_along_dim(input: Any, indices: Any, dim: int) -> Any:
    """`gather` with its arguments in NumPy's order."""
    return gather(input, dim, indices)


def index_select(input: Any, dim: int, index: Any) -> Any:
    """The slices number index[0], index[1] … along an axis."""
    dim = normalize_dim(dim, input.ndim)
    return getitem(input, (slice(None),) * dim + (index,))


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


def diagonal(input: Any, dim1: int = 0, dim2: int = 1) -> Any:
    """The main diagonal over two axes, as the last axis."""
    a, b = normalize_dim(dim1, input.ndim), normalize_dim(dim2, input.ndim)
    if a == b:
        raise ValueError(f"diagonal: dim1 and dim2 are both {a}")
    return indexing.diagonal(input, axis1=a, axis2=b)


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
    out = linalg.matmul(input, other)
    if row:
        out = squeeze(out, -2)
    return squeeze(out, -1) if column else out


def outer(input: Any, other: Any) -> Any:
    """(n,), (m,) -> (n, m): every product."""
    return unsqueeze(input, 1) * unsqueeze(other, 0)


def einsum(equation: str, *operands: Any) -> Any:
    """Sums of products written with indices: einsum("bik,bkj->bij", a, b). "..." stands for broadcast axes; without
    "->" the result has the indices that occur once, in alphabetical order."""
    inputs, output = _parse_einsum(equation, operands)
    terms = [(_tidy(x, names), "".join(dict.fromkeys(names))) for x, names in zip(operands, inputs, strict=True)]
    while len(terms) > 1:
        (a, left), (b, right) = terms.pop(0), terms.pop(0)
        needed = set(output).union(*(names for _, names in terms))
        terms.insert(0, _contract(a, left, b, right, needed))
    x, names = terms[0]
    extra = tuple(i for i, n in enumerate(names) if n not in output)
    x, names = (sum(x, extra) if extra else x), "".join(n for n in names if n in output)
    return permute(x, tuple(names.index(n) for n in output)) if names != output else x


def _parse_einsum(equation: str, operands: tuple) -> tuple[list[str], str]:
    left, arrow, output = equation.replace(" ", "").partition("->")
    inputs = left.split(",")
    if len(inputs) != len(operands):
        raise ValueError(f"einsum: {equation!r} names {len(inputs)} operands, {len(operands)} were given")
    free = [c for c in string.ascii_letters if c not in equation]
    unnamed = [x.ndim - len(t.replace("...", "")) for t, x in zip(inputs, operands, strict=True) if "..." in t]
    longest = builtins.max(unnamed, default=0)
    dots = "".join(free[:longest])
    expanded = []
    for i, (term, x) in enumerate(zip(inputs, operands, strict=True)):
        count = x.ndim - len(term.replace("...", ""))
        if count < 0 or (count and "..." not in term):
            raise ValueError(
                f"einsum: operand {i} has {x.ndim} axes, but {term!r} names {len(term.replace('...', ''))}"
            )
        expanded.append(term.replace("...", dots[len(dots) - count :] if count else ""))
    if arrow:
        output = output.replace("...", dots)
    else:
        names = "".join(expanded)
        output = dots + "".join(sorted(n for n in set(names) if names.count(n) == 1 and n not in dots))
    size: dict[str, int] = {}
    for i, (term, x) in enumerate(zip(expanded, operands, strict=True)):
        for name, n in zip(term, x.shape, strict=True):
            if not name.isalpha():
                raise ValueError(f"einsum: {name!r} in {equation!r} is no index (a letter)")
            if size.setdefault(name, n) != n:
                if 1 not in (n, size[name]):
                    raise ValueError(f"einsum: index {name!r} has length {size[name]} before and {n} in operand {i}")
                size[name] = builtins.max(n, size[name])
    if missing := [n for n in output if n not in size]:
        raise ValueError(f"einsum: {missing[0]!r} in the output of {equation!r} is in no operand")
    if len(set(output)) < len(output):
        raise ValueError(f"einsum: the output of {equation!r} names an index twice")
    return expanded, output


def _tidy(x: Any, names: str) -> Any:
    """An index that occurs twice in one operand means its diagonal."""
    while repeated := [n for n in names if names.count(n) > 1]:
        first, second = [i for i, n in enumerate(names) if n == repeated[0]][:2]
        x = movedim(diagonal(x, first, second), -1, first)
        names = names[:second] + names[second + 1 :]
    return x


def _contract(a: Any, left: str, b: Any, right: str, needed: set[str]) -> tuple[Any, str]:
    """One product of two terms; indices nobody needs any more are summed."""
    a, left = _drop(a, left, b, right, needed)
    b, right = _drop(b, right, a, left, needed)
    output = "".join(dict.fromkeys(n for n in left + right if n in needed))
    dtype = result_type(a, b)
    a, b = (x if x.dtype == dtype else astype(x, dtype=dtype) for x in (a, b))
    return linalg.contract(a, b, subscripts=(left, right, output)), output


def _drop(a: Any, left: str, b: Any, right: str, needed: set[str]) -> tuple[Any, str]:
    """a without indices that only it has and nobody needs (summed), or that have length 1 here and more in b."""
    lone = tuple(i for i, n in enumerate(left) if n not in right and n not in needed)
    if lone:
        a, left = sum(a, lone), "".join(n for i, n in enumerate(left) if i not in lone)
    thin = tuple(i for i, n in enumerate(left) if n in right and a.shape[i] == 1 != b.shape[right.index(n)])
    if thin:
        a, left = squeeze(a, thin), "".join(n for i, n in enumerate(left) if i not in thin)
    return a, left
