"""Animated GIFs: clips with what was seen in them, and pictures that change."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.extras import require
from .pictures.canvas import BLUE, INK, MUTED, WRONG, as_rgb, enlarge
from .pictures.classes import check_labels, check_probabilities

GAP = 10  # pixels around a clip
PLAIN = "#e6e6e6"  # what a bar of probability is drawn on
SHADES = 8  # between the white of a page and the colour of a text
WIDEST = 960  # pixels across that a mosaic is scaled to fit into, unless the clips themselves are larger
NARROWEST = 120  # pixels that a caption needs: smaller clips are enlarged to that


def clips_gif(
    clips: Any,
    classes: Sequence[str],
    truths: Any = None,
    predictions: Any = None,
    probabilities: Any = None,
    scale: int | None = None,
    columns: int = 4,
    fps: float = 8,
) -> bytes:
    """A mosaic of clips as an animated GIF that runs for ever, with a caption above each clip.

    clips: an array (N, T, H, W) or (N, C, T, H, W) with 1 or 3 channels, floats in [0, 1] (others are clipped), or a
    sequence of clips (T, H, W) or (C, T, H, W) of any lengths: the mosaic runs as long as the longest of them, and
    those that are over hold their last frame. classes: names of the classes. truths, predictions: (N,) integers, or
    None. probabilities: of the predictions (N,) or of all classes (N, K).

    The caption names the predicted class, with the probability as a number and as a bar: blue with a tick if it is
    right, orange with a cross if it is wrong, and then the true class below. Without predictions it names the true
    class; without truths there is no verdict. scale: by which whole number pixels are enlarged; by default such that
    captions have room and the mosaic is at most 960 pixels wide. fps: frames per second, 0.1 to 50; GIFs count time in
    hundredths of a second. Frames that are equal to the one before are merged with it; the time stays.

    Raises ValueError that names the argument that does not fit, MissingExtra without Pillow.
    """
    films = _films(clips)
    count = len(films)
    verdicts = {
        name: _labels(name, v, classes, count) for name, v in (("truths", truths), ("predictions", predictions))
    }
    said, sure = verdicts["predictions"], None
    if probabilities is not None:
        if said is None:
            raise ValueError("probabilities are given without predictions: there is nothing that they belong to")
        sure = check_probabilities(probabilities, said)
    if columns < 1:
        raise ValueError(f"columns is {columns}: it must be at least 1")

    length = max(len(film) for film in films)
    columns = min(columns, count)
    _, height, width, _ = films[0].shape
    if scale is None:
        scale = max(1, min(-(-NARROWEST // width), (WIDEST // columns - GAP) // width))
    _check_scale(scale)
    captioned = said is not None or verdicts["truths"] is not None
    wide, high, above = width * scale, height * scale, 38 if captioned else 0
    rows = -(-count // columns)
    page = _Page(columns * (wide + GAP) + GAP, rows * (above + high + GAP) + GAP)
    places = [(GAP + i % columns * (wide + GAP), GAP + i // columns * (above + high + GAP)) for i in range(count)]
    for i, (x, y) in enumerate(places if captioned else []):
        page.caption(
            x, y, wide, classes,
            None if verdicts["truths"] is None else verdicts["truths"][i],
            None if said is None else said[i],
            None if sure is None else sure[i],
        )  # fmt: skip

    frames = []
    for t in range(length):
        frame = page.copy()
        for film, (x, y) in zip(films, places, strict=True):
            tile = enlarge(film[min(t, len(film) - 1)], scale)
            frame[y + above : y + above + high, x : x + wide] = np.rint(tile * 255)
        frames.append(frame)
    return _gif(frames, _palette(np.concatenate([film.reshape(-1, 3) for film in films])), fps)


def images_gif(
    frames: Any, scale: int | None = None, fps: float = 4, labels: Sequence[Any] | None = None, hold: float = 1.0
) -> bytes:
    """Pictures one after the other as an animated GIF that runs for ever: samples after each epoch, a latent walk.

    frames: (F, H, W) or (F, 1, H, W) grey, (F, 3, H, W) or (F, H, W, 3) coloured, floats in [0, 1] (others are
    clipped); `pictures.mosaic` makes one of several images. labels: F texts that stand above, such as "epoch 3".
    scale: by which whole number pixels are enlarged, by default to about 480 across. hold: seconds that the last one
    stays longer. fps and merging as in `clips_gif`. Raises ValueError, MissingExtra.
    """
    rgb = as_rgb("frames", frames, "F")
    count, height, width, _ = rgb.shape
    if labels is not None and len(labels) != count:
        raise ValueError(f"there are {len(labels)} labels for {count} frames")
    if not 0 <= hold <= 600:
        raise ValueError(f"hold is {hold}: it must be between 0 and 600 seconds")
    scale = max(1, 480 // max(height, width)) if scale is None else scale
    _check_scale(scale)
    above = 0 if labels is None else 26
    drawn = []
    for i, image in enumerate(enlarge(rgb, scale)):
        page = _Page(image.shape[1], image.shape[0] + above)
        if labels is not None:
            page.text(6, 5, str(labels[i]), image.shape[1] - 12, INK)
        frame = page.copy()
        frame[above:] = np.rint(image * 255)
        drawn.append(frame)
    return _gif(drawn, _palette(rgb.reshape(-1, 3)), fps, hold)


class _Page:
    """What stands still: white, with captions."""

    def __init__(self, width: int, height: int):
        module = require("PIL.Image", "animations")
        draw, font = require("PIL.ImageDraw", "animations"), require("PIL.ImageFont", "animations")
        self.image = module.new("RGB", (width, height), "white")
        self.draw = draw.Draw(self.image)
        self.fonts = {size: font.load_default(size) for size in (11, 13)}

    def copy(self) -> np.ndarray:
        """(H, W, 3) uint8"""
        return np.array(self.image)

    def text(self, x: float, y: float, text: str, room: float, color: str, size: int = 13) -> None:
        """Text with its upper left corner at (x, y), cut to `room` pixels."""
        font = self.fonts[size]
        if font.getlength(text) > room:
            while text and font.getlength(text + "…") > room:
                text = text[:-1]
            text = text.rstrip() + "…"
        self.draw.text((x, y), text, color, font)

    def caption(
        self, x: int, y: int, width: int, classes: Sequence[str], truth: Any, predicted: Any, sure: float | None
    ) -> None:
        """What was seen in a clip, and if it is wrong, what it is; 38 pixels high."""
        if predicted is None:
            self.text(x, y + 14, str(classes[truth]), width, INK)
            return
        right = None if truth is None else bool(truth == predicted)
        color = INK if right is None else BLUE if right else WRONG
        begin = x
        if right is not None:
            strokes = [[(0, 5), (4, 9), (10, 0)]] if right else [[(0, 0), (9, 9)], [(0, 9), (9, 0)]]
            for stroke in strokes:
                self.draw.line([(x + a, y + 3 + b) for a, b in stroke], color, 2)
            begin = x + 15
        room = x + width - begin
        if sure is not None:
            share = f"{sure:.0%}"
            taken = self.fonts[11].getlength(share)
            self.text(x + width - taken, y + 2, share, taken + 1, MUTED, 11)
            self.draw.rectangle((x, y + 33, x + width - 1, y + 35), PLAIN)
            if sure * width >= 0.5:
                self.draw.rectangle((x, y + 33, x + round(sure * width) - 1, y + 35), color)
            room -= taken + 6
        self.text(begin, y, str(classes[predicted]), room, color)
        if right is False:
            self.text(begin, y + 17, f"is: {classes[truth]}", x + width - begin, MUTED, 11)


def _films(clips: Any) -> list[np.ndarray]:
    """Each clip as (T, H, W, 3) in [0, 1]."""
    if isinstance(clips, np.ndarray) and clips.ndim not in (4, 5):
        raise ValueError(f"clips have the shape {clips.shape}: it must be (N, T, H, W) or (N, C, T, H, W)")
    films = []
    for i, clip in enumerate(clips):
        array = np.asarray(clip)
        if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[0] not in (1, 3)):
            raise ValueError(
                f"clip {i} has the shape {array.shape}: it must be (T, H, W), (1, T, H, W) or (3, T, H, W)"
            )
        films.append(as_rgb(f"frames of clip {i}", np.moveaxis(array, 0, 1) if array.ndim == 4 else array, "T"))
    sizes = {film.shape[1:3] for film in films}
    if len(sizes) != 1:
        found = ", ".join(f"{height} x {width}" for height, width in sorted(sizes)) or "none"
        raise ValueError(f"clips must be at least one, and all of one size in pixels; given: {found}")
    return films


def _labels(name: str, labels: Any, classes: Sequence[str], count: int) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    check_labels(name, labels, len(classes))
    if len(labels) != count:
        raise ValueError(f"{name} has {len(labels)} labels for {count} clips")
    return labels


def _check_scale(scale: Any) -> None:
    if not isinstance(scale, (int, np.integer)) or scale < 1:
        raise ValueError(f"scale is {scale!r}: it must be a whole number of at least 1")


def _palette(pixels: np.ndarray) -> np.ndarray:
    """256 colours (256, 3) uint8 for pixels (N, 3) in [0, 1] and for captions, whose colours are kept exactly."""
    module, getrgb = require("PIL.Image", "animations"), require("PIL.ImageColor", "animations").getrgb
    shades = np.linspace(0, 1, SHADES)[:, None]
    blends = [np.rint(shades * getrgb(color) + (1 - shades) * 255) for color in (INK, BLUE, WRONG, MUTED)]
    exact = np.unique(np.concatenate([*blends, [getrgb(PLAIN)]]).astype(np.uint8), axis=0)
    left = 256 - len(exact)
    found = np.rint(pixels * 255).astype(np.uint8)
    if (found == found[:, :1]).all():
        others = np.rint(np.linspace(0, 255, left)).astype(np.uint8)[:, None].repeat(3, 1)
    else:
        some = found[:: max(1, len(found) // 500_000)]
        reduced = module.fromarray(some[None]).quantize(left, method=module.Quantize.MEDIANCUT)
        others = np.array(reduced.getpalette(), np.uint8).reshape(-1, 3)[:left]
    return np.concatenate([exact, others])


def _gif(frames: Sequence[np.ndarray], palette: np.ndarray, fps: float, hold: float = 0.0) -> bytes:
    """Frames (H, W, 3) uint8 in the colours of `palette`, each the nearest, without dithering, which would flicker."""
    from scipy.spatial import cKDTree

    module = require("PIL.Image", "animations")
    if not 0.1 <= fps <= 50:
        raise ValueError(f"fps is {fps}: it must be between 0.1 and 50")
    # times are rounded one after the other, so that errors do not add up; in hundredths of a second
    ends = np.rint(np.arange(len(frames) + 1) * 100 / fps).astype(int)
    times = np.diff(ends)
    times[-1] += round(hold * 100)
    tree = cKDTree(palette.astype(np.float64))  # Pillow's own search for the nearest is off by a few shades
    first, *others = (module.fromarray(_nearest(frame, tree)) for frame in frames)
    for image in (first, *others):
        image.putpalette(palette.tobytes())
    file = io.BytesIO()
    duration = [int(10 * time) for time in times]
    first.save(file, "GIF", save_all=True, append_images=others, duration=duration, loop=0, optimize=False)
    return file.getvalue()


def _nearest(frame: np.ndarray, tree: Any) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) uint8, the number of the nearest colour in the tree."""
    packed = frame.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, inverse = np.unique(packed, return_inverse=True)
    apart = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1)
    return tree.query(apart)[1].astype(np.uint8)[inverse].reshape(packed.shape)
