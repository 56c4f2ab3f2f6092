"""How many CPU threads a run uses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import TrainingError


def available() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(count: int | None) -> None:
    """Raise TrainingError unless `count` is None or a number of threads that each find a core of their own."""
    if count is not None and not 1 <= count <= available():
        raise TrainingError(f"--threads is {count}: it must be between 1 and {available()}, the cores that are there")


@contextmanager
def limit_threads(count: int | None) -> Iterator[None]:
    """Inside the block BLAS and the compiled kernels use `count` threads (None: what they used before)."""
    if count is None:
        yield
        return
    import numba
    from threadpoolctl import threadpool_limits

    before = numba.get_num_threads()
    numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
    try:
        with threadpool_limits(count, user_api="blas"):
            yield
    finally:
        numba.set_num_threads(before)
