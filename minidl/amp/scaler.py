"""`GradScaler`: the loss times a power of two, so that small gradients do not become 0 in float16."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

import numpy as np

from ..core import cuda
from ..core.dtypes import DEFAULT
from ..core.tensor import Tensor
from ..kernels import capture
from ..kernels.arrays import namespace, stack
from ..ops.elementwise import astype

LARGEST = 2.0**128  # float32 ends below


class _Stage(Enum):
    UNSCALED = "unscaled"
    STEPPED = "stepped"


class GradScaler:
    """Keeps gradients within float16's range, and leaves out steps whose gradients were not.

        scaler = amp.GradScaler()
        …
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)          # only to look at the gradients, or to clip them
        scaler.step(optimizer)
        scaler.update()

    A gradient below 6e-8 is 0 in float16. The loss, and with it all gradients, is multiplied by the scale before
    backward, and the gradients are divided by it before the step. If one is infinite or NaN the step is left out, and
    the scale multiplied by `backoff_factor`; after `growth_interval` steps in a row that were taken, by
    `growth_factor`. Powers of two change no digit of a number. bfloat16 reaches as far as float32 and needs no scaler.

    On a CUDA device the host waits once in each `step`, to know whether to take it, and nowhere else; so a step with a
    scaler cannot be captured as a CUDA graph.

    device: as in PyTorch, where the scale lives there; here it is a number of the host. enabled: False makes all
    methods do without scaling. Raises ValueError for factors or an interval that make no sense.
    """

    def __init__(
        self, device: str = "cuda", init_scale: float = 2.0**16, growth_factor: float = 2.0,
        backoff_factor: float = 0.5, growth_interval: int = 2000, enabled: bool = True,
    ):  # fmt: skip
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_factor, self._backoff_factor = float(growth_factor), float(backoff_factor)
        self._growth_interval, self._growth_tracker = int(growth_interval), 0
        self._check()
        self._optimizers: dict[int, tuple[_Stage, Any]] = {}  # since the last update: id -> stage, flags or bool

    def _check(self) -> None:
        if not 0 < self._scale < math.inf:
            raise ValueError(f"init_scale is {self._scale}; it must be a positive number")
        if not self._growth_factor > 1:
            raise ValueError(f"growth_factor is {self._growth_factor}; it must be more than 1")
        if not 0 < self._backoff_factor < 1:
            raise ValueError(f"backoff_factor is {self._backoff_factor}; it must be between 0 and 1")
        if self._growth_interval < 1:
            raise ValueError(f"growth_interval is {self._growth_interval}; it must be at least 1")

    # ---- one step of training
    def scale(self, outputs: Any) -> Any:
        """A loss, or several in a list or tuple, times the scale; 16-bit ones become float32 first."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return (astype(outputs, dtype=DEFAULT) if outputs.itemsize == 2 else outputs) * self._scale
        if isinstance(outputs, Iterable):
            return type(outputs)(map(self.scale, outputs))  # type: ignore[call-arg]
        raise TypeError(f"scale: outputs must be a tensor, or a list or tuple of them, not {type(outputs).__name__}")

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, once between two calls of `update`.

        `step` does it, unless this has been called. Gradients get new arrays. Raises RuntimeError if they are unscaled
        already, and ValueError for float16 parameters: their gradients only fit float16 while they are scaled.
        """
        if not self._enabled:
            return
        known = self._optimizers.get(id(optimizer))
        if known is not None:
            done = "unscale_() has already been called" if known[0] is _Stage.UNSCALED else "step() has been called"
            raise RuntimeError(f"unscale_: {done} for this optimizer since the last update()")
        for p in _with_gradients(optimizer):
            if p.dtype == np.float16:
                raise ValueError(
                    "unscale_: gradients of float16 parameters only fit float16 while they are scaled, so they cannot "
                    "be clipped; keep the parameters in float32 and use autocast"
                )
        self._unscale(optimizer)

    def _unscale(self, optimizer: Any) -> None:
        params = _with_gradients(optimizer)
        if not params:
            raise RuntimeError("none of the optimizer's parameters has a gradient: call scale(loss).backward() before")
        self._optimizers[id(optimizer)] = _Stage.UNSCALED, _overflows([p.grad.data for p in params])
        for p in params:
            if p.dtype != np.float16:  # those the optimizer divides, in float32
                p.grad = p.grad.detach() * (1 / self._scale)

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(*args, **kwargs)` if all gradients are finite; else nothing happens and None is returned.

        Raises RuntimeError for a second call before `update`, and for a closure, which would be called too late.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if args or "closure" in kwargs:
            raise RuntimeError("step: a closure cannot be combined with gradient scaling")
        stage, _ = self._optimizers.get(id(optimizer), (None, None))
        if stage is _Stage.STEPPED:
            raise RuntimeError("step() has already been called for this optimizer since the last update()")
        if stage is None:
            self._unscale(optimizer)
        found = self.overflowed(optimizer)
        self._optimizers[id(optimizer)] = _Stage.STEPPED, found
        if found:
            return None
        optimizer.grad_scale = self._scale
        try:
            return optimizer.step(**kwargs)
        finally:
            optimizer.grad_scale = 1.0

    def overflowed(self, optimizer: Any) -> bool:
        """Whether a gradient of this optimizer is infinite or NaN, so that its step is, or will be, left out; asked
        between `unscale_` or `step` and `update`. It is here that the host waits. (An addition to PyTorch's methods.)
        """
        return id(optimizer) in self._optimizers and self._look(id(optimizer))

    def _look(self, key: int) -> bool:
        if capture.active():
            raise RuntimeError(
                "a step with a GradScaler cannot be captured: whether it is taken is decided on the host. "
                "bfloat16 needs no scaler"
            )
        stage, flags = self._optimizers[key]
        found = flags if isinstance(flags, bool) else any(map(bool, flags))
        self._optimizers[key] = stage, found
        return found

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Choose the scale for the next step, or set it to `new_scale`. After the step of the last optimizer."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
            self._check()
        else:
            if not self._optimizers:
                raise RuntimeError("update: no step() or unscale_() since the last update(), so nothing is known")
            self._move(any(self._look(key) for key in list(self._optimizers)))
        self._optimizers.clear()

    def _move(self, overflow: bool) -> None:
        if overflow:
            self._scale, self._growth_tracker = self._scale * self._backoff_factor, 0
            return
        self._growth_tracker += 1
        if self._growth_tracker == self._growth_interval:
            grown = self._scale * self._growth_factor
            self._scale, self._growth_tracker = grown if grown < LARGEST else self._scale, 0

    # ---- what it knows
    def is_enabled(self) -> bool:
        """Whether it scales at all."""
        return self._enabled

    def get_scale(self) -> float:
        """The factor of the loss; 1 if disabled."""
        return self._scale if self._enabled else 1.0

    def state_dict(self) -> dict[str, Any]:
        """Numbers, under PyTorch's names; to be taken after `update`. Empty if disabled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state. Raises RuntimeError for the empty one of a disabled scaler."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError("the state is empty: it was taken from a GradScaler that was not enabled")
        self._scale = float(state_dict["scale"])
        self._growth_factor = float(state_dict["growth_factor"])
        self._backoff_factor = float(state_dict["backoff_factor"])
        self._growth_interval = int(state_dict["growth_interval"])
        self._growth_tracker = int(state_dict["_growth_tracker"])
        self._check()


def _with_gradients(optimizer: Any) -> list[Any]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _overflows(gradients: list[Any]) -> list[Any]:
    """Flags, one for each device, that are true if a gradient has an infinite or NaN element; on a CUDA device the host
    does not look."""
    flags: list[Any] = []
    places: dict[Any, list[Any]] = {}
    for g in gradients:
        if isinstance(g, np.ndarray):
            flags.append(not _finite(g))
        else:
            places.setdefault(g.device.id, []).append(g)
    for arrays in places.values():
        with cuda.working_on(arrays[0]):
            # one pass: a sum in float64 is finite if and only if all its float32 terms are
            sums = [g.sum(dtype="float64") if g.itemsize < 8 else abs(g).max() for g in arrays]
            flags.append(~namespace(sums[0]).isfinite(stack(sums, 0)).all())
    return flags


def _finite(g: np.ndarray) -> bool:
    with np.errstate(over="ignore", invalid="ignore"):
        total = g.sum(dtype=np.float32 if g.itemsize == 2 else None)
    # finite terms may have an infinite sum
    return bool(np.isfinite(total)) or bool(np.isfinite(g).all())
