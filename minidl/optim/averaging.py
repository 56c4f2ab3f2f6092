"""Averages of weights over training, which often do better than the last weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..core import cuda
from ..core.tensor import to_device
from .optimizer import numbers


class ExponentialMovingAverage:
    """A slow copy of a model's parameters: after each optimizer step, average = d · average + (1 - d) · parameter.

    d = min(decay, (1 + t) / (10 + t)) at update t, so that the copy does not remember the initial values for long.
    Buffers, such as batch norm's running statistics, are averages already and stay those of the model. The average of a
    parameter of 16 bits is float32.

        average = optim.ExponentialMovingAverage(net, 0.999)
        …; optimizer.step(); average.update()
        with average.applied():
            evaluate(net)

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), for the idea; the
    warm-up is the one of TensorFlow's class of this name. Raises ValueError unless 0 <= decay < 1.
    """

    def __init__(self, model: Any, decay: float = 0.999):
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}: it must be at least 0 and less than 1")
        self.model = model
        self.decay = decay
        self.updates = 0
        self.average = {name: _wide(_copied(p.data)) for name, p in model.named_parameters()}

    def update(self) -> None:
        """Take the parameters in as they are now."""
        keep: Any = None
        for name, p in self.model.named_parameters():
            average = self.average[name]
            with cuda.working_on(p.data):
                if keep is None:
                    (keep,) = numbers(p.data, {}, self._count)
                average += (keep if isinstance(keep, float) else keep.astype(average.dtype)) * (p.data - average)

    def _count(self) -> tuple[float]:
        """Count an update: how much of the parameters goes in."""
        self.updates += 1
        return (1 - min(self.decay, (1 + self.updates) / (10 + self.updates)),)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the model has the average for its parameters."""
        before = {name: _copied(p.data) for name, p in self.model.named_parameters()}
        self._write(self.average)
        try:
            yield
        finally:
            self._write(before)

    def _write(self, arrays: Mapping[str, Any]) -> None:
        for name, p in self.model.named_parameters():
            with cuda.working_on(p.data):
                p.data[...] = arrays[name]
            p.mutated()

    def state_dict(self) -> dict[str, Any]:
        """{"updates": count, "average": parameter name -> array}"""
        return {"updates": self.updates, "average": {name: _copied(array) for name, array in self.average.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises ValueError, and changes nothing, if the names or shapes are not those of the model."""
        theirs = {name: tuple(array.shape) for name, array in state["average"].items()}
        mine = {name: tuple(array.shape) for name, array in self.average.items()}
        if theirs != mine:
            wrong = sorted(name for name in theirs.keys() | mine.keys() if theirs.get(name) != mine.get(name))
            raise ValueError(f"the average is of another model: it differs in {', '.join(wrong[:3])}")
        self.updates = int(state["updates"])
        for name, p in self.model.named_parameters():
            with cuda.working_on(p.data):
                self.average[name][...] = to_device(state["average"][name], p.device)


def _wide(array: Any) -> Any:
    """In a type that small changes are not lost in."""
    if array.itemsize > 2:
        return array
    with cuda.working_on(array):
        return array.astype("float32")


def _copied(array: Any) -> Any:
    with cuda.working_on(array):
        return array.copy()
