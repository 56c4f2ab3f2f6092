"""Products of matrices."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod

import numpy as np

from ..arrays import Array
from .elementwise import positive_part, sigmoid
from .reduction import total


def matmul(a: Array, b: Array) -> Array:
    return a @ b


def linear(x: Array, w: Array, b: Array | None) -> Array:
    """x: (..., in), w: (out, in), b: (out,) or None -> (..., out)."""
    y = x @ w.T
    if b is not None:
        y += b
    return y


def linear_activated(
    x: Array, w: Array, b: Array | None, *, activation: str, product: Callable[..., Array] = linear
) -> Array:
    """The activation ("relu", "tanh" or "sigmoid") of `linear`."""
    y = product(x, w, b)
    if activation == "relu":
        return np.maximum(y, 0, out=y)
    return np.tanh(y, out=y) if activation == "tanh" else sigmoid(y)


def linear_activated_slope(g: Array, y: Array, *, activation: str) -> tuple[Array, Array]:
    """g (..., out) times the activation's derivative where its result is y, and the sum of that over rows: (out,)."""
    if activation == "relu":
        gz = positive_part(g, y)
    else:
        gz = g * (1 - y * y if activation == "tanh" else y * (1 - y))
    return gz, total(gz, tuple(range(g.ndim - 1)))


def linear_weight(g: Array, x: Array) -> Array:
    """The adjoint of `linear` in w: g (..., out), x (..., in) -> (out, in)."""
    rows = prod(g.shape[:-1])  # not -1: without features it could not be told
    return g.reshape(rows, g.shape[-1]).T @ x.reshape(rows, x.shape[-1])


@lru_cache(maxsize=1024)
def _plan(a: str, b: str, y: str) -> tuple[str, str, str, str]:
    """The indices of a contraction by their part in it: batch, rows (only in a), columns (only in b), summed."""
    batch = "".join(i for i in a if i in b and i in y)
    rows = "".join(i for i in a if i not in b)
    columns = "".join(i for i in b if i not in a)
    summed = "".join(i for i in a if i in b and i not in y)
    if sorted(batch + rows + columns) != sorted(y) or len(set(a)) < len(a) or len(set(b)) < len(b):
        raise ValueError(
            f"{a},{b}->{y} is no contraction of two arrays: an index occurs in one place only, or twice in one"
        )
    return batch, rows, columns, summed


def contract(
    a: Array, b: Array, *, subscripts: tuple[str, str, str], product: Callable[[Array, Array], Array] = matmul
) -> Array:
    """einsum of two arrays in which every index occurs in exactly two or all three places, as one batched product."""
    names_a, names_b, names_y = subscripts
    batch, rows, columns, summed = _plan(*subscripts)
    size = dict(zip(names_a + names_b, a.shape + b.shape, strict=True))
    lengths = lambda names: tuple(size[i] for i in names)
    a = a.transpose([names_a.index(i) for i in batch + rows + summed])
    b = b.transpose([names_b.index(i) for i in batch + summed + columns])
    a = a.reshape(*lengths(batch), prod(lengths(rows)), prod(lengths(summed)))
    y = product(a, b.reshape(*lengths(batch), prod(lengths(summed)), prod(lengths(columns))))
    made = batch + rows + columns
    return y.reshape(lengths(made)).transpose([made.index(i) for i in names_y])
