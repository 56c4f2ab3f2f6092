"""Vector code for the inner loops of convolution, written as LLVM instructions: what loops alone do not reach.

Two products of small matrices whose sums stay in registers, and linear maps of a few vectors (Winograd's transforms).
All work on addresses of float32 or float64 and are only called from compiled kernels; `like` is any number of the type
that is meant. Nothing is checked, and nothing outside of the stated places is read or written.

    multiply   rows at any addresses times a packed panel: convolution without columns
    outer      the sum over positions of (a few channels) x (a panel of channels): the weight's gradient
    transforms out_i = sum_j matrix[i, j] in_j for vectors at equal distances
    transpose  a block of numbers, rows to columns

A panel is as many columns as two vector registers hold. How many rows fit beside it follows from the number of
registers of this processor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

INT, INT32, BIT = ir.IntType(64), ir.IntType(32), ir.IntType(1)
REAL = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}


Body = Callable[[Any, list[Any]], list[Any]]


def _register() -> tuple[int, int]:
    """Bytes of a vector register of this processor, and how many it has, as far as Numba may use them."""
    features = llvmlite.binding.get_host_cpu_features()
    if (chosen := config.CPU_FEATURES) is not None:  # NUMBA_CPU_FEATURES="+avx2,+fma", for older processors
        features = {word[1:]: word[0] == "+" for word in chosen.split(",") if word}
    if features.get("avx512f"):
        return 64, 32
    if features.get("avx"):
        return 32, 16
    return 16, 32 if features.get("neon") else 16


BYTES, REGISTERS = _register()
VECTORS = 2  # registers side by side in a panel
PANEL = VECTORS * BYTES  # bytes of a panel's row
ROWS = 12 if REGISTERS == 32 else 6  # 14 would fit, but then the addresses of the rows do not
# rows of `outer`, best first; the last two are for what few channels leave over
OUTER = (13, 9, 8, 4, 1) if REGISTERS == 32 else (6, 4, 1)
UNROLL = 4
WIDE = 4  # vectors of channels that `weighted` and `dots` work on at a time
SIDE = 4 if REGISTERS == 32 else 2  # positions side by side that share the weights in `weighted`
_sets = count()  # numbers of the sets of matrices, for the names of their code


def outer_rows(channels: int) -> int:
    """The rows of `outer` that cover so many channels in the least time."""
    # fewer rows share a load of the panel, so each costs more
    return min((r for r in OUTER if r <= channels), key=lambda r: -(-channels // r) * (r + 1.5))


class _Code:
    """Emits instructions into one builder for one element type."""

    def __init__(self, builder: Any, real: Any):
        self.b = builder
        self.real = REAL[real]
        self.size = real.bitwidth // 8
        self.lanes = BYTES // self.size
        self.vectors = VECTORS  # of a panel, those that are being computed
        self.vector = ir.VectorType(self.real, self.lanes)
        self.bits = ir.VectorType(BIT, self.lanes)
        self.suffix = f"v{self.lanes}f{real.bitwidth}"
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def whole(self, value: int) -> Any:
        return ir.Constant(INT, value)

    def function(self, name: str, result: Any, arguments: Sequence[Any]) -> Any:
        known = self.b.module.globals.get(name)
        return known or ir.Function(self.b.module, ir.FunctionType(result, arguments), name)

    def add(self, address: Any, offset: Any) -> Any:
        return self.b.add(address, offset if isinstance(offset, ir.Value) else self.whole(offset))

    def load(self, address: Any, kind: Any) -> Any:
        value = self.b.load(self.b.inttoptr(address, kind.as_pointer()))
        value.align = 8 if kind == INT else self.size
        return value

    def store(self, value: Any, address: Any) -> None:
        self.b.store(value, self.b.inttoptr(address, value.type.as_pointer())).align = self.size

    def spread(self, value: Any, kind: Any) -> Any:
        """A vector of one value."""
        nothing, first = ir.Constant(kind, ir.Undefined), ir.Constant(INT32, 0)
        lanes = ir.Constant(ir.VectorType(INT32, self.lanes), [0] * self.lanes)
        return self.b.shuffle_vector(self.b.insert_element(nothing, value, first), nothing, lanes)

    def masks(self, count: Any) -> list[Any]:
        """For each vector of a panel, which of its lanes are among the first `count` columns."""
        wide = ir.VectorType(INT, self.lanes)
        counts = self.spread(count, wide)
        numbers = (range(j * self.lanes, (j + 1) * self.lanes) for j in range(self.vectors))
        return [self.b.icmp_signed("<", ir.Constant(wide, list(lane)), counts) for lane in numbers]

    def load_some(self, address: Any, mask: Any) -> Any:
        """A vector with zeros where the mask is not set; these places are not read."""
        pointer = self.vector.as_pointer()
        kinds = [pointer, INT32, self.bits, self.vector]
        masked = self.function(f"llvm.masked.load.{self.suffix}.p0", self.vector, kinds)
        return self.b.call(masked, [self.b.inttoptr(address, pointer), ir.Constant(INT32, self.size), mask, self.zero])

    def store_some(self, value: Any, address: Any, mask: Any) -> None:
        pointer = self.vector.as_pointer()
        kinds = [self.vector, pointer, INT32, self.bits]
        masked = self.function(f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), kinds)
        self.b.call(masked, [value, self.b.inttoptr(address, pointer), ir.Constant(INT32, self.size), mask])

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        fused = self.function(f"llvm.fmuladd.{self.suffix}", self.vector, [self.vector] * 3)
        return self.b.call(fused, [a, b, c])

    def round(self, value: float) -> float:
        return float(np.float32(value)) if self.size == 4 else float(value)

    def switch(self, value: Any, cases: dict[int, Callable[[], None]]) -> None:
        """Runs the case that value names; it must name one."""
        after = self.b.append_basic_block("after")
        other = self.b.append_basic_block("other")
        choice = self.b.switch(value, other)
        for number, emit in cases.items():
            block = self.b.append_basic_block(f"case{number}")
            choice.add_case(self.whole(number), block)
            self.b.position_at_end(block)
            emit()
            self.b.branch(after)
        self.b.position_at_end(other)
        self.b.branch(after)
        self.b.position_at_end(after)

    def by_width(self, count: Any, emit: Callable[[], None]) -> None:
        """Emits code for panels of `count` columns twice: those that one vector holds need only the first."""

        def only(vectors: int) -> None:
            self.vectors = vectors
            emit()
            self.vectors = VECTORS

        narrow = self.b.zext(self.b.icmp_signed("<=", count, self.whole(self.lanes)), INT)
        self.switch(narrow, {0: partial(only, VECTORS), 1: partial(only, 1)})

    def loop(self, count: Any, step: int, start: Sequence[Any], body: Body) -> list[Any]:
        """The values after values = body(i, values) for i = 0, step, ... below count, beginning with start."""
        before = self.b.block
        inside, after = self.b.append_basic_block("loop"), self.b.append_basic_block("done")
        self.b.cbranch(self.b.icmp_signed(">", count, self.whole(0)), inside, after)
        self.b.position_at_end(inside)
        i, values = self.b.phi(INT), [self.b.phi(v.type) for v in start]
        results = body(i, list(values))
        following, last = self.add(i, step), self.b.block
        for phi, first, again in zip([i, *values], [self.whole(0), *start], [following, *results], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(again, last)
        self.b.cbranch(self.b.icmp_signed("<", following, count), inside, after)
        self.b.position_at_end(after)
        merged = []
        for first, result in zip(start, results, strict=True):
            phi = self.b.phi(first.type)
            phi.add_incoming(first, before)
            phi.add_incoming(result, last)
            merged.append(phi)
        return merged

    def truth(self, value: Any) -> Any:
        return self.b.icmp_signed("!=", value, self.whole(0))

    def least(self, relu: Any) -> Any:
        """A vector of zeros if `relu`, or else of minus infinity."""
        nothing = ir.Constant(self.vector, [float("-inf")] * self.lanes)
        return self.b.select(self.truth(relu), self.zero, nothing)

    def at_least(self, least: Any, value: Any) -> Any:
        """The larger of both, NaN if value is."""
        return self.b.select(self.b.fcmp_ordered("<", value, least), least, value)

    def sums(self, addresses: Sequence[Any], masks: Sequence[Any], more: Any) -> list[Any]:
        """Where the sums begin: at what is stored, or at zero unless `more`."""
        wanted = self.spread(self.truth(more), self.bits)
        live = [self.b.and_(mask, wanted) for mask in masks]
        return [self.load_some(self.add(row, j * BYTES), live[j]) for row in addresses for j in range(self.vectors)]

    def put(self, sums: Sequence[Any], addresses: Sequence[Any], masks: Sequence[Any]) -> None:
        values = iter(sums)
        for row in addresses:
            for j in range(self.vectors):
                self.store_some(next(values), self.add(row, j * BYTES), masks[j])

    def step(self, sums: list[Any], left: Sequence[Any], panel: Sequence[Any]) -> list[Any]:
        """One more term of all sums: left[i] * panel[j]. left holds addresses of single numbers."""
        out = []
        for i, address in enumerate(left):
            a = self.spread(self.load(address, self.real), self.vector)
            out += [self.multiply_add(a, panel[j], sums[i * self.vectors + j]) for j in range(self.vectors)]
        return out


def _like(like: Any) -> Any:
    return {32: types.float32, 64: types.float64}[like.bitwidth]


@intrinsic
def take(_: Any, address: Any) -> Any:
    """The int64 at an address, which becomes one more; no two threads get the same. Threads that take their tasks so
    are done together, also where other programs hold one of them up."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        number = builder.inttoptr(arguments[0], INT.as_pointer())
        return builder.atomic_rmw("add", number, ir.Constant(INT, 1), "monotonic")

    return types.int64(types.int64), generate


