"""Two libraries, two processes, taking turns."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from .devices import TOLERANCE

TURN = 0.05  # seconds that a side computes before it is the other's turn, at least
PAUSE = 0.02  # seconds between turns: threads of OpenMP wait actively for their next work, and would disturb the other
WARM_UP = 2  # single runs on each side; their results must agree
PAIRS = (3, 31)  # at least and at most


class BenchError(Exception):
    """A measurement is not possible; the message says why."""


class Disagreement(BenchError):
    """The two libraries do not compute the same, so their times mean nothing."""


@dataclass(frozen=True)
class Side:
    """What was measured of one library, in a process of its own."""

    seconds: float  # of one run: the median over the turns
    first: float  # seconds of the first run of a process, which reads compiled kernels from disk
    memory: int | None  # bytes at the peak, over what the process had after its imports
    compiling: float = 0.0  # seconds of that, once on each machine, if the kernels were not on disk yet


@dataclass(frozen=True)
class Result:
    """One case. Ratios are ours / theirs, pair by pair: their median and extremes; None without a peer."""

    workload: str
    case: str
    sizes: Mapping[str, int]
    ours: Side
    theirs: Side | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    pairs: int = 0
    flops: float = 0.0  # of one run, as the direct algorithms would need
    bytes: float = 0.0  # the least that one run must read and write
    precision: str = "highest"  # of products of float32

    @property
    def name(self) -> str:
        """Workload, case and sizes in words."""
        sizes = "".join(f", {name} {value}" for name, value in self.sizes.items())
        return f"{self.workload}: {self.case}{sizes}"


@dataclass
class Worker:
    """A process that runs one library. threads: how many it may use, each on a core of its own."""

    runs: str  # "minidl" or its peer
    place: str
    sizes: Mapping[str, int]
    threads: int
    device: str = "cpu"
    precision: str = "highest"
    graphs: bool = False
    turns: list[dict[str, Any]] = field(default_factory=list)  # the answers

    def __post_init__(self) -> None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        cores = sorted(os.sched_getaffinity(0))[-self.threads :] if hasattr(os, "sched_getaffinity") else []
        words = [self.runs, self.place, json.dumps(dict(self.sizes)), json.dumps(cores), self.device, self.precision]
        words.append("graphs" if self.graphs else "")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minidl.bench.worker", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(names, str(self.threads)),
        )

    def answer(self) -> Any:
        """The next line that the process has to say."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(
                f"the process that runs {self.runs} has stopped (exit status {self.process.wait()}); see above"
            )
        return json.loads(line)

    def run(self, case: str, seconds: float = 0.0, check: bool = False) -> dict[str, Any]:
        """One turn."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has stopped: `answer` says so
            self.process.stdin.write(json.dumps({"run": case, "seconds": seconds, "check": check}) + "\n")
            self.process.stdin.flush()
        self.turns.append(self.answer())
        return self.turns[-1]

    def measured(self) -> Side:
        """What all turns together say."""
        timed = [turn["seconds"] for turn in self.turns[WARM_UP:]]
        return Side(median(timed), self.turns[0]["seconds"], self.turns[-1]["memory"])

    @property
    def compiled(self) -> float:
        """Seconds that have gone into compiling."""
        return sum(turn["compiling"] for turn in self.turns)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended by itself
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


@contextmanager
def workers(
    libraries: list[str], place: str, sizes: Mapping[str, int], threads: int, device: str = "cpu",
    precision: str = "highest", graphs: Sequence[str] = (),
) -> Iterator[list[Worker]]:  # fmt: skip
    """A process for each library, all started at once; they end with the block. graphs: libraries that capture."""
    started: list[Worker] = []
    try:
        for library in libraries:
            started.append(Worker(library, place, sizes, threads, device, precision, library in graphs))
        yield started
    finally:
        for worker in started:
            worker.close()


def duel(
    place: str, *, name: str = "", sizes: Mapping[str, int] | None = None, peer: str | None = "torch",
    threads: int = 1, seconds: float = 5.0, tolerance: float | None = None, device: str = "cpu",
    precision: str = "highest", only: Sequence[str] = (), graphs: Sequence[str] = (),
) -> Iterator[Result]:  # fmt: skip
    """Measure every case of a workload on both sides, in turn: ours, theirs, ours, theirs …

    place: of the workload's cases, "module:function" below minidl.bench.workloads. name: what results call it. sizes:
    arguments of that function. peer: the other library, or None to measure minidl alone. seconds: about how long a
    case is measured; there are at least 3 pairs of turns, and at most 31. tolerance: relative difference that the
    results of the first run may have (None: what the precision allows); those of the second, ten times as much. device,
    precision: as in bench.devices. only: the cases to measure; none: all. graphs: libraries
    whose steps are captured as CUDA graphs. Every case has new processes, so that
    its memory and its first run are its own; if kernels had to be compiled they are started again, as a compiler takes
    memory. Gives each result as soon as it is there. Raises Disagreement, and BenchError if a process ends.
    """
    sizes = dict(sizes or {})
    tolerance = TOLERANCE[precision] if tolerance is None else tolerance
    libraries = ["minidl", *([peer] if peer else [])]
    names: list[str] | None = None
    at = 0
    compiling: float | None = None
    while names is None or at < len(names):
        with workers(libraries, place, sizes, threads, device, precision, graphs) as sides:
            names, *_ = (side.answer()["cases"] for side in sides)
            names = [case for case in names if not only or case in only]
            if not names:
                raise BenchError(f"{name or place} has none of the cases {', '.join(only)}")
            case = names[at]
            for run in range(WARM_UP):
                # the first steps of Adam go by the sign of each gradient, so that they enlarge differences of rounding
                allowed = tolerance if run == 0 else 10 * tolerance
                _compare(f"{name or place}: {case}", [side.run(case, check=True) for side in sides], allowed)
            if compiling is None and sides[0].compiled:
                compiling = sides[0].compiled
                continue
            pairs: list[list[float]] = []
            began = time.perf_counter()
            while len(pairs) < PAIRS[0] or (len(pairs) < PAIRS[1] and time.perf_counter() - began < seconds):
                pairs.append([_timed(side, case) for side in sides])
            measured = [side.measured() for side in sides]
            flops, moved = (sides[0].turns[0][key] for key in ("flops", "bytes"))
        ratio, low, high = _ratios(pairs) if peer else (None, None, None)
        yield Result(
            name or place, case, sizes, replace(measured[0], compiling=compiling or 0.0), measured[1] if peer else None,
            ratio, low, high, len(pairs), flops, moved, precision,
        )  # fmt: skip
        at, compiling = at + 1, None


def _ratios(pairs: list[list[float]]) -> tuple[float, float, float]:
    """Their median and extremes."""
    found = [ours / theirs for ours, theirs in pairs]
    return median(found), min(found), max(found)


def _timed(side: Worker, case: str) -> float:
    time.sleep(PAUSE)
    return side.run(case, TURN)["seconds"]


def _compare(what: str, turns: list[dict[str, Any]], tolerance: float) -> None:
    values = [turn["value"] for turn in turns]
    for value in values:
        if value is not None and not math.isfinite(value):
            raise Disagreement(f"{what}: the result is {value}")
    if len(values) == 2 and None not in values and not math.isclose(*values, rel_tol=tolerance):
        raise Disagreement(
            f"{what}: the libraries do not compute the same; after the same number of runs the results are "
            f"{values[0]:.6g} and {values[1]:.6g}"
        )
