"""Everything that is to be known of a CUDA device in one command: `python benchmarks/device.py`.

Each part runs in a process of its own and has a time limit, so one that fails or hangs costs the others nothing. After
every row the results are written anew: rows.json, with all numbers, and report.md, with a table for each part.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from ..core import cuda
from ..train.files import write_atomic, write_json
from .device_parts import Options, Row, known
from .show import Ceiling, duration

# seconds that a part may take, at most; what one leaves is there for the others
LIMITS = {
    "kernels": 90, "ceilings": 45, "pooling": 40, "overhead": 30, "layers": 210, "steps": 200, "numba": 60,
}  # fmt: skip
LEAST = 5.0  # seconds without which a part is not begun
CEILINGS = {"bfloat16": "bf16", "medium": "bf16", "tf32x3": "high"}  # precision -> whose product is its ceiling


@dataclass(frozen=True, kw_only=True)
class Request:
    """Measure a CUDA device: ceilings, layers beside cuDNN, training steps, pooling, launches, numba.cuda.

    The exit status is 1 if a part failed or was cut off.
    """

    parts: tuple[str, ...] = ()
    """Which: kernels, ceilings, pooling, overhead, layers, steps, numba; without it all, in this order."""
    skip: tuple[str, ...] = ()
    """Which not."""
    out: Path = Path("device-results")
    """Folder for rows.json and report.md."""
    device: str = "cuda"
    """Which one: cuda or cuda:N."""
    minutes: float = 9.0
    """When to stop, at the latest."""
    seconds: float = 2.0
    """How long to measure each training step, about."""
    divide: int = 1
    """Sizes by so much, for a quick look."""
    against: Annotated[str, "torch or none"] = "torch"
    """The peer; none measures minidl alone."""


def main(args: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    import tyro

    request = tyro.cli(Request, args=args)
    try:
        without = known(request.skip) if request.skip else []
        names = [name for name in known(request.parts) if name not in without]
        if request.against not in ("torch", "none"):
            raise ValueError(f"--against is {request.against}: it must be torch or none")
        cuda.place(request.device)
        request.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"device: {error}", file=sys.stderr)
        return 2
    return run(names, request)


def run(names: Sequence[str], request: Request, tell: Callable[[str], None] = print) -> int:
    """Measure these parts and write what comes; 0, or 1 if one failed."""
    options = Options(request.divide, request.against == "torch", request.seconds)
    deadline = time.monotonic() + 60 * request.minutes
    report = Report(about(request), request.out)
    for name in names:
        left = deadline - time.monotonic()
        if left < LEAST:
            report.failed(name, "not begun: no time was left")
            continue
        began = time.monotonic()
        words = [name, request.device, json.dumps(options._asdict())]
        failure = part(words, min(left, LIMITS[name]), partial(report.add, name))
        if failure:
            report.failed(name, failure)
        done = len(report.rows.get(name, []))
        tell(f"{name}: {done} rows in {time.monotonic() - began:.0f} s{f'; {failure}' if failure else ''}")
    tell(report.markdown())
    tell(f"results: {request.out}")
    return 1 if report.failures else 0


def part(words: Sequence[str], limit: float, take: Callable[[Row], None]) -> str:
    """Run a part in a process of its own; each row is taken as it comes. Returns how it failed, "" if it did not."""
    process = subprocess.Popen(
        [sys.executable, "-m", "minidl.bench.device_parts", *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, with all that it starts
    )
    cut = threading.Event()

    def stop() -> None:
        cut.set()
        _end(process)

    timer = threading.Timer(limit, stop)
    timer.start()
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.endswith("\n"):  # else its process was stopped in the middle of it
                take(json.loads(line))
        status = process.wait()
    finally:
        timer.cancel()
        if process.poll() is None:
            _end(process)
            process.wait()
        process.stdout.close()
    if cut.is_set():
        return f"cut off after {limit:.0f} s"
    return f"its process has stopped with exit status {status}; see above" if status else ""


def _end(process: subprocess.Popen) -> None:
    """A part, with whatever processes it has started."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def about(request: Request) -> dict[str, Any]:
    """When, where and with what."""
    from ..train.machine import machine

    cuda.cupy()  # so that the machine tells of the device
    versions = {}
    for name in ("torch", "cupy-cuda13x", "numba", "numba-cuda", "numpy"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/device.py", *sys.argv[1:]]),
        "request": {name: str(value) for name, value in asdict(request).items()},
        "machine": machine(),
        "versions": versions,
    }


