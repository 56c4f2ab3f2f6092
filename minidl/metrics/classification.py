"""How predictions agree with labels, and what a classifier says about samples that have none."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import arguments


def accuracy(labels: Any, predictions: Any) -> float:
    """The share of predictions that are right, from 0 to 1: classes (N,) twice."""
    labels, predictions = _pair(labels, predictions)
    return float(np.mean(labels == predictions))


def confusion_matrix(labels: Any, predictions: Any, classes: int | None = None) -> np.ndarray:
    """How often an item of class i was taken for class j: classes (N,) twice -> counts (K, K), row i, column j.

    classes: K; by default one more than the largest class that occurs. Raises ValueError for a class beyond it.
    """
    labels, predictions = _pair(labels, predictions)
    largest = int(max(labels.max(), predictions.max()))
    if classes is None:
        classes = largest + 1
    elif largest >= classes:
        raise ValueError(f"classes is {classes}, but class {largest} occurs; classes are numbered from 0")
    pairs = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def confident_share(probabilities: Any, above: float = 0.9) -> float:
    """The share of items whose most probable class has a probability over `above`: probabilities (N, K).

    Alone it says little about samples: classifiers are confident about noise as well. Read it beside
    `class_coverage`.
    """
    rows = arguments.probabilities("probabilities", probabilities)
    return float(np.mean(rows.max(1) > arguments.share("above", above)))


def class_coverage(probabilities: Any, share: float = 0.02) -> int:
    """How many classes are the most probable one of more than `share` of the items: probabilities (N, K) -> 0..K.

    Fewer than all of them: the sampler has lost modes of the data.
    """
    rows = arguments.probabilities("probabilities", probabilities)
    shares = np.bincount(rows.argmax(1), minlength=rows.shape[1]) / len(rows)
    return int(np.count_nonzero(shares > arguments.share("share", share)))


def _pair(labels: Any, predictions: Any) -> tuple[np.ndarray, np.ndarray]:
    labels, predictions = arguments.classes("labels", labels), arguments.classes("predictions", predictions)
    if len(labels) != len(predictions):
        raise ValueError(f"labels are {len(labels)} and predictions {len(predictions)}; there must be one for each")
    return labels, predictions
