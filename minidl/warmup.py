"""`minidl warmup`: compile now what the first training step of a model would wait for.

Kernels are compiled when they are first called with arrays of some types, and kept on disk. So a model's recipe takes
one step with its defaults. Any number of processes may do so at once: each file of the cache appears whole, and what
one has compiled the others read.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any


@dataclass
class Compiled:
    """What was compiled: kernels by name, each with its seconds."""

    kernels: list[tuple[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(seconds for _, seconds in self.kernels)


def run(models: Sequence[str] = ()) -> int:
    """Warm up models, by name; none: all. Prints what was done. Returns 0, or 2 if there is no such model."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .data.extras import no_such
    from .models import MODELS

    for name in models:
        if name not in MODELS:
            print(f"minidl warmup: {no_such('model', name, MODELS)}", file=sys.stderr)
            return 2
    from .kernels.cpu.compile import cache_directory

    folder = cache_directory()
    console = Console(highlight=False)
    doing = TextColumn("{task.description}", markup=False)
    columns = (TextColumn("warming up"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), doing)
    names = list(dict.fromkeys(models)) or list(MODELS)
    total = Compiled()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            tell = lambda kernel, name=name: progress.update(task, description=f"{name}: compiling {kernel}")
            progress.update(task, description=name)
            with compiling(tell) as compiled:
                seconds = first_step(name)
            total.kernels += compiled.kernels
            made = _made(compiled) if compiled.kernels else "nothing left to compile"
            console.print(f"{name:<10}first step {seconds:.2f} s, {made}", markup=False, soft_wrap=True)
            progress.advance(task)
    saved = f"later processes save {total.seconds:.1f} s" if total.kernels else "everything was there already"
    console.print(f"{saved}; compiled kernels are kept in {folder}", markup=False, soft_wrap=True)
    return 0


def _made(compiled: Compiled) -> str:
    count = len(compiled.kernels)
    return f"{count} kernel{'' if count == 1 else 's'} compiled in {compiled.seconds:.1f} s"


def first_step(model: str) -> float:
    """Let a model's recipe, with its defaults, take one training step and measure one batch of validation data; the
    seconds of that, without those for making data and network."""
    from . import no_grad
    from .models import MODELS

    module, _, name = MODELS[model].recipe.partition(":")
    experiment = getattr(import_module(module), name)(fast_dev_run=True).experiment()
    try:
        task = experiment.task
        batch, other = next(iter(experiment.train)), next(iter(experiment.validation))
        start = time.perf_counter()
        task.model.train()
        task.train_step(batch)
        task.model.eval()
        with no_grad(), task.averaged():
            task.validation_step(other)
        return time.perf_counter() - start
    finally:
        experiment.close()


@contextmanager
def compiling(tell: Callable[[str], None] = lambda kernel: None) -> Iterator[Compiled]:
    """Notes which of minidl's kernels are compiled inside the block; what is read from disk does not count. tell: is
    called with the name of each when its compilation begins."""
    from numba.core import event

    class Listener(event.Listener):
        def __init__(self) -> None:
            self.running: list[tuple[Any, float]] = []

        def on_start(self, it: Any) -> None:
            function = it.data["dispatcher"].py_func
            self.running.append((function, time.perf_counter()))
            if self.outermost(function):
                tell(function.__name__)

        def on_end(self, it: Any) -> None:
            function, began = self.running[-1]
            if self.outermost(function):
                compiled.kernels.append((function.__name__, time.perf_counter() - began))
            self.running.pop()

        def outermost(self, function: Any) -> bool:
            """Not one that is compiled on the way, as a part of another; and not one of Numba's own."""
            return len(self.running) == 1 and function.__module__.startswith("minidl.")

    compiled = Compiled()
    with event.install_listener("numba:compile", Listener()):
        yield compiled
