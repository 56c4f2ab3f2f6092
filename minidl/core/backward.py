"""Backward: one iterative sweep over the graph, and what is built on it.

The sweep first counts, for every node that the gradient reaches, how many consumers it has; then it takes nodes whose
consumers are all done, runs their rules and adds the results up. Leaves are finished first, so that gradients come out
as early as they can. A node's saved arrays are dropped as soon as its rules have run, unless the graph is retained.
"""

from __future__ import annotations

import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from sys import modules
from threading import Lock
from typing import Any

import numpy as np
from numpy import ndarray

from ..kernels import capture
from ..kernels.arrays import in_memory_order, namespace
from . import cuda
from .graph import FREED, Clock, Item, Junction, Leaf, Node, Spec, owner
from .mode import MODE, setting
from .primitive import Primitive, describe
from .tensor import Tensor, as_array

_NO_RULES = repeat(None)
_added = in_memory_order(np.add)


def sweep(
    seeds: dict[Node, Any], wanted: set[Node] | None, graph: bool, retain: bool, *, cut: bool = False,
    follow: bool = False,
) -> dict[Node, Any]:  # fmt: skip
    """Carry the gradients of `seeds` backward.

    wanted: None to add up gradients in the leaves, or the nodes whose gradients to return (others get none).
    graph: rules run on tensors and are recorded. retain: saved arrays stay. cut: do not go past wanted nodes. follow:
    there are several CUDA devices, and each gradient is computed with where it is.
    """
    if MODE.get().autocast is not None:  # rules know their types
        with setting(autocast=None):
            return sweep(seeds, wanted, graph, retain, cut=cut)
    if graph and not MODE.get().recording:
        with setting(recording=True):
            return sweep(seeds, wanted, graph, retain, cut=cut)
    if "cupy" in modules and not follow and cuda.several_devices():
        with cuda.restored():
            return sweep(seeds, wanted, graph, retain, cut=cut, follow=True)
    at: list[Primitive | None] = [None]
    try:
        return _sweep(seeds, wanted, graph, retain, cut, follow, at)
    except MemoryError as error:
        raise cuda.explained(error, f"the gradient of {at[0].name if at[0] else 'a leaf'}") from error


def _sweep(
    seeds: dict[Node, Any], wanted: set[Node] | None, graph: bool, retain: bool, cut: bool, follow: bool,
    at: list[Primitive | None],
) -> dict[Node, Any]:  # fmt: skip
    """at: what is being differentiated, for whoever has to explain an error."""
    anomaly = MODE.get().anomaly
    waiting = _consumers(seeds, wanted, cut)
    sums: dict[Node, Any] = dict(seeds)  # what has arrived at each node so far
    own: set[Node] = set()  # nodes whose sum is an array made here: the only ones added to in place
    found: dict[Node, Any] = {}
    given: set[int] = set()  # memory that leaves have got as their gradients
    leaves: list[Node] = []
    ready = [n for n in seeds if waiting.get(n) == 0]
    while leaves or ready:
        node = leaves.pop() if leaves else ready.pop()
        g = sums.pop(node, None)
        if g is not None:
            if follow:
                cuda.follow(next(iter(g.values())) if type(g) is dict else g)
            # at the cut the outer sweep runs them
            if node.hooks and not (cut and wanted is not None and node in wanted):
                g = _run_hooks(node, g, graph)
            if anomaly and type(g) is not dict:
                _check_sum(node, g)
            if wanted is not None and node in wanted:
                found[node] = g
                if cut:
                    continue
        at[0] = primitive = node.primitive
        if primitive is None:
            if type(node) is Item:
                (junction,) = node.parents
                waiting[junction] -= 1
                if g is not None:
                    parts = sums.setdefault(junction, {})
                    parts[node.params] = parts[node.params] + g if node.params in parts else g
                if not waiting[junction]:
                    ready.append(junction)
            elif g is not None and wanted is None and type(node) is Leaf:
                _settle(node, g, graph, given)
            continue
        saved = node.saved
        if saved is FREED:
            raise RuntimeError(
                f"{primitive.name}: a backward pass has already used this graph and freed its arrays; "
                f"give that pass retain_graph=True, or run the forward pass again"
            )
        parents = node.parents
        params = node.params
        if node.time < Clock.changed:
            primitive.check_unchanged(node)
        rules: Iterable[Any] = primitive.rules
        if g is None:  # nothing arrived, but the parents wait for this node
            rules = saved = _NO_RULES
        else:
            if type(node) is Junction:
                like = next(iter(g.values()))
                g = tuple([g[i] if i in g else _zeros(s, like) for i, s in enumerate(node.outputs)])
            if primitive.pull is not None:
                rules, saved = _NO_RULES, primitive.pull(node, g, graph)
        for parent, rule, kept in zip(parents, rules, saved):  # noqa: B905 (the keyword would cost a tenth)
            left = waiting.get(parent)
            if left is None:  # no parent, or none of interest
                continue
            if rule is None:
                gp = kept
            else:
                call, slots, _ = rule
                if graph:
                    values = () if not slots else kept if len(slots) > 1 else (kept,)
                    gp = call(g, *primitive.lift(node, slots, values), **params)
                elif not slots:
                    gp = call(g, **params)
                elif len(slots) == 1:
                    gp = call(g, kept, **params)
                else:
                    gp = call(g, *kept, **params)
            if gp is not None:
                if type(gp) is not ndarray and not graph:
                    gp = as_array(gp)
                if gp.shape != parent.shape or (gp.dtype is not parent.dtype and gp.dtype != parent.dtype):
                    gp = primitive.fit(gp, parent)
                if anomaly:
                    _check_finite(node, parent, gp)
                if follow:
                    cuda.follow(gp)
                old = sums.get(parent)
                if old is None:
                    sums[parent] = gp
                elif parent in own:
                    old += gp
                else:
                    sums[parent] = old + gp if graph or type(gp) is ndarray else _added(old, gp)
                    if not graph and gp.ndim:
                        own.add(parent)
            waiting[parent] = left = left - 1
            if not left:
                (leaves if type(parent) is Leaf else ready).append(parent)
        if not retain:
            node.saved = FREED
    return found


