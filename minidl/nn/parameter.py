"""What a module owns: parameters, which are trained, and buffers, which are only kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..core.tensor import Tensor, tensor
from ..functional.creation import zeros


class Parameter(Tensor):
    """A tensor that belongs to a module and is trained: assigning it to an attribute registers it there.

    data: a tensor or an array, whose memory is used, or nested lists of numbers. Raises TypeError if a gradient is
    asked for and the type is not floating-point.
    """

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(_memory(data))
        self.requires_grad = requires_grad

    def _no_in_place(self, other: Any) -> Any:
        raise TypeError(
            "a parameter is not changed in place: `p -= x` would only give the name p to a new tensor. Write to its "
            "array, `p.data -= x`, and call p.mutated()"
        )

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = _no_in_place

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


class Buffer(Tensor):
    """A tensor that is part of a module's state but is not trained, such as a running mean. Assigning it to an
    attribute registers it there; a buffer that is not persistent stays out of the state_dict."""

    __slots__ = ("persistent",)

    def __init__(self, data: Any, persistent: bool = True):
        super().__init__(_memory(data))
        self.persistent = persistent

    def __deepcopy__(self, memo: dict) -> Buffer:
        twin = super().__deepcopy__(memo)
        assert isinstance(twin, Buffer)
        twin.persistent = self.persistent
        return twin

    def __repr__(self) -> str:
        return f"Buffer containing:\n{super().__repr__()}"


def _memory(data: Any) -> Any:
    """The array of a tensor or an array, which must be writable since optimizers work in place; else a new one."""
    array = data._data if isinstance(data, Tensor) else data
    if hasattr(array, "strides") and getattr(array.flags, "writeable", True):
        return array
    return tensor(array)._data


def new_parameter(shape: Sequence[int], device: str | None, dtype: Any) -> Parameter:
    """A parameter of zeros. The system hands out the memory of a large one only when it is written to, so that a module
    built under `init.skip()` costs next to nothing."""
    return Parameter(zeros(tuple(shape), dtype=dtype, device=device))


def rebind(x: Tensor, array: Any) -> None:
    """Let x hold an array of the same shape, but perhaps of another type or on another device. x stays the same
    object, as optimizers know it; an older graph that saved its content refuses to run backward."""
    x.mutated()
    x._data = array
    leaf = x._leaf()
    if leaf is not None:
        leaf.dtype, leaf.strides = array.dtype, array.strides
