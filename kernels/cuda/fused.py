"""What the launchers of the fused kernels share: types, memory layouts, and a launch with a grid of its own.

Kernels beside the convolutions move more than they compute, so they read and write arrays as these lie in memory,
contiguous or channels-last. 16-bit arrays are computed with in float (scalar.cuh).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array, namespace
from . import launch

THREADS = 256  # of a block, at most


def storage(operation: str, *arrays: Array) -> np.dtype:
    """The common dtype of arrays. Raises NotImplementedError unless the kernels know it."""
    return launch.common_type(operation, *arrays, among=launch.STORAGE)


def computed(dtype: np.dtype) -> np.dtype:
    """What is computed in for arrays of this dtype."""
    return np.dtype("float32") if dtype.itemsize == 2 else dtype


def is_last(x: Array) -> bool:
    """Whether the axis of channels, 1, is innermost in memory."""
    return x.ndim == 2 or (not x.flags.c_contiguous and _moved(x).flags.c_contiguous)


def flat(x: Array, last: bool, dtype: Any = None) -> Array:
    """x in one piece, channels-last or C-contiguous: itself or a view where it lies so and has this dtype."""
    return namespace(x).ascontiguousarray(_moved(x) if last else x, dtype)


def empty_as(x: Array, last: bool, dtype: Any) -> Array:
    """An uninitialised array of x's shape that is channels-last or C-contiguous in memory."""
    made = namespace(x).empty(_moved(x).shape if last else x.shape, dtype)
    return made.transpose(0, made.ndim - 1, *range(1, made.ndim - 1)) if last else made


def _moved(x: Array) -> Array:
    """Axis 1 comes last."""
    return x.transpose(0, *range(2, x.ndim), 1)


def run(file: str, kernel: str, dtype: np.dtype, grid: tuple[int, ...], threads: int, *arguments: Any) -> None:
    """Launches a kernel on the current device and stream: arrays, and NumPy scalars or structs, are its arguments.

    dtype: of the arrays. grid: blocks; where there are none nothing is launched.
    """
    if not min(grid):
        return
    if grid[0] >= launch.INT_LIMIT:
        raise ValueError(f"{kernel}: {grid[0]} blocks are more than one launch can have")
    import cupy

    options = (f"-DStorage={launch.STORAGE[dtype.name]}",)
    launch.load(file, kernel, options, cupy.cuda.runtime.getDevice())(grid, (threads,), arguments)


def elementwise(file: str, kernel: str, dtype: np.dtype, elements: int, *arguments: Any) -> None:
    """Launches a kernel with a thread for each of so many elements."""
    run(file, kernel, dtype, (-(-elements // THREADS),), THREADS, *arguments)
