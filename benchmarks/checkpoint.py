"""What `checkpoint` saves and costs: a training step of C3D, plain and with each group of convolutions a checkpoint.

python benchmarks/checkpoint.py [BATCH [THREADS]]

Beside PyTorch's, if it is installed. All variants have processes of their own, which take turns. The peak is memory
beyond what importing the libraries takes: weights, gradients, velocities, and whatever the step keeps or works with.
"""

import math
import sys
from importlib.util import find_spec
from statistics import median

from rich.console import Console
from rich.table import Table

from minidl.bench.duel import WARM_UP, Disagreement, Worker
from minidl.bench.show import duration

CASE = "training step"
ROUNDS = 5


def start(library: str, checkpoint: int, batch: int, threads: int) -> Worker:
    worker = Worker(library, "c3d:cases", {"batch": batch, "checkpoint": checkpoint}, threads)
    worker.answer()  # which cases there are
    return worker


def measure(library: str, batch: int, threads: int) -> list[str]:
    """A row of the table."""
    first = start(library, 0, batch, threads)
    first.run(CASE)  # compiles what is not on disk yet: a compiler takes memory
    first.close()
    sides: list[Worker] = []
    try:
        for checkpoint in (0, 1):
            sides.append(start(library, checkpoint, batch, threads))
        for _ in range(WARM_UP):
            plain, saving = (side.run(CASE, check=True)["value"] for side in sides)
            if not math.isclose(plain, saving, rel_tol=1e-5):
                raise Disagreement(f"{library}: the loss is {plain} without checkpoints and {saving} with them")
        pairs = [[side.run(CASE)["seconds"] for side in sides] for _ in range(ROUNDS)]
        before, after = (side.measured() for side in sides)
    finally:
        for side in sides:
            side.close()
    memory = [f"{s.memory / 2**20:,.0f} MiB" if s.memory is not None else "?" for s in (before, after)]
    cost = median(with_them / without for without, with_them in pairs)
    return [library, *memory, duration(before.seconds), duration(after.seconds), f"{cost:.2f}"]


def main(batch: int = 4, threads: int = 1) -> None:
    table = Table(f"C3D, batch {batch}", "peak", "with checkpoints", "step", "with checkpoints", "ratio")
    for library in ("minidl", "torch"):
        if find_spec(library):
            table.add_row(*measure(library, batch, threads))
    Console().print(table)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
