"""How many CPU threads a run uses; kernels/cpu/threads.py is where they are counted."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ..kernels.cpu import threads
from .errors import TrainingError


def available() -> int:
    """Cores that this process may use: see minidl.get_num_threads, which may be set to any number of them."""
    return threads.most()


def check_threads(count: int | None) -> None:
    """Raise TrainingError unless `count` is None or a number of threads that each find a core of their own."""
    if count is not None and not 1 <= count <= available():
        raise TrainingError(f"--threads is {count}: it must be between 1 and {available()}, the cores that are there")


def limit_threads(count: int | None) -> AbstractContextManager[None]:
    """Inside the block everything computes on `count` threads (None: as before)."""
    return threads.limited(count)
