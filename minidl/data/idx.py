"""MNIST's file format "idx" (also gzipped), and MNIST itself or one of the sets that share its form.

Format, all numbers big-endian: bytes 0, 0, a code of the type, the number of axes; then one uint32 per axis; then the
values, last axis fastest. Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

from __future__ import annotations

import gzip
import io
import math
import struct
import zlib
from pathlib import Path
from typing import IO, Literal, cast

import numpy as np

from .dataset import ArrayDataset
from .extras import DataError, check_choice

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
NAMES = {"train": "train", "test": "t10k"}


def read_idx(path: str | Path) -> np.ndarray:
    """The array in an idx file, plain or gzipped (told by content, not by name), in the machine's byte order.

    Raises DataError for another format, a file with too little or too much in it, or one that cannot be read.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not zipped:
                return _parse(path, raw)
            with gzip.open(raw) as unzipped:
                return _parse(path, cast(IO[bytes], unzipped))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip data are damaged or cut off: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _parse(path: Path, file: IO[bytes]) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or magic[3] == 0:
        raise DataError(
            f"{path}: not an idx file: expected the magic number 0x0000TTNN with a type TT of "
            f"{', '.join(f'{code:02x}' for code in TYPES)} and NN axes, "
            f"found {'0x' + magic.hex() if magic else 'an empty file'}"
        )
    axes = magic[3]
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        raise DataError(f"{path}: cut off: expected {axes} sizes of 4 bytes, found {len(header)} bytes")
    shape = struct.unpack(f">{axes}I", header)
    dtype = np.dtype(TYPES[magic[2]])
    size = math.prod(shape) * dtype.itemsize
    data = _read_up_to(file, size + 1)
    if len(data) != size:
        found = f"only {len(data)}" if len(data) < size else "more"
        raise DataError(f"{path}: expected {size} bytes of values for the shape {shape}, found {found}")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _read_up_to(file: IO[bytes], size: int) -> bytes:
    """Up to `size` bytes, in pieces: a damaged header may promise more than there is memory."""
    pieces = io.BytesIO()
    while pieces.tell() < size and (piece := file.read(min(1 << 24, size - pieces.tell()))):
        pieces.write(piece)
    return pieces.getvalue()


def mnist(folder: str | Path, split: Literal["train", "test"] = "train") -> ArrayDataset:
    """Images (N, 1, H, W) float32 in [0, 1] and labels (N,) int64 from MNIST's four files in `folder`.

    For MNIST N is 60000 or 10000 and H = W = 28; Fashion-MNIST and others of the same form work as well. Files:
    `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-…`, each also with `.gz`, or with a dot before `idx`.
    Raises DataError if one is missing or damaged, or if images and labels differ in number.
    """
    check_choice("split", split, tuple(NAMES))
    images_path = _find(Path(folder), f"{NAMES[split]}-images", "idx3-ubyte")
    labels_path = _find(Path(folder), f"{NAMES[split]}-labels", "idx1-ubyte")
    images, labels = read_idx(images_path), read_idx(labels_path)
    for path, array, axes in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.ndim != axes or array.dtype != np.uint8:
            raise DataError(
                f"{path}: expected bytes with {axes} axes (magic number {0x800 + axes}), "
                f"found {array.dtype} of shape {array.shape}"
            )
    if len(images) != len(labels):
        raise DataError(f"{images_path} has {len(images)} images, but {labels_path} has {len(labels)} labels")
    return ArrayDataset(images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _find(folder: Path, stem: str, kind: str) -> Path:
    names = [f"{stem}{dot}{kind}{end}" for dot in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: expected a file {names[0]} or {names[1]}, found {_listing(folder)}")


def _listing(folder: Path) -> str:
    if not folder.is_dir():
        return "no such folder"
    names = sorted(p.name for p in folder.iterdir())
    return (", ".join(names[:8]) + (", …" if len(names) > 8 else "")) if names else "an empty folder"
