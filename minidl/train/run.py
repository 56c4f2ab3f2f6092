"""What the commands do with a recipe: train, resume, evaluate, sample."""

from __future__ import annotations

import io
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import manual_seed
from ..core import cuda
from ..data import DataError, WorkerError
from ..data.extras import require
from .callbacks import Checkpoints, EarlyStopping, LossHistory, Metrics, ProgressBar, TensorBoard, restore
from .checkpoint import load_checkpoint
from .config import TrainConfig
from .errors import CheckpointError, NotFinite, TrainingError
from .experiment import Experiment, Gallery, encode
from .files import write_atomic
from .folder import RunFolder
from .loop import Trainer
from .screen import Screen
from .tasks import Task
from .threads import limit_threads

if TYPE_CHECKING:
    from rich.console import Console

Which = Literal["best", "last"]


def train(config: TrainConfig) -> int:
    """Train, draw, print a summary; the exit status: 0, or 130 after Ctrl-C.

    Raises TrainingError, DataError or MissingExtra for what the user can put right.
    """
    with _prepared(config) as experiment:
        folder = RunFolder.create(config.model, config.out, config.overwrite)
        weights = sum(p.numel() for p in experiment.task.model.parameters())
        folder.require_space(10 + weights * 4 * (2 + 3 * config.keep) / 2**20)  # best, and last with Adam's means
        with folder.locked():
            folder.write_config(config.model, config.as_json())
            return _fit(experiment, folder)


def resume(path: Path, device: str | None = None) -> int:
    """Go on with the run in a folder from its last checkpoint, as if it had never stopped; the status as of train.

    device: another than the run has had.
    """
    folder, config = opened(path, device)
    last = folder.checkpoints / "last.safetensors"
    if not last.exists():
        command = shlex.join(RunFolder.open(path)[1]["command"])
        raise CheckpointError(
            f"{path} has no checkpoint yet. It was made by: {command}. Give that command again, with --out {path} "
            f"--overwrite"
        )
    with folder.locked(), _prepared(config) as experiment:
        folder.clean()
        return _fit(experiment, folder, last)


def evaluate(path: Path, which: Which = "best", device: str | None = None) -> dict[str, float]:
    """The numbers of a run's weights on its test data; on its device, if no other is given."""
    folder, config = opened(path, device)
    with _prepared(config) as experiment, _loaded(folder, which, experiment):
        manual_seed(config.seed)
        return experiment.measure(Trainer(experiment.task, experiment.train, experiment.validation))


def sample(
    path: Path, count: int, seed: int, out: Path | None = None, which: Which = "best", device: str | None = None
) -> tuple[Path, str]:
    """A picture of what a run's network makes: where it was written, and what it shows."""
    folder, config = opened(path, device)
    with _prepared(config) as experiment, _loaded(folder, which, experiment):
        manual_seed(seed)
        name, image, caption = experiment.sample(count)
    target, content = encode(Path(name) if out is None else out, image)
    if out is not None and out.suffix not in ("", target.suffix):
        raise TrainingError(f"--out is {out}: what comes out is a {target.suffix} file")
    write_atomic(target, content)
    return target, caption


def opened(path: Path, device: str | None = None) -> tuple[RunFolder, TrainConfig]:
    """The folder and the recipe of an earlier run, perhaps with another device."""
    from importlib import import_module

    from ..models import MODELS

    folder, about = RunFolder.open(path)
    if about["model"] not in MODELS:
        raise TrainingError(f"{folder.config} is of the model {about['model']!r}, which this minidl does not have")
    module, _, name = MODELS[about["model"]].recipe.partition(":")
    config = getattr(import_module(module), name).from_json(about["config"], folder.config)
    return folder, config if device is None else replace(config, device=device)


@contextmanager
def _prepared(config: TrainConfig) -> Iterator[Experiment]:
    """The experiment, while its threads are as the options say."""
    config.check()
    for library in ("safetensors.numpy", "matplotlib.figure"):  # rather now than after training
        require(library, "training")
    if config.tensorboard:
        require("tensorboardX", "--tensorboard")
    place = nullcontext() if config.device == "cpu" else cuda.place(config.device)
    with limit_threads(config.threads or (1 if config.single_thread else None)), place:
        experiment = config.experiment()
        try:
            yield experiment
        finally:
            experiment.close()


@contextmanager
def _loaded(folder: RunFolder, which: Which, experiment: Experiment) -> Iterator[None]:
    """Inside the block the model has a checkpoint's weights, in evaluation mode; their average, if the run has one."""
    path, task = folder.checkpoints / f"{which}.safetensors", experiment.task
    if which == "best" and not path.exists():
        raise CheckpointError(f"{path}: there is no such checkpoint yet. It comes after the first epoch")
    # best.* holds the average itself
    load_checkpoint(path, task.model, {"average": task.average} if task.average and which == "last" else None)
    task.model.eval()
    with task.averaged() if which == "last" else nullcontext(), _applied(task):
        yield


@contextmanager
def _applied(task: Task) -> Iterator[None]:
    """Inside the block the model's weights are judged as they are: an average has been put into them already."""
    average, task.average = task.average, None
    try:
        yield
    finally:
        task.average = average


