"""The graph: nodes, what they keep, and the clock.

A tensor is an array and a node. The node of a result knows the primitive that made it, the nodes of the arguments and
the arrays that the gradient rules will need; it never refers to the result itself, so a graph has no reference cycles
and is freed the moment its last output is.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# One clock orders everything: a node is younger than its parents, and memory that an optimizer writes to gets a stamp
# younger than the nodes that saved its old content.
tick = itertools.count(1).__next__


class Spec(NamedTuple):
    """Shape and dtype of an array that is not kept itself."""

    shape: tuple[int, ...]
    dtype: np.dtype | None


def spec(value: Any) -> Spec:
    return Spec(np.shape(value) if not hasattr(value, "shape") else value.shape, getattr(value, "dtype", None))


class Node:
    """One recorded operation with a single output of this shape and dtype."""

    __slots__ = ("__weakref__", "dtype", "hooks", "origin", "params", "parents", "primitive", "saved", "shape", "time")

    hooks: dict[int, Callable] | None
    origin: tuple[str, int, str]  # file, line and function of the call; set only under detect_anomaly()

    def __init__(self, primitive: Any, params: Any, parents: Any, saved: Any, out: Any):
        self.primitive = primitive
        self.params = params
        self.parents = parents
        self.saved = saved
        self.shape = out.shape
        self.dtype = out.dtype
        self.time = tick()
        self.hooks = None


class Leaf(Node):
    """Where a gradient comes to rest: the node of a tensor that asked for one."""

    __slots__ = ("grad", "strides")

    def __init__(self, array: Any):
        Node.__init__(self, None, {}, (), None, array)
        self.strides = array.strides
        self.grad: Any = None


class Junction(Node):
    """One recorded operation with several outputs; each has an `Item` node."""

    __slots__ = ("outputs",)

    def __init__(self, primitive: Any, params: Any, parents: Any, saved: Any, outs: Any):
        Node.__init__(self, primitive, params, parents, saved, spec(outs[0]))
        self.outputs = tuple(map(spec, outs))


class Item(Node):
    """One of the outputs of a junction, its only parent; `params` is the output's index."""

    __slots__ = ()

    def __init__(self, junction: Junction, index: int, out: Any):
        Node.__init__(self, None, index, (junction,), None, out)


FREED = object()  # stands for the saved arrays of a node that a backward pass has used up


class Clock:
    """When memory that a graph may have saved was last written to. Nodes younger than that need no check."""

    changed = 0


# The last write to each piece of memory: id of the array that owns it -> (weak reference to that array, time). By
# memory, because a clock in the leaf alone would miss frozen parameters, buffers, detach() and views.
_written: dict[int, tuple[weakref.ref, int]] = {}


def owner(array: Any) -> Any:
    """The array whose memory this one looks at: itself, or the end of its chain of bases."""
    while hasattr(base := array.base, "dtype"):
        array = base
    return array


def stamp(array: Any) -> None:
    """Note that the memory of this array was written to: older nodes that saved it must not be used any more."""
    memory = owner(array)
    key = id(memory)
    Clock.changed = tick()
    _written[key] = (weakref.ref(memory, lambda _: _written.pop(key, None)), Clock.changed)


Written = list[tuple[int, weakref.ref]]


def written_since(time: int) -> Written:
    """The memory that was written to after that time, as far as `stamp` was told, for `stamp_again`."""
    return [(key, ref) for key, (ref, last) in list(_written.items()) if last > time]


def stamp_again(memory: Written) -> bool:
    """`stamp` all of it at once; False, and nothing done, if an array of it is gone."""
    if any(ref() is None for _, ref in memory):
        return False
    Clock.changed = now = tick()
    _written.update((key, (ref, now)) for key, ref in memory)
    return True


def written_after(array: Any, time: int) -> bool:
    """Whether the memory of this array was written to, as far as `stamp` was told, after that time."""
    memory = owner(array)
    entry = _written.get(id(memory))
    return entry is not None and entry[1] > time and entry[0]() is memory
