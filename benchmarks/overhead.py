"""What recording costs: one small operation and chains of them, beside PyTorch. Needs torch.

python benchmarks/overhead.py
"""

from rich.console import Console

from minidl.bench import duel
from minidl.bench.duel import table

if __name__ == "__main__":
    results = duel("overhead", rounds=31)
    Console().print(table(results, title="8x8 float32, one thread; ratio = minidl / torch, median of pairs"))
