"""Walks: what unites convolution and transposed convolution for the compiled kernels.

On each axis, tap t of position o reads the source at `start + o * step + t * spacing`, or a zero outside of it, and the
result belongs at `first + o * every`. A convolution is one walk; the transposed one is a walk for each phase of its
stride. Everything has three spatial axes; those that are missing have size one.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

from ..geometry import ConvGeometry


class Axis(NamedTuple):
    """One axis of a walk."""

    size: int  # of what is read
    positions: int
    kernel: int  # taps
    start: int
    step: int
    spacing: int
    out_size: int  # of what is written
    first: int
    every: int


UNIT = Axis(1, 1, 1, 0, 1, 1, 1, 0, 1)


def forward(g: ConvGeometry) -> list[Axis]:
    """The walk of a convolution, and of its weight's gradient."""
    axes = [
        Axis(n, o, k, -before, s, d, o, 0, 1)
        for n, o, k, (before, _), s, d in zip(g.input, g.output, g.kernel, g.padding, g.stride, g.dilation, strict=True)
    ]
    return [UNIT] * (3 - g.rank) + axes


def backward(g: ConvGeometry) -> list[list[tuple[range, Axis]]]:
    """For each axis the phases of the transposed convolution, each with the taps that reach its positions."""
    axes = [
        _phases(n, o, k, before, s, d)
        for n, o, k, (before, _), s, d in zip(g.input, g.output, g.kernel, g.padding, g.stride, g.dilation, strict=True)
    ]
    return [[(range(1), UNIT)]] * (3 - g.rank) + axes


def _phases(n: int, o: int, k: int, before: int, s: int, d: int) -> list[tuple[range, Axis]]:
    """Input position i meets tap t at output (i + before - t * d) / s, where that is whole: with i + before = s * q + r
    (r is the phase) at q - (t * d - r) / s. Taken backwards, from the last one, the taps read ascending outputs.
    """
    phases = []
    for r in range(s):
        taps = [t for t in range(k) if (t * d - r) % s == 0]
        if taps:
            apart = s // gcd(s, d)
            q = -(-(before - r) // s)  # the first input position of this phase
            first = s * q + r - before
            count = max(0, -(-(n - first) // s))
            start = q - (taps[-1] * d - r) // s
            axis = Axis(o, count, len(taps), start, 1, d * apart // s, n, first, s)
            phases.append((range(taps[-1], -1, -apart), axis))
    return phases