@intrinsic
def width_of(_: Any, like: Any) -> Any:
    """Bytes of a number of this type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return ir.Constant(INT, like.bitwidth // 8)

    return types.int64(like), generate


@intrinsic
def multiply(_: Any, like: Any, taps: Any, run: Any, table: Any, apart: Any, moves: Any, panels: Any, out: Any,
             shift: Any, move: Any, count: Any, more: Any) -> Any:  # fmt: skip
    """out[i, :count] = or, if `more`, += the sum over taps t and e < run of a(t, i)[e] * b(t)[e, :count].

    a(t, i), for i < ROWS, is at address table[t * apart + i] + moves[2 t] + move; b(t), a panel (run, PANEL), at panels
    + moves[2 t + 1]; row i of the result at out[i] + shift. table, moves and out are addresses of int64, apart counts
    those; the rest are bytes. Rows may coincide.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        code, nothing = _Code(builder, _like(like)), ir.Constant(INT, 0)
        _product(code, *[*arguments[1:], nothing, nothing])
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 11), generate


@intrinsic
def multiply_relu(_: Any, like: Any, taps: Any, run: Any, table: Any, apart: Any, moves: Any, panels: Any, out: Any,
                  shift: Any, move: Any, count: Any, more: Any, bias: Any, relu: Any) -> Any:  # fmt: skip
    """`multiply`, whose sums begin, unless `more`, at the numbers bias[:count], if that address is not 0; and if
    `relu`, those below 0 become 0 at the end."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _product(_Code(builder, _like(like)), *arguments[1:])
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 13), generate


def _product(
    code: _Code, taps: Any, run: Any, table: Any, apart: Any, moves: Any, panels: Any, out: Any, shift: Any, move: Any,
    count: Any, more: Any, bias: Any, relu: Any,
) -> None:  # fmt: skip
    builder = code.b

    def product() -> None:
        masks = code.masks(count)
        addresses = [code.add(code.load(code.add(out, 8 * i), INT), shift) for i in range(ROWS)]
        most = builder.and_(run, code.whole(-UNROLL))

        def tap(t: Any, sums: list[Any]) -> list[Any]:
            at = code.add(table, builder.mul(builder.mul(t, apart), code.whole(8)))
            pair = code.add(moves, builder.mul(t, code.whole(16)))
            by = code.add(code.load(pair, INT), move)
            rows = [code.add(code.load(code.add(at, 8 * i), INT), by) for i in range(ROWS)]
            panel = code.add(panels, code.load(code.add(pair, 8), INT))

            def terms(first: Any, number: int) -> Body:
                def body(e: Any, sums: list[Any]) -> list[Any]:
                    e = builder.add(e, first)
                    b, a = builder.mul(e, code.whole(PANEL)), builder.mul(e, code.whole(code.size))
                    for u in range(number):
                        place = code.add(code.add(panel, b), u * PANEL)
                        vectors = [code.load(code.add(place, j * BYTES), code.vector) for j in range(code.vectors)]
                        sums = code.step(sums, [code.add(code.add(row, a), u * code.size) for row in rows], vectors)
                    return sums

                return body

            sums = code.loop(most, UNROLL, sums, terms(code.whole(0), UNROLL))
            return code.loop(builder.sub(run, most), 1, sums, terms(most, 1))

        # the bias is read where results would be added to, the same row for all. What is masked must be valid memory,
        # too: at address 0 a load of nothing takes hundreds of cycles
        other = builder.and_(builder.not_(code.truth(more)), code.truth(bias))
        begin = [builder.select(other, bias, address) for address in addresses]
        wanted = builder.or_(more, bias)
        sums = code.loop(taps, 1, code.sums(begin, masks, wanted), tap)
        least = code.least(relu)
        code.put([code.at_least(least, value) for value in sums], addresses, masks)

    code.by_width(count, product)


@intrinsic
def outer(_: Any, like: Any, rows: Any, positions: Any, table: Any, move: Any, panel: Any, pitch: Any, out: Any,
          count: Any, more: Any) -> Any:  # fmt: skip
    """out[i, :count] = or, if `more`, += the sum over t < positions of a(t)[i] * b(t)[:count], for i < rows.

    rows is one of OUTER. a(t) is at address table[t] + move, b(t) at panel + t * pitch; row i of the result at out[i].
    table and out are addresses of int64; the rest are bytes. Rows of the result may coincide if it does not matter
    what they hold.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, rows, positions, table, move, panel, pitch, out, count, more = arguments
        code = _Code(builder, _like(like))

        def product(rows: int) -> None:
            masks = code.masks(count)
            addresses = [code.load(code.add(out, 8 * i), INT) for i in range(rows)]

            def body(t: Any, values: list[Any]) -> list[Any]:
                at, *sums = values
                a = code.add(code.load(code.add(table, builder.mul(t, code.whole(8))), INT), move)
                vectors = [code.load_some(code.add(at, j * BYTES), masks[j]) for j in range(code.vectors)]
                left = [code.add(a, i * code.size) for i in range(rows)]
                return [code.add(at, pitch), *code.step(sums, left, vectors)]

            _, *sums = code.loop(positions, 1, [panel, *code.sums(addresses, masks, more)], body)
            code.put(sums, addresses, masks)

        code.by_width(count, lambda: code.switch(rows, {number: partial(product, number) for number in OUTER}))
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 9), generate


