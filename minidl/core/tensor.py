"""Tensor: an array and, if gradients flow through it, a node of the graph.

This file knows the data and the protocols. Arithmetic and the other operators are installed by `minidl.ops`.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy import ndarray

from ..kernels import capture
from ..kernels.arrays import is_bfloat16, is_floating, namespace
from . import cuda
from .dtypes import DEFAULT, as_dtype
from .graph import Leaf, Node, stamp, tick
from .uploads import upload

if TYPE_CHECKING:
    from collections.abc import Callable

    from .declared import Declared
else:
    Declared = object


class Tensor(Declared):
    """An n-dimensional array that can remember how it was computed.

    Make one with `minidl.tensor(data)`, which copies; `Tensor(array)` wraps an array without copying. Arithmetic
    follows NumPy's broadcasting and PyTorch's type promotion. Tensors are not changed in place: `x += y` makes a new
    tensor.
    """

    __slots__ = ("__weakref__", "_data", "_frozen", "node")
    __array_ufunc__ = None  # `array + tensor` becomes tensor.__radd__(array)
    __hash__ = object.__hash__  # == compares elements, identity makes the hash

    def __init__(self, data: Any, node: Any = None):
        self._data = data if node is not None or type(data) is ndarray else as_array(data)
        self.node = node

    # ---- what it is
    @property
    def data(self) -> Any:
        """The array itself, NumPy's or CuPy's. Whoever writes to it calls `mutated()` afterwards; assigning a new array
        of the same shape and dtype does so."""
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        if isinstance(array, Tensor):
            array = array._data
        if array.shape != self._data.shape or array.dtype != self._data.dtype:
            raise ValueError(
                f"the new data is {array.dtype}{list(array.shape)}, this tensor {self.dtype}{list(self.shape)}: "
                f"shape and dtype must stay"
            )
        stamp(self._data)
        recorder = capture.recorder()
        if recorder is not None and recorder.capturing and not recorder.made(self._data):
            with cuda.working_on(self._data):  # a replay repeats work, not assignments
                self._data[...] = array
            return
        self._data = array
        leaf = self._leaf()
        if leaf is not None:
            leaf.strides = array.strides

    def mutated(self) -> None:
        """Say that the array was written to: graphs that saved this memory refuse to run backward."""
        stamp(self._data)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def nbytes(self) -> int:
        return self._data.nbytes

    @property
    def itemsize(self) -> int:
        return self._data.itemsize

    @property
    def device(self) -> str:
        """Where the array lives: "cpu" or "cuda:0", "cuda:1" …"""
        return "cpu" if isinstance(self._data, np.ndarray) else f"cuda:{self._data.device.id}"

    def dim(self) -> int:
        return self._data.ndim

    def numel(self) -> int:
        """Number of elements."""
        return self._data.size

    def size(self, dim: int | None = None) -> Any:
        """The shape, or the length of one axis."""
        return self._data.shape if dim is None else self._data.shape[dim]

    def is_floating_point(self) -> bool:
        return is_floating(self._data.dtype)

    def __len__(self) -> int:
        if not self._data.shape:
            raise TypeError("a tensor without axes has no length")
        return self._data.shape[0]

    def __bool__(self) -> bool:
        if self._data.size != 1:
            raise ValueError(f"the truth of a tensor of shape {self.shape} is ambiguous: use .any() or .all()")
        return bool(self._data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        if self._data.dtype.kind not in "iu" or self._data.size != 1:
            raise TypeError(f"only an integer tensor of one element is an index, not {self.dtype}{list(self.shape)}")
        return int(self.item())

    def __format__(self, form: str) -> str:
        return format(self.item(), form) if form and self._data.size == 1 else str(self)

    def __repr__(self) -> str:
        host = self._host()
        if is_bfloat16(host.dtype):  # NumPy would print its numbers as if they were integers
            host = host.astype(DEFAULT)
        body = np.array2string(host, separator=", ", prefix="tensor(", threshold=1000, precision=4)
        notes = []
        if self.dtype != DEFAULT and self.dtype.kind not in "b" and self.dtype != np.dtype("int64"):
            notes.append(f"dtype={self.dtype}")
        if self._data.size == 0:
            notes.append(f"shape={self.shape}")
        if self.device != "cpu":
            notes.append(f"device='{self.device}'")
        if type(self.node) is Leaf:
            notes.append("requires_grad=True")
        elif self.node is not None:
            primitive = self.node.primitive or self.node.parents[0].primitive
            notes.append(f"grad_fn=<{primitive.name}>")
        return f"tensor({', '.join([body, *notes])})"

    # ---- out to the world
    def _host(self) -> np.ndarray:
        return self._data if isinstance(self._data, np.ndarray) else _to_host(self._data)

    def numpy(self) -> np.ndarray:
        """The content as a NumPy array, apart from the graph.

        It shares memory with a CPU tensor, and is read-only while the tensor is in a graph, which may have saved it;
        a CUDA tensor is copied to the host.
        """
        array = self._host().view()
        if self.node is not None:
            array.flags.writeable = False
        return array

    def item(self) -> Any:
        """The only element as a Python number."""
        if self._data.size != 1:
            raise ValueError(f"item() needs a tensor of one element; this one has shape {self.shape}")
        return self._data.item()

    def tolist(self) -> Any:
        """The content as nested lists of Python numbers."""
        return self._data.tolist()

    def detach(self) -> Tensor:
        """The same array outside the graph (memory is shared)."""
        return Tensor(self._data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.node is not None:
            raise RuntimeError("this tensor is in a graph: use .numpy() or .detach() to leave it on purpose")
        if not isinstance(self._data, np.ndarray):
            raise TypeError(f"this tensor lives on {self.device}: copy it to the host with .numpy() or .to('cpu')")
        return np.array(self._data, dtype=dtype, copy=copy)

    def __dlpack__(self, **kwargs: Any) -> Any:
        if self.node is not None:
            raise BufferError("a tensor in a graph cannot be exported: use .detach() first")
        if is_bfloat16(self.dtype) and isinstance(self._data, np.ndarray):
            raise BufferError("NumPy cannot export bfloat16 through DLPack: convert it with .float() first")
        return self._data.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._data.__dlpack_device__()

    def __reduce__(self) -> Any:
        raise TypeError("tensors are not pickled: keep arrays (x.numpy()) or a state_dict, in safetensors or npz files")

    def __setitem__(self, index: Any, value: Any) -> None:
        raise TypeError(
            "tensors are not changed in place: build a new one (minidl.where, cat, pad), or write to x.data of a "
            "tensor that no graph has used and call x.mutated()"
        )

    def __deepcopy__(self, memo: dict) -> Tensor:
        if self.node is not None and type(self.node) is not Leaf:
            raise RuntimeError(
                "only tensors made by the user can be deep-copied, not results in a graph: detach() first"
            )
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        with cuda.working_on(self._data):
            twin._data = self._data.copy(order="K")
            twin.node = None if self.node is None else Leaf(twin._data)
            if twin.node is not None and self.grad is not None:
                twin.node.grad = Tensor(self.grad._data.copy())
        return twin

    # ---- gradients
    @property
    def is_leaf(self) -> bool:
        """Whether the user made it, rather than a recorded operation."""
        return self.node is None or type(self.node) is Leaf

    @property
    def requires_grad(self) -> bool:
        """Whether gradients flow to or through this tensor. Can be set on leaves of floating-point type."""
        return self.node is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if not self.is_leaf:
            raise RuntimeError("requires_grad can only be set on leaves; use detach() to leave the graph")
        if wanted and self.node is None:
            if not is_floating(self.dtype):
                raise TypeError(f"only floating-point tensors can require gradients; this one is {self.dtype}")
            frozen = getattr(self, "_frozen", None)  # switched off and on again, it keeps its gradient
            self.node = frozen if frozen is not None else Leaf(self._data)
        elif not wanted and self.node is not None:
            self._frozen, self.node = self.node, None

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Set `requires_grad` and return the tensor itself."""
        self.requires_grad = requires_grad
        return self

    def _leaf(self) -> Leaf | None:
        node = self.node if self.node is not None else getattr(self, "_frozen", None)
        return node if type(node) is Leaf else None

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward passes have summed up in this leaf, or None."""
        leaf = self._leaf()
        return None if leaf is None else leaf.grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        leaf = self._leaf()
        if leaf is None:
            if value is None:
                return
            raise RuntimeError("only leaves that require gradients hold one")
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(f"a gradient must be a tensor, not {type(value).__name__}")
        if value is not None and (value.shape != self.shape or value.dtype != self.dtype):
            raise ValueError(
                f"the gradient is {value.dtype}{list(value.shape)}, its tensor {self.dtype}{list(self.shape)}: shape "
                f"and dtype must agree"
            )
        leaf.grad = value

    def backward(self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False) -> None:
        """Add the gradient of this tensor to `.grad` of every leaf it was computed from.

        gradient: what flows in, of this tensor's shape; needed unless it has one element (then 1).
        retain_graph: keep the saved arrays for another backward pass (default: create_graph).
        create_graph: record the computation of the gradients, so that they can be differentiated.
        """
        from .backward import backward

        backward(self, gradient, retain_graph, create_graph)

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
        """Call `hook(gradient)` when this tensor's gradient is complete; what it returns (if not None) replaces it.

        Returns a handle whose `remove()` takes the hook away.
        """
        if self.node is None:
            raise RuntimeError("a hook needs a tensor that requires gradients")
        if self.node.hooks is None:
            self.node.hooks = {}
        return RemovableHandle(self.node.hooks, hook)


class RemovableHandle:
    """Stands for a registered hook; `remove()`, or leaving a `with` block, takes the hook away."""

    _numbers = itertools.count()

    def __init__(self, hooks: dict[int, Callable], hook: Callable):
        self.id = next(self._numbers)
        self._hooks = hooks
        hooks[self.id] = hook

    def remove(self) -> None:
        self._hooks.pop(self.id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


_new = object.__new__


def recorded(primitive: Any, params: dict, parents: Any, saved: Any, array: Any) -> Tensor:
    """Tensor(array, Node(primitive, params, parents, saved, array)) in one piece: without the two constructors,
    recording a small operation takes a twelfth less time."""
    node = _new(Node)
    node.primitive = primitive
    node.params = params
    node.parents = parents
    node.saved = saved
    node.shape = array.shape
    node.dtype = array.dtype
    node.time = tick()
    node.hooks = None
    tensor = _new(Tensor)
    tensor._data = array
    tensor.node = node
    return tensor


def as_array(data: Any) -> Any:
    """Whatever is no array yet (numbers, lists, NumPy's scalars) as a NumPy array."""
    return data if hasattr(data, "strides") and not isinstance(data, np.generic) else np.asarray(data)


def tensor(data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`: an array, a tensor, a number or nested lists of numbers.

    A NumPy array keeps its dtype; Python floats become float32, Python ints int64.
    """
    if isinstance(data, Tensor):
        data = data._data
    if hasattr(data, "strides"):
        with cuda.working_on(data):
            array = namespace(data).array(data, dtype=None if dtype is None else as_dtype(dtype), order="K", copy=True)
    else:
        array = _from_python(data, dtype)
    as_dtype(array.dtype)
    result = Tensor(array)
    if device is not None:
        result = Tensor(to_device(array, device))
    if requires_grad:
        result.requires_grad = True
    return result


def _from_python(data: Any, dtype: Any) -> np.ndarray:
    if dtype is not None:
        return np.array(data, as_dtype(dtype))
    try:
        array = np.array(data)
    except ValueError as error:
        raise ValueError(f"data cannot become a tensor: {error}") from None
    return array.astype(DEFAULT) if array.dtype == np.float64 and not _holds_arrays(data) else array


def _holds_arrays(data: Any) -> bool:
    """Whether nested lists hold NumPy values, whose dtype is kept."""
    while isinstance(data, (list, tuple)) and len(data):
        data = data[0]
    return hasattr(data, "dtype")


def as_tensor(data: Any, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """`data` as a tensor, without a copy where it already is one or is an array of the right dtype and device."""
    result = (
        data if isinstance(data, Tensor) else Tensor(data) if hasattr(data, "strides") else tensor(data, dtype=dtype)
    )
    as_dtype(result.dtype)
    if dtype is not None and result.dtype != as_dtype(dtype):
        result = tensor(result, dtype=dtype)
    return result if device is None else Tensor(to_device(result._data, device))


def from_numpy(array: np.ndarray) -> Tensor:
    """A tensor on the memory of `array` (no copy)."""
    if not isinstance(array, np.ndarray):
        raise TypeError(f"from_numpy needs a NumPy array, got {type(array).__name__}")
    as_dtype(array.dtype)
    return Tensor(array)


def from_dlpack(other: Any) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (no copy): CPU and CUDA arrays of other libraries."""
    if not hasattr(other, "__dlpack_device__"):
        raise TypeError(f"from_dlpack needs an array of a library that speaks DLPack, not {type(other).__name__}")
    cpu = other.__dlpack_device__()[0] == 1
    array = np.from_dlpack(other) if cpu else cuda.cupy().from_dlpack(other)
    as_dtype(array.dtype)
    return Tensor(array)


def to_device(array: Any, device: str, non_blocking: bool = False) -> Any:
    """The array on "cpu", "cuda" or "cuda:N"; itself if it is there already. non_blocking: see `Tensor.to`."""
    place = place_of(device)
    if place is None:
        return array if isinstance(array, np.ndarray) else _to_host(array)
    if not isinstance(array, np.ndarray):
        if place.id == array.device.id:
            return array
        place.__class__(array.device.id).synchronize()  # its stream does not know of the other device's
        with place, cuda.naming(f"to({str(device)!r})"):
            return cuda.cupy().asarray(array)
    with place, cuda.naming(f"to({str(device)!r})"):
        return upload(array, non_blocking)


def place_of(device: str) -> Any:
    """The cupy.cuda.Device of "cuda" or "cuda:N"; None for "cpu"."""
    kind, colon, number = str(device).partition(":")
    if kind not in ("cpu", "cuda") or (colon and (kind == "cpu" or not number.isdigit())):
        raise ValueError(f"device is {device!r}: it must be 'cpu', 'cuda' or 'cuda:N'")
    return None if kind == "cpu" else cuda.place(str(device))


def _to_host(array: Any) -> np.ndarray:
    with array.device:
        return array.get()
