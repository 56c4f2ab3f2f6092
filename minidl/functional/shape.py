"""Shapes: reshaping, joining and splitting, padding. Names and defaults are PyTorch's; all work on bare arrays,
unrecorded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ..core.dtypes import result_type
from ..ops import shape
from ..ops.elementwise import astype
from ..ops.elementwise import broadcast_to as _broadcast_to
from .arguments import (
    axes_of,
    axis_of,
    check_array,
    is_array,
    normalize_dim,
    sizes,
)
from .creation import constant
from .indexing import index_select

Dim = int | Sequence[int] | None


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
    if math.prod(wanted) != count or min(wanted, default=0) < 0:
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
        if math.fsum(lengths) != n or min(lengths, default=0) < 0:
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
    cut = tuple((-min(lo, 0), -min(hi, 0)) for lo, hi in pairs)
    width = tuple((max(lo, 0), max(hi, 0)) for lo, hi in pairs)
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
            if max(lo, hi) > room or n == 0:
                raise ValueError(f"pad: {(lo, hi)} is too much for axis {axis} of size {n} with mode={mode!r}")
            make = partial(np.pad, np.arange(n), (lo, hi), mode=modes[mode])
            input = index_select(input, axis, constant(make, input))
    return input
