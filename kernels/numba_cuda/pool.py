"""Pooling and its adjoints as numba.cuda kernels, to be read beside ../cuda/pool.cu.

One thread computes one element of the result, nothing is added atomically.
Arrays: x (N, C, i0, i1, i2), y and indices (N, C, o0, o1, o2).
"""

from __future__ import annotations

from numba import cuda

from ..arrays import Array
from ..cuda.launch import common_type, operand
from ..geometry import PoolGeometry
from .launch import device_of, element, empty, input_at, output_at, run, thread_index


@cuda.jit
def max_pool_kernel(x, y, indices, g):
    """The largest element of each window and its place in the input plane. The first wins a tie, NaN wins over numbers,
    padding never wins."""
    index = thread_index()
    if index >= y.size:
        return
    n, c, o0, o1, o2 = element(index, y.shape)

    best = y.dtype.type(0)
    where = -1
    for k0 in range(g.kernel[0]):
        i0 = input_at(o0, k0, 0, g)
        if i0 < 0:
            continue
        for k1 in range(g.kernel[1]):
            i1 = input_at(o1, k1, 1, g)
            if i1 < 0:
                continue
            for k2 in range(g.kernel[2]):
                i2 = input_at(o2, k2, 2, g)
                if i2 < 0:
                    continue
                value = x[n, c, i0, i1, i2]
                first_nan = value != value and best == best
                if where < 0 or value > best or first_nan:
                    best = value
                    where = (i0 * g.input[1] + i1) * g.input[2] + i2
    y[n, c, o0, o1, o2] = best
    indices[n, c, o0, o1, o2] = where


@cuda.jit(device=True)
def first_window(i, axis, g):
    """The first window that can hold input position i on this axis."""
    start = i + g.padding[axis] - (g.kernel[axis] - 1) * g.dilation[axis]
    return (start - 1) // g.stride[axis] + 1 if start > 0 else 0


@cuda.jit(device=True)
def last_window(i, axis, g):
    """The last window that can hold input position i on this axis."""
    last = (i + g.padding[axis]) // g.stride[axis]
    return last if last < g.output[axis] else g.output[axis] - 1


@cuda.jit
def max_unpool_kernel(y, indices, x, g):
    """Adds each y where its index points, seen from the receiving end: an element of x asks the windows that can hold
    it. Scattering with cuda.atomic.add would add in a different order in every run."""
    index = thread_index()
    if index >= x.size:
        return
    n, c, i0, i1, i2 = element(index, x.shape)
    place = (i0 * g.input[1] + i1) * g.input[2] + i2

    total = x.dtype.type(0)
    for o0 in range(first_window(i0, 0, g), last_window(i0, 0, g) + 1):
        for o1 in range(first_window(i1, 1, g), last_window(i1, 1, g) + 1):
            for o2 in range(first_window(i2, 2, g), last_window(i2, 2, g) + 1):
                if indices[n, c, o0, o1, o2] == place:
                    total += y[n, c, o0, o1, o2]
    x[n, c, i0, i1, i2] = total


@cuda.jit(device=True)
def counted(o, axis, pad, g):
    """How many positions of window o count on this axis: those inside or, with `pad`, inside the padding on both sides.
    What ceil_mode hangs over that never counts."""
    count = 0
    for k in range(g.kernel[axis]):
        i = o * g.stride[axis] - g.padding[axis] + k * g.dilation[axis]
        if i < g.input[axis] + g.padding[axis] if pad else 0 <= i < g.input[axis]:
            count += 1
    return count


@cuda.jit(device=True)
def window_size(o0, o1, o2, pad, divisor, g):
    """What a window's sum is divided by: its divisor if there is one, else how many positions it has."""
    if divisor != 0:
        return divisor
    return counted(o0, 0, pad, g) * counted(o1, 1, pad, g) * counted(o2, 2, pad, g)


