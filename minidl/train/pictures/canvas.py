"""What all pictures share: an empty figure, its titles, tiles of pixels, colours, and how a picture becomes a file."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.extras import require
from ..files import write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
INK, MUTED, FAINT, BLUE, ORANGE = "#222222", "#777777", "#cccccc", "#1f6fb4", "#e4711b"
WRONG = "#c2500a"  # the orange, dark enough for text
# ten hues that stay apart on white, also for most colour-blind readers, in the order of the classes
CLASSES = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#5f5f5f", "#b5a800", "#17becf")
BAD = (0.84, 0.15, 0.16)  # a pixel that is no number


def figure_of(width: float, height: float, layout: str | None = "constrained") -> Figure:
    """An empty white figure, inches."""
    require("matplotlib", "drawing the pictures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def save(figure: Figure, path: str | os.PathLike) -> None:
    """Write a figure as PNG, atomically."""
    write_atomic(path, png(figure))


def set_titles(figure: Figure, title: str, subtitle: str = "") -> None:
    """The title at the top left, the subtitle muted at the bottom left. `$` is a character like any other."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK, parse_math=False)
    if subtitle:
        figure.supxlabel(subtitle, x=0.01, ha="left", fontsize=8.5, color=MUTED, parse_math=False)


def plain_axes(axes: Any) -> None:
    """Axes with a line on the left and one below, both muted."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=MUTED, labelsize=8.5)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1, fill: float = np.nan) -> np.ndarray:
    """(N, H, W) as one picture (rows * (H + gap) - gap, columns * (W + gap) - gap), read from left to right.

    (N, H, W, 3) as one coloured picture (…, …, 3).
    """
    count, height, width, *channels = tiles.shape
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *channels)
    out = np.full(shape, fill, dtype=np.float64)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        out[y : y + height, x : x + width] = tile
    return out


def as_rgb(name: str, images: Any, axes: str = "N", ink: bool = False) -> np.ndarray:
    """Images in [0, 1] as (…, H, W, 3) float64, … being as many axes as `axes` has letters, such as "N".

    images: grey (…, H, W) or (…, 1, H, W), coloured (…, 3, H, W) or (…, H, W, 3). Where a shape fits both coloured
    forms it is taken as channels first. Values outside of [0, 1] are clipped; NaN becomes red, so that it is seen.
    ink: grey images are dark on white. Raises ValueError that names `name` for other shapes, and for integers.
    """
    array = np.asarray(images)
    lead = len(axes)
    if array.ndim == lead + 3 and array.shape[lead] == 1:
        array = array.squeeze(lead)
    elif array.ndim == lead + 3 and array.shape[lead] == 3:
        array = np.moveaxis(array, lead, -1)
    if array.ndim != lead + 2 and not (array.ndim == lead + 3 and array.shape[-1] == 3):
        first = ", ".join(axes)
        raise ValueError(
            f"{name} have the shape {np.shape(images)}: it must be ({first}, H, W), ({first}, 1, H, W), "
            f"({first}, 3, H, W) or ({first}, H, W, 3)"
        )
    if 0 in array.shape:
        raise ValueError(f"{name} have the shape {np.shape(images)}: there is nothing to draw")
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} are {array.dtype}: give floating-point numbers in [0, 1], such as images / 255")
    array = np.clip(array.astype(np.float64), 0, 1)
    if array.ndim == lead + 2:
        array = np.repeat((1 - array if ink else array)[..., None], 3, axis=-1)
    array[np.isnan(array).any(-1)] = BAD
    return array


def enlarge(images: np.ndarray, scale: int) -> np.ndarray:
    """(…, H, W, 3) -> (…, H * scale, W * scale, 3): pixels become squares (nearest neighbour)."""
    return images.repeat(scale, -3).repeat(scale, -2)


def text_width(string: str, size: float, weight: str = "normal") -> float:
    """Pixels that a line of text takes at `size` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(string, FontProperties(size=size, weight=weight), False)
    return width * DPI / 72


