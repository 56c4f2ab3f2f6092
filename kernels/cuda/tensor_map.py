"""What the tensor memory accelerator must know of a tensor (tma.cuh): where it lies, how large it is, and which box of
it one copy brings. The driver packs that into 128 bytes, which a kernel gets by value."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np

from ..arrays import Array

MAP = np.dtype([("opaque", np.uint64, 16)])  # struct TensorMap
TYPES = {"Half": 6, "Bfloat16": 9, "float": 11}  # CUtensorMapDataType; floats are rounded to TF32 on the way
SWIZZLE, PROMOTION = 3, 3  # 128 bytes; sectors of 256 bytes in the second-level cache
ALIGNED = 64  # bytes: where the driver wants a map

# of im2col maps of five axes
CORNERS = range(-16, 16)
OFFSETS = range(32)
MOST_PIXELS, MOST_STEP = 1024, 8


@dataclass(frozen=True)
class Tensor:
    """A tensor of three or five axes and what one copy brings of it. Axes are counted from the innermost one on.

    storage: of an element, as in TYPES. sizes: of the axes. strides: bytes from one element to the next, of all axes
    but the innermost. A copy brings `box` elements along each axis. Or, for a tensor (C, W, H, D, N) with `corners`:
    box is (channels, pixels), and pixels are those at corners[0] from the first position, corners[0] + steps, …, up to
    corners[1] from the last position of the axes W, H, D.
    """

    storage: str
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    corners: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    steps: tuple[int, ...] = ()


def fits(corners: Sequence[Sequence[int]], offsets: Sequence[int], steps: Sequence[int], pixels: int) -> bool:
    """Whether an im2col map can have these corners and steps, and copies these largest offsets."""
    within = all(c in CORNERS for corner in corners for c in corner) and all(o in OFFSETS for o in offsets)
    return within and max(steps) <= MOST_STEP and pixels <= MOST_PIXELS


def encoded(tensor: Tensor, array: Array) -> np.ndarray:
    """The map of a tensor that begins where `array` does, as the argument of a kernel.

    Raises RuntimeError where the driver refuses it, or there is none.
    """
    import cupy

    pack = getattr(cupy, "tensor_map", _by_the_driver)  # what stands in for CuPy has no driver
    return _encoded(tensor, array.data.ptr, pack)


@lru_cache(maxsize=4096)
def _encoded(tensor: Tensor, address: int, pack: Callable[[np.ndarray, Tensor, int], None]) -> np.ndarray:
    memory = np.zeros(MAP.itemsize + ALIGNED, np.uint8)
    begin = -memory.ctypes.data % ALIGNED
    pack(memory[begin : begin + MAP.itemsize], tensor, address)
    found = np.frombuffer(memory[begin : begin + MAP.itemsize].tobytes(), MAP)
    return found.reshape(())


def _by_the_driver(out: np.ndarray, tensor: Tensor, address: int) -> None:
    """cuTensorMapEncodeTiled or cuTensorMapEncodeIm2col, into these bytes."""

    def numbers(kind: Any, values: Sequence[int]) -> Any:
        return (kind * len(values))(*values)

    rank = len(tensor.sizes)
    common = [
        ctypes.c_void_p(out.ctypes.data), TYPES[tensor.storage], ctypes.c_uint32(rank), ctypes.c_void_p(address),
        numbers(ctypes.c_uint64, tensor.sizes), numbers(ctypes.c_uint64, tensor.strides),
    ]  # fmt: skip
    if tensor.corners is None:
        name = "cuTensorMapEncodeTiled"
        own = [numbers(ctypes.c_uint32, tensor.box), numbers(ctypes.c_uint32, (1,) * rank)]
    else:
        name = "cuTensorMapEncodeIm2col"
        channels, pixels = tensor.box
        own = [
            *(numbers(ctypes.c_int, corner) for corner in tensor.corners),
            ctypes.c_uint32(channels), ctypes.c_uint32(pixels), numbers(ctypes.c_uint32, (1, *tensor.steps, 1)),
        ]  # fmt: skip
    interleave = fill = 0  # elements as they are; zeros for what lies outside
    status = getattr(_driver(), name)(*common, *own, interleave, SWIZZLE, PROMOTION, fill)
    if status:
        raise RuntimeError(f"{name} fails with CUDA error {status} for {tensor} at {address:#x}")


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RuntimeError(f"tensor maps need NVIDIA's driver: {error}") from None
