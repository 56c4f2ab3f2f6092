"""What recording costs: one small operation and chains of them, beside PyTorch; `minidl bench overhead --threads 1`.

python benchmarks/overhead.py
"""

import sys

from minidl.bench.command import run

if __name__ == "__main__":
    sys.exit(run(["overhead"], threads=1))
