"""Compiled products of matrices: C = A B + bias, float32 and float64; docs/kernels/products.md explains them.

The inner loop multiplies up to TILES[0] rows of A by a panel of B, two vector registers wide, in sums that stay in
registers. It reads single numbers of A, which may lie along rows or along columns as they like; a panel of B is packed
once for all rows, or read as it lies where the rows are few.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compile import jit, threaded
from .vector import BYTES, INT, PANEL, REGISTERS, VECTORS, _Code, _like, transpose, width_of

GROUP = 4  # panels that are copied together
LINES = 16  # of them at a time
UNIT = 4  # rows by which they are divided among threads
# rows of a tile, in the order in which they are tried
TILES = (12, 8, 4, 1) if REGISTERS == 32 else (6, 4, 2, 1)
# numbers of a plan (products.py), which tells `product` what to do; distances are bytes
(BATCH, ROWS, TERMS, COLUMNS, A_BATCH, A_ROW, A_STEP, B_BATCH, B_STEP, B_COLUMN, OUT_BATCH, OUT_ROW, TURNED, PACKED,
 GATHERED, ROW_PARTS, COLUMN_PARTS, BLOCK, CHUNK, SPACE) = range(20)  # fmt: skip


@intrinsic
def tile(_: Any, like: Any, rows: Any, terms: Any, a: Any, row: Any, step: Any, b: Any, pitch: Any, start: Any,
         start_row: Any, out: Any, out_row: Any, count: Any, ahead: Any, ahead_step: Any) -> Any:  # fmt: skip
    """out[i, :count] = start[i, :count] + the sum over e < terms of a[i, e] * b[e, :count], for i < rows.

    rows is one of TILES. a[i, e] is at address a + i * row + e * step, of which one is the width of a number; b[e] at
    b + e * pitch, a vector if count is not more than that, else a panel: all of it is read. The rows of start and out,
    which may be the same, begin start_row and out_row apart. All but rows, terms and count are bytes. Meanwhile the
    cache lines at ahead + e * ahead_step, of what is read next, are brought nearer; they may be anywhere.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        width = _like(like).bitwidth
        name = f"minidl.tile.{width}"
        function = builder.module.globals.get(name)
        if function is None:
            # one function for all calls
            function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [INT] * 14), name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            body = ir.IRBuilder(function.append_basic_block("entry"))
            _write_tile(_Code(body, _like(like)), function.args)
            body.ret_void()
        builder.call(function, arguments[1:])
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 14), generate


def _write_tile(code: _Code, arguments: Any) -> None:
    rows, terms, a, row, step, b, pitch, start, start_row, out, out_row, count, ahead, ahead_step = arguments
    builder = code.b
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = code.function("llvm.prefetch.p0", ir.VoidType(), [byte, flag, flag, flag])

    def fetch(address: Any) -> None:
        # to be read, into the second-level cache, as data
        builder.call(prefetch, [builder.inttoptr(address, byte), *(ir.Constant(flag, n) for n in (0, 2, 1))])

    def product(number: int, along: bool) -> None:
        masks = code.masks(count)
        times = lambda i, by: builder.mul(code.whole(i), by)
        begin = [code.add(start, times(i, start_row)) for i in range(number)]
        sums = [
            code.load_some(code.add(place, j * BYTES), masks[j]) for place in begin for j in range(code.vectors)
        ]  # fmt: skip
        places = [code.add(a, times(i, row)) for i in range(number)] if along else []

        def body(e: Any, values: list[Any]) -> list[Any]:
            at, soon, *sums = values
            fetch(soon)
            vectors = [code.load(code.add(at, j * BYTES), code.vector) for j in range(code.vectors)]
            if along:
                of = [builder.add(place, builder.mul(e, code.whole(code.size))) for place in places]
            else:
                of = [code.add(builder.add(a, builder.mul(e, step)), i * code.size) for i in range(number)]
            return [builder.add(at, pitch), builder.add(soon, ahead_step), *code.step(sums, of, vectors)]

        # not unrolled: a step of a whole tile is 24 multiplications, beside which the loop's own work is nothing
        _, _, *sums = code.loop(terms, 1, [b, ahead, *sums], body)
        code.put(sums, [code.add(out, times(i, out_row)) for i in range(number)], masks)

    def either(number: int) -> None:
        along = builder.zext(builder.icmp_signed("==", step, code.whole(code.size)), INT)
        cases = {1: lambda: product(number, True), 0: lambda: product(number, False)}
        code.switch(along, cases if number > 1 else {1: cases[0], 0: cases[0]})

    code.by_width(count, lambda: code.switch(rows, {number: partial(either, number) for number in TILES}))


