"""Schedules of the learning rate. Call `scheduler.step()` after each epoch (or each batch, if the schedule counts
those).

A schedule starts from the learning rates that the optimizer has when the schedule is made. Most of them change the
current rate by a factor, so that several schedules on one optimizer multiply. To resume, load the states of both the
optimizer, which holds the rates, and the schedule, which holds the count.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

from .optimizer import Optimizer


class LRScheduler:
    """The base of schedules that count their steps; abstract. One defines `next_lr`."""

    _unsaved: tuple[str, ...] = ("optimizer",)

    def __init__(self, optimizer: Optimizer):
        _check_optimizer(self, optimizer)
        self.optimizer = optimizer
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = 0
        self._set(self.rates())

    def current(self) -> list[float]:
        """The learning rates of the optimizer's groups as they are now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def _set(self, rates: Sequence[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = list(rates)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        """The rate of a group for epoch number `last_epoch`, from the one before (for epoch 0: from the one set)."""
        raise NotImplementedError(f"{type(self).__name__} defines no next_lr()")

    def rates(self) -> list[float]:
        """`next_lr` for all groups."""
        both = zip(self.current(), self.base_lrs, strict=True)
        return [self.next_lr(lr, base, i) for i, (lr, base) in enumerate(both)]

    def step(self) -> None:
        """Go to the next epoch."""
        self.last_epoch += 1
        self._set(self.rates())

    def restart(self) -> None:
        """Go back to epoch 0 and to the rates from which the schedule starts."""
        self.last_epoch = 0
        self._set(self.base_lrs)
        self._set(self.rates())

    def get_last_lr(self) -> list[float]:
        """The rates that this schedule has set last, one for each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer (and functions): numbers, lists and None."""
        return {name: value for name, value in vars(self).items() if name not in self._unsaved}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the rates themselves come with the optimizer's."""
        vars(self).update(state_dict)


def _check_optimizer(scheduler: Any, optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(scheduler).__name__} schedules an optimizer, not a {type(optimizer).__name__}")


class LambdaLR(LRScheduler):
    """The initial rate times lr_lambda(epoch); lr_lambda may be a list of functions, one for each group. Functions are
    not part of the state."""

    _unsaved = ("optimizer", "lr_lambdas")

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]]):
        _check_optimizer(self, optimizer)
        groups = len(optimizer.param_groups)
        self.lr_lambdas = list(lr_lambda) if isinstance(lr_lambda, Sequence) else [lr_lambda] * groups
        if len(self.lr_lambdas) != groups:
            raise ValueError(f"{type(self).__name__}: {len(self.lr_lambdas)} functions for {groups} groups")
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return base_lr * self.lr_lambdas[group](self.last_epoch)


class MultiplicativeLR(LambdaLR):
    """The rate of the epoch before times lr_lambda(epoch), from epoch 1 on."""

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return lr * self.lr_lambdas[group](self.last_epoch) if self.last_epoch else lr

    def restart(self) -> None:
        """Go back to epoch 0; the rates stay, since each only follows from the one before."""
        self.last_epoch = 0
        self._set(self.current())


