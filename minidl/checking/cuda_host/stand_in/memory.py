"""Memory of the stand-in: what is counted, pools of the devices' memory, and pinned memory of the host.

What a device gives back may be anything's next: whoever still uses it is found out.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = str(Path(__file__).parent)


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime refuses."""


class OutOfMemoryError(MemoryError):
    """What CuPy raises when an array does not fit."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int, total: int, limit: int = 0):
        self._size, self._total, self._limit = size, total, limit
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Notes(list):
    """Where something happened: one line of text for each time. `clear()` begins anew."""

    def note(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        self.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")


class Counters:
    """waits: where the host waited for the device. uploads: where it sent an array."""

    def __init__(self) -> None:
        self.waits, self.uploads = Notes(), Notes()


class Usage:
    """The devices' memory: bytes that are taken, and how many there may be."""

    def __init__(self) -> None:
        self.used, self.cached = 0, 0
        self.limit: int | None = None

    def take(self, size: int) -> None:
        if self.limit is not None and self.used + size > self.limit:
            raise CUDARuntimeError("cudaErrorMemoryAllocation: out of memory")
        self.used += size
        self.cached = max(self.cached - size, 0)

    def give_back(self, size: int) -> None:
        self.used -= size
        self.cached += size


counters, usage = Counters(), Usage()


# ---- of the devices
class Memory:
    """cupy.cuda.Memory: bytes of a device, until nobody holds it any more."""

    __module__ = "cupy.cuda"

    def __init__(self, size: int):
        usage.take(size)
        self.size = size
        self.holder: weakref.ref[Piece] | None = None  # what it was given to last
        weakref.finalize(self, usage.give_back, size).atexit = False


class MemoryPointer:
    """cupy.cuda.MemoryPointer"""

    __module__ = "cupy.cuda"

    def __init__(self, mem: Any, offset: int = 0):
        self.mem = mem


class Piece:
    """Memory of a pool that an array has; CuPy's PooledMemory."""

    def __init__(self, block: Memory, pool: MemoryPool | None):
        self.block: weakref.ref[Memory] = weakref.ref(block)
        self._held: Memory | None = block
        self._pool = None if pool is None else weakref.ref(pool)
        block.holder = weakref.ref(self)

    def free(self) -> None:
        """The array is gone."""
        pool, block = None if self._pool is None else self._pool(), self._held
        self._held = None
        if pool is not None and block is not None:
            pool.free[block.size].append(block)

    def check(self, known: dict[int, Piece]) -> None:
        """Raise RuntimeError unless this is still the memory of what used it when a graph of the `known` pieces was
        made."""
        block = self.block()
        if block is None:
            raise RuntimeError("the graph uses memory that was given back")
        holder = None if block.holder is None else block.holder()
        if holder is not None and holder._held is not None and id(holder) not in known:
            raise RuntimeError("the graph uses memory that another array has got")


class MemoryPool:
    """cupy.cuda.MemoryPool: freed memory is kept for the next arrays of this pool."""

    __module__ = "cupy.cuda"

    def __init__(self, allocator: Callable[[int], MemoryPointer] | None = None):
        self._allocate = allocator or (lambda size: MemoryPointer(Memory(size)))
        self.free: defaultdict[int, list[Memory]] = defaultdict(list)

    def malloc(self, size: int) -> MemoryPointer:
        if self.free[size]:
            return MemoryPointer(Piece(self.free[size].pop(), self))
        try:
            block = self._allocate(size).mem
        except CUDARuntimeError:
            raise OutOfMemoryError(size, usage.used + usage.cached, usage.limit or 0) from None
        return MemoryPointer(Piece(block, self))

    def free_all_blocks(self, stream: Any = None) -> None:
        self.free.clear()


class DefaultPool:
    """cupy.get_default_memory_pool(): what is freed is anybody's at once."""

    def malloc(self, size: int) -> MemoryPointer:
        try:
            return MemoryPointer(Piece(Memory(size), None))
        except CUDARuntimeError:
            raise OutOfMemoryError(size, usage.used + usage.cached, usage.limit or 0) from None

    def used_bytes(self) -> int:
        return usage.used

    def total_bytes(self) -> int:
        return usage.used + usage.cached

    def free_bytes(self) -> int:
        return usage.cached

    def free_all_blocks(self, stream: Any = None) -> None:
        usage.cached = 0


default_pool = DefaultPool()
_allocators: list[Callable[[int], MemoryPointer]] = [default_pool.malloc]


def allocate(size: int) -> Piece:
    """Memory from the current allocator."""
    return _allocators[-1](size).mem


@contextlib.contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer] | None = None) -> Iterator[None]:
    """cupy.cuda.using_allocator"""
    _allocators.append(allocator or default_pool.malloc)
    try:
        yield
    finally:
        _allocators.pop()


# ---- of the host
_pinned: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # address -> buffer


def alloc_pinned_memory(size: int) -> Any:
    """An object with a buffer of page-locked bytes. When it is gone, they hold something else."""
    storage = np.zeros(size, np.uint8)
    memory: Any = (ctypes.c_ubyte * size).from_buffer(storage)  # type: ignore[arg-type]
    memory.storage = storage
    weakref.finalize(memory, storage.fill, 0xFF).atexit = False
    _pinned[storage.ctypes.data] = memory
    return memory


def pinned_view(array: np.ndarray) -> np.ndarray | None:
    """The array as the device would read it, by its address: it does not keep the pinned memory. None: the array is in
    ordinary memory."""
    address = array.ctypes.data
    for begin, memory in list(_pinned.items()):
        if begin <= address < begin + len(memory.storage):
            raw = memory.storage[address - begin : address - begin + array.nbytes]
            return raw.view(array.dtype).reshape(array.shape)
    return None
