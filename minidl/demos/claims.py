"""What a demo is, and how one is run: every seed in a process of its own, with one thread."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from numbers import Integral
from statistics import fmean
from typing import Any, ClassVar, NamedTuple

from ..train.errors import TrainingError
from ..train.threads import available

Run = dict[str, float]  # what one seed measured; counts are ints
PATIENCE = 1.0  # seconds that a process gets to end before it is killed
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
HINT = (
    "What it wrote to stderr says why. A script that runs demos has to keep what it does under "
    'if __name__ == "__main__": and has to be a file'
)
NOT_JUDGED = "not judged (quick)"
VERDICTS = {True: ("yes", ""), False: ("NO", "bold red"), None: (NOT_JUDGED, "dim")}  # words, and their style


class DemoError(TrainingError):
    """A demo could not be run to its end; the message says for which seed, and why."""


class Check(NamedTuple):
    """A claim, what was measured, and whether that bears it out (None: not judged). One row of the table."""

    claim: str
    measured: str
    holds: bool | None


class Demo(ABC):
    """One of the lecture's claims. A page per demo.

    An instance is sent to the worker processes, so it must be picklable; most have no state at all.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    lecture: ClassVar[str]  # the claim as the lecture makes it, in a sentence or two, with its source
    caveat: ClassVar[str]  # what is made up for the demo, and what it does not show

    @abstractmethod
    def run(self, seed: int, quick: bool) -> Run:
        """Train and measure once. quick: scaled down to seconds on one core; the same things are measured.

        Everything random comes from `seed`. Only numbers, all finite: they travel between processes and end as JSON.
        """

    @abstractmethod
    def check(self, runs: Sequence[Run]) -> list[Check]:
        """The claims, judged over the runs of all seeds. Thresholds are constants, beside the measurements that they
        come from; they are those of the whole demo, so `run_demo` drops the verdicts on quick runs."""