@intrinsic
def copy_rows(_: Any, like: Any, number: Any, source: Any, pitch: Any, count: Any, target: Any, gap: Any) -> Any:
    """`number` times a panel's row at address target + i * gap: `count` numbers from source + i * pitch, then zeros.

    If they overlap, the later one counts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, number, source, pitch, count, target, gap = arguments
        code = _Code(builder, _like(like))
        masks = code.masks(count)

        def body(_: Any, places: list[Any]) -> list[Any]:
            source, target = places
            for j in range(VECTORS):
                code.store(code.load_some(code.add(source, j * BYTES), masks[j]), code.add(target, j * BYTES))
            return [builder.add(source, pitch), builder.add(target, gap)]

        code.loop(number, 1, [source, target], body)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 6), generate


@intrinsic
def fill(_: Any, like: Any, source: Any, target: Any) -> Any:
    """A panel's row at address target: copies of the number at address source."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, target = arguments
        code = _Code(builder, _like(like))
        value = code.spread(code.load(source, code.real), code.vector)
        for j in range(VECTORS):
            code.store(value, code.add(target, j * BYTES))
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 2), generate


@jit(inline=True)
def exchange(like, source, pitch, rows, columns, target, gap):
    """Row i < rows of `columns` numbers at source + i * pitch becomes column i of the rows at target + j * gap."""
    width = width_of(like)
    lanes = BYTES // width
    for i in range(0, rows, lanes):
        for j in range(0, columns, lanes):
            number = min(lanes, rows - i)
            transpose(
                like, source + i * pitch + j * width, pitch, number, min(lanes, columns - j),
                target + j * gap + i * width, gap, number,
            )  # fmt: skip


