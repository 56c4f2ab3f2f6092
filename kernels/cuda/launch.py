"""From a geometry and CuPy arrays to a running kernel. CuPy is imported when a kernel is first launched."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Array, namespace
from ..geometry import ConvGeometry, PoolGeometry

HERE = Path(__file__).parent
THREADS = 256  # of a block
INT_LIMIT = 2**31
PLAIN_SHARED = 48 * 1024  # bytes of dynamic shared memory that a kernel may have without asking for more
SCALARS = {"float32": "float", "float64": "double"}  # dtype -> what `Scalar` means in the .cu files
STORAGE = {**SCALARS, "float16": "Half", "bfloat16": "Bfloat16"}  # and with numbers.cuh, which computes these in float

# struct Geometry of geometry.cuh, field by field; ints only, so there is no padding between them
GEOMETRY = np.dtype(
    [(name, np.int32) for name in ("batch", "in_channels", "out_channels", "groups")]
    + [(name, np.int32, 3) for name in ("input", "kernel", "output", "stride", "padding", "dilation")]
)


@lru_cache(maxsize=4096)
def fold(geometry: ConvGeometry | PoolGeometry) -> dict[str, Any]:
    """The fields of GEOMETRY for a geometry of one to three spatial axes; a pooling has as many channels out as in.

    Raises NotImplementedError for more axes, ValueError where a position would not fit 32 bits.
    """
    g = geometry
    if g.rank > 3:
        raise NotImplementedError(f"CUDA kernels take one to three spatial axes, the geometry has {g.rank}")
    if isinstance(g, ConvGeometry):
        channels = {"in_channels": g.in_channels, "out_channels": g.out_channels, "groups": g.groups}
        padding = tuple(before for before, _ in g.padding)
    else:
        channels = {"in_channels": g.channels, "out_channels": g.channels, "groups": 1}
        padding = g.padding

    reach = [(o - 1) * s + d * (k - 1) for o, s, d, k in zip(g.output, g.stride, g.dilation, g.kernel, strict=True)]
    widest = [i + p for i, p in zip(g.input, padding, strict=True)]
    if max(g.batch, *channels.values(), *g.stride, *g.dilation, *reach, *widest) >= INT_LIMIT:
        raise ValueError(f"CUDA kernels count positions and channels in 32 bits; they do not fit in {g}")
    if isinstance(g, PoolGeometry) and np.prod(g.input, dtype=object) >= INT_LIMIT:
        raise ValueError(f"indices of a pooling have 32 bits; an input plane of {g.input} has too many elements")

    ones, zeros = (1,) * (3 - g.rank), (0,) * (3 - g.rank)
    return {
        "batch": g.batch,
        **channels,
        "input": ones + g.input,
        "kernel": ones + g.kernel,
        "output": ones + g.output,
        "stride": ones + g.stride,
        "padding": zeros + padding,
        "dilation": ones + g.dilation,
    }


@lru_cache(maxsize=4096)
def struct(geometry: ConvGeometry | PoolGeometry) -> np.ndarray:
    """The geometry as a kernel argument, passed by value."""
    fields = fold(geometry)
    packed = np.array(tuple(fields[name] for name in GEOMETRY.fields or ()), GEOMETRY)
    packed.flags.writeable = False
    return packed


LATE = {kind: np.dtype([("value", kind), ("place", np.uint64)]) for kind in ("float64", "uint64")}  # struct Late


def number(x: Any, kind: str = "float64") -> np.ndarray:
    """A number as the argument Late<T> of a kernel, by value: Number, or with kind "uint64" Key. A CuPy array of one
    element (capture.numbers gives such) is read when the kernel runs."""
    packed = np.zeros((), LATE[kind])
    if isinstance(x, (int, float, np.generic)):
        packed["value"] = x
    elif x.size == 1 and x.dtype == kind:
        packed["place"] = x.data.ptr
    else:
        raise TypeError(f"a number of a kernel is {kind}, not an array {x.dtype}{list(x.shape)}")
    return packed


def plan(elements: int) -> tuple[tuple[int], tuple[int]]:
    """(grid, block) with a thread for each element. The grid is (0,) where there are none: nothing to launch."""
    blocks = -(-elements // THREADS)
    if blocks >= INT_LIMIT:
        raise ValueError(f"the result has {elements} elements, more than one launch can compute")
    return (blocks,), (THREADS,)


@cache
def source(file: str) -> str:
    """Text of a .cu file with its local includes put in place: CuPy's disk cache would not notice a changed header."""
    lines = (HERE / file).read_text().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if header := re.match(r'#include "(.+)"$', line):
            lines[number - 1] = f'#line 1 "{header[1]}"\n{source(header[1])}#line {number + 1} "{file}"\n'
    return "".join(lines)


