"""Which algorithm computes a convolution on the CPU: one pure function of its sizes.

plain      small work: NumPy's strided windows and a stack of matrix products. It needs no compiler and starts no
           threads, so tests, examples and small networks never wait for either.
depthwise  one channel in and one out of each group
im2col     few input channels: windows copied side by side, in cache
col2im     few output channels: all products of source and weight first, then their sums, in cache
winograd   3x3 kernels with stride 1, 4x4 with stride 2, in planes (any kernel along the depth), float32: F(4, r) and
           F(2, r), 2 to 4 times fewer multiplications
direct     everything else: products straight from the arrays
reference  numbers that have no compiled kernel

Where several could do it, an estimate of the cost decides. Its unit is a multiply-add of the inner loops, and it is
right up to a third or so (benchmarks/README.md).
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import NamedTuple

import numpy as np

from ..geometry import ConvGeometry

SMALL = 2**20  # multiply-adds: NumPy does them in 30-100 us, about the fixed cost of a compiled, parallel call

# what things cost, in multiply-adds of `direct` (170 GFLOP/s): fitted to the times of 24 layers
POINT = 22  # one number of a tile, in or out, transformed
WEIGHT = 65  # one number of the weight, transformed or packed: mostly for the cache misses
READ = 10  # one number of the transformed weight, read by a thread
POSITION = 2000  # finding the rows of one position of the result, and storing it
TAP = 13  # finding the rows of one tap, in channels
TERM = 5  # the same for one of Winograd's terms
SHORT = 1.35  # a multiply-add of sums that are short, at the points, or long, of the weight's gradient
RUN = 450  # one row of a window, copied
ADD = 800  # or added where it belongs
STORE = 1000  # besides, one window: finding its place, and the row of the result
VECTOR = 16  # channels are computed by so many
LIMIT = 2**22  # numbers as points of one thread, about


class Choice(NamedTuple):
    """An algorithm, and what it is expected to take."""

    algorithm: str
    tile: int = 0  # Winograd's: outputs of a tile in height and width
    multiply_adds: int = 0  # in its inner loops
    cost: float = 0  # for each thread, in multiply-adds, everything included
    workspace: int = 0  # bytes, besides inputs and result

    @property
    def name(self) -> str:
        return f"{self.algorithm} F({self.tile}x{self.tile})" if self.tile else self.algorithm


def is_small(g: ConvGeometry) -> bool:
    """Whether starting threads (and compiling, the first time) would take longer than the work itself."""
    return g.multiply_adds <= SMALL


def is_depthwise(g: ConvGeometry) -> bool:
    return g.groups == g.in_channels == g.out_channels > 1


@lru_cache(maxsize=4096)
def choose(name: str, g: ConvGeometry, dtype: np.dtype, threads: int, precise: bool) -> Choice:
    """The algorithm for `name`: "conv", "conv_input" or "conv_weight"."""
    if dtype not in (np.float32, np.float64) or g.rank > 3:
        return Choice("reference", multiply_adds=g.multiply_adds)
    if is_small(g):
        windows = g.batch * prod(g.output) * g.in_channels * prod(g.kernel)
        return Choice("plain", 0, g.multiply_adds, g.multiply_adds, windows * dtype.itemsize)
    if is_depthwise(g):
        return Choice("depthwise", 0, g.multiply_adds, g.multiply_adds / threads)
    return min(candidates(name, g, dtype, threads, precise), key=lambda choice: choice.cost)


def candidates(name: str, g: ConvGeometry, dtype: np.dtype, threads: int, precise: bool) -> list[Choice]:
    """What can compute a convolution that is neither small nor depthwise."""
    out = [_direct(name, g, dtype, threads)]
    if g.groups == 1:
        few_outputs = (g.in_channels if name == "conv_input" else g.out_channels) < VECTOR
        if name != "conv_input" and g.in_channels <= VECTOR:
            out.append(_im2col(name, g, dtype, threads))
        if few_outputs and (name == "conv_input" or (name == "conv" and reverses(g))):
            out.append(_col2im(name, g, dtype, threads))
    if dtype == np.float32 and winograd_covers(g):
        out += [_winograd(name, g, dtype, threads, tile) for tile in ((2,) if precise else (2, 4))]
    return out


def reverses(g: ConvGeometry) -> bool:
    """Whether a convolution is a transposed one with another weight: with the kernel backwards."""
    reach = [d * (k - 1) for k, d in zip(g.kernel, g.dilation, strict=True)]
    return set(g.stride) == {1} and all(max(p) <= r for p, r in zip(g.padding, reach, strict=True))


def winograd_covers(g: ConvGeometry) -> bool:
    if g.rank == 1 or g.groups > 1 or g.dilation[-2:] != (1, 1):
        return False
    (kh, kw), (sh, sw) = g.kernel[-2:], g.stride[-2:]
    if kh != kw or sh != sw or (g.rank == 3 and g.stride[0] > 1):
        return False
    return (sh, kh) in ((1, 3), (2, 4))


def _whole(channels: int) -> int:
    return -(-channels // VECTOR) * VECTOR


def _direct(name: str, g: ConvGeometry, dtype: np.dtype, threads: int) -> Choice:
    run, deep = g.in_channels // g.groups, g.out_channels // g.groups
    if name == "conv_input":
        run, deep = deep, run
    weight = prod(g.w_shape)
    cost = g.multiply_adds * (1 + TAP / run) * _whole(deep) / deep
    if name == "conv_weight":  # which changes its layout twice
        cost = SHORT * cost + 3 * WEIGHT * weight
    elif name == "conv_input":  # every phase of the stride looks through the whole weight
        cost += WEIGHT * weight * prod(g.stride) + POSITION * g.batch * prod(g.input)
    else:
        cost += WEIGHT * weight + POSITION * g.batch * prod(g.output)
    return Choice("direct", 0, g.multiply_adds, cost / threads, weight * dtype.itemsize)


def _im2col(name: str, g: ConvGeometry, dtype: np.dtype, threads: int) -> Choice:
    deep, windows, weight = g.out_channels, g.batch * prod(g.output), prod(g.w_shape)
    cost = g.multiply_adds * _whole(deep) / deep * (SHORT if name == "conv_weight" else 1)
    cost += windows * (_runs(g) * RUN + STORE) + WEIGHT * weight
    workspace = weight * dtype.itemsize * (threads if name == "conv_weight" else 1)
    return Choice("im2col", 0, g.multiply_adds, cost / threads, workspace)


def _runs(g: ConvGeometry) -> int:
    """The runs of numbers that a window is in a channels-last image."""
    return prod(g.kernel[:-1]) if g.dilation[-1] == 1 else prod(g.kernel)


def _col2im(name: str, g: ConvGeometry, dtype: np.dtype, threads: int) -> Choice:
    run, deep, source = g.in_channels, g.out_channels, g.input
    if name == "conv_input":
        run, deep, source = deep, run, g.output
    positions, columns = g.batch * prod(source), deep * prod(g.kernel)
    cost = positions * (_whole(columns) * (run + TAP) + _runs(g) * ADD + STORE)
    return Choice("col2im", 0, positions * columns * run, cost / threads, run * columns * dtype.itemsize)


def _winograd(name: str, g: ConvGeometry, dtype: np.dtype, threads: int, tile: int) -> Choice:
    stride, depth = g.stride[-1], g.kernel[0] if g.rank == 3 else 1
    points = (tile + g.kernel[-1] // stride - 1) ** 2
    run, deep, size = g.in_channels, g.out_channels, g.output
    if name == "conv_input":
        run, deep, size = deep, run, (*g.input[:-2], *(-(-n // stride) for n in g.input[-2:]))
    layers = size[0] if g.rank == 3 else 1
    empty = (g.dilation[0] if g.rank == 3 else 1) * (depth - 1)
    tiles = g.batch * prod(-(-n // tile) for n in size[-2:])
    weight = points * depth * stride**2 * run * deep
    outputs = layers * _whole(deep) * (stride**2 if name == "conv_input" else 1)
    transformed = points * tiles * ((layers + empty) * _whole(run) * stride**2 + outputs)
    lookup = TAP if name == "conv_weight" else TERM
    products = SHORT * tiles * layers * weight * (1 + lookup / run) * _whole(deep) / deep
    cost = (products + transformed * POINT + weight * WEIGHT) / threads + weight * READ
    workspace = (weight + min(transformed, threads * LIMIT)) * dtype.itemsize
    return Choice("winograd", tile, tiles * layers * weight, cost, workspace)
