"""Launchers of optimizer.cu: steps of optimizers on CuPy arrays, in place. The counterpart of ../cpu/optimizer.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..arrays import Array, namespace
from . import fused, launch

FILE = "optimizer.cu"
MOST = 60  # tensors of a launch; as optimizer.cu has it
TENSOR = np.dtype(
    [("p", np.uint64), ("g", np.uint64), ("state", np.uint64, 2), ("elements", np.int64), ("numbers", np.float64, 2),
     ("first_block", np.int32), ("unused", np.int32)]
)  # fmt: skip
TENSORS = np.dtype([("tensor", TENSOR, MOST), ("count", np.int32), ("unused", np.int32), ("numbers", np.uint64)])


def worth(elements: int) -> bool:
    """Whether a kernel pays for parameters of so many elements in all: always."""
    return True


def covers(p: Any, g: Any, *state: Any) -> bool:
    """Whether a kernel can take these (None: nothing there): of one type, p and the state lying in one order without
    gaps. A gradient that lies otherwise is copied."""
    given = [a for a in (p, *state) if a is not None]
    same = all(a.dtype == p.dtype and a.shape == p.shape for a in (g, *given))
    order = _order(p)
    return same and p.dtype.name in launch.STORAGE and all(a.transpose(order).flags.c_contiguous for a in given)


def adam(
    tensors: Sequence[tuple[Array, Array, Array, Array]], numbers: Sequence[tuple[float, float]], *, shrink: float,
    decay: float, betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """Parameters and their averages after a step, in place.

    tensors: (p, g, mean, square) of each parameter, numbers: its (root, rate); all of one type, on one device.
    optimizer.cu says what the numbers are. They and `shrink` may be arrays of one element, that is read when the kernel
    runs, the pairs one behind the other.
    """
    b1, b2 = betas
    _step("adam_kernel", tensors, numbers, launch.number(shrink), decay, b1, 1 - b1, b2, 1 - b2, eps)


def sgd(
    tensors: Sequence[tuple[Array, Array, Array | None]], numbers: Sequence[tuple[float]], *, decay: float,
    momentum: float, nesterov: bool, rate: float,
) -> None:  # fmt: skip
    """Parameters and their velocities after a step, in place.

    tensors: (p, g, velocity) of each parameter, None where there is no momentum; numbers: its (keep,).
    rate: may be an array of one element, as for Adam.
    """
    _step("sgd_kernel", tensors, numbers, decay, momentum, launch.number(rate), np.int32(nesterov))


def _step(kernel: str, tensors: Sequence[tuple], numbers: Sequence[tuple], *constants: Any) -> None:
    """Launches a kernel for as many tensors at a time as fit."""
    first = tensors[0][0]
    with launch.device_of(kernel, p=first):
        real = fused.computed(first.dtype).type
        given = [n if isinstance(n, (np.ndarray, np.int32)) else real(n) for n in constants]
        for start in range(0, len(tensors), MOST):
            # gradients that had to be copied must live until the launch
            lying = [in_order_of(arrays[0], arrays) for arrays in tensors[start : start + MOST]]
            table, blocks = struct(lying, numbers[start : start + MOST])
            fused.run(FILE, kernel, first.dtype, (blocks,), fused.THREADS, table, *given)


def struct(tensors: Sequence[Sequence[Any]], numbers: Sequence[tuple]) -> tuple[np.ndarray, int]:
    """At most MOST tensors as a kernel argument, passed by value, and how many blocks they need.

    tensors: p, g and state (None: there is none), each lying in one piece, in the same order.
    """
    table = np.zeros((), TENSORS)
    table["count"] = len(tensors)
    first = numbers[0][0]
    late = not isinstance(first, (int, float, np.generic))
    table["numbers"] = first.data.ptr if late else 0
    blocks = 0
    for row, (p, g, *state), own in zip(table["tensor"], tensors, numbers, strict=False):
        row["p"], row["g"] = p.data.ptr, g.data.ptr
        for i, a in enumerate(state):
            row["state"][i] = 0 if a is None else a.data.ptr
        row["elements"], row["first_block"] = p.size, blocks
        if not late:
            row["numbers"][: len(own)] = own
        blocks += -(-p.size // fused.THREADS)
        if blocks >= launch.INT_LIMIT:
            raise ValueError(f"a step over tensors of {p.size} elements and more has {blocks} blocks, too many")
    return table, blocks


def _order(a: Array) -> list[int]:
    return sorted(range(a.ndim), key=lambda axis: -a.strides[axis])


def in_order_of(p: Array, arrays: Sequence[Any]) -> list[Any]:
    """The arrays with their elements in the order in which p lies in memory: views where they lie so. What is None or
    empty stays that."""
    order = _order(p) or None
    lying = lambda a: namespace(p).ascontiguousarray(a.transpose(order))
    return [a if a is None or not a.size else lying(a) for a in arrays]
