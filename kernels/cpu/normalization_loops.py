"""Compiled kernels of batch normalisation and cross-entropy. All arrays are flat; the results hold for any number of
threads.

Sums are those of chunks that stay in the first cache, added up in float64. A chunk's squares are taken from its own
mean, while it is there, and the chunks' moments are merged (Chan, Golub and LeVeque 1979): no difference of large
squares is ever formed.
"""

from __future__ import annotations

import numpy as np

from .compile import jit, threaded
from .elementwise_loops import exp
from .loops import portion
from .reduction_loops import LANES, largest

CHUNK = 2**12  # elements of a plane, for the first cache


@jit(inline=True)
def _merge(count, mean, squares, other, its_mean, its_squares):
    """Moments of two sets together; `squares` is the sum of squared distances from the mean."""
    total = count + other
    apart = its_mean - mean
    return total, mean + apart * other / total, squares + its_squares + apart * apart * count * other / total


@jit(inline=True, reassociate=True)
def _moments(x, start, stop):
    """Mean and sum of squared distances from it."""
    s = x.dtype.type(0)
    for e in range(start, stop):
        s += x[np.uint64(e)]
    mean = s / x.dtype.type(stop - start)
    s = x.dtype.type(0)
    for e in range(start, stop):
        s += (x[np.uint64(e)] - mean) ** 2
    return np.float64(mean), np.float64(s)


@threaded
def planes(thread, threads, x, gamma, beta, y, means, variances, batch, channels, size, eps):
    """x and y: (batch, channels, size). A task is a channel, which is normalised while it is in the second cache."""
    for c in range(thread, channels, threads):
        count, mean, squares = 0, 0.0, 0.0
        for n in range(batch):
            base = (n * channels + c) * size
            for start in range(base, base + size, CHUNK):
                stop = min(start + CHUNK, base + size)
                its_mean, its_squares = _moments(x, start, stop)
                count, mean, squares = _merge(count, mean, squares, stop - start, its_mean, its_squares)
        means[c] = mean
        variances[c] = squares / count
        m, k, b = x.dtype.type(mean), x.dtype.type(gamma[c] / np.sqrt(squares / count + eps)), beta[c]
        for n in range(batch):
            base = (n * channels + c) * size
            for e in range(base, base + size):
                y[np.uint64(e)] = (x[np.uint64(e)] - m) * k + b


@jit(inline=True, reassociate=True)
def _products(g, x, mean, start, stop):
    """The sums of g and of g times x's distance from the mean."""
    s, t = x.dtype.type(0), x.dtype.type(0)
    for e in range(start, stop):
        s += g[np.uint64(e)]
        t += g[np.uint64(e)] * (x[np.uint64(e)] - mean)
    return np.float64(s), np.float64(t)


@threaded
def planes_backward(thread, threads, g, x, gamma, means, variances, gx, ggamma, gbeta, batch, channels, size, eps):
    """gx is left as it is if it is empty."""
    for c in range(thread, channels, threads):
        s, t = 0.0, 0.0
        for n in range(batch):
            base = (n * channels + c) * size
            for start in range(base, base + size, CHUNK):
                its_s, its_t = _products(g, x, means[c], start, min(start + CHUNK, base + size))
                s += its_s
                t += its_t
        rstd = 1 / np.sqrt(np.float64(variances[c]) + eps)
        gbeta[c] = s
        ggamma[c] = t * rstd
        if gx.size:
            count = batch * size
            k, mean = x.dtype.type(gamma[c] * rstd), means[c]
            a, b = x.dtype.type(s / count), x.dtype.type(t * rstd * rstd / count)
            for n in range(batch):
                base = (n * channels + c) * size
                for e in range(base, base + size):
                    gx[np.uint64(e)] = k * (g[np.uint64(e)] - a - (x[np.uint64(e)] - mean) * b)


# ---- channels-last: (count, channels), walked in rows of `pitch` elements: all channels, several times if these are
# few. A row is divided into blocks of channels, for which their numbers are laid out once; so loops are never short.
ROW = 512  # elements, at least half of that
BLOCK = 1024  # elements, at most
# between the arrays of a thread's workspace: a constant, so that the compiler sees that they do not overlap, and no
# multiple of a page
STEP = BLOCK + 16
CHUNK_OF_ROWS = 2**15  # elements, for the second cache: there is more to do after each


