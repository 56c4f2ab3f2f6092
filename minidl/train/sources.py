"""`--data`: where images and videos come from, as SOURCE or SOURCE:FOLDER."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data import (
    ArrayDataset,
    ImageFolder,
    Subset,
    Transformed,
    cifar10,
    cifar100,
    digits,
    hmdb51_split,
    mnist,
    order_task,
    random_split,
    torus_motion,
    ucf101_split,
)
from ..data.dataset import Dataset
from ..data.extras import no_such
from ..data.moving import DIRECTIONS
from ..data.transforms import CenterCrop, Compose, RandomCrop, RandomHorizontalFlip, Resize, ToFloat
from ..data.video import VideoClips
from .errors import TrainingError

HELD_BACK = 0.1  # of the training data, for validation


class Sets(NamedTuple):
    """Data to learn from, to choose by, and to be measured on. Items: (image or clip, label)."""

    train: Dataset
    validation: Dataset
    test: Dataset
    classes: list[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image (C, H, W) or clip (C, T, H, W)."""
        return np.shape(self.test[0][0])


class Source(NamedTuple):
    """A row of what `minidl list` shows."""

    summary: str
    folder: bool  # whether it is written SOURCE:FOLDER
    load: Callable[..., Sets]


def find(spec: str, sources: dict[str, Source]) -> tuple[Source, Path]:
    """The source that `--data` names, and its folder. Raises TrainingError."""
    name, _, folder = spec.partition(":")
    forms = [f"{n}:FOLDER" if s.folder else n for n, s in sources.items()]
    other, kind = (VIDEOS, "videos") if sources is IMAGES else (IMAGES, "images")
    if name in other:
        raise TrainingError(f"--data {spec}: {name} has {kind}, which this model cannot use. Known: {', '.join(forms)}")
    if name not in sources:
        raise TrainingError(f"--data {spec}: {no_such('source', name, sources, forms)}")
    source = sources[name]
    if source.folder and not folder:
        raise TrainingError(f"--data {spec} needs the folder of its files: {name}:FOLDER")
    if folder and not source.folder:
        raise TrainingError(f"--data {spec}: {name} is made here and takes no folder")
    return source, Path(folder).expanduser()


def _enough(sets: Sets, spec: str) -> Sets:
    """The sets, if none is empty. Raises TrainingError."""
    counts = {"to train on": len(sets.train), "to validate": len(sets.validation), "to test": len(sets.test)}
    if not all(counts.values()):
        raise TrainingError(
            f"--data {spec} has too few examples: {', '.join(f'{n} {purpose}' for purpose, n in counts.items())}"
        )
    return sets


# ---- images


@dataclass(frozen=True)
class ImageOptions:
    """How images are to come."""

    seed: int = 0
    size: int | None = None  # pixels on a side; None: as they are


def images(spec: str, options: ImageOptions) -> Sets:
    """Images (C, H, W) float32 in [0, 1] and labels.

    Raises TrainingError for an unknown source, DataError for files that are not as they should be.
    """
    source, folder = find(spec, IMAGES)
    return _enough(source.load(folder, options), spec)


def _arrays(load: Callable[[Path, Any], ArrayDataset], classes: int) -> Callable[[Path, ImageOptions], Sets]:
    """A loader of sets that fit into memory as arrays."""

    def sets(folder: Path, options: ImageOptions) -> Sets:
        train, test = load(folder, "train"), load(folder, "test")
        held_back = round(HELD_BACK * len(train))
        parts = random_split(train, [len(train) - held_back, held_back], options.seed)
        names = [str(i) for i in range(max(classes, 1 + int(train.arrays[1].max(initial=0))))]  # EMNIST has more
        learn, validate, measure = (_sized(part, options, train.arrays[0].shape[1:]) for part in (*parts, test))
        return Sets(learn, validate, measure, names)

    return sets


def _sized(data: Any, options: ImageOptions, shape: tuple[int, ...]) -> Any:
    """A data set of float images at the size asked for."""
    if options.size is None or shape[1:] == (options.size, options.size):
        return data
    return Transformed(data, Resize((options.size, options.size)))


def _image_folder(folder: Path, options: ImageOptions) -> Sets:
    """FOLDER/train and FOLDER/test with a folder per class each; without `test`, 20 % of the images stand in for it."""
    divided = (folder / "train").is_dir() and (folder / "test").is_dir()
    all_images = ImageFolder(folder / "train" if divided else folder)
    train: Any = all_images
    if divided:
        test: Any = ImageFolder(folder / "test")
        if test.classes != train.classes:
            raise TrainingError(f"{folder}: test has the classes {test.classes}, train has {train.classes}")
    else:
        count = round(0.2 * len(train))
        train, test = random_split(train, [len(train) - count, count], options.seed)
    held_back = round(HELD_BACK * len(train))
    parts = [*random_split(train, [len(train) - held_back, held_back], options.seed), test]
    size = options.size or min(np.shape(all_images[0][0])[1:])
    change = Compose(Resize(size), CenterCrop(size), ToFloat())
    learn, validate, measure = (Transformed(part, change) for part in parts)
    return Sets(learn, validate, measure, all_images.classes)


IMAGES = {
    "digits": Source(
        "1797 handwritten digits of 8 x 8 pixels, with scikit-learn", False, _arrays(lambda _, split: digits(split), 10)
    ),
    "mnist": Source("MNIST, or others of its form: four idx files", True, _arrays(mnist, 10)),
    "cifar10": Source("CIFAR-10, binary version", True, _arrays(cifar10, 10)),
    "cifar100": Source("CIFAR-100, binary version", True, _arrays(cifar100, 100)),
    "folder": Source("pictures in FOLDER/CLASS/, or FOLDER/train/CLASS/ and FOLDER/test/CLASS/", True, _image_folder),
}


