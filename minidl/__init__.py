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
from .functional.elementwise import (  # fmt: skip
    abs,
    add,
    ceil,
    clamp,
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
    reciprocal,
    round,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    sub,
    tanh,
    where,
)
from .functional.indexing import argsort, diagonal, gather, index_select, sort, take_along_dim, topk, tril, triu
from .functional.products import bmm, matmul, mm, outer
from .functional.reduction import (
    all,
    amax,
    amin,
    any,
    argmax,
    argmin,
    cumsum,
    log_softmax,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    softmax,
    std,
    sum,
    var,
)
from .functional.shape import (
    broadcast_to,
    cat,
    chunk,
    flatten,
    flip,
    movedim,
    permute,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    transpose,
    unbind,
    unflatten,
    unsqueeze,
)

__version__ = "0.1.0"

# the types of elements, as PyTorch names them
uint8, int8, int16, int32, int64 = map(_dtype, ("uint8", "int8", "int16", "int32", "int64"))
float16, float32, float64 = map(_dtype, ("float16", "float32", "float64"))

# Subpackages and functions that are loaded when first used, so that importing minidl stays nearly as quick as NumPy.
_LATER = {
    **{
        name: f"minidl.{name}"
        for name in ("amp", "checking", "data", "graphs", "inspect", "models", "nn", "optim", "train")
    },
    "gradcheck": "minidl.checking:gradcheck",
    "gradgradcheck": "minidl.checking:gradgradcheck",
    **{name: f"minidl.inspect:{name}" for name in ("draw_autograd", "draw_layers", "explain", "summary")},
    **{
        name: f"minidl.kernels.precision:{name}"
        for name in ("conv_precision", "get_float32_matmul_precision", "set_float32_matmul_precision")
    },
    **{name: f"minidl.kernels.cpu.threads:{name}" for name in ("get_num_threads", "set_num_threads")},
    **{name: f"minidl.kernels.cuda.tuner:{name}" for name in ("get_autotune", "set_autotune")},
    **{name: f"minidl.core.memory:{name}" for name in ("empty_cache", "memory_stats")},
    "cuda": "minidl.core.cuda",
    "OutOfMemoryError": "minidl.core.cuda:OutOfMemoryError",
    "autocast": "minidl.amp:autocast",
    "bfloat16": "minidl.core.dtypes:bfloat16",
}

if TYPE_CHECKING:
    from . import amp, checking, data, graphs, inspect, models, nn, optim, train
    from .amp import autocast
    from .checking import gradcheck, gradgradcheck
    from .core import cuda
    from .core.cuda import OutOfMemoryError
    from .core.dtypes import bfloat16
    from .core.memory import empty_cache, memory_stats
    from .inspect import draw_autograd, draw_layers
    from .inspect.explain import explain
    from .inspect.summary import summary
    from .kernels.cpu.threads import get_num_threads, set_num_threads
    from .kernels.cuda.tuner import get_autotune, set_autotune
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
