"""How the numba.cuda tests run: each test file is also the script of a process of its own, with Numba's simulator or
without it, and reports there what became of each of its cases. (Numba reads the setting when it is imported.)"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
Cases = Mapping[str, Callable[[], None]]


def main(simulated: Cases, compiled: Cases) -> None:
    """The script: argv names the group of cases, and "built-in" for the numba.cuda that comes with Numba, also where
    the package numba-cuda replaces it. Prints a JSON object with what went wrong in each case, empty if nothing did."""
    part, *options = sys.argv[1:]
    if "built-in" in options:
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "NumbaCudaFinder"]
    report = {}
    for name, run in {"simulated": simulated, "compiled": compiled}[part].items():
        try:
            run()
            report[name] = ""
        except Exception:
            report[name] = traceback.format_exc()
    print(json.dumps(report))


def reported(file: str, part: str, *options: str) -> dict[str, str]:
    """What the script said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NUMBA_ENABLE_CUDASIM": str(int(part == "simulated"))}
    command = [sys.executable, "-W", "error", file, part, *options]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
