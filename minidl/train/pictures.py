"""Pictures of a run, drawn with matplotlib's objects (no pyplot: nothing global, no window, no figure left open)."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.extras import require
from .files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED, BLUE, ORANGE = "#222222", "#777777", "#1f6fb4", "#e4711b"
# ten hues that stay apart on white, also for most colour-blind readers, in the order of the classes
CLASSES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#5f5f5f", "#b5a800", "#17becf")


def _figure(width: float, height: float) -> Figure:
    """An empty figure, inches."""
    require("matplotlib", "drawing the pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())


def _titles(figure: Figure, title: str, subtitle: str = "") -> None:
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    if subtitle:
        figure.supxlabel(subtitle, x=0.01, ha="left", fontsize=8.5, color=MUTED)


def _plain_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1, fill: float = np.nan) -> np.ndarray:
    """(N, H, W) as one picture (rows * (H + gap) - gap, columns * (W + gap) - gap), read from left to right."""
    count, height, width = tiles.shape
    rows = -(-count // columns)
    out = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap), fill, dtype=np.float64)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        out[y : y + height, x : x + width] = tile
    return out


def reconstructions(
    rows: dict[str, np.ndarray], labels: Sequence[Any], title: str, subtitle: str = "", pairs: int = 2
) -> Figure:
    """Rows of grey images under one another, a column for each example, compared by eye.

    rows: name -> (N, H, W) images in [0, 1], dark ink on white; labels: N column heads. The N columns are broken into
    `pairs` blocks, one above the other. Pixels stay squares (nearest neighbour).
    """
    count = len(labels)
    wide = -(-count // pairs)
    figure = _figure(0.62 * wide + 1.3, 0.66 * len(rows) * pairs + 0.32 * pairs + 0.75)
    blocks = figure.subplots(pairs, 1, squeeze=False)[:, 0]
    for block, axes in enumerate(blocks):
        part = slice(block * wide, min(count, (block + 1) * wide))
        tiles = np.concatenate([images[part] for images in rows.values()])
        shown = tiles.shape[0] // len(rows)
        height, width = tiles.shape[1:]
        picture = mosaic(np.clip(tiles, 0, 1), shown)
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(
            [(width + 1) * i + (width - 1) / 2 for i in range(shown)], labels[part], fontsize=9, color=MUTED
        )
        axes.set_yticks(
            [(height + 1) * i + (height - 1) / 2 for i in range(len(rows))], list(rows), fontsize=9, color=INK
        )
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        axes.spines[:].set_visible(False)
        for i in range(len(rows) * shown):  # a hairline frame: where a white tile ends
            y, x = i // shown * (height + 1) - 0.5, i % shown * (width + 1) - 0.5
            axes.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], color="#cccccc", lw=0.5)
        axes.set_xlim(-1, picture.shape[1])
        axes.set_ylim(picture.shape[0], -1)
    _titles(figure, title, subtitle)
    return figure


def loss_curve(
    records: Sequence[dict[str, Any]],
    steps: Sequence[int],
    losses: Sequence[float],
    unit: str,
    baselines: dict[str, float] | None = None,
    title: str = "Loss",
) -> Figure:
    """The loss over steps: every step faint, means of epochs strong, validation with a dot at its best, baselines
    dashed; the legend below.

    The axis is logarithmic where the values span more than a factor of five. unit: what the loss measures.
    """
    figure = _figure(7.2, 4.2)
    axes = figure.subplots()
    if len(steps):
        axes.plot(steps, losses, color=BLUE, alpha=0.22, lw=0.6, label="training, each step")
    dots = {"marker": "o", "markersize": 3} if len(records) < 15 else {}
    if records:
        x = [record["step"] for record in records]
        axes.plot(
            x, [record["train_loss"] for record in records], color=BLUE, lw=1.8, label="training, epoch mean", **dots
        )
        if "val_loss" in records[-1]:
            val = [record["val_loss"] for record in records]
            axes.plot(x, val, color=ORANGE, lw=1.8, label="validation", **dots)
            best = int(np.argmin(val))
            axes.plot(
                x[best], val[best], "o", color=ORANGE, markersize=7, mec="white", zorder=5, ls="none",
                label=f"best: {val[best]:.3g} at step {x[best]}",
            )  # fmt: skip
    for name, value in (baselines or {}).items():
        axes.axhline(value, color=MUTED, lw=1, ls=(0, (4, 3)), label=f"{name}: {value:.3g}")
    lowest, highest = axes.dataLim.y0, axes.dataLim.y1
    if 0 < lowest * 5 < highest:
        from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.margins(x=0.01)
    axes.grid(axis="y", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    _plain_axes(axes)
    if axes.get_legend_handles_labels()[0]:
        # below the axes, where no curve can run through it
        figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=3)
    _titles(figure, title)
    return figure


def filters(weights: np.ndarray, title: str, subtitle: str = "", unit: str = "weight", most: int = 64) -> Figure:
    """First-layer weights (N, H, W) as tiles, the `most` strongest by norm; red positive, blue negative, white zero.

    One colour scale for all tiles, so weak filters look weak.
    """
    order = np.argsort(-np.linalg.norm(weights.reshape(len(weights), -1), axis=1), kind="stable")[:most]
    columns = min(len(order), 16 if len(order) > 32 else 8)
    rows = -(-len(order) // columns)
    tile = 0.56 if columns == 16 else 0.75
    figure = _figure(max(columns * tile + 1.1, 5.8), max(rows * tile, 1.7) + 0.85)
    axes = figure.subplots()
    limit = float(np.abs(weights).max()) or 1.0
    picture = mosaic(weights[order], columns)
    image = axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    bar = figure.colorbar(image, ax=axes, aspect=14, pad=0.02, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"−{limit:.2g}", "0", f"{limit:.2g}"], fontsize=8.5, color=MUTED)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=9, color=INK)
    _titles(figure, title, subtitle)
    return figure


def class_map(
    points: np.ndarray, labels: np.ndarray, axis_names: tuple[str, str], title: str, subtitle: str = ""
) -> Figure:
    """Points (N, 2) coloured by class (N,) 0..9, with a legend and each class's number at its median."""
    from matplotlib.patheffects import withStroke

    figure = _figure(6.6, 5.8)
    axes = figure.subplots()
    for label in np.unique(labels):
        own = points[labels == label]
        colour = CLASSES[int(label) % len(CLASSES)]
        axes.scatter(own[:, 0], own[:, 1], s=15, color=colour, alpha=0.75, linewidths=0, label=str(label))
    for label in np.unique(labels):
        x, y = np.median(points[labels == label], axis=0)
        axes.text(
            x, y, str(label), color=CLASSES[int(label) % len(CLASSES)], fontsize=15, fontweight="bold",
            ha="center", va="center", path_effects=[withStroke(linewidth=3, foreground="white")],
        )  # fmt: skip
    axes.set_xlabel(axis_names[0])
    axes.set_ylabel(axis_names[1])
    _plain_axes(axes)
    axes.legend(
        title="digit", frameon=False, fontsize=9, title_fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0, handletextpad=0.2, markerscale=1.6,
    )  # fmt: skip
    _titles(figure, title, subtitle)
    return figure