class StepLR(LRScheduler):
    """The rate times gamma after every step_size epochs."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1):
        if step_size < 1:
            raise ValueError(f"StepLR: step_size is {step_size}; it must be at least 1")
        self.step_size = step_size
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return lr * self.gamma if self.last_epoch and self.last_epoch % self.step_size == 0 else lr


class MultiStepLR(LRScheduler):
    """The rate times gamma at each of the epochs in `milestones`, as often as it is listed."""

    def __init__(self, optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.1):
        self.milestones = sorted(milestones)
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return lr * self.gamma ** self.milestones.count(self.last_epoch)


class ConstantLR(LRScheduler):
    """The rate times `factor` until epoch total_iters, where this is undone."""

    def __init__(self, optimizer: Optimizer, factor: float = 1.0 / 3, total_iters: int = 5):
        if not 0 < factor <= 1:
            raise ValueError(f"ConstantLR: factor is {factor}; it must be above 0 and at most 1")
        self.factor = factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        if self.last_epoch == 0:
            return lr * self.factor
        return lr / self.factor if self.last_epoch == self.total_iters else lr


class LinearLR(LRScheduler):
    """The rate times a factor that goes from start_factor to end_factor in equal steps over total_iters epochs."""

    def __init__(
        self, optimizer: Optimizer, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5
    ):
        if not 0 < start_factor <= 1 or not 0 <= end_factor <= 1:
            raise ValueError(
                f"LinearLR: start_factor is {start_factor}, end_factor {end_factor}; they must be from 0 to 1, and "
                f"the first above 0"
            )
        self.start_factor = start_factor
        self.end_factor = end_factor
        self.total_iters = total_iters
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        if self.last_epoch == 0:
            return lr * self.start_factor
        if self.last_epoch > self.total_iters:
            return lr
        rise = self.end_factor - self.start_factor
        return lr * (1 + rise / (self.total_iters * self.start_factor + (self.last_epoch - 1) * rise))


class ExponentialLR(LRScheduler):
    """The rate times gamma after every epoch."""

    def __init__(self, optimizer: Optimizer, gamma: float):
        self.gamma = gamma
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return lr * self.gamma if self.last_epoch else lr


class CosineAnnealingLR(LRScheduler):
    """eta_min + (initial - eta_min) (1 + cos(pi epoch / T_max)) / 2: down to eta_min in T_max epochs (and up again
    afterwards). Loshchilov & Hutter 2017, equation 5, without restarts."""

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0):
        if T_max < 1:
            raise ValueError(f"CosineAnnealingLR: T_max is {T_max}; it must be at least 1")
        self.T_max = T_max
        self.eta_min = eta_min
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        if self.last_epoch == 0:
            return lr
        height = lambda epoch: 1 + math.cos(math.pi * epoch / self.T_max)
        if (self.last_epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # from the bottom, where there is no ratio
            return lr + (base_lr - self.eta_min) * height(self.last_epoch) / 2
        return (lr - self.eta_min) * height(self.last_epoch) / height(self.last_epoch - 1) + self.eta_min


class CosineAnnealingWarmRestarts(LRScheduler):
    """eta_min + (initial - eta_min) (1 + cos(pi T_cur / T_i)) / 2, where T_cur counts the epochs since the last
    restart; the first period T_i has T_0 epochs, each later one T_mult times as many. Loshchilov & Hutter 2017,
    equation 5."""

    def __init__(self, optimizer: Optimizer, T_0: int, T_mult: int = 1, eta_min: float = 0.0):
        if T_0 < 1 or T_mult < 1 or T_0 % 1 or T_mult % 1:
            raise ValueError(
                f"CosineAnnealingWarmRestarts: T_0 is {T_0}, T_mult {T_mult}; both must be whole and positive"
            )
        self.T_0 = self.T_i = T_0
        self.T_mult = T_mult
        self.T_cur: float = 0
        self.eta_min = eta_min
        super().__init__(optimizer)

    def next_lr(self, lr: float, base_lr: float, group: int) -> float:
        return self.eta_min + (base_lr - self.eta_min) * (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch, or to a given one, which may be fractional: epoch + batch / batches."""
        if epoch is not None and epoch < 0:
            raise ValueError(f"CosineAnnealingWarmRestarts: epoch is {epoch}; it must not be negative")
        if epoch is None:
            self.last_epoch += 1
            self.T_cur += 1
        else:
            self.last_epoch = math.floor(epoch)
            self.T_cur, self.T_i = epoch, self.T_0
        while self.T_cur >= self.T_i:
            self.T_cur -= self.T_i
            self.T_i *= self.T_mult
        self._set(self.rates())

    def restart(self) -> None:
        """Go back to epoch 0."""
        self.step(0)


