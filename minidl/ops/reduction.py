"""Reductions. `axis` is a sorted tuple of axes counted from the front (an int for argmax, cumsum and softmax).

`sum` and `spread` are an adjoint pair: one adds along axes, the other repeats along them.
"""

from __future__ import annotations

from typing import Any

from ..core.primitive import Primitive
from .elementwise import exp
from .shape import flip

sum = Primitive("sum(x) -> y", lambda g, _x, **at: spread(g, shape=_x.shape, **at))
spread = Primitive("spread(y) -> x", lambda g, *, shape, **at: sum(g, **at))

amax = Primitive("amax(x) -> y", lambda g, x, y, **at: spread(g, shape=x.shape, **at) * extreme_share(x, y, **at))
amin = Primitive("amin(x) -> y", lambda g, x, y, **at: spread(g, shape=x.shape, **at) * extreme_share(x, y, **at))
extreme_share = Primitive("extreme_share(x, y) -> s", None, None)  # ties share the gradient equally
argmax = Primitive("argmax(x) -> i", None)
argmin = Primitive("argmin(x) -> i", None)
any = Primitive("any(x) -> y", None)
all = Primitive("all(x) -> y", None)


def _reverse_cumsum(g: Any, axis: int) -> Any:
    return flip(cumsum(flip(g, axis=(axis,)), axis=axis), axis=(axis,))


cumsum = Primitive("cumsum(x) -> y", lambda g, *, axis: _reverse_cumsum(g, axis))

logsumexp = Primitive(
    "logsumexp(x) -> y",
    lambda g, x, y, **at: spread(g, shape=x.shape, **at) * exp(x - spread(y, shape=x.shape, **at)),
)


def _total(x: Any, axis: int) -> Any:
    return sum(x, axis=(axis,), keepdims=True)


softmax = Primitive("softmax(x) -> y", lambda g, y, *, axis: softmax_gradient(g, y, axis=axis))
softmax_gradient = Primitive(  # y * (g - total(g * y))
    "softmax_gradient(g, y) -> gx",
    lambda gg, y, *, axis: softmax_gradient(gg, y, axis=axis),
    lambda gg, g, y, *, axis: gg * (g - _total(g * y, axis)) - g * _total(gg * y, axis),
)
log_softmax = Primitive("log_softmax(x) -> y", lambda g, y, *, axis: log_softmax_gradient(g, y, axis=axis))
log_softmax_gradient = Primitive(  # g - exp(y) * total(g)
    "log_softmax_gradient(g, y) -> gx",
    lambda gg, y, *, axis: gg - _total(gg * exp(y), axis),
    lambda gg, g, y, *, axis: -gg * exp(y) * _total(g, axis),
)
