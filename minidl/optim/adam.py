"""Adam and its variant with decoupled weight decay."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from .optimizer import Group, Optimizer, Params, at_least_zero, average, below_one, decayed, like, steps_for


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

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        lr, decay = group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        step = state["step"] = state.get("step", 0) + 1
        mean = like(p, state, "exp_avg")
        square = like(p, state, "exp_avg_sq")
        root, rate = math.sqrt(1 - beta2**step), lr / (1 - beta1**step)
        kernels = steps_for(p)
        if not group["amsgrad"] and kernels.covers(p, g, mean, square):
            shrink, added = (1 - lr * decay, 0) if self.decoupled else (1, decay)
            kernels.adam(
                p, g, mean, square, shrink=shrink, decay=added, betas=(beta1, beta2), eps=group["eps"], root=root,
                rate=rate,
            )  # fmt: skip
            return
        if not self.decoupled:
            g = decayed(g, p, decay)
        elif decay != 0:
            p *= 1 - lr * decay
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
