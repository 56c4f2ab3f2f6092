"""Datasets: things with a length whose items are tuples of arrays.

A dataset is any object with `__len__` and `__getitem__(i) -> tuple of arrays`. One that can gather many items at once
has also `batch(indices)`; the loader stacks single items of the others.

A dataset whose items are partly chance (a random clip of a video, a random crop) has `sample(index, rng)` and takes
all its chance from that Generator. The loader hands it a fresh one per item, made from (seed, epoch, index) alone:
nothing depends on which process makes the item, or when.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Any, ...]:
        """The item at `index` of this subset, where chance comes from `rng`."""
        return draw(self.dataset, int(self.indices[index]), rng)

    def batch(self, indices: np.ndarray) -> Batch:
        """The items at `indices` of this subset, stacked."""
        return gather(self.dataset, self.indices[indices])


class Transformed:
    """A dataset with `transform(x, rng)` applied to the first entry of each item, which is the image or the clip.

    An item taken by `[index]`, outside of a loader, is that of seed 0 and epoch 0.
    """

    def __init__(self, dataset: Dataset, transform: Callable[[Any, np.random.Generator], Any]):
        self.dataset = dataset
        self.transform = transform

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        index = range(len(self))[index]
        return self.sample(index, sample_generator(0, 0, index))

    def sample(self, index: int, rng: np.random.Generator) -> tuple[Any, ...]:
        """The item at `index`, where chance comes from `rng`."""
        first, *rest = draw(self.dataset, index, rng)
        return (self.transform(first, rng), *rest)


def sample_generator(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The source of chance of one item in one epoch."""
    # a spawn key: SeedSequence fills short entropy with zeros, so that [seed, epoch, 0] would be [seed, epoch],
    # which draws the order of the epoch
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(epoch, index)))


def randomised(dataset: Dataset) -> bool:
    """Whether items want a Generator: the dataset has `sample`, or is a Subset of one that has."""
    return randomised(dataset.dataset) if isinstance(dataset, Subset) else hasattr(dataset, "sample")


def draw(dataset: Dataset, index: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """One item; chance comes from `rng` where the dataset wants any."""
    return dataset.sample(index, rng) if randomised(dataset) else dataset[index]  # type: ignore[attr-defined]


def gather(
    dataset: Dataset, indices: np.ndarray, generator: Callable[[int], np.random.Generator] | None = None
) -> Batch:
    """The items at `indices` as one batch: a tuple of arrays with a new first axis of len(indices).

    generator: makes the Generator of the item at an index; by default that of seed 0 and epoch 0. An error in the
    dataset gets a note that says which item it was. Raises ValueError if items have different shapes.
    """
    many = getattr(dataset, "batch", None)
    if many is not None and not randomised(dataset):
        try:
            return many(indices)
        except Exception as error:
            shown = ", ".join(map(str, indices[:8])) + (", …" if len(indices) > 8 else "")
            error.add_note(f"one of the items {shown} of {type(dataset).__name__}")
            raise
    items = []
    for i in map(int, indices):
        try:
            items.append(draw(dataset, i, generator(i) if generator else sample_generator(0, 0, i)))
        except Exception as error:
            error.add_note(f"item {i} of {type(dataset).__name__}")
            raise
    return tuple(_stack(column, indices) for column in zip(*items, strict=True))


def _stack(column: Sequence[Any], indices: np.ndarray) -> np.ndarray:
    shapes = [np.shape(x) for x in column]
    for i, shape in zip(indices, shapes, strict=True):
        if shape != shapes[0]:
            raise ValueError(
                f"a batch needs items of one shape, but item {indices[0]} is {shapes[0]} and item {i} is {shape}: "
                "resize or crop them in a transform"
            )
    return np.stack(column)


def random_split(dataset: Dataset, lengths: Sequence[int], seed: int = 0) -> list[Subset]:
    """Divide a dataset at random, by its own seed, into parts of these lengths (which must add up to its own).

    Within a part the items keep the order of the dataset.
    """
    if any(length < 0 for length in lengths) or sum(lengths) != len(dataset):
        raise ValueError(f"lengths are {list(lengths)}: they must be >= 0 and add up to {len(dataset)}")
    order = np.random.default_rng(seed).permutation(len(dataset))
    return [Subset(dataset, np.sort(part)) for part in np.split(order, np.cumsum(lengths)[:-1])]
