"""Compiled loops of the convolutional GRU, float32: what lies between its convolutions, one pass for each of them.

Arrays are flat and channels-last, those of one step: (positions, size); the gates z and r are side by side, (positions,
2 size), and so are the three parts of x and of its gradient, (positions, 3 size). Each thread takes some positions, and
computes all of one while its numbers are in cache. A loop writes one array: the compiler has it check at run time that
this overlaps none of those that it reads, and gives up vector instructions where that would take too many checks.
"""

from __future__ import annotations

from .compile import jit, threaded
from .loops import portion
from .recurrent_loops import fetch, one, row, sigmoid, tanh

AHEAD = 16  # positions: so much earlier numbers are asked for, which mostly come from memory
LINE = 64  # bytes of a cache line


@jit(inline=True)
def _part(a, i, parts, first, count, size):
    """Of the `parts` parts that an array has at position i, `count` from the first on."""
    like, width = a[0], a.itemsize
    begin = a.ctypes.data + (i * parts + first) * size * width
    for line in range(0, count * size * width, LINE):
        fetch(begin + AHEAD * parts * size * width + line)
    return row(like, begin, count * size)


@threaded
def open_gates(thread, threads, x, product, h, gates, gated, size):
    """gates = sigmoid(x + product), gated = r h. product: of h and the gates' part of the weight."""
    low, high = portion(thread, threads, h.size // size)
    for i in range(low, high):
        given, more = _part(x, i, 3, 0, 2, size), _part(product, i, 2, 0, 2, size)
        opened, r = _part(gates, i, 2, 0, 2, size), _part(gates, i, 2, 1, 1, size)
        old, passed = _part(h, i, 1, 0, 1, size), _part(gated, i, 1, 0, 1, size)
        for j in range(2 * size):
            opened[j] = sigmoid(given[j] + more[j])
        for j in range(size):
            passed[j] = r[j] * old[j]


@threaded
def next_state(thread, threads, x, product, h, gates, candidate, y, size):
    """candidate = tanh(x + product), y = (1 - z) h + z candidate. product: of r h and the candidate's part of the
    weight."""
    low, high = portion(thread, threads, h.size // size)
    for i in range(low, high):
        given, more = _part(x, i, 3, 2, 1, size), _part(product, i, 1, 0, 1, size)
        z, c = _part(gates, i, 2, 0, 1, size), _part(candidate, i, 1, 0, 1, size)
        old, new = _part(h, i, 1, 0, 1, size), _part(y, i, 1, 0, 1, size)
        for j in range(size):
            c[j] = tanh(given[j] + more[j])
        for j in range(size):
            new[j] = old[j] + z[j] * (c[j] - old[j])


@threaded
def next_state_backward(thread, threads, gy, more, h, gates, candidate, gh, gx, ggates, gcandidate, before, gated,
                        size):  # fmt: skip
    """The gradients of what z and the candidate are functions of, in ggates, gcandidate and gx. h: the state before.

    gh + gy + more is the gradient of the step's state; gh becomes what of it goes to h past the candidate. Also before
    = h and gated = r h, from which the weight's gradient is computed.
    """
    low, high = portion(thread, threads, h.size // size)
    for i in range(low, high):
        z, r = _part(gates, i, 2, 0, 1, size), _part(gates, i, 2, 1, 1, size)
        c, old, slope = _part(candidate, i, 1, 0, 1, size), _part(h, i, 1, 0, 1, size), _part(gh, i, 1, 0, 1, size)
        first, second = _part(gy, i, 1, 0, 1, size), _part(more, i, 1, 0, 1, size)
        gz, gz_too = _part(ggates, i, 2, 0, 1, size), _part(gx, i, 3, 0, 1, size)
        gc, gc_too = _part(gcandidate, i, 1, 0, 1, size), _part(gx, i, 3, 2, 1, size)
        kept, passed = _part(before, i, 1, 0, 1, size), _part(gated, i, 1, 0, 1, size)
        for j in range(size):
            slope[j] += first[j] + second[j]
        for j in range(size):
            gc[j] = slope[j] * z[j] * (one - c[j] * c[j])
        for j in range(size):
            gz[j] = slope[j] * (c[j] - old[j]) * (z[j] * (one - z[j]))
        for j in range(size):
            gc_too[j] = gc[j]
        for j in range(size):
            gz_too[j] = gz[j]
        for j in range(size):
            slope[j] *= one - z[j]
        for j in range(size):
            kept[j] = old[j]
        for j in range(size):
            passed[j] = r[j] * old[j]


@threaded
def open_gates_backward(thread, threads, ggated, h, gates, gh, gx, ggates, size):
    """The gradient of what r is a function of, in ggates and gx, from that of r h; gh += what of it goes to h."""
    low, high = portion(thread, threads, h.size // size)
    for i in range(low, high):
        r, old = _part(gates, i, 2, 1, 1, size), _part(h, i, 1, 0, 1, size)
        given, slope = _part(ggated, i, 1, 0, 1, size), _part(gh, i, 1, 0, 1, size)
        gr, gr_too = _part(ggates, i, 2, 1, 1, size), _part(gx, i, 3, 1, 1, size)
        for j in range(size):
            gr[j] = given[j] * old[j] * (r[j] * (one - r[j]))
        for j in range(size):
            gr_too[j] = gr[j]
        for j in range(size):
            slope[j] += given[j] * r[j]
