"""`minidl warmup`: compile now what the first training step of a model would wait for.

Kernels are compiled when they are first called with arrays of some types, and kept on disk. So a model's recipe takes
one step with its defaults. Any number of processes may do so at once: each file of the cache appears whole, and what
one has compiled the others read. For a CUDA device CuPy keeps what was compiled; with --tune the step also measures
which kernels are fastest, and that is kept as well.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .core import cuda
from .kernels.cuda import tuner
from .kernels.precision import get_float32_matmul_precision, set_float32_matmul_precision

MIXED = ("bf16", "fp16")


@dataclass
class Compiled:
    """What was compiled: kernels by name, each with its seconds."""

    kernels: list[tuple[str, float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """All together."""
        return sum(seconds for _, seconds in self.kernels)


def run(
    models: Sequence[str] = (), *, device: str = "cpu", tune: bool = False, precision: Sequence[str] = ()
) -> int:  # fmt: skip
    """Warm up models, by name; none: all. Prints what was done. Returns 0, or 2 for a wrong call.

    device: "cpu", "cuda" or "cuda:N". tune: also measure the CUDA kernels. precision: there, one or more of the words
    of `set_float32_matmul_precision`, or mixed ("bf16", "fp16"); none: the word that is set.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .data.extras import no_such
    from .models import MODELS

    for name in models:
        if name not in MODELS:
            print(f"minidl warmup: {no_such('model', name, MODELS)}", file=sys.stderr)
            return 2
    if device == "cpu" and (tune or precision):
        option = "--tune" if tune else "--precision"
        print(f"minidl warmup: {option} is for CUDA devices: add --device cuda", file=sys.stderr)
        return 2
    try:
        if device != "cpu":
            cuda.place(device)
    except (RuntimeError, ValueError) as error:
        print(f"minidl warmup: --device {device}: {error}", file=sys.stderr)
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

            def tell(what: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {what}")

            progress.update(task, description=name)
            if device == "cpu":
                lines = _on_cpu(name, total, tell)
            else:
                lines = _on_device(name, device, tune, precision, tell)
            for line in lines:
                console.print(f"{name:<10}{line}", markup=False, soft_wrap=True)
            progress.advance(task)
    if device != "cpu":
        kept = f"choices are kept in {tuner.folder(cuda.current_device())}" if tune else "CuPy keeps what was compiled"
        console.print(kept, markup=False, soft_wrap=True)
        return 0
    saved = f"later processes save {total.seconds:.1f} s" if total.kernels else "everything was there already"
    console.print(f"{saved}; compiled kernels are kept in {folder}", markup=False, soft_wrap=True)
    return 0


def _made(compiled: Compiled) -> str:
    count = len(compiled.kernels)
    return f"{count} kernel{'' if count == 1 else 's'} compiled in {compiled.seconds:.1f} s"


def _on_cpu(model: str, total: Compiled, tell: Callable[[str], None]) -> Iterator[str]:
    """A first step; what it compiles is added to the total. A line of text."""
    with compiling(lambda kernel: tell(f"compiling {kernel}")) as compiled:
        seconds = first_step(model, "cpu")
    total.kernels += compiled.kernels
    yield f"first step {seconds:.2f} s, {_made(compiled) if compiled.kernels else 'nothing left to compile'}"


def _on_device(
    model: str, device: str, tune: bool, precision: Sequence[str], tell: Callable[[str], None]
) -> Iterator[str]:
    """A first step on a CUDA device, in each precision; a line of text for each."""
    before = get_float32_matmul_precision()
    say = lambda problem: tell(f"measuring {problem.member} {problem.geometry.x_shape} * {problem.geometry.w_shape}")
    try:
        for word in precision or (before,):
            types = word if word in MIXED else "float32"
            set_float32_matmul_precision(before if word in MIXED else word)
            block: Any = tuner.measuring(say) if tune else nullcontext([])
            with block as measured:
                seconds = first_step(model, device, types)
            found = f", {len(measured)} products measured" if tune else ""
            yield f"first step {seconds:.2f} s with {word} precision{found}"
    finally:
        set_float32_matmul_precision(before)


def first_step(model: str, device: str = "cpu", types: str = "float32") -> float:
    """Let a model's recipe, with its defaults, take one training step and measure one batch of validation data; the
    seconds of that, without those for making data and network. types: what `minidl train` calls --precision."""
    from . import no_grad
    from .core.tensor import to_device
    from .models import MODELS

    module, _, name = MODELS[model].recipe.partition(":")
    place: Any = nullcontext() if device == "cpu" else cuda.place(device)
    with place:
        recipe = getattr(import_module(module), name)
        experiment = recipe(fast_dev_run=True, device=device, precision=types).experiment()
        try:
            task = experiment.task
            batches = [next(iter(data)) for data in (experiment.train, experiment.validation)]
            start = time.perf_counter()
            batch, other = ([to_device(a, device) for a in batch] for batch in batches)
            task.model.train()
            task.train_step(batch)
            task.model.eval()
            with no_grad(), task.averaged():
                task.validation_step(other)
            if device != "cpu":
                cuda.synchronize()
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