def _consumers(seeds: dict[Node, Any], wanted: set[Node] | None, cut: bool) -> dict[Node, int]:
    """How many consumers each node has among those that the gradient passes through."""
    waiting = dict.fromkeys(seeds, 0)
    todo = list(waiting)
    while todo:
        node = todo.pop()
        if cut and wanted is not None and node in wanted:
            continue
        for parent in node.parents:
            if parent in waiting:
                waiting[parent] += 1
            elif parent is not None:
                waiting[parent] = 1
                todo.append(parent)
    if wanted is None:
        return waiting
    # keep only what leads to a wanted node; parents are older than their children, except for leaves changed in place
    useful = dict.fromkeys(wanted & waiting.keys(), 0)
    for node in sorted(waiting, key=lambda n: 0 if type(n) is Leaf else n.time):
        if not (cut and node in wanted):
            for parent in node.parents:
                if parent in useful:
                    useful.setdefault(node, 0)
                    useful[parent] += 1
    return useful


def _zeros(spec: Spec, like: Any) -> Any:
    """The gradient of an output that nobody used, beside another's gradient."""
    array = like._data if isinstance(like, Tensor) else like
    xp = namespace(array)
    zeros = xp.broadcast_to(xp.zeros_like(array, shape=(), dtype=spec.dtype), spec.shape)
    return Tensor(zeros) if isinstance(like, Tensor) else zeros


def _run_hooks(node: Node, g: Any, graph: bool) -> Any:
    for hook in tuple((node.hooks or {}).values()):
        with setting(recording=graph):
            result = hook(g if graph else Tensor(g))
        if result is not None:
            if not isinstance(result, Tensor) or (result.shape, result.dtype) != (node.shape, node.dtype):
                got = describe(result._data) if isinstance(result, Tensor) else repr(result)
                raise TypeError(f"a gradient hook must return None or a tensor {describe(node)}, not {got}")
            g = result if graph else result._data
    return g


_settling = Lock()  # leaves may be shared by threads that run backward


def _settle(leaf: Leaf, g: Any, graph: bool, given: set[int]) -> None:
    """A gradient comes to rest: in the leaf's memory order, and in memory that no other leaf's gradient uses."""
    if not graph:
        if g.strides != leaf.strides:
            order = sorted(range(g.ndim), key=lambda axis: -abs(leaf.strides[axis]))
            back = tuple(np.argsort(order)) if g.ndim else ()
            g = namespace(g).array(g.transpose(order), order="C", copy=True).transpose(back)
        g = Tensor(_unshared(g, given))
    with _settling:
        old = leaf.grad
        if old is not None:
            recorder = capture.recorder()
            if recorder is not None and recorder.capturing and not recorder.made(old._data):
                raise RuntimeError(
                    "a gradient would be added to one from before the step, which a replay of the captured step "
                    "cannot repeat: call optimizer.zero_grad() in the step, before backward()"
                )
            g = old + g if graph or old.node is not None else Tensor(old._data + g._data)
        leaf.grad = g


