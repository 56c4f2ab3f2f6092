"""The options that every training run has, and where they come from: defaults, a file, --set, flags."""

from __future__ import annotations

import json
import re
import types
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints

from tyro.conf import arg

from ..core import cuda
from ..data.extras import no_such, require
from .errors import TrainingError
from .threads import check_threads

if TYPE_CHECKING:
    from .experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ABC):
    """Options of a run; a recipe adds its own. The names are those of the command line, with hyphens there."""

    model: ClassVar[str]
    """The name after `minidl train`."""
    single_thread: ClassVar[bool] = False
    """Matrices so small that one thread multiplies them fastest; several cost up to four times as long on a busy
    machine."""

    data: str = "digits"
    """What to train on, as SOURCE or SOURCE:FOLDER; `minidl list` shows the sources."""
    epochs: int = 100
    """How often training goes through the data."""
    batch_size: int = 64
    """Examples in one step."""
    lr: Annotated[float | None, arg(metavar="RATE")] = None
    """Learning rate at the start; without it one that suits the model."""
    seed: int = 0
    """Start of all random numbers: the same seed repeats the run."""
    out: Annotated[Path | None, arg(metavar="DIR")] = None
    """Run folder; without it runs/MODEL-DATE-TIME under the current folder."""
    overwrite: bool = False
    """Replace the run that is in the folder."""
    device: Annotated[str, arg(metavar="NAME")] = "cpu"
    """Where to compute: cpu, cuda or cuda:N. Checkpoints fit every device."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Types of a step: bf16 and fp16 multiply in 16 bits, and keep weights, sums and losses in float32; fp16 scales
    gradients. They are meant for GPUs; on the CPU they are slower than float32."""
    threads: Annotated[int | None, arg(metavar="N")] = None
    """CPU threads; without it as many as help: one for small networks, else all cores."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares each where it is used. The batches are the same for any number."""
    accumulate: int = 1
    """Parts in which a batch goes through the network, one after the other, their gradients added up: less memory."""
    clip_norm: Annotated[float | None, arg(metavar="NORM")] = None
    """Scale gradients down when the norm of all together exceeds this."""
    ema: Annotated[float | None, arg(metavar="DECAY")] = None
    """Judge and keep as best an exponential moving average of the weights, such as 0.999."""
    patience: Annotated[int | None, arg(metavar="EPOCHS")] = None
    """Stop early when validation has not improved for so many epochs."""
    keep: int = 1
    """Checkpoints of the latest epochs to keep (the best one stays in any case)."""
    checkpoint_every: Annotated[int | None, arg(metavar="STEPS")] = None
    """Save also inside an epoch, every so many steps; without it every two minutes."""
    log_steps: bool = False
    """Write a line to metrics.jsonl for every step, not only for every epoch."""
    tensorboard: bool = False
    """Also write event files for TensorBoard."""
    fast_dev_run: bool = False
    """Try everything out: one epoch of three batches, then all that follows a real run."""
    overfit_batches: int = 0
    """Train and validate on the first so many batches only: a network that is wired right learns them by heart."""

    @abstractmethod
    def experiment(self) -> Experiment:
        """Data, network and task as these options say. Seeds the random stream."""

    def check(self) -> None:
        """Raise TrainingError for a value that makes no sense, naming the option."""
        check_device(self.device)
        if self.precision == "bf16":
            require("ml_dtypes", "--precision bf16", "bf16")
        self.require(self.epochs >= 1, "epochs", "at least 1")
        self.require(self.batch_size >= 1, "batch_size", "at least 1")
        self.require(self.lr is None or 0 < self.lr < float("inf"), "lr", "a positive number")
        self.require(self.seed >= 0, "seed", "0 or more")
        self.require(self.workers >= 0, "workers", "0 or more")
        self.require(1 <= self.accumulate <= self.batch_size, "accumulate", "between 1 and --batch-size")
        self.require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "a positive number")
        self.require(self.ema is None or 0 <= self.ema < 1, "ema", "at least 0 and less than 1")
        self.require(self.patience is None or self.patience >= 1, "patience", "at least 1")
        self.require(self.keep >= 1, "keep", "at least 1")
        self.require(self.checkpoint_every is None or self.checkpoint_every >= 1, "checkpoint_every", "at least 1")
        self.require(self.overfit_batches >= 0, "overfit_batches", "0 or more")
        check_threads(self.threads)

    def require(self, right: bool, name: str, what: str) -> None:
        """Raise TrainingError "--name is …: it must be <what>" unless `right`."""
        if not right:
            raise TrainingError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be {what}")

    def as_json(self) -> dict[str, Any]:
        """The options as JSON can hold them, with absolute paths: a run may be resumed from another folder."""
        values = {k: str(v.expanduser().absolute()) if isinstance(v, Path) else v for k, v in asdict(self).items()}
        source, colon, folder = self.data.partition(":")
        values["data"] = source + (f":{Path(folder).expanduser().absolute()}" if colon else "")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any], source: Any) -> Self:
        """The options that `as_json` gave; `source` names where they were read, for messages."""
        check_values(values, cls, source)
        hints = get_type_hints(cls)
        return cls(**{name: _as_type(value, hints[name]) for name, value in values.items()})


