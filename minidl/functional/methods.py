"""The functions as methods of Tensor, so that `x.sum(0).exp()` reads from left to right."""

from __future__ import annotations

from functools import wraps
from typing import Any

from ..core.dtypes import as_dtype
from ..core.tensor import Tensor
from ..ops.device import transfer
from ..ops.elementwise import astype
from . import activation, comparison, elementwise, indexing, products, reduction, shape

# by module
_METHODS: dict[Any, str] = {
    elementwise: (
        "abs add ceil clamp clone cos div erf exp expm1 floor isfinite isinf isnan log log1p log2 logical_not "
        "masked_fill maximum minimum mul neg pow reciprocal round rsqrt sigmoid sign sin sqrt square sub tanh"
    ),
    comparison: "allclose equal",
    reduction: (
        "all amax amin any argmax argmin cumsum log_softmax logsumexp max mean min norm prod softmax std sum var"
    ),
    shape: (
        "broadcast_to chunk expand flatten flip movedim permute repeat reshape roll split squeeze transpose "
        "unbind unflatten unsqueeze"
    ),
    indexing: "argsort diagonal gather index_select sort topk tril triu",
    products: "bmm matmul mm",
}


def _method(function: Any) -> Any:
    @wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return method


def to(x: Tensor, target: Any, non_blocking: bool = False) -> Tensor:
    """x in another dtype, on another device ("cpu", "cuda", "cuda:1"), or in both as of another tensor.

    Gradients flow back. To a CUDA device the host sends a copy and goes on. Only if x is in pinned memory
    (`DataLoader(pin_memory=True)`) it waits until that has been read; with non_blocking it does not, and x must not be
    changed before. To the CPU it always waits.
    """
    if isinstance(target, Tensor):
        return to(to(x, target.device, non_blocking), target.dtype)
    if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
        if x.device == target:
            return x
        return transfer(x, source=x.device, target=target, non_blocking=non_blocking)
    dtype = as_dtype(target)
    return x if x.dtype == dtype else astype(x, dtype=dtype)


def _iterate(x: Tensor) -> Any:
    if x.ndim == 0:
        raise TypeError("a tensor without axes cannot be iterated over; .item() gives its number")
    return iter(shape.unbind(x, 0))


def _contiguous(x: Tensor) -> Tensor:
    """x in C order: itself if it is, else a copy."""
    return x if x.data.flags.c_contiguous else shape.reshape(shape.reshape(x, -1), x.shape)


def _install() -> None:
    for module, names in _METHODS.items():
        for name in names.split():
            setattr(Tensor, name, _method(getattr(module, name)))
    more: dict[str, Any] = {
        "to": to,
        "half": lambda x: to(x, "float16"),
        "bfloat16": lambda x: to(x, "bfloat16"),
        "float": lambda x: to(x, "float32"),
        "double": lambda x: to(x, "float64"),
        "int": lambda x: to(x, "int32"),
        "long": lambda x: to(x, "int64"),
        "bool": lambda x: to(x, "bool"),
        "type_as": lambda x, other: to(x, other.dtype),
        "cpu": lambda x: to(x, "cpu"),
        "cuda": lambda x: to(x, "cuda"),
        "view": shape.reshape,
        "contiguous": _contiguous,
        "t": lambda x: shape.transpose(x, 0, 1),
        "dot": products.matmul,
        "leaky_relu": activation.leaky_relu,
        "relu": activation.relu,
        "T": property(lambda x: shape.permute(x, tuple(range(x.ndim))[::-1])),
        "mT": property(lambda x: shape.transpose(x, -1, -2)),
        "__getitem__": indexing.getitem,
        "__iter__": _iterate,
        "__matmul__": lambda a, b: products.matmul(a, b),
        "__rmatmul__": lambda a, b: products.matmul(b, a),
    }
    for name, function in more.items():
        setattr(Tensor, name, function)


_install()
