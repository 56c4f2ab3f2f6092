"""How long a fresh process takes to its first training step, with an empty and with a filled cache of compiled kernels.

python benchmarks/startup.py [MODEL …]

"first step" is from the start of Python to the end of one training step and one batch of validation: imports, data,
network and compilation included. "whole run" is `minidl train MODEL --fast-dev-run`: three steps, pictures, report.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from minidl.models import MODELS

STEP = "import sys, time; from minidl.warmup import first_step; first_step(sys.argv[1]); print(time.monotonic())"


def first_step(model: str, cache: Path) -> float:
    """Seconds; the clock is the same in all processes."""
    start = time.monotonic()
    return float(run([sys.executable, "-c", STEP, model], cache)) - start


def whole_run(model: str, cache: Path) -> float:
    """Seconds."""
    start = time.monotonic()
    run(
        [sys.executable, "-m", "minidl", "train", model, "--fast-dev-run", "--overwrite", "--out", str(cache / "run")],
        cache,
    )
    return time.monotonic() - start


def run(command: list[str], cache: Path) -> str:
    environment = {**os.environ, "MINIDL_CACHE_DIR": str(cache)}
    return subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout


def main(models: list[str]) -> None:
    table = Table("model", "first step, empty cache", "again", "whole run, empty cache", "again")
    for model in models:
        row = []
        for measure in (first_step, whole_run):
            with tempfile.TemporaryDirectory() as cache:
                row += [f"{measure(model, Path(cache)):.1f} s" for _ in range(2)]
        table.add_row(model, *row)
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
