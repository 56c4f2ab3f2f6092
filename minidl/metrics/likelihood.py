"""How likely held-back data are under a sampler whose density nobody can write down: Parzen windows.

Breuleux, Bengio and Vincent, "Quickly Generating Representative Samples from an RBM-Derived Process" (Neural
Computation 2011); used to compare generative adversarial nets by Goodfellow et al. (NIPS 2014), table 1. It is a poor
estimate in many dimensions, and good samples need not have a good one (Theis, van den Oord and Bethge, "A Note on the
Evaluation of Generative Models", ICLR 2016): a rough measure, to be read beside others.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from . import arguments

PARZEN_SIGMAS = np.logspace(-1, 0, 10)
"""The widths among which the validation images choose, in units of pixel values from 0 to 1 (Goodfellow et al.)."""


class ParzenEstimate(NamedTuple):
    """Mean log-likelihood of the points in nats, its standard error over the points, and the kernel's width."""

    mean: float
    error: float
    sigma: float

    def __str__(self) -> str:
        return f"{self.mean:.1f} ± {self.error:.1f} nats (sigma {self.sigma:.3g})"


def parzen_log_likelihood(
    samples: Any, points: Any, sigma: float | None = None, validation: Any = None
) -> ParzenEstimate:
    """The mean log-density of `points` under Gaussians around `samples`, in nats.

        log p(x) = log 1/N sum_i N(x; s_i, sigma² I)

    samples (N, …), points (M, …): images of the same size, in any shape. Give either the kernel's standard deviation
    `sigma`, or images `validation` (K, …) for which the best of PARZEN_SIGMAS is chosen. These must not be among the
    samples: each would sit in the middle of its own kernel, the narrowest would win, and every other point would be
    unlikely. The error is the standard deviation of the points' log-densities by the square root of M; it says nothing
    about other samples. It is NaN for a single point.
    """
    s, x = arguments.points("samples", samples), arguments.points("points", points)
    arguments.same_size(samples=s, points=x)
    if (sigma is None) == (validation is None):
        raise ValueError("give either sigma, or validation images that choose it")
    if validation is not None:
        v = arguments.points("validation", validation)
        arguments.same_size(samples=s, validation=v)
        sigma = float(PARZEN_SIGMAS[_log_densities(s, v, PARZEN_SIGMAS).mean(1).argmax()])
    assert sigma is not None
    if not 0 < sigma < math.inf:
        raise ValueError(f"sigma is {sigma}; it must be positive")
    (logs,) = _log_densities(s, x, np.array([sigma]))
    error = logs.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else math.nan
    return ParzenEstimate(float(logs.mean()), float(error), float(sigma))


def _log_densities(samples: np.ndarray, points: np.ndarray, sigmas: np.ndarray) -> np.ndarray:
    """Of every point for every width: (S, M)."""
    from scipy.special import logsumexp

    count, size = samples.shape
    logs = np.empty((len(sigmas), len(points)))
    for rows, distances in arguments.squared_distances(points, samples):
        for i, sigma in enumerate(sigmas):
            logs[i, rows] = logsumexp(distances / (-2 * sigma**2), axis=1)
    return logs - math.log(count) - size / 2 * np.log(2 * math.pi * sigmas**2)[:, None]


def gaussian_samples(points: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` draws from the normal distribution with the points' mean and covariance: (N, …) -> (count, …) float64.

    The baseline that a sampler of images has to beat: it knows how pixels vary in pairs and nothing else. Values are
    not limited to the range of the points. The covariance may be singular, as that of pixels that never change.
    """
    x = arguments.points("points", points)
    if len(x) < 2:
        raise ValueError("points is a single one; a covariance needs at least two")
    if count < 0:
        raise ValueError(f"count is {count}; it must be at least 0")
    mean = x.mean(0)
    # covariance = root' root. The singular values are roots that exist for singular covariances as well
    root = np.linalg.svd((x - mean) / math.sqrt(len(x) - 1), full_matrices=False)
    drawn = rng.standard_normal((count, len(root.S))) @ (root.S[:, None] * root.Vh) + mean
    return drawn.reshape(count, *np.shape(points)[1:])
