"""Primitive: a row of the kernel table plus one gradient rule for each argument.

    mul = Primitive("mul(a, b) -> y", lambda g, b: g * b, lambda g, a: a * g)

The signature names the slots: inputs, then outputs. The first parameter of a rule is the incoming gradient; its other
positional parameters are slot names, and *they decide what is saved*. `_x` asks only for the shape and dtype of x,
which costs nothing; `None` instead of a rule says that no gradient flows. Keyword parameters are the static metadata of
the call. Rules are written with primitives, so gradients have gradients.

A rule runs in one of two ways: on bare arrays, where each primitive is just its kernel, or, when the gradient is itself
to be differentiated, on tensors. The same lambda serves both.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from numpy import ndarray

from ..kernels import bfloat16, table
from ..kernels.arrays import is_floating
from . import cuda
from .graph import Item, Junction, Node, Spec, spec, written_after
from .mode import MODE, Mode
from .tensor import Tensor, as_array, recorded

_SIGNATURE = re.compile(r"(\w+)\(([^)]*)\)\s*->\s*([^;]*)(?:;(.*))?")


class Rule(NamedTuple):
    """A gradient rule, the slots it names (~i: only the shape and dtype of slot i) and how to pick them."""

    call: Callable[..., Any]
    slots: tuple[int, ...]
    pick: Callable[[list], Any] | None


class Primitive:
    """An operation that the graph records.

    signature: "name(inputs) -> outputs". "; residuals" may follow: outputs that carry no gradient. A star marks a list.
    rules: one for each input; for a starred input a single rule that returns the gradients of all of them.
    kernel: a function for every column; needed only for operations that have no row in `minidl.kernels.table`.
    """

    names: dict[str, Primitive] = {}  # every primitive by its name

    def __init__(self, signature: str, *rules: Callable | None, kernel: Callable | None = None):
        match = _SIGNATURE.fullmatch(signature.strip())
        if match is None:
            raise ValueError(f"signature {signature!r} should read 'name(x, y) -> z'")
        self.name: str = match[1]
        ins, outs, rest = (re.findall(r"\*?\w+", part or "") for part in match.groups()[1:])
        self.list_in = any(s.startswith("*") for s in ins)
        self.list_out = any(s.startswith("*") for s in outs)
        self.slots = [s.lstrip("*") for s in ins + outs + rest]
        self.inputs = len(ins)
        self.differentiable = len(outs)  # the outputs that gradients flow into; residuals follow them
        self.single = len(outs) + len(rest) == 1 and not self.list_out
        self.kernels: dict[str | None, dict[type, Callable]] = {}  # mode's backend -> array type -> function
        self.narrow: dict[tuple[str | None, type], Callable] = {}  # the same for bfloat16 arrays
        if kernel is not None:
            table.TABLE[self.name] = table.every(kernel)
        if self.name not in table.TABLE:
            raise ValueError(f"operation {self.name!r} has no row in the kernel table, and no kernel= was given")
        if rules and len(rules) != self.inputs:
            raise ValueError(f"{self.name} has {self.inputs} inputs but {len(rules)} rules")
        self.rules = [None if r is None else self._rule(r) for r in rules]
        self.constant = [i for i, r in enumerate(self.rules) if r is None]  # inputs that no gradient flows to
        Primitive.names[self.name] = self

    def __repr__(self) -> str:
        ins, outs = self.slots[: self.inputs], self.slots[self.inputs :]
        return f"<{type(self).__name__} {self.name}({', '.join(ins)}) -> {', '.join(outs)}>"

    def _rule(self, call: Callable) -> Rule:
        parameters = list(inspect.signature(call).parameters.values())[1:]
        used = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        try:
            slots = tuple(~self.slots.index(u[1:]) if u[0] == "_" else self.slots.index(u) for u in used)
        except ValueError:
            raise TypeError(f"a rule of {self.name} names {used}; it may name {self.slots}") from None
        if not slots:
            return Rule(call, slots, None)
        if min(slots) >= 0:
            return Rule(call, slots, itemgetter(*slots))
        if len(slots) == 1:
            return Rule(call, slots, lambda values: spec(values[~slots[0]]))
        return Rule(call, slots, lambda values: tuple([values[s] if s >= 0 else spec(values[~s]) for s in slots]))

    # ---- forward
    def __call__(self, *args: Any, **params: Any) -> Any:
        mode = MODE.get()
        if mode.autocast is not None:
            args = mode.autocast.cast(self, args, mode)
        values: list[Any] = []
        parents: list[Node | None] = []
        kind = None
        recorded = False
        for arg in args:
            if isinstance(arg, Tensor):
                node = arg.node
                arg = arg._data
                kind = type(arg)
                if node is not None:
                    recorded = True
                parents.append(node)
            else:
                parents.append(None)
            values.append(arg)
        out = self.run(mode, kind or _kind(values), values, params)
        if kind is None:  # bare arrays in, bare arrays out
            return out
        if mode.capture is not None:
            mode.capture.read(parents if mode.recording else (), values)
        if not recorded or not mode.recording:
            return Tensor(out) if self.single else tuple(map(Tensor, out))
        return self.record(parents, values, out, params, mode)

    def run(self, mode: Mode, kind: type, values: Sequence, params: dict) -> Any:
        """Compute on bare arrays with the kernel of the right column."""
        try:
            if "ml_dtypes" in sys.modules and bfloat16.concerned(values):
                return self.narrow_kernel(mode.backend, kind)(*values, **params)
            return self.kernel(mode.backend, kind)(*values, **params)
        except Exception as error:
            libraries = {type(v).__module__.partition(".")[0] for v in values if hasattr(v, "strides")}
            if len(libraries) > 1:
                raise TypeError(
                    f"{self.name}: the arguments live on different devices ({', '.join(sorted(libraries))} arrays); "
                    f"move them with .to(device)"
                ) from error
            names = self.slots[: self.inputs] * (len(values) if self.list_in else 1)
            given = ", ".join(f"{n}: {describe(v)}" for n, v in zip(names, values, strict=False))
            error.add_note(f"in {self.name}({given})")
            raise

    def kernel(self, backend: str | None, kind: type) -> Callable:
        """The function for arrays of this type, in the given column or, if None, the one where the array is at home."""
        known = self.kernels.setdefault(backend, {})
        if kind not in known:
            home = table.home(kind)
            function = table.find(self.name, backend or home)
            known[kind] = cuda.placed(self.name, function) if home == "cuda" else function
        return known[kind]

    def narrow_kernel(self, backend: str | None, kind: type) -> Callable:
        """The same for bfloat16 arrays: the kernel itself if it takes them, else on float32 copies."""
        key = backend, kind
        if key not in self.narrow:
            home, function = table.home(kind), self.kernel(backend, kind)
            column = backend or home
            narrow = bfloat16.adapted(self.name, column, function, table.own(self.name, column))
            # copies are made where the arrays are, too
            self.narrow[key] = cuda.placed(self.name, narrow) if home == "cuda" and narrow is not function else narrow
        return self.narrow[key]

    def record(self, parents: list, values: list, out: Any, params: dict, mode: Mode) -> Any:
        """The result as a tensor (or several) that knows how it was made."""
        for i in self.constant:
            parents[i] = None
        if self.constant and not any(p is not None for p in parents):
            return Tensor(out) if self.single else tuple(map(Tensor, out))
        if self.single:
            if type(out) is not ndarray:
                out = as_array(out)
            values.append(out)
            result: Any = recorded(self, params, parents, self.saved(parents, values), out)
            node = result.node
        else:
            outs = [as_array(o) for o in out]
            values.extend(outs)
            node = Junction(self, params, parents, self.saved(parents, values), outs)
            n = len(outs) if self.list_out else self.differentiable
            result = tuple(
                [Tensor(o, Item(node, i, o) if i < n and is_floating(o.dtype) else None) for i, o in enumerate(outs)]
            )
        if mode.anomaly:
            node.origin = calling_line()
        return result

    def saved(self, parents: list, values: list) -> Any:
        """For each rule that will run, what it named."""
        return [
            None if p is None or r is None or r.pick is None else r.pick(values)
            for p, r in zip(parents, self.rules, strict=True)
        ]

    # ---- backward
    # Primitives whose gradients come from one function, not from a rule for each argument, define
    # pull(node, g, graph) -> a list with the gradient (or None) of each parent.
    pull: Callable | None = None

    def fit(self, g: Any, parent: Node) -> Any:
        """A gradient whose shape or dtype differs from its argument's. An error unless the family knows better."""
        raise RuntimeError(
            f"a rule of {self.name} gave a gradient {describe(g)} for an argument {parent.dtype}{list(parent.shape)}"
        )

    def lift(self, node: Node, slots: Sequence[int], values: Sequence) -> list:
        """Saved arrays as tensors of the graph again. (Keeping outputs as tensors would make the graph a cycle.)"""
        return [
            v if s < 0 or not hasattr(v, "strides") else Tensor(v, self._origin(node, s, v))
            for s, v in zip(slots, values, strict=True)
        ]

    def _origin(self, node: Node, slot: int, value: Any) -> Node | None:
        if slot < self.inputs:
            return node.parents[slot]
        if self.single:
            return node
        index = slot - self.inputs
        assert isinstance(node, Junction)
        return Item(node, index, value) if index < self.differentiable and is_floating(value.dtype) else None

    def check_unchanged(self, node: Node) -> None:
        """Raise if memory that the rules are about to read was written to after this operation ran."""
        for name, array in self.saved_arrays(node):
            if written_after(array, node.time):
                raise RuntimeError(
                    f"{self.name}: argument {name} ({describe(array)}) was changed in place (by an optimizer step, "
                    f"load_state_dict or mutated()) after the forward pass used it; its gradient would be wrong. Run "
                    f"the forward pass again before backward()"
                )

    def saved_arrays(self, node: Node) -> Iterator[tuple[str, Any]]:
        """Slot and content of every array that the node keeps."""
        for rule, kept in zip(self.rules, node.saved or (), strict=False):
            if rule is not None and kept is not None:
                values = kept if len(rule.slots) > 1 else (kept,)
                for slot, value in zip(rule.slots, values, strict=True):
                    if slot >= 0 and hasattr(value, "strides"):
                        yield self.slots[slot], value


class ListPrimitive(Primitive):
    """A primitive of one starred input: its only rule takes (g, **params) and returns a gradient for every element."""

    def saved(self, parents: list, values: list) -> Any:
        return None

    def pull(self, node: Node, g: Any, graph: bool) -> list:
        (rule,) = self.rules
        assert rule is not None
        return list(rule.call(g, **node.params))


def _kind(values: Sequence) -> type:
    """The type of bare arguments: that of the first, unless it is a number beside arrays."""
    kind = type(values[0])
    if kind is float or kind is int:
        kind = next((type(v) for v in values if hasattr(v, "strides")), kind)
    return kind


def describe(value: Any) -> str:
    """float32[2, 3] for arrays, the value itself for the rest."""
    known = hasattr(value, "strides") or isinstance(value, (Spec, Node))
    return f"{value.dtype}{list(value.shape)}" if known else repr(value)


def calling_line() -> tuple[str, int, str]:
    """File, line and function of the innermost caller outside this package."""
    package = __name__.partition(".")[0] + "."
    frame = sys._getframe(1)
    while frame.f_back is not None and (frame.f_globals.get("__name__", "") + ".").startswith(package):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