@jit(inline=True)
def _walk(total, channels):
    """Channels of a block, repetitions of the channels in a row, its elements, rows, and how many of these are full:
    the last may have fewer repetitions, if a row is one block."""
    repeats = max(1, ROW // channels)
    blocks = (channels - 1) // BLOCK + 1
    pitch = repeats * channels
    return (channels - 1) // blocks + 1, repeats, pitch, (total - 1) // pitch + 1, total // pitch


@jit(inline=True)
def _expand(work, place, v, number, repeats):
    """Array `place` of the work: v[0], v[1], ..., v[number - 1] for each repetition."""
    for e in range(repeats * number):
        work[np.uint64(place * STEP + e)] = v[e % number]


@jit(inline=True)
def _fold(work, sums, products, number, repeats):
    """For each channel of a block the sums of what the second and third array hold for it; these become 0."""
    sums[:number] = 0
    products[:number] = 0
    for e in range(STEP, STEP + repeats * number, number):
        for c in range(number):
            sums[c] += work[np.uint64(e + c)]
            products[c] += work[np.uint64(e + c + STEP)]
            work[np.uint64(e + c)] = 0
            work[np.uint64(e + c + STEP)] = 0


@jit(inline=True)
def _add_distances(work, x, base, pitch, rows, width):
    """Adds x's distances from the work's first array to its second, their squares to its third."""
    for _ in range(rows // 4):  # at once: the sums' way to memory and back would take longer than all the rest
        for e in range(width):
            i = np.uint64(base + e)
            near = work[np.uint64(e)]
            p, q = x[i] - near, x[i + np.uint64(pitch)] - near
            r, s = x[i + np.uint64(2 * pitch)] - near, x[i + np.uint64(3 * pitch)] - near
            work[np.uint64(STEP + e)] += (p + q) + (r + s)
            work[np.uint64(2 * STEP + e)] += (p * p + q * q) + (r * r + s * s)
        base += 4 * pitch
    for _ in range(rows % 4):
        for e in range(width):
            p = x[np.uint64(base + e)] - work[np.uint64(e)]
            work[np.uint64(STEP + e)] += p
            work[np.uint64(2 * STEP + e)] += p * p
        base += pitch


@threaded
def moments(thread, threads, x, means, squares, counts):
    """Of each part of the rows: means and sums of squared distances from them, (parts, channels), and elements of a
    channel, (parts,).

    One pass: distances are taken from the mean of what came before, at first of one element. So what is subtracted from
    the squares of a chunk is no larger than what merging it adds.
    """
    parts, channels = means.shape
    most, repeats, pitch, rows, full = _walk(x.size, channels)
    work, sums, products = np.zeros(3 * STEP, x.dtype), np.empty(most), np.empty(most)
    for part in range(thread, parts, threads):
        begin, end = portion(part, parts, rows)
        for c in range(0, channels, most):
            number = min(most, channels - c)
            mean, square = means[part, c : c + number], squares[part, c : c + number]
            mean[:] = x[begin * pitch + c : begin * pitch + c + number]
            square[:] = 0
            count, row, height = 0, begin, 4
            while row < end:
                last = min(row + height, end, full) if row < full else end
                width = repeats * number if row < full else x.size - row * pitch
                _expand(work, 0, mean, number, repeats)
                _add_distances(work, x, row * pitch + c, pitch, last - row, width)
                _fold(work, sums, products, number, repeats)
                its_count = (last - row) * width // number
                for i in range(number):
                    apart = sums[i] / its_count
                    its_squares = max(0.0, products[i] - apart * sums[i])
                    _, mean[i], square[i] = _merge(
                        count, mean[i], square[i], its_count, work[np.uint64(i)] + apart, its_squares
                    )
                count += its_count
                row, height = last, max(4, CHUNK_OF_ROWS // width // 4 * 4)
            counts[part] = count


@jit
def merge(means, squares, counts):
    """The moments of all parts, in their order: into those of the first."""
    for part in range(1, len(counts)):
        for c in range(means.shape[1]):
            _, means[0, c], squares[0, c] = _merge(
                counts[0], means[0, c], squares[0, c], counts[part], means[part, c], squares[part, c]
            )
        counts[0] += counts[part]


@jit(inline=True)
def _add_products(work, g, x, base, pitch, rows, width):
    """Adds g to the work's second array, and g times x's distance from its first to its third."""
    for _ in range(rows // 2):
        for e in range(width):
            i, j = np.uint64(base + e), np.uint64(base + pitch + e)
            mean = work[np.uint64(e)]
            work[np.uint64(STEP + e)] += g[i] + g[j]
            work[np.uint64(2 * STEP + e)] += g[i] * (x[i] - mean) + g[j] * (x[j] - mean)
        base += 2 * pitch
    if rows % 2:
        for e in range(width):
            i = np.uint64(base + e)
            work[np.uint64(STEP + e)] += g[i]
            work[np.uint64(2 * STEP + e)] += g[i] * (x[i] - work[np.uint64(e)])


@threaded
def products(thread, threads, g, x, mean, sums, products):
    """Of each part of the rows, (parts, channels): the sums of g and of g times x's distance from the mean."""
    parts, channels = sums.shape
    most, repeats, pitch, rows, full = _walk(x.size, channels)
    work, s, t = np.zeros(3 * STEP, x.dtype), np.empty(most), np.empty(most)
    height = max(2, CHUNK_OF_ROWS // pitch // 2 * 2)
    for part in range(thread, parts, threads):
        begin, end = portion(part, parts, rows)
        sums[part] = 0
        products[part] = 0
        for c in range(0, channels, most):
            number = min(most, channels - c)
            _expand(work, 0, mean[c : c + number], number, repeats)
            row = begin
            while row < end:
                last = min(row + height, end, full) if row < full else end
                width = repeats * number if row < full else x.size - row * pitch
                _add_products(work, g, x, row * pitch + c, pitch, last - row, width)
                _fold(work, s, t, number, repeats)
                for i in range(number):
                    sums[part, c + i] += s[i]
                    products[part, c + i] += t[i]
                row = last


@threaded
def normalize(thread, threads, x, mean, k, beta, y):
    """y = (x - mean) k + beta"""
    channels = len(mean)
    most, repeats, pitch, rows, _ = _walk(x.size, channels)
    work = np.empty(3 * STEP, x.dtype)
    begin, end = portion(thread, threads, rows)
    for c in range(0, channels, most):
        number = min(most, channels - c)
        _expand(work, 0, mean[c : c + number], number, repeats)
        _expand(work, 1, k[c : c + number], number, repeats)
        _expand(work, 2, beta[c : c + number], number, repeats)
        for base in range(begin * pitch + c, min(end * pitch, x.size), pitch):
            for e in range(min(repeats * number, x.size - base)):
                i = np.uint64(base + e)
                y[i] = (x[i] - work[np.uint64(e)]) * work[np.uint64(STEP + e)] + work[np.uint64(2 * STEP + e)]


@threaded
def denormalize(thread, threads, g, x, mean, k, a, b, gx):
    """gx = k (g - a - (x - mean) b)"""
    channels = len(mean)
    most, repeats, pitch, rows, _ = _walk(x.size, channels)
    work = np.empty(4 * STEP, x.dtype)
    begin, end = portion(thread, threads, rows)
    for c in range(0, channels, most):
        number = min(most, channels - c)
        _expand(work, 0, mean[c : c + number], number, repeats)
        _expand(work, 1, k[c : c + number], number, repeats)
        _expand(work, 2, a[c : c + number], number, repeats)
        _expand(work, 3, b[c : c + number], number, repeats)
        for base in range(begin * pitch + c, min(end * pitch, x.size), pitch):
            for e in range(min(repeats * number, x.size - base)):
                i = np.uint64(base + e)
                apart = (x[i] - work[np.uint64(e)]) * work[np.uint64(3 * STEP + e)]
                gx[i] = work[np.uint64(STEP + e)] * (g[i] - work[np.uint64(2 * STEP + e)] - apart)


# ---- cross-entropy of rows (count, width) of float32
@threaded(reassociate=True)
def cross_entropy(thread, threads, x, target, width, loss, lse):
    """loss and lse, the log-sum-exp, of each row."""
    lanes = np.empty(LANES, np.float32)
    begin, after = portion(thread, threads, len(lse))
    for row in range(begin, after):
        first = row * width
        top = largest(x, first, first + width, lanes)
        s = np.float32(0)
        for e in range(first, first + width):
            s += exp(x[np.uint64(e)] - top)
        lse[row] = np.log(s) + top
        loss[row] = lse[row] - x[first + target[row]]


@threaded
def cross_entropy_backward(thread, threads, g, x, target, lse, width, gx):
    begin, after = portion(thread, threads, len(lse))
    for row in range(begin, after):
        first, value, scale = row * width, lse[row], g[row]
        for e in range(first, first + width):
            gx[np.uint64(e)] = exp(x[np.uint64(e)] - value) * scale
        chosen = first + target[row]
        gx[chosen] = (exp(x[chosen] - value) - np.float32(1)) * scale