@intrinsic
def weighted(_: Any, like: Any, taps: Any, table: Any, move: Any, weight: Any, pitch: Any, target: Any,
             count: Any, bias: Any, relu: Any, number: Any, forth: Any, on: Any) -> Any:  # fmt: skip
    """Up to four vectors of channels, each by itself: target[:count] = the sum over taps t of a(t)[:count] *
    b(t)[:count], `number` times (1 or SIDE), each time with a(t) further by `forth` and target by `on`.

    a(t) is at address table[t] + move, b(t) at weight + t * pitch. bias and relu as of `multiply_relu`.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, taps, table, move, weight, pitch, target, count, bias, relu, number, forth, on = arguments
        code = _Code(builder, _like(like))
        code.vectors = WIDE
        masks = code.masks(count)
        least = code.least(relu)

        def together(number: int) -> None:
            def body(t: Any, values: list[Any]) -> list[Any]:
                at, *sums = values
                a = code.add(code.load(code.add(table, builder.mul(t, code.whole(8))), INT), move)
                factors = [code.load_some(code.add(at, j * BYTES), masks[j]) for j in range(WIDE)]
                out = []
                for i in range(number):
                    here = code.add(a, builder.mul(forth, code.whole(i)))
                    for j in range(WIDE):
                        x = code.load_some(code.add(here, j * BYTES), masks[j])
                        out.append(code.multiply_add(x, factors[j], sums[i * WIDE + j]))
                return [code.add(at, pitch), *out]

            targets = [code.add(target, builder.mul(on, code.whole(i))) for i in range(number)]
            begin = code.sums([builder.select(code.truth(bias), bias, target)] * number, masks, bias)
            _, *sums = code.loop(taps, 1, [weight, *begin], body)
            code.put([code.at_least(least, value) for value in sums], targets, masks)

        code.switch(number, {n: partial(together, n) for n in (1, SIDE)})
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 12), generate


@intrinsic
def dots(_: Any, like: Any, number: Any, a: Any, forth: Any, b: Any, on: Any, target: Any, count: Any) -> Any:
    """Up to four vectors of channels, each by itself: target[:count] += the sum over i < number of (a + i *
    forth)[:count] * (b + i * on)[:count]."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, number, a, forth, b, on, target, count = arguments
        code = _Code(builder, _like(like))
        code.vectors = WIDE
        masks = code.masks(count)

        def body(_: Any, values: list[Any]) -> list[Any]:
            a, b, *sums = values
            pairs = [[code.load_some(code.add(x, j * BYTES), masks[j]) for x in (a, b)] for j in range(WIDE)]
            terms = [code.multiply_add(x, y, s) for (x, y), s in zip(pairs, sums, strict=True)]
            return [code.add(a, forth), code.add(b, on), *terms]

        _, _, *sums = code.loop(number, 1, [a, b, *code.sums([target], masks, code.whole(1))], body)
        code.put(sums, [target], masks)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 7), generate


