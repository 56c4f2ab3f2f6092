"""RMSprop."""

from __future__ import annotations

from typing import Any

import numpy as np

from .optimizer import Group, Optimizer, Params, at_least_zero, average, decayed, like, numbers


class RMSprop(Optimizer):
    """p -= lr · g / (sqrt(v) + eps), where v is a running average, with weight alpha, of the squared gradient.
    Hinton 2012, lecture 6.

    centered: v minus the squared average of the gradient, an estimate of its variance (Graves 2013). momentum: p moves
    by a velocity b = momentum · b + g / (sqrt(v) + eps). weight_decay adds weight_decay · p to g. maximize: uphill.
    """

    always = ("step", "square_avg")
    sometimes = ("grad_avg", "momentum_buffer")

    def __init__(
        self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "centered": centered,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        super().check(group)
        at_least_zero(group, "alpha", "eps", "momentum")

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        def count() -> tuple[float]:
            state["step"] = state.get("step", 0) + 1
            return (group["lr"],)

        (rate,) = numbers(p, group, count, cast=True)
        g = decayed(g, p, group["weight_decay"])
        scratch = np.empty_like(p)
        square = like(p, state, "square_avg")
        average(square, np.multiply(g, g, out=scratch), group["alpha"], scratch)
        if group["centered"]:
            mean = like(p, state, "grad_avg")
            average(mean, g, group["alpha"], scratch)
            np.multiply(mean, mean, out=scratch)
            square = np.subtract(square, scratch, out=scratch)
        move = np.sqrt(square, out=scratch)
        move += group["eps"]
        np.divide(g, move, out=move)
        if group["momentum"] > 0:
            velocity = like(p, state, "momentum_buffer")
            velocity *= group["momentum"]
            velocity += move
            np.multiply(velocity, rate, out=move)
        else:
            move *= rate
        p -= move
