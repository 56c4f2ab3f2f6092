"""The training loop, and the four moments at which callbacks may do something about it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from .. import no_grad
from ..data import DataLoader
from .errors import TrainingError


class Task(Protocol):
    """What is being trained: how a batch changes it, how a batch measures it, and what a checkpoint keeps.

    Both steps return named numbers that are means over the batch; "loss" must be among them.
    """

    model: Any
    parts: dict[str, Any]  # what else has a state_dict: optimizers, schedules

    def train_step(self, batch: Any) -> dict[str, float]: ...

    def validation_step(self, batch: Any) -> dict[str, float]: ...


class Minimize:
    """The task most often wanted: make `loss(model, batch)`, a scalar Tensor that is a mean over the batch, small."""

    def __init__(self, model: Any, optimizer: Any, loss: Callable[[Any, Any], Any], schedule: Any = None):
        """schedule: a learning-rate schedule that moves on with every step."""
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.schedule = schedule
        self.parts = {"optimizer": optimizer} | ({} if schedule is None else {"schedule": schedule})

    def train_step(self, batch: Any) -> dict[str, float]:
        self.optimizer.zero_grad()
        loss = self.loss(self.model, batch)
        loss.backward()
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        return {"loss": loss.item()}

    def validation_step(self, batch: Any) -> dict[str, float]:
        return {"loss": self.loss(self.model, batch).item()}


class Callback:
    """Something that happens beside training. Override the moments that matter."""

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each step; `trainer.last` holds its numbers."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After validation; `trainer.records[-1]` is the epoch's line."""

    def on_train_end(self, trainer: Trainer) -> None:
        """When training is over, also after Ctrl-C (`trainer.interrupted`) and after an error (`trainer.failed`)."""


class Means:
    """Running means of named numbers, weighted by the size of the batch they come from."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, numbers: dict[str, float], weight: int) -> None:
        self.count += weight
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value

    def __call__(self) -> dict[str, float]:
        return {name: value / self.count for name, value in self.sums.items()}


class Trainer:
    """Runs a task over a loader, epoch after epoch.

    After Ctrl-C the current step is finished and `fit` returns with `interrupted` set; a second Ctrl-C stops at once.
    """

    def __init__(
        self, task: Task, train: DataLoader, validation: DataLoader | None = None, callbacks: Sequence[Callback] = ()
    ):
        if not len(train):
            raise TrainingError("the training data has no complete batch: make --batch-size smaller")
        self.task = task
        self.train = train
        self.validation = validation
        self.callbacks = list(callbacks)
        self.epoch = 0  # complete epochs
        self.step = 0  # complete steps
        self.epochs = 0  # how many epochs `fit` was asked for
        self.last: dict[str, float] = {}  # the numbers of the last step
        self.records: list[dict[str, Any]] = []  # one line per complete epoch
        self.interrupted = False
        self.failed = False
        self._means = Means()  # of the epoch that is under way
        self.seconds = 0.0  # that complete epochs took

    def fit(self, epochs: int) -> None:
        """Train until `epochs` epochs are complete. Raises TrainingError if the loss is no longer a number."""
        self.epochs = epochs
        began = time.perf_counter() - self.seconds
        with self._ctrl_c():
            try:
                self._tell("on_train_start")
                while self.epoch < epochs and not self.interrupted:
                    if not self._train_epoch():
                        break
                    self.seconds = time.perf_counter() - began
                    self._finish_epoch()
            except BaseException:
                self.failed = True
                raise
            finally:
                self._tell("on_train_end")

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False if Ctrl-C came before its last batch."""
        self.task.model.train()
        for batch in self.train:
            self.last = self.task.train_step(batch)
            self.step += 1
            if not math.isfinite(self.last["loss"]):
                where = f"in step {self.step} (epoch {self.epoch + 1})"
                raise TrainingError(f"the loss became {self.last['loss']} {where}: try a smaller --lr")
            self._means.add(self.last, len(batch[0]))
            self._tell("on_step_end")
            if self.interrupted and self.step % len(self.train):
                return False
        return True

    def _finish_epoch(self) -> None:
        self.epoch += 1
        train, self._means = self._means(), Means()
        record: dict[str, Any] = {"epoch": self.epoch, "step": self.step}
        record |= {f"train_{name}": value for name, value in train.items()}
        if self.validation is not None:
            record |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
        self.records.append({**record, "seconds": round(self.seconds, 3)})
        self._tell("on_epoch_end")

    def evaluate(self, loader: DataLoader) -> dict[str, float]:
        """The task's numbers, as means over everything in `loader`, with the model in eval mode."""
        means = Means()
        self.task.model.eval()
        with no_grad():
            for batch in loader:
                means.add(self.task.validation_step(batch), len(batch[0]))
        return means()

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, apart from weights and optimizers: numbers that JSON can hold."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "records": self.records,
            "under_way": {"sums": self._means.sums, "count": self._means.count},
            "loader": self.train.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a `state_dict` stood."""
        self.train.load_state_dict(state["loader"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.records = list(state["records"])
        self._means.sums, self._means.count = dict(state["under_way"]["sums"]), state["under_way"]["count"]

    def _tell(self, moment: str) -> None:
        for callback in self.callbacks:
            getattr(callback, moment)(self)

    @contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """Turn the first Ctrl-C into a request to stop after this step. Signals reach only the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self.interrupted:
                raise KeyboardInterrupt
            self.interrupted = True

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
