"""Passes over all elements of each channel, and sums over them: to be read beside ../cuda/channels.cuh.

The arrays are (batch, channels, places); channels-last that is (rows, channels, 1), with rows for a batch. A block is
`width` channels side by side times `members` threads for each. s is a Plan of ../cuda/channels.py.
"""

from __future__ import annotations

from typing import Any

from numba import cuda

from ..arrays import Array
from ..cuda.channels import Plan, plan
from ..cuda.fused import flat, is_last
from .launch import BLOCK, start


@cuda.jit(device=True)
def own_channel(s):
    return cuda.blockIdx.x * s.width + cuda.threadIdx.x % s.width


@cuda.jit(device=True)
def own_rows(s):
    """(first, end) of the rows of this thread, which takes every members-th."""
    begin = cuda.blockIdx.y * s.rows_of_part
    end, rows = begin + s.rows_of_part, s.batch * s.places
    return begin + cuda.threadIdx.x // s.width, end if end < rows else rows


@cuda.jit(device=True)
def add_up(shared, width, members):
    """Adds what the members of each channel of a block hold in shared memory, [row, thread], in a tree. Member 0 of a
    channel, which is thread number `channel`, gets it."""
    half = members // 2
    while half > 0:
        cuda.syncthreads()
        if cuda.threadIdx.x < half * width:
            for row in range(shared.shape[0]):
                shared[row, cuda.threadIdx.x] += shared[row, cuda.threadIdx.x + half * width]
        half //= 2


@cuda.jit(device=True)
def leave(shared, parts, s):
    """The joined part of a block goes to memory: parts[channel, row, block]."""
    channel = own_channel(s)
    if cuda.threadIdx.x < s.width and channel < s.channels:
        for row in range(shared.shape[0]):
            parts[channel, row, cuda.blockIdx.y] = shared[row, cuda.threadIdx.x]


@cuda.jit(device=True)
def collect(shared, parts):
    """All parts of the block's channel, added into shared[:, 0]."""
    for row in range(shared.shape[0]):
        shared[row, cuda.threadIdx.x] = 0
        for i in range(cuda.threadIdx.x, parts.shape[2], cuda.blockDim.x):
            shared[row, cuda.threadIdx.x] += parts[cuda.blockIdx.x, row, i]
    add_up(shared, 1, cuda.blockDim.x)


# ---- from the host
def lie(x: Array) -> tuple[bool, Plan]:
    """Whether x is channels-last, and how a pass over it is divided."""
    return is_last(x), plan(x.shape, is_last(x), BLOCK)


def three(x: Array, last: bool, dtype: Any) -> Array:
    """x (N, C, ...) as the kernels see it: (batch, channels, places), or (rows, channels, 1); a view where possible."""
    x, channels = flat(x, last, dtype), x.shape[1]
    return x.reshape(-1, channels, 1) if last else x.reshape(len(x), channels, -1)


def pass_over(kernel: Any, s: Plan, *arguments: Any) -> None:
    """Launches a pass over all elements."""
    start(kernel, (s.groups, s.parts), (s.width * s.members,), *arguments, s)


def for_channels(kernel: Any, s: Plan, *arrays: Any) -> None:
    """Launches what joins the parts of each channel: one block for each."""
    start(kernel, (s.channels,), (BLOCK,), *arrays)
