"""Moving digits: small videos made from the real handwritten digits that come with scikit-learn.

The handwriting is real, the motion is made: nothing here was filmed. Two tasks, each built so that a certain kind of
network cannot solve it, whatever it learns.
"""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from .dataset import ArrayDataset
from .digits import digits
from .extras import check_choice, require

DIRECTIONS = ("Right", "Left", "Down", "Up")
STEPS = np.array([(0, 1), (0, -1), (1, 0), (-1, 0)])  # (dy, dx) in pixels per frame
ORDER_LENGTH = 8  # frames in each third of the order task, and in the clips it is meant for
Split = Literal["train", "test"]


def torus_motion(
    split: Split = "train",
    count: int = 4000,
    seed: int = 0,
    frames: int = 8,
    size: int = 16,
    noise: float = 0.1,
) -> ArrayDataset:
    """Which way does a digit move? Clips (count, 1, frames, size, size) float32, labels (count,) int64 of DIRECTIONS.

    A digit of 8 x 8 pixels moves by one pixel per frame; what leaves on one side comes back on the other. It begins at
    a place drawn uniformly from the whole torus, so that in each single frame its place is uniform whatever the
    direction, and one frame tells nothing: at best 25 % are right. (With borders, a digit near the right one would
    probably be moving to the right.) All frames without their order tell at most the axis, not the sense: 50 %. Each
    direction comes equally often, up to the remainder of count / 4. Pixels are 0..1 plus Gaussian noise.

    "train" is made from the digits of the training rows, "test" from the others.
    A function of its arguments alone. Raises MissingExtra without scikit-learn.
    """
    _check(split, count, frames, noise)
    if size < 8:
        raise ValueError(f"size is {size}: it must be at least 8, the size of a digit")
    rng = _generator(seed, split, 0)
    images = digits(split).arrays[0][:, 0]
    labels = rng.permutation(np.arange(count) % 4)
    chosen = images[rng.integers(len(images), size=count)]
    clips = torus_clips(chosen, rng.integers(size, size=(count, 2)), labels, frames, size)
    return ArrayDataset(_with_noise(clips, noise, rng)[:, None], labels)


def torus_clips(images: np.ndarray, starts: np.ndarray, labels: np.ndarray, frames: int, size: int) -> np.ndarray:
    """The clean clips of `torus_motion`, (N, frames, size, size): images (N, 8, 8), upper left corners (N, 2), (N,)."""
    times = np.arange(frames)[None, :, None]
    corners = starts[:, None, :] + times * STEPS[labels][:, None, :]  # (N, T, 2)
    rows, columns = ((corners[..., axis, None] + np.arange(8)) % size for axis in (0, 1))  # (N, T, 8)
    clips = np.zeros((len(images), frames, size, size), np.float32)
    n, t = np.ogrid[: len(images), :frames]
    clips[n[..., None, None], t[..., None, None], rows[..., :, None], columns[..., None, :]] = images[:, None]
    return clips


def order_task(
    split: Split = "train", count: int = 4000, seed: int = 0, size: int = 12, noise: float = 0.1
) -> ArrayDataset:
    """Which of two digits was the smaller? Clips (count, 1, 24, size, size) float32, labels (count,) int64: 1 if a < b.

    Frames 0..7 show digit a, 8..15 nothing, 16..23 digit b; a and b are two different ones of 0, 1, 2, 3, each resting
    at a place of its own, drawn uniformly. The twelve pairs come equally often, up to the remainder of count / 12.

    Made for clips of 8 frames that begin at 0, 8 and 16. Exchanging a and b exchanges the labels and leaves the set of
    the three clips as likely as before, so what only averages over clips is right half of the time: a theorem, not an
    accident of training. It holds because each digit fills its whole clip and noise fills all three. Digits in, say,
    frames 0-3 and 20-23 would tell by their place inside their clip which came first, and so would clips that begin
    elsewhere. Pixels are 0..1 plus Gaussian noise; splits and errors as for `torus_motion`.
    """
    _check(split, count, 1, noise)
    if size < 8:
        raise ValueError(f"size is {size}: it must be at least 8, the size of a digit")
    rng = _generator(seed, split, 1)
    pairs, chosen, corners = _order_draws(split, count, size, rng)
    clips = np.zeros((count, 3 * ORDER_LENGTH, size, size), np.float32)
    for k, begin in ((0, 0), (1, 2 * ORDER_LENGTH)):
        rows, columns = (corners[:, k, axis, None] + np.arange(8) for axis in (0, 1))
        n, t = np.arange(count)[:, None, None, None], np.arange(begin, begin + ORDER_LENGTH)[:, None, None]
        clips[n, t, rows[:, None, :, None], columns[:, None, None, :]] = chosen[:, k, None]
    return ArrayDataset(_with_noise(clips, noise, rng)[:, None], (pairs[:, 0] < pairs[:, 1]).astype(np.int64))


