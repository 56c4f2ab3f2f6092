"""CIFAR-10 and CIFAR-100 in their binary version. The "Python version" is pickled, and minidl unpickles no file.

Format: records of one label byte (CIFAR-100: two, coarse and fine) and 3072 bytes of a 32 x 32 image: 1024 red, 1024
green, 1024 blue, row by row. Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from .dataset import ArrayDataset
from .extras import DataError, check_choice

PIXELS = 3 * 32 * 32


def cifar10(folder: str | Path, split: Literal["train", "test"] = "train") -> ArrayDataset:
    """Images (N, 3, 32, 32) float32 in [0, 1] and labels (N,) int64; N is 50000 or 10000.

    folder: holds `data_batch_1.bin` .. `data_batch_5.bin` and `test_batch.bin`, or `cifar-10-batches-bin` with them.
    Raises DataError if a file is missing, is not made of whole records, or has a label above 9.
    """
    check_choice("split", split, ("train", "test"))
    names = [f"data_batch_{i}.bin" for i in range(1, 6)] if split == "train" else ["test_batch.bin"]
    folder = _inside(Path(folder), "cifar-10-batches-bin")
    parts = [_records(folder / name, (10,)) for name in names]
    return _dataset([(images, labels[:, 0]) for images, labels in parts])


def cifar100(
    folder: str | Path, split: Literal["train", "test"] = "train", labels: Literal["fine", "coarse"] = "fine"
) -> ArrayDataset:
    """Images (N, 3, 32, 32) float32 in [0, 1] and labels (N,) int64 of 100 fine or 20 coarse classes.

    folder: holds `train.bin` and `test.bin`, or `cifar-100-binary` with them. Raises DataError as `cifar10` does.
    """
    check_choice("split", split, ("train", "test"))
    check_choice("labels", labels, ("fine", "coarse"))
    images, both = _records(_inside(Path(folder), "cifar-100-binary") / f"{split}.bin", (20, 100))
    return _dataset([(images, both[:, 1 if labels == "fine" else 0])])


def _inside(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _records(path: Path, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N, len(classes)) of one file, both uint8."""
    size = len(classes) + PIXELS
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        pickled = path.with_suffix("")
        hint = f"; {pickled.name} is of the Python version, which is pickled and therefore not read" * pickled.is_file()
        raise DataError(f"{path}: no such file; expected the binary version of CIFAR{hint}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if not len(data) or len(data) % size:
        raise DataError(f"{path}: expected records of {size} bytes, found {len(data)} bytes: {len(data) / size:.2f}")
    records = data.reshape(-1, size)
    labels = records[:, : len(classes)]
    for column, count in enumerate(classes):
        wrong = np.flatnonzero(labels[:, column] >= count)
        if len(wrong):
            raise DataError(
                f"{path}: expected labels below {count}, found {labels[wrong[0], column]} in record {wrong[0]}: "
                "another format, or damaged"
            )
    return records[:, len(classes) :].reshape(-1, 3, 32, 32), labels


def _dataset(parts: list[tuple[np.ndarray, np.ndarray]]) -> ArrayDataset:
    images = np.empty((sum(len(labels) for _, labels in parts), 3, 32, 32), np.float32)
    begin = 0
    for some, _ in parts:  # straight into place: as floats the training set has 614 MB
        np.divide(some, np.float32(255), out=images[begin : begin + len(some)])
        begin += len(some)
    return ArrayDataset(images, np.concatenate([labels for _, labels in parts]).astype(np.int64))
