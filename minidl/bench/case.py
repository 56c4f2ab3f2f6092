"""One thing to measure, in one library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from . import devices


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
    """A case of a workload: a call runs it, once or several times. prepare: makes networks and data; called before the
    first run, and not timed. Where arrays may lie in one of two ways, it is the faster one."""

    def __init__(self, prepare: Callable[[], Work]):
        self._prepare = prepare
        self._work: Work | None = None

    def __call__(self, check: bool = False, runs: int = 1) -> Run:
        """check: also look at the result, which takes a while if it is large. runs: one after the other, of which the
        mean is taken."""
        if self._work is None:
            self._work = self._fastest()
        step, flops, nbytes = self._work
        seconds, result = devices.timed(step, runs)
        value = None
        if check and result is not None:
            result = result.detach()
            if devices.now.cuda and devices.now.library != "minidl":
                result = result.float().cpu()  # NumPy has no bfloat16
            value = float(np.abs(result.numpy()).mean(dtype=np.float64))
        return Run(seconds, value, flops, nbytes)

    def _fastest(self) -> Work:
        """The work, with arrays that lie as is best for it."""
        layouts = devices.layouts()
        if len(layouts) > 1:
            layouts.sort(key=self._trial)
        devices.lay_out(layouts[0])
        work = self._prepare()
        return work._replace(step=devices.captured(work.step))

    def _trial(self, channels_last: bool) -> float:
        """Seconds of a run with arrays that lie so; the work is thrown away, since steps change weights."""
        devices.lay_out(channels_last)
        step = self._prepare().step
        devices.timed(step, 3)
        return devices.timed(step, 5)[0]
