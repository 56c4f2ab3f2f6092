"""What the tests of 16-bit types share: the samples in such a type, and the same numbers in float64 beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minidl
from minidl.checking.sample import Case, Sample
from minidl.core.tensor import Tensor, to_device
from minidl.kernels.arrays import is_floating
from minidl.nn.parameter import rebind


def outputs(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@contextmanager
def parameters_as(case: Case, dtype: Any, device: str) -> Iterator[None]:
    """Inside the block a layer's parameters and buffers hold their numbers, rounded to `narrow`, in a type."""
    owner = getattr(case.fn, "__self__", case.fn)
    tensors = [*case.parameters.values()]
    if isinstance(owner, minidl.nn.Module):
        tensors += [*owner.parameters(), *owner.buffers()]
    tensors = [t for t in {id(t): t for t in tensors}.values() if is_floating(t.dtype)]
    before = [t._data for t in tensors]
    for t in tensors:
        rebind(t, to_device(t._data.astype(minidl.bfloat16).astype(dtype), device))
    try:
        yield
    finally:
        for t, array in zip(tensors, before, strict=True):
            rebind(t, array)


def computed(row: Sample, case: Case, dtype: Any, device: str = "cpu", graph: bool = False) -> list[Any]:
    """Values, and the gradients of a weighting of the outputs, of numbers that bfloat16 can hold; tensors or None."""
    inputs = []
    for x in case.tensors():
        if isinstance(x, Tensor):
            leaf = x.requires_grad
            data = x.numpy().astype(minidl.bfloat16).astype(dtype) if x.is_floating_point() else x.numpy()
            x = Tensor(to_device(data, device)).requires_grad_(leaf)
        inputs.append(x)
    with parameters_as(case, dtype, device):
        out = outputs(row.function(case)(*inputs))
        flowing = [y for y in out if y.requires_grad]
        if not flowing:
            return out
        rng = np.random.default_rng(3)
        seeds = [rng.integers(-2, 3, y.shape).astype(y.dtype) for y in flowing]
        leaves = [x for x in [*inputs, *case.parameters.values()] if isinstance(x, Tensor) and x.requires_grad]
        given = [Tensor(to_device(s, device)) for s in seeds]
        return out + list(minidl.grad(flowing, leaves, given, create_graph=graph, allow_unused=True))