def _order_draws(
    split: Split, count: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (N, 2) of digits, their images (N, 2, 8, 8), and the upper left corners (N, 2, 2)."""
    images, labels = digits(split).arrays
    all_pairs = np.array([(a, b) for a in range(4) for b in range(4) if a != b])
    pairs = all_pairs[rng.permutation(np.arange(count) % len(all_pairs))]
    chosen = np.empty((count, 2, 8, 8), np.float32)
    for digit in range(4):
        rows = np.flatnonzero(labels == digit)
        where = pairs == digit
        chosen[where] = images[rng.choice(rows, where.sum()), 0]
    return pairs, chosen, rng.integers(size - 8 + 1, size=(count, 2, 2))


def _with_noise(clips: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    if noise:
        clips += np.float32(noise) * rng.standard_normal(clips.shape, np.float32)
    return clips


def _generator(seed: int, split: Split, task: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(task, ("train", "test").index(split))))


def _check(split: str, count: int, frames: int, noise: float) -> None:
    check_choice("split", split, ("train", "test"))
    for name, value in (("count", count), ("frames", frames)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    if noise < 0:
        raise ValueError(f"noise is {noise}: it must be at least 0")


class MadeVideos(NamedTuple):
    """The folders that `ucf101` takes."""

    videos: Path
    lists: Path


README = """Moving digits
=============

Made by minidl (`make_moving_digits`, seed {seed}) from the handwritten digits that come with scikit-learn: E. Alpaydin
and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998). The handwriting is real; the motion was made by a
program. This is not UCF-101: it only has its layout of folders and its lists.

videos/Class/v_Class_gGG_cCC.avi  {frames} frames of {pixels} x {pixels} pixels, codec {codec}. A digit moves by one
    pixel of a 16 x 16 torus per frame, enlarged {scale} times, to the right, to the left, down or up.
lists/classInd.txt, trainlist01.txt, testlist01.txt  as in UCF-101. Groups g01-g07 are the test set, made from the rows
    1297-1796 of the digits; g08-g25 are the training set, from rows 0-1296.
"""


def make_moving_digits(
    folder: str | Path,
    train: int = 200,
    test: int = 80,
    seed: int = 0,
    frames: int = 32,
    scale: int = 4,
    noise: float = 0.1,
    codec: Literal["ffv1", "mjpeg"] = "ffv1",
) -> MadeVideos:
    """Write the torus task as real .avi files in UCF-101's layout: `ucf101(*make_moving_digits("moving-digits"))`.

    Made from scikit-learn's digits, not filmed; a README in the folder says so. `train` and `test` are numbers of
    videos; each shows a 16 x 16 torus, every pixel enlarged to scale x scale, gray, clipped to 0..255, at 25 frames per
    second. codec: "ffv1" gives back every byte, "mjpeg" is smaller and loses a little, as real videos do. The bytes
    depend on the arguments, and on the version of FFmpeg.

    `folder` must not exist, or be empty. It appears when all is written: a full disk leaves nothing half done behind.
    Raises FileExistsError, MissingExtra without PyAV or scikit-learn.
    """
    require("av", "writing videos", "video")
    check_choice("codec", codec, ("ffv1", "mjpeg"))
    for name, value in (("train", train), ("test", test), ("frames", frames), ("scale", scale)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: name another, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        lists = part / "lists"
        lists.mkdir(parents=True)
        text = README.format(seed=seed, frames=frames, pixels=16 * scale, scale=scale, codec=codec)
        (part / "README.txt").write_text(text, encoding="utf-8")
        (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(sorted(DIRECTIONS), 1)))
        _write_split(part, "train", train, range(8, 26), seed, frames, scale, noise, codec)
        _write_split(part, "test", test, range(1, 8), seed, frames, scale, noise, codec)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return MadeVideos(folder / "videos", folder / "lists")


def _write_split(
    part: Path, split: Split, count: int, groups: range, seed: int, frames: int, scale: int, noise: float, codec: str
) -> None:
    classes = sorted(DIRECTIONS)
    made = torus_motion(split, count, seed, frames, noise=noise)
    clips = np.rint(made.arrays[0][:, 0].clip(0, 1) * 255).astype(np.uint8)
    written = dict.fromkeys(classes, 0)
    lines = []
    for clip, direction in zip(clips, made.arrays[1], strict=True):
        name = DIRECTIONS[direction]
        take, group = divmod(written[name], len(groups))
        written[name] += 1
        path = f"{name}/v_{name}_g{groups[group]:02d}_c{take + 1:02d}.avi"
        (part / "videos" / name).mkdir(parents=True, exist_ok=True)
        write_video(part / "videos" / path, clip.repeat(scale, 1).repeat(scale, 2), codec=codec)
        lines.append(f"{path} {classes.index(name) + 1}\n" if split == "train" else f"{path}\n")
    (part / "lists" / f"{split}list01.txt").write_text("".join(sorted(lines)))


def write_video(path: str | Path, frames: np.ndarray, rate: int = 25, codec: str = "ffv1") -> None:
    """Write gray frames (T, H, W) or colour ones (T, H, W, 3), uint8, with `rate` frames per second.

    codec: "ffv1" keeps every byte; "mjpeg" is lossy. The container follows from the name: .avi, .mkv, … Raises
    MissingExtra without PyAV.
    """
    av = require("av", "writing videos", "video")
    check_choice("codec", codec, ("ffv1", "mjpeg"))
    if (
        not len(frames)
        or frames.dtype != np.uint8
        or frames.ndim not in (3, 4)
        or (frames.ndim == 4 and frames.shape[3] != 3)
    ):
        raise ValueError(
            f"frames are {frames.dtype} {frames.shape}: they must be uint8, (T, H, W) or (T, H, W, 3), T > 0"
        )
    kind = "gray" if frames.ndim == 3 else "rgb24"
    # the flag keeps FFmpeg from writing its version, and whatever else may change, into the container
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = {"ffv1": {"gray": "gray", "rgb24": "bgr0"}[kind], "mjpeg": "yuvj420p"}[codec]
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=kind)))
        container.mux(stream.encode(None))
