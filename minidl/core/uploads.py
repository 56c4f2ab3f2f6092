"""Arrays on their way to a CUDA device, for which nobody waits.

The host copies an array into a page-locked ("pinned") buffer, from which the device fetches it by itself. An event
tells when a buffer has been read and may be filled again.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from . import cuda

BUFFERS = 8  # of one `Staging`: copies that may be under way before the host waits for the oldest


class _Buffer(NamedTuple):
    memory: np.ndarray  # bytes
    read: Any  # cupy.cuda.Event: the device has read it


class Staging:
    """Pinned buffers, used in turn."""

    def __init__(self) -> None:
        self._buffers: list[_Buffer] = []  # in the order in which they were filled
        self._lock = Lock()

    def send(self, array: np.ndarray, target: Any, stream: Any) -> None:
        """Copy a NumPy array into a CuPy array of its shape and dtype, on a stream. The host may then change it."""
        if not array.size:
            return
        with self._lock:
            buffer = self._take(array.nbytes)
        staged = buffer.memory[: array.nbytes].view(array.dtype).reshape(array.shape)
        staged[...] = array
        target.set(staged, stream)
        buffer.read.record(stream)
        with self._lock:
            self._buffers.append(buffer)

    def _take(self, size: int) -> _Buffer:
        """A buffer of so many bytes or more that the device is done with."""
        for i, buffer in enumerate(self._buffers):
            if len(buffer.memory) >= size and buffer.read.done:
                return self._buffers.pop(i)
        if len(self._buffers) >= BUFFERS:
            oldest = self._buffers.pop(0)
            oldest.read.synchronize()
            if len(oldest.memory) >= size:
                return oldest
        return _Buffer(pinned_bytes(size), cuda.cupy().cuda.Event(disable_timing=True))


def pinned_bytes(size: int) -> np.ndarray:
    """So many bytes of page-locked memory, not initialised."""
    return np.frombuffer(cuda.cupy().cuda.alloc_pinned_memory(max(size, 1)), np.uint8, max(size, 1))[:size]


_pinned: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()  # id -> what owns pinned memory


def pinned(array: np.ndarray) -> np.ndarray:
    """A copy of an array in page-locked memory, C-contiguous. The memory is free for others when nobody has the copy
    any more, and none to a device is under way."""
    memory = pinned_bytes(array.nbytes)
    root = _root(memory)
    _pinned[id(root)] = root
    copy = memory.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def is_pinned(array: np.ndarray) -> bool:
    """Whether an array lies in memory that `pinned` made."""
    root = _root(array)
    return _pinned.get(id(root)) is root


def _root(array: np.ndarray) -> np.ndarray:
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


_under_way: list[tuple[Any, np.ndarray]] = []  # (event, pinned array) of copies that the device may not have done


def upload(array: np.ndarray, non_blocking: bool = False) -> Any:
    """A NumPy array as a CuPy array on the current device, copied on its current stream.

    The host waits only for a pinned array that it may change, and only without non_blocking: others are copied into a
    buffer at once.
    """
    library = cuda.cupy()
    if not (is_pinned(array) and array.flags.c_contiguous and array.size):
        return library.asarray(array)  # through a pinned buffer of CuPy's
    stream, event = library.cuda.get_current_stream(), library.cuda.Event(disable_timing=True)
    target = library.empty(array.shape, array.dtype)
    target.set(array, stream)
    event.record(stream)
    if not non_blocking:
        event.synchronize()
        return target
    _under_way[:] = [(e, a) for e, a in _under_way if not e.done]
    _under_way.append((event, array))
    return target


class Sent(NamedTuple):
    """Arrays on a device that are not there yet, and the event after which they are."""

    arrays: tuple[Any, ...]
    event: Any


class Uploader:
    """Sends arrays to a device on a stream of its own, beside what the device computes. See `uploader`."""

    def __init__(self, place: Any):
        self.place = place
        self._staging = Staging()
        with self.place:
            self._stream = cuda.cupy().cuda.Stream(non_blocking=True)

    def send(self, arrays: Sequence[np.ndarray]) -> Sent:
        """Begin to copy NumPy arrays. The host does not wait, unless it is BUFFERS copies ahead."""
        library = cuda.cupy()
        with self.place, cuda.naming("a batch on its way to the device"):
            # memory of earlier batches is used again: whoever read them has to be done, as far as it was asked to
            self._stream.wait_event(library.cuda.get_current_stream().record())
            with self._stream:
                targets = tuple(library.empty(a.shape, a.dtype) for a in arrays)
            for array, target in zip(arrays, targets, strict=True):
                self._staging.send(array, target, self._stream)
            return Sent(targets, self._stream.record())

    def receive(self, sent: Sent) -> tuple[Any, ...]:
        """The arrays, for use on the current stream, which waits for them; the host does not."""
        with self.place:
            cuda.cupy().cuda.get_current_stream().wait_event(sent.event)
        return sent.arrays


_uploaders: weakref.WeakKeyDictionary[Any, dict[int, Uploader]] = weakref.WeakKeyDictionary()  # of a library


def uploader(device: str) -> Uploader:
    """The one of "cuda" or "cuda:N". There is one for each device, since CuPy keeps freed memory by streams: what one
    has used no other one gets."""
    place = cuda.place(device)
    known = _uploaders.setdefault(cuda.cupy(), {})
    if place.id not in known:
        known[place.id] = Uploader(place)
    return known[place.id]