class Report:
    """What was measured so far, on disk at every moment."""

    def __init__(self, about: Mapping[str, Any], folder: Path):
        self.about, self.folder = about, folder
        self.rows: dict[str, list[Row]] = {}
        self.failures: dict[str, str] = {}
        self.write()

    def add(self, part: str, row: Row) -> None:
        self.rows.setdefault(part, []).append(row)
        self.write()

    def failed(self, part: str, reason: str) -> None:
        self.failures[part] = reason
        self.write()

    def write(self) -> None:
        write_json(self.folder / "rows.json", {**self.about, "parts": self.rows, "failures": self.failures})
        write_atomic(self.folder / "report.md", self.markdown())

    def ceiling(self, precision: str) -> Ceiling | None:
        """The fastest product and copy that were measured; None where one is missing."""
        word = CEILINGS.get(precision, precision)
        rows = [row for row in self.rows.get("ceilings", []) if "us" in row]
        flops = [_rate(row, "flops") for row in rows if row.get("precision") == word]
        copied = [_rate(row, "bytes") for row in rows if "bytes" in row]
        return Ceiling(max(flops), max(copied)) if flops and copied else None

    def markdown(self) -> str:
        """All of it to read."""
        lines = [f"# {self.about['machine'].get('GPU', 'no GPU')}", ""]
        versions = ", ".join(f"{name} {number}" for name, number in self.about["versions"].items())
        lines += [f"{self.about['date']}; minidl {self.about['machine']['minidl']}, {versions}", ""]
        lines += [f"`{self.about['command']}`", ""]
        for name, reason in self.failures.items():
            lines += [f"**{name}: {reason}.**", ""]
        for name, rows in self.rows.items():
            lines += [f"## {name}", "", *_table(rows, self.ceiling), ""]
        lines.append("ratio: time of minidl / time of the best other, median of pairs; below 1, minidl is faster")
        return "\n".join(lines) + "\n"


def _rate(row: Row, key: str) -> float:
    """Operations or bytes a second, of the fastest side."""
    return row[key] / (1e-6 * min(row["us"].values()))


def _table(rows: Sequence[Row], ceiling: Callable[[str], Ceiling | None]) -> list[str]:
    """Rows as a Markdown table; columns are the sides that any of them has."""
    sides = list(dict.fromkeys(name for row in rows for name in row.get("us", {})))
    extra = [key for key in ("kernel", "by model", "their kernels") if any(key in row for row in rows)]
    heads = ["case", *sides, "ratio", "rate", "of the roof", *extra]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for row in rows:
        us = row.get("us", {})
        cells = [row["case"], *(duration(1e-6 * us[name]) if name in us else "" for name in sides)]
        cells.append(f"{row['ratio']:.2f}" if row.get("ratio") else "")
        cells += _achieved(row, ceiling) if us else ["", ""]
        cells += [_words(row.get(key)) for key in extra]
        if row.get("error"):
            cells[0] += f" **{row['error']}**"
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return lines


def _achieved(row: Row, ceiling: Callable[[str], Ceiling | None]) -> list[str]:
    """The rate of minidl, or of the only side, and its share of the roofline."""
    us = row["us"].get("minidl") or next(iter(row["us"].values()))
    flops, moved = row.get("flops", 0.0), row.get("bytes", 0.0)
    roof = ceiling(row.get("precision", "highest"))
    if flops:
        rate = flops / (1e-6 * us)
        best = None if roof is None else roof.roof(flops / moved) if moved else roof.flops
        return [f"{rate / 1e12:.2f} TFLOP/s", f"{rate / best:.0%}" if best else ""]
    if moved:
        rate = moved / (1e-6 * us)
        return [f"{rate / 1e9:.0f} GB/s", f"{rate / roof.bytes:.0%}" if roof else ""]
    return ["", ""]


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(value["names"]) if "names" in value else str(value.get("error", ""))
    return str(value or "")
