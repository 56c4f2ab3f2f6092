"""`minidl demo`: train what the lecture compares, and say of each of its claims whether it holds."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.extras import no_such, require
from ..train.errors import RunFolderError
from ..train.files import reason, write_json
from . import DEMOS
from .claims import NOT_JUDGED, Demo, DemoError, Result, Run, run_demo

if TYPE_CHECKING:
    from rich.console import Console

    from ..train.report import Report

RESULTS, REPORT = "results.json", "report.html"
WIDTH = 120  # characters in a line of a file or a pipe


def run(
    names: str | Iterable[str], seeds: int = 3, quick: bool = False, jobs: int | None = None,
    out: str | Path | None = None, first_seed: int = 0,
) -> int:  # fmt: skip
    """Run demos by name, one or several ("all": all of them), and print their tables. Returns 1 if a claim does not
    hold, else 0; the claims of quick runs are not judged.

    seeds, quick, jobs, first_seed: as for `run_demo`. out: a folder, made if need be, for results.json and report.html,
    which are written anew after each demo, so that they are there for those that are done.

    Raises DemoError for an unknown name, numbers that make no sense, and a demo that cannot be run to its end,
    RunFolderError if `out` cannot be written, MissingExtra without scikit-learn, which brings the digits.
    """
    from ..train.screen import Screen

    demos = [load(name) for name in select([names] if isinstance(names, str) else names)]
    for option, value, least in (("seeds", seeds, 1), ("jobs", jobs, 1), ("first-seed", first_seed, 0)):
        if value is not None and value < least:
            raise DemoError(f"--{option} is {value}: it must be at least {least}")
    require("sklearn.datasets", "a demo")
    target = None if out is None else _writable(Path(out))
    console: Console = Screen(highlight=False)
    if not console.is_terminal:
        console = Screen(highlight=False, width=WIDTH)
    results = []
    for demo in demos:
        results.append(_run_one(console, demo, seeds, quick, jobs, first_seed))
        if target is not None:
            write_json(target, {"demos": [result.as_json() for result in results]})
            report(results).write(target.with_name(REPORT))
    if len(results) > 1:
        console.print(f"\n{_summary(results)}")
    if target is not None:
        console.print(f"results: {target}\nreport: {target.with_name(REPORT)}", markup=False, soft_wrap=True)
    return int(any(result.holds is False for result in results))


def select(names: Iterable[str]) -> list[str]:
    """The names of demos that are asked for, each once, in the order of the table. Raises DemoError for an unknown one,
    with the nearest."""
    wanted = list(names)
    known = [*DEMOS, "all"]
    if not wanted:
        raise DemoError(f"which demo? Known: {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise DemoError(no_such("demo", name, known))
    return [name for name in DEMOS if name in wanted or "all" in wanted]


def load(name: str) -> Demo:
    """The demo of that name in `DEMOS`."""
    module, _, cls = DEMOS[name].demo.partition(":")
    return getattr(import_module(module), cls)()


def _writable(folder: Path) -> Path:
    """The file for the results. Raises RunFolderError if it cannot be written: rather now than after the work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunFolderError(f"--out {folder} cannot be written: {reason(error)}") from error
    return folder / RESULTS


def _run_one(
    console: Console, demo: Demo, seeds: int, quick: bool, jobs: int | None, first_seed: int
) -> Result:  # fmt: skip
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console.print(f"\n{demo.name}: {demo.lecture}", markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("seeds"))
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as progress:
        task = progress.add_task(demo.name, total=seeds)

        def done(seed: int, run: Run) -> None:
            progress.advance(task)

        result = run_demo(demo, seeds, quick, jobs, first_seed, done)
    console.print(result.table())
    console.print(demo.caveat, markup=False)
    return result


def report(results: Sequence[Result]) -> Report:
    """The tables of demos, every seed's numbers, and the machine, as one page."""
    from ..train.machine import machine
    from ..train.report import Report

    page = Report("The lecture's claims, measured", _summary(results))
    for result in results:
        demo = result.demo
        page.section(demo.title)
        page.text(demo.lecture)
        if result.quick:
            page.note("Scaled down, for a first look: the claims are about the whole demo and are not judged.")
        verdicts = [NOT_JUDGED if check.holds is None else check.holds for check in result.checks]
        rows = [(check.claim, check.measured, verdict) for check, verdict in zip(result.checks, verdicts, strict=True)]
        page.table(["claim", "measured", "holds"], rows)
        page.text(demo.caveat)
        numbers = [[name, *(run[name] for run in result.runs)] for name in result.runs[0]]
        numbers.append(["seconds", *result.run_seconds])
        page.table(["measured", *(f"seed {seed}" for seed in result.seeds)], numbers, "Everything that was measured")
    page.section("Machine")
    page.facts(machine())
    return page


def _summary(results: Sequence[Result]) -> str:
    """One line for all."""
    checks = [check for result in results for check in result.checks]
    judged = [check.holds for check in checks if check.holds is not None]
    said = f"{sum(judged)} of {len(judged)} claims hold" if judged else f"{len(checks)} claims, {NOT_JUDGED}"
    seconds = sum(result.seconds for result in results)
    demos = f"{len(results)} demo{'s' if len(results) > 1 else ''}"
    return f"{demos}: {said}; {seconds:.0f} s"