def check_device(device: str) -> None:
    """Raise TrainingError unless this is the name of a device that is there."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise TrainingError(f"--device is {device}: it must be cpu, cuda or cuda:N")
    if device != "cpu":
        try:
            cuda.place(device)
        except RuntimeError as error:
            raise TrainingError(f"--device {device}: {error}") from None


def _as_type(value: Any, hint: Any) -> Any:
    """JSON has neither paths nor tuples."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if isinstance(value, str) and Path in options:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def check_values(values: Mapping[str, Any], cls: type, source: Any) -> None:
    """Raise TrainingError, with `source` in front, for the first name that is no option, with the nearest that is, and
    for the first value that is not of its option's type."""
    known = get_type_hints(cls)
    names = [field.name for field in fields(cls)]
    for name, value in values.items():
        if name not in names:
            raise TrainingError(f"{source}: {no_such('option', name, names)}")
        if not _fits(value, known[name]):
            raise TrainingError(f"{source}: {name} is {value!r}; it must be {_words(known[name])}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a file may stand for an option of a type: paths are text there, and tuples lists."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, list) and all(_fits(v, get_args(hint)[0]) for v in value)
    return type(value) in {float: (float, int), Path: (str,)}.get(hint, (hint,))


def _words(hint: Any) -> str:
    """What values a type has, for messages."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_words(option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"a list, each {_words(get_args(hint)[0])}"
    known = {bool: "true or false", int: "a whole number", float: "a number", type(None): "none"}
    return known.get(hint, "text")


def read_config(path: Path, cls: type) -> dict[str, Any]:
    """The options in a TOML file, or in the config.json of a run. Raises TrainingError that names the file."""
    import tomllib

    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise TrainingError(f"--config {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise TrainingError(
            f"--config {path} is not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}"
        ) from None
    of_run = path.suffix == ".json" and isinstance(values, dict) and "config" in values
    values = values["config"] if of_run else values
    if not isinstance(values, dict):
        raise TrainingError(f"--config {path} holds no table of options")
    if of_run:  # its folder is taken already
        values = {name: value for name, value in values.items() if name not in ("out", "overwrite")}
    values = {name.replace("-", "_"): value for name, value in values.items()}
    check_values(values, cls, f"--config {path}")
    return values


def read_assignments(pairs: Sequence[str], cls: type) -> dict[str, Any]:
    """The options in `key=value` words, values as in TOML, or plain text: epochs=3, ema=0.99, data=digits. `none` gives
    back its default to an option that may be none. Raises TrainingError that names the word."""
    import tomllib

    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise TrainingError(f"--set {pair}: expected key=value, such as --set epochs=3")
        name = name.strip().replace("-", "_")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            value = text
        if name in hints and not _fits(value, hints[name]):  # 2024 as the name of a folder, say
            value = None if text.lower() == "none" else text
        check_values({name: value}, cls, f"--set {pair}")
        values[name] = value
    return values


def as_flags(values: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line. None is the default of every option that may be None, and false that of
    every switch: no flag says either."""
    words = []
    for name, value in values.items():
        if value is not None and value is not False:
            given = [] if value is True else value if isinstance(value, list) else [value]
            words += [f"--{name.replace('_', '-')}", *map(str, given)]
    return words
