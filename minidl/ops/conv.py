"""The convolution family.

<conv(x, w), y> is linear in x, in w and in y. Each of the three primitives computes one slot from the other two, so
each one's rules are the other two, and gradients of gradients never leave the family. One frozen ConvGeometry carries
all sizes. `conv_input` is the transposed convolution.

`conv_bias` and `conv_relu` are what layers call: a convolution, or if `transposed` its adjoint, with the bias, and then
ReLU, applied where the results are still in cache. The first is linear in each argument; the second is fused, for one
pass over the gradient masks it and sums up the bias's.
"""

from __future__ import annotations

from typing import Any

from ..core.backward import Fused
from ..core.primitive import Primitive
from .elementwise import relu
from .reduction import sum
from .shape import reshape

conv = Primitive(
    "conv(x, w) -> y",
    lambda gy, w, **at: conv_input(gy, w, **at),
    lambda gy, x, **at: conv_weight(x, gy, **at),
)
conv_input = Primitive(
    "conv_input(y, w) -> x",
    lambda gx, w, **at: conv(gx, w, **at),
    lambda gx, y, **at: conv_weight(gx, y, **at),
)
conv_weight = Primitive(
    "conv_weight(x, y) -> w",
    lambda gw, y, **at: conv_input(y, gw, **at),
    lambda gw, x, **at: conv(x, gw, **at),
)


def _forward(x: Any, w: Any, transposed: bool, geometry: Any) -> Any:
    return (conv_input if transposed else conv)(x, w, geometry=geometry)


def _weight(x: Any, g: Any, transposed: bool, geometry: Any) -> Any:
    return conv_weight(*((g, x) if transposed else (x, g)), geometry=geometry)


conv_bias = Primitive(
    "conv_bias(x, w, b) -> y",
    lambda g, w, *, geometry, transposed: _forward(g, w, not transposed, geometry),
    lambda g, x, *, geometry, transposed: _weight(x, g, transposed, geometry),
    lambda g, **at: sum(g, axis=(0, *range(2, g.ndim)), keepdims=False),
)


def _plain_conv_relu(x: Any, w: Any, b: Any, *, geometry: Any, transposed: bool) -> Any:
    y = _forward(x, w, transposed, geometry)
    return relu(y if b is None else y + reshape(b, shape=(1, -1, *(1,) * geometry.rank)))


def _conv_relu_backward(
    g: Any, x: Any, w: Any, y: Any, *, needs: list[bool], geometry: Any, transposed: bool
) -> list[Any]:
    g, gb = conv_relu_slope(g, y)
    return [
        _forward(g, w, not transposed, geometry) if needs[0] else None,
        _weight(x, g, transposed, geometry) if needs[1] else None,
        gb if needs[2] else None,
    ]


conv_relu_slope = Primitive("conv_relu_slope(g, y) -> gz, gb", None, None)
conv_relu = Fused(
    "conv_relu(x, w, b) -> y",
    plain=_plain_conv_relu,
    backward=_conv_relu_backward,
)
