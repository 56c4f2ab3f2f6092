"""The numbers of a step: Python floats, or scalars that a CUDA device is still computing.

The host asks for those as late and as rarely as it can, since each question waits for all that was given to the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.cuda import working_on
from ..kernels.arrays import namespace

Numbers = dict[str, Any]


def number(value: Any) -> Any:
    """A scalar Tensor, array or number as a float; what is on a device stays there, as float64."""
    array = getattr(value, "_data", value)
    if on_device(array):
        with working_on(array):
            return array.reshape(()).astype("float64")
    return float(array.item() if hasattr(array, "item") else array)


def on_device(value: Any) -> bool:
    """Whether a number is still on a CUDA device."""
    return hasattr(value, "strides") and not isinstance(value, (np.ndarray, np.generic))


def fetch(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """The numbers of several steps as floats; the host waits once for all of them."""
    waiting = [value for numbers in steps for value in numbers.values() if on_device(value)]
    if not waiting:
        return [dict(numbers) for numbers in steps]
    with working_on(waiting[0]):
        known = iter(namespace(waiting[0]).stack(waiting).tolist())
    return [{n: next(known) if on_device(v) else v for n, v in numbers.items()} for numbers in steps]