def _unshared(g: Any, given: set[int]) -> Any:
    """g, or a copy of it where it is read-only or its memory was given away before."""
    key = id(owner(g))
    # CuPy's broadcast views do not say that they are read-only
    writable = g.flags.writeable if type(g) is ndarray else 0 not in g.strides
    if key in given or not writable:
        with cuda.working_on(g):
            return g.copy(order="K")
    given.add(key)
    return g


def _check_finite(node: Node, parent: Node, gp: Any) -> None:
    """Raise if the gradient that a rule of `node` gave for `parent` has elements that are not finite."""
    slot = list(node.parents).index(parent)
    name = node.primitive.slots[slot] if slot < node.primitive.inputs else f"number {slot}"
    _report_not_finite(node, gp, f"the gradient of {node.primitive.name} with respect to its argument {name}")


def _check_sum(node: Node, g: Any) -> None:
    """Raise if finite gradients that met at `node` have become infinite by being added up."""
    what = "a tensor that requires gradients" if type(node) is Leaf else "a result"
    if node.primitive is not None:
        what = f"the result of {node.primitive.name}"
    _report_not_finite(node, g, f"the sum of all gradients that reach {what} ({describe(node)})")


def _report_not_finite(node: Node, gradient: Any, what: str) -> None:
    values = gradient._data if isinstance(gradient, Tensor) else gradient
    xp = namespace(values)
    finite = xp.isfinite(values)
    if finite.all():
        return
    bad, nans = int(values.size - finite.sum()), int(xp.isnan(values).sum())
    where = ""
    if node.primitive is not None:
        where = "; the operation was called outside the detect_anomaly() block"
    if hasattr(node, "origin"):
        file, line, function = node.origin
        text = linecache.getline(file, line).strip()
        where = f"; the operation was called at {file}:{line} in {function}\n    {text}"
    raise ArithmeticError(f"{what} has {bad} of {values.size} elements that are not finite ({nans} NaN){where}")


# ---- what users call
def _seed(output: Tensor, gradient: Any, graph: bool) -> Any:
    """The gradient that enters at an output."""
    if not isinstance(output, Tensor):
        raise TypeError(f"gradients start from a tensor, not from {type(output).__name__}")
    if output.node is None:
        raise RuntimeError("this tensor does not depend on anything that requires a gradient")
    if type(output._data) is ndarray:
        return _made_seed(output, gradient, graph)
    with cuda.working_on(output._data):
        return _made_seed(output, gradient, graph)


def _made_seed(output: Tensor, gradient: Any, graph: bool) -> Any:
    if gradient is None:
        if output.numel() != 1:
            raise RuntimeError(
                f"only a tensor of one element has an implicit gradient (1); this one has shape {output.shape}: "
                f"give its gradient, or reduce it to a number first"
            )
        array = namespace(output._data).ones_like(output._data)
    elif isinstance(gradient, Tensor):
        if graph and gradient.dtype == output.dtype and gradient.shape == output.shape:
            return gradient
        array = gradient._data
        if type(array) is ndarray:
            array = array.view()
            array.flags.writeable = False  # what comes to rest in a leaf must not be the caller's array: see _unshared
        else:
            array = array.copy(order="K")
    else:
        array = namespace(output._data).array(gradient, output.dtype)
    if array.shape != output.shape:
        raise ValueError(f"the gradient has shape {array.shape}, its tensor {output.shape}")
    array = array.astype(output.dtype, copy=False)
    return Tensor(array) if graph else array


