"""A folder of images with one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from .extras import DataError, check_choice, report, require

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageFolder:
    """Images `root/class/…/name.png`; the classes are the sorted names of the folders in `root`.

    Items: an image (3, H, W), or (1, H, W) for mode "gray", uint8, in the size of its file, and its label. What Pillow
    reads counts as an image if its name ends as images do; hidden files do not. The order is that of the names.

    corrupt: "skip" decodes every image once when the dataset is made and leaves out those that cannot be, with one
    warning and their reasons in `skipped`; "raise" makes the first a DataError, when its turn comes. Also raises
    DataError if there are no classes or no images, MissingExtra without Pillow.
    """

    def __init__(
        self,
        root: str | Path,
        mode: Literal["rgb", "gray"] = "rgb",
        corrupt: Literal["skip", "raise"] = "skip",
    ):
        check_choice("mode", mode, ("rgb", "gray"))
        check_choice("corrupt", corrupt, ("skip", "raise"))
        require("PIL.Image", "reading images")
        self.root = Path(root)
        self.mode = mode
        if not self.root.is_dir():
            raise DataError(f"{self.root}: no such folder; expected one with a folder of images per class")
        folders = sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.classes = [p.name for p in folders]
        found = [(path, label) for label, folder in enumerate(folders) for path in _images(folder)]
        if not found:
            loose = len(_images(self.root))
            what = f"{loose} images outside of any" if loose else f"{len(folders)} folders, none with images"
            raise DataError(f"{self.root}: expected a folder of images for each class, found {what}")
        self.skipped: dict[str, str] = {}
        self.samples = found
        if corrupt == "skip":
            self.samples = [pair for pair in found if self._readable(pair[0])]
            report(self.skipped, len(found), f"images in {self.root}", corrupt)

    def _readable(self, path: Path) -> bool:
        try:
            read_image(path, self.mode)
        except DataError as error:
            self.skipped[str(path.relative_to(self.root))] = str(error).removeprefix(f"{path}: ")
        return str(path.relative_to(self.root)) not in self.skipped

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        path, label = self.samples[index]
        return read_image(path, self.mode), label


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))


def read_image(path: str | Path, mode: Literal["rgb", "gray"] = "rgb") -> np.ndarray:
    """An image file as (3, H, W) or (1, H, W), uint8. Raises DataError if Pillow cannot decode all of it."""
    image = require("PIL.Image", "reading images")
    try:
        with image.open(path) as file:
            pixels = np.array(file.convert("RGB" if mode == "rgb" else "L"))
    # what a damaged file makes Pillow raise depends on the format: UnidentifiedImageError and the like are OSErrors
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be decoded as an image: {error}") from error
    return np.ascontiguousarray(pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1))
