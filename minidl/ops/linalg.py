"""Products of matrices. Each is bilinear: a rule computes one slot from the other two."""

from __future__ import annotations

from typing import Any

from ..core.backward import Fused
from ..core.graph import Node
from ..core.primitive import Primitive
from .elementwise import relu, sigmoid, sum_to, tanh
from .reduction import sum
from .shape import transpose


def _swap(x: Any) -> Any:
    """The transposed matrices of a stack."""
    return transpose(x, axes=(*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))


class _Matmul(Primitive):
    """Stacks of matrices broadcast; their gradients are summed back."""

    def fit(self, g: Any, parent: Node) -> Any:
        return sum_to(g, shape=parent.shape) if g.dtype == parent.dtype else super().fit(g, parent)


# (..., n, k) @ (..., k, m) -> (..., n, m)
matmul = _Matmul("matmul(a, b) -> y", lambda g, b: matmul(g, _swap(b)), lambda g, a: matmul(_swap(a), g))

# x (..., in), w (out, in), b (out,) or None -> (..., out)
linear = Primitive(
    "linear(x, w, b) -> y",
    lambda g, w: linear(g, _swap(w), None),
    lambda g, x: linear_weight(g, x),
    lambda g: sum(g, axis=tuple(range(g.ndim - 1)), keepdims=False),
)


def _plain_activated(x: Any, w: Any, b: Any, *, activation: str) -> Any:
    return _ACTIVATIONS[activation](linear(x, w, b))


def _activated_backward(g: Any, x: Any, w: Any, y: Any, *, needs: list[bool], activation: str) -> list[Any]:
    g, gb = linear_activated_slope(g, y, activation=activation)
    return [
        linear(g, _swap(w), None) if needs[0] else None,
        linear_weight(g, x) if needs[1] else None,
        gb if needs[2] else None,
    ]


_ACTIVATIONS = {"relu": relu, "tanh": tanh, "sigmoid": sigmoid}
# the activation applied where the results of `linear` are still in cache; one pass over the gradient multiplies it with
# the derivative and sums up the bias's
linear_activated_slope = Primitive("linear_activated_slope(g, y) -> gz, gb", None, None)
linear_activated = Fused("linear_activated(x, w, b) -> y", plain=_plain_activated, backward=_activated_backward)
linear_weight = Primitive(
    "linear_weight(y, x) -> w",
    lambda g, x: linear(x, g, None),
    lambda g, y: linear(y, _swap(g), None),
)

# subscripts (a, b, y): an einsum in which every index occurs in two of the three places, or in all
contract = Primitive(
    "contract(a, b) -> y",
    lambda g, b, *, subscripts: contract(g, b, subscripts=(subscripts[2], subscripts[1], subscripts[0])),
    lambda g, a, *, subscripts: contract(g, a, subscripts=(subscripts[2], subscripts[0], subscripts[1])),
)