def backward(
    output: Tensor, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False
) -> None:
    """See Tensor.backward."""
    seed = _seed(output, gradient, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    sweep({output.node: seed}, None, create_graph, retain)


def _listed(value: Any) -> list:
    """A tensor, an array or None as a list of one; anything else that can be iterated over (parameters()) as a list."""
    return [value] if isinstance(value, Tensor) or value is None or hasattr(value, "strides") else list(value)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the sum of `outputs` (weighted by grad_outputs) with respect to each of `inputs`.

    inputs may be leaves or results in the graph; `.grad` is not touched, and gradients of nothing else are computed.
    retain_graph and create_graph are those of `Tensor.backward`. An input that the outputs do not depend on is an
    error, or gives None with allow_unused. Returns a tuple with one tensor for each input.
    """
    outputs, inputs = _listed(outputs), _listed(inputs)
    given = [None] * len(outputs) if grad_outputs is None else _listed(grad_outputs)
    if len(given) != len(outputs):
        raise ValueError(f"there are {len(outputs)} outputs but {len(given)} grad_outputs")
    for i, x in enumerate(inputs):
        if not isinstance(x, Tensor) or x.node is None:
            raise RuntimeError(f"inputs[{i}] does not require a gradient")
    seeds: dict[Node, Any] = {}
    for y, g in zip(outputs, given, strict=True):
        seed = _seed(y, g, create_graph)
        node = y.node
        seeds[node] = seeds[node] + seed if node in seeds else seed
    retain = create_graph if retain_graph is None else retain_graph
    found = sweep(seeds, {x.node for x in inputs}, create_graph, retain)
    results = [found.get(x.node) for x in inputs]
    for i, (x, g) in enumerate(zip(inputs, results, strict=True)):
        if g is None and not allow_unused:
            raise RuntimeError(
                f"inputs[{i}] (shape {x.shape}) is not used by the outputs; allow_unused=True gives None"
            )
    if create_graph:
        return tuple(results)
    handed_out: set[int] = set()
    return tuple(None if g is None else Tensor(_unshared(g, handed_out)) for g in results)


def _fresh(func: Callable, inputs: Any, create_graph: bool) -> tuple[list[Tensor], Any]:
    """Run func on leaves that share the arrays of the inputs; with create_graph, on aliases that lead back to them."""
    with setting(recording=True):
        starts = [
            alias(x)
            if create_graph and isinstance(x, Tensor) and x.node is not None
            else Tensor(x._data if isinstance(x, Tensor) else x).requires_grad_()
            for x in _listed(inputs)
        ]
        return starts, func(*starts)


def _like_inputs(inputs: Any, results: Sequence) -> Any:
    return tuple(results) if isinstance(inputs, (list, tuple)) else results[0]


def _zeros_like(x: Tensor) -> Tensor:
    with cuda.working_on(x._data):
        return Tensor(np.zeros_like(x._data))


def vjp(func: Callable, inputs: Any, v: Any = None, create_graph: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), v . J): the product of a vector with the Jacobian of func at the inputs.

    inputs: a tensor or a tuple of them. v: of the output's shape; may be left out for an output of one element. The
    result has the shape of inputs; inputs that func ignores get zeros.
    """
    leaves, out = _fresh(func, inputs, create_graph)
    outs = _listed(out)
    vectors = [None] * len(outs) if v is None else _same_number("v", _listed(v), outs, "outputs")
    used = [(y, u) for y, u in zip(outs, vectors, strict=True) if y.node is not None]
    found: Sequence = [None] * len(leaves)
    if used:
        found = grad(*_columns(used, leaves), create_graph=create_graph, allow_unused=True)
    products = [_zeros_like(x) if g is None else g for g, x in zip(found, leaves, strict=True)]
    return _outside(out, create_graph), _like_inputs(inputs, products)


def jvp(func: Callable, inputs: Any, v: Any, create_graph: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), J . v): the directional derivative of func at the inputs along v.

    v: a tensor or a tuple of them, of the inputs' shapes. Computed by differentiating the vector-Jacobian product,
    which is linear in its vector.
    """
    leaves, out = _fresh(func, inputs, create_graph)
    outs = _listed(out)
    vectors = [_zeros_like(y).requires_grad_() for y in outs]
    along = _same_number("v", _listed(v), leaves, "inputs")
    used = [(y, u) for y, u in zip(outs, vectors, strict=True) if y.node is not None]
    results = [_zeros_like(y) for y in outs]
    if used:
        pulled = grad(*_columns(used, leaves), create_graph=True, allow_unused=True)
        pairs = [(p, w) for p, w in zip(pulled, along, strict=True) if p is not None and p.node is not None]
        if pairs:
            found = grad(*_columns(pairs, vectors), create_graph=create_graph, allow_unused=True)
            results = [r if g is None else g for r, g in zip(results, found, strict=True)]
    many = isinstance(out, (list, tuple))
    return _outside(out, create_graph), tuple(results) if many else results[0]


def hvp(func: Callable, inputs: Any, v: Any, create_graph: bool = False) -> tuple[Any, Any]:
    """(func(*inputs), H . v): the product of the Hessian of a scalar function with a vector of the inputs' shapes."""
    leaves, out = _fresh(func, inputs, create_graph)
    along = _same_number("v", _listed(v), leaves, "inputs")
    first: Sequence = [None] * len(leaves)
    if out.node is not None:
        first = grad(out, leaves, create_graph=True, allow_unused=True)
    pairs = [(g, w) for g, w in zip(first, along, strict=True) if g is not None and g.node is not None]
    found: Sequence = [None] * len(leaves)
    if pairs:
        found = grad(*_columns(pairs, leaves), create_graph=create_graph, allow_unused=True)
    products = [_zeros_like(x) if h is None else h for h, x in zip(found, leaves, strict=True)]
    return _outside(out, create_graph), _like_inputs(inputs, products)


