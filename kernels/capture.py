"""What kernels and their callers know of CUDA graphs: whether a step is being captured, and what stays fresh in it.

A replayed graph repeats its kernels with the arguments they had. What the host computes anew in every step (a learning
rate, a bias correction, the key of a dropout mask, noise) must therefore be read from the device's memory. Such values
are asked for here, as functions: outside of a capture they are simply called; a graph calls them before every replay
and copies what they return to where its kernels read it.

This module imports no array library; minidl/graphs.py is what captures.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

ALIGNED = 16  # bytes: where a value in the table begins


class Value(NamedTuple):
    """What is computed anew for every replay, and where it lies in the table: `make` returns a NumPy array."""

    make: Callable[[], np.ndarray]
    begin: int  # byte of the table
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def end(self) -> int:
        return self.begin + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


class Recorder:
    """The values of one step, in the order in which it asks for them: the same in every run of the step.

    upload: a function that brings a NumPy array to the device. While `table` is None the step is warmed up, and runs;
    with a table (bytes on the device, as many as `size` then says) it is captured, and nothing is computed.
    """

    def __init__(self, upload: Callable[[np.ndarray], Any]):
        self.upload = upload
        self.table: Any = None
        self.values: list[Value] = []
        self.size = 0
        self._arrays: list[Any] = []  # of the values
        self._repeated: int | None = None  # the next of those that are asked for again
        self._known: Sequence[Value] = ()  # of the warm-up
        self._made: set[int] = set()  # pieces of memory that the capture has asked for

    @property
    def capturing(self) -> bool:
        return self.table is not None

    def warm_up(self) -> None:
        """A run of the step begins; the last one before the capture counts."""
        self.values, self._arrays, self.size = [], [], 0

    def capture(self, table: Any) -> None:
        """From now on the step is captured."""
        self.table, self._known, self.values, self._arrays = table, self.values, [], []

    def abandon(self) -> None:
        """The capture has failed: the step is warmed up again."""
        self.table = None
        self.warm_up()

    def finish(self) -> None:
        """Raises RuntimeError if the captured run did not ask for what the warm-up had asked for."""
        self._expect(len(self._known) == len(self.values))
        self._arrays = []

    def value(self, make: Callable[[], np.ndarray], upload: Callable[[np.ndarray], Any] | None = None) -> Any:
        """The array on the device that `make` fills anew for every replay. upload: in the place of the recorder's."""
        if self._repeated is not None:
            self._expect(self._repeated < len(self._arrays))
            self._repeated += 1
            return self._arrays[self._repeated - 1]
        if self.table is None:
            host = np.asarray(make(), order="C")
            value = Value(make, self.size, host.shape, host.dtype)
            self.size = -(-value.end // ALIGNED) * ALIGNED
            array = (upload or self.upload)(host)
        else:
            self._expect(len(self.values) < len(self._known))
            value = self._known[len(self.values)]._replace(make=make)
            array = self.table[value.begin : value.end].view(value.dtype).reshape(value.shape)
        self.values.append(value)
        self._arrays.append(array)
        return array

    @contextmanager
    def again(self, first: int) -> Iterator[None]:
        """Inside the block values are not new: they are those that were asked for from number `first` on."""
        before, self._repeated = self._repeated, first
        try:
            yield
        finally:
            self._repeated = before

    @staticmethod
    def _expect(same: bool) -> None:
        if not same:
            raise RuntimeError(
                "the step did other work while it was captured than in the run before: what it computes must not "
                "depend on numbers that change, or on how often it has run"
            )

    def fill(self, table: np.ndarray) -> None:
        """Compute all values, in order, into these bytes on the host."""
        for value in self.values:
            array = np.asarray(value.make())
            if (array.shape, array.dtype) != (value.shape, value.dtype):
                raise RuntimeError(
                    f"a value of the captured step was {value.dtype}{list(value.shape)}, now it is "
                    f"{array.dtype}{list(array.shape)}: capture the step again"
                )
            table[value.begin : value.end].view(value.dtype).reshape(value.shape)[...] = array

    # ---- memory
    def note(self, memory: Any) -> None:
        """The capture got this piece of memory (the `mem` of a CuPy pointer)."""
        self._made.add(id(memory))

    def made(self, array: Any) -> bool:
        """Whether the capture itself has made this CuPy array: what is older outlives a replay, what it made does
        not. NumPy's are none of its business."""
        memory = getattr(array.data, "mem", None)
        return memory is None or id(memory) in self._made


class _OfThread(threading.local):
    recorder: Recorder | None = None


_of_thread = _OfThread()


def recorder() -> Recorder | None:
    """Of the step that this thread warms up or captures; None at all other times."""
    return _of_thread.recorder


def active() -> bool:
    """Whether this thread warms up or captures a step: only what can be captured may be used."""
    return _of_thread.recorder is not None


def capturing() -> bool:
    """Whether this thread captures a step: nothing is computed, and nothing may be asked of the device or sent."""
    found = _of_thread.recorder
    return found is not None and found.capturing


@contextmanager
def recording(by: Recorder) -> Iterator[None]:
    """Inside the block this thread warms up or captures a step."""
    if _of_thread.recorder is not None:
        raise RuntimeError("a step that is captured cannot capture another one")
    _of_thread.recorder = by
    try:
        yield
    finally:
        _of_thread.recorder = None


def numbers(compute: Callable[[], Sequence[float]], dtype: Any = np.float64) -> Sequence[Any]:
    """The numbers that compute() returns: as they are; in a step that is captured as 0-d arrays, one after the other in
    memory, for which compute() is called before every replay. All that it does on the way belongs to the step: counting
    it, drawing a random number."""
    found = _of_thread.recorder
    if found is None:
        return compute()
    together = found.value(lambda: np.array(compute(), dtype))
    return [together[i] for i in range(len(together))]


def array(make: Callable[[], np.ndarray], upload: Callable[[np.ndarray], Any]) -> Any:
    """upload(make()); in a step that is captured an array on the device that make() fills before every replay."""
    found = _of_thread.recorder
    return upload(make()) if found is None else found.value(make, upload)
