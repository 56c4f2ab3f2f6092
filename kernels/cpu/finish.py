"""What is done to the numbers of a convolution's result before they leave the cache: bias added, ReLU applied."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..reference.conv import finish

Array = np.ndarray

ROOM = 2**7  # bytes behind the last channel that kernels may read: a panel of vector.py, at most


class Finish(NamedTuple):
    """A bias (C,), which may be None, and whether ReLU follows."""

    bias: Array | None = None
    relu: bool = False

    def of(self, y: Array) -> Array:
        """y (N, C, ...), changed in place."""
        return finish(y, self.bias, self.relu)

    def arguments(self, channels: int, dtype: np.dtype) -> tuple[Array, int]:
        """For compiled kernels: what to add, with room behind it, and whether ReLU follows. Empty: nothing is done."""
        idle = self.bias is None and not self.relu
        bias = np.zeros(0 if idle else channels + ROOM // dtype.itemsize, dtype)
        if self.bias is not None:
            bias[:channels] = self.bias
        bias.flags.writeable = False
        return bias, int(self.relu)


NOTHING = Finish()
