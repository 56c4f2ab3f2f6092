"""How passes over the channels of an array are divided among blocks and threads: channels.cuh, from the host."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import fused

SHAPE = np.dtype(  # struct Shape of channels.cuh, field by field
    [(name, np.int64) for name in ("batch", "places", "rows_of_part")]
    + [(name, np.int32) for name in ("channels", "width", "members", "parts")]
)
WIDEST = 32  # channels of a block: the threads of a warp read one line of memory
ROWS = 16  # of a thread, at least, before the rows of a channel are divided among blocks
BLOCKS = 1024  # wanted in all: several for each multiprocessor of any device, so that the bits do not depend on it
PARTS = 256  # of a channel, at most: one block joins them


class Plan(NamedTuple):
    """The fields of struct Shape, and the grid."""

    batch: int
    places: int
    rows_of_part: int
    channels: int
    width: int
    members: int
    parts: int
    groups: int  # of channels: blocks side by side


@lru_cache(maxsize=4096)
def plan(shape: tuple[int, ...], last: bool, threads: int = fused.THREADS) -> Plan:
    """For an array (N, C, ...), channels-last or of planes; by its shape alone, so that sums are always the same."""
    batch, channels, *axes = shape
    places = int(np.prod(axes, dtype=np.int64))
    rows = batch * places
    if last:
        batch, places = rows, 1
    width = min(WIDEST, 1 << (channels - 1).bit_length(), threads) if last else 1
    members, groups = threads // width, -(-channels // width)
    parts = max(1, min(PARTS, -(-rows // (members * ROWS)), -(-BLOCKS // groups)))
    rows_of_part = -(-rows // parts)
    return Plan(batch, places, rows_of_part, channels, width, members, -(-rows // rows_of_part), groups)


@lru_cache(maxsize=4096)
def struct(p: Plan) -> np.ndarray:
    """The plan as a kernel argument, passed by value."""
    packed = np.array(p[: len(SHAPE.names or ())], SHAPE)
    packed.flags.writeable = False
    return packed


def run(file: str, kernel: str, dtype: np.dtype, p: Plan, *arguments: Any) -> None:
    """Launches a pass over all elements."""
    fused.run(file, kernel, dtype, (p.groups, p.parts), p.width * p.members, *arguments, struct(p))


def collect(file: str, kernel: str, dtype: np.dtype, p: Plan, *arrays: Any) -> None:
    """Launches what joins the parts of each channel: one block for each."""
    threads = min(fused.THREADS, max(32, 1 << (p.parts - 1).bit_length()))
    fused.run(file, kernel, dtype, (p.channels,), threads, *arrays, struct(p))
