"""One side of a duel: `python -m minidl.bench.worker LIBRARY WORKLOAD` answers requests, one JSON object a line.

It says which cases there are, then for each case asked for runs it once and answers with the seconds it took.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module


def main(library: str, workload: str) -> None:
    module = import_module(f"minidl.bench.workloads.{workload}")
    cases = module.cases(library)
    print(json.dumps({"cases": list(cases)}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps({"seconds": cases[request["run"]]()}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
