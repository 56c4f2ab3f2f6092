"""A repair of the simulator that comes with Numba (the package numba-cuda has one, too).

Kernels name the module `cuda`; while they are simulated, that name stands for an object that knows thread and grid. In
the module of a device function the simulator exchanges it when a thread enters and restores it when that thread leaves,
though others are still inside, waiting at a barrier. Here the last one to leave restores it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import cuda

_lock = threading.Lock()
_inside: Counter[int] = Counter()  # id of a module's names -> calls of its functions under way
_names: dict[int, list[str]] = {}  # which of its names are exchanged meanwhile


@contextmanager
def swapped_cuda_module(function: Callable, simulated: Any) -> Iterator[None]:
    """Within the block `cuda` is the simulated module to the function, and to all others of its module."""
    module = function.__globals__
    key = id(module)
    with _lock:
        if not _inside[key]:
            _names[key] = [name for name, value in module.items() if value is cuda]
            module.update(dict.fromkeys(_names[key], simulated))
        _inside[key] += 1
    try:
        yield
    finally:
        with _lock:
            _inside[key] -= 1
            if not _inside[key]:
                module.update(dict.fromkeys(_names.pop(key), cuda))


def repair() -> None:
    """Let the simulator use it."""
    from numba.cuda.simulator import kernel

    kernel.swapped_cuda_module = swapped_cuda_module
