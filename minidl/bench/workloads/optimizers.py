"""Steps of optimizers on one large parameter. PyTorch has several implementations of each: its default, and a fused
one, which is its fastest. minidl has one."""

from __future__ import annotations

from typing import Any

from ..case import Case, Work
from .common import ADAM_TRAFFIC, SGD_TRAFFIC, library, random


def cases(name: str, parameters: int = 10_000_000) -> dict[str, Case]:
    """parameters: how many."""
    lib = library(name)

    def prepare(kind: str, fused: bool, traffic: int, options: dict[str, Any]) -> Work:
        p = lib.tensor(random(parameters), requires_grad=True)
        p.grad = lib.tensor(random(parameters, seed=1))
        if name != "minidl" and fused:
            options = options | {"fused": True}
        optimizer = getattr(lib.optim, kind)([p], lr=1e-3, **options)

        def step() -> Any:
            optimizer.step()
            return p

        return Work(step, bytes=4.0 * traffic * parameters)

    out = {}
    for kind, traffic, options in (("Adam", ADAM_TRAFFIC, {}), ("SGD", SGD_TRAFFIC, {"momentum": 0.9})):
        for fused in (False, True):
            label = f"{kind}{', momentum' if options else ''}, PyTorch's {'fused' if fused else 'default'}"
            out[label] = Case(lambda k=kind, f=fused, t=traffic, o=options: prepare(k, f, t, o))  # type: ignore[misc]
    return out
