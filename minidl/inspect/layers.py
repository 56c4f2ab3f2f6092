"""The graph of a network's layers, found by following arrays through one call of it."""

from __future__ import annotations

import inspect
import weakref
from collections import Counter
from typing import Any

from ..core.tensor import Tensor, as_array
from ..functional.arguments import is_array
from ..nn.module import Module
from .drawing import Cluster, Drawing, Edge, Kind, Node, check_limit, shape_text
from .tracing import hooked, tracing
from .values import inputs_for, kind_of, leaves, mapped, named_leaves, shapes


def draw_layers(
    model: Module, input_shape: Any, *, dtype: Any = None, depth: int | None = None, compute: bool = False,
    most: int = 400,
) -> Drawing:  # fmt: skip
    """The layers of a network as it calls them, and the tensors between them.

        draw_layers(net, (1, 3, 224, 224)).save("net.svg")

    input_shape, dtype and compute are those of `summary`: the network is called once, in evaluation mode, without
    recording, and products of matrices are not computed. depth: layers inside more than so many others are not drawn
    by themselves (1: only what the network itself calls). most: the number of nodes that is still drawn.

    - A module that calls no other is a box: its name, class, output shape and number of parameters. Called twice, it is
      two boxes, the second with "same weights"; parameters that layers share are counted in the first.
    - A module that calls others is a frame around their boxes; the network itself is the page. One that raises, if the
      network goes on all the same, is not drawn.
    - Primitives that such modules call themselves (relu, cat, add, flatten, which is a reshape) are small nodes. They
      show their shape where it is not that of their first input. What has only constants to work on is left out.
    - Parameters and buffers are nodes where they go into such a primitive, or into a layer as an argument.

    Edges are the tensors. They are followed through every operation of minidl, but not through NumPy: what is computed
    there is a constant. Modes, hooks and the random stream are as before afterwards; buffers do not change. Raises
    ValueError if there are more nodes than `most`, and what forward raises, with the name of the layer added.
    """
    if not isinstance(model, Module):
        raise TypeError(f"draw_layers: model must be a Module, not {type(model).__name__}")
    if depth is not None and depth < 1:
        raise ValueError(f"draw_layers: depth is {depth}; it must be at least 1, or None")
    inputs = inputs_for("draw_layers", model, input_shape, dtype)
    flow = _Flow(model, depth)
    inputs = flow.given(inputs)
    count = lambda multiply_adds: None
    try:
        with tracing(count, values=compute, watch=flow.operation), hooked(model, flow.enter, flow.leave):
            output = model(*inputs)
        flow.returned(output)
    except Exception as error:
        if flow.running:
            call = flow.running[-1]
            error.add_note(f"in layer {call.name!r} ({call.type}), while drawing {type(model).__name__}")
        raise
    finally:
        flow.made.clear()  # its callbacks refer to it: a cycle
    return _Picture(flow, most).drawing()


class _Call:
    """One call of a module, and what happened in it."""

    def __init__(self, module: Module, name: str, around: _Call | None, use: int):
        self.module, self.name, self.around, self.use = module, name, around, use
        self.type = kind_of(module)
        self.depth: int = 0 if around is None else around.depth + 1
        self.calls_others = False
        self.raised = False  # and its caller went on
        self.part = _Part("layer", name, around)


class _Part:
    """What makes arrays: an input, a parameter, an operation or the call of a layer."""

    def __init__(self, kind: Kind, name: str, call: _Call | None, shape: Any = None):
        self.kind, self.name, self.shape = kind, name, shape
        self.call = call  # the module that was running
        self.sources: list[tuple[_Part, Any]] = []  # what went in, and the shapes


