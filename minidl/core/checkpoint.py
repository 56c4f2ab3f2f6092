"""Checkpointing: keep a function's arguments instead of all it computes, and compute it again for the gradient.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..kernels.arrays import is_floating
from . import random
from .backward import replayed
from .graph import Item, Junction, Node, owner, tick
from .mode import MODE, setting
from .primitive import Primitive, calling_line
from .tensor import Tensor


class _Reads:
    """What a function reads while it runs: nodes, and memory (by weak references, so that nothing is kept alive)."""

    def __init__(self) -> None:
        self.nodes: dict[Node, None] = {}
        self.memory: dict[int, weakref.ref] = {}

    def read(self, parents: Sequence[Node | None], values: Sequence) -> None:
        self.nodes.update((p, None) for p in parents if p is not None)
        for value in values:
            if hasattr(value, "strides") and not isinstance(value, np.generic):
                array = owner(value)
                known = self.memory.get(id(array))
                if known is None or known() is not array:  # an array that is gone may have had the same id
                    self.memory[id(array)] = weakref.ref(array)

    def include(self, other: _Reads) -> None:
        self.nodes.update(other.nodes)
        self.memory.update(other.memory)


class _Checkpoint(Primitive):
    """A primitive whose meaning is the user's function; tensors that its closure reads are parents as well."""

    def __call__(self, func: Callable, *args: Any) -> Any:
        outer = MODE.get()
        if not outer.recording:
            return func(*args)
        state, start, reads = random.moment(), tick(), _Reads()
        autocast = None if outer.autocast is None else outer.autocast.fresh()  # without the casts of before
        # The first run is recorded, so that the function may use hooks and gradients, and its graph dropped.
        with setting(capture=reads, autocast=autocast):
            result = func(*args)
        many = isinstance(result, (tuple, list))
        outs = list(result) if many else [result]
        del result
        for i, y in enumerate(outs):
            if not isinstance(y, Tensor):
                raise TypeError(f"a checkpointed function returns tensors; output {i} is a {type(y).__name__}")
        reads.nodes.update((y.node, None) for y in outs if y.node is not None)  # it may return what it did not make
        reads.nodes = {n: None for n in reads.nodes if n.time < start}
        outs = [Tensor(y._data) for y in outs]
        if outer.capture is not None:  # inside another checkpoint: it reads what this one reads
            outer.capture.include(reads)
        own = [x.node if isinstance(x, Tensor) else None for x in args]
        parents = own + [n for n in reads.nodes if n not in own]
        if any(n is not None for n in parents):
            values = [x._data if isinstance(x, Tensor) else x for x in args]
            tensors = [isinstance(x, Tensor) for x in args]
            params = {"func": func, "state": state, "tensors": tensors, "autocast": autocast}
            memory = [ref for ref in reads.memory.values() if ref() is not None]
            node = Junction(self, params, parents, (values, memory), [y._data for y in outs])
            if outer.anomaly:
                node.origin = calling_line()
            for i, y in enumerate(outs):
                if is_floating(y.dtype):
                    y.node = Item(node, i, y._data)
        return tuple(outs) if many else outs[0]

    def saved_arrays(self, node: Node) -> Iterator[tuple[str, Any]]:
        values, memory = node.saved
        for i, value in enumerate(values):
            if hasattr(value, "strides"):
                yield f"number {i}", value
        for ref in memory:
            if (array := ref()) is not None:
                yield "of its closure", array

    def pull(self, node: Node, g: Any, graph: bool) -> list:
        func, state, tensors = node.params["func"], node.params["state"], node.params["tensors"]
        args = [
            Tensor(value, parent) if is_tensor else value
            for value, parent, is_tensor in zip(node.saved[0], node.parents, tensors, strict=False)
        ]
        g = [gy if not graph or isinstance(gy, Tensor) else Tensor(gy) for gy in g]
        with random.replay(state):
            found = replayed(_as_tuple(func, node.params["autocast"]), args, g, {}, graph, node.parents[len(args) :])
        return found


def _as_tuple(func: Callable, autocast: Any) -> Callable:
    """func, which computes in the types of its first run and gives a tuple."""

    def call(*args: Any) -> tuple:
        with setting(autocast=None if autocast is None else autocast.fresh()):
            result = func(*args)
        return tuple(result) if isinstance(result, (tuple, list)) else (result,)

    return call


_checkpoint = _Checkpoint("checkpoint(args) -> y", kernel=lambda *args: None)


def checkpoint(func: Callable, *args: Any) -> Any:
    """func(*args), keeping only the arguments; what func computed on the way is computed again during backward.

    func returns a tensor or a tuple of tensors, and may use other tensors (its parameters) through its closure: they
    get gradients too. Random numbers are the same in both runs. Gradients of any order work, and checkpoints may be
    nested.
    """
    return _checkpoint(func, *args)
