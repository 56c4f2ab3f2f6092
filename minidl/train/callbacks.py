"""Progress on the screen, metrics on the disk, checkpoints."""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..core.random import get_rng_state, set_rng_state
from ..data.extras import require
from .checkpoint import load_checkpoint, save_checkpoint
from .errors import CheckpointError, RunFolderError
from .files import append_line, reason, to_csv, write_atomic
from .folder import RunFolder
from .loop import Callback, Trainer

if TYPE_CHECKING:
    from rich.console import Console


class ProgressBar(Callback):
    """Epoch, loss, speed and remaining time: a bar on a terminal, about twenty plain lines elsewhere.

    Speed and time are those of the last RECENT steps: the first ones compile kernels.
    """

    RECENT = 200

    def __init__(self, console: Console):
        self.console = console
        self.bar: Any = None
        self.ends: deque[float] = deque(maxlen=self.RECENT + 1)  # when the last steps were over

    def on_train_start(self, trainer: Trainer) -> None:
        self.ends.clear()
        if not self.console.is_terminal:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self.console,
        )
        self.task = self.bar.add_task(
            "", total=trainer.epochs * len(trainer.train), completed=trainer.step, epoch=trainer.epoch + 1,
            epochs=trainer.epochs, text="first step; may compile kernels",
        )  # fmt: skip
        self.bar.start()

    def on_step_end(self, trainer: Trainer) -> None:
        self.ends.append(time.perf_counter())
        if self.bar is not None:
            speed = self.bar.tasks[0].speed
            self.bar.update(
                self.task,
                completed=trainer.step,
                epoch=(trainer.step - 1) // len(trainer.train) + 1,
                text=f"{_loss(trainer.last)}{self._val(trainer)}  {_speed(speed) if speed else '-'} steps/s",
            )

    def on_epoch_end(self, trainer: Trainer) -> None:
        every = max(1, trainer.epochs // 20)
        if self.bar is not None or not (trainer.epoch % every == 0 or trainer.epoch in (1, trainer.epochs)):
            return
        speed, left = self._pace(trainer)
        self.console.print(
            f"epoch {trainer.epoch:>{len(str(trainer.epochs))}}/{trainer.epochs}"
            f"  loss {trainer.records[-1]['train_loss']:.3f}{self._val(trainer)}"
            f"  {_speed(speed)} steps/s  {left:.0f} s left",
            highlight=False,
        )

    def _pace(self, trainer: Trainer) -> tuple[float, float]:
        """Steps per second, and the seconds that are left."""
        times = [b - a for a, b in pairwise(self.ends)] or [trainer.seconds]
        usual = sorted(times)[len(times) // 2]
        # a step that takes a hundred times as long compiles something, which happens once; the end of an epoch does not
        kept = [t for t in times if t <= 100 * usual]
        step = sum(kept) / len(kept)
        return 1 / max(step, 1e-9), step * (trainer.epochs * len(trainer.train) - trainer.step)

    def on_train_end(self, trainer: Trainer) -> None:
        if self.bar is not None:
            self.bar.stop()

    def _val(self, trainer: Trainer) -> str:
        known = trainer.records and "val_loss" in trainer.records[-1]
        return f"  val {trainer.records[-1]['val_loss']:.3f}" if known else ""


def _loss(numbers: Mapping[str, float]) -> str:
    """The loss in words; nothing is known of the first steps on a CUDA device."""
    return f"loss {numbers['loss']:.3f}" if numbers else "loss -"


def _speed(steps: float) -> str:
    return f"{steps:.0f}" if steps >= 10 else f"{steps:.2g}"


class Metrics(Callback):
    """metrics.csv (rewritten, whole, after each epoch) and metrics.jsonl (a line per epoch, if asked also per step).

    A JSONL line says what it is: {"kind": "epoch", …} or {"kind": "step", …}. When a run is resumed, both files are
    made to agree with the checkpoint: later lines are dropped, since their steps are taken again, and the line of an
    epoch that could not be written (a full disk) is added.
    """

    def __init__(self, folder: RunFolder, steps: bool = False):
        self.folder = folder
        self.steps = steps

    def on_train_start(self, trainer: Trainer) -> None:
        if self.folder.jsonl.exists() or trainer.records:
            kept = kept_lines(self.folder.jsonl, trainer.step) if self.folder.jsonl.exists() else []
            known = {line["epoch"] for line in kept if line["kind"] == "epoch"}
            added = [{"kind": "epoch", **record} for record in trainer.records if record["epoch"] not in known]
            write_atomic(self.folder.jsonl, "".join(json.dumps(line) + "\n" for line in [*kept, *added]))
        if self.folder.csv.exists():
            write_atomic(self.folder.csv, to_csv(trainer.records))

    def on_numbers(self, trainer: Trainer, step: int, numbers: dict[str, float]) -> None:
        if self.steps:
            self._log("step", {"step": step, **{f"train_{k}": v for k, v in numbers.items()}})

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._log("epoch", trainer.records[-1])
        write_atomic(self.folder.csv, to_csv(trainer.records))

    def _log(self, kind: str, values: dict[str, Any]) -> None:
        append_line(self.folder.jsonl, json.dumps({"kind": kind, **values}))


def kept_lines(path: Path, step: int) -> list[dict[str, Any]]:
    """What a metrics.jsonl says of the time up to a step. A last line that a crash cut off is dropped."""
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    kept = []
    for number, text in enumerate(whole.splitlines(), 1):
        try:
            line = json.loads(text)
            if line["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{path}, line {number} is damaged ({error}): remove it to go on") from error
    return kept


class TensorBoard(Callback):
    """Event files for TensorBoard: every step's and every epoch's numbers. `tensorboard --logdir RUN/tensorboard`.

    They are on the disk after every epoch and every PATIENCE seconds. Events are written here and not by tensorboardX's
    SummaryWriter, whose thread dies on a full disk without a word, and then training waits for it for ever.
    """

    PATIENCE = 30.0

    def __init__(self, folder: RunFolder):
        self.folder = folder
        self.writer: Any = None
        self.flushed_at = 0.0

    def on_train_start(self, trainer: Trainer) -> None:
        files = require("tensorboardX.event_file_writer", "--tensorboard")
        with self._disk():
            self.folder.tensorboard.mkdir(exist_ok=True)
            # the step in its name, since a second file of the same second would replace the first
            self.writer = files.EventsWriter(str(self.folder.tensorboard / "events"), f".{trainer.step}")
        protocol = require("tensorboardX.proto.event_pb2", "--tensorboard")
        # steps that are taken again after a resume replace the earlier ones
        start = protocol.SessionLog(status=protocol.SessionLog.START)
        self._write(trainer.step + 1, session_log=start)

    def on_numbers(self, trainer: Trainer, step: int, numbers: dict[str, float]) -> None:
        self._scalars("step", step, numbers)
        if time.monotonic() - self.flushed_at > self.PATIENCE:
            self._flush()

    def on_epoch_end(self, trainer: Trainer) -> None:
        record = {k: v for k, v in trainer.records[-1].items() if k not in ("epoch", "step")}
        self._scalars("epoch", trainer.step, record)
        self._flush()

    def on_train_end(self, trainer: Trainer) -> None:
        if self.writer is not None:
            with self._disk():
                self.writer.close()

    def _scalars(self, group: str, step: int, numbers: Mapping[str, float]) -> None:
        summaries = require("tensorboardX.proto.summary_pb2", "--tensorboard")
        values = [summaries.Summary.Value(tag=f"{group}/{name}", simple_value=v) for name, v in numbers.items()]
        self._write(step, summary=summaries.Summary(value=values))

    def _write(self, step: int, **what: Any) -> None:
        protocol = require("tensorboardX.proto.event_pb2", "--tensorboard")
        with self._disk():
            self.writer.write_event(protocol.Event(step=step, wall_time=time.time(), **what))

    def _flush(self) -> None:
        with self._disk():
            self.writer.flush()
        self.flushed_at = time.monotonic()

    @contextmanager
    def _disk(self) -> Iterator[None]:
        """What the disk says becomes a RunFolderError."""
        try:
            yield
        except OSError as error:
            raise RunFolderError(f"{self.folder.tensorboard} cannot be written: {reason(error)}") from error


class LossHistory(Callback):
    """The loss of every step, for the picture."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []

    def on_numbers(self, trainer: Trainer, step: int, numbers: dict[str, float]) -> None:
        self.steps.append(step)
        self.losses.append(numbers["loss"])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": np.array(self.steps, np.int64), "losses": np.array(self.losses, np.float64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps, self.losses = state["steps"].tolist(), state["losses"].tolist()


class EarlyStopping(Callback):
    """Ends training when the monitored number has not fallen for `patience` epochs."""

    def __init__(self, patience: int):
        self.patience = patience

    def on_epoch_end(self, trainer: Trainer) -> None:
        # from the records alone, so there is nothing to remember for a resume
        since = len(trainer.records) - 1 - int(np.argmin(trainer.scores()))
        if since >= self.patience:
            trainer.stop = f"{trainer.monitor} has not fallen for {since} epochs (--patience {self.patience})"


class HealthMonitor(Callback):
    """Says how the two players of a GAN are doing, after every epoch, and when that changes on the screen.

    The verdict comes from the epoch's means (see tasks.Adversarial): a discriminator that is always right teaches the
    generator nothing, one that is always wrong has nothing to teach, and a generator may draw few classes only.
    """

    SURE = 0.95  # D(x) above and D(G(z)) below 1 - SURE: the discriminator is right about nearly everything
    SMALL, LARGE = 1e-4, 1e3  # norms of a gradient that cannot teach, and of one that destroys

    def __init__(self, console: Console, classes: int = 0):
        """classes: how many there are to be drawn, where the records have `val_classes`, those that are."""
        self.console = console
        self.classes = classes
        self.verdicts: list[str] = []  # one for each epoch

    def on_epoch_end(self, trainer: Trainer) -> None:
        verdict = self.judge(trainer.records[-1])
        if verdict != (self.verdicts[-1] if self.verdicts else ""):
            self.console.print(f"epoch {trainer.epoch}: {verdict}", highlight=False, soft_wrap=True)
        self.verdicts.append(verdict)

    def judge(self, record: Mapping[str, Any]) -> str:
        """One sentence about an epoch's record."""
        real, fake = record["train_d_real"], record["train_d_fake"]
        says = f"D(x) {real:.2f}, D(G(z)) {fake:.2f}"
        if not self.SMALL < record["train_g_grad"] < self.LARGE:
            return f"the generator's gradient has a norm of {record['train_g_grad']:.2g}: it cannot learn ({says})"
        if real > self.SURE and fake < 1 - self.SURE:
            return f"the discriminator wins: {says}"
        if fake > real:
            return f"the discriminator is fooled more often than not: {says}"
        drawn = record.get("val_classes")
        if drawn is not None and drawn < self.classes:
            return f"the generator draws {drawn:.0f} of {self.classes} classes: {says}"
        return "the players are in balance"

    def state_dict(self) -> dict[str, Any]:
        return {"verdicts": list(self.verdicts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.verdicts = list(state["verdicts"])


class Checkpoints(Callback):
    """To be the last of the callbacks, since it keeps what the others remember.

    checkpoints/last.*, with all that is needed to go on: after each epoch, after Ctrl-C, and inside an epoch every
    `every` steps or PATIENCE seconds; so that is the most that is lost, whatever happens to the process.

    checkpoints/best.*: the weights alone, or their moving average, whenever the monitored number is the lowest so far.
    keep: with n > 1 the `last` of the n latest epochs stays as checkpoints/epoch-NNNNN.*.

    If `last` cannot be written (a full disk), it goes to the system's temporary folder before training stops, and the
    error says where it is.
    """

    PATIENCE = 120.0

    def __init__(self, folder: RunFolder, config: dict[str, Any], keep: int = 1, every: int | None = None):
        self.folder = folder
        self.config = config
        self.keep = keep
        self.every = every
        self.best: dict[str, Any] = {}
        self.rescue: Path | None = None  # where `last` is if it could not be written
        self.saved_step = 0
        self.saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer) -> None:
        self.saved_at = time.monotonic()

    def on_step_end(self, trainer: Trainer) -> None:
        due = self.every is not None and trainer.step % self.every == 0
        overdue = time.monotonic() - self.saved_at > self.PATIENCE
        # the last step of an epoch is followed by its validation, which a checkpoint must not separate from it
        if (due or overdue) and trainer.step % len(trainer.train):
            self._save_last(trainer)

    def on_epoch_end(self, trainer: Trainer) -> None:
        loss = trainer.scores()[-1]
        # before `last`: if the process dies between the two, this epoch is trained again, and its best saved again
        if not self.best or loss < self.best["loss"]:
            self.best = {"epoch": trainer.epoch, "loss": loss}
            with trainer.task.averaged():
                save_checkpoint(
                    self.folder.checkpoints / "best.safetensors", trainer.task.model,
                    config=self.config, epoch=trainer.epoch, step=trainer.step, best=self.best,
                )  # fmt: skip
        self._save_last(trainer)
        if self.keep > 1:
            self._keep(trainer.epoch)

    def on_train_end(self, trainer: Trainer) -> None:
        # a disk that refuses another file, such as the metrics, leaves the weights as good as they were
        usable = not trainer.failed or isinstance(trainer.failure, RunFolderError)
        if usable and self.saved_step != trainer.step:
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "step": self.saved_step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.saved_step = dict(state["best"]), state["step"]

    def _save_last(self, trainer: Trainer) -> None:
        self.saved_step = trainer.step  # one attempt is enough
        try:
            write_last(self.folder.checkpoints, trainer, self.config)
        except RunFolderError as error:
            try:
                self.rescue = Path(tempfile.mkdtemp(prefix="minidl-rescue-"))
                write_last(self.rescue, trainer, self.config)
            except (RunFolderError, OSError) as second:
                self.rescue = None
                raise RunFolderError(f"{error}. Nor can the checkpoint be kept elsewhere: {second}") from error
            raise RunFolderError(
                f"{error}. Training stopped after step {trainer.step}; its checkpoint is "
                f"{self.rescue / 'last.safetensors'}: with that in {self.folder.checkpoints}, "
                f"minidl resume {self.folder.path} goes on from it"
            ) from error
        self.saved_at = time.monotonic()

    def _keep(self, epoch: int) -> None:
        """A copy of `last` under the number of its epoch; the oldest copies go."""
        place = self.folder.checkpoints
        for ending in ("safetensors", "json"):
            write_atomic(place / f"epoch-{epoch:05d}.{ending}", (place / f"last.{ending}").read_bytes())
            for old in sorted(place.glob(f"epoch-*.{ending}"))[: -self.keep]:
                old.unlink()


def write_last(where: Path, trainer: Trainer, config: dict[str, Any]) -> None:
    """`where`/last.*: weights, and all that `restore` needs to go on exactly. Raises NotFinite where there is nothing
    worth keeping."""
    trainer.look()
    save_checkpoint(
        where / "last.safetensors", trainer.task.model, {**trainer.task.parts, "callbacks": Remembered(trainer)},
        config=config, epoch=trainer.epoch, step=trainer.step, random=get_rng_state(), trainer=trainer.state_dict(),
    )  # fmt: skip


def restore(path: Path, trainer: Trainer) -> dict[str, Any]:
    """Put a trainer where the run of a `last` checkpoint stood, so that it goes on as if it had never stopped: weights,
    optimizers, schedules, averages, random stream, position in the data, callbacks. The checkpoint's other facts.

    Raises CheckpointError if it is of another model, of other data, or of weights alone.
    """
    header = load_checkpoint(path, trainer.task.model, {**trainer.task.parts, "callbacks": Remembered(trainer)})
    try:
        trainer.load_state_dict(header["trainer"])
    except ValueError as error:
        raise CheckpointError(f"{path} was trained on other data: {error}") from None
    set_rng_state(header["random"])
    return header


class Remembered:
    """What the callbacks of a trainer remember, as one part of a checkpoint."""

    def __init__(self, trainer: Trainer):
        stateful = [c for c in trainer.callbacks if type(c).state_dict is not Callback.state_dict]
        self.callbacks = {type(callback).__name__: callback for callback in stateful}
        if len(stateful) > len(self.callbacks):
            raise TypeError("two callbacks of one class remember something: a checkpoint could not tell them apart")

    def state_dict(self) -> dict[str, Any]:
        return {name: callback.state_dict() for name, callback in self.callbacks.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, callback in self.callbacks.items():
            if state.get(name):  # one that was not there then begins anew
                callback.load_state_dict(state[name])