class _Flow:
    """Which part made an array, by the array's identity: views and equal arrays are others."""

    def __init__(self, model: Module, depth: int | None):
        self.model, self.depth = model, depth
        self.names = {module: name for name, module in model.named_modules()}
        self.running: list[_Call] = []
        self.calls: list[_Call] = []
        self.parts: list[_Part] = []
        self.uses: Counter[Module] = Counter()
        self.made: dict[int, tuple[weakref.ref, _Part]] = {}  # by id; arrays are not kept alive
        self.held: dict[_Part, Tensor] = {}  # parameters and buffers
        for name, p in model.named_parameters():
            self.hold("parameter", name, p)
        for name, b in model.named_buffers():
            self.hold("buffer", name, b)

    def hold(self, kind: Kind, name: str, x: Tensor) -> None:
        part = _Part(kind, name, None, shapes(x))
        self.held[part] = x
        self.mark(x._data, part)

    def mark(self, array: Any, part: _Part) -> None:
        key = id(array)
        self.made[key] = (weakref.ref(array, lambda _: self.made.pop(key, None)), part)

    def maker(self, value: Any) -> _Part | None:
        found = self.made.get(id(value._data if isinstance(value, Tensor) else value))
        return None if found is None else found[1]

    def sources(self, values: Any) -> list[tuple[_Part, Any]]:
        pairs = [(self.maker(x), x) for x in values if is_array(x)]
        return [(part, shapes(x)) for part, x in pairs if part is not None]

    def fresh(self, value: Any, part: _Part) -> Any:
        """The same arrays as objects of their own, marked as made by this part."""

        def renew(x: Any) -> Any:
            array = (x._data if isinstance(x, Tensor) else x).view()
            self.mark(array, part)
            return Tensor(array) if isinstance(x, Tensor) else array

        return mapped(renew, value)

    # ---- what the network meets
    def given(self, inputs: list[Any]) -> list[Any]:
        """The arguments of forward, named as there."""
        names: list[str] = []
        for parameter in inspect.signature(self.model.forward).parameters.values():
            if parameter.kind is parameter.VAR_POSITIONAL:
                names += [f"{parameter.name}[{i}]" for i in range(len(inputs) - len(names))]
            elif parameter.kind is not parameter.KEYWORD_ONLY:
                names.append(parameter.name)
        found = []
        for i, value in enumerate(inputs):
            name = names[i] if i < len(names) else f"input {i}"
            labels = iter([label for label, x in named_leaves(value, name) if is_array(x)])

            def enter(x: Any, labels: Any = labels) -> Any:
                self.parts.append(_Part("input", next(labels), None, shapes(x)))
                return self.fresh(x, self.parts[-1])

            found.append(mapped(enter, value))
        return found

    def returned(self, output: Any) -> None:
        for name, x in named_leaves(output, "output"):
            if is_array(x):
                part = _Part("output", name, None, shapes(x))
                part.sources = self.sources([x])
                self.parts.append(part)

    def operation(self, name: str, args: tuple, out: Any) -> Any:
        """Called with the arrays of every operation; the result's arrays are objects of their own."""
        sources = self.sources(args)
        if not sources:
            return out
        several = isinstance(out, (tuple, list))
        outs = [as_array(y) for y in (out if several else (out,))]
        part = _Part("function", name, self.running[-1] if self.running else None, shapes(outs if several else outs[0]))
        part.sources = sources
        self.parts.append(part)
        outs = [self.fresh(y, part) for y in outs]
        return type(out)(outs) if several else outs[0]

    def enter(self, module: Module, args: tuple) -> None:
        around = self.running[-1] if self.running else None
        if around is not None:
            around.calls_others = True
        self.uses[module] += 1
        call = _Call(module, self.names[module], around, self.uses[module])
        call.part.sources = self.sources(leaves(args))
        self.running.append(call)
        self.calls.append(call)
        self.parts.append(call.part)

    def leave(self, module: Module, args: tuple, output: Any) -> Any:
        call = self.running.pop()
        while call.module is not module:
            call.raised = True
            call = self.running.pop()
        call.part.shape = shapes(output)
        return self.fresh(output, call.part) if self.is_box(call) else None

    def is_box(self, call: _Call) -> bool:
        return not call.raised and (not call.calls_others or (self.depth is not None and call.depth >= self.depth))

    def box(self, part: _Part) -> _Part:
        """The part that stands for this one: itself, or the outermost layer around it that is drawn as a box."""
        found = part
        call = part.call
        while call is not None:
            if self.is_box(call):
                found = call.part
            call = call.around
        return found


