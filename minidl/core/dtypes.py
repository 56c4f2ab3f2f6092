"""Types of elements, and how they combine: PyTorch's promotion rules.

Tensors with axes count more than tensors without, and those more than Python numbers: a lesser operand changes the
result only if it is of a higher kind (bool < integer < float). Python numbers are weak; next to integers a Python float
means float32. bfloat16 and float16 have float32 in common.

bfloat16 is the dtype that the package ml_dtypes brings; it is imported when bfloat16 is first asked for.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels.arrays import is_bfloat16, is_floating

DEFAULT = np.dtype("float32")
DTYPES = tuple(map(np.dtype, ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")))
_KIND = {"b": 0, "u": 1, "i": 1, "f": 2, "V": 2}
_WEAK = {bool: np.dtype("bool"), int: np.dtype("int64"), float: DEFAULT}


@cache
def _bfloat16() -> np.dtype:
    """Raises RuntimeError that says what to install."""
    try:
        import ml_dtypes
    except ImportError as error:
        raise RuntimeError(
            f"bfloat16 needs ml_dtypes, which cannot be imported ({error}): pip install ml_dtypes"
        ) from None
    return np.dtype(ml_dtypes.bfloat16)


if TYPE_CHECKING:
    bfloat16: np.dtype


def __getattr__(name: str) -> Any:
    if name == "bfloat16":
        return _bfloat16()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def as_dtype(dtype: Any) -> np.dtype:
    """A dtype of the supported ones, from its name, a NumPy type or a Python type (float means float32)."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return _bfloat16()  # NumPy does not know the name before
    found = DEFAULT if dtype is float else np.dtype(dtype)
    if found not in DTYPES and not is_bfloat16(found):
        raise _unsupported(found)
    return found


def _unsupported(dtype: Any) -> TypeError:
    return TypeError(f"dtype {dtype} is not supported; the supported ones are {', '.join(map(str, DTYPES))}, bfloat16")


@lru_cache(maxsize=4096)
def promote_types(a: np.dtype, b: np.dtype) -> np.dtype:
    """The type that two tensors of equal rank in the rules above have in common."""
    if _KIND[a.kind] != _KIND[b.kind]:
        return a if _KIND[a.kind] > _KIND[b.kind] else b
    if a != b and is_floating(a) and a.itemsize == b.itemsize == 2:
        return DEFAULT
    return np.promote_types(a, b)


def result_type(*operands: Any) -> np.dtype:
    """The dtype of an elementwise result of these tensors, arrays and Python numbers."""
    levels: list[np.dtype | None] = [None, None, None]  # with axes, without, Python numbers
    for x in operands:
        weak = _WEAK.get(type(x))
        if weak is not None:
            level, dtype = 2, weak
        elif hasattr(x, "dtype") and hasattr(x, "shape"):
            level, dtype = (0 if x.shape else 1), x.dtype
        else:
            raise TypeError(f"expected tensors, arrays or numbers, got {type(x).__name__}")
        if dtype.kind not in _KIND or (dtype.kind == "V" and not is_bfloat16(dtype)):
            raise _unsupported(dtype)
        known = levels[level]
        levels[level] = dtype if known is None else promote_types(known, dtype)
    return _combine(levels[0], _combine(levels[1], levels[2]))  # type: ignore[return-value]


def _combine(higher: np.dtype | None, lower: np.dtype | None) -> np.dtype | None:
    if higher is None or lower is None:
        return higher or lower
    return promote_types(higher, lower) if _KIND[lower.kind] > _KIND[higher.kind] else higher
