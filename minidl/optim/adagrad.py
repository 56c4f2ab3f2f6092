"""Adagrad."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optimizer import Group, Optimizer, Params, at_least_zero, decayed, like, numbers


class Adagrad(Optimizer):
    """p -= lr / (1 + (step - 1) · lr_decay) · g / (sqrt(s) + eps), where s is the sum of all squared gradients and
    initial_accumulator_value. weight_decay adds weight_decay · p to g. maximize: uphill. Duchi et al. 2011."""

    always = ("step", "sum")
    sometimes = ()

    def __init__(
        self, params: Params, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        super().check(group)
        at_least_zero(group, "lr_decay", "initial_accumulator_value", "eps")

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        def count() -> tuple[float]:
            step = state["step"] = state.get("step", 0) + 1
            return (group["lr"] / (1 + (step - 1) * group["lr_decay"]),)

        (rate,) = numbers(p, group, count, cast=True)
        g = decayed(g, p, group["weight_decay"])
        total = like(p, state, "sum", group["initial_accumulator_value"])
        scratch = np.multiply(g, g, out=np.empty_like(p))
        total += scratch
        move = np.sqrt(total, out=scratch)
        move += group["eps"]
        np.divide(g, move, out=move)
        move *= rate
        p -= move
