"""What the demos share: training without epochs and callbacks, and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np

import minidl.functional as F
from minidl import Tensor, manual_seed, no_grad, optim

from ..data import DataLoader
from ..data.dataset import Batch, Dataset
from ..train.tasks import Minimize


def fit(
    model: Any, loss: Callable[[Any, Batch], Tensor], dataset: Dataset, steps: int, lr: float, *,
    batch_size: int = 32, seed: int = 0, clip_norm: float | None = None, decay: bool = False,
) -> list[float]:  # fmt: skip
    """Train a model with Adam for `steps` batches; the loss of each.

    loss: (model, batch) -> scalar Tensor, a mean over the batch. seed: of the order of the data; weights and dropout
    draw from `minidl.manual_seed`'s stream. clip_norm: the gradient, all parameters taken as one vector, gets at most
    this norm. decay: let the learning rate fall to 0 along half a cosine.

    Raises ValueError if the dataset has no whole batch, NotFinite when the loss is no longer a number.
    """
    optimizer = optim.Adam(model.parameters(), lr=lr)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps) if decay else None
    task = Minimize(model, optimizer, loss, schedule, clip_norm=clip_norm)
    model.train()
    return [task.train_step(batch)["loss"] for batch in batches(dataset, steps, batch_size, seed)]


def batches(dataset: Dataset, steps: int, batch_size: int, seed: int = 0) -> Iterator[Batch]:
    """`steps` whole batches, epoch after epoch, each in another order. Raises ValueError if the dataset has none."""
    loader = DataLoader(dataset, batch_size, shuffle=True, drop_last=True, seed=seed)
    if not len(loader):
        raise ValueError(f"the {len(loader.dataset)} items are fewer than one batch of {loader.batch_size}")
    return islice(chain.from_iterable(repeat(loader)), steps)


class Net(NamedTuple):
    """A net that a demo compares: for how many steps of 32 examples it is trained, and how fast."""

    make: Callable[[], Any]
    steps: int
    quick_steps: int
    lr: float

    def trained(
        self, dataset: Dataset, seed: int, quick: bool, clip_norm: float | None = None
    ) -> tuple[Any, list[float]]:  # fmt: skip
        """A model fitted to (input, label), and the losses. All that is random comes from the seed, so what one net
        measures does not depend on the others."""
        manual_seed(seed)
        model = self.make()
        steps = self.quick_steps if quick else self.steps
        return model, fit(model, cross_entropy, dataset, steps, self.lr, seed=seed, clip_norm=clip_norm, decay=True)


def cross_entropy(model: Any, batch: Batch) -> Tensor:
    """The loss of a classifier: inputs and labels (N,), the model's logits (N, classes) -> scalar."""
    inputs, labels = batch
    return F.cross_entropy(model(Tensor(inputs)), Tensor(labels))


def predict(model: Any, dataset: Dataset, batch_size: int = 250) -> np.ndarray:
    """What a model in evaluation mode makes of the first entry of each item, (N, …), without a graph.

    The model is left in the mode in which it was.
    """
    training = model.training
    model.eval()
    try:
        with no_grad():
            return np.concatenate([model(Tensor(batch[0])).numpy() for batch in DataLoader(dataset, batch_size)])
    finally:
        model.train(training)


def accuracy(model: Any, dataset: Dataset, batch_size: int = 250) -> float:
    """The share of a dataset of (input, label) whose label gets the model's highest score."""
    labels = np.concatenate([batch[1] for batch in DataLoader(dataset, batch_size)])
    return float((predict(model, dataset, batch_size).argmax(1) == labels).mean())
