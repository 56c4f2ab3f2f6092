"""One side of a duel: `python -m minidl.bench.worker LIBRARY PLACE SIZES CORES DEVICE PRECISION GRAPHS` answers
requests, a JSON object a line.

It says which cases there are, then runs what is asked for. A turn is one run, or as many as fit into the seconds of the
request, and the answer is their median: short steps are measured in full swing, as in a training loop.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from contextlib import nullcontext
from importlib import import_module
from statistics import median
from typing import Any

from ..warmup import Compiled, compiling
from . import devices, memory
from .case import Case, Run


def main(
    library: str, place: str, sizes: str, cores: str, device: str = "cpu", precision: str = "highest", graphs: str = ""
) -> None:  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks; it ends this one
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, json.loads(cores))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the answers
    devices.use(library, device, precision, graphs=graphs == "graphs")
    devices.tune()
    cases = find(place)(library, **json.loads(sizes))
    _wake(library)
    memory.forget_peak()
    before = memory.in_use()
    print(json.dumps({"cases": list(cases)}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = _turn(library, cases[request["run"]], request["seconds"], request["check"])
        answer["memory"] = devices.memory() if devices.now.cuda else _peak(before)
        print(json.dumps(answer), file=answers, flush=True)


def _peak(before: int | None) -> int | None:
    most = memory.peak()
    return None if most is None or before is None else most - before


def find(place: str) -> Any:
    """The function `cases` of a workload, at "module:name" below minidl.bench.workloads."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"minidl.bench.workloads.{module}"), name)


def _wake(library: str) -> None:
    """Let the library import, allocate and start what it does once for all, on a tiny step: that is no memory of the
    workload. Compiled kernels are not among it."""
    dl, optim = import_module(library), import_module(f"{library}.optim")
    w = dl.ones(2, 2, requires_grad=True, device=devices.now.device)
    (w @ w).sum().backward()
    optim.Adam([w]).step()
    if library == "minidl" and not devices.now.cuda:
        from numba.core.registry import cpu_target

        from ..kernels import table

        for operation in table.TABLE:
            table.find(operation, "cpu")
        for context in (cpu_target.typing_context, cpu_target.target_context):
            context.refresh()  # 120 MB: what Numba knows about Python and NumPy


def _turn(library: str, case: Any, least: float, check: bool) -> dict[str, Any]:
    began = time.perf_counter()
    with compiling() if library == "minidl" else nullcontext(Compiled()) as compiled:
        runs = [_run(case, check)]
        if devices.now.cuda and least > 0:  # all at once: the host waits for the device at the end
            runs = [case(runs=max(1, math.ceil(least / max(runs[0].seconds, 1e-6))))]
        while not devices.now.cuda and time.perf_counter() - began < least:
            runs.append(_run(case, False))
    seconds = median(run.seconds for run in runs)
    return runs[0]._asdict() | {"seconds": seconds, "compiling": compiled.seconds}


def _run(case: Any, check: bool) -> Run:
    """A case is a `Case`, or, where nothing is counted and compared, a function that runs once and returns seconds."""
    return case(check) if isinstance(case, Case) else Run(case())


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except BrokenPipeError:
        sys.exit(1)  # whoever asked has stopped and wants no answer
