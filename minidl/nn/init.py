"""Initial values of parameters. Every function writes into its tensor in place, records nothing, and returns the
tensor.

Random numbers come from the stream that `minidl.manual_seed` starts, drawn on the host whatever the device, so that a
seed gives the same network everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..core import cuda
from ..core.random import generator
from ..core.tensor import Tensor, to_device
from ..kernels.arrays import is_floating

_skipping: ContextVar[bool] = ContextVar("minidl_skip_initialisation", default=False)


@contextmanager
def skip() -> Iterator[None]:
    """Initialise nothing inside the block: parameters of layers made there are zeros. For networks whose state is
    about to be loaded, or that are only counted and drawn; large ones then take neither time nor memory.

    Buffers, such as the running statistics of batch normalisation, have their usual values.
    """
    token = _skipping.set(True)
    try:
        yield
    finally:
        _skipping.reset(token)


def _write(tensor: Tensor, values: Any) -> Tensor:
    """Fill with a number or with an array from the host."""
    data = tensor.data
    with cuda.working_on(data):
        data[...] = to_device(values, tensor.device) if isinstance(values, np.ndarray) else values
    tensor.mutated()
    return tensor


def _drawing_type(tensor: Tensor) -> type:
    """float64 for float64, else float32: NumPy draws no float16."""
    if not is_floating(tensor.dtype):
        raise TypeError(f"only floating-point tensors are initialised at random; this one is {tensor.dtype}")
    return np.float64 if tensor.dtype == np.float64 else np.float32


# ---- constants
def constant_(tensor: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    return tensor if _skipping.get() else _write(tensor, val)


def ones_(tensor: Tensor) -> Tensor:
    """Ones."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Zeros."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """The identity matrix, in a tensor of two axes."""
    if tensor.ndim != 2:
        raise ValueError(f"eye_ needs a tensor of 2 axes; this one has shape {tensor.shape}")
    return tensor if _skipping.get() else _write(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """The weight of a convolution, (out, in, *kernel), that passes its input through: 1 at the middle of the kernel
    where input and output channel are the same (counted within each group), else 0."""
    if not 3 <= tensor.ndim <= 5:
        raise ValueError(
            f"dirac_ needs the weight of a convolution (3 to 5 axes); this tensor has shape {tensor.shape}"
        )
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"dirac_: groups is {groups}; it must divide the {tensor.shape[0]} output channels")
    if _skipping.get():
        return tensor
    values = np.zeros(tensor.shape)
    per_group = tensor.shape[0] // groups
    middle = tuple(k // 2 for k in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(per_group, tensor.shape[1])):
            values[(group * per_group + channel, channel, *middle)] = 1
    return _write(tensor, values)


# ---- simple distributions
def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Uniform in [a, b)."""
    if _skipping.get():
        return tensor
    values = generator().random(tensor.shape, _drawing_type(tensor))
    return _write(tensor, np.asarray(values * (b - a) + a))


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Normal with this mean and standard deviation."""
    if std < 0:
        raise ValueError(f"normal_: std is {std}; it must not be negative")
    if _skipping.get():
        return tensor
    values = generator().standard_normal(tensor.shape, _drawing_type(tensor))
    return _write(tensor, np.asarray(values * std + mean))


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Normal with this mean and standard deviation, restricted to [a, b] (absolute limits, not multiples of std)."""
    if std <= 0 or not a < b:
        raise ValueError(f"trunc_normal_: std is {std}, [a, b] is [{a}, {b}]; std must be positive and a below b")
    if _skipping.get():
        return tensor
    from scipy.special import ndtr, ndtri

    _drawing_type(tensor)
    flip = -1.0 if mean < a else 1.0  # the lower tail has the finer floating-point numbers
    ends = sorted((flip * (a - mean) / std, flip * (b - mean) / std))
    low, high = ndtr(ends)
    values = ndtri(low + (high - low) * generator().random(tensor.shape))
    return _write(tensor, np.clip(np.asarray(flip * std * values + mean), a, b))


# ---- scaled to the layer
def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The factor that keeps the variance of a signal through a layer with this nonlinearity; for "leaky_relu" param is
    the negative slope (0.01)."""
    if nonlinearity in ("linear", "sigmoid") or nonlinearity.startswith("conv"):
        return 1.0
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 0.75}
    if nonlinearity not in gains:
        raise ValueError(
            f"nonlinearity is {nonlinearity!r}; known are linear, conv…, sigmoid, leaky_relu, {', '.join(gains)}"
        )
    return gains[nonlinearity]


def fans(tensor: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (out, in, *kernel): how many numbers enter one output, and leave one input."""
    if tensor.ndim < 2:
        raise ValueError(f"fan-in and fan-out need a weight of at least 2 axes; this one has shape {tensor.shape}")
    taps = math.prod(tensor.shape[2:])
    return tensor.shape[1] * taps, tensor.shape[0] * taps


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f'mode is {mode!r}; it must be "fan_in" or "fan_out"')
    fan = fans(tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform within gain · sqrt(6 / (fan_in + fan_out)) of 0. Glorot & Bengio 2010, equation 16."""
    bound = gain * math.sqrt(6.0 / max(sum(fans(tensor)), 1))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with standard deviation gain · sqrt(2 / (fan_in + fan_out)). Glorot & Bengio 2010, equation 12."""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / max(sum(fans(tensor)), 1)))


def kaiming_uniform_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Uniform with the standard deviation of kaiming_normal_. He et al. 2015."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(tensor: Tensor, a: float = 0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with standard deviation gain / sqrt(fan): "fan_in" keeps the variance of the signal, "fan_out" that of the
    gradient. a: the negative slope of leaky_relu. He et al. 2015, equations 10 and 15."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """A random (semi-)orthogonal matrix times gain, with all axes but the first taken as one. Saxe et al. 2014."""
    if tensor.ndim < 2:
        raise ValueError(f"orthogonal_ needs a tensor of at least 2 axes; this one has shape {tensor.shape}")
    if _skipping.get() or not tensor.numel():
        return tensor
    _drawing_type(tensor)
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    q, r = np.linalg.qr(generator().standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.where(np.diagonal(r) < 0, -1, 1)  # makes the distribution uniform (Mezzadri 2007)
    return _write(tensor, gain * (q if rows >= columns else q.T).reshape(tensor.shape))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """Normal, with the share `sparsity` of each column (rounded up) set to 0, in a tensor of two axes. Martens 2010."""
    if tensor.ndim != 2 or not 0 <= sparsity <= 1:
        raise ValueError(f"sparse_ needs 2 axes and a share from 0 to 1; shape is {tensor.shape}, sparsity {sparsity}")
    if _skipping.get():
        return tensor
    rows, columns = tensor.shape
    values = generator().standard_normal((rows, columns), _drawing_type(tensor)) * std
    zeros = math.ceil(sparsity * rows)
    chosen = generator().permuted(np.tile(np.arange(rows)[:, None], columns), axis=0)[:zeros]
    values[chosen, np.arange(columns)] = 0
    return _write(tensor, values)


def default_(weight: Tensor, bias: Tensor | None) -> None:
    """What Linear and the convolutions start from: weight and bias uniform within 1 / sqrt(fan_in) of 0."""
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        bound = 1 / math.sqrt(max(fans(weight)[0], 1))
        uniform_(bias, -bound, bound)
