"""Checks that the metrics share. What they return is float64 and has no mutable tie to what was given."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..kernels.arrays import is_floating

CHUNK = 2**22  # numbers in one block of distances: 32 MiB


def points(name: str, value: Any) -> np.ndarray:
    """Anything (N, …) with N > 0 and finite numbers -> (N, D) float64."""
    array = np.asarray(value)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be (N, …) with at least one point, of one number")
    if array.dtype.kind not in "iu" and not is_floating(array.dtype):
        raise TypeError(f"{name} holds {array.dtype}; it must hold real numbers")
    flat = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(flat).all():
        raise ValueError(f"{name} holds NaN or infinity, first in row {int(np.argmin(np.isfinite(flat).all(1)))}")
    return flat


def same_size(**arrays: np.ndarray) -> None:
    """Raise ValueError unless points have the same number of numbers in all."""
    if len({array.shape[1] for array in arrays.values()}) > 1:
        sizes = ", ".join(f"{name} {array.shape[1]}" for name, array in arrays.items())
        raise ValueError(f"points must have the same size in all arguments, but theirs are: {sizes}")


def classes(name: str, value: Any) -> np.ndarray:
    """Class numbers (N,), integers >= 0, N > 0."""
    array = np.asarray(value)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be (N,), one class for each item and at least one")
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {array.dtype}; it must hold class numbers (integers)")
    if array.min() < 0:
        raise ValueError(f"{name} holds {array.min()}; class numbers begin at 0")
    return array


def probabilities(name: str, value: Any) -> np.ndarray:
    """Class probabilities (N, K): rows that add up to 1."""
    array = points(name, value)
    if np.ndim(value) != 2:
        raise ValueError(f"{name} has shape {np.shape(value)}; it must be (N, K), one row of K probabilities per item")
    # float32 softmaxes add up to 1 within a few units of the seventh digit
    if array.min() < 0 or np.abs(array.sum(1) - 1).max() > 1e-3:
        raise ValueError(f"{name} must be >= 0 and its rows must add up to 1: apply a softmax to logits first")
    return array


def share(name: str, value: float) -> float:
    """A number from 0 to 1."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {value}; it must be between 0 and 1")
    return float(value)


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared Euclidean distances between the rows of a (N, D) and b (M, D), in blocks of rows of a: (rows, (n, M)).

    From differences, not from |a|² + |b|² - 2ab, which is not exactly 0 for equal rows.
    """
    from scipy.spatial.distance import cdist

    step = max(1, CHUNK // len(b))
    for first in range(0, len(a), step):
        rows = slice(first, first + step)
        yield rows, cdist(a[rows], b, "sqeuclidean")
