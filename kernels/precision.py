"""How exactly convolutions of float32 are computed, for those kernels that have a choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NAMES = ("fast", "precise")

_precision: ContextVar[str] = ContextVar("minidl_conv_precision", default="fast")


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
