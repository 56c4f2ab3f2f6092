"""What is trained: how a batch changes it, how a batch measures it, and what a checkpoint keeps of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from .. import Tensor, no_grad
from ..core.cuda import working_on
from ..nn.utils import clip_grad_norm_, get_total_norm
from ..optim import ExponentialMovingAverage
from .errors import NotFinite
from .numbers import Numbers, number, on_device
from .precision import Precision


class Task(ABC):
    """Something that can be trained; abstract. Steps return named numbers that are means over the batch, "loss" among
    them: floats, or on a CUDA device scalars that it may still be computing (see `number`)."""

    model: Any
    parts: dict[str, Any]  # what else has a state_dict: optimizers, schedules, averages
    average: ExponentialMovingAverage | None = None
    monitor: str = "val_loss"
    """The number in an epoch's record that says which weights are best and when to stop early; smaller is better."""
    finite: tuple[str, ...] = ("loss", "grad_norm")
    """The numbers that must be finite. On a CUDA device the trainer looks, some steps later."""

    @abstractmethod
    def train_step(self, batch: Any) -> Numbers:
        """Learn from one batch. Raises NotFinite, before any weight has changed, if the loss is no number; on a CUDA
        device, where the host does not wait for the loss, it does not look."""

    @abstractmethod
    def validation_step(self, batch: Any) -> Numbers:
        """Measure one batch; called without recording and in evaluation mode."""

    def after_validation(self) -> Numbers:
        """More numbers for the epoch's record, which are no means over batches; in evaluation mode."""
        return {}

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the block the model has the weights to judge it by: their moving average, if there is one."""
        return nullcontext() if self.average is None else self.average.applied()


class Minimize(Task):
    """The task most often wanted: make `loss(model, batch)`, a mean over the batch, small.

    loss: gives a scalar Tensor, or a pair of it and a dict of other numbers to report. schedule: a learning-rate
    schedule that moves on with every step. accumulate: parts in which a batch goes through the model, one after the
    other; their gradients add up to the batch's (batch norm sees the parts), and only one part is in memory.
    clip_norm: largest norm of all gradients together; longer ones are scaled down to it. average: follows the weights.
    precision: the types of a step (None: float32); a step that overflows, which only "fp16" can, changes no weight.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        loss: Callable[[Any, Any], Any],
        schedule: Any = None,
        *,
        accumulate: int = 1,
        clip_norm: float | None = None,
        average: ExponentialMovingAverage | None = None,
        precision: Precision | None = None,
    ):
        self.model = model
        self.optimizer = optimizer
        self.loss = loss
        self.schedule = schedule
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.average = average
        self.precision = precision or Precision()
        parts = {"optimizer": optimizer, "schedule": schedule, "average": average, **self.precision.parts}
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def train_step(self, batch: Any) -> Numbers:
        self.optimizer.zero_grad()
        numbers: Numbers = {}
        size = len(batch[0])
        for part in split(batch, self.accumulate):
            weight = len(part[0]) / size
            loss, others = self._loss(part)
            value = number(loss)
            if not on_device(value) and not math.isfinite(value):
                again = partial(self._loss, part)
                raise NotFinite(f"the loss became {value}", partial(first_not_finite, self.model, part, again))
            self.precision.backward(loss if weight == 1 else loss * weight)
            for name, value in {"loss": loss, **others}.items():
                numbers[name] = numbers.get(name, 0.0) + weight * number(value)
        taken = not self.precision.overflowed(self.optimizer)
        if taken:
            norm = clip(self.model, self.clip_norm)
            if self.clip_norm is not None:
                numbers["grad_norm"] = norm
        self.precision.scaler.step(self.optimizer)
        if taken and self.average is not None:
            self.average.update()
        if self.schedule is not None:
            self.schedule.step()
        return numbers | self.precision.numbers()

    def validation_step(self, batch: Any) -> Numbers:
        loss, others = self._loss(batch)
        return {name: number(value) for name, value in {"loss": loss, **others}.items()}

    def _loss(self, batch: Any) -> tuple[Tensor, Mapping[str, Any]]:
        with self.precision.computing():
            result = self.loss(self.model, batch)
        return result if isinstance(result, tuple) else (result, {})


