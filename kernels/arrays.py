"""What every column needs to know about arrays: which library one belongs to, and where its memory lives."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray

LARGE = 2**18  # elements from which on an elementwise operation on the CPU is worth dividing


def namespace(x: Array) -> Any:
    """The array library of x: numpy, or the module that brought x (cupy)."""
    if isinstance(x, (np.ndarray, np.generic)):
        return np
    return sys.modules[type(x).__module__.partition(".")[0]]


def add_at(out: Array, index: Any, values: Array) -> None:
    """out[index] += values, counting every repetition of an index."""
    if isinstance(out, np.ndarray):
        np.add.at(out, index, values)
    else:
        namespace(out).add.at(out, index, values)
