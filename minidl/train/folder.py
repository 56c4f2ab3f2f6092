"""The folder that a run leaves behind.

config.json                    what was asked for, with which command, and on which machine
metrics.csv, metrics.jsonl     one line per epoch
checkpoints/last.*, best.*     weights (safetensors) and, beside them, where training stood (JSON)
pictures/*                     what came out
report.html, summary.txt       all of it on one page; in a few lines
tensorboard/                   event files, if asked for
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import RunFolderError
from .files import reason, write_json

# What a run writes: --overwrite removes these and nothing else.
PRODUCTS = (
    "config.json", "metrics.csv", "metrics.jsonl", "summary.txt", "report.html",
    "checkpoints/last.*", "checkpoints/best.*", "checkpoints/epoch-*.*",
    "pictures/*.png", "pictures/*.gif", "tensorboard/events.out.tfevents.*",
)  # fmt: skip


class RunFolder:
    """Paths of a run, and the promise that they can be written. Make one with `RunFolder.create`."""

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.csv = self.path / "metrics.csv"
        self.jsonl = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.pictures = self.path / "pictures"
        self.tensorboard = self.path / "tensorboard"
        self.report = self.path / "report.html"
        self.summary = self.path / "summary.txt"

    @classmethod
    def create(cls, model: str, out: str | os.PathLike | None = None, overwrite: bool = False) -> RunFolder:
        """A new folder: `out`, or runs/<model>-<date>-<time> under the current one.

        Raises RunFolderError if `out` cannot be written, or is not empty and not to be overwritten, or holds no run.
        `overwrite` removes an earlier run's files and nothing else.
        """
        try:
            folder = cls(_unused(model) if out is None else out)
            folder.path.mkdir(parents=True, exist_ok=True)
            if any(not path.is_dir() for path in folder.path.rglob("*")):
                if not overwrite:
                    raise RunFolderError(
                        f"{folder.path} is not empty: choose another folder"
                        f"{', or replace the run in it with --overwrite' if folder.holds_a_run() else ''}"
                    )
                if not folder.holds_a_run():
                    raise RunFolderError(
                        f"{folder.path} is not empty and holds no run of minidl (a config.json that says so): "
                        f"--overwrite replaces runs only; choose another folder"
                    )
                with folder.locked():
                    for product in folder.products():
                        product.unlink()
            folder.checkpoints.mkdir(exist_ok=True)
            folder.pictures.mkdir(exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"{out or 'runs'} cannot be made the run folder: {reason(error)}") from error
        return folder

    @classmethod
    def open(cls, path: str | os.PathLike) -> tuple[RunFolder, dict[str, Any]]:
        """The folder of an earlier run and what its config.json says. Raises RunFolderError if it holds none."""
        folder = cls(path)
        try:
            about = json.loads(folder.config.read_text(encoding="utf-8"))
        except OSError as error:
            what = "is no folder" if not folder.path.is_dir() else "holds no run of minidl: no config.json can be read"
            raise RunFolderError(
                f"{path} {what} ({reason(error)}). Runs are under runs/ unless --out said otherwise"
            ) from None
        except ValueError as error:
            raise RunFolderError(f"{folder.config} is damaged: {error}") from None
        if not isinstance(about, dict) or not {"model", "minidl", "config"} <= about.keys():
            raise RunFolderError(f"{folder.config} was not written by minidl")
        return folder, about

    def holds_a_run(self) -> bool:
        """Whether config.json is one that `write_config` wrote."""
        try:
            RunFolder.open(self.path)
        except RunFolderError:
            return False
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside the block no other process trains into this folder. Raises RunFolderError if one does already.

        The lock is the operating system's and ends with the process, however that ends.
        """
        import fcntl

        path = self.path / ".lock"
        try:
            with open(path, "a", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise RunFolderError(f"{self.path}: another process is training into this folder") from None
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
        except PermissionError as error:
            raise RunFolderError(f"{self.path} cannot be written: {reason(error)}") from error

    def clean(self) -> None:
        """Remove what a process that was killed left half written. Raises RunFolderError."""
        try:
            for name in (".*.tmp", "checkpoints/.*.tmp", "pictures/.*.tmp"):
                for rest in self.path.glob(name):
                    rest.unlink()
        except OSError as error:
            raise RunFolderError(f"{self.path} cannot be written: {reason(error)}") from error

    def products(self) -> Iterator[Path]:
        """The files that a run has written."""
        for pattern in PRODUCTS:
            yield from sorted(self.path.glob(pattern))

    def require_space(self, megabytes: float) -> None:
        """Raise RunFolderError now if the disk has less room than the run is going to need."""
        free = shutil.disk_usage(self.path).free / 2**20
        if free < megabytes:
            raise RunFolderError(
                f"{self.path}: the disk has {free:.0f} MB left, the run needs about {megabytes:.0f} MB: "
                f"make room or choose another disk with --out"
            )

    def write_config(self, model: str, config: dict[str, Any]) -> None:
        """config.json: the options, the command and the machine. Written first: a folder may refuse files."""
        from .. import __version__
        from .machine import machine

        write_json(
            self.config,
            {
                "model": model,
                "config": config,
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                "started": datetime.now().astimezone().isoformat(timespec="seconds"),
                "minidl": __version__,
                "machine": machine(),
            },
        )


def _unused(model: str) -> Path:
    name = f"runs/{model}-{datetime.now():%Y%m%d-%H%M%S}"
    path, number = Path(name), 1
    while path.exists():  # a second run in the same second
        number += 1
        path = Path(f"{name}-{number}")
    return path
