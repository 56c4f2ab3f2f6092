"""Checkpointing: keep a function's arguments instead of all it computes, and compute it again for the gradient.

Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import random
from .backward import replayed
from .graph import Item, Junction, Node
from .mode import MODE, setting
from .primitive import Primitive, calling_line
from .tensor import Tensor


class _Checkpoint(Primitive):
    """A primitive whose meaning is the user's function; tensors that its closure reads are parents as well."""

    def __call__(self, func: Callable, *args: Any) -> Any:
        outer = MODE.get()
        state = random.get_rng_state()
        read: dict[Node, None] = {}
        with setting(recording=False, capture=read):
            result = func(*args)
        many = isinstance(result, (tuple, list))
        outs = list(result) if many else [result]
        for i, y in enumerate(outs):
            if not isinstance(y, Tensor):
                raise TypeError(f"a checkpointed function returns tensors; output {i} is a {type(y).__name__}")
        own = [x.node if isinstance(x, Tensor) else None for x in args]
        closure = [n for n in read if n not in own]
        parents = own + closure
        if outer.capture is not None:  # inside another checkpoint: it reads what this one reads
            outer.capture.update((n, None) for n in parents if n is not None)
        outs = [Tensor(y._data) for y in outs]
        if outer.recording and any(n is not None for n in parents):
            values = [x._data if isinstance(x, Tensor) else x for x in args]
            tensors = [isinstance(x, Tensor) for x in args]
            params = {"func": func, "state": state, "tensors": tensors}
            node = Junction(self, params, parents, values, [y._data for y in outs])
            if outer.anomaly:
                node.origin = calling_line()
            for i, y in enumerate(outs):
                if y.dtype.kind == "f":
                    y.node = Item(node, i, y._data)
        return tuple(outs) if many else outs[0]

    def pull(self, node: Node, g: Any, graph: bool) -> list:
        func, state, tensors = node.params["func"], node.params["state"], node.params["tensors"]
        args = [
            Tensor(value, parent) if is_tensor else value
            for value, parent, is_tensor in zip(node.saved, node.parents, tensors, strict=False)
        ]
        g = [gy if not graph or isinstance(gy, Tensor) else Tensor(gy) for gy in g]
        with random.replay(state):
            found = replayed(_as_tuple(func), args, g, {}, graph, node.parents[len(args) :])
        return found


def _as_tuple(func: Callable) -> Callable:
    def call(*args: Any) -> tuple:
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
