"""The recorded graph behind a tensor, as a drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..core.graph import FREED, Item, Junction, Leaf, owner
from ..core.graph import Node as Recorded
from ..core.tensor import Tensor
from ..nn.module import Module
from .drawing import Drawing, Edge, Node, check_limit, shape_text
from .tracing import hooked, tracing
from .values import Shape, bytes_text, inputs_for, leaves


def draw_autograd(
    output: Tensor | Iterable[Tensor], names: Module | Mapping[str, Tensor] | None = None, *, most: int = 300
) -> Drawing:
    """The operations that `output` was computed by, as far as they were recorded: the way that gradients will take.

        draw_autograd(loss, net).save("loss.svg")

    output: a tensor that requires gradients, or several. names: of tensors in the graph, {"x": x, …}, or a module,
    whose parameters have theirs. most: the number of nodes that is still drawn.

    Arrows follow the computation, from the leaves at the top to the output; gradients go against them. An operation
    shows its primitive, the shape of its result, and what it keeps for its gradient: the names of its arguments or
    results and their bytes, the same array counted once; "freed" after a backward pass has used them up. The label of
    an edge (a tooltip in SVG) is the argument that it goes into, after the result that it comes from if there are
    several. Constants are not in the graph, so they are not drawn. A graph recorded with `create_graph=True` is drawn
    like any other.

    Raises ValueError if there are more nodes than `most`, or if no output requires gradients.
    """
    outputs = [output] if isinstance(output, Tensor) else list(output)
    for y in outputs:
        if not isinstance(y, Tensor):
            raise TypeError(f"draw_autograd: output must be a tensor or several, not {type(y).__name__}")
    roots = [y.node for y in outputs if y.node is not None]
    if not roots:
        raise ValueError(
            "draw_autograd: output does not require gradients, so nothing was recorded; did it come from under no_grad "
            "or detach(), or from parameters that are frozen?"
        )
    known = _names(names)
    order = _sorted(roots, most)
    number = {node: i for i, node in enumerate(order)}
    nodes = [_node(i, node, known) for i, node in enumerate(order)]
    labels: dict[tuple[int, int], list[str]] = {}
    for node in order:
        for i, parent in enumerate(node.parents):
            if parent is not None:
                made_by, result = _maker(parent)
                label = _argument(node, i)
                text = f"{result} → {label}" if result else label
                labels.setdefault((number[made_by], number[node]), []).append(text)
    for i, y in enumerate(y for y in outputs if y.node is not None):
        made_by, result = _maker(y.node)
        name = "output" if len(roots) == 1 else f"output[{i}]"
        heading, shape = (name, ""), Shape(y.shape)
        nodes.append(Node(len(nodes), "output", name, "", shape, heading=heading, details=(shape_text(shape),)))
        labels[number[made_by], nodes[-1].id] = [result]
    edges = [Edge(a, b, ", ".join(filter(None, texts))) for (a, b), texts in labels.items()]
    operations = [node for node in nodes if node.kind == "operation"]
    arrays = {id(memory): memory.nbytes for node in order for _, a in _saved(node) for memory in [owner(a)]}
    caption = (
        f"{len(operations)} operation{'s' * (len(operations) != 1)}, which keep {bytes_text(sum(arrays.values()))} of "
        f"memory for the gradients"
    )
    return Drawing("Autograd graph", caption, tuple(nodes), tuple(edges))


def draw_recording(model: Module, input_shape: Any, *, dtype: Any = None, most: int = 300) -> Drawing:
    """What a network records for its gradients when it is called: `draw_autograd` of its output.

    input_shape, dtype: as in `summary`. The network is called once, in evaluation mode, on zeros; convolutions,
    poolings and products of matrices are not computed. Raises what forward and `draw_autograd` raise.
    """
    inputs = inputs_for("draw_recording", model, input_shape, dtype)
    ignore = lambda *_: None
    with tracing(ignore, recording=True), hooked(model, ignore, ignore):
        output = model(*inputs)
    return draw_autograd([y for y in leaves(output) if isinstance(y, Tensor)], model, most=most)


def _names(names: Any) -> dict[Recorded, str]:
    """Names by nodes."""
    if names is None:
        return {}
    if isinstance(names, Module):
        names = dict(names.named_parameters())
    if not isinstance(names, Mapping):
        raise TypeError(
            f"draw_autograd: names must be a module or a mapping of names to tensors, not {type(names).__name__}"
        )
    for name, x in names.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"draw_autograd: names[{name!r}] must be a tensor, not {type(x).__name__}")
    return {x.node: str(name) for name, x in names.items() if x.node is not None}


def _sorted(roots: list[Recorded], most: int) -> list[Recorded]:
    """All nodes but items, each after its parents: depth first, in the order of arguments."""
    done: dict[Recorded, None] = {}
    seen: set[Recorded] = set()
    todo = [(_maker(root)[0], False) for root in reversed(roots)]
    while todo:
        node, ready = todo.pop()
        if ready:
            done[node] = None
        elif node not in seen:
            seen.add(node)
            check_limit("draw_autograd", len(seen), most)
            todo.append((node, True))
            todo.extend((_maker(p)[0], False) for p in reversed(node.parents) if p is not None)
    return list(done)


def _maker(node: Recorded) -> tuple[Recorded, str]:
    """The operation that made a tensor, and the name of this result if it has several."""
    if not isinstance(node, Item):
        return node, ""
    (junction,) = node.parents
    slots = junction.primitive.slots[junction.primitive.inputs :]
    return junction, f"{slots[0]}[{node.params}]" if junction.primitive.list_out else slots[node.params]


def _argument(node: Recorded, i: int) -> str:
    primitive = node.primitive
    if primitive.list_in:
        return f"{primitive.slots[0]}[{i}]"
    return primitive.slots[i] if i < primitive.inputs else f"number {i}"


def _saved(node: Recorded) -> list[tuple[str, Any]]:
    """Names and arrays that a node keeps, in the order of the signature."""
    if node.primitive is None or node.saved is FREED:
        return []
    place = {slot: i for i, slot in enumerate(node.primitive.slots)}
    pairs: dict[tuple[str, int], Any] = {(slot, id(a)): a for slot, a in node.primitive.saved_arrays(node)}
    return sorted(((slot, a) for (slot, _), a in pairs.items()), key=lambda pair: place.get(pair[0], 0))


def _node(number: int, node: Recorded, known: dict[Recorded, str]) -> Node:
    name = known.get(node, "")
    shape: Any
    if isinstance(node, Leaf):
        shape = Shape(node.shape)
        heading = (name, "") if name else ("", "leaf")
        return Node(number, "leaf", name, "", shape, heading=heading, details=(shape_text(shape),))
    if isinstance(node, Junction):
        count = len(node.outputs) if node.primitive.list_out else node.primitive.differentiable
        shape = tuple(Shape(s.shape) for s in node.outputs[:count])  # without residuals
        shape = shape[0] if len(shape) == 1 else shape
        name = ", ".join(known[item] for item in known if isinstance(item, Item) and item.parents[0] is node)
    else:
        shape = Shape(node.shape)
    kept = tuple((slot, array.nbytes) for slot, array in _saved(node))
    size = sum({id(array): array.nbytes for _, array in _saved(node)}.values())
    details = [shape_text(shape)]
    if node.saved is FREED:
        details.append("freed")
    elif kept:
        details.append(f"keeps {', '.join(dict.fromkeys(slot for slot, _ in kept))}: {bytes_text(size)}")
    return Node(
        number, "operation", name, node.primitive.name, shape, saved=kept, saved_bytes=size,
        heading=(name, node.primitive.name) if name else (node.primitive.name, ""), details=tuple(details),
    )  # fmt: skip
