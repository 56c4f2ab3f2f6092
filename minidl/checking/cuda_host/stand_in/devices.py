"""Devices, streams, events and graphs of the stand-in.

Work is done as soon as it is given to a stream, but for copies from pinned memory: these wait until somebody waits for
them, which a device is free to do. A stream that is being captured does nothing: it notes the work, and a launch of the
graph does it.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from .memory import CUDARuntimeError, Piece, counters

DEVICES = 2  # the stand-in's
CAPTURING = "cudaErrorStreamCaptureUnsupported: operation not permitted when stream is capturing"


class Device:
    """One of the two devices there are. `Device.current` is the number of the current one."""

    __module__ = "cupy.cuda"
    compute_capability = "90"
    attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 227 * 1024, "L2CacheSize": 2**16}
    current = 0

    def __init__(self, device: Any = None):
        self.id = Device.current if device is None else int(device)
        self._before: list[int] = []
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError(f"cudaErrorInvalidDevice: invalid device ordinal ({device})")

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        Device.current = self._before.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        wait_for_all("Device.synchronize")


def wait_for_all(what: str) -> None:
    """The host waits for everything. Raises CUDARuntimeError while a stream is captured."""
    for stream in list(Stream.all):
        stream._wait(what)
    counters.waits.note(what)


class Stream:
    """Work in its order. One made without null=True belongs to the device that is current then."""

    __module__ = "cupy.cuda"
    all: weakref.WeakSet[Stream] = weakref.WeakSet()
    null: Stream  # of all devices, as it is CUDA's legacy default stream
    _entered: list[tuple[int, Stream]] = []

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None):
        self.device_id = -1 if null else Device.current
        self.ptr = 0 if null else id(self)
        self._late: deque[Callable[[], None]] = deque()
        self._done = 0  # pieces of work
        self._given = 0
        self.capture: Graph | None = None  # what is being captured
        Stream.all.add(self)

    def __enter__(self) -> Stream:
        if self.device_id not in (-1, Device.current):
            raise RuntimeError(
                f"The device that the stream is created on ({self.device_id}) does not match with the current device "
                f"({Device.current})"
            )
        Stream._entered.append((Device.current, self))
        return self

    def __exit__(self, *_: Any) -> None:
        Stream._entered.pop()

    @staticmethod
    def now() -> Stream:
        """The current stream of the current device."""
        return next((s for device, s in reversed(Stream._entered) if device == Device.current), Stream.null)

    @staticmethod
    def forget() -> None:
        """Nothing is under way, and no stream but the default one is current."""
        Stream._entered.clear()
        Stream.null._late.clear()

    # ---- work
    def give(self, work: Callable[[], Any], pieces: Iterable[Piece] = ()) -> None:
        """Do it, or note it for a graph. pieces: the memory that it uses."""
        if self.capture is not None:
            self.capture.note(work, pieces)
            return
        self.catch_up()
        work()

    def give_late(self, work: Callable[[], Any]) -> None:
        """Do it when somebody waits for it."""
        self._late.append(work)
        self._given += 1

    def catch_up(self, until: int | None = None) -> None:
        """Do what is late, or its first part."""
        while self._late and (until is None or self._done < until):
            self._late.popleft()()
            self._done += 1

    def _wait(self, what: str) -> None:
        if self.capture is not None:
            self.capture.invalid = True
            raise CUDARuntimeError(f"{CAPTURING} ({what})")
        self.catch_up()

    def synchronize(self) -> None:
        self._wait("Stream.synchronize")
        counters.waits.note("Stream.synchronize")

    @property
    def done(self) -> bool:
        return not self._late

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        if self.capture is None:
            event._reach()

    # ---- graphs
    def begin_capture(self, mode: int | None = None) -> None:
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        if self.capture is not None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        self.catch_up()
        self.capture = Graph()

    def end_capture(self) -> Graph:
        graph, self.capture = self.capture, None
        if graph is None:
            raise CUDARuntimeError("cudaErrorIllegalState: the operation cannot be performed in the present state")
        if graph.invalid:
            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")
        graph.finish()
        return graph

    def is_capturing(self) -> bool:
        return self.capture is not None


Stream.null = Stream(null=True)


class Event:
    """A moment in a stream."""

    __module__ = "cupy.cuda"

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self._time: float | None = None if disable_timing else 0.0
        self._stream: Stream | None = None
        self._work = 0

    def record(self, stream: Stream | None = None) -> None:
        self._stream = stream or Stream.now()
        self._work = self._stream._given
        if self._time is not None:
            self._time = time.perf_counter()

    @property
    def done(self) -> bool:
        return self._stream is None or self._stream._done >= self._work

    def _reach(self) -> None:
        if self._stream is not None:
            self._stream.catch_up(self._work)

    def synchronize(self) -> None:
        self._reach()
        counters.waits.note("Event.synchronize")


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds."""
    if start._time is None or end._time is None:
        raise CUDARuntimeError("cudaErrorInvalidResourceHandle: invalid resource handle")
    return 1e3 * (end._time - start._time)


class Graph:
    """The work that a captured stream was given. A launch does it again, on the same memory."""

    __module__ = "cupy.cuda"

    def __init__(self) -> None:
        self._work: list[Callable[[], Any]] = []
        self._pieces: dict[int, Piece] = {}
        self._made: list[np.ndarray] = []
        self.invalid = False

    def __len__(self) -> int:
        return len(self._work)

    def note(self, work: Callable[[], Any], pieces: Iterable[Piece] = ()) -> None:
        self._work.append(work)
        self._pieces.update((id(piece), piece) for piece in pieces)

    def makes(self, array: np.ndarray) -> None:
        """An array that holds nothing before the first launch."""
        self._made.append(array)

    def finish(self) -> None:
        for array in self._made:
            array[...] = np.nan if array.dtype.kind in "fc" else np.zeros((), array.dtype)
        self._made.clear()

    def launch(self, stream: Stream | None = None) -> None:
        """Raises RuntimeError if the graph's memory may hold something else by now."""
        for piece in self._pieces.values():
            piece.check(self._pieces)
        (stream or Stream.now()).give(self._replay)

    def _replay(self) -> None:
        with np.errstate(all="ignore"):
            for work in self._work:
                work()

    def upload(self, stream: Stream | None = None) -> None:
        pass
