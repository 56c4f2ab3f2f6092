"""Binary cross-entropy of logits in one pass each way (binary_loops.py), where NumPy needs six."""

from __future__ import annotations

import numpy as np

from ..reference import binary as reference
from . import threads
from .address import address

Array = np.ndarray

LARGE = 2**15  # elements from which on a compiled loop is worth its call
SHARE = 2**15  # for each thread


def binary_cross_entropy(x: Array, t: Array) -> Array:
    if not _covered(x, t):
        return reference.binary_cross_entropy(x, t)
    from .binary_loops import forward

    y = np.empty_like(x)
    with threads.region(x.size, SHARE) as workers:
        forward(workers, np.float32(0), x.size, address(x), address(t), address(y))
    return y


def binary_cross_entropy_backward(
    g: Array, x: Array, t: Array, *, needs: list[bool]
) -> tuple[Array | None, Array | None]:
    if not needs[0] or not _covered(x, t) or g.dtype != x.dtype:
        return reference.binary_cross_entropy_backward(g, x, t, needs=needs)
    from .binary_loops import backward

    # the gradient of a sum over all but the first axis, or over all, repeats its numbers; it need not be written out
    rows, repeated = len(x), not any(g.strides[1:])
    given = np.ascontiguousarray(g.reshape(rows, -1)[:, 0] if repeated else g)
    gx = np.empty_like(x)
    with threads.region(x.size, SHARE) as workers:
        addresses = map(address, (given, x, t, gx))
        backward(workers, np.float32(0), rows, x.size // rows, repeated, *addresses)
    _, gt = reference.binary_cross_entropy_backward(g, x, t, needs=[False, needs[1]])
    return gx, gt


def _covered(x: Array, t: Array) -> bool:
    fits = x.dtype == t.dtype == np.float32 and x.flags.c_contiguous and t.flags.c_contiguous
    return fits and x.size >= LARGE and x.flags.aligned and t.flags.aligned and threads.usable()
