"""Results as a picture: bars of ratios, a roofline, and how time grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..train.pictures.canvas import BLUE, CLASSES, INK, MUTED, ORANGE, figure_of, plain_axes, set_titles
from .duel import Result
from .show import Ceiling, duration, growth

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(results: Sequence[Result], ceiling: Ceiling, peer: str | None, title: str, subtitle: str = "") -> Figure:
    """A figure with up to three panels; those for which there are no numbers are left out.

    Bars: time of minidl / time of the peer, with the extremes of all pairs; left of 1 minidl is faster. Roofline: what
    was achieved over the operations for each byte moved, below what the machine can do at best. Growth: time over the
    sizes of a sweep.
    """
    bars = [r for r in results if r.ratio is not None]
    points = [r for r in results if r.flops and r.bytes]
    curves = growth(results)
    if not results:
        raise ValueError("results is empty: there is nothing to draw")
    panels: list[tuple[Any, Any]] = (
        [(_bars, bars)] * bool(bars) + [(_roofline, points)] * bool(points) + [(_growth, curves)] * bool(curves)
    )
    panels = panels or [(_times, list(results))]
    heights = [0.9 + 0.3 * len(rows) if panel in (_bars, _times) else 4.2 for panel, rows in panels]
    figure = figure_of(8.4, sum(heights) + 0.8)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for ax, (panel, rows) in zip(axes, panels, strict=True):
        panel(ax, rows, ceiling, peer)
        plain_axes(ax)
    set_titles(figure, title, subtitle)
    return figure


def _bars(axes: Any, results: list[Result], ceiling: Ceiling, peer: str | None) -> None:
    at = np.arange(len(results))
    ratios = np.array([r.ratio for r in results], np.float64)
    axes.barh(at, ratios, 0.7, color=[BLUE if ratio <= 1 else ORANGE for ratio in ratios])
    spread = np.abs(np.array([[r.low, r.high] for r in results], np.float64).T - ratios)
    axes.errorbar(ratios, at, xerr=spread, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2)
    axes.axvline(1, color=INK, lw=1)
    right = max(1.0, *(r.high or 0.0 for r in results))
    for y, r in zip(at, results, strict=True):
        axes.text(right * 1.03, y, f"{r.ratio:.2f}", va="center", fontsize=8.5, color=INK)
    axes.set_xlim(0, right * 1.15)
    axes.set_yticks(at, [r.name for r in results])
    axes.invert_yaxis()
    axes.set_xlabel(f"time of minidl / time of {peer} (below 1, minidl is faster)")


def _times(axes: Any, results: list[Result], ceiling: Ceiling, peer: str | None) -> None:
    """Without a peer and without counts there are only seconds."""
    at = np.arange(len(results))
    axes.barh(at, [r.ours.seconds for r in results], 0.7, color=BLUE)
    axes.set_xscale("log")
    for y, r in zip(at, results, strict=True):
        axes.text(r.ours.seconds, y, f" {duration(r.ours.seconds)}", va="center", fontsize=8.5, color=INK)
    axes.set_yticks(at, [r.name for r in results])
    axes.invert_yaxis()
    axes.set_xlabel("seconds")


def _roofline(axes: Any, results: list[Result], ceiling: Ceiling, peer: str | None) -> None:
    intensity = np.array([r.flops / r.bytes for r in results])
    ridge = ceiling.flops / ceiling.bytes
    x = np.geomspace(min(intensity.min(), ridge) / 2, max(intensity.max(), ridge) * 2, 200)
    axes.plot(x, [ceiling.roof(i) / 1e9 for i in x], color=INK, lw=1.4)
    axes.text(
        x[0], ceiling.flops / 1e9, f"{ceiling.flops / 1e9:.0f} GFLOP/s, {ceiling.bytes / 1e9:.0f} GB/s",
        ha="left", va="bottom", fontsize=8.5, color=MUTED,
    )  # fmt: skip
    for i, (r, flops_per_byte) in enumerate(zip(results, intensity, strict=True)):
        color = CLASSES[i % len(CLASSES)]
        for side, marker in ((r.ours, "o"), (r.theirs, "x")):
            if side is not None:
                label = r.name if side is r.ours else None
                axes.plot(flops_per_byte, r.flops / side.seconds / 1e9, marker, color=color, label=label, ls="none")
    rates = [r.flops / side.seconds / 1e9 for r in results for side in (r.ours, r.theirs) if side is not None]
    axes.set_xscale("log")
    axes.set_yscale("log")
    # room for the legend; algorithms that save operations lie above the roof
    axes.set_ylim(min(rates) / 10, max(ceiling.flops / 1e9, *rates) * 2)
    _plain_numbers(axes)
    axes.set_xlabel("operations of the direct algorithm for each byte that must move")
    axes.set_ylabel("GFLOP/s" + (f"   (o minidl, x {peer})" if peer else ""))
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _plain_numbers(axes: Any) -> None:
    """1, 10 and 100 instead of powers; in between no numbers."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")


def _growth(axes: Any, curves: list[Any], ceiling: Ceiling, peer: str | None) -> None:
    for i, g in enumerate(curves):
        color, start = CLASSES[i % len(CLASSES)], g.values[0]
        x = [value / start for value in g.values]
        axes.plot(x, g.ours, "o-", color=color, lw=1.6, ms=4, label=f"{g.workload}, {g.case}: {g.size} from {start}")
        if g.theirs:
            axes.plot(x, g.theirs, "x--", color=color, lw=1, ms=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _plain_numbers(axes)
    axes.set_xlabel("size / smallest size")
    axes.set_ylabel("seconds" + (f"   (o minidl, x {peer})" if peer else ""))
    axes.legend(frameon=False, fontsize=8)