def _same_number(name: str, values: list, others: Sequence, what: str) -> list:
    if len(values) != len(others):
        raise ValueError(f"{name} has {len(values)} tensors for {len(others)} {what}; it needs one for each")
    return values


def _columns(pairs: Sequence[tuple[Any, Any]], inputs: Sequence) -> tuple[list, Sequence, list]:
    """The first three arguments of grad from pairs (output, its gradient)."""
    return [y for y, _ in pairs], inputs, [g for _, g in pairs]


def _outside(out: Any, create_graph: bool) -> Any:
    if create_graph:
        return out
    return tuple(y.detach() for y in out) if isinstance(out, (list, tuple)) else out.detach()


def replayed(
    func: Callable, args: Sequence, g: Any, params: dict, graph: bool, closure: Sequence[Node] = ()
) -> list[Any]:
    """The gradients of func(*args) for the arguments and then the closure's nodes, by running func now.

    Each argument goes in as an alias of itself, so that one which is an ancestor of another is not counted twice.
    """
    with setting(recording=True, capture=None):
        cut = [alias(x) if isinstance(x, Tensor) and x.node is not None else x for x in args]
        out = func(*cut, **params)
    nodes = [x.node if isinstance(x, Tensor) else None for x in cut] + list(closure)
    outs, gs = (out, g) if isinstance(out, (list, tuple)) else ([out], [g])
    seeds: dict[Node, Any] = {}
    for y, gy in zip(outs, gs, strict=True):
        if isinstance(y, Tensor) and y.node is not None:
            seeds[y.node] = seeds[y.node] + gy if y.node in seeds else gy
    found = sweep(seeds, {n for n in nodes if n is not None}, graph, graph, cut=True) if seeds else {}
    return [None if n is None else found.get(n) for n in nodes]


alias = Primitive("alias(x) -> y", lambda g: g, kernel=lambda x: x)


class Fused(Primitive):
    """A primitive that exists for speed: a kernel for the value, one for all gradients, and its meaning in basic
    primitives.

    backward(g, slots…, needs=, **params): bare arrays to a gradient (or None) for each input; `needs`: which ones.
    plain(inputs…, **params): the same value from basic primitives. It is what is differentiated when the gradient is
    itself to be differentiated, and the oracle of the tests.
    constant: inputs that no gradient flows to.
    Only the first output carries gradients; what follows ";" in the signature are residuals, small arrays for
    `backward`.
    """

    def __init__(
        self,
        signature: str,
        *,
        plain: Callable,
        backward: Callable,
        constant: Sequence[str] = (),
        kernel: Callable | None = None,
    ):
        super().__init__(signature, kernel=kernel)
        if self.differentiable != 1:
            raise ValueError(f"{self.name}: a fused primitive has one output; others are residuals, behind a semicolon")
        self.plain = plain
        self.backward = self._rule(backward)
        self.keep = tuple(dict.fromkeys((*range(self.inputs), *self.backward.slots)))
        self.at = [self.keep.index(s) for s in self.backward.slots]
        self.constant = [self.slots.index(name) for name in constant]

    def saved(self, parents: list, values: list) -> Any:
        return [values[s] for s in self.keep]

    def saved_arrays(self, node: Node) -> Iterator[tuple[str, Any]]:
        return ((self.slots[s], v) for s, v in zip(self.keep, node.saved, strict=True) if hasattr(v, "strides"))

    def pull(self, node: Node, g: Any, graph: bool) -> list:
        if isinstance(node, Junction):
            g = g[0]
        if graph:
            inputs = self.lift(node, range(self.inputs), node.saved[: self.inputs])
            return replayed(self.plain, inputs, g, node.params, True)
        values = [node.saved[i] for i in self.at]
        needs = [p is not None for p in node.parents]
        return list(self.backward.call(g, *values, needs=needs, **node.params))
