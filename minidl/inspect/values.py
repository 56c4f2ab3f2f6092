"""What modules take and return: arrays in nested tuples, lists and dicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from numbers import Integral
from typing import Any

from ..core.dtypes import as_dtype
from ..functional.arguments import is_array
from ..functional.creation import zeros
from ..nn.module import Module


def inputs_for(function: str, model: Module, given: Any, dtype: Any) -> list[Any]:
    """The arguments of forward that `input_shape` of this function describes: a shape, an array, or a list of several
    of these or of anything else."""
    first = next(model.parameters(), None)
    kind = as_dtype(dtype) if dtype is not None else first.dtype if first is not None else None
    device = None if first is None else first.device
    several = isinstance(given, (tuple, list)) and not _is_shape(given)
    found = []
    for x in given if several else [given]:
        found.append(zeros(tuple(x), dtype=kind, device=device) if _is_shape(x) else x)
    if not several and not is_array(found[0]):
        raise TypeError(
            f"{function}: input_shape is {given!r}; it must be a shape such as (1, 3, 224, 224), a tensor, or a list "
            f"of several of these"
        )
    return found


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(isinstance(n, Integral) for n in value)


def leaves(value: Any) -> Iterator[Any]:
    """What nested tuples, lists and dicts hold, in order. A shape is held, not a tuple that holds."""
    return (leaf for _, leaf in named_leaves(value))


def named_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The same with where it is found, such as `name[0][key]`."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from named_leaves(part, f"{name}[{key}]")
    elif isinstance(value, (tuple, list)) and not isinstance(value, Shape):
        for i, part in enumerate(value):
            yield from named_leaves(part, f"{name}[{i}]")
    else:
        yield name, value


def mapped(call: Callable[[Any], Any], value: Any) -> Any:
    """Nested tuples, lists and dicts of the same types, with call(array) in the place of each array."""
    if is_array(value):
        return call(value)
    if isinstance(value, dict):
        twin = copy(value)
        twin.update((key, mapped(call, part)) for key, part in value.items())
        return twin
    if isinstance(value, (tuple, list)):
        parts = [mapped(call, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


class Shape(tuple):
    """A shape among other tuples."""

    __slots__ = ()


def shapes(value: Any) -> Any:
    """Nested tuples, lists and dicts with shapes in the place of tensors; other things by the name of their type."""
    if is_array(value):
        return Shape(value.shape)
    if isinstance(value, dict):
        return {key: shapes(part) for key, part in value.items()}
    if isinstance(value, (tuple, list)):
        parts = [shapes(part) for part in value]
        return parts if isinstance(value, list) else tuple(parts)
    return type(value).__name__


def kind_of(module: Module) -> str:
    """What a module is: its type, and the activation that it applies at the end, if any."""
    activation = getattr(module, "activation", None)
    return type(module).__name__ + (f" + {activation}" if isinstance(activation, str) else "")


def bytes_text(n: int) -> str:
    """1536 as 1.5 KiB."""
    if n < 1024:
        return f"{n} B"
    size = float(n)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        size /= 1024
        if size < 1024 or unit == "TiB":
            break
    return f"{size:.1f} {unit}"
