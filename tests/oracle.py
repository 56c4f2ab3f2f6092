"""Naive loops that call none of minidl's code: what the tests believe.

Everything is given in plain numbers, one for each spatial axis: sizes, strides, dilations, and padding as
(before, after) pairs. Arrays are (N, C, *I), (K, C/G, *k) and (N, K, *O) as everywhere; results are float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

Ints = Sequence[int]
Pairs = Sequence[tuple[int, int]]


def conv_output(size: Ints, kernel: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> tuple[int, ...]:
    """Counts where the kernel fits, by trying."""
    result = []
    for n, k, s, (before, after), d in zip(size, kernel, stride, padding, dilation, strict=True):
        last = n + after - 1
        result.append(len([o for o in range(n + before + after) if o * s - before + (k - 1) * d <= last]))
    return tuple(result)


def conv(x: np.ndarray, w: np.ndarray, stride: Ints, padding: Pairs, dilation: Ints, groups: int) -> np.ndarray:
    output = conv_output(x.shape[2:], w.shape[2:], stride, padding, dilation)
    y = np.zeros((x.shape[0], w.shape[0], *output))
    for at_x, at_w, at_y in _products(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        y[at_y] += float(x[at_x]) * float(w[at_w])
    return y


def conv_input(
    y: np.ndarray, w: np.ndarray, size: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> np.ndarray:
    x = np.zeros((y.shape[0], w.shape[1] * groups, *size))
    for at_x, at_w, at_y in _products(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        x[at_x] += float(y[at_y]) * float(w[at_w])
    return x


def conv_weight(
    x: np.ndarray, y: np.ndarray, kernel: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> np.ndarray:
    w = np.zeros((y.shape[1], x.shape[1] // groups, *kernel))
    for at_x, at_w, at_y in _products(x.shape, w.shape, y.shape, stride, padding, dilation, groups):
        w[at_w] += float(x[at_x]) * float(y[at_y])
    return w


def _products(
    x_shape: Ints, w_shape: Ints, y_shape: Ints, stride: Ints, padding: Pairs, dilation: Ints, groups: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """The indices into x, w and y of every product that a convolution sums."""
    for n, k, c in product(range(x_shape[0]), range(w_shape[0]), range(w_shape[1])):
        channel = k // (w_shape[0] // groups) * w_shape[1] + c
        for place in product(*map(range, y_shape[2:])):
            for tap in product(*map(range, w_shape[2:])):
                at = tuple(
                    o * s - before + t * d
                    for o, t, s, (before, _), d in zip(place, tap, stride, padding, dilation, strict=True)
                )
                if all(0 <= i < size for i, size in zip(at, x_shape[2:], strict=True)):
                    yield (n, channel, *at), (k, c, *tap), (n, k, *place)


def pool_output(
    size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool
) -> tuple[int, ...]:
    """Counts windows, by trying: those that fit into the padded input, and with ceil_mode also those that hang over
    its end but start before the padding there."""
    result = []
    for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
        # the window before the first is counted from, so that the first may be one that hangs over
        fitting = [start for start in range(-p - s, n + p, s) if start + (k - 1) * d < n + p]
        starts = fitting[1:]
        if ceil_mode and fitting and fitting[-1] + (k - 1) * d < n + p - 1 and fitting[-1] + s < n:
            starts.append(fitting[-1] + s)
        result.append(len(starts))
    return tuple(result)


def max_pool(
    x: np.ndarray, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, ceil_mode: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each window, NaN above all, and its position in the plane; of equals the first."""
    size = x.shape[2:]
    output = pool_output(size, kernel, stride, padding, dilation, ceil_mode)
    y, indices = np.zeros((*x.shape[:2], *output)), np.zeros((*x.shape[:2], *output), int)
    for n, c, *place in product(*map(range, y.shape)):
        best, found = 0.0, -1
        for at, inside in _window(place, size, kernel, stride, padding, dilation):
            if not inside:
                continue
            value = float(x[(n, c, *at)])
            if found < 0 or (not math.isnan(best) and (math.isnan(value) or value > best)):
                best, found = value, 0
                for i, length in zip(at, size, strict=True):
                    found = found * length + i
        y[(n, c, *place)], indices[(n, c, *place)] = best, found
    return y, indices


def avg_pool(
    x: np.ndarray,
    kernel: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> np.ndarray:
    size = x.shape[2:]
    output = pool_output(size, kernel, stride, padding, dilation, ceil_mode)
    y = np.zeros((*x.shape[:2], *output))
    for n, c, *place in product(*map(range, y.shape)):
        total, number = 0.0, 0
        for at, inside in _window(place, size, kernel, stride, padding, dilation):
            if inside:
                total += float(x[(n, c, *at)])
            in_padding = all(i < length + p for i, length, p in zip(at, size, padding, strict=True))
            number += inside or (count_include_pad and in_padding)
        y[(n, c, *place)] = total / (divisor or number)
    return y


def _window(
    place: Ints, size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Every position of a window in row-major order, and whether it lies in the input."""
    for tap in product(*map(range, kernel)):
        at = tuple(o * s - p + t * d for o, t, s, p, d in zip(place, tap, stride, padding, dilation, strict=True))
        yield at, all(0 <= i < length for i, length in zip(at, size, strict=True))
