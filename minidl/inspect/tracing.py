"""Two more columns beside the kernel table, for one purpose: to follow sizes through a network and count its products.

The column "sizes" computes no convolution, pooling or product of matrices. It answers with zeros of the right shape,
which the system hands out without touching the memory, and calls the reference kernels for everything else. The column
"values" computes everything where the arrays are at home. Both count multiply-adds, and show every operation to who
wants to watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np

from ..core.cuda import working_on
from ..core.mode import setting
from ..core.primitive import Primitive
from ..core.random import get_rng_state, replay
from ..kernels import table
from ..kernels.arrays import namespace
from ..kernels.reference.pool import INDEX
from ..nn.module import Module

Work = tuple[tuple[int, ...], int]  # the shape of the result, and the multiply-adds it takes
Watch = Callable[[str, tuple, Any], Any]  # (name of the primitive, its arguments, what the kernel gave) -> the result

_COUNT: ContextVar[Callable[[int], None]] = ContextVar("minidl_multiply_adds")
_WATCH: ContextVar[Watch | None] = ContextVar("minidl_watch", default=None)


def _linear(x: Any, w: Any, b: Any) -> Work:
    return (*x.shape[:-1], w.shape[0]), x.size * w.shape[0]


def _linear_weight(y: Any, x: Any) -> Work:
    return (y.shape[-1], x.shape[-1]), y.size * x.shape[-1]


def _matmul(a: Any, b: Any) -> Work:
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    return shape, prod(shape) * a.shape[-1]


def _contract(a: Any, b: Any, *, subscripts: tuple[str, str, str]) -> Work:
    size = dict(zip(subscripts[0] + subscripts[1], a.shape + b.shape, strict=True))
    return tuple(size[i] for i in subscripts[2]), prod(size.values())


def _conv_finished(x: Any, w: Any, b: Any, *, geometry: Any, transposed: bool) -> Work:
    return geometry.x_shape if transposed else geometry.y_shape, geometry.multiply_adds


# what a kernel's result looks like and costs
_PRODUCTS: dict[str, Callable[..., Work]] = {
    "conv": lambda x, w, *, geometry: (geometry.y_shape, geometry.multiply_adds),
    "conv_input": lambda y, w, *, geometry: (geometry.x_shape, geometry.multiply_adds),
    "conv_bias": _conv_finished,
    "conv_relu": _conv_finished,
    "conv_weight": lambda x, y, *, geometry: (geometry.w_shape, geometry.multiply_adds),
    "linear": _linear,
    "linear_activated": lambda x, w, b, **activation: _linear(x, w, b),
    "linear_weight": _linear_weight,
    "matmul": _matmul,
    "contract": _contract,
}


def _max_pool(x: Any, *, geometry: Any) -> tuple[Any, Any]:
    xp = namespace(x)
    return xp.zeros(geometry.y_shape, x.dtype), xp.zeros(geometry.y_shape, INDEX)


def _avg_pool(x: Any, *, geometry: Any, **options: Any) -> Any:
    return namespace(x).zeros(geometry.y_shape, x.dtype)


_POOLS = {"max_pool": _max_pool, "avg_pool": _avg_pool}


# fused primitives whose products are inside: their plain definitions call them one by one
_LOOPS = ("rnn", "lstm", "gru", "conv_gru")


def _loop(primitive: Any) -> Callable:
    residuals = len(primitive.slots) - primitive.inputs - 1

    def call(*args: Any, **params: Any) -> Any:
        y = primitive.plain(*args, **params)
        return (y, *[namespace(y).zeros(0, y.dtype)] * residuals) if residuals else y

    return call


def _counting(work: Callable[..., Work], kernel: Callable | None) -> Callable:
    """The kernel, or if it is None zeros of the right shape, counted."""

    def call(first: Any, *rest: Any, **params: Any) -> Any:
        shape, multiply_adds = work(first, *rest, **params)
        _COUNT.get()(multiply_adds)
        if kernel is not None:
            return kernel(first, *rest, **params)
        return namespace(first).zeros(shape, first.dtype)

    return call


def _watched(name: str, kernel: Callable) -> Callable:
    def call(*args: Any, **params: Any) -> Any:
        out = kernel(*args, **params)
        watch = _WATCH.get()
        return out if watch is None else watch(name, args, out)

    return call


class _Column(dict):
    """The kernels of one primitive by the type of its arrays: what Primitive.kernels holds for each column."""

    def __init__(self, operation: str, values: bool):
        super().__init__()
        self.operation = operation
        self.values_wanted = values

    def __contains__(self, kind: object) -> bool:
        return True

    def __missing__(self, kind: type) -> Callable:
        name = self.operation
        if name in _LOOPS:
            kernel: Any = _loop(Primitive.names[name])
        elif not self.values_wanted and name in _POOLS:
            kernel = _POOLS[name]
        elif not self.values_wanted and name in _PRODUCTS:
            kernel = None
        else:
            kernel = table.find(name, table.home(kind) if self.values_wanted else "reference")
        self[kind] = _watched(name, _counting(_PRODUCTS[name], kernel) if name in _PRODUCTS else kernel)
        return self[kind]


@contextmanager
def tracing(
    count: Callable[[int], None], values: bool = False, watch: Watch | None = None, recording: bool = False
) -> Iterator[None]:
    """Inside the block, in this thread, call `count(multiply-adds)` for every product, and record nothing unless
    `recording`. values: also compute the products, rather than only their shapes. watch: sees every operation on bare
    arrays; what it returns is the result."""
    column = "values" if values else "sizes"
    for name, primitive in Primitive.names.items():
        primitive.kernels.setdefault(column, _Column(name, values))
    tokens = _COUNT.set(count), _WATCH.set(watch)
    try:
        with setting(recording=recording, backend=column), np.errstate(all="ignore"):  # zeros may be divided by
            yield
    finally:
        _COUNT.reset(tokens[0])
        _WATCH.reset(tokens[1])


@contextmanager
def hooked(model: Module, enter: Callable, leave: Callable) -> Iterator[None]:
    """Inside the block the model is in evaluation mode, and `enter(module, args)` and `leave(module, args, output)` are
    hooks of all its modules. Afterwards modes, hooks and the random stream are as before."""
    modes = {module: module.training for module in model.modules()}
    with ExitStack() as stack:
        stack.enter_context(working_on(next((p.data for p in model.parameters()), None)))
        stack.enter_context(replay(get_rng_state()))
        for module in modes:
            module.training = False
            stack.callback(setattr, module, "training", modes[module])
            stack.enter_context(module.register_forward_pre_hook(enter))
            stack.enter_context(module.register_forward_hook(leave))
        yield
