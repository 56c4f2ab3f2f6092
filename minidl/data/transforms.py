"""Changes to images (C, H, W) and clips (C, T, H, W), to be put before the network: `Transformed(dataset, Compose(…))`.

A transform is a callable `transform(x, rng)`. What is random takes its chance from that Generator only, and decides
once per call: all frames of a clip get the same crop and the same flip. The last two axes are height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .extras import check_choice, require

Rng = np.random.Generator
Transform = Callable[[np.ndarray, Rng], np.ndarray]


class Compose:
    """One transform after the other."""

    def __init__(self, *transforms: Transform):
        self.transforms = transforms

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        for transform in self.transforms:
            x = transform(x, rng)  # type: ignore[arg-type]
        return x

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.transforms))})"


class ToFloat:
    """Bytes 0..255 -> float32 in [0, 1]. Floats only become float32: their scale is known to nobody."""

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        if x.dtype == np.uint8:
            return x.astype(np.float32) / np.float32(255)
        if x.dtype.kind != "f":
            raise TypeError(f"ToFloat takes uint8 or floats, not {x.dtype}: which value is white?")
        return x.astype(np.float32)

    def __repr__(self) -> str:
        return "ToFloat()"


class Normalize:
    """(x - mean) / std with one mean and one std per channel, or one number for all. x: float (C, ...)."""

    def __init__(self, mean: Sequence[float] | float, std: Sequence[float] | float):
        self.mean = np.atleast_1d(np.asarray(mean, np.float32))
        self.std = np.atleast_1d(np.asarray(std, np.float32))
        if not np.all(self.std > 0):
            raise ValueError(f"std is {std}: it must be greater than 0")

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        if x.dtype.kind != "f":
            raise TypeError(f"Normalize takes floats, not {x.dtype}: put ToFloat() before it")
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) not in (1, len(x)):
                raise ValueError(f"{name} has {len(value)} values, but x of shape {x.shape} has {len(x)} channels")
        each = (-1,) + (1,) * (x.ndim - 1)
        return ((x - self.mean.reshape(each)) / self.std.reshape(each)).astype(x.dtype, copy=False)

    def __repr__(self) -> str:
        return f"Normalize({self.mean.tolist()}, {self.std.tolist()})"


class Resize:
    """To a new size with Pillow's filters, which average over all that they make smaller ("bilinear" by default).

    size: (H, W), or one number for the shorter side, which keeps the proportions (the longer one is rounded).
    x: uint8 or float32. method: "nearest", "box", "bilinear", "bicubic". Raises MissingExtra without Pillow.
    """

    def __init__(self, size: int | tuple[int, int], method: str = "bilinear"):
        check_choice("method", method, ("nearest", "box", "bilinear", "bicubic"))
        _check_size("size", _pair(size))
        self.size = size if isinstance(size, int) else _pair(size)
        self.method = method

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        if x.dtype not in (np.uint8, np.float32):
            raise TypeError(f"Resize takes uint8 or float32, not {x.dtype}")
        image = require("PIL.Image", "Resize")
        height, width = self._target(*x.shape[-2:])
        if (height, width) == x.shape[-2:]:
            return x
        method = image.Resampling[self.method.upper()]
        planes = np.ascontiguousarray(x).reshape(-1, *x.shape[-2:])  # one at a time: Pillow has no float RGB
        small = [np.asarray(image.fromarray(plane).resize((width, height), method)) for plane in planes]
        return np.stack(small).reshape(*x.shape[:-2], height, width)

    def _target(self, height: int, width: int) -> tuple[int, int]:
        if isinstance(self.size, tuple):
            return self.size
        short = min(height, width)
        return round(height * self.size / short), round(width * self.size / short)

    def __repr__(self) -> str:
        return f"Resize({self.size}, {self.method!r})"


class CenterCrop:
    """The middle (H, W) of x; where the margin is odd, the larger part of it is cut off below and to the right."""

    def __init__(self, size: int | tuple[int, int]):
        self.size = _pair(size)
        _check_size("size", self.size)

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        top, left = (space // 2 for space in _space(self, x, self.size))
        return _window(x, top, left, self.size)

    def __repr__(self) -> str:
        return f"CenterCrop({self.size})"


class RandomCrop:
    """An (H, W) somewhere in x, every place equally likely, after `padding` zeros on each of the four sides."""

    def __init__(self, size: int | tuple[int, int], padding: int = 0):
        self.size = _pair(size)
        _check_size("size", self.size)
        if padding < 0:
            raise ValueError(f"padding is {padding}: it must be at least 0")
        self.padding = padding

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        rng = _needed(self, rng)
        if self.padding:
            x = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(self.padding, self.padding)] * 2)
        top, left = (int(rng.integers(space + 1)) for space in _space(self, x, self.size))
        return _window(x, top, left, self.size)

    def __repr__(self) -> str:
        return f"RandomCrop({self.size}, padding={self.padding})"


class RandomHorizontalFlip:
    """Left and right exchanged with probability p. Not for what has a direction, such as moving to the left."""

    def __init__(self, p: float = 0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}: it must be between 0 and 1")
        self.p = p

    def __call__(self, x: np.ndarray, rng: Rng | None = None) -> np.ndarray:
        return x[..., ::-1] if _needed(self, rng).random() < self.p else x

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p})"


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _check_size(name: str, size: tuple[int, ...]) -> None:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"{name} is {size}: it must be (H, W) with numbers of at least 1")


def _space(transform: object, x: np.ndarray, size: tuple[int, int]) -> list[int]:
    space = [there - wanted for there, wanted in zip(x.shape[-2:], size, strict=True)]
    if min(space) < 0:
        raise ValueError(f"{transform!r} does not fit into x of height and width {x.shape[-2:]}: put Resize before it")
    return space


def _window(x: np.ndarray, top: int, left: int, size: tuple[int, int]) -> np.ndarray:
    return x[..., top : top + size[0], left : left + size[1]]


def _needed(transform: object, rng: Rng | None) -> Rng:
    if rng is None:
        raise TypeError(f"{transform!r} is random: call it with a Generator, transform(x, rng)")
    return rng
