"""`minidl bench`: measure workloads, alone or beside PyTorch, and show what came out."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

from ..core import cuda
from ..data.extras import no_such, require
from ..doctor import busy
from ..kernels.cpu.threads import available
from ..train.files import write_json
from .devices import PRECISIONS
from .duel import BenchError, Result, duel
from .show import Ceiling, growth, growth_line, table
from .worker import find
from .workloads import WORKLOADS, Workload

PEERS = ("torch", "none")
WIDE = 200  # characters in a line of a file or a pipe


def run(
    workloads: Sequence[str] = (), *, against: str | None = None, json: Path | None = None, plot: Path | None = None,
    threads: int | None = None, seconds: float = 5.0, sweep: bool = False, sizes: Sequence[str] = (),
    device: str = "cpu", precision: Sequence[str] = (), graphs: str | None = None,
) -> int:  # fmt: skip
    """Measure and print. Returns 0; 1 if measuring failed, as when the two libraries do not compute the same;
    2 for a wrong call; 130 after Ctrl-C, with what was measured until then.

    workloads: names, or "all"; none: the usual ones. against: "torch", "none" to measure minidl alone, None for torch
    where it is installed. json, plot: files to write. threads: for each side; None: all usable cores. seconds: for each
    case, about. sweep: also measure how time grows with each size. sizes: for all workloads that have them, as
    name=value. device: "cpu", "cuda" or "cuda:N". precision: on a CUDA device, one or more of devices.PRECISIONS: of
    products of float32, or mixed ("bf16", "fp16"); none: "highest", "high" and "bf16". graphs: on a CUDA device,
    capture the steps of minidl ("ours") or of both sides ("both") as graphs.
    """
    from rich.console import Console

    from ..train.machine import machine

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDE)
    try:
        chosen = select(workloads, device)
        given = _sizes(sizes, chosen, device)
        _check_device(device, precision)
        if graphs is not None and device == "cpu":
            raise ValueError("--graphs is for CUDA devices")
        peer = _peer(against, device)
        _check(threads, seconds, json, plot)
    except ValueError as error:
        print(f"minidl bench: {error}", file=sys.stderr)
        return 2
    threads = threads or available()
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    facts = machine()
    versions = f"minidl {facts['minidl']}" + (f" and {peer} {version(peer)}" if peer else "")
    say(f"{versions}; {_count(threads, 'thread')}; {facts['processor']}, {facts['cores']} cores")
    if device != "cpu":
        say(f"{device}: {facts['GPU']}")
    if peer is None and against is None:
        say("PyTorch is not installed, so minidl is measured alone: pip install 'minidl[torch]' for a comparison")
    for finding in busy():
        if finding.advice:
            say(f"{finding.value}: what is measured now, with several threads above all, means little", style="yellow")
    results: list[Result] = []
    status = 0
    ceilings: dict[str, Ceiling] = {}
    try:
        for name in _precisions(device, precision):
            at = () if device == "cpu" else (device, name)
            ceilings[name] = ceiling = measure_ceiling(threads, peer, *at)
            best = f"{ceiling.flops / 1e9:.0f} GFLOP/s (product of matrices), {ceiling.bytes / 1e9:.1f} GB/s (copy)"
            say(f"at best{f' with {name} precision' if at else ''}, measured now: {best}")
            with console.status("measuring") as doing:
                for result in _measure(chosen, given, peer, threads, seconds, sweep, doing.update, *at, graphs=graphs):
                    results.append(result)
    except KeyboardInterrupt:
        if not results:
            raise
        status = 130
        say("stopped by Ctrl-C; measured so far:")
    except BenchError as error:
        print(f"minidl bench: {error}", file=sys.stderr)
        if not results:
            return 1
        status = 1
        say("measured before that:")
    for name, ceiling in ceilings.items():
        own = [r for r in results if r.precision == name]
        if len(ceilings) > 1 and own:
            say(f"{name} precision:")
        console.print(table(own, ceiling, peer))
    for g in growth(results):
        say(growth_line(g, peer))
    if peer:
        say(f"ratio: time of minidl / time of {peer}, median of pairs of turns; below 1, minidl is faster")
    say(
        "achieved: by minidl, in operations of the direct algorithm; peak: memory beyond what importing libraries takes"
    )
    if json is not None:
        write_json(
            json,
            {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": facts,
                "threads": threads,
                "peer": None if peer is None else f"{peer} {version(peer)}",
                "device": device,
                "ceiling": next(iter(ceilings.values()))._asdict(),
                "ceilings": {name: found._asdict() for name, found in ceilings.items()},
                "results": [asdict(result) for result in results],
            },
        )
        say(f"results: {json}")
    if plot is not None:
        from ..train.pictures import save
        from .plot import draw

        about = f"{facts['processor']}, {_count(threads, 'thread')}, {datetime.now(UTC):%Y-%m-%d}; {versions}"
        ceiling = next(iter(ceilings.values()))
        save(draw(results, ceiling, peer, f"minidl beside {peer}" if peer else "minidl", about), plot)
        say(f"picture: {plot}")
    return status


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def select(names: Sequence[str], device: str = "cpu") -> dict[str, Workload]:
    """The workloads of these names; "all" is every one that makes sense on the device, no name the usual ones. Raises
    ValueError."""
    there = {name: w for name, w in WORKLOADS.items() if device == "cpu" or w.cuda is not None}
    if not names:
        return {name: w for name, w in there.items() if w.usual or (device != "cpu" and w.usual_on_cuda)}
    for name in names:
        if name not in (*WORKLOADS, "all"):
            raise ValueError(no_such("workload", name, [*WORKLOADS, "all"]))
        if name != "all" and name not in there:
            raise ValueError(f"{name} is measured on the CPU only")
    return there if "all" in names else {name: WORKLOADS[name] for name in dict.fromkeys(names)}


def _sizes(words: Sequence[str], chosen: Mapping[str, Workload], device: str = "cpu") -> dict[str, dict[str, int]]:
    """name=value words as the sizes of each workload. Raises ValueError for one that none of them has."""
    given = {}
    for word in words:
        name, _, text = word.partition("=")
        if not text.isdigit() or not int(text):
            raise ValueError(f"--set {word}: expected a size as name=value, such as batch=4")
        given[name] = int(text)
    known = {name: [*signature(find(w.place)).parameters][1:] for name, w in chosen.items()}
    for name in given:
        if not any(name in sizes for sizes in known.values()):
            there = "; ".join(f"{workload}: {', '.join(sizes)}" for workload, sizes in known.items() if sizes)
            raise ValueError(f"--set {name}: no such size. There are {there or 'none'}")
    usual = {name: {} if device == "cpu" else dict(w.cuda or {}) for name, w in chosen.items()}
    return {w: usual[w] | {n: value for n, value in given.items() if n in sizes} for w, sizes in known.items()}


def _precisions(device: str, precision: Sequence[str]) -> Sequence[str]:
    return precision or (("highest",) if device == "cpu" else ("highest", "high", "bf16"))


def _check_device(device: str, precision: Sequence[str]) -> None:
    """Raise ValueError for a device that is not there, or for a precision that does not exist or matters."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"--device is {device}: it must be cpu, cuda or cuda:N")
    for name in precision:
        if name not in PRECISIONS:
            raise ValueError(f"--precision is {name}: it must be one of {', '.join(PRECISIONS)}")
        if device == "cpu":
            raise ValueError("--precision is for CUDA devices: on the CPU products of float32 are float32")
    if device != "cpu":
        try:
            cuda.place(device)
        except RuntimeError as error:
            raise ValueError(f"--device {device}: {error}") from None


