"""Elementwise primitives: NumPy's broadcasting, PyTorch's promotion.

Operands of different types are cast first, by an operation of the graph; a gradient that comes out in the broadcast
shape is summed back here. So no rule below has to think of either.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import CO_VARKEYWORDS
from math import pi
from math import sqrt as _sqrt
from typing import Any

from numpy import broadcast_shapes, ndarray

from ..core.dtypes import DEFAULT, result_type
from ..core.graph import Node
from ..core.mode import MODE, NORMAL
from ..core.primitive import Primitive, Rule
from ..core.tensor import Tensor, as_array, recorded
from ..kernels.arrays import LARGE, in_memory_order, is_floating

_NONE: dict = {}  # shared by all nodes without metadata
_NOTHING = (None, None)  # and by those that save nothing
_DENSITY = 1 / _sqrt(2 * pi)  # of the standard normal distribution at 0


class Elementwise(Primitive):
    """A primitive whose arguments broadcast against each other.

    floating: integers are computed with as float32. promoted: the inputs whose types combine (default: all).
    """

    def __init__(
        self,
        signature: str,
        *rules: Callable | None,
        floating: bool = False,
        promoted: tuple[int, ...] | None = None,
        kernel: Callable | None = None,
    ):
        super().__init__(signature, *rules, kernel=kernel)
        self.rules = [r if r is None or not r.slots else r._replace(call=_in_pieces(r.call)) for r in self.rules]
        self.floating = floating
        self.promoted = tuple(range(self.inputs)) if promoted is None else promoted

    def __call__(self, *args: Any, **params: Any) -> Any:
        try:
            for x in args:
                if isinstance(x, Tensor):
                    return super().__call__(*self.promote(args), **params)
            return super().__call__(*args, **params)
        except (TypeError, ValueError) as error:
            self.explain(error, args)
            raise

    def explain(self, error: Exception, args: tuple) -> None:
        """Say it in plain words if an argument is no array or number, or if the shapes do not broadcast."""
        given = list(zip(self.slots, args, strict=False))
        for name, x in given:
            if not hasattr(x, "dtype") and not isinstance(x, (bool, int, float)):
                error.args = (f"{self.name}: {name} must be a tensor, an array or a number, not {type(x).__name__}",)
                return
        if not isinstance(error, ValueError):
            return
        shapes = [(name, tuple(x.shape)) for name, x in given if hasattr(x, "shape")]
        try:
            broadcast_shapes(*(shape for _, shape in shapes))
        except ValueError:
            (first, shape), *others = shapes
            error.args = (
                f"{self.name}: {first} has shape {shape}, {', '.join(f'{name} {other}' for name, other in others)}: "
                f"on each axis counted from the end they must be equal or 1",
            )

    def promote(self, args: tuple) -> list:
        """The arguments with those of `promoted` cast to their common type."""
        try:
            dtype = result_type(*[args[i] for i in self.promoted])
        except TypeError as error:
            raise TypeError(f"{self.name}: {error}") from None
        if self.floating and not is_floating(dtype):
            dtype = DEFAULT
        out = list(args)
        for i in self.promoted:
            x = args[i]
            if getattr(x, "dtype", dtype) != dtype:
                out[i] = astype(x, dtype=dtype) if isinstance(x, Tensor) else x.astype(dtype)
        return out

    def fit(self, g: Any, parent: Node) -> Any:
        if g.shape != parent.shape:
            g = sum_to(g, shape=parent.shape)
        return g if g.dtype == parent.dtype else astype(g, dtype=parent.dtype)


def _one_kernel(rule: Callable) -> Callable:
    """Marks a rule as a call of one kernel, which divides large arrays itself."""
    rule.divides = True  # type: ignore[attr-defined]
    return rule


def _by_loop(loop: str, rule: Callable) -> Callable:
    """Names the loop of kernels/cpu/elementwise_loops.py that does what a rule does."""
    rule.loop = loop  # type: ignore[attr-defined]
    return rule


def _in_pieces(rule: Callable) -> Callable:
    """The rule, treated as a kernel is: large arrays on the CPU are divided among the cores, results on CUDA
    devices lie in memory as their arguments do."""
    if hasattr(rule, "divides"):
        return rule
    code: Any = getattr(rule, "__code__", None)
    loop = getattr(rule, "loop", None)
    if code is None or code.co_kwonlyargcount or code.co_flags & CO_VARKEYWORDS:
        return lambda g, *saved, **params: _divided(rule, g, saved, params, loop)
    lying = in_memory_order(rule)
    if code.co_argcount == 2:  # usual, and quicker without a star

        def one(g: Any, a: Any) -> Any:
            if type(g) is ndarray:
                return rule(g, a) if g.size < LARGE else _divided(rule, g, (a,), _NONE, loop)
            return rule(g, a) if isinstance(g, Tensor) else lying(g, a)

        return one

    def several(g: Any, *saved: Any) -> Any:
        if type(g) is ndarray:
            return rule(g, *saved) if g.size < LARGE else _divided(rule, g, saved, _NONE, loop)
        return rule(g, *saved) if isinstance(g, Tensor) else lying(g, *saved)

    return several


def _divided(rule: Callable, g: Any, saved: tuple, params: dict, loop: str | None) -> Any:
    if type(g) is not ndarray or g.size < LARGE:
        return rule(g, *saved, **params)
    from ..kernels.cpu.pieces import elementwise

    return elementwise(rule, (g, *saved), params, loop)


def _keeper(rule: Rule | None) -> Any:
    """What the short ways do for a rule: save the slot of this number, call this function, or (None) save nothing."""
    if rule is None or rule.pick is None:
        return None
    return rule.slots[0] if len(rule.slots) == 1 and rule.slots[0] >= 0 else rule.pick


class Unary(Elementwise):
    """One argument. The usual case goes a short way, `apply`; everything else the general one."""

    def __init__(self, signature: str, rule: Callable, floating: bool = False):
        super().__init__(signature, rule, floating=floating)
        self.apply = _short_unary(self)

    def __call__(self, x: Any) -> Any:
        return self.apply(x)


class Binary(Elementwise):
    """Two arguments. Those of one type, or a tensor and a number, go a short way, `apply`; the rest the general one."""

    def __init__(self, signature: str, left: Callable, right: Callable, floating: bool = False):
        super().__init__(signature, left, right, floating=floating)
        self.apply = _short_binary(self)

    def __call__(self, x: Any, y: Any) -> Any:
        return self.apply(x, y)


def _whole(primitive: Primitive, kind: type) -> Callable:
    """The kernel for small arrays, which it does not divide."""
    kernel = primitive.kernel(None, kind)
    return getattr(kernel, "whole", kernel)


# The short ways are closures: on small arrays looking things up on `self` would cost a tenth of the whole operation.
def _short_unary(primitive: Unary) -> Callable:
    small: dict[type, Callable] = {}  # the same kernels without a look at the size
    keep = _keeper(primitive.rules[0])
    general = Elementwise.__call__

    def apply(x: Any) -> Any:
        if not isinstance(x, Tensor):
            try:
                return Primitive.__call__(primitive, x)
            except TypeError as error:
                primitive.explain(error, (x,))
                raise
        parent = x.node
        if parent is None or MODE.get() is not NORMAL:
            return general(primitive, x)
        a = x._data
        if a.size >= LARGE:
            return general(primitive, x)
        try:
            out = small[type(a)](a)
        except Exception:
            result = general(primitive, x)  # the first call, or an error to be explained
            small[type(a)] = _whole(primitive, type(a))
            return result
        if type(out) is not ndarray:
            out = as_array(out)
        saved = None if keep is None else (a, out)[keep] if type(keep) is int else keep((a, out))
        return recorded(primitive, _NONE, (parent,), (saved,), out)

    return apply


def _short_binary(primitive: Binary) -> Callable:
    small: dict[type, Callable] = {}
    left, right = (_keeper(rule) for rule in primitive.rules)
    keeps = left is not None or right is not None
    whole = type(left) is int and type(right) is int  # both rules name one array
    general = Elementwise.__call__

    def apply(x: Any, y: Any) -> Any:
        a, b, p, q = x, y, None, None
        if isinstance(x, Tensor):
            p = x.node
            a = x._data
        if isinstance(y, Tensor):
            q = y.node
            b = y._data
        if p is q is None or MODE.get() is not NORMAL:
            return general(primitive, x, y)
        kind = type(a)
        other = type(b)
        if kind is other:
            if (a is not b and a.dtype is not b.dtype) or a.size >= LARGE:
                return general(primitive, x, y)
        elif other is float or other is int:
            # a tensor that requires gradients is floating, and a number next to it is weak; beside bfloat16 the array
            # library does not know that
            if a.size >= LARGE or a.itemsize == 2:
                return general(primitive, x, y)
        elif (kind is float or kind is int) and b.size < LARGE and b.itemsize != 2:
            kind = other
        else:
            return general(primitive, x, y)
        try:
            out = small[kind](a, b)
        except Exception:
            result = general(primitive, x, y)  # the first call, or an error to be explained
            small[kind] = _whole(primitive, kind)
            return result
        if type(out) is not ndarray:
            out = as_array(out)
        saved: tuple = _NOTHING
        if keeps:
            values = (a, b, out)
            if whole:
                saved = (None if p is None else values[left], None if q is None else values[right])
            else:
                first = second = None
                if left is not None and p is not None:
                    first = values[left] if type(left) is int else left(values)
                if right is not None and q is not None:
                    second = values[right] if type(right) is int else right(values)
                saved = (first, second)
        return recorded(primitive, _NONE, (p, q), saved, out)

    return apply


# ---- types and copies
astype = Primitive("astype(x) -> y", lambda g, _x, *, dtype: astype(g, dtype=_x.dtype))
copy = Primitive("copy(x) -> y", lambda g: g)

# ---- broadcasting, an adjoint pair
sum_to = Primitive("sum_to(x) -> y", lambda g, _x, *, shape: broadcast_to(g, shape=_x.shape))
broadcast_to = Primitive("broadcast_to(x) -> y", lambda g, _x, *, shape: sum_to(g, shape=_x.shape))

# ---- arithmetic
add = Binary("add(a, b) -> y", lambda g: g, lambda g: g)
sub = Binary("sub(a, b) -> y", lambda g: g, lambda g: -g)
mul = Binary("mul(a, b) -> y", lambda g, b: g * b, lambda g, a: g * a)
div = Binary("div(a, b) -> y", lambda g, b: g / b, lambda g, y, b: -g * y / b, floating=True)
neg = Unary("neg(x) -> y", lambda g: -g)
square = Unary("square(x) -> y", lambda g, x: g * (2 * x))
floor_divide = Elementwise("floor_divide(a, b) -> y", None, None)
remainder = Binary("remainder(a, b) -> y", lambda g: g, lambda g, a, b: -g * floor_divide(a, b))


def _one_less(b: Any) -> Any:
    """The exponent of the derivative of a ** b. Where b is 0 the derivative is 0 anyway: 1 keeps 0 ** -1 away."""
    if not hasattr(b, "dtype"):
        return b - 1 if b else 1
    return where(b == 0, 1.0, b - 1)


def _log_base(a: Any, b: Any) -> Any:
    """What the derivative by b takes the logarithm of. 0 ** b does not change where b >= 0: there, of 1."""
    if hasattr(a, "dtype") or a == 0:
        return where((a == 0) & (b >= 0), 1.0, a)
    return a


pow = Binary(
    "pow(a, b) -> y",
    lambda g, a, b: g * (b * pow(a, _one_less(b))),
    lambda g, a, b, y: log_gradient(g * y, _log_base(a, b)),
)
log_gradient = Elementwise(  # g * log(a), 0 where g is 0
    "log_gradient(g, a) -> y",
    lambda gy, a: log_gradient(gy, a),
    lambda gy, g, a: gy * g / where(g == 0, 1.0, a),
)
maximum = Binary(
    "maximum(a, b) -> y",
    _one_kernel(lambda g, a, b: larger_part(g, a, b)),
    _one_kernel(lambda g, a, b: larger_part(g, b, a)),
)
minimum = Binary(
    "minimum(a, b) -> y",
    _one_kernel(lambda g, a, b: larger_part(g, b, a)),
    _one_kernel(lambda g, a, b: larger_part(g, a, b)),
)
larger_part = Elementwise(  # g where a > b, half of it where they are equal: ties share the gradient
    "larger_part(g, a, b) -> y", _one_kernel(lambda gy, a, b: larger_part(gy, a, b)), None, None
)
abs = Unary("abs(x) -> y", lambda g, x: g * sign(x))
sign = Elementwise("sign(x) -> y", None)
where = Elementwise(
    "where(c, a, b) -> y",
    None,
    _one_kernel(lambda g, c: where(c, g, 0.0)),
    _one_kernel(lambda g, c: where(c, 0.0, g)),
    promoted=(1, 2),
)
clamp = Elementwise("clamp(x) -> y", _one_kernel(lambda g, x, **bounds: clamp_gradient(g, x, **bounds)))
clamp_gradient = Elementwise(
    "clamp_gradient(g, x) -> gx", _one_kernel(lambda gg, x, **bounds: clamp_gradient(gg, x, **bounds)), None
)
hardtanh = Elementwise("hardtanh(x) -> y", _one_kernel(lambda g, x, **bounds: hardtanh_gradient(g, x, **bounds)))
hardtanh_gradient = Elementwise(  # as clamp's, but 0 at the bounds too
    "hardtanh_gradient(g, x) -> gx", _one_kernel(lambda gg, x, **bounds: hardtanh_gradient(gg, x, **bounds)), None
)

# ---- functions
exp = Unary("exp(x) -> y", lambda g, y: g * y, floating=True)
expm1 = Unary("expm1(x) -> y", lambda g, y: g * (y + 1), floating=True)
log = Unary("log(x) -> y", lambda g, x: g / x, floating=True)
log1p = Unary("log1p(x) -> y", lambda g, x: g / (x + 1), floating=True)
sqrt = Unary("sqrt(x) -> y", lambda g, y: g / (2 * y), floating=True)
sin = Unary("sin(x) -> y", lambda g, x: g * cos(x), floating=True)
cos = Unary("cos(x) -> y", lambda g, x: -g * sin(x), floating=True)
tanh = Unary("tanh(x) -> y", _by_loop("tanh_gradient", lambda g, y: g * (1 - y * y)), floating=True)
erf = Unary("erf(x) -> y", lambda g, x: g * (exp(-x * x) * (2 / _sqrt(pi))), floating=True)
sigmoid = Unary("sigmoid(x) -> y", _by_loop("sigmoid_gradient", lambda g, y: g * (y * (1 - y))), floating=True)
softplus = Unary("softplus(x) -> y", _by_loop("softplus_gradient", lambda g, x: g * sigmoid(x)), floating=True)


def _silu_gradient(g: Any, x: Any) -> Any:
    s = sigmoid(x)
    return g * (s + x * s * (1 - s))


silu = Unary("silu(x) -> y", _by_loop("silu_gradient", _silu_gradient), floating=True)
elu = Elementwise("elu(x) -> y", _one_kernel(lambda g, x, *, alpha: elu_gradient(g, x, alpha=alpha)), floating=True)
elu_gradient = Elementwise(
    "elu_gradient(g, x) -> gx",
    _one_kernel(lambda gg, x, *, alpha: elu_gradient(gg, x, alpha=alpha)),
    lambda gg, g, x, *, alpha: gg * g * where(x > 0, 0.0, exp(clamp(x, min=None, max=0.0)) * alpha),
)
gelu = Unary("gelu(x) -> y", _one_kernel(lambda g, x: gelu_gradient(g, x)), floating=True)
gelu_gradient = Elementwise(
    "gelu_gradient(g, x) -> gx",
    _one_kernel(lambda gg, x: gelu_gradient(gg, x)),
    lambda gg, g, x: gg * g * (exp(x * x * -0.5) * ((2 - x * x) * _DENSITY)),
)
gelu_tanh = Unary("gelu_tanh(x) -> y", _one_kernel(lambda g, x: gelu_tanh_gradient(g, x)), floating=True)


def _gelu_tanh_curvature(gg: Any, g: Any, x: Any) -> Any:
    """Of x (1 + tanh(u)) / 2 with u = scale (x + 0.044715 x³)."""
    scale = _sqrt(2 / pi)
    square = x * x
    t = tanh(x * (square * (0.044715 * scale) + scale))
    slope = square * (3 * 0.044715 * scale) + scale
    return gg * g * ((1 - t * t) * (slope + x * (x * (3 * 0.044715 * scale) - t * slope * slope)))


gelu_tanh_gradient = Elementwise(
    "gelu_tanh_gradient(g, x) -> gx", _one_kernel(lambda gg, x: gelu_tanh_gradient(gg, x)), _gelu_tanh_curvature
)
relu = Unary("relu(x) -> y", _one_kernel(lambda g, y: positive_part(g, y)))
positive_part = Elementwise("positive_part(g, y) -> gx", _one_kernel(lambda gg, y: positive_part(gg, y)), None)
leaky_relu = Elementwise("leaky_relu(x) -> y", _one_kernel(lambda g, x, *, slope: leaky_part(g, x, slope=slope)))
leaky_part = Elementwise(
    "leaky_part(g, x) -> gx", _one_kernel(lambda gg, x, *, slope: leaky_part(gg, x, slope=slope)), None
)

# ---- steps and tests: no gradient flows
floor = Elementwise("floor(x) -> y", None)
ceil = Elementwise("ceil(x) -> y", None)
round = Elementwise("round(x) -> y", None)
isfinite = Elementwise("isfinite(x) -> y", None)
isnan = Elementwise("isnan(x) -> y", None)
invert = Elementwise("invert(x) -> y", None)
eq, ne, lt, le, gt, ge, bitwise_and, bitwise_or, bitwise_xor = (
    Elementwise(f"{name}(a, b) -> y", None, None)
    for name in ("eq", "ne", "lt", "le", "gt", "ge", "bitwise_and", "bitwise_or", "bitwise_xor")
)
