"""The primitives and their gradient rules, one page per family. Importing this gives tensors their operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..core.tensor import Tensor
from . import conv, device, elementwise, indexing, linalg, norm, pool, reduction, sampling, shape
from .elementwise import (
    Binary,
    Unary,
    abs,
    add,
    bitwise_and,
    bitwise_or,
    bitwise_xor,
    div,
    eq,
    floor_divide,
    ge,
    gt,
    invert,
    le,
    lt,
    mul,
    ne,
    neg,
    pow,
    remainder,
    sub,
)


def _install_operators() -> None:
    def forward(op: Any) -> Callable:
        return op.apply if isinstance(op, Binary) else lambda a, b: op(a, b)

    def reflected(op: Callable) -> Callable:
        return lambda a, b: op(b, a)

    def comparison(op: Callable) -> Callable:
        # anything else is simply not equal to a tensor: Python then compares identities
        kinds = (Tensor, np.ndarray, np.generic, int, float)
        return lambda a, b: op(a, b) if isinstance(b, kinds) or hasattr(b, "strides") else NotImplemented

    two_sided: dict[str, Any] = {
        "add": add, "sub": sub, "mul": mul, "truediv": div, "pow": pow, "floordiv": floor_divide, "mod": remainder,
        "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor,
    }  # fmt: skip
    for name, op in two_sided.items():
        setattr(Tensor, f"__{name}__", forward(op))
        setattr(Tensor, f"__r{name}__", reflected(op))
    for name, op in {"lt": lt, "le": le, "gt": gt, "ge": ge}.items():
        setattr(Tensor, f"__{name}__", forward(op))
    for name, op in {"eq": eq, "ne": ne}.items():
        setattr(Tensor, f"__{name}__", comparison(op))
    for name, unary in {"neg": neg, "abs": abs, "invert": invert}.items():
        setattr(Tensor, f"__{name}__", unary.apply if isinstance(unary, Unary) else lambda a: invert(a))
    setattr(Tensor, "__pos__", lambda a: a)  # noqa: B010


_install_operators()
