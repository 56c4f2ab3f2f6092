"""What a network consists of: a row for each layer, with its output, parameters, multiply-adds and memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.tensor import Tensor
from ..functional.arguments import is_array
from ..nn.module import Module
from .tracing import hooked, tracing
from .values import bytes_text, inputs_for, kind_of, leaves, shapes


@dataclass
class Row:
    """One module. All numbers are its own, without those of the modules inside it, so that columns add up."""

    name: str  # dotted; "" is the network itself
    kind: str  # its class
    depth: int  # inside how many other modules it was called
    output: Any = None  # the shape, or tuples, lists, dicts of shapes, as it returned them; None if it was never called
    parameters: int = 0  # one that several modules share is counted in the first row
    trainable: int = 0  # those of them that require gradients
    multiply_adds: int = 0  # over all calls
    activation_bytes: int = 0  # of its outputs over all calls; one that shares another's memory is not counted again
    calls: int = 0

    @property
    def output_text(self) -> str:
        """The shapes of the output in one line."""
        return "not called" if not self.calls else ", ".join(map(str, leaves(self.output))) or "-"


@dataclass
class Summary:
    """The rows of a network, in the order in which its modules were first called, and its totals. Print it."""

    network: str
    inputs: list[Any]  # shapes
    rows: list[Row] = field(default_factory=list)
    input_bytes: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0

    @property
    def parameters(self) -> int:
        """Number of all parameters, each counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """Number of those that require gradients."""
        return sum(row.trainable for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Of one forward pass."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """The outputs of all layers together: about what a forward pass in training keeps."""
        return sum(row.activation_bytes for row in self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> Row:
        """The row of the module of this dotted name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row is called {name!r}; there are {', '.join(repr(row.name) for row in self.rows)}")

    def __str__(self) -> str:
        head = ("layer", "output", "parameters", "multiply-adds", "activations")
        lines = [head, *(self._line(row) for row in self.rows)]
        total = ("total", "", f"{self.parameters:,}", f"{self.multiply_adds:,}", bytes_text(self.activation_bytes))
        widths = [max(len(line[i]) for line in (*lines, total)) for i in range(len(head))]
        rule = "─" * (sum(widths) + 2 * (len(widths) - 1))
        text = [_aligned(line, widths) for line in lines]
        given = ", ".join(map(str, leaves(self.inputs)))
        frozen = self.parameters - self.trainable
        notes = [f"input {given}, {bytes_text(self.input_bytes)}"]
        notes += [f"parameters {bytes_text(self.parameter_bytes)}" + (f", {frozen:,} of them frozen" if frozen else "")]
        notes += [f"buffers {bytes_text(self.buffer_bytes)}"] if self.buffer_bytes else []
        return "\n".join([text[0], rule, *text[1:], rule, _aligned(total, widths), "; ".join(notes)])

    def _line(self, row: Row) -> tuple[str, ...]:
        label = f"{row.name.rpartition('.')[2]} {row.kind}".strip() if row.depth else row.kind
        times = f" ×{row.calls}" if row.calls > 1 else ""
        numbers = (f"{n:,}" if n else "" for n in (row.parameters, row.multiply_adds))
        memory = bytes_text(row.activation_bytes) if row.activation_bytes else ""
        return ("  " * row.depth + label + times, row.output_text, *numbers, memory)


def summary(model: Module, input_shape: Any, *, dtype: Any = None, compute: bool = False) -> Summary:
    """Every layer of a network with its output shape, parameters, multiply-adds and activation memory.

        print(minidl.summary(net, (1, 3, 224, 224)))

    input_shape: the shape of the input, batch axis included; or the input itself; or a list of several, each a shape, a
    tensor or anything else that forward takes. dtype: of the inputs given by shapes (default: that of the parameters).

    The network is called once, in evaluation mode, without recording. Convolutions, poolings and products of matrices
    are not computed: zeros of the right shape stand for their results. So a full-size network costs little more than
    the memory of its elementwise operations at this batch size, and one built under `nn.init.skip()` never touches its
    weights. compute=True computes them, for networks whose sizes depend on values.

    Multiply-adds are those of the direct algorithms, counted in every convolution and product of matrices, also where
    forward calls functions; they belong to the innermost module that is running. Additions of biases, pooling and
    elementwise operations count nothing. Modes, hooks and the random stream are as before afterwards; buffers do not
    change. Raises what forward raises, with the name of the layer added.
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: model must be a Module, not {type(model).__name__}")
    inputs = inputs_for("summary", model, input_shape, dtype)
    trace = _Trace(model)
    for x in leaves(inputs):
        trace.is_new(x)
    with tracing(trace.count, values=compute), hooked(model, trace.enter, trace.leave):
        try:
            model(*inputs)
        except Exception as error:
            if trace.running:
                row = trace.running[-1]
                error.add_note(f"in layer {row.name!r} ({row.kind}), while summarising {type(model).__name__}")
            raise
    trace.rest(model)
    size = lambda tensors: sum(x.nbytes for x in tensors)
    given = size(x for x in leaves(inputs) if is_array(x))
    rows = list(trace.rows.values())
    return Summary(
        type(model).__name__, shapes(inputs), rows, given, size(model.parameters()), size(model.buffers())
    )  # fmt: skip


class _Trace:
    """What hooks see while the network runs."""

    def __init__(self, model: Module):
        self.names = {module: name for name, module in model.named_modules()}
        self.rows: dict[Module, Row] = {}
        self.running: list[Row] = []
        self.parameters: set[Any] = set()
        self.memory: dict[int, Any] = {}  # arrays that own what has been counted; kept, so that no address comes twice

    def count(self, multiply_adds: int) -> None:
        if self.running:
            self.running[-1].multiply_adds += multiply_adds

    def enter(self, module: Module, args: tuple) -> None:
        row = self.row(module)
        row.calls += 1
        self.running.append(row)

    def leave(self, module: Module, args: tuple, output: Any) -> None:
        row = self.rows[module]
        while self.running.pop() is not row:
            pass  # that one raised, and the network went on without it
        if row.calls == 1:
            row.output = shapes(output)
        row.activation_bytes += sum(x.nbytes for x in leaves(output) if self.is_new(x))

    def row(self, module: Module) -> Row:
        """The module's row, made when it is first wanted."""
        if module not in self.rows:
            own = [p for p in module.parameters(recurse=False) if p not in self.parameters]
            self.parameters.update(own)
            self.rows[module] = Row(
                self.names[module],
                kind_of(module),
                len(self.running),
                parameters=sum(p.numel() for p in own),
                trainable=sum(p.numel() for p in own if p.requires_grad),
            )
        return self.rows[module]

    def rest(self, model: Module) -> None:
        """Rows of modules that were not called but own parameters, whose weights may have been used all the same."""
        for module, name in self.names.items():
            if any(p not in self.parameters for p in module.parameters(recurse=False)):
                self.row(module).depth = name.count(".") + 1

    def is_new(self, x: Any) -> bool:
        """Whether x is an array in memory that has not been seen."""
        if not is_array(x):
            return False
        owner = x._data if isinstance(x, Tensor) else x
        while hasattr(getattr(owner, "base", None), "strides"):
            owner = owner.base
        seen = id(owner) in self.memory
        self.memory[id(owner)] = owner
        return not seen


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first two columns to the left, numbers to the right."""
    parts = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(parts).rstrip()
