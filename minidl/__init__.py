"""minidl: a deep-learning engine small enough to read and fast enough to use.

import minidl
import minidl.functional as F
from minidl import nn, optim
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from numpy import dtype as _dtype

from . import functional
from .core import (
    Tensor,
    as_tensor,
    backend,
    checkpoint,
    detect_anomaly,
    enable_grad,
    from_dlpack,
    from_numpy,
    get_rng_state,
    grad,
    hvp,
    is_grad_enabled,
    jvp,
    manual_seed,
    no_grad,
    promote_types,
    result_type,
    set_grad_enabled,
    set_rng_state,
    tensor,
    vjp,
)
from .functional.activation import relu
from .functional.array import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    argsort,
    bmm,
    broadcast_to,
    cat,
    chunk,
    clamp,
    cumsum,
    diagonal,
    flatten,
    flip,
    gather,
    index_select,
    log_softmax,
    logsumexp,
    matmul,
    max,
    mean,
    min,
    mm,
    movedim,
    norm,
    outer,
    permute,
    prod,
    reciprocal,
    repeat,
    reshape,
    roll,
    rsqrt,
    softmax,
    sort,
    split,
    squeeze,
    stack,
    std,
    sum,
    take_along_dim,
    topk,
    transpose,
    tril,
    triu,
    unbind,
    unflatten,
    unsqueeze,
    var,
)  # fmt: skip
from .functional.comparison import allclose, equal
from .functional.creation import (
    arange,
    bernoulli,
    empty,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    rand,
    rand_like,
    randint,
    randn,
    randn_like,
    randperm,
    zeros,
    zeros_like,
)  # fmt: skip
from .functional.einsum import einsum
from .functional.elementwise import (
    abs,
    add,
    ceil,
    clone,
    cos,
    div,
    erf,
    exp,
    expm1,
    floor,
    isfinite,
    isinf,
    isnan,
    log,
    log1p,
    log2,
    logical_not,
    masked_fill,
    maximum,
    minimum,
    mul,
    neg,
    pow,
    round,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    sub,
    tanh,
    where,
)  # fmt: skip

__version__ = "0.1.0"

# the types of elements, as PyTorch names them
uint8, int8, int16, int32, int64 = map(_dtype, ("uint8", "int8", "int16", "int32", "int64"))
float16, float32, float64 = map(_dtype, ("float16", "float32", "float64"))

# Subpackages and functions that are loaded when first used, so that importing minidl stays nearly as quick as NumPy.
_LATER = {
    **{name: f"minidl.{name}" for name in ("checking", "data", "inspect", "models", "nn", "optim", "train")},
    "gradcheck": "minidl.checking:gradcheck",
    "gradgradcheck": "minidl.checking:gradgradcheck",
    **{name: f"minidl.inspect:{name}" for name in ("draw_autograd", "draw_layers", "explain", "summary")},
    **{
        name: f"minidl.kernels.precision:{name}"
        for name in ("conv_precision", "get_float32_matmul_precision", "set_float32_matmul_precision")
    },
    **{name: f"minidl.kernels.cpu.threads:{name}" for name in ("get_num_threads", "set_num_threads")},
    **{name: f"minidl.core.memory:{name}" for name in ("empty_cache", "memory_stats")},
    "cuda": "minidl.core.cuda",
    "OutOfMemoryError": "minidl.core.cuda:OutOfMemoryError",
}

if TYPE_CHECKING:
    from . import checking, data, inspect, models, nn, optim, train
    from .checking import gradcheck, gradgradcheck
    from .core import cuda
    from .core.cuda import OutOfMemoryError
    from .core.memory import empty_cache, memory_stats
    from .inspect import draw_autograd, draw_layers
    from .inspect.explain import explain
    from .inspect.summary import summary
    from .kernels.cpu.threads import get_num_threads, set_num_threads
    from .kernels.precision import conv_precision, get_float32_matmul_precision, set_float32_matmul_precision


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'minidl' has no attribute {name!r}")
    module, _, member = _LATER[name].partition(":")
    value = import_module(module)
    if member:
        value = getattr(value, member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
