"""Pictures made of small images: what a network drew, and what its filters look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .canvas import BLUE, FAINT, INK, MUTED, Sheet, as_rgb, enlarge, figure_of, mosaic, set_titles, shorten, text_width

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = 1080  # pixels across that a picture of many images aims at
LARGEST = 180  # pixels that one of them takes at most, unless it has more

Term = tuple[Any, str, np.ndarray]  # sign, name, images


def _scale(size: int, room: float) -> int:
    """How often to repeat a pixel so that `size` of them fill at most `room`."""
    return max(1, int(room // size))


def image_grid(
    images: Any,
    title: str,
    subtitle: str = "",
    columns: int | None = None,
    labels: Sequence[Any] | None = None,
    *,
    ink: bool = False,
) -> Figure:
    """Images in rows, read from left to right; labels stand below, cut where they are wider than an image.

    images: (N, H, W) or (N, 1, H, W) grey, (N, 3, H, W) or (N, H, W, 3) coloured, floats in [0, 1], clipped. ink: grey
    is drawn dark on white. columns: by default 10 if that leaves no row short, else 8, and more for very many.
    """
    rgb = as_rgb("images", images, ink=ink)
    count, height, width, _ = rgb.shape
    if labels is not None and len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} images")
    if columns is None:
        columns = min(count, max(10 if count % 10 == 0 else 8, int(np.ceil(np.sqrt(count)))))
    if columns < 1:
        raise ValueError(f"columns is {columns}: it must be at least 1")
    scale = _scale(max(height, width), min(PAGE / columns - 6, LARGEST))
    high, wide, below = height * scale, width * scale, 26 if labels is not None else 0
    sheet = Sheet()
    for i, tile in enumerate(enlarge(rgb, scale)):
        x, y = i % columns * (wide + 6), i // columns * (high + 6 + below)
        sheet.image(x + 1, y + 1, tile, frame=FAINT if ink else "")
        if labels is not None:
            text = shorten(str(labels[i]), wide + 2, 8)
            sheet.text(x + 1 + wide / 2, y + high + 15, text, 8, MUTED, ha="center")
    return sheet.figure(title, subtitle)


def manifold(
    images: Any,
    title: str,
    subtitle: str = "",
    ticks: Sequence[float] | tuple[Sequence[float], Sequence[float]] | None = None,
    names: tuple[str, str] = ("first latent variable", "second latent variable"),
    *,
    ink: bool = False,
) -> Figure:
    """What a decoder makes of a grid of codes of two numbers: images (R, C, H, W) side by side without gaps.

    Kingma and Welling, Auto-Encoding Variational Bayes (2014), figure 4. Row 0 is at the top. ticks: the latent values
    of the columns (C) and of the rows (R), as a pair, or one sequence where they are the same; about seven are written.
    names: of the variable along the columns and of the one along the rows. Coloured images as in `image_grid`.
    """
    rgb = as_rgb("images", images, "RC", ink)
    rows, columns, height, width, _ = rgb.shape
    scale = _scale(max(rows * height, columns * width), 900)
    high, wide = height * scale, width * scale
    sheet = Sheet()
    left, gap = (120, 14) if ticks is not None else (0, 0)
    picture = enlarge(rgb, scale).transpose(0, 2, 1, 3, 4).reshape(rows * high, columns * wide, 3)
    sheet.image(left + 1, 1, picture, frame=FAINT)
    if ticks is not None:
        across, down = _ticks(ticks, rows, columns)
        for i in _some(columns):
            x = left + 1 + (i + 0.5) * wide
            sheet.image(int(x), rows * high + 3, np.full((6, 1, 3), 0.5))
            sheet.text(x, rows * high + 26, _signed(across[i]), 8.5, MUTED, ha="center")
        for i in _some(rows):
            y = 1 + (i + 0.5) * high
            sheet.image(left - 7, int(y), np.full((1, 6, 3), 0.5))
            sheet.text(left - gap, y, _signed(down[i]), 8.5, MUTED, ha="right")
        sheet.text(left + columns * wide / 2, rows * high + 58, names[0], 9, INK, ha="center")
        sheet.text(14, rows * high / 2, names[1], 9, INK, upright=True)
    return sheet.figure(title, subtitle)


def _ticks(ticks: Any, rows: int, columns: int) -> tuple[Sequence[float], Sequence[float]]:
    pair = ticks if np.ndim(ticks[0]) == 1 else (ticks, ticks)
    if len(pair) != 2 or (len(pair[0]), len(pair[1])) != (columns, rows):
        lengths = " and ".join(str(len(values)) for values in pair)
        raise ValueError(f"ticks have {lengths} values: the images need {columns} for columns and {rows} for rows")
    return pair[0], pair[1]


def _some(count: int) -> list[int]:
    """About seven of `count` places, evenly spread, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, 7)).round().astype(int).tolist()))


def _signed(value: float) -> str:
    return f"{value:.2g}".replace("-", "−")


def interpolations(
    rows: Any, title: str, subtitle: str = "", ends: tuple[str, str] = ("from", "to"), *, ink: bool = False
) -> Figure:
    """Walks between two codes, one in each row: images (R, S, H, W), the first and last of a row framed.

    ends: what stands above the first and the last column. Coloured images as in `image_grid`.
    """
    rgb = as_rgb("rows", rows, "RS", ink)
    count, steps, height, width, _ = rgb.shape
    if steps < 2:
        raise ValueError(f"rows have {steps} image each: a walk needs at least two")
    scale = _scale(max(height, width), min(PAGE / steps - 8, 120))
    high, wide = height * scale, width * scale
    sheet = Sheet()
    for row in range(count):
        for step in range(steps):
            x, y, end = step * (wide + 8) + 3, row * (high + 10) + 33, step in (0, steps - 1)
            frame, thick = (BLUE, 3) if end else (FAINT if ink else "", 1)
            sheet.image(x, y, enlarge(rgb[row, step], scale), frame, thick)
    sheet.text(0, 15, ends[0], 9, BLUE)
    sheet.text((steps - 1) * (wide + 8) + wide + 6, 15, ends[1], 9, BLUE, ha="right")
    return sheet.figure(title, subtitle)


