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

CHUNK = 2**12  # elements of a plane, for the first cache
CHUNK_OF_LINES = 2**15  # elements, for the second: there is more to do after each


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
        m, k = x.dtype.type(mean), x.dtype.type(gamma[c] / np.sqrt(squares / count + eps))
        for n in range(batch):
            base = (n * channels + c) * size
            for e in range(base, base + size):
                y[np.uint64(e)] = (x[np.uint64(e)] - m) * k + beta[c]


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


# ---- channels-last: (count, channels), walked in lines of `width` elements, which is some whole rows: loops over
# a few channels would be too short to be quick. Arrays of a line's width hold each channel's number once for every row.
LINE = 512  # elements of a line, at least half of that


@jit(inline=True)
def _lines(size, channels):
    """The width of a line, and how many there are; the last may be shorter."""
    width = channels * max(1, LINE // channels)
    return width, (size + width - 1) // width


@jit(inline=True)
def _add(s, x, base, number):
    for e in range(number):
        s[np.uint64(e)] += x[np.uint64(base + e)]


@jit(inline=True)
def _add_squares(s, x, mean, base, number):
    for e in range(number):
        s[np.uint64(e)] += (x[np.uint64(base + e)] - mean[np.uint64(e)]) ** 2


@jit(inline=True)
def _add_products(s, g, x, mean, base, number):
    for e in range(number):
        s[np.uint64(e)] += g[np.uint64(base + e)] * (x[np.uint64(base + e)] - mean[np.uint64(e)])


@jit(inline=True)
def _fold(s, c, channels):
    """The sum of what a line holds for channel c."""
    total = np.float64(0)
    for e in range(c, s.size, channels):
        total += s[e]
    return total


@jit(inline=True)
def _normalize(x, mean, k, beta, y, base, number):
    for e in range(number):
        i, j = np.uint64(e), np.uint64(base + e)
        y[j] = (x[j] - mean[i]) * k[i] + beta[i]


@jit(inline=True)
def _denormalize(g, x, mean, k, a, b, gx, base, number):
    for e in range(number):
        i, j = np.uint64(e), np.uint64(base + e)
        gx[j] = k[i] * (g[j] - a[i] - (x[j] - mean[i]) * b[i])


@jit(inline=True)
def _part(number, parts, lines, width, size):
    """The elements of a part: the first, and the one after the last."""
    return number * lines // parts * width, min((number + 1) * lines // parts * width, size)


@threaded
def moments(thread, threads, x, means, squares, counts):
    """Of each part, (parts, channels) and (parts,); the lines are divided into parts."""
    parts, channels = means.shape
    width, lines = _lines(x.size, channels)
    mean, s = np.empty(width, x.dtype), np.empty(width, x.dtype)
    height = max(4, CHUNK_OF_LINES // width) * width
    for part in range(thread, parts, threads):
        counts[part] = 0
        means[part] = 0
        squares[part] = 0
        first, last = _part(part, parts, lines, width, x.size)
        for begin in range(first, last, height):
            end = min(begin + height, last)
            number = (end - begin) // channels
            s[:] = 0
            for base in range(begin, end, width):
                _add(s, x, base, min(width, end - base))
            for c in range(channels):
                m = _fold(s, c, channels) / number
                for e in range(c, width, channels):
                    mean[e] = m
            s[:] = 0
            for base in range(begin, end, width):
                _add_squares(s, x, mean, base, min(width, end - base))
            for c in range(channels):
                _, means[part, c], squares[part, c] = _merge(
                    counts[part], means[part, c], squares[part, c],
                    number, np.float64(mean[c]), _fold(s, c, channels),
                )  # fmt: skip
            counts[part] += number


@jit
def merge(means, squares, counts):
    """The moments of all parts, in their order: into those of the first."""
    for part in range(1, len(counts)):
        for c in range(means.shape[1]):
            _, means[0, c], squares[0, c] = _merge(
                counts[0], means[0, c], squares[0, c], counts[part], means[part, c], squares[part, c]
            )
        counts[0] += counts[part]


@threaded
def normalize(thread, threads, x, mean, k, beta, y):
    """The vectors hold each channel's number once for every row of a line."""
    lines = (x.size + mean.size - 1) // mean.size
    for line in range(lines * thread // threads, lines * (thread + 1) // threads):
        _normalize(x, mean, k, beta, y, line * mean.size, min(mean.size, x.size - line * mean.size))


@threaded
def products(thread, threads, g, x, mean, sums, products):
    """Of each part, (parts, channels): the sums of g and of g times x's distance from the mean (a line)."""
    parts, channels = sums.shape
    width, lines = _lines(x.size, channels)
    s, t = np.empty(width, x.dtype), np.empty(width, x.dtype)
    height = max(4, CHUNK_OF_LINES // width) * width
    for part in range(thread, parts, threads):
        sums[part] = 0
        products[part] = 0
        first, last = _part(part, parts, lines, width, x.size)
        for begin in range(first, last, height):
            end = min(begin + height, last)
            s[:] = 0
            t[:] = 0
            for base in range(begin, end, width):
                _add(s, g, base, min(width, end - base))
                _add_products(t, g, x, mean, base, min(width, end - base))
            for c in range(channels):
                sums[part, c] += _fold(s, c, channels)
                products[part, c] += _fold(t, c, channels)


@threaded
def denormalize(thread, threads, g, x, mean, k, a, b, gx):
    """gx = k (g - a - (x - mean) b), all but g and x lines as for `normalize`."""
    lines = (x.size + mean.size - 1) // mean.size
    for line in range(lines * thread // threads, lines * (thread + 1) // threads):
        _denormalize(g, x, mean, k, a, b, gx, line * mean.size, min(mean.size, x.size - line * mean.size))


# ---- cross-entropy of rows (count, width) of float32, on one thread
@jit(reassociate=True)
def cross_entropy(x, target, top, width, loss, lse):
    """top: the largest number of each row."""
    for row in range(len(lse)):
        s = np.float32(0)
        for e in range(row * width, (row + 1) * width):
            s += exp(x[np.uint64(e)] - top[row])
        lse[row] = np.log(s) + top[row]
        loss[row] = lse[row] - x[row * width + target[row]]


@jit
def cross_entropy_backward(g, x, target, lse, width, gx):
    for row in range(len(lse)):
        for e in range(row * width, (row + 1) * width):
            gx[np.uint64(e)] = exp(x[np.uint64(e)] - lse[row]) * g[row]
        chosen = row * width + target[row]
        gx[chosen] = (exp(x[chosen] - lse[row]) - np.float32(1)) * g[row]