@jit(inline=True)
def pack(like, b, step, column, terms, columns, panels, gap):
    """panels (columns / panel, terms, PANEL), gap bytes apart: b[e, j], at b + e * step + j * column, for j < columns.

    One of step and column is the width of a number. What is copied is read along its lines, a few lines of all panels
    at a time: each line may be on a page of its own.
    """
    panel = PANEL // width_of(like)
    if column == width_of(like):
        for e in range(0, terms, LINES):
            for j in range(0, columns, panel):
                copy_rows(
                    like, min(LINES, terms - e), b + e * step + j * column, step, columns - j,
                    panels + j // panel * gap + e * PANEL, PANEL,
                )  # fmt: skip
    else:
        for j in range(0, columns, panel):
            exchange(like, b + j * column, column, min(panel, columns - j), terms, panels + j // panel * gap, PANEL)


@jit(inline=True)
def next_tile(left):
    """Rows of the next tile, where so many are left."""
    for rows in TILES:
        if rows <= left:
            return rows
    return 1


@threaded
def product(thread, threads, out, memory, plan, a, b, bias):
    """out (batch, rows, columns) = A B + bias as `plan` says; a, b and bias are addresses, or 0 for no bias.

    Each thread computes some of the batch x some of the rows x some of the columns. memory: plan[SPACE] bytes for each
    thread, and those of a vector.
    """
    like, ground, target_of_all = out[0, 0, 0], np.int64(memory.ctypes.data), np.int64(out.ctypes.data)
    width = width_of(like)
    lanes, panel = BYTES // width, PANEL // width
    n, k, m = plan[ROWS], plan[TERMS], plan[COLUMNS]
    b_step, column, out_row = plan[B_STEP], plan[B_COLUMN], plan[OUT_ROW]
    turned, gathered, packed = plan[TURNED], plan[GATHERED], plan[PACKED]
    chunk, block = plan[CHUNK], plan[BLOCK]
    column_parts, row_parts = plan[COLUMN_PARTS], plan[ROW_PARTS]
    parts = row_parts * column_parts
    batch_parts, batch, at = threads // parts, thread // parts, thread % parts
    # rows are divided by smaller tiles, columns by vectors
    units, vectors = (n + UNIT - 1) // UNIT, (m + lanes - 1) // lanes
    at_row, at_column = at // column_parts, at % column_parts
    top, bottom = units * at_row // row_parts * UNIT, min(n, units * (at_row + 1) // row_parts * UNIT)
    left, right = vectors * at_column // column_parts * lanes, min(m, vectors * (at_column + 1) // column_parts * lanes)
    zeros = (ground + BYTES - 1) // BYTES * BYTES + thread * plan[SPACE]
    sums = zeros + PANEL
    panels = sums + TILES[0] * PANEL
    gathering = panels + GROUP * chunk * PANEL
    copy_rows(like, 1, zeros, 0, 0, zeros, PANEL)
    for matrix in range(plan[BATCH] * batch // batch_parts, plan[BATCH] * (batch + 1) // batch_parts):
        from_a, from_b = a + matrix * plan[A_BATCH], b + matrix * plan[B_BATCH]
        to = target_of_all + matrix * plan[OUT_BATCH]
        for high in range(top, bottom, block):
            low = min(high + block, bottom)
            for e in range(0, max(k, 1), chunk):
                terms = min(chunk, k - e)
                row, step = plan[A_ROW], plan[A_STEP]
                apart = terms * width + PANEL  # what copy_rows writes behind a tile must not meet the next one
                for e0 in range(0, terms if gathered else 0, LINES):
                    i = high
                    while i < low:
                        rows = next_tile(low - i)
                        target = gathering + (i - high) * apart + e0 * rows * width
                        source = from_a + i * row + (e + e0) * step
                        # a panel may be narrower than a tile; from the back, as the zeros behind a part are too many
                        for part in range((rows - 1) // panel * panel, -1, -panel):
                            copy_rows(
                                like, min(LINES, terms - e0), source + part * width, step, rows - part,
                                target + part * width, rows * width,
                            )  # fmt: skip
                        i += rows
                for j in range(left, right, panel):
                    count = min(panel, right - j)
                    here, pitch = from_b + e * b_step + j * column, b_step
                    if packed:
                        place = (j - left) // panel % GROUP
                        if place == 0:
                            pack(
                                like, here, b_step, column, terms, min(GROUP * panel, right - j), panels, chunk * PANEL
                            )
                        here, pitch = panels + place * chunk * PANEL, PANEL
                    elif count != lanes and count != panel:  # whole vectors are read
                        pack(like, here, b_step, column, terms, count, panels, 0)
                        here, pitch = panels, PANEL
                    i = high
                    while i < low:
                        rows = next_tile(low - i)
                        source = from_a + i * row + e * step
                        if gathered:
                            source, step = gathering + (i - high) * apart, rows * width
                        if turned:
                            target = to + j * out_row + i * width
                            start, start_row, goal, goal_row = sums, PANEL, sums, PANEL
                            if e > 0:
                                exchange(like, target, out_row, count, rows, sums, PANEL)
                            else:
                                for r in range(rows):
                                    fill(like, bias + (i + r) * width if bias else zeros, sums + r * PANEL)
                        else:
                            goal, goal_row = to + i * out_row + j * width, out_row
                            start, start_row = goal, goal_row
                            if e == 0:
                                start, start_row = bias + j * width if bias else zeros, 0
                        tile(
                            like, rows, terms, source, row, step, here, pitch, start, start_row, goal, goal_row, count,
                            here, 0,
                        )  # fmt: skip
                        if turned:
                            exchange(like, sums, PANEL, rows, count, to + j * out_row + i * width, out_row)
                        i += rows