class Adversarial(Task):
    """Two players, each with an optimizer of its own: the generator draws, the discriminator tells real from drawn.

    gan: has `generator`, `discriminator`, `discriminator_scores(real) -> (logits of real, of drawn)`, and
    `generator_scores(n) -> logits of n drawn`, as models.dcgan.DCGAN has. A step is one of the discriminator and then
    one of the generator, with images of its own. judge: more numbers about the generator, at the end of an epoch.

    Numbers: loss and g_loss are the losses of the discriminator and the generator; d_real and d_fake the probability of
    being real that the discriminator gives real and drawn images; d_grad and g_grad the norms of their gradients.
    clip_norm, average (of the generator) and precision as in Minimize; the two players share one scale.
    """

    def __init__(
        self,
        gan: Any,
        generator_optimizer: Any,
        discriminator_optimizer: Any,
        images: Callable[[Any], Tensor],
        *,
        judge: Callable[[], Numbers] | None = None,
        monitor: str = "val_loss",
        clip_norm: float | None = None,
        average: ExponentialMovingAverage | None = None,
        precision: Precision | None = None,
    ):
        self.model = gan
        self.generator_optimizer = generator_optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.images = images
        self.judge = judge
        self.monitor = monitor
        self.clip_norm = clip_norm
        self.average = average
        self.precision = precision or Precision()
        parts = {"generator_optimizer": generator_optimizer, "discriminator_optimizer": discriminator_optimizer}
        self.parts = parts | ({} if average is None else {"average": average}) | self.precision.parts

    def train_step(self, batch: Any) -> Numbers:
        from ..models.dcgan import discriminator_loss, generator_loss

        gan, real = self.model, self.images(batch)
        with self.precision.computing():
            real_scores, fake_scores = gan.discriminator_scores(real)
            loss = discriminator_loss(real_scores, fake_scores)
        where = partial(first_not_finite, gan, batch, partial(gan.discriminator_scores, real))
        d_grad = self._update(loss, self.discriminator_optimizer, gan.discriminator, where)
        with self.precision.computing():
            g_loss = generator_loss(gan.generator_scores(len(real)))
        g_grad = self._update(g_loss, self.generator_optimizer, gan.generator, where)
        if g_grad is not None and self.average is not None:
            self.average.update()
        numbers = {
            "loss": number(loss), "g_loss": number(g_loss),
            "d_real": believed(real_scores), "d_fake": believed(fake_scores), "d_grad": d_grad, "g_grad": g_grad,
        }  # fmt: skip
        return {name: value for name, value in numbers.items() if value is not None} | self.precision.numbers()

    finite = ("loss", "g_loss", "d_grad", "g_grad")

    def _update(self, loss: Tensor, optimizer: Any, player: Any, where: Callable[[], str]) -> Any:
        """One step of one player; the norm of its gradient, or None if it was too large for a step. `where` finds out
        where infinity or NaN begins."""
        value = number(loss)
        if not on_device(value) and not math.isfinite(value):
            raise NotFinite(f"the loss of the {type(player).__name__.lower()} became {value}", where)
        optimizer.zero_grad()
        self.precision.backward(loss)
        norm = None if self.precision.overflowed(optimizer) else clip(player, self.clip_norm)
        self.precision.scaler.step(optimizer)
        return norm

    def validation_step(self, batch: Any) -> Numbers:
        from ..models.dcgan import discriminator_loss

        with self.precision.computing():
            real, fake = self.model.discriminator_scores(self.images(batch))
            loss = discriminator_loss(real, fake)
        return {"loss": number(loss), "d_real": believed(real), "d_fake": believed(fake)}

    def after_validation(self) -> Numbers:
        return self.judge() if self.judge else {}


def split(batch: Any, parts: int) -> list[Any]:
    """A batch, a tuple of arrays, in `parts` of nearly equal size; fewer if it has fewer examples."""
    size = len(batch[0])
    parts = min(parts, size)
    bounds = [size * i // parts for i in range(parts + 1)]
    return [batch] if parts == 1 else [tuple(a[i:j] for a in batch) for i, j in pairwise(bounds)]


def believed(scores: Any) -> Any:
    """The mean probability of being real, from logits."""
    return number(scores.detach().sigmoid().mean())


def clip(model: Any, most: float | None) -> Any:
    """Scale a model's gradients down to a norm of `most` (None: leave them); the norm that they had.

    Raises NotFinite that names the first parameter whose gradient is not finite; not on a CUDA device.
    """
    named = {name: p for name, p in model.named_parameters() if p.grad is not None}
    if most is None:
        norm = number(get_total_norm([p.grad for p in named.values()]))
    else:
        norm = number(clip_grad_norm_(named.values(), most))
    if not on_device(norm) and not math.isfinite(norm):
        first = next((name for name, p in named.items() if not_finite(p.grad)), None)
        where = f": first that of {first}" if first else ", though each element is finite"
        raise NotFinite(f"the norm of the gradients became {norm}{where}")
    return norm


def not_finite(value: Any) -> bool:
    """Whether a tensor or an array, or one of several, has an element that is infinite or NaN."""
    values = value if isinstance(value, (tuple, list)) else [value]
    arrays = [v.detach().data if isinstance(v, Tensor) else v for v in values]
    return any(_has_infinity(a) for a in arrays if hasattr(a, "strides") and a.dtype.kind in "fc")


def _has_infinity(array: Any) -> bool:
    with working_on(array):
        return not bool(np.isfinite(array).all())


def first_not_finite(model: Any, batch: Any, run: Callable[[], Any]) -> str:
    """Where infinity or NaN begins: a sentence about the data, else the first parameter, else the first layer's output
    that has one.

    `run` is called once, without recording; random layers draw other numbers than they did.
    """
    if not_finite(batch):
        return "the batch itself is not finite: look at the data"
    for name, p in model.named_parameters():
        if not_finite(p):
            return f"the parameter {name} is not finite"
    names = {module: name or type(module).__name__ for name, module in model.named_modules()}
    found: list[str] = []

    def look(module: Any, args: Any, output: Any) -> None:
        if not found and not_finite(output):
            found.append(f"the output of {names[module]} ({type(module).__name__}) is the first that is not finite")

    hooks = [module.register_forward_hook(look) for module in names]
    try:
        with no_grad(), np.errstate(all="ignore"):
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "every layer's output is finite: look at the loss"