def common_type(operation: str, *arrays: Array, among: Collection[str] = tuple(SCALARS)) -> np.dtype:
    """The dtype that holds all of the arrays. Raises NotImplementedError unless it is `among` these."""
    dtype = np.result_type(*(a.dtype for a in arrays))
    if dtype.name not in among:
        given = ", ".join(a.dtype.name for a in arrays)
        *others, last = among
        raise NotImplementedError(
            f"{operation} on CUDA takes {', '.join(others)} and {last}, not {dtype.name} ({given})"
        )
    return dtype


def device_of(operation: str, **arrays: Array) -> Any:
    """The device all arrays live on, as a context. Raises where they are not CuPy arrays or not in one place."""
    import cupy

    for name, array in arrays.items():
        if not isinstance(array, cupy.ndarray):
            raise TypeError(f"{operation} on CUDA takes CuPy arrays; {name} is a {type(array).__name__}")
    devices = {name: array.device for name, array in arrays.items()}
    if len({device.id for device in devices.values()}) > 1:
        places = ", ".join(f"{name} on {device.id}" for name, device in devices.items())
        raise ValueError(f"{operation} needs all arrays on one CUDA device: {places}")
    return next(iter(devices.values()))


def operand(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array as the kernels read it: C-contiguous and of this dtype. Raises ValueError unless it has this shape."""
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, its geometry says {shape}")
    return namespace(array).ascontiguousarray(array, dtype)


def channels_last(name: str, array: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """The array (N, C, *S), of this dtype, with its channels innermost in memory: as it is, or else copied.

    Raises ValueError unless it has this shape.
    """
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, its geometry says {shape}")
    xp = namespace(array)
    return xp.moveaxis(xp.ascontiguousarray(xp.moveaxis(array, 1, -1), dtype), -1, 1)


def empty_channels_last(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array (N, C, *S) on the current device, its channels innermost in memory."""
    batch, channels, *size = shape
    flat = empty((batch, *size, channels), dtype)
    return flat.transpose(0, flat.ndim - 1, *range(1, flat.ndim - 1))


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """An uninitialised array on the current device."""
    import cupy

    return cupy.empty(shape, dtype)


def run(file: str, kernel: str, scalar: np.dtype, elements: int, *arguments: Any) -> None:
    """Launches a kernel of a .cu file, one thread for each element, on the current device and its current stream."""
    grid, block = plan(elements)
    if elements:
        import cupy

        function = load(file, kernel, (f"-DScalar={STORAGE[scalar.name]}",), cupy.cuda.runtime.getDevice())
        function(grid, block, arguments)


@cache
def module(file: str, options: tuple[str, ...], behind: str = "") -> Any:
    """The compiled file (cupy.RawModule) with the text `behind` it; CuPy keeps what it compiles on disk, too."""
    import cupy

    return cupy.RawModule(code=source(file) + behind, options=("-std=c++17", *options))


@cache
def load(file: str, kernel: str, options: tuple[str, ...], device: int, behind: str = "", shared: int = 0) -> Any:
    """A kernel, loaded on the given device, which is the current one, with `shared` bytes of dynamic shared memory."""
    function = module(file, options, behind).get_function(kernel)
    if shared > PLAIN_SHARED:
        function.max_dynamic_shared_size_bytes = shared
    return function


@cache
def properties(device: int) -> tuple[int, int, int]:
    """Of a device: compute capability (90 is 9.0), multiprocessors, bytes of shared memory that a block may have."""
    import cupy

    found = cupy.cuda.Device(device)
    attributes = found.attributes
    return (
        int(found.compute_capability),
        attributes["MultiProcessorCount"],
        attributes["MaxSharedMemoryPerBlockOptin"],
    )


def forget() -> None:
    """Drops every compiled kernel: for whoever replaces the library behind the name cupy."""
    module.cache_clear()
    load.cache_clear()
    properties.cache_clear()