# ---- videos


@dataclass(frozen=True)
class VideoOptions:
    """How clips are to come."""

    seed: int = 0
    frames: int | None = None  # of a clip; None: what suits the source
    size: int | None = None  # pixels on a side; None: what suits the source
    flip: bool = False
    count: int = 2000  # clips to make, where they are made


def videos(spec: str, options: VideoOptions) -> Sets:
    """Clips (C, T, H, W) float32 in [0, 1] and labels. Raises as `images` does."""
    source, folder = find(spec, VIDEOS)
    return _enough(source.load(folder, options), spec)


def _made(make: Callable[..., ArrayDataset], classes: list[str]) -> Callable[[Path, VideoOptions], Sets]:
    """A loader of clips made from digits. Validation clips show training digits with other motions."""

    def sets(folder: Path, options: VideoOptions) -> Sets:
        known = {"size": options.size, "frames": options.frames}
        if make is order_task and options.frames not in (None, 24):
            raise TrainingError(f"--frames is {options.frames}: the order task has 24 frames, 8 for each third")
        given = {k: v for k, v in known.items() if v is not None and not (make is order_task and k == "frames")}
        held_back = max(1, round(HELD_BACK * options.count))
        train = make("train", options.count + held_back, options.seed, **given)
        rows = np.arange(options.count + held_back)
        test = make("test", 500, options.seed, **given)
        parts = Subset(train, rows[: options.count]), Subset(train, rows[options.count :])
        if options.flip:
            raise TrainingError("--flip would exchange left and right in clips whose labels are directions")
        return Sets(*parts, test, classes)

    return sets


def _ucf101(folder: Path, options: VideoOptions) -> Sets:
    """FOLDER/videos and FOLDER/lists, or the names of the original archives."""
    place, lists = _pair(folder, ("videos", "UCF-101"), ("lists", "ucfTrainTestlist"))
    return _filmed(place, *ucf101_split(lists, "train"), ucf101_split(lists, "test")[0], options)


def _hmdb51(folder: Path, options: VideoOptions) -> Sets:
    place, lists = _pair(folder, ("videos", "hmdb51_org"), ("lists", "testTrainMulti_7030_splits"))
    return _filmed(place, *hmdb51_split(lists, "train"), hmdb51_split(lists, "test")[0], options)


def _pair(folder: Path, *choices: tuple[str, str]) -> list[Path]:
    """The first folder of each choice that is there."""
    found = [next((folder / name for name in names if (folder / name).is_dir()), None) for names in choices]
    if None in found:
        wanted = " and ".join(" or ".join(f"{name}/" for name in names) for names in choices)
        raise TrainingError(f"{folder}: expected {wanted} in it" + ("" if folder.is_dir() else "; no such folder"))
    return [path for path in found if path is not None]


def _filmed(place: Path, train: list, classes: list[str], test: list, options: VideoOptions) -> Sets:
    """Clips of real video files, as C3D's authors take them: frames scaled to a little more than the crop, a random
    crop (the same for all frames), flipped or not; in validation and test the centre."""
    size = options.size or 112
    tall, wide = round(size * 128 / 112), round(size * 171 / 112)
    common: dict[str, Any] = {"frames": options.frames or 16, "size": (tall, wide)}
    learn, held_back = _by_group(train, options.seed)
    flip = [RandomHorizontalFlip()] if options.flip else []
    moving = Compose(RandomCrop(size), *flip, ToFloat())
    still = Compose(CenterCrop(size), ToFloat())
    return Sets(
        Transformed(VideoClips(place, learn, classes, sampling="random", **common), moving),
        Transformed(VideoClips(place, held_back, classes, sampling="centre", **common), still),
        Transformed(VideoClips(place, test, classes, sampling="centre", **common), still),
        classes,
    )


def _by_group(videos: list[tuple[str, int]], seed: int) -> tuple[list, list]:
    """Videos to learn from, and others to validate on. Clips of a group (`…_g07_c02.avi`) come from one film: they stay
    together, or validation would see what training saw."""
    groups: dict[str, list] = {}
    for video in videos:
        groups.setdefault(re.sub(r"_c\d+\.\w+$", "", video[0]), []).append(video)
    names = sorted(groups)
    chosen = np.random.default_rng(seed).permutation(len(names))[: max(1, round(HELD_BACK * len(names)))]
    out = {names[i] for i in chosen}
    learn = [video for name in names if name not in out for video in groups[name]]
    if not learn:
        raise TrainingError(f"{len(videos)} videos in {len(names)} group are too few to hold some back for validation")
    return learn, [video for name in sorted(out) for video in groups[name]]


VIDEOS = {
    "torus": Source(
        "moving digits: in which of four directions? (made from the digits)",
        False,
        _made(torus_motion, list(DIRECTIONS)),
    ),
    "order": Source(
        "two digits one after the other: was the first the smaller? (made from the digits)",
        False,
        _made(order_task, ["first larger", "first smaller"]),
    ),
    "ucf101": Source("UCF-101, or videos in its layout: FOLDER/videos, FOLDER/lists", True, _ucf101),
    "hmdb51": Source("HMDB-51, or videos in its layout: FOLDER/videos, FOLDER/lists", True, _hmdb51),
}
