"""What is switched on at this moment: one immutable tuple in a context variable, so each thread has its own.

Switching is entering a block (`with no_grad():`) or decorating a function (`@no_grad()`); leaving restores exactly what
was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from ..kernels.columns import COLUMNS


class Mode(NamedTuple):
    recording: bool = True  # operations on tensors that require gradients are recorded
    backend: str | None = None  # column of the kernel table; None follows the type of the array
    capture: Any = None  # inside checkpoint's first run: collects what its function reads
    anomaly: bool = False  # remember where each operation was called, check every gradient
    autocast: Any = None  # inside amp.autocast: casts the arguments of operations


NORMAL = Mode()  # the fast paths of elementwise operations are for this very object
MODE: ContextVar[Mode] = ContextVar("minidl_mode", default=NORMAL)


@contextmanager
def setting(**changes: Any) -> Iterator[None]:
    """Change fields of the mode inside a block."""
    mode = MODE.get()._replace(**changes)
    token = MODE.set(NORMAL if mode == NORMAL else mode)
    try:
        yield
    finally:
        MODE.reset(token)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside the block (or the decorated function), in this thread: results require no gradient."""
    with setting(recording=False):
        yield


@contextmanager
def enable_grad() -> Iterator[None]:
    """Record again inside a `no_grad` block."""
    with setting(recording=True):
        yield


@contextmanager
def set_grad_enabled(mode: bool) -> Iterator[None]:
    """`enable_grad()` if mode is true, else `no_grad()`."""
    with enable_grad() if mode else no_grad():
        yield


def is_grad_enabled() -> bool:
    """Whether operations are being recorded in this thread."""
    return MODE.get().recording


@contextmanager
def detect_anomaly() -> Iterator[None]:
    """Find where a NaN or an infinity enters the gradients.

    Operations inside the block remember the line of the program that called them. The first gradient that is not finite
    stops the backward pass with an ArithmeticError that names the operation, the argument and that line. Slow; for
    debugging. Both the forward and the backward computation belong inside the block.
    """
    with setting(anomaly=True):
        yield


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Compute with one column of the kernel table inside the block: "reference", "cpu", "cuda" or "numba_cuda".

    `None` restores the default, which follows the type of the array. Raises ValueError for another name, and where an
    operation is called that has no kernel in that column, NotImplementedError.
    """
    if name is not None and name not in COLUMNS:
        raise ValueError(f"backend is {name!r}: it must be one of {', '.join(map(repr, COLUMNS))} or None")
    with setting(backend=name):
        yield