class SequentialLR(LRScheduler):
    """One schedule after the other: the next one begins, at its epoch 0, at each of the epochs in `milestones`."""

    _unsaved = ("optimizer", "_schedulers")

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[LRScheduler], milestones: Sequence[int]):
        _check_optimizer(self, optimizer)
        if not schedulers or len(milestones) != len(schedulers) - 1:
            raise ValueError(
                f"SequentialLR: {len(schedulers)} schedules need {max(len(schedulers) - 1, 0)} milestones, not "
                f"{len(milestones)}"
            )
        if list(milestones) != sorted(set(milestones)) or any(m < 1 for m in milestones):
            raise ValueError(f"SequentialLR: milestones is {list(milestones)}; they must be positive and rising")
        for i, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, LRScheduler):
                raise TypeError(
                    f"SequentialLR: schedulers[{i}] is a {type(scheduler).__name__}, which counts no epochs"
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(f"SequentialLR: schedulers[{i}] belongs to another optimizer")
        self.optimizer = optimizer
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self._schedulers = list(schedulers)
        self._milestones = list(milestones)
        self.restart()

    def restart(self) -> None:
        """Go back to epoch 0 of the first schedule."""
        self.last_epoch = 0
        self._set(self.base_lrs)
        self._schedulers[0].restart()
        self._last_lr = self._schedulers[0].get_last_lr()

    def step(self) -> None:
        """Go to the next epoch, of the present schedule or of the next one."""
        self.last_epoch += 1
        scheduler = self._schedulers[bisect_right(self._milestones, self.last_epoch)]
        if self.last_epoch in self._milestones:
            scheduler.restart()
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        """The state with those of all schedules."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the rates themselves come with the optimizer's."""
        own = dict(state_dict)
        for scheduler, state in zip(self._schedulers, own.pop("_schedulers"), strict=True):
            scheduler.load_state_dict(state)
        super().load_state_dict(own)


class ReduceLROnPlateau:
    """The rate times `factor` when a measured value has not become better for more than `patience` epochs.

    mode: "min" if smaller values are better, "max" if larger ones. Better means by more than `threshold`: as a share
    of the best value so far (threshold_mode="rel") or absolutely ("abs"). After a reduction `cooldown` epochs do not
    count. The rate does not fall below min_lr (a number, or one for each group), and changes smaller than eps are not
    made.
    """

    def __init__(
        self, optimizer: Optimizer, mode: str = "min", factor: float = 0.1, patience: int = 10, threshold: float = 1e-4,
        threshold_mode: str = "rel", cooldown: int = 0, min_lr: float | Sequence[float] = 0, eps: float = 1e-8,
    ):  # fmt: skip
        _check_optimizer(self, optimizer)
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise ValueError(
                f'ReduceLROnPlateau: mode is {mode!r}, threshold_mode {threshold_mode!r}; they must be "min" or "max", '
                f'and "rel" or "abs"'
            )
        if not factor < 1:
            raise ValueError(f"ReduceLROnPlateau: factor is {factor}; it must be below 1")
        groups = len(optimizer.param_groups)
        self.min_lrs = list(min_lr) if isinstance(min_lr, Sequence) else [min_lr] * groups
        if len(self.min_lrs) != groups:
            raise ValueError(f"ReduceLROnPlateau: {len(self.min_lrs)} values of min_lr for {groups} groups")
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0
        self._last_lr = [group["lr"] for group in optimizer.param_groups]

    def step(self, metrics: Any) -> None:
        """Take note of an epoch's value, a number or a tensor of one element."""
        value = float(metrics)
        self.last_epoch += 1
        if self._is_better(value):
            self.best = value
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            for group, least in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                lr = max(group["lr"] * self.factor, least)
                if group["lr"] - lr > self.eps:
                    group["lr"] = lr
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "min" else -1
        margin = self.threshold
        if self.threshold_mode == "rel":
            return sign * value < sign * self.best * (1 - sign * margin)
        return sign * value < sign * self.best - margin

    def get_last_lr(self) -> list[float]:
        """The rates after the last step, one for each group."""
        return self._last_lr

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer: numbers, words and lists."""
        return {name: value for name, value in vars(self).items() if name != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state; the rates themselves come with the optimizer's."""
        vars(self).update(state_dict)
