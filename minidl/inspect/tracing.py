"""Two more columns beside the kernel table, for one purpose: to follow sizes through a network and count its products.

The column "sizes" computes no convolution, pooling or product of matrices. It answers with zeros of the right shape,
which the system hands out without touching the memory, and calls the reference kernels for everything else. The column
"values" computes everything where the arrays are at home. Both count multiply-adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

import numpy as np

from ..core.mode import setting
from ..core.primitive import Primitive
from ..kernels import table
from ..kernels.arrays import namespace
from ..kernels.reference.pool import INDEX

Work = tuple[tuple[int, ...], int]  # the shape of the result, and the multiply-adds it takes

_COUNT: ContextVar[Callable[[int], None]] = ContextVar("minidl_multiply_adds")


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


# what a kernel's result looks like and costs
_PRODUCTS: dict[str, Callable[..., Work]] = {
    "conv": lambda x, w, *, geometry: (geometry.y_shape, geometry.multiply_adds),
    "conv_input": lambda y, w, *, geometry: (geometry.x_shape, geometry.multiply_adds),
    "conv_weight": lambda x, y, *, geometry: (geometry.w_shape, geometry.multiply_adds),
    "linear": _linear,
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


def _counting(work: Callable[..., Work], kernel: Callable | None) -> Callable:
    """The kernel, or if it is None zeros of the right shape, counted."""

    def call(first: Any, *rest: Any, **params: Any) -> Any:
        shape, multiply_adds = work(first, *rest, **params)
        _COUNT.get()(multiply_adds)
        if kernel is not None:
            return kernel(first, *rest, **params)
        return namespace(first).zeros(shape, first.dtype)

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
        if not self.values_wanted and name in _POOLS:
            kernel: Any = _POOLS[name]
        elif not self.values_wanted and name in _PRODUCTS:
            kernel = None
        else:
            kernel = table.find(name, table.home(kind) if self.values_wanted else "reference")
        self[kind] = _counting(_PRODUCTS[name], kernel) if name in _PRODUCTS else kernel
        return self[kind]


@contextmanager
def tracing(count: Callable[[int], None], values: bool = False) -> Iterator[None]:
    """Inside the block, in this thread, record nothing and call `count(multiply-adds)` for every product. values: also
    compute the products, rather than only their shapes."""
    column = "values" if values else "sizes"
    for name, primitive in Primitive.names.items():
        primitive.kernels.setdefault(column, _Column(name, values))
    token = _COUNT.set(count)
    try:
        with setting(recording=False, backend=column), np.errstate(all="ignore"):  # zeros may be divided by
            yield
    finally:
        _COUNT.reset(token)
