"""Results as a table to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from .duel import Result, Side

DEVICE = 5e12  # operations a second that tell a GPU from a CPU


class Ceiling(NamedTuple):
    """What the machine can do at best, in operations and in bytes a second (copied: read and written)."""

    flops: float
    bytes: float

    def roof(self, intensity: float) -> float:
        """Operations a second that are possible with so many operations for each byte (Williams et al., "Roofline",
        2009)."""
        return min(self.flops, self.bytes * intensity)


def table(results: Sequence[Result], ceiling: Ceiling, peer: str | None) -> Any:
    """A row for each result, as a rich table."""
    from rich.box import SIMPLE
    from rich.table import Table

    shown = Table(box=SIMPLE, pad_edge=False)
    peers = [peer] if peer else []
    for heading in ("case", "minidl", *peers, *(["ratio", "from-to"] if peer else []), "achieved", "peak", "first run"):
        shown.add_column(heading, justify="left" if heading == "case" else "right", no_wrap=heading != "case")
    for result in results:
        sides = [result.ours, *([result.theirs] if result.theirs else [])]
        cells = [result.name, *(duration(side.seconds) for side in sides)]
        if result.ratio is not None:
            cells += [f"{result.ratio:.2f}", f"{result.low:.2f}-{result.high:.2f}"]
        cells += [achieved(result, ceiling), *(_both(sides, f) for f in (_memory, _first))]
        shown.add_row(*cells)
    return shown


def _both(sides: Sequence[Side], text: Any) -> str:
    return " / ".join(map(text, sides))


def _memory(side: Side) -> str:
    return "?" if side.memory is None else f"{max(0, side.memory) / 2**20:,.0f} MiB"


def _first(side: Side) -> str:
    return duration(side.first) + (f" (+ {duration(side.compiling)} to compile)" if side.compiling else "")


def duration(seconds: float) -> str:
    """Three digits, in us, ms or s."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if seconds * scale < 999.5:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"


def achieved(result: Result, ceiling: Ceiling) -> str:
    """What minidl reached of the ceiling that the case has, arithmetic if there is any, else memory."""
    if result.flops:
        rate = result.flops / result.ours.seconds
        if ceiling.flops >= DEVICE:  # below the roofline, and beside the peer
            roof = ceiling.roof(result.flops / result.bytes) if result.bytes else ceiling.flops
            rates = [rate, *([result.flops / result.theirs.seconds] if result.theirs else [])]
            return f"{' / '.join(f'{r / 1e12:.1f}' for r in rates)} TFLOP/s, {rate / roof:.0%}"
        return f"{rate / 1e9:.0f} GFLOP/s, {rate / ceiling.flops:.0%}"
    if result.bytes:
        rate = result.bytes / result.ours.seconds
        return f"{rate / 1e9:.1f} GB/s, {rate / ceiling.bytes:.0%}"
    return ""


class Growth(NamedTuple):
    """How time grows with one size of a case: as size ** exponent, for minidl and for the peer."""

    workload: str
    case: str
    size: str
    values: list[int]
    ours: list[float]  # seconds
    theirs: list[float]  # empty without a peer

    def exponents(self) -> list[float]:
        """By least squares on logarithms: 1 is proportional, 2 quadratic."""
        return [_slope(self.values, seconds) for seconds in (self.ours, self.theirs) if seconds]


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    xs, ys = (list(map(math.log, values)) for values in (x, y))
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - mx) * (b - my) for a, b in zip(xs, ys, strict=True)) / sum((a - mx) ** 2 for a in xs)


def growth(results: Sequence[Result]) -> list[Growth]:
    """From the results of a sweep, in which the last size that each names is the one that is swept."""
    key = lambda r: (r.workload, r.case, list(r.sizes)[-1], list(r.sizes.items())[:-1])
    found = []
    for (workload, case, size, _), group in groupby(sorted((r for r in results if r.sizes), key=key), key):
        rows = sorted(group, key=lambda r: r.sizes[size])
        values = [r.sizes[size] for r in rows]
        if len(set(values)) > 1:
            theirs = [r.theirs.seconds for r in rows if r.theirs]
            found.append(Growth(workload, case, size, values, [r.ours.seconds for r in rows], theirs))
    return found


def growth_line(g: Growth, peer: str | None) -> str:
    """One line of text."""
    names = ["minidl", *([peer] if peer else [])]
    powers = ", ".join(f"{name} {g.size}^{e:.2f}" for name, e in zip(names, g.exponents(), strict=True))
    times = ", ".join(f"{value}: {duration(seconds)}" for value, seconds in zip(g.values, g.ours, strict=True))
    return f"{g.workload}, {g.case}: time grows as {powers} ({times})"
