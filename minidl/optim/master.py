"""Master weights: float32 copies of 16-bit parameters, which take the updates.

A bfloat16 number has 8 bits: an update below a 256th of a weight would be lost, in every step. So it is added to a
float32 copy, of which the parameter is the rounding. Micikevicius et al. 2018, "Mixed Precision Training", section 3.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..core.dtypes import DEFAULT
from ..core.graph import tick, written_after
from ..core.tensor import Tensor
from ..kernels import capture
from ..kernels.arrays import namespace

NAME = "master"  # in a parameter's state


def wanted(p: Tensor, group: Mapping[str, Any]) -> bool:
    """Whether a parameter has master weights: those of 16 bits do, unless the group's option says no."""
    return p.itemsize == 2 and group.get("master_weights", True)


class Masters:
    """The master weights of an optimizer's parameters; they are kept in the parameters' states."""

    def __init__(self) -> None:
        self._rounded: dict[Tensor, tuple[Any, int]] = {}  # the array that was last written, and when

    def of(self, p: Tensor, state: dict[str, Any]) -> Any:
        """The float32 array to update. Elements of p that were written to by others since replace their master's."""
        x = p._data
        if NAME not in state:
            state[NAME] = x.astype(DEFAULT)
            return state[NAME]
        master, (array, time) = state[NAME], self._rounded.get(p, (None, 0))
        # a captured step cannot know what happens between its replays, so there it always looks
        if array is not x or written_after(x, time) or capture.active():
            master[...] = namespace(x).where(master.astype(x.dtype) == x, master, x.astype(DEFAULT))
        return master

    def round(self, p: Tensor, state: Mapping[str, Any]) -> None:
        """Write a parameter after its master was updated."""
        p._data[...] = state[NAME]
        p.mutated()
        self._rounded[p] = p._data, tick()


def true_gradient(g: Any, scale: float, wide: bool) -> Any:
    """A gradient in float32, if `wide`; of float16 divided by the scale of its loss before it is rounded again."""
    if scale == 1 or g.dtype != np.float16:
        return g.astype(DEFAULT) if wide else g
    single = g.astype(DEFAULT) * (1 / scale)
    return single if wide else single.astype(g.dtype)
