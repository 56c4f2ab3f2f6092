"""How exactly products of float32 are computed, for those kernels that have a choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NAMES = ("fast", "precise")
MATMUL_NAMES = ("highest", "tf32x3", "high", "medium")

_precision: ContextVar[str] = ContextVar("minidl_conv_precision", default="fast")
_matmul_precision = "highest"


@contextmanager
def conv_precision(name: str) -> Iterator[None]:
    """Inside the block (or the decorated function), in this thread, convolve float32 "fast" (the default) or "precise".

    "fast" allows Winograd's F(4x4, 3x3), whose largest error was found to be 2e-6 to 4e-6 of the largest result;
    "precise" only what is as exact as summing directly (3e-7 to 3e-6, the more the longer the sums). float64 is always
    summed directly. A backward pass follows the setting where it runs. Raises ValueError for another name.
    """
    if name not in NAMES:
        raise ValueError(f"conv_precision is {name!r}: it must be {' or '.join(map(repr, NAMES))}")
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def is_precise() -> bool:
    """Whether convolutions must be precise at this moment."""
    return _precision.get() == "precise"


def set_float32_matmul_precision(precision: str) -> None:
    """How convolutions and products of matrices (`linear`, `matmul`, `einsum`) of float32 are computed on CUDA devices,
    everywhere in this process (PyTorch's names, and one).

    "highest" (the default): multiplied and added as float32, on the ordinary cores.
    "tf32x3": on tensor cores, each factor as the sum of two TF32 numbers (21 bits and more of its 24) and three
    products; as exact as float32 for most purposes, an infinite factor gives NaN.
    "high": on tensor cores, factors rounded to TF32 (11 bits), an error of up to 2^-11 in each.
    "medium": on tensor cores, factors rounded to bfloat16 (8 bits), an error of up to 2^-8 in each.

    Sums are float32 in all of them, and so is the result. Small products of matrices are not rounded. A backward pass
    follows the setting where it runs; inside `conv_precision("precise")` it is "highest" whatever was set. On the CPU
    nothing changes, nor does it for arrays of other types. Raises ValueError for another name.
    """
    global _matmul_precision
    if precision not in MATMUL_NAMES:
        *others, last = map(repr, MATMUL_NAMES)
        raise ValueError(f"float32_matmul_precision is {precision!r}: it must be {', '.join(others)} or {last}")
    _matmul_precision = precision


def get_float32_matmul_precision() -> str:
    """What `set_float32_matmul_precision` set last: "highest", "tf32x3", "high" or "medium"."""
    return _matmul_precision


def float32_products() -> str:
    """The float32_matmul_precision that counts at this moment."""
    return "highest" if is_precise() else _matmul_precision
