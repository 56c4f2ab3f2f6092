"""Convolutions and poolings beside PyTorch, layer by layer: `minidl bench conv`.

python benchmarks/conv.py [THREADS]
"""

import sys

from minidl.bench.command import run

if __name__ == "__main__":
    sys.exit(run(["conv"], threads=int(sys.argv[1]) if len(sys.argv) > 1 else 1))