@intrinsic
def move(_: Any, like: Any, source: Any, count: Any, target: Any) -> Any:
    """A vector at address target: `count` numbers from address source, then zeros. Only those numbers are read."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, count, target = arguments
        code = _Code(builder, _like(like))
        code.store(code.load_some(source, code.masks(count)[0]), target)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 3), generate


@intrinsic
def add(_: Any, like: Any, source: Any, count: Any, target: Any) -> Any:
    """target[:count] += source[:count], numbers at addresses; nothing else is read or written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, count, target = arguments
        code = _Code(builder, _like(like))
        code.vectors = 1

        def body(at: Any, _: list[Any]) -> list[Any]:
            mask = code.masks(builder.sub(count, at))[0]
            offset = builder.mul(at, code.whole(code.size))
            a, b = (code.load_some(code.add(address, offset), mask) for address in (target, source))
            code.store_some(builder.fadd(a, b), code.add(target, offset), mask)
            return []

        code.loop(count, code.lanes, [], body)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 3), generate


@intrinsic
def move_some(_: Any, like: Any, source: Any, count: Any, target: Any) -> Any:
    """The first `count` numbers of the vector at address source to address target; no others are written."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, count, target = arguments
        code = _Code(builder, _like(like))
        code.store_some(code.load(source, code.vector), target, code.masks(count)[0])
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 3), generate


@intrinsic
def transpose(_: Any, like: Any, source: Any, pitch: Any, rows: Any, columns: Any, target: Any, gap: Any,
              stored: Any) -> Any:  # fmt: skip
    """Exchanges rows and columns of a block of numbers, at most a vector's each way.

    Row i < rows, of `columns` numbers, is at address source + i * pitch; column j becomes the first `stored` numbers of
    the vector at target + j * gap, zeros behind the rows. Nothing else is read or written.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _, source, pitch, rows, columns, target, gap, stored = arguments
        code = _Code(builder, _like(like))
        lanes, nothing = code.lanes, code.whole(0)
        vectors = []
        for i in range(lanes):
            here = builder.icmp_signed("<", code.whole(i), rows)
            mask = code.masks(builder.select(here, columns, nothing))[0]
            vectors.append(code.load_some(code.add(source, builder.mul(pitch, code.whole(i))), mask))
        step = 1
        while step < lanes:  # exchange the off-diagonal quarters of blocks of twice this size
            for i in (i for i in range(lanes) if not i & step):
                a, b = vectors[i], vectors[i + step]
                low = [k if not k & step else lanes + k - step for k in range(lanes)]
                high = [k + step if not k & step else lanes + k for k in range(lanes)]
                vectors[i], vectors[i + step] = (
                    builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, lanes), order))
                    for order in (low, high)
                )
            step *= 2
        for j in range(lanes):
            here = builder.icmp_signed("<", code.whole(j), columns)
            mask = code.masks(builder.select(here, stored, nothing))[0]
            code.store_some(vectors[j], code.add(target, builder.mul(gap, code.whole(j))), mask)
        return context.get_dummy_value()

    return types.void(like, *(types.int64,) * 7), generate


