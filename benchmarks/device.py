"""All that is to be measured on a CUDA device, in nine minutes; minidl/bench/on_device.py does it.

python benchmarks/device.py [--out FOLDER] [--parts layers steps …] [--skip numba …] [--minutes 9]
"""

import sys

from minidl.bench.on_device import main

if __name__ == "__main__":
    sys.exit(main())
