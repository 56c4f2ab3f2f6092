"""Batches, in an order that is a pure function of (seed, epoch), so that a run can stop and go on at any batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .dataset import Batch, Dataset, gather


class DataLoader:
    """Goes through a dataset in batches; each `for batch in loader` is one epoch.

    shuffle: a new order in each epoch, drawn from `seed` and the number of the epoch alone. It takes nothing from
    minidl's random stream, so a model's dropout and the order of its data do not disturb each other.
    drop_last: leave out the last batch if it is smaller than batch_size.

    `state_dict()` tells where the loader stands, exactly also inside an epoch; after `load_state_dict` the next `for`
    goes on with the batch that would have come then. A loop that was left with `break` is a finished epoch otherwise.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int = 1, shuffle: bool = False, drop_last: bool = False, seed: int = 0
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self._epoch = 0  # the epoch that is under way or comes next
        self._position = 0  # batches of it that were handed out
        self._resumed = True  # the next loop goes on at _position instead of beginning another epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.dataset) // self.batch_size if self.drop_last else -(-len(self.dataset) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if not self._resumed:
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = False
        order = self._order(self._epoch)
        for i in range(self._position, len(self)):
            self._position = i + 1
            yield gather(self.dataset, order[i * self.batch_size : (i + 1) * self.batch_size])

    def _order(self, epoch: int) -> np.ndarray:
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def state_dict(self) -> dict[str, Any]:
        """The position as plain numbers, fit for JSON, with what must be the same for it to mean anything."""
        return {"epoch": self._epoch, "position": self._position, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position from `state_dict`. Raises ValueError if it is of other data or another batch size."""
        for name, mine in self._identity().items():
            if state[name] != mine:
                raise ValueError(f"the position was saved with {name} = {state[name]}; this loader has {mine}")
        self._epoch, self._position = int(state["epoch"]), int(state["position"])
        if self._position >= len(self):  # saved after the last batch of an epoch
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = True

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "items": len(self.dataset),
            "batch_size": self.batch_size,
            "shuffle": self.shuffle,
            "drop_last": self.drop_last,
        }