@cuda.jit
def avg_pool_kernel(x, y, g, pad, divisor):
    """The mean of each window."""
    index = thread_index()
    if index >= y.size:
        return
    n, c, o0, o1, o2 = element(index, y.shape)

    total = y.dtype.type(0)
    for k0 in range(g.kernel[0]):
        i0 = input_at(o0, k0, 0, g)
        if i0 < 0:
            continue
        for k1 in range(g.kernel[1]):
            i1 = input_at(o1, k1, 1, g)
            if i1 < 0:
                continue
            for k2 in range(g.kernel[2]):
                i2 = input_at(o2, k2, 2, g)
                if i2 >= 0:
                    total += x[n, c, i0, i1, i2]
    y[n, c, o0, o1, o2] = total / y.dtype.type(window_size(o0, o1, o2, pad, divisor, g))


@cuda.jit
def avg_unpool_kernel(y, x, g, pad, divisor):
    """Its adjoint, again from the receiving end: an element of x gets a share of every window that holds it."""
    index = thread_index()
    if index >= x.size:
        return
    n, c, i0, i1, i2 = element(index, x.shape)

    total = x.dtype.type(0)
    for k0 in range(g.kernel[0]):
        o0 = output_at(i0, k0, 0, g)
        if o0 < 0:
            continue
        for k1 in range(g.kernel[1]):
            o1 = output_at(i1, k1, 1, g)
            if o1 < 0:
                continue
            for k2 in range(g.kernel[2]):
                o2 = output_at(i2, k2, 2, g)
                if o2 < 0:
                    continue
                total += y[n, c, o0, o1, o2] / x.dtype.type(window_size(o0, o1, o2, pad, divisor, g))
    x[n, c, i0, i1, i2] = total


def max_pool(x: Array, *, geometry: PoolGeometry) -> tuple[Array, Array]:
    """x (N, C, *I) -> y (N, C, *O), and int32 indices of the same shape: where in the input plane each y was found."""
    g = geometry
    with device_of("max_pool", x=x):
        dtype = common_type("max_pool", x)
        x = operand("x", x, g.x_shape, dtype)
        y, indices = empty(x, g.y_shape, dtype), empty(x, g.y_shape, "int32")
        run(max_pool_kernel, y, g, x, y, indices)
    return y, indices


def max_unpool(y: Array, indices: Array, *, geometry: PoolGeometry) -> Array:
    """(N, C, *O) -> (N, C, *I): adds each y where its index points.

    The indices must be those of a max_pool of this geometry: an index that points out of its own window is not found.
    """
    g = geometry
    with device_of("max_unpool", y=y, indices=indices):
        dtype = common_type("max_unpool", y)
        y, indices = operand("y", y, g.y_shape, dtype), operand("indices", indices, g.y_shape, "int32")
        x = empty(y, g.x_shape, dtype)
        run(max_unpool_kernel, x, g, y, indices, x)
    return x


def avg_pool(x: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """x (N, C, *I) -> (N, C, *O), the mean of each window; ../reference/pool.py says what it is divided by."""
    g = geometry
    with device_of("avg_pool", x=x):
        dtype = common_type("avg_pool", x)
        x = operand("x", x, g.x_shape, dtype)
        y = empty(x, g.y_shape, dtype)
        run(avg_pool_kernel, y, g, x, y, others=(count_include_pad, divisor or 0))
    return y


def avg_unpool(y: Array, *, geometry: PoolGeometry, count_include_pad: bool, divisor: int | None) -> Array:
    """(N, C, *O) -> (N, C, *I), the adjoint of avg_pool"""
    g = geometry
    with device_of("avg_unpool", y=y):
        dtype = common_type("avg_unpool", y)
        y = operand("y", y, g.y_shape, dtype)
        x = empty(y, g.x_shape, dtype)
        run(avg_unpool_kernel, x, g, y, x, others=(count_include_pad, divisor or 0))
    return x
