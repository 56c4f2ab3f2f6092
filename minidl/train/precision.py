"""What --precision means: in which types a task computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from ..amp import GradScaler, autocast
from .numbers import Numbers

PRECISIONS = {"float32": None, "bf16": "bfloat16", "fp16": "float16"}  # name -> type of products


class Precision:
    """Types of a task's steps. "float32": one for all. "bf16", "fp16": products in 16 bits, by `amp.autocast`; weights,
    their gradients and the optimizer stay float32. With "fp16" gradients are scaled, and a step that overflows is left
    out, by `scaler`, whose state belongs into checkpoints.

    device: where the model is. Raises ValueError for another name.
    """

    def __init__(self, name: str = "float32", device: str = "cpu"):
        if name not in PRECISIONS:
            raise ValueError(f"precision is {name!r}; it must be one of {', '.join(PRECISIONS)}")
        self.dtype = PRECISIONS[name]
        self.kind = device.partition(":")[0]
        self.scaler = GradScaler(enabled=name == "fp16")
        self.parts: dict[str, Any] = {"scaler": self.scaler} if self.scaler.is_enabled() else {}

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In this context a model and its loss run; backward outside of it."""
        with autocast(self.kind, self.dtype, enabled=self.dtype is not None), self._quiet():
            yield

    def backward(self, loss: Any) -> None:
        """The gradients of a loss, scaled if need be."""
        with self._quiet():
            self.scaler.scale(loss).backward()

    def overflowed(self, optimizer: Any) -> bool:
        """Make the gradients that an optimizer is to use the true ones; whether they are too large for that, so that
        its step will be left out. On a CUDA device the host waits, with "fp16" only."""
        self.scaler.unscale_(optimizer)
        return self.scaler.overflowed(optimizer)

    def numbers(self) -> Numbers:
        """What to report of a step; called once, at its end."""
        self.scaler.update()
        return {"scale": self.scaler.get_scale()} if self.parts else {}

    def _quiet(self) -> Any:
        """With scaling, infinities are expected, and dealt with."""
        return np.errstate(over="ignore", invalid="ignore") if self.parts else np.errstate()