def shorten(string: str, width: float, size: float) -> str:
    """As much of a text as fits into `width` pixels, ended by "…" where something is missing."""
    if text_width(string, size) <= width:
        return string
    while string and text_width(string + "…", size) > width:
        string = string[:-1]
    return string.rstrip() + "…"


def wrap(string: str, width: float, size: float, weight: str = "normal") -> list[str]:
    """A text in lines of at most `width` pixels; a longer word stays whole."""
    lines: list[str] = []
    for word in string.split():
        if lines and text_width(f"{lines[-1]} {word}", size, weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


class Sheet:
    """A white page measured in pixels, x to the right and y down, that grows with what is put on it.

    For pictures made of small images: they are enlarged by whole numbers and stand on whole pixels, so that every pixel
    of theirs is a square of the same size. Axes cannot promise that.
    """

    NARROWEST = 760  # a title needs room
    MARGIN = 14

    def __init__(self) -> None:
        self.width = self.height = 0
        self._images: list[tuple[int, int, np.ndarray]] = []
        self._texts: list[tuple[float, float, str, dict[str, Any]]] = []

    def image(self, x: int, y: int, rgb: np.ndarray, frame: str = "", thick: int = 1) -> None:
        """Put an image (H, W, 3) with its upper left corner at (x, y); a frame goes around it, `thick` pixels wide."""
        if frame:
            from matplotlib.colors import to_rgb

            height, width, _ = rgb.shape
            framed = np.empty((height + 2 * thick, width + 2 * thick, 3))
            framed[:] = to_rgb(frame)
            framed[thick:-thick, thick:-thick] = rgb
            x, y, rgb = x - thick, y - thick, framed
        self._images.append((x, y, rgb))
        self._grow(x + rgb.shape[1], y + rgb.shape[0])

    def text(
        self, x: float, y: float, string: str, size: float = 9, color: str = INK, ha: str = "left",
        weight: str = "normal", upright: bool = False,
    ) -> None:  # fmt: skip
        """Put a line of text at (x, y), its middle at y; upright: its middle at x, read from below."""
        style = {"fontsize": size, "color": color, "fontweight": weight, "parse_math": False, "ha": ha, "va": "center"}
        self._texts.append((x, y, string, style | ({"rotation": 90, "ha": "center"} if upright else {})))
        long, thick = text_width(string, size, weight), size * DPI / 72
        if upright:
            self._grow(x + thick / 2, y + long / 2)
        else:
            self._grow(x + long * {"left": 1, "center": 0.5, "right": 0}[ha], y + thick / 2)

    def _grow(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, int(np.ceil(x))), max(self.height, int(np.ceil(y)))

    def figure(self, title: str, subtitle: str = "") -> Figure:
        """The page with a title above and a subtitle below, as a figure that shows it pixel by pixel."""
        margin, line = self.MARGIN, {12: 34, 8.5: 25}
        width = max(self.width, self.NARROWEST)
        above = [(text, 12, "bold", INK) for text in wrap(title, width, 12, "bold")]
        below = [(text, 8.5, "normal", MUTED) for text in wrap(subtitle, width, 8.5)]
        top = margin + 34 * len(above) + (10 if above else 0)
        wide, high = width + 2 * margin, top + self.height + 25 * len(below) + (12 if below else 0) + margin

        page = np.ones((high, wide, 3))
        for x, y, rgb in self._images:
            page[top + y : top + y + rgb.shape[0], margin + x : margin + x + rgb.shape[1]] = rgb
        # a hundredth of a pixel more: inches times dots per inch may come out just below a whole number
        figure = figure_of((wide + 0.01) / DPI, (high + 0.01) / DPI, layout=None)
        figure.figimage(np.rint(page * 255).astype(np.uint8))
        for right, down, text, style in self._texts:
            figure.text((margin + right) / wide, 1 - (top + down) / high, text, **style)
        for lines, begin in ((above, margin), (below, top + self.height + 12)):
            down = float(begin)
            for text, size, weight, color in lines:
                figure.text(
                    margin / wide, 1 - (down + line[size] / 2) / high, text, fontsize=size, fontweight=weight,
                    color=color, va="center_baseline", parse_math=False,
                )  # fmt: skip
                down += line[size]
        return figure
