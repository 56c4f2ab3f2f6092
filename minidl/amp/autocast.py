"""`autocast`: in which type each operation computes.

Products, which do most of the work and which tensor cores speed up, get 16-bit arguments. What adds up many numbers or
reaches far (sums, exponentials, losses) gets float32. Everything else takes what comes, by the rules of promotion.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from ..core.dtypes import DEFAULT, as_dtype
from ..core.graph import Leaf, tick, written_after
from ..core.mode import MODE, Mode, setting
from ..core.primitive import Primitive
from ..core.tensor import Tensor
from ..kernels import capture
from ..kernels.arrays import is_bfloat16, is_floating
from ..ops.elementwise import astype

# primitives that get 16-bit arguments: the products, and recurrences of products
LOW = frozenset((
    "contract", "conv", "conv_bias", "conv_gru", "conv_input", "conv_relu", "conv_weight", "gru", "linear",
    "linear_activated", "linear_weight", "lstm", "matmul", "rnn",
))  # fmt: skip
# primitives that get float32: sums, and functions whose results leave the range or the precision of 16 bits. The
# losses, norm, prod, reciprocal and rsqrt of minidl.functional ask for it themselves, as a whole.
FLOAT32 = frozenset((
    "binary_cross_entropy", "cumsum", "exp", "expm1", "log", "log1p", "log_softmax", "logsumexp", "pow", "softmax",
    "softmax_cross_entropy", "softplus", "sum",
))  # fmt: skip

DEFAULTS = {"cuda": "float16", "cpu": "bfloat16"}


class _Copies(dict[tuple[int, np.dtype], tuple[weakref.ref, Any, int]]):
    """id of an array and type -> the array, its copy in that type, and when that was made."""

    def of(self, array: Any, dtype: np.dtype) -> Any:
        """The copy of an array, made anew if the array was written to."""
        key = id(array), dtype
        entry = self.get(key)
        if entry is None or entry[0]() is not array or written_after(array, entry[2]):
            mine, now = weakref.ref(self), tick()

            def gone(_: Any) -> None:
                if (copies := mine()) is not None:
                    copies.pop(key, None)

            entry = self[key] = (weakref.ref(array, gone), astype(Tensor(array), dtype=dtype)._data, now)
        return entry[1]


class _Autocast:
    """What Mode.autocast holds: the 16-bit type of each kind of device on which casts happen, and casts that were made.

    The copies of parameters are kept, as arrays and not as tensors: each use gets a node of its own in the graph, so
    nothing of a graph stays alive here, and a copy made in one pass serves the next. A copy goes with its parameter, or
    when that is written to, at the end of the outermost block at the latest.
    """

    def __init__(self, dtypes: Mapping[str, np.dtype], caching: bool, copies: _Copies | None = None):
        self.dtypes = dtypes
        self.caching = caching
        self.copies = _Copies() if copies is None else copies

    def fresh(self) -> _Autocast:
        """The same casts, nothing kept yet."""
        return _Autocast(self.dtypes, self.caching)

    def low(self, x: Any) -> np.dtype | None:
        """The 16-bit type for a tensor or an array; None for what is not cast: float64, integers, other devices."""
        if not (isinstance(x, Tensor) or hasattr(x, "strides")) or not is_floating(x.dtype) or x.dtype == np.float64:
            return None
        return self.dtypes.get("cpu" if isinstance(getattr(x, "_data", x), (np.ndarray, np.generic)) else "cuda")

    def covers(self, x: Any) -> bool:
        """Whether operations cast this argument where they must."""
        return self.low(x) is not None

    def single(self, x: Any) -> Any:
        """In float32, if it is one of the types that are cast."""
        return x if self.low(x) is None or x.dtype == DEFAULT else _as(x, DEFAULT)

    def cast(self, primitive: Primitive, args: tuple, mode: Mode) -> tuple:
        """The arguments of a primitive in the types that it is to compute in; as they are if there is no tensor."""
        if primitive.name not in LOW:
            wide = primitive.name in FLOAT32 and any(isinstance(x, Tensor) for x in args)
            return tuple(map(self.single, args)) if wide else args
        if not any(isinstance(x, Tensor) for x in args):
            return args
        return tuple([self._lowered(x, self.low(x), mode) for x in args])

    def _lowered(self, x: Any, dtype: np.dtype | None, mode: Mode) -> Any:
        if dtype is None or x.dtype == dtype:
            return x
        keeps = self.caching and not capture.active()  # a captured step makes its copies anew in every replay
        if not (keeps and isinstance(x, Tensor) and type(x._leaf()) is Leaf and x.dtype == DEFAULT):
            return _as(x, dtype)
        array = x._data
        copy = self.copies.of(array, dtype)
        # what calling astype does, but for computing the copy
        recording = mode.recording and x.node is not None
        if mode.capture is not None:
            mode.capture.read([x.node] if recording else (), [array])
        if not recording:
            return Tensor(copy)
        return astype.record([x.node], [array], copy, {"dtype": dtype}, mode)


def _as(x: Any, dtype: np.dtype) -> Any:
    return astype(x, dtype=dtype) if isinstance(x, Tensor) else x.astype(dtype)


def autocast(
    device_type: str, dtype: Any = None, enabled: bool = True, cache_enabled: bool = True
) -> AbstractContextManager[None]:
    """Inside the block, or the decorated function, operations on tensors of a kind of device choose their types.

        with autocast("cuda", dtype=minidl.bfloat16):
            loss = F.cross_entropy(net(x), y)
        loss.backward()

    Convolutions, products of matrices and recurrences compute in `dtype`; sums, exponentials, logarithms, powers,
    softmax and losses in float32; everything else in the type that its arguments have in common. Casts are operations
    of the graph: a gradient has the type of what it belongs to. float64 is left alone. Backward belongs outside the
    block; inside it nothing is cast either.

    device_type: "cuda" or "cpu". dtype: bfloat16 or float16; by default float16 on "cuda" and bfloat16 on "cpu", as in
    PyTorch. enabled: False switches casts of this kind of device off inside another block. cache_enabled: keep the
    16-bit copies of parameters until the outermost block ends. Raises ValueError for another device or type.
    """
    if device_type not in DEFAULTS:
        raise ValueError(f"autocast: device_type is {device_type!r}; it must be 'cuda' or 'cpu'")
    low = as_dtype(DEFAULTS[device_type] if dtype is None else dtype) if enabled or dtype is not None else None
    if low is not None and low != np.float16 and not is_bfloat16(low):
        raise ValueError(f"autocast: dtype is {low}; it must be bfloat16 or float16")
    return _block(device_type, low if enabled else None, cache_enabled)


@contextmanager
def _block(device_type: str, low: np.dtype | None, caching: bool) -> Iterator[None]:
    outer = MODE.get().autocast
    dtypes = dict(outer.dtypes) if outer is not None else {}
    dtypes.pop(device_type, None)
    if low is not None:
        dtypes[device_type] = low
    inner = None
    if dtypes or outer is not None:  # a block that switches everything off hands the copies on to blocks inside it
        inner = _Autocast(dtypes, caching, None if outer is None else outer.copies)
    with setting(autocast=inner):
        yield


def is_autocast_enabled(device_type: str) -> bool:
    """Whether operations on tensors of this kind of device, "cuda" or "cpu", choose their types."""
    autocast = MODE.get().autocast
    return autocast is not None and device_type in autocast.dtypes


def get_autocast_dtype(device_type: str) -> np.dtype:
    """The 16-bit type of products on this kind of device, as it is, or would be by default."""
    autocast = MODE.get().autocast
    known = None if autocast is None else autocast.dtypes.get(device_type)
    return as_dtype(DEFAULTS[device_type]) if known is None else known
