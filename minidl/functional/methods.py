"""The functions as methods of Tensor, so that `x.sum(0).exp()` reads from left to right."""

from __future__ import annotations

from typing import Any

from ..core.dtypes import as_dtype
from ..core.tensor import Tensor
from ..ops import elementwise
from ..ops.device import transfer
from . import activation, array

_ELEMENTWISE = [
    "abs", "ceil", "cos", "erf", "exp", "expm1", "floor", "isfinite", "isnan", "log", "log1p", "maximum", "minimum",
    "neg", "pow", "round", "sigmoid", "sign", "sin", "sqrt", "square", "tanh",
]  # fmt: skip
_ARRAY = [
    "all", "amax", "amin", "any", "argmax", "argmin", "broadcast_to", "chunk", "clamp", "cumsum", "diagonal",
    "expand", "flatten", "flip", "gather", "index_select", "log_softmax", "logsumexp", "matmul", "max", "mean",
    "min", "movedim", "norm", "permute", "prod", "reciprocal", "repeat", "reshape", "roll", "rsqrt", "softmax",
    "split", "squeeze", "std", "sum", "transpose", "tril", "triu", "unbind", "unflatten", "unsqueeze", "var",
]  # fmt: skip


def _method(function: Any) -> Any:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    method.__name__ = getattr(function, "__name__", None) or function.name
    method.__doc__ = function.__doc__ if hasattr(function, "__name__") else f"{function!r}, elementwise."
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
    return x if x.dtype == dtype else elementwise.astype(x, dtype=dtype)


def _iterate(x: Tensor) -> Any:
    if x.ndim == 0:
        raise TypeError("a tensor without axes cannot be iterated over; .item() gives its number")
    return iter(array.unbind(x, 0))


def _install() -> None:
    for module, names in ((elementwise, _ELEMENTWISE), (array, _ARRAY)):
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
        "clone": lambda x: elementwise.copy(x),
        "view": array.reshape,
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
