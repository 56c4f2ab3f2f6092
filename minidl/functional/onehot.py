"""Classes as vectors."""

from __future__ import annotations

from typing import Any

from ..core.tensor import Tensor
from ..kernels.arrays import namespace
from .arguments import may_look, on_its_device


@on_its_device
def one_hot(input: Any, num_classes: int = -1) -> Any:
    """Class numbers (…,) as int64 vectors (…, num_classes) with a single 1; -1 takes the largest class + 1."""
    array = input._data if isinstance(input, Tensor) else input
    if array.dtype.kind not in "iu":
        raise TypeError(f"one_hot: input must hold class numbers (integers), not {array.dtype}")
    if num_classes == -1:
        num_classes = int(array.max()) + 1 if array.size else 0
    if array.size and may_look(array) and not 0 <= int(array.min()) <= int(array.max()) < num_classes:
        raise ValueError(
            f"one_hot: classes reach from {int(array.min())} to {int(array.max())}, num_classes is {num_classes}"
        )
    hot = (array[..., None] == namespace(array).arange(num_classes)).astype("int64")
    return Tensor(hot) if isinstance(input, Tensor) else hot
