"""What the kernels of this column share (the counterpart of ../cuda/geometry.cuh), and how they are launched.

They run on CuPy arrays on a device, and on NumPy arrays in Numba's simulator.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda
from numba.core.errors import NumbaPerformanceWarning

from ..arrays import Array, namespace
from ..cuda import launch
from ..geometry import ConvGeometry, PoolGeometry

SIMULATED = bool(config.ENABLE_CUDASIM)
if SIMULATED:
    from . import simulator

    simulator.repair()
SIMULATED_THREADS = 64  # the simulator starts an operating-system thread for each of a block
BLOCK = 8 if SIMULATED else launch.THREADS  # threads that meet in shared memory; a power of 2, known when compiling
FEW_BLOCKS = 128  # below this Numba warns of a grid that does not fill the device

# Compiled, the integer 1 beside a float32 makes a float64 of both, which devices compute many times slower; these two
# beside a float64 are float64. The simulator runs Python, where it is the integer that takes the other's type.
ZERO, ONE = (0, 1) if SIMULATED else (np.float32(0), np.float32(1))

Three = tuple[int, int, int]


class Geometry(NamedTuple):
    """The sizes of one convolution or pooling, folded to three spatial axes."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input: Three
    kernel: Three
    output: Three
    stride: Three
    padding: Three
    dilation: Three


@cuda.jit(device=True)
def thread_index():
    """One thread for each element of the result: its number in C order."""
    return np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x


@cuda.jit(device=True)
def element(index, shape):
    """The index of an element of a 5-dimensional array from its number."""
    s2 = index % shape[4]
    index //= shape[4]
    s1 = index % shape[3]
    index //= shape[3]
    s0 = index % shape[2]
    index //= shape[2]
    return index // shape[1], index % shape[1], s0, s1, s2


@cuda.jit(device=True)
def input_at(o, k, axis, g):
    """The input position that tap k of output (or window) o meets on this axis, -1 if that is padding."""
    i = o * g.stride[axis] - g.padding[axis] + k * g.dilation[axis]
    return i if 0 <= i < g.input[axis] else -1


@cuda.jit(device=True)
def output_at(i, k, axis, g):
    """The output whose tap k meets input position i on this axis, -1 if there is none."""
    start = i + g.padding[axis] - k * g.dilation[axis]
    if start < 0 or start % g.stride[axis] != 0:
        return -1
    o = start // g.stride[axis]
    return o if o < g.output[axis] else -1


def device_of(operation: str, **arrays: Array) -> AbstractContextManager:
    """Where the arrays live, as a context. Raises, saying what to do, where no kernel can run on them."""
    how = "set NUMBA_ENABLE_CUDASIM=1 before Python starts to run on NumPy arrays in Numba's simulator"
    on_host = [name for name, array in arrays.items() if isinstance(array, np.ndarray)]
    if SIMULATED:
        if len(on_host) < len(arrays):
            raise TypeError(f"{operation} in Numba's simulator takes NumPy arrays only")
        return nullcontext()
    if not cuda.is_available():
        raise RuntimeError(f"{operation} with numba.cuda finds no CUDA device and driver; {how}")
    if on_host:
        raise TypeError(f"{operation} with numba.cuda takes CuPy arrays, {on_host[0]} is NumPy's; {how}")
    return launch.device_of(operation, **arrays)


def empty(like: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array of the library of `like`, on the current device."""
    return namespace(like).empty(shape, dtype)


def run(kernel: Any, result: Array, geometry: ConvGeometry | PoolGeometry, *arrays: Array, others: tuple = ()) -> None:
    """Launches kernel(*arrays, geometry, *others), one thread for each element of the result."""
    if not result.size:
        return
    if not all(array.size for array in arrays):
        result.fill(0)  # sums over nothing: an empty batch or no channels
        return
    elementwise(kernel, result.size, *map(_five_dimensional, arrays), Geometry(**launch.fold(geometry)), *others)


def elementwise(kernel: Any, elements: int, *arguments: Any) -> None:
    """Launches a kernel with one thread for each of so many elements."""
    (blocks,), (threads,) = launch.plan(elements)
    if SIMULATED:
        threads = min(SIMULATED_THREADS, max(1, elements))
        blocks = -(-elements // threads)
    start(kernel, (blocks,), (threads,), *arguments)


def start(kernel: Any, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
    """Launches a kernel on the current stream: arrays, numbers and named tuples of them are its arguments."""
    if not prod(grid):
        return
    if SIMULATED:  # which copies every array back
        kernel[grid, block](*(a.copy() if _is_read_only(a) else a for a in arguments))
        return

    import cupy

    # Everything is on one stream, so Numba need not wait for whoever made the arrays, as it would do by itself.
    stream = cuda.external_stream(cupy.cuda.get_current_stream().ptr)
    arguments = tuple(cuda.as_cuda_array(a, sync=False) if isinstance(a, cupy.ndarray) else a for a in arguments)
    if prod(grid) >= FEW_BLOCKS:
        kernel[grid, block, stream](*arguments)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NumbaPerformanceWarning)
            kernel[grid, block, stream](*arguments)


def _is_read_only(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and not argument.flags.writeable


def _five_dimensional(array: Array) -> Array:
    """(N, C, spatial axes) with axes of size 1 in front of the spatial ones, until there are three."""
    return array.reshape(*array.shape[:2], *(1,) * (5 - array.ndim), *array.shape[2:])
