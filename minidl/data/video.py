"""Videos: frames through PyAV, an index of how many there are, and clips of them.

How many frames a video has is known for certain only after decoding it. That is done once: the counts are kept in a
JSON file, and a video is looked at again only if its size or its time of change differ.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .dataset import sample_generator
from .extras import DataError, check_choice, report, require

INDEX_NAME = "minidl-index.json"
INDEX_VERSION = 1
SAVE_EVERY = 30.0  # seconds: what an interrupted scan may lose
FORMATS = {"rgb": "rgb24", "gray": "gray"}


@dataclass(frozen=True)
class VideoInfo:
    """What the index knows of a video: file size in bytes, time of change in ns, frames, pixels, or why it is bad."""

    size: int
    mtime_ns: int
    frames: int = 0
    height: int = 0
    width: int = 0
    error: str | None = None


def decode(path: Path) -> Iterator[Any]:
    """The frames of a video in their order, as PyAV's. Raises DataError where it cannot be opened or decoded."""
    av = require("av", "reading videos", "video")
    count = 0
    # PyAV before version 19 fails on titles that are no UTF-8, unless told otherwise; later ones have no such option
    options = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    try:
        # absolute, so that FFmpeg takes no part of the name for a protocol
        with av.open(str(path.absolute()), **options) as container:
            if not container.streams.video:
                raise DataError(f"{path}: there is no video in it")
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1  # several videos at a time are decoded at once, by threads or workers
            for frame in container.decode(stream):
                count += 1
                yield frame
    except av.FFmpegError as error:
        raise DataError(f"{path}: cannot be decoded after {count} frames: {error.strerror}") from error


def inspect(path: Path) -> VideoInfo:
    """Decode a whole video and tell what is in it; never raises for a damaged one."""
    try:
        stat = path.stat()
    except OSError as error:
        return VideoInfo(-1, -1, error=error.strerror or str(error))
    frames, sizes = 0, Counter[tuple[int, int]]()
    error_text = None
    try:
        for frame in decode(path):
            frames += 1
            sizes[frame.height, frame.width] += 1
    except DataError as error:
        error_text = str(error).removeprefix(f"{path}: ")
    height, width = sizes.most_common(1)[0][0] if sizes else (0, 0)
    if error_text is None and not frames:
        error_text = "no frames"
    if error_text is None and len(sizes) > 1:
        error_text = f"frames of {len(sizes)} sizes"
    return VideoInfo(stat.st_size, stat.st_mtime_ns, frames, height, width, error_text)


def index_videos(root: Path, names: Sequence[str], index: Path | None = None) -> dict[str, VideoInfo]:
    """What is in each of the videos root/name, from the index file where that is up to date, else by decoding them.

    index: the JSON file, by default `minidl-index.json` in root. It is replaced in one step, every half a minute and at
    the end (also after Ctrl-C), and keeps what it knows of other videos. Where it cannot be written a warning says so.
    """
    require("av", "reading videos", "video")
    index = root / INDEX_NAME if index is None else index
    known = _load_index(index)
    result: dict[str, VideoInfo] = {}
    missing = []
    for name in names:
        try:
            stat = (root / name).stat()
        except OSError:
            stat = None
        info = known.get(name)
        if info and stat and (info.size, info.mtime_ns) == (stat.st_size, stat.st_mtime_ns):
            result[name] = info
        else:
            missing.append(name)
    if not missing:
        return result
    saved, executor = time.monotonic(), ThreadPoolExecutor(min(8, os.cpu_count() or 1))  # FFmpeg works without the GIL
    complete = False
    try:
        for name, info in zip(missing, executor.map(lambda n: inspect(root / n), missing), strict=True):
            result[name] = info
            if time.monotonic() - saved > SAVE_EVERY:
                _save_index(index, known | result)
                saved = time.monotonic()
        complete = True
    finally:
        executor.shutdown(cancel_futures=True)
        if not _save_index(index, known | result) and complete:
            warnings.warn(
                f"{index}: the index of videos cannot be written, so that they will be looked through again the next "
                "time; index=PATH puts it elsewhere",
                stacklevel=3,
            )
    return result


