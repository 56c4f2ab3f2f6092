"""The convolution family.

<conv(x, w), y> is linear in x, in w and in y. Each of the three primitives computes one slot from the other two, so
each one's rules are the other two, and gradients of gradients never leave the family. One frozen ConvGeometry carries
all sizes. `conv_input` is the transposed convolution.
"""

from __future__ import annotations

from ..core.primitive import Primitive

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
