"""Compiled loops of the recurrences over all steps, float32; reference/recurrent.py says what they compute.

A sample's states depend on no other sample's: each worker takes some of the batch through all steps, and none waits for
another. The weight is packed once. A product begins at what it is added to, so that no sum makes a pass of its own, and
the gates of a row are computed while it is in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from .compile import jit, threaded
from .product_loops import UNIT, next_tile, pack, tile
from .vector import PANEL, _like

# int64 numbers of a job: sizes, then addresses
(STEPS, BATCH, SIZE, REVERSE, X, H, C, PANELS, INNER_PANELS, BIAS, Y, GATES, CELLS, INNER, GY, GX, GU, GH, GC,
 ZEROS) = range(20)  # fmt: skip
f32 = np.float32
one = f32(1)
CHUNK = 512  # terms: a panel of so many stays in cache


@intrinsic
def _pointer(_: Any, like: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[1], context.get_value_type(signature.return_type))

    return types.CPointer(_like(like))(like, types.int64), generate


@intrinsic
def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """a · b + c, rounded once where the processor can: Numba by itself never contracts."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FloatType()
        name = "llvm.fmuladd.f32"
        known = builder.module.globals.get(name)
        return builder.call(known or ir.Function(builder.module, ir.FunctionType(kind, [kind] * 3), name), arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _power(_: Any, shifted: Any) -> Any:
    """2^n from n + 1.5 · 2^23, whose last bits are n: they become the exponent."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.IntType(32)
        exponent = builder.add(builder.bitcast(arguments[0], kind), ir.Constant(kind, 127 - 0x4B400000))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def fetch(_: Any, address: Any) -> Any:
    """Bring the cache line at this address nearer; it may be anywhere."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        name = "llvm.prefetch.p0"
        known = builder.module.globals.get(name)
        function = known or ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag]), name)
        # to be read, into all caches, as data
        builder.call(function, [builder.inttoptr(arguments[0], byte), *(ir.Constant(flag, n) for n in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.int64), generate


@jit(inline=True)
def row(like, address, size):
    """The numbers at this address, as an array."""
    return carray(_pointer(like, address), (size,))


# ---- functions of one number, without branches, so that loops over them become vector code


@jit(inline=True)
def _expm1(x):
    """e^x - 1 = 2^n e^r - 1 with n whole and |r| <= log(2) / 2, as (2^n, e^r - 1). The series up to r^7 errs by 1e-8.

    |x| <= 87; x that is not a number stays that.
    """
    shifted = _fma(x, f32(1.44269504), f32(12582912))  # 1.5 · 2^23: the last bits are n
    n = shifted - f32(12582912)
    r = _fma(n, f32(2.12194440e-4), _fma(n, f32(-0.693359375), x))  # log(2) in two parts
    p = _fma(r, f32(1 / 5040), f32(1 / 720))
    p = _fma(p, r, f32(1 / 120))
    p = _fma(p, r, f32(1 / 24))
    p = _fma(p, r, f32(1 / 6))
    p = _fma(p, r, f32(1 / 2))
    return _power(shifted), _fma(p * r, r, r)


@jit(inline=True)
def _within(x, most):
    """x, not beyond -most and most; what is no number stays that."""
    x = most if x > most else x
    return -most if x < -most else x


@jit(inline=True)
def sigmoid(x):
    scale, p = _expm1(-_within(x, f32(87)))
    return one / (one + _fma(scale, p, scale))


@jit(inline=True)
def tanh(x):
    """(e^2x - 1) / (e^2x + 1): near zero both parts of e^x - 1 keep its digits."""
    x = _within(x, f32(20))
    scale, p = _expm1(x + x)
    m = _fma(scale, p, scale - one)
    return m / (m + f32(2))


# ---- products with a packed weight


@jit(inline=True)
def _multiply(like, low, high, terms, a, a_row, panels, columns, start, start_row, out, out_row):
    """out[i, :columns] = start[i, :columns] + a[i, :terms] times the packed weight, for low <= i < high."""
    for e in range(0, terms, CHUNK):
        some = min(CHUNK, terms - e)
        begin, begin_row = (start, start_row) if e == 0 else (out, out_row)
        for j in range(0, columns, PANEL // 4):
            panel = panels + (j // (PANEL // 4) * terms + e) * PANEL
            i, ahead = low, panel + (terms if j + PANEL // 4 < columns else 0) * PANEL
            while i < high:
                rows = next_tile(high - i)
                tile(
                    like, rows, some, a + i * a_row + e * 4, a_row, 4, panel, PANEL, begin + i * begin_row + j * 4,
                    begin_row, out + i * out_row + j * 4, out_row, min(PANEL // 4, columns - j),
                    ahead, 64,
                )  # fmt: skip
                i, ahead = i + rows, ahead + some * 64


@jit
def packed(b, step, column, terms, columns, panels):
    """panels (columns / panel, terms, panel) = the numbers b[e, j] at address b + e * step + j * column."""
    pack(panels[0], b, step, column, terms, columns, np.int64(panels.ctypes.data), terms * PANEL)


@jit(inline=True)
def _mine(job, thread, threads):
    """The rows of a thread."""
    units = (job[BATCH] + UNIT - 1) // UNIT
    return units * thread // threads * UNIT, min(job[BATCH], units * (thread + 1) // threads * UNIT)


# ---- long short-term memory


@threaded
def lstm(thread, threads, job):
    like = f32(0)
    low, high = _mine(job, thread, threads)
    steps, n, size, reverse = job[STEPS], job[BATCH], job[SIZE], job[REVERSE]
    h, c = job[H], job[C]
    small, large = 4 * size, 16 * size  # bytes of a row of states, of gates
    bias, bias_g = row(like, job[BIAS], 2 * size), row(like, job[BIAS] + 2 * small, size)
    bias_o = row(like, job[BIAS] + 3 * small, size)
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        x, y = job[X] + t * n * large, job[Y] + t * n * small
        gates, cells = job[GATES] + t * n * large, job[CELLS] + t * n * small
        _multiply(like, low, high, size, h, small, job[PANELS], 4 * size, x, large, gates, large)
        for i in range(low, high):
            at = gates + i * large
            a, g, o = row(like, at, 4 * size), row(like, at + 2 * small, size), row(like, at + 3 * small, size)
            old = row(like, c + i * small, size)
            new, out = row(like, cells + i * small, size), row(like, y + i * small, size)
            for j in range(2 * size):
                a[j] = sigmoid(a[j] + bias[j])
            for j in range(size):
                g[j] = tanh(g[j] + bias_g[j])
            for j in range(size):
                o[j] = sigmoid(o[j] + bias_o[j])
            for j in range(size):
                new[j] = a[size + j] * old[j] + a[j] * g[j]
            for j in range(size):
                out[j] = o[j] * tanh(new[j])
        h, c = y, cells
    for i in range(low, high):
        last, of = row(like, job[Y] + (steps * n + i) * small, size), row(like, c + i * small, size)
        for j in range(size):
            last[j] = of[j]


@threaded
def lstm_backward(thread, threads, job):
    """GH and GC hold the gradients of the last step's h and c at first, of h and c at the end."""
    like = f32(0)
    low, high = _mine(job, thread, threads)
    steps, n, size, reverse = job[STEPS], job[BATCH], job[SIZE], job[REVERSE]
    gh, small, large = job[GH], 4 * size, 16 * size
    for s in range(steps):
        t = s if reverse else steps - 1 - s
        earlier = t + 1 if reverse else t - 1
        final = s == steps - 1
        gates, gx = job[GATES] + t * n * large, job[GX] + t * n * large
        cells = job[CELLS] + t * n * small
        before = job[C] if final else job[CELLS] + earlier * n * small
        for i in range(low, high):
            a, d = row(like, gates + i * large, 4 * size), row(like, gx + i * large, 4 * size)
            c, old = row(like, cells + i * small, size), row(like, before + i * small, size)
            slope, gc = row(like, gh + i * small, size), row(like, job[GC] + i * small, size)
            for j in range(size):  # where the gradient of o will be
                d[3 * size + j] = tanh(c[j])
            for j in range(size):
                o, squashed = a[3 * size + j], d[3 * size + j]
                gc[j] += slope[j] * o * (one - squashed * squashed)
                d[3 * size + j] = slope[j] * squashed * (o * (one - o))
            for j in range(size):
                d[j] = gc[j] * a[2 * size + j] * (a[j] * (one - a[j]))
            for j in range(size):
                d[size + j] = gc[j] * old[j] * (a[size + j] * (one - a[size + j]))
            for j in range(size):
                d[2 * size + j] = gc[j] * a[j] * (one - a[2 * size + j] * a[2 * size + j])
            for j in range(size):
                gc[j] *= a[size + j]
        start, start_row = job[ZEROS], 0
        if not final:
            start, start_row = job[GY] + earlier * n * small, small
        _multiply(like, low, high, 4 * size, gx, large, job[PANELS], size, start, start_row, gh, small)


# ---- gated recurrent units


@threaded
def gru(thread, threads, job):
    """PANELS: the gates' part of the weight; INNER_PANELS: that of what the reset gate multiplies."""
    like = f32(0)
    low, high = _mine(job, thread, threads)
    steps, n, size, reverse = job[STEPS], job[BATCH], job[SIZE], job[REVERSE]
    h, small, large = job[H], 4 * size, 12 * size
    bias, bias_n = row(like, job[BIAS], 2 * size), job[BIAS] + 2 * small
    for s in range(steps):
        t = steps - 1 - s if reverse else s
        x, gates = job[X] + t * n * large, job[GATES] + t * n * large
        y, inner = job[Y] + t * n * small, job[INNER] + t * n * small
        _multiply(like, low, high, size, h, small, job[PANELS], 2 * size, x, large, gates, large)
        _multiply(like, low, high, size, h, small, job[INNER_PANELS], size, bias_n, 0, inner, small)
        for i in range(low, high):
            at = gates + i * large
            r, z, new = row(like, at, 2 * size), row(like, at + small, size), row(like, at + 2 * small, size)
            of, u = row(like, x + i * large + 2 * small, size), row(like, inner + i * small, size)
            old, out = row(like, h + i * small, size), row(like, y + i * small, size)
            for j in range(2 * size):
                r[j] = sigmoid(r[j] + bias[j])
            for j in range(size):
                new[j] = tanh(of[j] + r[j] * u[j])
            for j in range(size):
                out[j] = (old[j] - new[j]) * z[j] + new[j]
        h = y


@threaded
def gru_backward(thread, threads, job):
    """GH holds the gradient of the last step's h at first, of h at the end."""
    like = f32(0)
    low, high = _mine(job, thread, threads)
    steps, n, size, reverse = job[STEPS], job[BATCH], job[SIZE], job[REVERSE]
    gh, small, large = job[GH], 4 * size, 12 * size
    for s in range(steps):
        t = s if reverse else steps - 1 - s
        earlier = t + 1 if reverse else t - 1
        final = s == steps - 1
        gates, inner = job[GATES] + t * n * large, job[INNER] + t * n * small
        gx, gu = job[GX] + t * n * large, job[GU] + t * n * large
        before = job[H] if final else job[Y] + earlier * n * small
        gy, gy_row = job[ZEROS], 0
        if not final:
            gy, gy_row = job[GY] + earlier * n * small, small
        for i in range(low, high):
            at, to = gates + i * large, gx + i * large
            r, z, new = row(like, at, size), row(like, at + small, size), row(like, at + 2 * small, size)
            dr, dz, dn = row(like, to, size), row(like, to + small, size), row(like, to + 2 * small, size)
            d, du = row(like, to, 2 * size), row(like, gu + i * large, 2 * size)
            dun, u = row(like, gu + i * large + 2 * small, size), row(like, inner + i * small, size)
            old, slope = row(like, before + i * small, size), row(like, gh + i * small, size)
            more = row(like, gy + i * gy_row, size)
            for j in range(size):
                dn[j] = slope[j] * (one - z[j]) * (one - new[j] * new[j])
            for j in range(size):
                dun[j] = dn[j] * r[j]
            for j in range(size):
                dr[j] = dn[j] * u[j] * (r[j] * (one - r[j]))
            for j in range(size):
                dz[j] = slope[j] * (old[j] - new[j]) * (z[j] * (one - z[j]))
            for j in range(2 * size):
                du[j] = d[j]
            for j in range(size):
                slope[j] = slope[j] * z[j] + more[j]
        _multiply(like, low, high, 3 * size, gu, large, job[PANELS], size, gh, small, gh, small)