def _load_index(path: Path) -> dict[str, VideoInfo]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["version"] != INDEX_VERSION:
            return {}
        return {name: VideoInfo(**fields) for name, fields in stored["videos"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warnings.warn(f"{path}: not an index of videos, and made anew: {error!r}", stacklevel=4)
        return {}


def _save_index(path: Path, videos: dict[str, VideoInfo]) -> bool:
    found = {name: asdict(info) for name, info in sorted(videos.items()) if info.size >= 0}
    temporary = None
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            json.dump({"version": INDEX_VERSION, "videos": found}, file, indent=0)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        return False
    return True


def read_frames(
    path: str | Path,
    wanted: Sequence[int] | np.ndarray,
    mode: Literal["rgb", "gray"] = "rgb",
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    """The frames of a video with these numbers, in this order and as often as they are named: (C, T, H, W), uint8.

    size: (H, W) to which they are scaled. Decoding begins at the first frame: what a seek finds depends on the codec.
    Raises DataError if the video cannot be decoded or has too few frames.
    """
    path = Path(path)
    numbers = [int(i) for i in wanted]
    if not numbers:
        raise ValueError("wanted is empty: name at least one frame")
    scaled = {"height": size[0], "width": size[1]} if size else {}
    frames: dict[int, np.ndarray] = {}
    needed, count = set(numbers), 0
    for i, frame in enumerate(decode(path)):
        count = i + 1
        if i in needed:
            try:
                frames[i] = frame.to_ndarray(format=FORMATS[mode], **scaled)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: frame {i} cannot be converted to {mode}: {error}") from error
        if len(frames) == len(needed):
            break
    if len(frames) < len(needed):
        raise DataError(f"{path}: expected a frame {max(needed)}, found {count} frames")
    if len({frame.shape for frame in frames.values()}) > 1:
        raise DataError(f"{path}: the size of the frames changes on the way")
    clip = np.stack([frames[i] for i in numbers])
    return np.ascontiguousarray(clip[None] if mode == "gray" else clip.transpose(3, 0, 1, 2))


class VideoClips:
    """Clips of `frames` frames, each `stride` apart, from videos `root/name` with their labels.

    Items: a clip (3, T, H, W), or (1, T, H, W) for mode "gray", uint8, and its label.

    sampling: where in its video a clip begins. "random": anywhere, drawn anew in each epoch. "centre": in the middle.
    "uniform": `clips_per_video` of them, evenly spaced from the beginning to the end. Item i is of video
    i // clips_per_video.
    size: (H, W) to which frames are scaled. Without it, all videos must have one size: the most common one.
    short: videos that are shorter than a clip begin again from their first frame ("loop") or are left out ("skip").
    corrupt: "skip" leaves out, with one warning and the reasons in `skipped`, the videos that are missing, cannot be
    decoded to the end, have no frames, or have another size than the rest; "raise" makes them a DataError. If a video
    turns out to be unreadable only later, "skip" warns and takes the clip from the next one instead.
    index: where the counts of frames are kept, see `index_videos`.

    Raises MissingExtra without PyAV, DataError if no video is left.
    """

    def __init__(
        self,
        root: str | Path,
        videos: Sequence[tuple[str, int]],
        classes: Sequence[str],
        frames: int = 16,
        stride: int = 1,
        sampling: Literal["random", "centre", "uniform"] = "random",
        clips_per_video: int = 1,
        size: tuple[int, int] | None = None,
        mode: Literal["rgb", "gray"] = "rgb",
        short: Literal["loop", "skip"] = "loop",
        corrupt: Literal["skip", "raise"] = "skip",
        index: str | Path | None = None,
    ):
        for name, value in (("frames", frames), ("stride", stride), ("clips_per_video", clips_per_video)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        check_choice("sampling", sampling, ("random", "centre", "uniform"))
        check_choice("mode", mode, tuple(FORMATS))
        check_choice("short", short, ("loop", "skip"))
        check_choice("corrupt", corrupt, ("skip", "raise"))
        if sampling == "centre" and clips_per_video > 1:
            raise ValueError(f"clips_per_video is {clips_per_video}: a video has one centre; take sampling='uniform'")
        self.root = Path(root)
        self.classes = list(classes)
        self.frames, self.stride = frames, stride
        self.sampling, self.clips_per_video = sampling, clips_per_video
        self.size, self.mode, self.corrupt = size, mode, corrupt
        if not videos:
            raise DataError(f"{self.root}: there are no videos in the list")
        found = index_videos(self.root, [name for name, _ in videos], None if index is None else Path(index))
        self.skipped = self._unusable(found, short)
        report(self.skipped, len(found), f"videos in {self.root}", corrupt)
        self.videos = [(name, label) for name, label in videos if name not in self.skipped]
        self.counts = [found[name].frames for name, _ in self.videos]

    def _unusable(self, found: dict[str, VideoInfo], short: str) -> dict[str, str]:
        reasons = {name: info.error for name, info in found.items() if info.error}
        sizes = Counter((info.height, info.width) for info in found.values() if not info.error)
        usual = sizes.most_common(1)[0][0] if sizes else (0, 0)
        for name, info in found.items():
            if name in reasons:
                continue
            if self.size is None and (info.height, info.width) != usual:
                reasons[name] = (
                    f"{info.height} x {info.width} pixels where most have {usual[0]} x {usual[1]} (see size=)"
                )
            elif short == "skip" and info.frames < self.span:
                reasons[name] = f"{info.frames} frames where a clip spans {self.span}"
        return reasons

    @property
    def span(self) -> int:
        """Frames of the video from the first to the last of a clip."""
        return (self.frames - 1) * self.stride + 1

    def __len__(self) -> int:
        return len(self.videos) * self.clips_per_video

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        index = range(len(self))[index]
        return self.sample(index, sample_generator(0, 0, index))

    def sample(self, index: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
        """The item at `index`, where the chance of "random" comes from `rng`."""
        first, clip = divmod(index, self.clips_per_video)
        for step in range(len(self.videos)):
            video = (first + step) % len(self.videos)
            try:
                return self._read(video, self._start(self.counts[video], clip, rng)), self.videos[video][1]
            except DataError as error:
                if self.corrupt == "raise":
                    raise
                warnings.warn(f"{error}; the next video stands in for it", stacklevel=2)
        raise DataError(f"{self.root}: none of the {len(self.videos)} videos can be read any more")

    def _start(self, count: int, clip: int, rng: np.random.Generator) -> int:
        last = max(0, count - self.span)
        if self.sampling == "random":
            return int(rng.integers(last + 1))
        if self.sampling == "centre" or self.clips_per_video == 1:
            return last // 2
        return round(clip * last / (self.clips_per_video - 1))

    def _read(self, video: int, start: int) -> np.ndarray:
        wanted = (start + np.arange(self.frames) * self.stride) % self.counts[video]  # a short one begins again
        return read_frames(self.root / self.videos[video][0], wanted, self.mode, self.size)
