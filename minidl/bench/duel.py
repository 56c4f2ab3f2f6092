"""Two libraries, two processes, taking turns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Result:
    """One case: median seconds of each side; median and extremes of the ratios ours / theirs, pair by pair."""

    case: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float


class Side:
    """A worker process that runs one library."""

    def __init__(self, library: str, workload: str, threads: int):
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minidl.bench.worker", library, workload],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | dict.fromkeys(names, str(threads)),
        )
        self.library = library
        self.cases: list[str] = self._answer()["cases"]

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the worker for {self.library} has stopped (exit status {self.process.wait()}); see above"
            )
        return json.loads(line)

    def run(self, case: str) -> float:
        """Seconds that one run of the case took."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"run": case}) + "\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def duel(workload: str, *, rounds: int = 15, warmup: int = 2, threads: int = 1, peer: str = "torch") -> list[Result]:
    """Run every case of a workload `rounds` times on each side, in turn: ours, theirs, ours, theirs …"""
    sides = [Side("minidl", workload, threads), Side(peer, workload, threads)]
    try:
        results = []
        for case in sides[0].cases:
            pairs = [(sides[0].run(case), sides[1].run(case)) for _ in range(warmup + rounds)][warmup:]
            ratios = [ours / theirs for ours, theirs in pairs]
            ours, theirs = (median(column) for column in zip(*pairs, strict=True))
            results.append(Result(case, ours, theirs, median(ratios), min(ratios), max(ratios)))
        return results
    finally:
        for side in sides:
            side.close()


def table(results: list[Result], *, title: str, unit: str = "us", scale: float = 1e6) -> Any:
    """The results as a rich table."""
    from rich.table import Table

    out = Table(title=title)
    for heading in ("case", f"minidl {unit}", f"peer {unit}", "ratio", "lowest", "highest"):
        out.add_column(heading, justify="left" if heading == "case" else "right")
    for r in results:
        numbers = [f"{r.ours * scale:.2f}", f"{r.theirs * scale:.2f}", *(f"{v:.2f}" for v in (r.ratio, r.low, r.high))]
        out.add_row(r.case, *numbers)
    return out
