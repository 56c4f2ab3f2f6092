"""What the tests of whole runs share: tiny settings, moments at which a run dies, what is equal in the end."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np

from minidl.cli import main
from minidl.train import Adversarial, Minimize, read_checkpoint

TINY = {
    "ae": ["--batch-size", "256", "--code", "2", "--noise", "0.1", "--accumulate", "2"],
    "vae": ["--batch-size", "256", "--hidden", "8", "--warmup", "1", "--accumulate", "3"],
    "dcgan": ["--batch-size", "256", "--width", "2", "--latent", "4"],
    "c3d": ["--batch-size", "8", "--clips", "32", "--size", "8", "--accumulate", "2"],
    "gru-rcn": ["--batch-size", "8", "--clips", "32", "--size", "8", "--frames", "4", "--accumulate", "2"],
}
STEPS = 4  # of an epoch with these settings


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def lines(folder: Path, kind: str = "epoch") -> list[dict]:
    read = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "kind"} for line in read if line["kind"] == kind]


def rows(folder: Path) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def timeless(records: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def checkpoint(folder: Path, which: str) -> tuple[dict, dict]:
    """Facts and arrays, without what cannot be the same: how long it took, where it is, and where data come from."""
    facts, arrays = read_checkpoint(folder / "checkpoints" / f"{which}.safetensors")
    facts["config"] |= {"out": None, "workers": None}
    if "trainer" in facts:
        facts["trainer"] |= {"seconds": None, "records": timeless(facts["trainer"]["records"])}
    return facts, arrays


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimizer, averages, what callbacks remember, metrics and pictures: bit for bit."""
    assert contents(one) == contents(other)
    for which in ("last", "best"):
        (facts, arrays), (other_facts, other_arrays) = checkpoint(one, which), checkpoint(other, which)
        assert facts == other_facts
        assert arrays.keys() == other_arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, other_arrays[name], err_msg=name, strict=True)
    for kind in ("epoch", "step"):
        assert timeless(lines(one, kind)) == timeless(lines(other, kind))
    assert timeless(rows(one)) == timeless(rows(other))
    for path in (one / "pictures").iterdir():
        assert path.read_bytes() == (other / "pictures" / path.name).read_bytes(), path.name


def at_step(monkeypatch, number: int, action) -> None:
    """Do something inside training step `number`, counted from now on, before anything has been learned from it."""
    count = 0
    for task in (Minimize, Adversarial):

        def step(self, batch, original=task.train_step):
            nonlocal count
            count += 1
            if count == number:
                action()
            return original(self, batch)

        monkeypatch.setattr(task, "train_step", step)


def in_validation(monkeypatch, action) -> None:
    """Do something when the next validation begins."""
    for task in (Minimize, Adversarial):

        def step(self, batch, original=task.validation_step):
            action()
            return original(self, batch)

        monkeypatch.setattr(task, "validation_step", step)


def ctrl_c() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Crash(Exception):
    """A bug somewhere."""


def crash() -> None:
    raise Crash


def train(*words: object) -> int:
    return main(["train", *map(str, words)])
