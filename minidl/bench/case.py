"""One thing to measure, in one library."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Work(NamedTuple):
    """What `Case` times, and what is counted for it.

    step: runs once; its result (a tensor, or None) depends on all that was computed, so that equal results mean equal
    work. flops: of the direct algorithms. bytes: the least that must be read and written.
    """

    step: Callable[[], Any]
    flops: float = 0.0
    bytes: float = 0.0


class Run(NamedTuple):
    """One run: seconds, the mean absolute value of the result (None: there is none), and the counts of its `Work`."""

    seconds: float
    value: float | None = None
    flops: float = 0.0
    bytes: float = 0.0


class Case:
    """A case of a workload: a call runs it once. prepare: makes networks and data; called before the first run, and not
    timed."""

    def __init__(self, prepare: Callable[[], Work]):
        self._prepare = prepare
        self._work: Work | None = None

    def __call__(self, check: bool = False) -> Run:
        """check: also look at the result, which takes a while if it is large."""
        if self._work is None:
            self._work = self._prepare()
        step, flops, nbytes = self._work
        start = time.perf_counter()
        result = step()
        seconds = time.perf_counter() - start
        value = None
        if check and result is not None:
            value = float(np.abs(result.detach().numpy()).mean(dtype=np.float64))
        return Run(seconds, value, flops, nbytes)
