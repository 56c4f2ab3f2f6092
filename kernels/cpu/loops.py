"""Small pieces that the compiled kernels share."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from .compile import jit


@jit(inline=True)
def meeting(offset, size, count, step):
    """The range of positions o < count for which offset + o * step lies in 0..size - 1."""
    low = max(0, (step - 1 - offset) // step)
    return low, max(low, min(count, (size - 1 - offset) // step + 1))


@jit(inline=True)
def portion(thread, threads, number):
    """Begin and end of a thread's part of so many tasks: one after the other, about as many for each."""
    return thread * number // threads, (thread + 1) * number // threads


@intrinsic
def _move(_: Any, target: Any, source: Any, size: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, of, size = arguments
        byte = cgutils.voidptr_t
        cgutils.raw_memcpy(builder, builder.inttoptr(to, byte), builder.inttoptr(of, byte), size, 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


def copy(source, a, target, b, size):
    """target[b : b + size] = source[a : a + size] for flat arrays of one type; only inside compiled kernels.

    C's memcpy: for the short pieces that columns consist of, Numba's loops and slices cost several times as much.
    """
    raise NotImplementedError("copy can only be called from compiled code")


@overload(copy, inline="always")
def _copy(source, a, target, b, size):
    width = source.dtype.bitwidth // 8

    def call(source, a, target, b, size):
        _move(target.ctypes.data + b * width, source.ctypes.data + a * width, size * width)

    return call
