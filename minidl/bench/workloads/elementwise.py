"""Elementwise operations and a reduction on large arrays, not recorded: bandwidth, and how well all cores are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..case import Case, Work
from .common import library, random


def cases(name: str, elements: int = 10_000_000) -> dict[str, Case]:
    """elements: numbers in each array."""
    lib = library(name)
    dl = lib.dl

    def case(operation: Callable[..., Any], operands: int, results: int = 1) -> Case:
        def prepare() -> Work:
            xs = [lib.tensor(random(elements, seed=seed)) for seed in range(operands)]
            return Work(lambda: operation(*xs), bytes=4.0 * (operands + results) * elements)

        return Case(prepare)

    return {
        "x + y": case(lambda x, y: x + y, 2),
        "x * y": case(lambda x, y: x * y, 2),
        "exp(x)": case(lambda x: dl.exp(x), 1),
        "tanh(x)": case(lambda x: dl.tanh(x), 1),
        "x.sum()": case(lambda x: x.sum(), 1, 0),
    }