def transforms(matrices: Sequence[Any]) -> Any:
    """An intrinsic f(like, which, number, source, forth, apart, target, on, gap, bias, relu): linear maps of vectors.

    `number` times: vector i, at address target + i * gap, becomes the sum over j of matrices[which][i, j] times the
    vector at source + j * apart; then source moves forth and target on. All vectors of one time are read before one is
    written. If the address bias is not 0, the vector there is added to each result, and then, if `relu`, what is below
    0 becomes 0.
    """
    matrices = [np.asarray(matrix, np.float64) for matrix in matrices]
    number_of_set = next(_sets)

    @intrinsic
    def apply(_: Any, like: Any, which: Any, number: Any, source: Any, forth: Any, apart: Any, target: Any, on: Any,
              gap: Any, bias: Any, relu: Any) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # one function for all calls: written out at each of them, compiling would take three times as long
            name = f"minidl.transforms.{number_of_set}.{like.bitwidth}"
            function = builder.module.globals.get(name)
            if function is None:
                kind = ir.FunctionType(ir.VoidType(), [INT] * 10)
                function = ir.Function(builder.module, kind, name)
                function.linkage = "internal"
                function.attributes.add("noinline")
                body = ir.IRBuilder(function.append_basic_block("entry"))
                write(_Code(body, _like(like)), function.args)
                body.ret_void()
            builder.call(function, arguments[1:])
            return context.get_dummy_value()

        def write(code: _Code, arguments: Any) -> None:
            which, number, source, forth, apart, target, on, gap, bias, relu = arguments
            least, b = code.least(relu), code.b
            finishing = b.zext(code.truth(bias), INT)

            def combine(matrix: Any) -> None:
                used = [j for j in range(matrix.shape[1]) if matrix[:, j].any()]

                def once(_: Any, at: list[Any]) -> list[Any]:
                    places = {j: code.add(at[0], code.b.mul(apart, code.whole(j))) for j in used}
                    read = {j: code.load(place, code.vector) for j, place in places.items()}
                    results = _combinations(code, matrix, read)

                    def store(finish: bool) -> None:
                        begin = code.load(bias, code.vector) if finish else None
                        for i, result in enumerate(results):
                            value = code.at_least(least, b.fadd(result, begin)) if finish else result
                            code.store(value, code.add(at[1], b.mul(gap, code.whole(i))))

                    code.switch(finishing, {0: partial(store, False), 1: partial(store, True)})
                    return [code.add(at[0], forth), code.add(at[1], on)]

                code.loop(number, 1, [source, target], once)

            code.switch(which, {case: partial(combine, matrix) for case, matrix in enumerate(matrices)})

        return types.void(like, *(types.int64,) * 10), generate

    return apply


