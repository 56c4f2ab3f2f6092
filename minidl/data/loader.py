"""Batches, in an order that is a pure function of (seed, epoch), so that a run can stop and go on at any batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core import cuda
from ..core.uploads import pinned, uploader
from .dataset import Batch, Dataset, gather, sample_generator
from .workers import Pool


class Plan:
    """Which items are in which batch, and how to make it: all of it a pure function of (seed, epoch, number).

    Every worker process holds a copy, so that a request for a batch is two numbers.
    """

    def __init__(self, dataset: Dataset, batch_size: int, shuffle: bool, drop_last: bool, seed: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self._known: tuple[int, np.ndarray] | None = None  # an epoch and its order: a permutation per batch would cost

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.dataset) // self.batch_size if self.drop_last else -(-len(self.dataset) // self.batch_size)

    def order(self, epoch: int) -> np.ndarray:
        """The items of an epoch in their order."""
        if not self.shuffle:
            return np.arange(len(self.dataset))
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.dataset))

    def batch(self, epoch: int, number: int) -> Batch:
        """Batch `number` of an epoch."""
        if self._known is None or self._known[0] != epoch:
            self._known = epoch, self.order(epoch)
        indices = self._known[1][number * self.batch_size : (number + 1) * self.batch_size]
        return gather(self.dataset, indices, lambda index: sample_generator(self.seed, epoch, index))


class DataLoader:
    """Goes through a dataset in batches, tuples of NumPy arrays; each `for batch in loader` is one epoch.

    Make one loader and go through it again and again: a new one with the same seed begins with the same order.

    shuffle: a new order in each epoch, drawn from `seed` and the number of the epoch alone. It takes nothing from
    minidl's random stream, so a model's dropout and the order of its data do not disturb each other.
    drop_last: leave out the last batch if it is smaller than batch_size.
    num_workers: processes that make the batches; 0 makes each where it is asked for. The batches are the same for any
    number, also those of a dataset with random clips and crops. Workers are started by the first loop and wait between
    epochs; they end with the loader, with `close()`, and with a loop that is left early, by `break` or by an error.
    They hold copies of the dataset, which therefore must be picklable, and they are fresh processes ("spawn": a forked
    one would inherit OpenMP's threads as they happen to stand), so a script that uses them keeps what it runs under
    `if __name__ == "__main__":`.
    prefetch_factor: batches that each worker may be ahead.
    pin_memory: batches lie in page-locked memory, which a CUDA device reads by itself, so that `to("cuda",
    non_blocking=True)` need not wait. Without a CUDA device it changes nothing. `loader.on("cuda")` does more.

    `state_dict()` tells where the loader stands, exactly also inside an epoch; after `load_state_dict` the next `for`
    goes on with the batch that would have come then, whatever the number of workers was and is. Batches made ahead do
    not count. A loop that was left with `break` is a finished epoch otherwise.

    Raises WorkerError in the loop if a worker dies, or if its dataset raises: with the item and the traceback.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        prefetch_factor: int = 2,
        pin_memory: bool = False,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
        if num_workers < 0:
            raise ValueError(f"num_workers is {num_workers}: it must be at least 0")
        if prefetch_factor < 1:
            raise ValueError(f"prefetch_factor is {prefetch_factor}: it must be at least 1")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.seed = seed
        self.num_workers = num_workers
        self.prefetch_factor = prefetch_factor
        self.pin_memory = pin_memory
        self._plan = Plan(dataset, batch_size, shuffle, drop_last, seed)
        self._pool: Pool | None = None  # workers that wait for an epoch
        self._epoch = 0  # the epoch that is under way or comes next
        self._position = 0  # batches of it that were handed out
        self._resumed = True  # the next loop goes on at _position instead of beginning another epoch

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._plan)

    def __iter__(self) -> Iterator[Batch]:
        if not self.pin_memory or not cuda.is_available():
            return self._epoch_of(lambda batches: batches)
        return self._epoch_of(lambda batches: (tuple(map(pinned, batch)) for batch in batches))

    def on(self, device: str) -> Iterator[tuple[Any, ...]]:
        """One epoch, as `for batch in loader`, of tuples of CuPy arrays on "cuda" or "cuda:N".

        While a batch is used the next one is on its way, on a stream of its own: a step need not wait for its data.
        """
        there = uploader(device)

        def sent(batches: Iterator[Batch]) -> Iterator[tuple[Any, ...]]:
            coming = None
            for batch in batches:
                last, coming = coming, there.send(batch)  # before the step on the last one is given to the device
                if last is not None:
                    yield there.receive(last)
            if coming is not None:
                yield there.receive(coming)

        return self._epoch_of(sent)

    def _epoch_of(self, through: Callable[[Iterator[Batch]], Iterator[Any]]) -> Iterator[Any]:
        """The batches of the epoch that comes, as `through` makes them; each counts when it is handed out."""
        if not self._resumed:
            self._epoch, self._position = self._epoch + 1, 0
        self._resumed = False
        epoch, first = self._epoch, self._position
        batches = self._here(epoch, first) if not self.num_workers else self._from_workers(epoch, first)
        for i, batch in enumerate(through(batches), first):
            self._position = i + 1
            yield batch

    def _here(self, epoch: int, first: int) -> Iterator[Batch]:
        for i in range(first, len(self)):
            yield self._plan.batch(epoch, i)

    def _from_workers(self, epoch: int, first: int) -> Iterator[Batch]:
        if first >= len(self):
            return
        pool, self._pool = self._pool or Pool(self._plan.batch, self.num_workers), None
        complete = False
        try:
            yield from pool.batches(epoch, first, len(self), self.prefetch_factor * self.num_workers)
            complete = True
        finally:
            # one that was left early still has requests under way; of two loops at once only one pool is kept
            if complete and self._pool is None:
                self._pool = pool
            else:
                pool.close()

    def close(self) -> None:
        """End the workers that wait for the next epoch. Another loop starts new ones."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

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
