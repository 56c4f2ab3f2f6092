"""Gradients limited, parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..core import cuda
from ..core.tensor import Tensor
from ..functional.shape import cat, reshape
from ..kernels.arrays import namespace, stack

Tensors = Tensor | Iterable[Tensor]


def _with_grad(parameters: Tensors) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p for p in listed if p.grad is not None]


def _norm(array: Any, p: float) -> Any:
    """The p-norm of all elements, without the overflow of squares in half precision."""
    if array.dtype.itemsize == 2:
        array = array.astype(np.float32)
    if math.isinf(p):
        return abs(array).max() if array.size else array.sum()
    return namespace(array).linalg.norm(array) if p == 2 else (abs(array) ** p).sum() ** (1 / p)


def get_total_norm(tensors: Tensors, norm_type: float = 2.0, error_if_nonfinite: bool = False) -> Tensor:
    """The norm of all tensors taken as one vector, as a tensor without axes.

    norm_type: p of the p-norm, or math.inf. error_if_nonfinite: raise RuntimeError if the norm is infinite or NaN.
    """
    norm_type = float(norm_type)
    if not norm_type > 0:
        raise ValueError(f"norm_type is {norm_type}; it must be positive, or math.inf")
    arrays = [t.data for t in ([tensors] if isinstance(tensors, Tensor) else tensors)]
    if not arrays:
        return Tensor(np.zeros((), np.float32))
    xp = namespace(arrays[0])
    with cuda.working_on(arrays[0]):
        total = _norm(stack([xp.asarray(_norm(a, norm_type)) for a in arrays], 0), norm_type)
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"the total {norm_type}-norm of {len(arrays)} gradients is {float(total)}, so they cannot be scaled by it; "
            f"error_if_nonfinite=False would do it nevertheless"
        )
    return Tensor(total)


def clip_grad_norm_(
    parameters: Tensors, max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """Scale the gradients of all parameters by one factor so that their total norm is at most max_norm.

    Returns the norm before that. Gradients get new arrays, since they may share their memory with others. On a CUDA
    device the host does not wait for the norm: the factor is computed there, and may be 1.
    Pascanu et al. 2013, algorithm 1.
    """
    params = _with_grad(parameters)
    total = get_total_norm([p.grad for p in params if p.grad is not None], norm_type, error_if_nonfinite)
    if total.device != "cpu":
        with cuda.working_on(total.data):
            least = namespace(total.data).minimum(float(max_norm) / (total.data + 1e-6), 1)  # NaN stays
            for p in params:
                p.grad = Tensor(p.grad.data * least.astype(p.dtype))  # type: ignore[union-attr]
        return total
    factor = float(max_norm) / (float(total) + 1e-6)
    if not factor >= 1:  # NaN included
        for p in params:
            p.grad = p.grad.detach() * factor  # type: ignore[union-attr]
    return total


def clip_grad_value_(parameters: Tensors, clip_value: float) -> None:
    """Limit every element of every gradient to [-clip_value, clip_value]."""
    limit = float(clip_value)
    if limit < 0:
        raise ValueError(f"clip_grad_value_: clip_value is {clip_value}; it must not be negative")
    for p in _with_grad(parameters):
        with cuda.working_on(p.data):
            p.grad = p.grad.detach().clamp(-limit, limit)  # type: ignore[union-attr]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters behind each other as one vector (a new one; gradients flow back through it)."""
    return cat([reshape(p, (-1,)) for p in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the parts of a vector, as `parameters_to_vector` makes it, into the parameters, in place."""
    params = list(parameters)
    count = sum(p.numel() for p in params)
    if vec.shape != (count,):
        raise ValueError(f"vector_to_parameters: the parameters need shape ({count},), the vector has {vec.shape}")
    start = 0
    for p in params:
        with cuda.working_on(p.data):
            p.data[...] = vec.data[start : start + p.numel()].reshape(p.shape)
        p.mutated()
        start += p.numel()
