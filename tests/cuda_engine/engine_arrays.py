"""What the tests of the engine on CUDA arrays share: the samples, moved to a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import minidl
from minidl.checking.sample import Case, Sample
from minidl.core import Tensor
from minidl.core.tensor import to_device
from minidl.nn.parameter import rebind


def outputs(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def moved(value: Any, device: str) -> Any:
    """A tensor, an array, or what holds some, on a device; leaves stay leaves."""
    if isinstance(value, Tensor):
        if value.device == device:
            return value
        return Tensor(to_device(value._data, device)).requires_grad_(value.requires_grad)
    if isinstance(value, np.ndarray):
        return to_device(value, device)
    if type(value) in (tuple, list):
        return type(value)(moved(v, device) for v in value)
    return value


@contextmanager
def parameters_on(case: Case, device: str) -> Iterator[None]:
    """Inside the block a layer's parameters and buffers, which the function reads by itself, are on a device."""
    owner = getattr(case.fn, "__self__", case.fn)
    tensors = [*case.parameters.values()]
    if isinstance(owner, minidl.nn.Module):
        tensors += [*owner.parameters(), *owner.buffers()]
    tensors = list({id(t): t for t in tensors}.values())
    before = [t._data for t in tensors]
    for t in tensors:
        rebind(t, to_device(t._data, device))
    try:
        yield
    finally:
        for t, array in zip(tensors, before, strict=True):
            rebind(t, array)


def computed(row: Sample, case: Case, device: str, weights: list[np.ndarray] | None, create_graph: bool) -> list[Any]:
    """Values, and the gradients of a weighting of the outputs, as arrays where they are."""
    call: Callable = row.function(case)
    inputs = moved(case.tensors(), device)
    if device != "cpu":
        case = replace(case, params={k: moved(v, device) for k, v in case.params.items()})
        call = row.function(case)
    out = outputs(call(*inputs))
    values = [y._data for y in out]
    flowing = [y for y in out if y.requires_grad]
    if not flowing:
        return values
    rng = np.random.default_rng(3)
    seeds = [moved(Tensor(rng.standard_normal(y.shape).astype(y.dtype)), device) for y in flowing]
    leaves = [x for x in [*inputs, *case.parameters.values()] if isinstance(x, Tensor) and x.requires_grad]
    found = minidl.grad(flowing, leaves, seeds, create_graph=create_graph, allow_unused=True)
    return values + [None if g is None else g._data for g in found]
