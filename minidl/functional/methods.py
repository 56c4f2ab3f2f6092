"""The functions as methods of Tensor, so that `x.sum(0).exp()` reads from left to right."""

from __future__ import annotations

from functools import wraps
from typing import Any

from ..core.dtypes import as_dtype
from ..core.tensor import Tensor
from ..ops.device import transfer
from ..ops.elementwise import astype
from . import activation, array, comparison, elementwise

_ELEMENTWISE = [
    "abs", "add", "ceil", "clone", "cos", "div", "erf", "exp", "expm1", "floor", "isfinite", "isinf", "isnan",
    "log", "log1p", "log2", "logical_not", "masked_fill", "maximum", "minimum", "mul", "neg", "pow", "round",
    "sigmoid", "sign", "sin", "sqrt", "square", "sub", "tanh",
]  # fmt: skip
_ARRAY = [
    "all", "amax", "amin", "any", "argmax", "argmin", "argsort", "bmm", "broadcast_to", "chunk", "clamp", "cumsum",
    "diagonal", "expand", "flatten", "flip", "gather", "index_select", "log_softmax", "logsumexp", "matmul", "max",
    "mean", "min", "mm", "movedim", "norm", "permute", "prod", "reciprocal", "repeat", "reshape", "roll", "rsqrt",
    "softmax", "sort", "split", "squeeze", "std", "sum", "topk", "transpose", "tril", "triu", "unbind", "unflatten",
    "unsqueeze", "var",
]  # fmt: skip


def _method(function: Any) -> Any:
    @wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return method


def to(x: Tensor, target: Any) -> Tensor:
    """x in another dtype, on another device ("cpu", "cuda", "cuda:1"), or in both as of another tensor.

    Gradients flow back.
    """
    if isinstance(target, Tensor):
        return to(to(x, target.device), target.dtype)
    if isinstance(target, str) and target.partition(":")[0] in ("cpu", "cuda"):
        return x if x.device == target else transfer(x, source=x.device, target=target)
    dtype = as_dtype(target)
    return x if x.dtype == dtype else astype(x, dtype=dtype)


def _iterate(x: Tensor) -> Any:
    if x.ndim == 0:
        raise TypeError("a tensor without axes cannot be iterated over; .item() gives its number")
    return iter(array.unbind(x, 0))


def _contiguous(x: Tensor) -> Tensor:
    """x in C order: itself if it is, else a copy."""
    return x if x.data.flags.c_contiguous else array.reshape(array.reshape(x, -1), x.shape)


def _install() -> None:
    for module, names in ((elementwise, _ELEMENTWISE), (array, _ARRAY), (comparison, ("allclose", "equal"))):
        for name in names:
            setattr(Tensor, name, _method(getattr(module, name)))
    more: dict[str, Any] = {
        "to": to,
        "half": lambda x: to(x, "float16"),
        "float": lambda x: to(x, "float32"),
        "double": lambda x: to(x, "float64"),
        "int": lambda x: to(x, "int32"),
        "long": lambda x: to(x, "int64"),
        "bool": lambda x: to(x, "bool"),
        "type_as": lambda x, other: to(x, other.dtype),
        "cpu": lambda x: to(x, "cpu"),
        "cuda": lambda x: to(x, "cuda"),
        "view": array.reshape,
        "contiguous": _contiguous,
        "t": lambda x: array.transpose(x, 0, 1),
        "dot": array.matmul,
        "leaky_relu": activation.leaky_relu,
        "relu": activation.relu,
        "T": property(lambda x: array.permute(x, tuple(range(x.ndim))[::-1])),
        "mT": property(lambda x: array.transpose(x, -1, -2)),
        "__getitem__": array.getitem,
        "__iter__": _iterate,
        "__matmul__": lambda a, b: array.matmul(a, b),
        "__rmatmul__": lambda a, b: array.matmul(b, a),
    }
    for name, function in more.items():
        setattr(Tensor, name, function)


_install()
