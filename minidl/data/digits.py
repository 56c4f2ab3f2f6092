"""Real handwritten digits that come with scikit-learn: 1797 images of 8 x 8 pixels in ten classes, no download."""

from __future__ import annotations

from typing import Literal

import numpy as np

from .dataset import ArrayDataset
from .extras import require

TRAIN_ROWS = 1297  # rows 0..1296; rows 1297..1796 are the test set: other people's handwriting, hence harder


def digits(split: Literal["train", "test", "all"] = "train") -> ArrayDataset:
    """Images (N, 1, 8, 8) float32 in [0, 1] and labels (N,) int64; the split is fixed: 1297 train, 500 test.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), the part that scikit-learn
    ships as `load_digits`. Raises MissingExtra if scikit-learn is not installed, ValueError for another split.
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f"split is {split!r}: it must be 'train', 'test' or 'all'")
    source = require("sklearn.datasets", "reading the handwritten digits").load_digits()
    images = (source.images / 16).astype(np.float32)[:, None]
    labels = source.target.astype(np.int64)
    rows = {"train": slice(TRAIN_ROWS), "test": slice(TRAIN_ROWS, None), "all": slice(None)}[split]
    return ArrayDataset(images[rows], labels[rows])