def _combinations(code: _Code, matrix: Any, vectors: dict[int, Any]) -> list[Any]:
    """For each row of the matrix the sum of row[j] * vectors[j].

    Rows that differ only in the signs of some entries, as those of Winograd's points a and -a do, share both parts.
    """
    results: list[Any] = [None] * len(matrix)
    for i, row in enumerate(matrix):
        if results[i] is not None:
            continue
        twin = next((t for t in range(i + 1, len(matrix)) if (abs(matrix[t]) == abs(row)).all()), None)
        if twin is None or np.count_nonzero(row) < 3:
            results[i] = _combination(code, row, vectors)
            continue
        same = _combination(code, np.where(matrix[twin] == row, row, 0), vectors)
        other = _combination(code, np.where(matrix[twin] == row, 0, row), vectors)
        results[i], results[twin] = code.b.fadd(same, other), code.b.fsub(same, other)
    return results


def _combination(code: _Code, row: Any, vectors: dict[int, Any]) -> Any:
    """The sum of row[j] * vectors[j]; ones cost no multiplication."""
    total = code.zero
    started = False
    for j in sorted((j for j in vectors if row[j]), key=lambda j: row[j] != 1):
        factor = ir.Constant(code.vector, [code.round(row[j])] * code.lanes)
        if not started:
            total = vectors[j] if row[j] == 1 else code.b.fmul(vectors[j], factor)
        elif abs(row[j]) == 1:
            total = (code.b.fadd if row[j] == 1 else code.b.fsub)(total, vectors[j])
        else:
            total = code.multiply_add(vectors[j], factor, total)
        started = True
    return total