def _peer(against: str | None, device: str = "cpu") -> str | None:
    if against not in (None, *PEERS):
        raise ValueError(f"--against is {against}: it must be one of {', '.join(PEERS)}")
    there = find_spec("torch") is not None
    if against == "torch" and not there:
        raise ValueError("--against torch: PyTorch is not installed: pip install 'minidl[torch]'")
    if device != "cpu" and there and against != "none" and not import_module("torch").cuda.is_available():
        if against == "torch":
            raise ValueError(f"--against torch --device {device}: the PyTorch that is installed finds no CUDA device")
        there = False
    return "torch" if there and against != "none" else None


def _check(threads: int | None, seconds: float, *files: Path | None) -> None:
    """Raise ValueError for what would only be found out after the measurements."""
    if threads is not None and not 1 <= threads <= available():
        raise ValueError(f"--threads is {threads}: it must be between 1 and {available()}, the cores that are there")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"--seconds is {seconds}: it must be a positive number")
    for path in files:
        if path is None:
            continue
        if path.is_dir():
            raise ValueError(f"{path} is a folder; give the name of a file")
        if not os.access(path.resolve().parent, os.W_OK):
            raise ValueError(f"{path} cannot be written: its folder does not exist or is not writable")
    if files[-1] is not None:
        require("matplotlib", "--plot")


def measure_ceiling(threads: int, peer: str | None, device: str = "cpu", precision: str = "highest") -> Ceiling:
    """The better of what both libraries reach."""
    rates = {"flops": 0.0, "bytes": 0.0}
    found = duel("ceiling:cases", peer=peer, threads=threads, seconds=0.5, device=device, precision=precision)
    for result in found:
        for key in rates:
            for side in (result.ours, result.theirs):
                if side is not None:
                    rates[key] = max(rates[key], getattr(result, key) / side.seconds)
    return Ceiling(**rates)


def _measure(
    chosen: Mapping[str, Workload], sizes: Mapping[str, Mapping[str, int]], peer: str | None, threads: int,
    seconds: float, sweep: bool, tell: Callable[[str], None], device: str = "cpu", precision: str = "highest",
    *, graphs: str | None = None,
) -> Iterator[Result]:  # fmt: skip
    for name, workload in chosen.items():
        variants: list[dict[str, int]] = [{}]
        if sweep and workload.sweep:
            variants = [{size: value} for size, values in workload.sweep.items() for value in values]
        for variant in variants:
            tell(" ".join(["measuring", name, *(f"{size}={value}" for size, value in variant.items())]))
            # what is swept comes last: `growth` relies on it
            asked = {size: value for size, value in sizes[name].items() if size not in variant} | variant
            yield from duel(
                workload.place, name=name, sizes=asked, peer=peer, threads=threads, seconds=seconds, device=device,
                precision=precision, graphs={"ours": ("minidl",), "both": ("minidl", peer or "")}.get(graphs or "", ()),
            )  # fmt: skip


def print_list() -> None:
    """Print the names of all workloads, and their sizes."""
    width = max(map(len, WORKLOADS)) + 2
    print("workloads (* is measured when nothing is asked for):")
    for name, workload in WORKLOADS.items():
        print(f"  {'*' if workload.usual else ' '} {name:<{width}}{workload.summary}")
        sizes = [f"{p.name}={p.default}" for p in [*signature(find(workload.place)).parameters.values()][1:]]
        if sizes:
            print(f"    {'':<{width}}--set {' '.join(sizes)}")
