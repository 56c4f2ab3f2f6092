"""Progress on the screen, metrics on the disk, checkpoints."""

from __future__ import annotations

import json
import tempfile
import time
from collections import deque
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.random import get_rng_state
from .checkpoint import save_checkpoint
from .errors import RunFolderError
from .files import append_line, to_csv, write_atomic
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
                text=f"loss {trainer.last['loss']:.3f}{self._val(trainer)}  {f'{speed:.0f}' if speed else '-'} steps/s",
            )

    def on_epoch_end(self, trainer: Trainer) -> None:
        every = max(1, trainer.epochs // 20)
        if self.bar is not None or not (trainer.epoch % every == 0 or trainer.epoch in (1, trainer.epochs)):
            return
        speed, left = self._pace(trainer)
        self.console.print(
            f"epoch {trainer.epoch:>{len(str(trainer.epochs))}}/{trainer.epochs}"
            f"  loss {trainer.records[-1]['train_loss']:.3f}{self._val(trainer)}"
            f"  {speed:.0f} steps/s  {left:.0f} s left",
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


class Metrics(Callback):
    """metrics.csv (rewritten, whole, after each epoch) and metrics.jsonl (a line per epoch, if asked also per step).

    A JSONL line says what it is: {"kind": "epoch", …} or {"kind": "step", …}.
    """

    def __init__(self, folder: RunFolder, steps: bool = False):
        self.folder = folder
        self.steps = steps

    def on_step_end(self, trainer: Trainer) -> None:
        if self.steps:
            self._log("step", {"step": trainer.step, **{f"train_{k}": v for k, v in trainer.last.items()}})

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._log("epoch", trainer.records[-1])
        write_atomic(self.folder.csv, to_csv(trainer.records))

    def _log(self, kind: str, values: dict[str, Any]) -> None:
        append_line(self.folder.jsonl, json.dumps({"kind": kind, **values}))


class LossHistory(Callback):
    """The loss of every step, for the picture."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[float] = []

    def on_step_end(self, trainer: Trainer) -> None:
        self.steps.append(trainer.step)
        self.losses.append(trainer.last["loss"])


class Checkpoints(Callback):
    """checkpoints/last.* after each epoch and after Ctrl-C, with all that is needed to go on; checkpoints/best.*, the
    weights alone, whenever the validation loss is the lowest so far.

    If `last` cannot be written (a full disk), it goes to the system's temporary folder before training stops, and the
    error says where it is.
    """

    def __init__(self, folder: RunFolder, config: dict[str, Any]):
        self.folder = folder
        self.config = config
        self.best: dict[str, Any] = {}
        self.saved_step = -1

    def on_epoch_end(self, trainer: Trainer) -> None:
        record = trainer.records[-1]
        loss = record.get("val_loss", record["train_loss"])
        better = not self.best or loss < self.best["loss"]
        if better:
            self.best = {"epoch": trainer.epoch, "loss": loss}
        self._save_last(trainer)
        if better:
            save_checkpoint(
                self.folder.checkpoints / "best.safetensors", trainer.task.model,
                config=self.config, epoch=trainer.epoch, step=trainer.step, best=self.best,
            )  # fmt: skip

    def on_train_end(self, trainer: Trainer) -> None:
        if not trainer.failed and trainer.step > 0 and self.saved_step != trainer.step:
            self._save_last(trainer)

    def _save_last(self, trainer: Trainer) -> None:
        try:
            self._write(self.folder.checkpoints, trainer)
        except RunFolderError as error:
            rescue = Path(tempfile.mkdtemp(prefix="minidl-rescue-"))
            self._write(rescue, trainer)
            raise RunFolderError(
                f"{error}. Training stopped after step {trainer.step}; its checkpoint is {rescue / 'last.safetensors'}"
            ) from error
        self.saved_step = trainer.step

    def _write(self, where: Path, trainer: Trainer) -> None:
        state = trainer.state_dict()
        save_checkpoint(
            where / "last.safetensors", trainer.task.model, trainer.task.parts, config=self.config,
            epoch=trainer.epoch, step=trainer.step, best=self.best, random=get_rng_state(), trainer=state,
        )  # fmt: skip