def _fit(experiment: Experiment, folder: RunFolder, checkpoint: Path | None = None) -> int:
    config = experiment.config
    console = Screen(highlight=False)
    history = LossHistory()
    checkpoints = Checkpoints(folder, config.as_json(), config.keep, config.checkpoint_every)
    callbacks = [
        history,
        ProgressBar(console),
        *experiment.callbacks(console),
        *([EarlyStopping(config.patience)] if config.patience else []),
        *([TensorBoard(folder)] if config.tensorboard else []),
        Metrics(folder, config.log_steps),
        checkpoints,
    ]
    trainer = Trainer(experiment.task, experiment.train, experiment.validation, callbacks)
    console.print(f"{experiment.describe()}; Ctrl-C stops and keeps what is there", soft_wrap=True)
    if checkpoint is not None:
        restore(checkpoint, trainer)
        done = trainer.epoch >= experiment.epochs or trainer.stop
        console.print(
            f"{'complete already' if done else 'going on'} after step {trainer.step} ({trainer.epoch} of "
            f"{_count(experiment.epochs, 'epoch')}): {checkpoint}",
            soft_wrap=True,
        )
    doing = "training"
    try:
        trainer.fit(experiment.epochs)
        doing = "drawing, so pictures may be missing"
        finish(experiment, folder, trainer, history, console)
    except KeyboardInterrupt:
        saved = (folder.checkpoints / "last.safetensors").exists()
        then = f"minidl resume {folder.path} goes on" if saved else f"there is no checkpoint yet in {folder.path}"
        raise KeyboardInterrupt(f"while {doing}; {then}") from None
    except (TrainingError, DataError, WorkerError) as error:
        last = folder.checkpoints / "last.safetensors"
        if last.exists() and checkpoints.rescue is None:
            # the same steps would end in the same way
            more = "" if isinstance(error, NotFinite) else f"; minidl resume {folder.path} goes on from it"
            error.args = (f"{error}. The last checkpoint is {last}{more}",)
        raise
    return 130 if trainer.interrupted else 0


def finish(
    experiment: Experiment, folder: RunFolder, trainer: Trainer, history: LossHistory, console: Console
) -> None:  # fmt: skip
    """Numbers, pictures, report.html, summary.txt and the last lines on the screen: from the best weights, or before
    the end of the first epoch from those of the moment."""
    from . import pictures
    from .report import Report

    config, task = experiment.config, experiment.task
    manual_seed(config.seed)  # so that `evaluate` finds the same numbers
    report = Report(f"{config.model}: {type(task.model).__name__} on {config.data}", experiment.describe())
    best = folder.checkpoints / "best.safetensors"
    weights = f"those after step {trainer.step}"
    if best.exists():
        epoch = load_checkpoint(best, task.model)["epoch"]  # the last ones are in their checkpoint
        weights = f"the best by {trainer.monitor}, after epoch {epoch} of {trainer.epoch}"
    task.model.eval()
    with nullcontext() if best.exists() else task.averaged(), _applied(task):
        numbers = experiment.measure(trainer)
        warnings = experiment.notes(numbers)
        report.section("Result")
        report.text(f"Weights: {weights}.")
        for warning in warnings:
            report.note(warning, "warning")
        report.table(["test", "value"], [[name, value] for name, value in numbers.items()])
        gallery = Gallery(folder, report)
        experiment.draw(gallery, trainer)
    report.section("Training")
    gallery.picture(
        "loss",
        pictures.loss_curve(
            trainer.records,
            history.steps,
            history.losses,
            experiment.unit,
            experiment.baselines,
            mark_best=task.monitor == "val_loss",
        ),
        "The loss over the steps of training",
    )
    report.section("Run")
    lines = [*(f"warning     {w}" for w in warnings), f"weights     {weights}", *_outcome(trainer, folder, gallery)]
    about = RunFolder.open(folder.path)[1]
    report.code(shlex.join(about["command"]), "The command of this run; with another --out it repeats it")
    report.facts({name: value for name, value in about["config"].items() if value is not None and value is not False})
    report.section("Machine")
    report.facts({"started": about["started"], "minidl": about["minidl"], **about["machine"]})
    report.write(folder.report)
    _summarize(numbers, lines, folder, console)


def _outcome(trainer: Trainer, folder: RunFolder, gallery: Gallery) -> list[str]:
    epochs = f"{trainer.epoch} of {_count(trainer.epochs, 'epoch')}"
    taken = f"{_count(trainer.epoch, 'epoch')}, {_count(trainer.step, 'step')}, {trainer.seconds:.1f} s"
    if trainer.interrupted:
        taken = f"Ctrl-C: stopped after step {trainer.step}, {epochs}; minidl resume {folder.path} goes on"
    elif trainer.stop:
        taken += f"; stopped early: {trainer.stop}"
    return [
        taken,
        f"pictures    {folder.pictures}: {', '.join(gallery.names)}",
        f"checkpoint  {folder.checkpoints / 'last.safetensors'}",
        f"report      {folder.report}",
    ]


def _summarize(numbers: dict[str, float], lines: list[str], folder: RunFolder, console: Console) -> None:
    """A table of numbers and where everything is, on the screen and in summary.txt."""
    from rich.console import Console

    text = io.StringIO()
    for target in (console, Console(file=text, width=100)):
        target.print(table(numbers))
        for line in lines:
            target.print(line, soft_wrap=True, markup=False, highlight=False)
    write_atomic(folder.summary, text.getvalue())


def table(numbers: dict[str, float]) -> Any:
    """Named numbers as a table for the screen."""
    from rich.table import Table

    made = Table()
    made.add_column("measure")
    made.add_column("value", justify="right")
    for name, value in numbers.items():
        made.add_row(name, f"{value:.4g}")
    return made


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
