"""What one small recorded operation costs, and a chain of them forward and backward: float32, one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

COUNT = 2000  # operations in one run


def cases(library: str, size: int = 8) -> dict[str, Callable[[], float]]:
    """size: of the square arrays."""
    array = np.random.default_rng(0).random((size, size), dtype="float32")
    dl: Any = import_module(library)
    if library == "torch":
        dl.set_num_threads(1)
    x, b = dl.tensor(array, requires_grad=True), dl.tensor(array)

    def one(op: Callable) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            for _ in range(COUNT):
                op(x)
            return (time.perf_counter() - start) / COUNT

        return run

    def chain(op: Callable) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            h = x
            for _ in range(COUNT):
                h = op(h)
            h.sum().backward()
            return (time.perf_counter() - start) / COUNT

        return run

    tanh = dl.tanh
    return {
        "x * x": one(lambda x: x * x),
        "x + b": one(lambda x: x + b),
        "x * 1.5": one(lambda x: x * 1.5),
        "tanh(x)": one(lambda x: tanh(x)),
        "chain h * b, forward + backward": chain(lambda h: h * b),
        "chain h + x, forward + backward": chain(lambda h: h + x),
        "chain tanh(h), forward + backward": chain(lambda h: tanh(h)),
    }
