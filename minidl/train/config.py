"""The options that every training run has."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from .errors import TrainingError
from .threads import check_threads


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Options of a run. The names are those of the command line, with hyphens there."""

    epochs: int = 100
    """How often training goes through the data."""
    batch_size: int = 64
    """Examples in one step."""
    lr: Annotated[float | None, arg(metavar="RATE")] = None
    """Learning rate at the start, which falls to zero along a cosine; without it one that suits the model."""
    seed: int = 0
    """Start of all random numbers: the same seed repeats the run."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Run folder; without it runs/MODEL-DATE-TIME under the current folder."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads; without it as many as help: one for small networks, else all cores."""
    log_steps: bool = False
    """Write a line to metrics.jsonl for every step, not only for every epoch."""

    def check(self) -> None:
        """Raise TrainingError for a value that makes no sense, naming the option."""
        self.require(self.epochs >= 1, "epochs", "at least 1")
        self.require(self.batch_size >= 1, "batch_size", "at least 1")
        self.require(self.lr is None or 0 < self.lr < float("inf"), "lr", "a positive number")
        self.require(self.seed >= 0, "seed", "0 or more")
        check_threads(self.threads)

    def require(self, right: bool, name: str, what: str) -> None:
        """Raise TrainingError "--name is …: it must be <what>" unless `right`."""
        if not right:
            raise TrainingError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be {what}")

    def as_json(self) -> dict[str, Any]:
        """The options as JSON can hold them."""
        return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self).items()}
