"""What a recipe makes of its options: data, network and task, and what there is to see of them afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import Tensor, as_tensor
from ..data import DataLoader, Subset
from ..data.dataset import Dataset, gather
from ..optim import ExponentialMovingAverage
from .config import TrainConfig
from .errors import TrainingError
from .files import write_atomic
from .folder import RunFolder
from .loop import Callback, Trainer
from .precision import Precision
from .report import Report
from .sources import Sets
from .tasks import Minimize, Task

if TYPE_CHECKING:
    from rich.console import Console

TRIED = 3  # batches of --fast-dev-run


class Experiment(ABC):
    """One run's data, network and task; abstract. A recipe makes `task`, and says how to look at the result.

    sets: the data. unit: what the loss measures. baselines: losses to compare with, by name, for the loss curve.
    """

    task: Task
    unit = "loss"

    def __init__(self, config: TrainConfig, sets: Sets):
        self.config = config
        self.sets = sets
        train, validation = sets.train, sets.validation
        config.require(config.batch_size <= len(train), "batch_size", f"at most {len(train)}, the examples to train on")
        if config.overfit_batches:
            count = config.overfit_batches * config.batch_size
            config.require(count <= len(train), "overfit_batches", f"at most {len(train) // config.batch_size}")
            train = validation = Subset(train, np.arange(count))
        if config.fast_dev_run:
            train, validation = (_some(part, TRIED * config.batch_size) for part in (train, validation))
        common: dict[str, Any] = {"seed": config.seed, "num_workers": config.workers}
        size = config.batch_size
        self.train = DataLoader(train, size, shuffle=not config.overfit_batches, drop_last=True, **common)
        self.validation = DataLoader(validation, size, **common)
        test = _some(sets.test, size) if config.fast_dev_run else sets.test
        self.test = DataLoader(test, size, **common)
        self.baselines: dict[str, float] = {}

    @property
    def epochs(self) -> int:
        return 1 if self.config.fast_dev_run else self.config.epochs

    def average(self, model: Any) -> ExponentialMovingAverage | None:
        """The moving average of a model's weights that --ema asks for."""
        return None if self.config.ema is None else ExponentialMovingAverage(model, self.config.ema)

    def precision(self) -> Precision:
        """The types that --precision asks for."""
        return Precision(self.config.precision, self.config.device)

    def minimize(self, model: Any, optimizer: Any, loss: Callable[[Any, Any], Any], schedule: Any = None) -> Minimize:
        """The task of making a loss small, as the options say."""
        return Minimize(
            model,
            optimizer,
            loss,
            schedule,
            accumulate=self.config.accumulate,
            clip_norm=self.config.clip_norm,
            average=self.average(model),
            precision=self.precision(),
        )

    def tensor(self, array: Any) -> Tensor:
        """An array as a tensor where the network is."""
        return as_tensor(array, device=self.config.device)

    def steps(self) -> int:
        """All steps of the run."""
        return self.epochs * len(self.train)

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """What a network says of a size that does not fit becomes a TrainingError."""
        try:
            yield
        except ValueError as error:
            raise TrainingError(f"the network does not fit --data {self.config.data}: {error}") from error

    def describe(self) -> str:
        """The network and its data in one line."""
        model = self.task.model
        parameters = sum(p.numel() for p in model.parameters())
        return (
            f"{type(model).__name__}, {parameters:,} parameters; {len(self.train.dataset)} examples to train on, "
            f"{len(self.validation.dataset)} to validate, {len(self.test.dataset)} to test"
        )

    def callbacks(self, console: Console) -> list[Callback]:
        """What this recipe adds to the callbacks of every run."""
        return []

    def close(self) -> None:
        """End the processes that load data."""
        for loader in (self.train, self.validation, self.test):
            loader.close()

    @abstractmethod
    def measure(self, trainer: Trainer) -> dict[str, float]:
        """The numbers to judge the weights by, from the test data; with the weights as they are now."""

    @abstractmethod
    def draw(self, gallery: Gallery, trainer: Trainer) -> None:
        """Put sections and pictures into the report."""

    @abstractmethod
    def sample(self, count: int) -> tuple[str, Any, str]:
        """What the network makes: (name of a file, picture or GIF, what it shows)."""

    def notes(self, numbers: dict[str, float]) -> list[str]:
        """Warnings that the numbers give rise to."""
        return []


def _some(dataset: Dataset, count: int) -> Dataset:
    return Subset(dataset, _spread(len(dataset), count))


def _spread(size: int, count: int) -> np.ndarray:
    """`count` of the numbers below `size` at equal distances: lists of videos are sorted by class."""
    return np.linspace(0, size - 1, min(count, size)).round().astype(np.int64)


def examples(dataset: Dataset, count: int | None = None) -> tuple[np.ndarray, ...]:
    """`count` items of a dataset at equal distances (None: all) as arrays."""
    return gather(dataset, _spread(len(dataset), len(dataset) if count is None else count))


class Gallery:
    """Pictures on their way into the run folder and into the report."""

    def __init__(self, folder: RunFolder, report: Report):
        self.folder = folder
        self.report = report
        self.names: list[str] = []

    def picture(self, name: str, image: Any, alt: str, caption: str = "") -> None:
        """Keep a figure as pictures/<name>.png, or the bytes of a GIF as pictures/<name>.gif, and show it."""
        path, content = encode(self.folder.pictures / name, image)
        write_atomic(path, content)
        self.names.append(path.name)
        self.report.picture(content, alt, caption)


def encode(path: Path, image: Any) -> tuple[Path, bytes]:
    """A figure as PNG, or a GIF as it is: the path with its ending, and the bytes."""
    from .pictures import png

    if isinstance(image, bytes):
        return path.with_suffix(".gif"), image
    return path.with_suffix(".png"), png(image)
