"""Normalisation over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.dtypes import DEFAULT
from ..core.tensor import Tensor
from ..kernels.arrays import is_floating, namespace
from ..ops import norm
from ..ops.elementwise import sqrt
from .arguments import check_floating, check_shape, in_single, on_its_device
from .shape import reshape


@on_its_device
def batch_norm(
    input: Any, running_mean: Tensor | None, running_var: Tensor | None, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """Each channel of (N, C, …) with mean 0 and variance 1, times weight plus bias. Ioffe & Szegedy 2015.

    training: mean and (biased) variance are those of the batch, and running_mean and running_var, if given, move
    towards them by `momentum` (the variance unbiased). Otherwise the running ones are used. All four vectors have shape
    (C,). An input of 16 bits goes with vectors of its type or of float32; then everything is computed in float32, and
    the result has input's type.
    """
    vectors = (running_mean, running_var, weight, bias)
    half = getattr(input, "itemsize", 0) == 2 and is_floating(input.dtype)
    if half and any(getattr(v, "dtype", None) == DEFAULT for v in vectors):
        return in_single(batch_norm, input, *vectors, training, momentum, eps)
    check_floating(
        "batch_norm", input=input, weight=weight, bias=bias, running_mean=running_mean, running_var=running_var
    )
    if input.ndim < 2:
        raise ValueError(f"batch_norm: input has shape {tuple(input.shape)}; it needs a batch and a channel axis")
    channels = input.shape[1]
    named = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in named.items():
        if vector is not None:
            check_shape("batch_norm", name, vector, (channels,))
            if training and name.startswith("running") and not isinstance(vector, Tensor):
                raise TypeError(
                    f"batch_norm: {name} must be a tensor, not {type(vector).__name__}: training changes it in place"
                )
    count = int(np.prod(input.shape)) // max(channels, 1)
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: without training, running_mean and running_var are needed")
        return _normalized(input, running_mean, running_var, weight, bias, eps)
    if count <= 1:
        raise ValueError(
            f"batch_norm: input of shape {tuple(input.shape)} has {count} value for each channel; training needs at "
            f"least 2"
        )
    xp = namespace(input._data if isinstance(input, Tensor) else input)
    gamma = xp.ones(channels, input.dtype) if weight is None else weight
    beta = xp.zeros(channels, input.dtype) if bias is None else bias
    out, mean, var = norm.batch_norm(input, gamma, beta, eps=eps)
    for running, batch in ((running_mean, mean), (running_var, var * (count / (count - 1)))):
        if running is not None:
            array = running.data  # in place: a state_dict shares this memory
            array *= 1 - momentum
            array += (batch._data if isinstance(batch, Tensor) else batch) * momentum
            running.mutated()
    return out


def _normalized(input: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> Any:
    shape = (1, -1, *(1,) * (input.ndim - 2))
    scale = 1 / sqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    return input * reshape(scale, shape) + reshape(shift, shape)
