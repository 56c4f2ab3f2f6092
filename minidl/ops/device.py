"""Moving arrays between devices, as an operation of the graph: the gradient travels back."""

from __future__ import annotations

from ..core.primitive import Primitive
from ..core.tensor import to_device

transfer = Primitive(
    "transfer(x) -> y",
    lambda g, *, source, target, non_blocking=False: transfer(g, source=target, target=source),
    kernel=lambda x, *, source, target, non_blocking=False: to_device(x, target, non_blocking),
)