class _Picture:
    """From what was seen to what is drawn."""

    def __init__(self, flow: _Flow, most: int):
        self.flow = flow
        edges: dict[tuple[_Part, _Part], list[str]] = {}
        self.place: dict[_Part, _Call | None] = {}  # of held tensors: where they are first used
        order: list[_Part] = []
        frames = {call.part for call in flow.calls if not flow.is_box(call)}
        for part in flow.parts:
            target = flow.box(part)
            if part in frames:
                continue
            for source, shape in part.sources:
                origin = flow.box(source)
                if origin is target or (source in flow.held and part is not target):
                    continue  # inside a box, or a layer's own weights
                if source in flow.held and source not in self.place:
                    self.place[source] = part.call
                    order.append(source)
                text = shape_text(shape)
                if text not in edges.setdefault((origin, target), []):
                    edges[origin, target].append(text)
            if part is target:
                order.append(part)
        check_limit("draw_layers", len(order), most)
        self.order, self.edges = order, edges
        self.frames: dict[_Call, int] = {}
        for call in flow.calls:
            if call.around is not None and not call.raised and call.part in frames and flow.box(call.part) is call.part:
                self.frames[call] = len(self.frames)
        self.counted: set[Any] = set()

    def drawing(self) -> Drawing:
        numbers = {part: i for i, part in enumerate(self.order)}
        boxes = {call.part: call for call in self.flow.calls}
        found = {i: self.layer(i, boxes[p]) for p, i in numbers.items() if p in boxes}  # these count parameters first
        nodes = [found[i] if i in found else self.small(i, p) for p, i in numbers.items()]
        edges = [Edge(numbers[a], numbers[b], ", ".join(texts)) for (a, b), texts in self.edges.items()]
        clusters = [
            Cluster(i, c.name, c.type, self.cluster(c.around), (self.local(c.name, c.around), c.type))
            for c, i in self.frames.items()
        ]
        model = self.flow.model
        total = sum(p.numel() for p in model.parameters())
        layers = sum(node.kind == "layer" for node in nodes)
        caption = f"{layers} layer{'s' * (layers != 1)}, {total:,} parameters"
        return Drawing(type(model).__name__, caption, tuple(nodes), tuple(edges), tuple(clusters))

    def cluster(self, call: _Call | None) -> int | None:
        around = _standing(call)
        return None if around is None else self.frames.get(around)

    def local(self, name: str, call: _Call | None) -> str:
        """A dotted name as it reads inside the frame of another module."""
        around = _standing(call)
        prefix = f"{around.name}." if around is not None and around.name else ""
        return name.removeprefix(prefix)

    def layer(self, number: int, call: _Call) -> Node:
        own = [p for p in call.module.parameters() if p not in self.counted]
        self.counted.update(own)
        count = sum(p.numel() for p in own)
        notes = [shape_text(call.part.shape) if call.part.shape is not None else "no output"]
        if count:
            notes.append(f"{count:,} parameter{'s' * (count != 1)}")
        elif next(call.module.parameters(), None) is not None:
            notes.append("same weights" if call.use > 1 else "shared weights")
        return Node(
            number, "layer", call.name, call.type, call.part.shape, count, cluster=self.cluster(call.around),
            heading=(self.local(call.name, call.around), call.type), details=(" · ".join(notes),),
        )  # fmt: skip

    def small(self, number: int, part: _Part) -> Node:
        """An operation, a parameter, an input or an output."""
        call = self.place.get(part, part.call)
        shape = shape_text(part.shape)
        if part.kind == "function":
            same = part.sources[0][1] == part.shape
            return Node(
                number, part.kind, part.name, part.name, part.shape, cluster=self.cluster(call),
                heading=("", part.name if same else f"{part.name} {shape}"),
            )  # fmt: skip
        x = self.flow.held.get(part)
        count = x.numel() if x is not None and part.kind == "parameter" and x not in self.counted else 0
        name = self.local(part.name, call)
        return Node(
            number, part.kind, part.name, "", part.shape, count, cluster=self.cluster(call),
            heading=(name, ""), details=(shape,),
        )  # fmt: skip


def _standing(call: _Call | None) -> _Call | None:
    """The innermost call around something that did not raise."""
    while call is not None and call.raised:
        call = call.around
    return call
