"""Compiled kernels of batch normalisation. All arrays are flat; the results hold for any number of threads.

Sums are those of chunks that stay in the first cache, added up in float64. A chunk's squares are taken from its own
mean, while it is there, and the chunks' moments are merged (Chan, Golub and LeVeque 1979): no difference of large
squares is ever formed.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .compile import jit

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


@jit(parallel=True)
def planes(x, gamma, beta, y, means, variances, batch, channels, size, eps):
    """x and y: (batch, channels, size). A task is a channel, which is normalised while it is in the second cache."""
    for c in prange(channels):
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


@jit(parallel=True)
def planes_backward(g, x, gamma, means, variances, gx, ggamma, gbeta, batch, channels, size, eps):
    """gx is left as it is if it is empty."""
    for c in prange(channels):
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
def _fill(line, c, channels, value):
    for e in range(c, line.size, channels):
        line[e] = value


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


@jit(parallel=True)
def rows(x, gamma, beta, y, means, variances, count, channels, width, parts, eps):
    """The lines are divided into `parts`, whose moments are merged in their order."""
    size = count * channels
    lines, height = (size + width - 1) // width, max(4, CHUNK_OF_LINES // width)
    part_means, part_squares, part_counts = np.zeros((parts, channels)), np.zeros((parts, channels)), np.zeros(parts)
    for part in prange(parts):
        last = (part + 1) * lines // parts
        mean, s = np.empty(width, x.dtype), np.empty(width, x.dtype)
        for start in range(part * lines // parts, last, height):
            begin, end = start * width, min(min(start + height, last) * width, size)
            number = (end - begin) // channels
            s[:] = 0
            for base in range(begin, end, width):
                _add(s, x, base, min(width, end - base))
            for c in range(channels):
                _fill(mean, c, channels, _fold(s, c, channels) / number)
            s[:] = 0
            for base in range(begin, end, width):
                _add_squares(s, x, mean, base, min(width, end - base))
            for c in range(channels):
                _, part_means[part, c], part_squares[part, c] = _merge(
                    part_counts[part], part_means[part, c], part_squares[part, c],
                    number, np.float64(mean[c]), _fold(s, c, channels),
                )  # fmt: skip
            part_counts[part] += number
    mean, k, b = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    for c in range(channels):
        before, m, squares = 0.0, 0.0, 0.0
        for part in range(parts):
            before, m, squares = _merge(
                before, m, squares, part_counts[part], part_means[part, c], part_squares[part, c]
            )
        means[c] = m
        variances[c] = squares / count
        _fill(mean, c, channels, m)
        _fill(k, c, channels, gamma[c] / np.sqrt(squares / count + eps))
        _fill(b, c, channels, beta[c])
    for line in prange(lines):
        _normalize(x, mean, k, b, y, line * width, min(width, size - line * width))


@jit(parallel=True)
def rows_backward(g, x, gamma, means, variances, gx, ggamma, gbeta, count, channels, width, parts, eps):
    """gx is left as it is if it is empty."""
    size = count * channels
    lines, height = (size + width - 1) // width, max(4, CHUNK_OF_LINES // width)
    part_s, part_t = np.zeros((parts, channels)), np.zeros((parts, channels))
    mean = np.empty(width, x.dtype)
    for c in range(channels):
        _fill(mean, c, channels, means[c])
    for part in prange(parts):
        last = (part + 1) * lines // parts
        s, t = np.empty(width, x.dtype), np.empty(width, x.dtype)
        for start in range(part * lines // parts, last, height):
            end = min(min(start + height, last) * width, size)
            s[:] = 0
            t[:] = 0
            for base in range(start * width, end, width):
                _add(s, g, base, min(width, end - base))
                _add_products(t, g, x, mean, base, min(width, end - base))
            for c in range(channels):
                part_s[part, c] += _fold(s, c, channels)
                part_t[part, c] += _fold(t, c, channels)
    k, a, b = np.empty(width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    for c in range(channels):
        s_all, t_all = 0.0, 0.0
        for part in range(parts):
            s_all += part_s[part, c]
            t_all += part_t[part, c]
        rstd = 1 / np.sqrt(np.float64(variances[c]) + eps)
        gbeta[c] = s_all
        ggamma[c] = t_all * rstd
        _fill(k, c, channels, gamma[c] * rstd)
        _fill(a, c, channels, s_all / count)
        _fill(b, c, channels, t_all * rstd * rstd / count)
    if gx.size:
        for line in prange(lines):
            _denormalize(g, x, mean, k, a, b, gx, line * width, min(width, size - line * width))
