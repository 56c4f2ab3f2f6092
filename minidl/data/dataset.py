"""Datasets: things with a length whose items are tuples of arrays.

A dataset is any object with `__len__` and `__getitem__(i) -> tuple of arrays`. One that can gather many items at once
has also `batch(indices)`; the loader stacks single items of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Batch = tuple[np.ndarray, ...]


class Dataset(Protocol):
    """What a loader asks of a dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Any, ...]: ...


class ArrayDataset:
    """Arrays that share their first axis: item i is the tuple of their i-th rows.

    Raises ValueError without arrays or if their lengths differ.
    """

    def __init__(self, *arrays: np.ndarray):
        if not arrays:
            raise ValueError("ArrayDataset needs at least one array")
        lengths = [len(array) for array in arrays]
        if len(set(lengths)) > 1:
            raise ValueError(f"the arrays must have one length, but theirs are {', '.join(map(str, lengths))}")
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: Any) -> Batch:
        return tuple(array[index] for array in self.arrays)

    def batch(self, indices: np.ndarray) -> Batch:
        """The items at `indices`, gathered in one go: a tuple of arrays with len(indices) rows."""
        return self[indices]


class Subset:
    """The items of a dataset at `indices`, in that order."""

    def __init__(self, dataset: Dataset, indices: Sequence[int] | np.ndarray):
        self.dataset = dataset
        self.indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return self.dataset[int(self.indices[index])]

    def batch(self, indices: np.ndarray) -> Batch:
        """The items at `indices` of this subset, stacked."""
        return gather(self.dataset, self.indices[indices])


def gather(dataset: Dataset, indices: np.ndarray) -> Batch:
    """The items at `indices` as one batch: a tuple of arrays with a new first axis of len(indices)."""
    many = getattr(dataset, "batch", None)
    if many is not None:
        return many(indices)
    items = [dataset[int(i)] for i in indices]
    return tuple(np.stack(column) for column in zip(*items, strict=True))


def random_split(dataset: Dataset, lengths: Sequence[int], seed: int = 0) -> list[Subset]:
    """Divide a dataset at random, by its own seed, into parts of these lengths (which must add up to its own).

    Within a part the items keep the order of the dataset.
    """
    if any(length < 0 for length in lengths) or sum(lengths) != len(dataset):
        raise ValueError(f"lengths are {list(lengths)}: they must be >= 0 and add up to {len(dataset)}")
    order = np.random.default_rng(seed).permutation(len(dataset))
    return [Subset(dataset, np.sort(part)) for part in np.split(order, np.cumsum(lengths)[:-1])]
