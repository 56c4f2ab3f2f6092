"""Products of matrices by compiled loops (product_loops.py): who does what, and in which order.

Everything here is a pure function of sizes, strides and the number of threads, and kept for the next call.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product as pairs
from typing import NamedTuple

import numpy as np

from .address import address
from .product_loops import GROUP, TILES, UNIT, product
from .vector import BYTES, PANEL

Array = np.ndarray


CHUNK = 2**16  # bytes of a packed panel
BLOCK = 2**20  # bytes of A that are used for all panels before the next ones: half of a core's L2 cache
FAR = 256  # terms from which on an A that lies along columns is copied: each of its lines may be on another page
# cycles for a number that is packed, by copying and by transposing, beside 2 for a multiplication of a vector
COPIED, TRANSPOSED, GATHERED = 0.1, 0.4, 0.5
DIRECT = 4  # tiles of rows up to which a panel of B is read as it lies


class Plan(NamedTuple):
    """The division of a product C = A B, or C^T = B^T A^T if `turned`."""

    turned: bool
    packed: bool
    batch_parts: int
    row_parts: int
    column_parts: int
    cycles: float  # estimate


def multiply(a: Array, b: Array, bias: Array | None = None, workers: int = 1) -> Array:
    """(..., n, k) @ (..., k, m) + bias (m,): stacks of equal length, or none. float32 or float64, of one type."""
    a, b = _readable(a), _readable(b)
    plan = _plan(a.shape, a.strides, b.shape, b.strides, a.itemsize, workers)
    stack = a.shape[0] if a.ndim == 3 else 1
    out = np.empty((stack, a.shape[-2], b.shape[-1]), a.dtype)
    turned, numbers, space = plan
    if turned:
        a, b = b, a
    memory = np.empty(space, np.uint8)
    if bias is not None:
        bias = np.require(bias, requirements=["C", "A"])
    product(workers, out, memory, numbers, address(a), address(b), 0 if bias is None else address(bias))
    return out if a.ndim == 3 else out[0]


def _readable(a: Array) -> Array:
    """a, or a copy if its rows and its columns both have gaps."""
    rows, columns = a.strides[-2:]
    size = a.itemsize
    if a.flags.aligned and (columns == size or rows == size or 1 in a.shape[-2:]):
        return a
    return np.ascontiguousarray(a)


@lru_cache(maxsize=4096)
def _plan(
    a_shape: tuple[int, ...], a_strides: tuple[int, ...], b_shape: tuple[int, ...], b_strides: tuple[int, ...],
    size: int, workers: int,
) -> tuple[bool, Array, int]:  # fmt: skip
    """Whether A and B change places, the numbers for `product`, and how much memory it needs."""
    (n, k), m = a_shape[-2:], b_shape[-1]
    stack = a_shape[0] if len(a_shape) == 3 else 1
    a_batch, a_row, a_step = _strides(a_shape, a_strides, size)
    b_batch, b_step, b_column = _strides(b_shape, b_strides, size)
    best = division(stack, n, k, m, a_step == size, b_column == size, size, workers)
    out_row = m * size
    if best.turned:
        n, m = m, n
        a_batch, a_row, a_step, b_batch, b_step, b_column = b_batch, b_column, b_step, a_batch, a_step, a_row
    chunks = max(1, -(-k * PANEL // CHUNK))
    chunk = max(1, -(-k // chunks))
    block = max(4 * TILES[0], BLOCK // (chunk * size) // TILES[0] * TILES[0])
    gathered = a_step != size and k > FAR
    space = PANEL * (1 + TILES[0] + GROUP * chunk)
    if gathered:
        space += -(-min(block, n) * (chunk * size + PANEL) // PANEL) * PANEL
    used = best.batch_parts * best.row_parts * best.column_parts
    numbers = (
        stack, n, k, m, a_batch, a_row, a_step, b_batch, b_step, b_column, n * m * size, out_row, best.turned,
        best.packed, gathered, best.row_parts, best.column_parts, block, chunk, space,
    )  # fmt: skip
    return best.turned, np.array(numbers, np.int64), used * space + BYTES


def _strides(shape: tuple[int, ...], strides: tuple[int, ...], size: int) -> tuple[int, int, int]:
    """Of the stack, the rows and the columns; where there is only one of them, what suits."""
    rows, columns = strides[-2:]
    if shape[-1] == 1 and rows != size:
        columns = size
    if shape[-2] == 1 and columns != size:
        rows = size
    return strides[0] if len(shape) == 3 else 0, rows, columns


def division(stack: int, n: int, k: int, m: int, a_along: bool, b_along: bool, size: int, workers: int) -> Plan:
    """The cheapest division by an estimate in cycles. a_along, b_along: whether the rows of A and B have no gaps."""
    lanes = BYTES // size
    plans = []
    for turned in (False, True):
        rows, columns, easy, far = (m, n, not a_along, b_along) if turned else (n, m, b_along, not a_along)
        for batch, high in pairs(range(1, workers + 1), repeat=2):
            if workers % batch or (workers // batch) % high or batch > stack:
                continue
            wide = workers // batch // high
            here = -(-rows // UNIT // high) * UNIT if high > 1 else rows
            vectors = -(-columns // (lanes * wide))
            packed = not easy or here > DIRECT * TILES[0]
            cycles = k * vectors * (_row_cycles(here) + packed * lanes * (COPIED if easy else TRANSPOSED))
            cycles += here * (vectors * lanes * turned + k * (far and k > FAR) * GATHERED)
            plans.append(Plan(turned, packed, batch, high, wide, cycles * -(-stack // batch)))
    return min(plans, key=lambda plan: plan.cycles)


def _row_cycles(rows: int) -> float:
    """For each term and vector of columns."""
    whole, rest = divmod(rows, TILES[0])
    cycles = whole * TILES[0] / 2
    for tile in TILES[1:]:
        cycles += rest // tile * max(tile, 4) / 2
        rest %= tile
    return cycles
