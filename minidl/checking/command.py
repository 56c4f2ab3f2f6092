"""`minidl gradcheck`: every primitive, function and layer of the table of samples against finite differences."""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.mode import backend as using
from .report import write_whole
from .rows import Result, check_row, own_kernel
from .samples import KINDS, Sample, table

if TYPE_CHECKING:
    from rich.console import Console

BACKENDS = ("cpu", "reference", "numba_cuda", "cuda")


def run(
    only: str | Sequence[str] | None = None, order: int = 2, backend: str | None = None,
    report: str | Path | None = None, fast: bool = False, seed: int = 0,
) -> int:  # fmt: skip
    """Check the rows of the table and print what came out. Returns 0 if all passed, 1 if one failed, 2 for a wrong
    call.

    only: names or patterns with * and ?, several of them in a list or separated by commas; "conv2d" also finds
    "functional.conv2d", and "primitive", "function" and "layer" stand for all of a kind. order: 1, or 2 with the
    gradients' gradients. backend: the column of the kernel table, by default "cpu"; on "cuda" and "numba_cuda" only
    the primitives with a kernel of their own there are run. report: an HTML file to write. fast: compare along random
    directions only. seed: of the sample inputs.
    """
    from rich.console import Console

    console = Console()
    backend = backend or "cpu"
    if order not in (1, 2):
        return _usage(console, f"the order is {order}; it must be 1 or 2")
    if backend not in BACKENDS:
        return _usage(console, f"the backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    try:
        rows = select(only)
    except ValueError as error:
        return _usage(console, str(error))
    device_column = backend in ("cuda", "numba_cuda")
    skipped = [r for r in rows if device_column and not (r.kind == "primitive" and own_kernel(r.name, backend))]
    chosen = [r for r in rows if r not in skipped]
    if not chosen:
        return _usage(console, f"none of the {len(rows)} rows has a kernel of its own in the column {backend!r}")
    with contextlib.ExitStack() as stack:
        try:
            device, where = stack.enter_context(_column(backend))
        except RuntimeError as error:
            return _usage(console, str(error))
        results = _check_all(console, chosen, order, fast, seed, device)
    reason = f"no kernel of its own in the column {backend!r}: it runs the reference, which --backend reference checks"
    results += [Result(r.name, r.kind, verdict="skipped", reason=reason) for r in skipped]
    mode = f"order {order}, {where}{', random directions' if fast else ''}, seed {seed}"
    _print(console, results, order, mode, reason)
    if report is not None:
        from .html import page

        target = Path(report)
        write_whole(target, page(results, order, mode).encode())
        console.print(f"report: {target}", markup=False, highlight=False, soft_wrap=True)
    return 1 if any(r.verdict == "failed" for r in results) else 0


def _usage(console: Console, message: str) -> int:
    console.print(f"minidl gradcheck: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 2


def select(only: str | Sequence[str] | None) -> list[Sample]:
    """The rows that names or patterns pick, in the table's order. Raises ValueError with a suggestion for one that
    finds none."""
    rows = table()
    if not only:
        return list(rows.values())
    if isinstance(only, str):
        only = [name.strip() for name in only.split(",")]
    picked: set[str] = set()
    for wanted in only:
        found = {n for n, r in rows.items() if wanted == r.kind or any(fnmatchcase(m, wanted) for m in (n, _short(n)))}
        if not found:
            known = list(dict.fromkeys([*rows, *map(_short, rows), *KINDS]))
            near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
            if not near:  # a difference in case only is not near to difflib
                lower = {k.lower(): k for k in known}
                near = [lower[m] for m in difflib.get_close_matches(wanted.lower(), lower, n=3, cutoff=0.5)]
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
    try:
        import cupy

        return bool(cupy.cuda.runtime.getDeviceCount())
    except Exception:  # no CuPy, no driver, no device: CuPy has an exception of its own for each
        return False


def _numba() -> tuple[str, str]:
    from numba import config, cuda

    if config.ENABLE_CUDASIM:
        return "cpu", "numba.cuda kernels in Numba's simulator"
    if not cuda.is_available() or not _has_device():
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
STYLES = {"ok": "green", "failed": "bold red", "constant": "dim", "skipped": "dim"}


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
    words = ", ".join(f"{counts[v]} {v}" for v in STYLES if v in counts)
    return f"{len(results)} rows: {words}; {sum(r.seconds for r in results):.1f} s"


def _print(console: Console, results: list[Result], order: int, mode: str, reason: str) -> None:
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console.print(f"gradients against finite differences: {mode}", markup=False, highlight=False, soft_wrap=True)
    shown = Table(box=SIMPLE, pad_edge=False)
    for heading in headings(order):
        text: dict[str, Any] = {"justify": "left" if heading in ("name", "kind", "verdict") else "right"}
        shown.add_column(heading, **text, no_wrap=heading != "name", overflow="fold")
    for result in results:
        if result.verdict != "skipped":
            shown.add_row(
                *(Text(c) for c in cells(result, order)), style=STYLES[result.verdict] if result.failures else ""
            )
    console.print(shown)
    skipped = [r.name for r in results if r.verdict == "skipped"]
    if skipped:
        few = ", ".join(skipped[:8]) + (" …" if len(skipped) > 8 else "")
        console.print(f"skipped {len(skipped)} rows ({few}): {reason}", markup=False, highlight=False)
    for result in results:
        for case, wrong in result.failures:
            console.print(f"\n{result.name} {case}", style="bold red", markup=False, highlight=False, soft_wrap=True)
            console.print(wrong, markup=False, highlight=False, soft_wrap=True)
    console.print(summary(results), markup=False, highlight=False)
    if any(r.verdict == "constant" for r in results):
        console.print("constant: a step or a test; no gradient flows, and the result does not move with the inputs")
    sys.stdout.flush()
