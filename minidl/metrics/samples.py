"""How drawn images compare with real ones: are they copies, and are they as sharp?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import arguments


def nearest_neighbour_distance(samples: Any, points: Any) -> np.ndarray:
    """The Euclidean distance from each sample to the nearest of the points: (N, …), (M, …) -> (N,).

    Exactly 0 for copies. In units of the pixels, over all of an image: the root of summed, not averaged squares.
    """
    s, x = arguments.points("samples", samples), arguments.points("points", points)
    arguments.same_size(samples=s, points=x)
    nearest = np.empty(len(s))
    for rows, distances in arguments.squared_distances(s, x):
        nearest[rows] = np.sqrt(distances.min(1))
    return nearest


def gradient_energy(images: Any, axes: tuple[int, ...] = (-2, -1)) -> np.ndarray:
    """Squared differences of neighbouring pixels, summed over each image: (N, …, H, W) -> (N,).

    axes: along which neighbours are compared; (-1,) looks at horizontal neighbours alone.
    """
    x = _pixels(images)
    return sum((_squares(np.diff(x, axis=axis)) for axis in axes), np.zeros(len(x)))


def laplacian_energy(images: Any) -> np.ndarray:
    """Squared answers of the 5-point Laplacian (the four neighbours minus four times the pixel), summed over the
    interior of each image: (N, …, H, W) -> (N,).

    Second differences: a checkerboard of artefacts has far more of this than of gradients.
    """
    x = _pixels(images)
    if min(x.shape[-2:]) < 3:
        raise ValueError(f"images have {x.shape[-2]} x {x.shape[-1]} pixels; the Laplacian needs at least 3 x 3")
    inside = x[..., 1:-1, 1:-1]
    around = x[..., :-2, 1:-1] + x[..., 2:, 1:-1] + x[..., 1:-1, :-2] + x[..., 1:-1, 2:]
    return _squares(around - 4 * inside)


def relative_sharpness(images: Any, reference: Any, energy: Callable[[Any], np.ndarray] = gradient_energy) -> float:
    """The images' mean energy divided by the reference's: below 1 they are blurred, above 1 they have structure that
    real images have not. Raises ValueError for a reference without any."""
    real = float(energy(reference).mean())
    if real == 0:
        raise ValueError("reference has no energy: its images are of one grey each")
    return float(energy(images).mean()) / real


def _pixels(images: Any) -> np.ndarray:
    if np.ndim(images) < 3:
        raise ValueError(f"images has shape {np.shape(images)}; it must be (N, …, H, W)")
    return arguments.points("images", images).reshape(np.shape(images))


def _squares(x: np.ndarray) -> np.ndarray:
    return np.square(x).reshape(len(x), -1).sum(1)
