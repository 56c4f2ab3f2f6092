"""UCF-101 and HMDB-51: which videos are in a split, by the authors' own lists."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from .extras import DataError, check_choice, read_lines
from .video import VideoClips


def ucf101(
    videos: str | Path,
    lists: str | Path,
    split: Literal["train", "test"] = "train",
    fold: Literal[1, 2, 3] = 1,
    **clips: Any,
) -> VideoClips:
    """Clips of UCF-101, or of a data set in its layout, by the official split files, which are read first.

    videos: the folder with `ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi` and so on.
    lists: the folder with `classInd.txt` (lines "1 ApplyEyeMakeup"), `trainlist01.txt` (lines "Class/video.avi 1") and
    `testlist01.txt` (lines "Class/video.avi"), numbered by fold. Labels begin at 0, in the order of classInd.txt.
    clips: what VideoClips takes: frames, stride, sampling, clips_per_video, size, mode, short, corrupt, index.

    Raises DataError for a missing or malformed list, naming file and line.
    Source: K. Soomro, A. Zamir, M. Shah, "UCF101: A Dataset of 101 Human Actions Classes" (2012).
    """
    found, classes = ucf101_split(lists, split, fold)
    return VideoClips(videos, found, classes, **clips)


def ucf101_split(
    lists: str | Path, split: Literal["train", "test"] = "train", fold: Literal[1, 2, 3] = 1
) -> tuple[list[tuple[str, int]], list[str]]:
    """The videos of a split as ("Class/video.avi", label from 0), and the classes. See `ucf101`."""
    check_choice("split", split, ("train", "test"))
    check_choice("fold", fold, (1, 2, 3))
    purpose = "it comes with the official train/test splits of UCF-101"
    path = Path(lists) / "classInd.txt"
    classes = []
    for number, line in enumerate(read_lines(path, purpose), 1):
        words = line.split()
        if len(words) != 2 or words[0] != str(number):
            raise DataError(f"{path}, class {number}: expected '{number} ClassName', found {line!r}")
        classes.append(words[1])
    path = Path(lists) / f"{split}list{fold:02d}.txt"
    label = {name: i for i, name in enumerate(classes)}
    videos: dict[str, int] = {}
    for line in read_lines(path, purpose):
        words = line.split()
        name = words[0].partition("/")[0]
        if "/" not in words[0] or name not in label:
            raise DataError(f"{path}: expected 'Class/video.avi' with a class of classInd.txt, found {line!r}")
        if len(words) > 2 or (len(words) == 2 and words[1] != str(label[name] + 1)):
            raise DataError(f"{path}: expected the label {label[name] + 1} of {name} after the video, found {line!r}")
        if ".." in Path(words[0]).parts:
            raise DataError(f"{path}: a video must lie in the folder of videos, found {line!r}")
        videos[words[0]] = label[name]
    if not videos:
        raise DataError(f"{path}: there are no videos in the list")
    return list(videos.items()), classes


def hmdb51(
    videos: str | Path,
    lists: str | Path,
    split: Literal["train", "test"] = "train",
    fold: Literal[1, 2, 3] = 1,
    **clips: Any,
) -> VideoClips:
    """Clips of HMDB-51, or of a data set in its layout, by the official split files.

    videos: the folder with `brush_hair/….avi` and so on.
    lists: the folder with `brush_hair_test_split1.txt` and so on, one per class and fold, lines "video.avi 1". The flag
    is 1 for training, 2 for test, 0 for neither in this fold. Labels are those of the sorted names of the classes.
    clips: what VideoClips takes: frames, stride, sampling, clips_per_video, size, mode, short, corrupt, index.

    Raises DataError for missing or malformed lists, naming the file and the line.
    Source: H. Kuehne et al., "HMDB: A Large Video Database for Human Motion Recognition" (ICCV 2011).
    """
    found, classes = hmdb51_split(lists, split, fold)
    return VideoClips(videos, found, classes, **clips)


def hmdb51_split(
    lists: str | Path, split: Literal["train", "test"] = "train", fold: Literal[1, 2, 3] = 1
) -> tuple[list[tuple[str, int]], list[str]]:
    """The videos of a split as ("class/video.avi", label from 0), and the classes. See `hmdb51`."""
    check_choice("split", split, ("train", "test"))
    check_choice("fold", fold, (1, 2, 3))
    end = f"_test_split{fold}.txt"
    paths = sorted(Path(lists).glob(f"*{end}"), key=lambda path: path.name.removesuffix(end))
    if not paths:
        raise DataError(f"{lists}: expected files *{end}, the official splits of HMDB-51, found none")
    classes = [path.name.removesuffix(end) for path in paths]
    wanted = {"train": "1", "test": "2"}[split]
    videos = []
    for label, path in enumerate(paths):
        for line in read_lines(path, "listed a moment ago"):
            name, _, flag = line.rpartition(" ")
            name = name.strip()
            if flag not in ("0", "1", "2") or not name or "/" in name:
                raise DataError(f"{path}: expected 'video.avi' and a flag 0, 1 or 2, found {line!r}")
            if flag == wanted:
                videos.append((f"{classes[label]}/{name}", label))
    if not videos:
        raise DataError(f"{lists}: no video has the flag {wanted} ({split}) in the files *{end}")
    return videos, classes
