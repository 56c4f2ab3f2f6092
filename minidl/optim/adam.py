"""Adam and its variant with decoupled weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from .optimizer import (
    Group,
    Optimizer,
    Params,
    Slot,
    at_least_zero,
    average,
    below_one,
    decayed,
    divided,
    like,
    numbers,
)  # fmt: skip


class _Adam(Optimizer):
    """Both; they differ in what weight_decay means."""

    decoupled: ClassVar[bool]
    always = ("step", "exp_avg", "exp_avg_sq")
    sometimes = ("max_exp_avg_sq",)

    def __init__(
        self, params: Params, lr: float, betas: tuple[float, float], eps: float, weight_decay: float, amsgrad: bool,
        maximize: bool,
    ):  # fmt: skip
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        super().check(group)
        at_least_zero(group, "eps")
        if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
            raise ValueError(f"betas is {group['betas']}; it must be two numbers")
        below_one(group, "betas")

    def update_all(self, slots: Sequence[Slot], group: Group) -> None:
        if group["amsgrad"]:
            super().update_all(slots, group)
            return
        kernels, taken, left = divided(slots, ("exp_avg", "exp_avg_sq"))
        super().update_all(left, group)
        if taken:
            decay, states = group["weight_decay"], [state for _, _, state in taken]

            def count() -> list[float]:
                return [self.shrink(group), *(n for state in states for n in self.corrections(state, group))]

            shrink, *own = numbers(taken[0][0], group, count)
            pairs = list(zip(own[::2], own[1::2], strict=True))
            tensors = [(p, g, like(p, state, "exp_avg"), like(p, state, "exp_avg_sq")) for p, g, state in taken]
            added = 0 if self.decoupled else decay
            kernels.adam(tensors, pairs, shrink=shrink, decay=added, betas=tuple(group["betas"]), eps=group["eps"])

    def shrink(self, group: Group) -> float:
        """What parameters are multiplied with first."""
        return 1 - group["lr"] * group["weight_decay"] if self.decoupled else 1

    def corrections(self, state: dict[str, Any], group: Group) -> tuple[float, float]:
        """Count a step. Both averages start from 0: what the root of the second is divided by, and the learning rate
        over the share of the first that is not 0."""
        beta1, beta2 = group["betas"]
        step = state["step"] = state.get("step", 0) + 1
        return math.sqrt(1 - beta2**step), group["lr"] / (1 - beta1**step)

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        decay = group["weight_decay"]
        beta1, beta2 = group["betas"]
        count = lambda: (self.shrink(group), *self.corrections(state, group))
        shrink, root, rate = numbers(p, group, count, cast=True)
        mean = like(p, state, "exp_avg")
        square = like(p, state, "exp_avg_sq")
        if not self.decoupled:
            g = decayed(g, p, decay)
        elif decay != 0:
            p *= shrink
        scratch = np.empty_like(p)
        average(mean, g, beta1, scratch)
        average(square, np.multiply(g, g, out=scratch), beta2, scratch)
        if group["amsgrad"]:
            largest = like(p, state, "max_exp_avg_sq")
            square = np.maximum(largest, square, out=largest)
        move = np.sqrt(square, out=scratch)
        move /= root
        move += group["eps"]
        np.divide(mean, move, out=move)
        move *= rate
        p -= move


class Adam(_Adam):
    """p -= lr · m / (sqrt(v) + eps), where m and v are running averages of the gradient and of its square, with
    weights betas, corrected for their start from 0. Kingma & Ba 2015, algorithm 1.

    weight_decay adds weight_decay · p to the gradient. amsgrad: v never falls (Reddi et al. 2018). maximize: uphill.
    """

    decoupled = False

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)


class AdamW(_Adam):
    """Adam in which weight_decay does not enter the averages: p shrinks by lr · weight_decay · p in every step.
    Loshchilov & Hutter 2019, algorithm 2."""

    decoupled = True

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)
