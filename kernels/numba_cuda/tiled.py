"""Convolution as a product of matrices in tiles of shared memory: the step between conv.py, where each thread reads all
it needs from global memory, and the tensor cores of ../cuda/conv_gather.cu. The table uses conv.py; this is for the
course (docs/course).

Seen as a product, the rows are all places of the result, the columns its filters, and what is summed over are the
`depth` = channels x taps of one filter:  y[row, f] = sum over d of patch[row, d] * w[f, d].  The matrix of patches is
never written down: its elements are looked up in x where they are needed ("implicit").
"""

from __future__ import annotations

from math import prod

from numba import cuda

from ..arrays import Array
from ..cuda.launch import common_type, fold, operand
from ..geometry import ConvGeometry
from .launch import SIMULATED, Geometry, device_of, empty, input_at, start

TILE = 4 if SIMULATED else 16  # rows and columns of a tile; a block has a thread for each of its elements
PADDED = TILE + 1


@cuda.jit(device=True)
def patch(x, row, d, group, g):
    """x where element d of a filter of this group meets row number `row` of the result; 0 in the padding."""
    k2 = d % g.kernel[2]
    d //= g.kernel[2]
    k1 = d % g.kernel[1]
    d //= g.kernel[1]
    k0 = d % g.kernel[0]
    c = d // g.kernel[0]
    o2 = row % g.output[2]
    row //= g.output[2]
    o1 = row % g.output[1]
    row //= g.output[1]
    o0 = row % g.output[0]
    n = row // g.output[0]
    i0 = input_at(o0, k0, 0, g)
    i1 = input_at(o1, k1, 1, g)
    i2 = input_at(o2, k2, 2, g)
    if i0 < 0 or i1 < 0 or i2 < 0:
        return x.dtype.type(0)
    return x[n, group * (g.in_channels // g.groups) + c, i0, i1, i2]


@cuda.jit
def conv_tiled_kernel(x, w, y, g):
    """x (N, C, i0, i1, i2), w (F, depth), y (N, F, places). A block computes TILE rows of TILE filters of one group."""
    rows = cuda.shared.array((TILE, TILE), x.dtype)  # [row, d]
    filters = cuda.shared.array((TILE, PADDED), x.dtype)  # [filter, d]; the extra column: see below
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y  # threads of a warp differ in tx
    group, per_group = cuda.blockIdx.z, g.out_channels // g.groups
    row = cuda.blockIdx.x * TILE + ty  # what this thread fetches, and the row that it sums
    f = cuda.blockIdx.y * TILE + ty  # the filter that it fetches
    depth, places = w.shape[1], y.shape[2]

    total = y.dtype.type(0)
    for first in range(0, depth, TILE):
        d = first + tx  # neighbours along tx read neighbours in w: few lines of memory for a warp, not one a thread
        rows[ty, tx] = x.dtype.type(0)
        filters[ty, tx] = x.dtype.type(0)
        if d < depth:
            if row < g.batch * places:
                rows[ty, tx] = patch(x, row, d, group, g)
            if f < per_group:
                filters[ty, tx] = w[group * per_group + f, d]
        cuda.syncthreads()  # nobody reads before all have written
        for i in range(TILE):
            # filters[tx, i]: without the extra column all tx would fall on few of the 32 banks and wait for each other
            total += rows[ty, i] * filters[tx, i]
        cuda.syncthreads()  # nobody writes before all have read

    column = cuda.blockIdx.y * TILE + tx
    if row < g.batch * places and column < per_group:
        y[row // places, group * per_group + column, row % places] = total


def conv_tiled(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (K, C/G, *k) -> (N, K, *O)"""
    g = geometry
    with device_of("conv_tiled", x=x, w=w):
        dtype = common_type("conv_tiled", x, w)
        x, w = operand("x", x, g.x_shape, dtype), operand("w", w, g.w_shape, dtype)
        y = empty(x, g.y_shape, dtype)
        if not w.size:
            y.fill(0)  # sums over nothing
        elif y.size:
            folded = Geometry(**fold(g))
            x = x.reshape(*x.shape[:2], *folded.input)
            tiles = (-(-g.batch * prod(g.output) // TILE), -(-g.out_channels // g.groups // TILE), g.groups)
            flat = y.reshape(*y.shape[:2], -1)
            start(conv_tiled_kernel, tiles, (TILE, TILE), x, w.reshape(len(w), -1), flat, folded)
    return y