@dataclass(frozen=True)
class Result:
    """What came out of a demo. runs[i] was measured with seeds[i] and took run_seconds[i]; seconds: until all were
    done."""

    demo: Demo
    quick: bool
    seeds: list[int]
    runs: list[Run]
    checks: list[Check]
    seconds: float
    run_seconds: list[float]

    @property
    def holds(self) -> bool | None:
        """Whether all claims do; None if they were not judged."""
        return None if self.quick else all(check.holds for check in self.checks)

    def table(self) -> Any:
        """A rich table: claim, measured, holds."""
        from rich.table import Table
        from rich.text import Text

        seeds = f"{len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"
        scale = ", scaled down" if self.quick else ""
        shown = Table(title=Text(f"{self.demo.title} ({seeds}, {self.seconds:.0f} s{scale})"), title_justify="left")
        for heading in ("claim", "measured", "holds"):
            shown.add_column(heading)
        for check in self.checks:
            shown.add_row(Text(check.claim), Text(check.measured), Text(*VERDICTS[check.holds]))
        return shown

    def as_json(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers. What was not judged has null for "holds"."""
        return {
            "demo": self.demo.name,
            "title": self.demo.title,
            "lecture": self.demo.lecture,
            "caveat": self.demo.caveat,
            "quick": self.quick,
            "holds": self.holds,
            "checks": [check._asdict() for check in self.checks],
            "seconds": self.seconds,
            "runs": [
                {"seed": seed, "seconds": seconds, "measured": run}
                for seed, seconds, run in zip(self.seeds, self.run_seconds, self.runs, strict=True)
            ],
        }


def spread(runs: Sequence[Run], name: str, digits: int = 3) -> str:
    """A number over all seeds in words: its mean, with the lowest and the highest if there are several."""
    values = [run[name] for run in runs]
    mean = f"{fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def run_demo(
    demo: Demo, seeds: int = 3, quick: bool = False, jobs: int | None = None, first_seed: int = 0,
    done: Callable[[int, Run], None] | None = None,
) -> Result:  # fmt: skip
    """Run a demo with `seeds` seeds from first_seed on, and check its claims. quick: scaled down; what the claims are
    about is measured, but not judged.

    Each seed has a fresh process with one thread: nets as small as these are fastest so, and the numbers depend neither
    on the other seeds nor on how many run at a time (`jobs`; by default as many as there are cores). done: is called
    with each seed and its numbers as they come.

    Raises ValueError for counts that make no sense; DemoError if a process raises (with its traceback) or dies.
    """
    for name, value, least in (("seeds", seeds, 1), ("jobs", jobs, 1), ("first_seed", first_seed, 0)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: it must be at least {least}")
    numbers = list(range(first_seed, first_seed + seeds))
    began = time.perf_counter()
    finished: dict[int, tuple[Run, float]] = {}
    for seed, run, seconds in _in_processes(demo, numbers, quick, jobs or available()):
        finished[seed] = run, seconds
        if done is not None:
            done(seed, run)
    runs = [finished[seed][0] for seed in numbers]
    run_seconds = [finished[seed][1] for seed in numbers]
    checks = demo.check(runs)
    if quick:
        checks = [check._replace(holds=None) for check in checks]
    return Result(demo, quick, numbers, runs, checks, time.perf_counter() - began, run_seconds)


def finite(run: Run) -> Run:
    """The measurements as plain ints and floats. Raises ValueError for those that are not finite."""
    numbers = {name: int(value) if isinstance(value, Integral) else float(value) for name, value in run.items()}
    wrong = [f"{name} = {value}" for name, value in numbers.items() if not math.isfinite(value)]
    if wrong:
        raise ValueError(f"measured {', '.join(wrong)}")
    return numbers


# ---- processes


def _in_processes(demo: Demo, seeds: Sequence[int], quick: bool, jobs: int) -> Iterator[tuple[int, Run, float]]:
    """(seed, numbers, seconds) in the order in which they are done, `jobs` at a time."""
    waiting = list(seeds)
    working: dict[Connection, tuple[int, SpawnProcess]] = {}
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                seed = waiting.pop(0)
                process, pipe = _start(demo, seed, quick)
                working[pipe] = seed, process
            ready = connection.wait(list(working))  # an answer, or the end of a process that gave none
            for pipe in [pipe for pipe in working if pipe in ready]:
                seed, process = working[pipe]
                answer = _answer(demo, seed, process, pipe)
                del working[pipe]
                pipe.close()
                process.join()
                yield seed, *answer
    finally:  # an error, or Ctrl-C: what still works is ended
        for pipe, (_, process) in working.items():
            pipe.close()
            process.terminate()
            process.join(PATIENCE)
            if process.exitcode is None:
                process.kill()
                process.join()


def _start(demo: Demo, seed: int, quick: bool) -> tuple[SpawnProcess, Connection]:
    context = get_context("spawn")  # a forked process would inherit the libraries' threads as they happen to stand
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(
        target=_work, args=(theirs, demo, seed, quick), name=f"minidl-demo-{demo.name}-{seed}", daemon=True
    )
    resource_tracker.ensure_running()  # starting it would lift the block below
    # Ctrl-C is the main process's business: the workers inherit the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _environment(dict.fromkeys(THREADS, "1")):
            process.start()
    except BaseException:
        mine.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
    return process, mine


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Processes started inside the block have these variables. BLAS and Numba read them when they are loaded, which a
    spawned process does before it runs a line of ours."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _answer(demo: Demo, seed: int, process: SpawnProcess, pipe: Connection) -> tuple[Run, float]:
    try:
        run, seconds, trouble = pipe.recv()
    except (EOFError, OSError):
        process.join(PATIENCE)
        raise DemoError(f"{demo.name}: the process of seed {seed} died: {_death(process.exitcode)}") from None
    if trouble is not None:
        summary, text = trouble
        raise DemoError(f"{demo.name}: seed {seed} failed: {summary}\n\nIn its process:\n\n{text}")
    return run, seconds


def _death(code: int | None) -> str:
    if code is None:
        return "it closed its pipe"
    if code >= 0:
        return f"exit code {code}. {HINT}"
    memory = "; often that means that memory ran out: use fewer --jobs" if code == -signal.SIGKILL else ""
    return f"{signal.Signals(-code).name}{memory}"


def _work(pipe: Connection, demo: Demo, seed: int, quick: bool) -> None:
    """The life of a worker: measure, answer, end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    began = time.perf_counter()
    try:
        answer: Any = (finite(demo.run(seed, quick)), time.perf_counter() - began, None)
    except Exception as error:
        answer = (None, 0.0, (f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))))
    pipe.send(answer)


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # it was killed, and nobody waits for the numbers
