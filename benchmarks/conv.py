"""Convolutions and poolings beside PyTorch. Needs torch.

python benchmarks/conv.py [THREADS]
"""

import sys

from rich.console import Console

from minidl.bench import duel
from minidl.bench.duel import table

if __name__ == "__main__":
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    results = duel("conv", rounds=9, threads=threads)
    title = f"float32, {threads} thread(s); ratio = minidl / torch, median of pairs"
    Console(width=120).print(table(results, title=title, unit="ms", scale=1e3))
