"""The training loop, and the moments at which callbacks may do something about it."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from .. import no_grad
from ..core.cuda import working_on
from ..data import DataLoader
from .errors import NotFinite, TrainingError
from .numbers import Numbers, fetch, on_device
from .tasks import Task

LOOK = 50  # steps after which the host asks a CUDA device for their numbers


class Callback:
    """Something that happens beside training. Override the moments that matter.

    One that has to remember something when a run is resumed has `state_dict` and `load_state_dict`.
    """

    def on_train_start(self, trainer: Trainer) -> None:
        """Before the first step."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After each step. `trainer.last` holds the latest numbers that are known: on the CPU those of this step."""

    def on_numbers(self, trainer: Trainer, step: int, numbers: dict[str, float]) -> None:
        """For each step, in order, when its numbers are known: on the CPU before `on_step_end`, on a CUDA device up to
        LOOK steps later, but before a checkpoint is written and before `on_epoch_end`."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After validation; `trainer.records[-1]` is the epoch's line."""

    def on_train_end(self, trainer: Trainer) -> None:
        """When training is over, also after Ctrl-C (`trainer.interrupted`) and after an error (`trainer.failed`)."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: numbers, strings, arrays; nothing by default."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what a checkpoint kept."""


class Means:
    """Running means of named numbers, weighted by the size of the batch they come from."""

    def __init__(self) -> None:
        self.sums: Numbers = {}
        self.count = 0

    def add(self, numbers: Numbers, weight: int) -> None:
        self.count += weight
        for name, value in numbers.items():
            self.sums[name] = self.sums.get(name, 0.0) + weight * value

    def __call__(self) -> dict[str, float]:
        (self.sums,) = fetch([self.sums])
        return {name: value / self.count for name, value in self.sums.items()}


class Trainer:
    """Runs a task over a loader, epoch after epoch.

    After Ctrl-C the current step is finished and `fit` returns with `interrupted` set; a second Ctrl-C stops at once.
    A callback ends training after the current epoch by putting the reason into `trainer.stop`.
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
        self.last: dict[str, float] = {}  # the numbers of the last step that are known
        self.records: list[dict[str, Any]] = []  # one line per complete epoch
        self.stop = ""  # why training ends before its time
        self.interrupted = False
        self.failure: BaseException | None = None
        self._means = Means()  # of the epoch that is under way
        self._unknown: list[tuple[int, Numbers, int]] = []  # steps whose numbers the device may still be computing
        self.seconds = 0.0  # that complete epochs took

    def fit(self, epochs: int) -> None:
        """Train until `epochs` epochs are complete. Raises NotFinite if the loss is no longer a number; the weights are
        then those before that step."""
        self.epochs = epochs
        began = time.perf_counter() - self.seconds
        with self._ctrl_c(), working_on(self._place()):
            try:
                self._tell("on_train_start")
                while self.epoch < epochs and not self.interrupted and not self.stop:
                    if not self._train_epoch():
                        break
                    self.seconds = time.perf_counter() - began
                    self._finish_epoch()
            except BaseException as error:
                self.failure = error
                raise
            finally:
                with ExitStack() as ends:  # every one, whatever becomes of the others
                    for callback in reversed(self.callbacks):
                        ends.callback(callback.on_train_end, self)

    def _train_epoch(self) -> bool:
        """The rest of the current epoch; False if Ctrl-C came before its last batch."""
        self.task.model.train()
        for batch in self._batches(self.train):
            try:
                numbers = self.task.train_step(batch)
            except NotFinite as error:
                where = f"in step {self.step + 1} (epoch {self.epoch + 1})"
                found = f"; {error.diagnosis()}" if error.diagnosis else ""
                raise NotFinite(f"{error} {where}{found}. Try a smaller --lr or --clip-norm 1") from None
            self.step += 1
            self._unknown.append((self.step, numbers, len(batch[0])))
            known = []
            if len(self._unknown) >= LOOK or not any(map(on_device, numbers.values())):
                known = self._fetched()
            for callback in self.callbacks:
                self._tell_numbers(callback, known)
                callback.on_step_end(self)
            if self.interrupted and self.step % len(self.train):
                return False
        return True

    def look(self) -> None:
        """Ask for the numbers of all steps that are not known yet, and tell the callbacks. The host waits once.

        Raises NotFinite if one that must be finite is not. Weights have then changed since: what was saved before is
        good, as nothing is saved without a look.
        """
        known = self._fetched()
        for callback in self.callbacks:
            self._tell_numbers(callback, known)

    def _tell_numbers(self, callback: Callback, known: list[tuple[int, dict[str, float]]]) -> None:
        for step, numbers in known:
            callback.on_numbers(self, step, numbers)

    def _fetched(self) -> list[tuple[int, dict[str, float]]]:
        """The steps whose numbers were not known, with their numbers."""
        steps, self._unknown = self._unknown, []
        known = []
        for (step, asked, weight), numbers in zip(steps, fetch([s[1] for s in steps]), strict=True):
            wrong = next((n for n in self.task.finite if not math.isfinite(numbers.get(n, 0.0))), None)
            if wrong is not None and any(map(on_device, asked.values())):
                raise NotFinite(
                    f"{wrong} became {numbers[wrong]} in step {step} (epoch {self.epoch + 1}), which is known since "
                    f"step {self.step}; the last checkpoint is from before it. Try a smaller --lr or --clip-norm 1; "
                    f"--device cpu says which layer it comes from"
                )
            self._means.add(numbers, weight)
            self.last = numbers
            known.append((step, numbers))
        return known

    def _batches(self, loader: DataLoader) -> Iterator[Any]:
        """One epoch of batches where the model is; to a CUDA device they are sent ahead of time."""
        array = self._place()
        return loader.on(f"cuda:{array.device.id}") if on_device(array) else iter(loader)

    def _place(self) -> Any:
        """An array of the model, which tells where it is; None for a model without parameters."""
        parameters = getattr(self.task.model, "parameters", tuple)
        return next((p.data for p in parameters()), None)

    def _finish_epoch(self) -> None:
        self.look()
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
        with no_grad(), working_on(self._place()), self.task.averaged():
            for batch in self._batches(loader):
                means.add(self.task.validation_step(batch), len(batch[0]))
            return means() | self.task.after_validation()

    @property
    def failed(self) -> bool:
        """Whether an error ended training."""
        return self.failure is not None

    @property
    def monitor(self) -> str:
        """Name of the number in the records that tells good weights from bad ones; smaller is better."""
        return self.task.monitor if self.task.monitor in self.records[-1] else "train_loss"

    def scores(self) -> list[float]:
        """That number of every epoch so far. What is no number is worse than any."""
        found = [record[self.monitor] for record in self.records]
        return [math.inf if math.isnan(value) else value for value in found]

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, apart from weights and optimizers: numbers that JSON can hold. After a `look()`."""
        return {
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "seconds": self.seconds,
            "records": self.records,
            "stop": self.stop,
            "under_way": {"sums": self._means.sums, "count": self._means.count},
            "loader": self.train.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a `state_dict` stood."""
        self.train.load_state_dict(state["loader"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.records, self.stop = list(state["records"]), state["stop"]
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