def arithmetic(
    terms: Sequence[Term],
    result: Any,
    title: str,
    subtitle: str = "",
    more: Sequence[tuple[Sequence[Term], Any]] = (),
    *,
    ink: bool = False,
) -> Figure:
    """Sums of codes as equations of small pictures. Radford, Metz and Chintala, DCGAN (2016), figure 7.

    terms: (sign, name, images) each, sign "+" or "-" (or a number, by its sign), images (K, H, W): those whose codes
    were averaged. result: images (M, H, W) drawn from the sum. more: further pairs of terms and result, written below
    one another. Coloured images as in `image_grid`.
    """
    equations = [(terms, result), *more]
    sheet = Sheet()
    y = 0
    for own, made in equations:
        if not own:
            raise ValueError("an equation has no terms")
        blocks = [(_sign(sign), str(name), _block(f"images of {name!r}", images, ink)) for sign, name, images in own]
        blocks.append(("=", "", _block("result", made, ink)))
        high = max(block.shape[0] for _, _, block in blocks)
        x = 0
        for i, (sign, name, block) in enumerate(blocks):
            if i or sign != "+":
                sheet.text(x + 23, y + high / 2, sign, 15, INK, ha="center")
                x += 46
            wide = max(block.shape[1], int(text_width(name, 9)) + 1)
            sheet.image(x + (wide - block.shape[1]) // 2, y + (high - block.shape[0]) // 2, block)
            sheet.text(x + wide / 2, y + high + 18, name, 9, MUTED, ha="center")
            x += wide
        y += high + 56
    return sheet.figure(title, subtitle)


def _sign(sign: Any) -> str:
    if sign in ("+", "-", "−"):
        return "+" if sign == "+" else "−"
    if isinstance(sign, str) or not sign:
        raise ValueError(f"the sign of a term is {sign!r}: it must be '+', '-' or a number other than 0")
    return "+" if sign > 0 else "−"


def _block(name: str, images: Any, ink: bool) -> np.ndarray:
    """Up to three images in a column, more in a square, as one picture with hairlines around each."""
    rgb = as_rgb(name, images, ink=ink)
    count, height, width, _ = rgb.shape
    columns = 1 if count <= 3 else int(np.ceil(np.sqrt(count)))
    tiles = enlarge(rgb, _scale(max(height, width), 76))
    framed = np.full((count, tiles.shape[1] + 2, tiles.shape[2] + 2, 3), 0.8 if ink else 1.0)
    framed[:, 1:-1, 1:-1] = tiles
    return mosaic(framed, columns, 4, 1.0)


def reconstructions(
    rows: dict[str, np.ndarray], labels: Sequence[Any], title: str, subtitle: str = "", pairs: int = 2
) -> Figure:
    """Rows of images under one another, a column for each example, compared by eye.

    rows: name -> N images in [0, 1] as in `image_grid`, grey ones as dark ink on white; labels: N column heads. The N
    columns are broken into `pairs` blocks, one above the other. Pixels stay squares (nearest neighbour).
    """
    count = len(labels)
    pairs = min(pairs, count)
    rgb = {name: as_rgb(name, images, ink=True) for name, images in rows.items()}
    wide = -(-count // pairs)
    figure = figure_of(0.62 * wide + 1.3, 0.66 * len(rows) * pairs + 0.32 * pairs + 0.75)
    blocks = figure.subplots(pairs, 1, squeeze=False)[:, 0]
    for block, axes in enumerate(blocks):
        part = slice(block * wide, min(count, (block + 1) * wide))
        tiles = np.concatenate([images[part] for images in rgb.values()])
        shown, height, width = tiles.shape[0] // len(rows), *tiles.shape[1:3]
        picture = mosaic(tiles, shown, fill=1.0)
        axes.imshow(picture, interpolation="nearest")
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
            axes.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], color=FAINT, lw=0.5)
        axes.set_xlim(-1, picture.shape[1])
        axes.set_ylim(picture.shape[0], -1)
    set_titles(figure, title, subtitle)
    return figure


def filters(weights: np.ndarray, title: str, subtitle: str = "", unit: str = "weight", most: int = 64) -> Figure:
    """First-layer weights (N, H, W) as tiles, the `most` strongest by norm; red positive, blue negative, white zero.

    One colour scale for all tiles, so weak filters look weak.
    """
    order = np.argsort(-np.linalg.norm(weights.reshape(len(weights), -1), axis=1), kind="stable")[:most]
    columns = min(len(order), 16 if len(order) > 32 else 8)
    rows = -(-len(order) // columns)
    tile = 0.56 if columns == 16 else 0.75
    figure = figure_of(max(columns * tile + 1.1, 5.8), max(rows * tile, 1.7) + 0.85)
    axes = figure.subplots()
    limit = float(np.abs(weights).max()) or 1.0
    picture = mosaic(weights[order], columns)
    image = axes.imshow(picture, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    bar = figure.colorbar(image, ax=axes, aspect=14, pad=0.02, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"−{limit:.2g}", "0", f"{limit:.2g}"], fontsize=8.5, color=MUTED)
    bar.outline.set_visible(False)
    bar.set_label(unit, fontsize=9, color=INK)
    set_titles(figure, title, subtitle)
    return figure
