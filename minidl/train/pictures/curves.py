"""Numbers over steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import BLUE, CLASSES, INK, MUTED, ORANGE, figure_of, plain_axes, set_titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MANY = 400  # points of a curve from which on it is drawn faint, with its running mean
WINDOW = 0.02  # of the points, that a running mean spans
# what minidl.train.tasks.Adversarial reports, and what the numbers are, by panel
GAN_PANELS = {
    "losses": {"loss": "discriminator", "g_loss": "generator"},
    "probability of being real": {"d_real": "real images, D(x)", "d_fake": "drawn images, D(G(z))"},
    "gradient norms": {"d_grad": "discriminator", "g_grad": "generator"},
}


def loss_curve(
    records: Sequence[dict[str, Any]],
    steps: Sequence[int],
    losses: Sequence[float],
    unit: str,
    baselines: dict[str, float] | None = None,
    title: str = "Loss",
    mark_best: bool = True,
) -> Figure:
    """The loss over steps: every step faint, means of epochs strong, validation with a dot at its best, baselines
    dashed; the legend below.

    The axis is logarithmic where the values span more than a factor of five. unit: what the loss measures. mark_best:
    draw that dot; not where another number decides which weights are best.
    """
    figure = figure_of(7.2, 4.2)
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
            if mark_best:
                best = int(np.argmin(val))
                axes.plot(
                    x[best], val[best], "o", color=ORANGE, markersize=7, mec="white", zorder=5, ls="none",
                    label=f"best: {val[best]:.3g} at step {x[best]}",
                )  # fmt: skip
    for name, value in (baselines or {}).items():
        axes.axhline(value, color=MUTED, lw=1, ls=(0, (4, 3)), label=f"{name}: {value:.3g}")
    _logarithmic_if_wide(axes)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    _finish(axes)
    if axes.get_legend_handles_labels()[0]:
        # below the axes, where no curve can run through it
        figure.legend(frameon=False, fontsize=9, loc="outside lower left", ncols=3)
    set_titles(figure, title)
    return figure


def curves(
    records: Sequence[Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    title: str,
    subtitle: str = "",
    names: Mapping[str, str] | None = None,
) -> Figure:
    """Small multiples over the same steps, a panel for each group.

    records: lines with "step" and numbers, such as the trainer's; a line may lack columns, and numbers that are not
    finite are gaps. groups: the panel's heading -> its columns, e.g. {"loss": ["train_loss", "val_loss"]}.
    names: what to call a column in the legend; by default train_… is called training, val_… validation.

    A curve of more than 400 points is drawn faint, with a running mean over 2 % of them. Axes of losses and norms (told
    by the columns' names) are logarithmic where the values span more than a factor of five; shares and accuracies are
    read on a linear axis. Raises ValueError without records or groups, and for a column that no record has.
    """
    known = list(dict.fromkeys(column for record in records for column in record))
    if not known or not groups:
        raise ValueError(f"there is nothing to draw: {len(records)} records, {len(groups)} groups")
    for group, columns in groups.items():
        for column in columns:
            if column not in known:
                raise ValueError(f"group {group!r} has the column {column!r}; the records have {', '.join(known)}")
    across = min(len(groups), 3 if len(groups) != 4 else 2)
    down = -(-len(groups) // across)
    figure = figure_of((0.5, 7.2, 8.4, 10.2)[across] if across < 3 else 10.2, 2.75 * down + 0.6)
    panels = figure.subplots(down, across, sharex=True, squeeze=False).ravel()
    for panel, (group, columns) in zip(panels, groups.items(), strict=False):
        _panel(panel, records, group, columns, names or {})
    last = len(groups) - across  # from here on there is no panel below
    for i, panel in enumerate(panels):
        panel.set_visible(i < len(groups))
        if i >= last:
            panel.set_xlabel("step", fontsize=9)
            panel.tick_params(labelbottom=True)
    set_titles(figure, title, subtitle)
    return figure


def gan_health(
    records: Sequence[Mapping[str, Any]],
    title: str = "How the two players fare",
    subtitle: str = "",
    more: Mapping[str, Sequence[str]] | None = None,
) -> Figure:
    """What tells a GAN that learns from one that has failed, over steps.

    Losses of both players; the probability of being real that the discriminator gives real and drawn images (both near
    one half: it cannot tell them apart; 1 and 0: the generator gets no gradient worth the name); norms of the
    gradients. records: lines with the numbers of `tasks.Adversarial` (loss, g_loss, d_real, d_fake, d_grad, g_grad),
    with or without train_ in front. more: further panels, e.g. {"classes drawn": ["val_coverage"]}.
    Raises ValueError if a number is missing.
    """
    known = {column for record in records for column in record}
    groups: dict[str, Sequence[str]] = {}
    names: dict[str, str] = {}
    for heading, numbers in GAN_PANELS.items():
        columns = {
            f"train_{number}" if f"train_{number}" in known else number: name for number, name in numbers.items()
        }
        groups[heading] = list(columns)
        names |= columns
    figure = curves(records, groups | dict(more or {}), title, subtitle, names)
    probabilities = figure.axes[1]
    probabilities.axhline(0.5, color=MUTED, lw=0.8, ls=(0, (4, 3)), zorder=0)
    probabilities.set_ylim(-0.03, 1.03)
    return figure


def _panel(
    axes: Any, records: Sequence[Mapping[str, Any]], group: str, columns: Sequence[str], names: Mapping[str, str]
) -> None:
    kinds = [column.partition("_")[0] for column in columns]
    by_kind = set(kinds) <= {"train", "val"} and len(set(kinds)) == len(kinds)  # the same two colours in each panel
    others = iter((BLUE, ORANGE, *CLASSES[2:]))
    for column, kind in zip(columns, kinds, strict=True):
        points = [(record["step"], record[column]) for record in records if record.get(column) is not None]
        x, y = np.array(points, dtype=np.float64).T
        y[~np.isfinite(y)] = np.nan
        color = {"train": BLUE, "val": ORANGE}[kind] if by_kind else next(others)
        label = names.get(column, _readable(column))
        if len(x) > MANY:
            axes.plot(x, y, color=color, alpha=0.22, lw=0.6)
            axes.plot(x, _running_mean(y), color=color, lw=1.6, label=label, zorder=3)
        else:
            dots = {"marker": "o", "markersize": 3} if len(x) < 15 else {}
            axes.plot(x, y, color=color, lw=1.6, label=label, zorder=3, **dots)
    if any(word in column for column in columns for word in ("loss", "norm", "grad")):
        _logarithmic_if_wide(axes)
    axes.set_title(group, loc="left", fontsize=10, color=INK, parse_math=False)
    _finish(axes)
    if len(columns) > 1 or columns[0] in names:
        axes.legend(frameon=False, fontsize=8, handlelength=1.4, borderaxespad=0.2)


def _readable(column: str) -> str:
    kind, _, rest = column.partition("_")
    return {"train": "training", "val": "validation"}.get(kind, column.replace("_", " ")) if rest else column


def _running_mean(y: np.ndarray) -> np.ndarray:
    """The mean over a window around each point, of those that are numbers; windows are cut at the ends."""
    half = max(1, int(len(y) * WINDOW / 2))
    number = np.isfinite(y)
    sums, counts = (np.concatenate([[0.0], np.cumsum(v)]) for v in (np.where(number, y, 0), number))
    begin, end = (np.clip(np.arange(len(y)) + shift, 0, len(y)) for shift in (-half, half + 1))
    count = counts[end] - counts[begin]
    return np.divide(sums[end] - sums[begin], count, out=np.full(len(y), np.nan), where=count > 0)


def _logarithmic_if_wide(axes: Any) -> None:
    lowest, highest = axes.dataLim.y0, axes.dataLim.y1
    if not 0 < lowest * 5 < highest < np.inf:
        return
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if highest < 1000 * lowest else (1,)))
    axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Any) -> None:
    axes.margins(x=0.01)
    axes.grid(axis="y", color="#e6e6e6", lw=0.7)
    axes.set_axisbelow(True)
    plain_axes(axes)
