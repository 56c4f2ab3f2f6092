"""`minidl gradcheck`: every primitive, function and layer of the table of samples against finite differences."""

from __future__ import annotations

import contextlib
import difflib
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core import cuda
from ..core.mode import backend as using
from .report import write_whole
from .rows import VERDICTS, Result, check_row, own_kernel
from .samples import KINDS, Sample, table

if TYPE_CHECKING:
    from rich.console import Console

TILED = ("conv", "conv_input", "conv_weight", "conv_bias", "conv_relu")  # with two algorithms in the column "cuda"
BACKENDS = ("cpu", "reference", "numba_cuda", "cuda")
UNLIMITED = 10_000  # characters in a line
NEAR = 0.7  # how alike, from 0 to 1, a name must be to what was asked for to be suggested


def run(
    only: str | Sequence[str] | None = None, order: int = 2, backend: str | None = None,
    report: str | Path | None = None, fast: bool = False, seed: int = 0,
) -> int:  # fmt: skip
    """Check the rows of the table and print what came out. Returns 0 if all passed, 1 if one failed, 2 for a wrong
    call.

    only: names or patterns with * and ?, several of them in a list or separated by commas; "conv2d" also finds
    "functional.conv2d", capitals matter only where they decide between names, and "primitive", "function" and "layer"
    stand for all of a kind. order: 1, or 2 with the gradients' gradients. backend: the column of the kernel table, by
    default "cpu"; on "cuda" and "numba_cuda" only the primitives with a kernel of their own there are run. report: an
    HTML file to write. fast: compare along random directions only. seed: of the sample inputs.
    """
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=UNLIMITED)  # a line of a file or a pipe is as long as it is
    backend = backend or "cpu"
    if order not in (1, 2):
        return _usage(f"the order is {order}; it must be 1 or 2")
    if backend not in BACKENDS:
        return _usage(f"the backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if seed < 0:
        return _usage(f"the seed is {seed}; it must be 0 or more")
    try:
        rows = select(only)
    except ValueError as error:
        return _usage(str(error))
    device_column = backend in ("cuda", "numba_cuda")
    skipped = [r for r in rows if device_column and not (r.kind == "primitive" and own_kernel(r.name, backend))]
    chosen = [r for r in rows if r not in skipped]
    if not chosen:
        return _usage(f"none of the {len(rows)} rows has a kernel of its own in the column {backend!r}")
    target = None if report is None else Path(report)
    if target is not None:
        problem = _unwritable(target)
        if problem:
            return _usage(problem)
    with contextlib.ExitStack() as stack:
        try:
            device, where = stack.enter_context(_column(backend))
        except RuntimeError as error:
            return _usage(str(error))
        results = _check_all(console, chosen, order, fast, seed, device)
        tiled = [row for row in chosen if row.name in TILED] if backend == "cuda" else []
        with _products_of_tiles():
            again = _check_all(console, tiled, order, fast, seed, device)
        results += [replace(result, name=f"{result.name} (tiles)") for result in again]
    reason = f"no kernel of its own in the column {backend!r}: it runs the reference, which --backend reference checks"
    results += [Result(r.name, r.kind, verdict="skipped", reason=reason) for r in skipped]
    mode = f"order {order}, {where}{', random directions' if fast else ''}, seed {seed}"
    _print(console, results, order, mode, reason)
    if target is not None:
        from .html import page

        call = _call(only, order, backend, target, fast, seed)
        try:
            write_whole(target, page(results, order, mode, call).encode())
        except OSError as error:  # the disk may have become full
            return _usage(f"the report {target} cannot be written: {error.strerror}")
        console.print(f"report: {target}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(r.verdict == "failed" for r in results) else 0


def _usage(message: str) -> int:
    print(f"minidl gradcheck: {message}", file=sys.stderr)
    return 2


def _unwritable(target: Path) -> str:
    """Nothing, or why a report cannot be written: to be known before the work, not after it."""
    if target.is_dir():
        return f"the report {target} is a folder; give the name of a file, such as {target / 'report.html'}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        return f"the report {target} cannot be written: {error.strerror}"
    return ""


def _call(only: str | Sequence[str] | None, order: int, backend: str, report: Path, fast: bool, seed: int) -> str:
    """The command line that makes the same report."""
    words = ["minidl", "gradcheck"]
    if only is not None:
        words += ["--only", only if isinstance(only, str) else ",".join(only)]
    words += ["--order", str(order), "--backend", backend, "--report", str(report), *(["--fast"] if fast else [])]
    return shlex.join([*words, "--seed", str(seed)])


def select(only: str | Sequence[str] | None) -> list[Sample]:
    """The rows that names or patterns pick, in the table's order. Raises ValueError with a suggestion for one that
    finds none."""
    rows = table()
    if only is None:
        return list(rows.values())
    names = [name.strip() for name in (only.split(",") if isinstance(only, str) else only)]
    names = [name for name in names if name]
    if not names:
        raise ValueError("--only is empty: give names or patterns such as conv*, or leave it out to check everything")
    picked: set[str] = set()
    for wanted in names:
        found = {n for n, r in rows.items() if wanted in (r.kind, n, _short(n))}
        if not found:
            pattern = wanted.lower()
            found = {n for n in rows if any(fnmatchcase(m.lower(), pattern) for m in (n, _short(n)))}
        if not found:
            # names are compared without functional. or nn., in which all are alike
            where, _, last = pattern.rpartition(".")
            known = {_short(n).lower(): n for n in rows if where and n.lower().startswith(f"{where}.")}
            known = known or {name.lower(): name for name in (*map(_short, reversed(rows)), *KINDS)}
            near = [known[m] for m in difflib.get_close_matches(last, known, n=3, cutoff=NEAR)]
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"there are {len(rows)} rows, such as conv or nn.Linear"
            )
            raise ValueError(f"nothing is called {wanted!r}; {hint}")
        picked |= found
    return [row for name, row in rows.items() if name in picked]


def _short(name: str) -> str:
    return name.rpartition(".")[2]


@contextlib.contextmanager
def _products_of_tiles() -> Iterator[None]:
    """Inside the block convolutions in the column "cuda" go through tiles, as large ones do, however small they are."""
    from ..kernels.cuda import plan

    def set_tiny(size: int) -> None:
        plan.TINY = size
        plan.gather.cache_clear()
        plan.weight.cache_clear()

    before = plan.TINY
    set_tiny(0)
    try:
        yield
    finally:
        set_tiny(before)


@contextlib.contextmanager
def _column(backend: str) -> Iterator[tuple[str, str]]:
    """Compute in a column inside the block. Gives the device for the tensors, and words for the heading."""
    if backend == "cpu":
        yield "cpu", "on the CPU"
    elif backend == "reference":
        with using("reference"):
            yield "cpu", "reference kernels"
    elif backend == "cuda":
        with contextlib.ExitStack() as stack:
            where = "on the CUDA device"
            if not _has_device():
                from . import cuda_host

                missing = cuda_host.unavailable()
                if missing is not None:
                    raise RuntimeError(
                        f"there is no CUDA device, and the kernels cannot run on the CPU either: {missing}"
                    )
                stack.enter_context(cuda_host.installed())
                where = "CUDA C++ kernels compiled for the CPU (there is no device)"
            yield "cuda", where
    else:
        with using("numba_cuda"):
            device, where = _numba()
            yield device, where


def _has_device() -> bool:
    return cuda.is_available()


def _numba() -> tuple[str, str]:
    from numba import config
    from numba import cuda as numba_cuda

    if config.ENABLE_CUDASIM:
        return "cpu", "numba.cuda kernels in Numba's simulator"
    if not numba_cuda.is_available() or not _has_device():
        raise RuntimeError(
            "numba.cuda kernels need a CUDA device (and CuPy), or Numba's simulator: set NUMBA_ENABLE_CUDASIM=1 in the "
            "environment before starting"
        )
    return "cuda", "numba.cuda kernels on the CUDA device"


def _check_all(console: Console, rows: list[Sample], order: int, fast: bool, seed: int, device: str) -> list[Result]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name = TextColumn("{task.description}", markup=False)
    columns = (TextColumn("checking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), name)
    results = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(rows))
        for row in rows:
            progress.update(task, description=row.name)
            results.append(check_row(row, order, fast, seed, device))
            progress.advance(task)
    return results


# ---- what is printed
def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def cells(result: Result, order: int) -> list[str]:
    """A row of the table in words: name, kind, cases, errors, time, verdict."""
    errors = [f"{result.error[n]:.1e}" if n in result.error else "-" for n in range(1, order + 1)]
    return [result.name, result.kind, str(result.cases), *errors, f"{result.seconds:.2f} s", result.verdict]


def headings(order: int) -> list[str]:
    errors = ["1st order", "2nd order"][:order]
    return ["name", "kind", "cases", *errors, "time", "verdict"]


def summary(results: list[Result]) -> str:
    """How many of each verdict, and the time."""
    counts: dict[str, int] = {}
    for result in results:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    words = ", ".join(f"{counts[v]} {v}" for v in VERDICTS if v in counts)
    return f"{_count(len(results), 'row')}: {words}; {sum(r.seconds for r in results):.1f} s"


def legend(results: list[Result]) -> list[str]:
    """A line for each verdict that occurs and does not speak for itself."""
    lines = []
    for verdict in ("constant", "not checked"):
        own = [r for r in results if r.verdict == verdict]
        reasons: dict[str, list[str]] = {}
        for result in own:
            if result.reason:
                reasons.setdefault(result.reason, []).append(result.name)
        words = [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
        if own:
            lines.append("; ".join([f"{verdict}: {VERDICTS[verdict]}", *words]))
    return lines


def _fitting(columns: dict[str, list[str]], width: int) -> dict[str, list[str]]:
    """The columns of a table, without those that matter least if there is no room for all. Names stay whole."""
    left = dict(columns)
    for heading in ("kind", "time", "cases", "2nd order", "1st order"):
        wide = sum(max(map(len, (h, *words))) for h, words in left.items())
        if wide + 3 * len(left) - 1 <= width:  # three spaces between columns, one at each side
            break
        left.pop(heading, None)
    return left


def _print(console: Console, results: list[Result], order: int, mode: str, reason: str) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console.print(f"gradients against finite differences: {mode}", markup=False, highlight=False, soft_wrap=True)
    run = [r for r in results if r.verdict != "skipped"]
    rows = [cells(result, order) for result in run]
    columns = _fitting({h: [row[i] for row in rows] for i, h in enumerate(headings(order))}, console.width)
    shown = Table(box=SIMPLE, pad_edge=False)
    for heading in columns:
        left: dict[str, Any] = {"justify": "left" if heading in ("name", "kind", "verdict") else "right"}
        shown.add_column(heading, **left, no_wrap=True)
    for result, *words in zip(run, *columns.values(), strict=True):
        shown.add_row(*map(Text, words), style="bold red" if result.failures else "")
    console.print(shown, crop=False, no_wrap=True)
    skipped = [r.name for r in results if r.verdict == "skipped"]
    if skipped:
        few = ", ".join(skipped[:8]) + (" …" if len(skipped) > 8 else "")
        console.print(f"skipped {_count(len(skipped), 'row')} ({few}): {reason}", markup=False, highlight=False)
    for result in results:
        for case, wrong in result.failures:
            console.print(f"\n{result.name} {case}", style="bold red", markup=False, highlight=False, soft_wrap=True)
            console.print(wrong, markup=False, highlight=False, soft_wrap=True)
    console.print(summary(results), markup=False, highlight=False)
    for line in legend(results):
        console.print(line, markup=False, highlight=False)
    sys.stdout.flush()
