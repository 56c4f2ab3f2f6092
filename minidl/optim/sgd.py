"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .optimizer import Group, Optimizer, Params, Slot, at_least_zero, decayed, divided, like, numbers


class SGD(Optimizer):
    """p -= lr · v, where v = momentum · v + (1 - dampening) · g, and g is the gradient plus weight_decay · p.

    Without momentum v = g; the first v is g, whatever the dampening. nesterov (Sutskever et al. 2013): p moves by
    g + momentum · v instead; it needs momentum and no dampening. maximize: uphill.
    """

    sometimes = ("momentum_buffer",)

    def __init__(
        self, params: Params, lr: float = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
        nesterov: bool = False, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check(self, group: Group) -> None:
        super().check(group)
        at_least_zero(group, "momentum")
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError(
                f"nesterov needs momentum and no dampening; momentum is {group['momentum']}, "
                f"dampening {group['dampening']}"
            )

    def update_all(self, slots: Sequence[Slot], group: Group) -> None:
        momentum = group["momentum"]
        kernels, taken, left = divided(slots, ("momentum_buffer" if momentum else None,))
        super().update_all(left, group)
        if taken:
            # the first velocity is g, whatever the dampening
            later = 1 - group["dampening"]
            keep = [(later if "momentum_buffer" in state else 1,) for _, _, state in taken]
            tensors = [(p, g, like(p, state, "momentum_buffer") if momentum else None) for p, g, state in taken]
            (rate,) = numbers(taken[0][0], group, lambda: (group["lr"],))
            kernels.sgd(
                tensors, keep, decay=group["weight_decay"], momentum=momentum, nesterov=group["nesterov"], rate=rate
            )

    def update(self, p: Any, g: Any, state: dict[str, Any], group: Group) -> None:
        momentum, velocity = group["momentum"], state.get("momentum_buffer")
        g = decayed(g, p, group["weight_decay"])
        scratch = np.empty_like(p)
        if momentum != 0:
            if velocity is None:
                velocity = state["momentum_buffer"] = np.empty_like(p)
                velocity[...] = g
            else:
                velocity *= momentum
                velocity += np.multiply(g, 1 - group["dampening"], out=scratch) if group["dampening"] else g
            if group["nesterov"]:
                g = np.add(np.multiply(velocity, momentum, out=scratch), g, out=scratch)
            else:
                g = velocity
        (rate,) = numbers(p, group, lambda: (group["lr"],), cast=True)
        p -= np.multiply(g, rate, out=scratch)
