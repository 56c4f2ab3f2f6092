"""What a network makes of classes: a map of codes, confusions, clips with what was seen in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import (
    BLUE,
    CLASSES,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    WRONG,
    Sheet,
    as_rgb,
    enlarge,
    figure_of,
    plain_axes,
    set_titles,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NUMBERED = 20  # classes up to which a confusion matrix has numbers in its cells
STRIP = 1240  # pixels across that a strip of films aims at


def class_map(
    points: np.ndarray, labels: np.ndarray, axis_names: tuple[str, str], title: str, subtitle: str = ""
) -> Figure:
    """Points (N, 2) coloured by class (N,) 0..9, with a legend and each class's number at its median."""
    from matplotlib.patheffects import withStroke

    figure = figure_of(6.6, 5.8)
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
    plain_axes(axes)
    axes.legend(
        title="digit", frameon=False, fontsize=9, title_fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0, handletextpad=0.2, markerscale=1.6,
    )  # fmt: skip
    set_titles(figure, title, subtitle)
    return figure


def confusion_matrix(
    truth: Any, predicted: Any, classes: Sequence[str], title: str, subtitle: str | None = None
) -> Figure:
    """How often each class (rows) was taken for each (columns); blue what is right, orange what is wrong.

    truth, predicted: (N,) integers in [0, K); classes: K names. Colours are shares of the row, darker by their square
    root, so that rare confusions are seen. With up to 20 classes each cell has the count and, below it, the share; with
    more there is a scale.
    A class that truth does not have is marked "none" and its row is empty. subtitle: by default the accuracy.
    Raises ValueError for labels that are no such integers.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    counts = _counts(truth, predicted, len(classes))
    number = len(classes)
    of_row = counts.sum(1, keepdims=True)
    shares = np.divide(counts, of_row, out=np.zeros(counts.shape), where=of_row > 0)
    right = np.eye(number, dtype=bool)

    cell = np.clip(11.0 / number, 0.1, 0.62)
    font = float(np.clip(cell * 72 * 0.85, 4.5, 9))
    longest = max(len(str(name)) for name in classes)
    margin = font * (min(longest, 28) * 0.6 + 1) / 72 + 0.35  # for names and the axis label
    bars_take = 0 if number <= NUMBERED else 1.7
    figure = figure_of(max(cell * number + margin + bars_take, 5.6), cell * number + margin + 0.65)
    axes = figure.subplots()
    scales = []
    for shown, color, dark in ((right, BLUE, "#0d3c66"), (~right, ORANGE, "#8c3a05")):
        scale = LinearSegmentedColormap.from_list("", ["white", color, dark])
        values = np.ma.masked_array(shares, ~shown)
        scales.append(axes.imshow(values, cmap=scale, norm=PowerNorm(0.5, 0, 1), interpolation="nearest"))
    names = [shorten(str(name), font * 28 * 1.3, font) for name in classes]
    heads = [name if total else f"{name} (none)" for name, total in zip(names, of_row[:, 0], strict=True)]
    axes.set_xticks(range(number), names, fontsize=font, rotation=90 if longest > 2 else 0, parse_math=False)
    axes.set_yticks(range(number), heads, fontsize=font, parse_math=False)
    axes.tick_params(length=0, colors=INK, pad=3)
    axes.set_xticks(np.arange(number - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(number - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="#eeeeee", lw=0.8 if number <= NUMBERED else 0.3)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_color(FAINT)
    axes.set_xlabel("predicted", fontsize=9.5, color=INK)
    axes.set_ylabel("truth", fontsize=9.5, color=INK)
    if number <= NUMBERED:
        for i, j in zip(*np.nonzero(counts), strict=True):
            color = "white" if shares[i, j] > 0.2 else INK
            axes.text(j, i - 0.12, f"{counts[i, j]}", ha="center", va="center", fontsize=9, color=color)
            axes.text(j, i + 0.24, f"{shares[i, j]:.0%}", ha="center", va="center", fontsize=6, color=color)
    else:
        for name, image in zip(("wrong", "right"), reversed(scales), strict=True):
            bar = figure.colorbar(image, ax=axes, shrink=0.25, aspect=16, pad=0.01, anchor=(0, 1))
            bar.set_ticks([0, 0.01, 0.1, 0.5, 1], labels=["0", "1%", "10%", "50%", "100%"], fontsize=8, color=MUTED)
            bar.ax.tick_params(length=0)
            bar.ax.set_title(name, fontsize=8, color=INK, loc="left")
            bar.outline.set_visible(False)
    total, good = int(counts.sum()), int(np.trace(counts))
    usual = f"{good} of {total} right, an accuracy of {good / total:.1%}. Rows are shares of a true class."
    set_titles(figure, title, usual if subtitle is None else subtitle)
    return figure


def _counts(truth: Any, predicted: Any, number: int) -> np.ndarray:
    """The confusion matrix (K, K) of labels (N,)."""
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    for name, labels in (("truth", truth), ("predicted", predicted)):
        check_labels(name, labels, number)
    if truth.shape != predicted.shape or not len(truth):
        raise ValueError(f"truth has {len(truth)} labels and predicted {len(predicted)}: as many, and at least one")
    return np.bincount(truth * number + predicted, minlength=number * number).reshape(number, number)


def check_labels(name: str, labels: np.ndarray, number: int) -> None:
    """Raises ValueError unless labels are (N,) integers in [0, number)."""
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} has shape {labels.shape} and dtype {labels.dtype}: it must be (N,) integers")
    wrong = labels[(labels < 0) | (labels >= number)]
    if len(wrong):
        raise ValueError(f"{name} has the label {wrong[0]}: there are {number} classes, 0 to {number - 1}")


def check_probabilities(probabilities: Any, predictions: np.ndarray) -> np.ndarray:
    """Probability of each prediction (N,): of (N,) themselves, or of (N, K) the one at the predicted class.

    Raises ValueError for other shapes and for numbers that are no probabilities.
    """
    array = np.asarray(probabilities, dtype=np.float64)
    count = len(predictions)
    if array.ndim not in (1, 2) or len(array) != count or (array.ndim == 2 and array.shape[1] <= predictions.max()):
        raise ValueError(f"probabilities have shape {array.shape}: it must be ({count},) or ({count}, classes)")
    own = array if array.ndim == 1 else array[np.arange(count), predictions]
    if not ((own >= -1e-6) & (own <= 1 + 1e-6)).all():
        raise ValueError(f"probabilities lie between {own.min():.3g} and {own.max():.3g}: they must be in [0, 1]")
    return own.clip(0, 1)


def film_strip(
    clips: Any,
    truths: Any,
    predictions: Any,
    probabilities: Any = None,
    classes: Sequence[str] = (),
    title: str = "",
    subtitle: str = "",
    most: int = 8,
    *,
    ink: bool = False,
) -> Figure:
    """Clips as rows of frames; on the left what was seen in each, and where that is wrong, what it is.

    clips: (N, T, H, W) or (N, C, T, H, W) with 1 or 3 channels, in [0, 1]. truths, predictions: (N,) integers.
    probabilities: of the predictions (N,) or of all classes (N, K). classes: their names; numbers without.
    Of longer clips `most` frames are shown, evenly spread from the first to the last.
    """
    clips = np.asarray(clips)
    if clips.ndim == 5:
        clips = np.moveaxis(clips, 1, 2)  # channels after time: as_rgb's form
    rgb = as_rgb("clips", clips, "NT", ink)
    count, frames, height, width, _ = rgb.shape
    truths, predictions = np.asarray(truths), np.asarray(predictions)
    for name, labels in (("truths", truths), ("predictions", predictions)):
        check_labels(name, labels, len(classes) or np.iinfo(np.int64).max)
        if len(labels) != count:
            raise ValueError(f"{name} has {len(labels)} labels for {count} clips")
    sure = None if probabilities is None else check_probabilities(probabilities, predictions)

    chosen = np.unique(np.linspace(0, frames - 1, min(frames, most)).round().astype(int))
    left = 230
    scale = _scale_of_strip(height, width, (STRIP - left) / len(chosen))
    high, wide = height * scale, width * scale
    row = max(high, 62) + 14
    sheet = Sheet()
    for k, frame in enumerate(chosen):
        sheet.text(left + k * (wide + 4) + wide / 2, 12, str(frame + 1), 8, MUTED, ha="center")
    sheet.text(left - 14, 12, "frame", 8, MUTED, ha="right")
    for i in range(count):
        y = 32 + i * row
        right = truths[i] == predictions[i]
        color = BLUE if right else WRONG
        share = "" if sure is None else f"  {sure[i]:.0%}"
        text = shorten(_name(classes, predictions[i]), left - 60 - (60 if share else 0), 9)
        middle = y + (row - 14) / 2
        sheet.text(0, middle - (0 if right else 14), "✓" if right else "✗", 10, color, weight="bold")
        sheet.text(24, middle - (0 if right else 14), text + share, 9, color)
        if not right:
            is_ = shorten(f"is: {_name(classes, truths[i])}", left - 40, 8)
            sheet.text(24, middle + 14, is_, 8, MUTED)
        for k, frame in enumerate(chosen):
            tile = enlarge(rgb[i, frame], scale)
            sheet.image(left + k * (wide + 4), y + (row - 14 - high) // 2, tile, frame=FAINT if ink else "")
    return sheet.figure(title, subtitle)


def _name(classes: Sequence[str], label: Any) -> str:
    return str(classes[label]) if len(classes) else str(label)


def _scale_of_strip(height: int, width: int, room: float) -> int:
    return max(1, int(min((room - 4) // width, 130 // height)))
