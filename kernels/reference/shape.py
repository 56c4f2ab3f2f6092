"""Rearranging elements: each function has an adjoint that undoes it."""

from __future__ import annotations

from .. import arrays
from ..arrays import Array, namespace

Axes = tuple[int, ...]


def reshape(x: Array, *, shape: Axes) -> Array:
    return x.reshape(shape)


def transpose(x: Array, *, axes: Axes) -> Array:
    return x.transpose(axes)


def flip(x: Array, *, axis: Axes) -> Array:
    return namespace(x).flip(x, axis)


def roll(x: Array, *, shift: Axes, axis: Axes) -> Array:
    return namespace(x).roll(x, shift, axis)


def pad(x: Array, *, width: tuple[tuple[int, int], ...], value: float) -> Array:
    return namespace(x).pad(x, width, constant_values=value)


def crop(x: Array, *, width: tuple[tuple[int, int], ...]) -> Array:
    """The adjoint of `pad`: what is left when `width` is cut off each end."""
    return x[tuple(slice(lo, n - hi) for n, (lo, hi) in zip(x.shape, width, strict=True))]


def cat(*xs: Array, axis: int, sizes: Axes) -> Array:
    return arrays.concatenate(xs, axis)


def split(x: Array, *, axis: int, sizes: Axes) -> list[Array]:
    """The adjoint of `cat`."""
    ends = [sum(sizes[:i]) for i in range(1, len(sizes))]
    return namespace(x).split(x, ends, axis)


def stack(*xs: Array, axis: int) -> Array:
    return arrays.stack(xs, axis)


def unbind(x: Array, *, axis: int) -> list[Array]:
    """The adjoint of `stack`."""
    return list(namespace(x).moveaxis(x, axis, 0))
