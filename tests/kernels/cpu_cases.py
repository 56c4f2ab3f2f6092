"""What the tests of the CPU kernels share: arrays of every layout inside frames that show reads and writes outside."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np

FRAME = 64  # elements on either side
LAYOUTS = ("planes", "channels last", "every other", "backwards", "unaligned")


def framed(values: np.ndarray, layout: str = "planes") -> np.ndarray:
    """A read-only array equal to values, between NaNs: whoever reads past its ends will find them in the result."""
    if layout == "unaligned":
        memory = np.full(values.nbytes + 1, 255, np.uint8)
        a = memory[1:].view(values.dtype).reshape(values.shape)
    else:
        outside = np.nan if values.dtype.kind == "f" else 2**30
        channels_last = layout == "channels last"
        shape = np.moveaxis(values, 1, -1).shape if channels_last else values.shape
        if layout == "every other":
            a = np.full((*shape[:-1], 2 * shape[-1]), outside, values.dtype)[..., ::2]
        else:
            memory = np.full(values.size + 2 * FRAME, outside, values.dtype)
            a = memory[FRAME : FRAME + values.size].reshape(shape)
        if channels_last:
            a = np.moveaxis(a, -1, 1)
        if layout == "backwards":
            a = a[:, ::-1]
    a[...] = values
    a.flags.writeable = False
    return a


class FramedNumPy:
    """NumPy for a module under test: arrays from empty and zeros lie between canaries, and empty ones hold NaNs."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        dtype = np.dtype(dtype)
        size = int(np.prod(shape))
        # bytes become anything: 255 is NaN as part of a number
        memory = np.full(size + 2 * FRAME, np.nan if dtype.kind == "f" else 255 if dtype == np.uint8 else 77, dtype)
        self.frames += [memory[:FRAME], memory[FRAME + size :]]
        return memory[FRAME : FRAME + size].reshape(shape)

    def zeros(self, shape: Any, dtype: Any = float) -> np.ndarray:
        a = self.empty(shape, dtype)
        a[...] = 0
        return a

    def check(self) -> None:
        for frame in self.frames:
            same = np.isnan(frame) if frame.dtype.kind == "f" else frame == (255 if frame.dtype == np.uint8 else 77)
            assert same.all(), "written out of bounds"


class guarded:
    """Context: the modules allocate between canaries, which are checked at the end."""

    def __init__(self, *modules: Any):
        self.numpy = FramedNumPy()
        # where kernels are compiled, numpy must stay what the compiler knows
        compiling = [m for m in modules if hasattr(m, "threaded")]
        self.patches = [patch.object(m, "np", self.numpy) for m in modules if m not in compiling]
        self.patches += [patch.object(m, "empty", self.numpy.empty) for m in modules if hasattr(m, "empty")]

    def __enter__(self) -> None:
        for each in self.patches:
            each.start()

    def __exit__(self, *_: Any) -> None:
        for each in self.patches:
            each.stop()
        self.numpy.check()
