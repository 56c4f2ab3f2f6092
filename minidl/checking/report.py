"""What a gradient check found: the report, one failure of it in words, and a file that reproduces it."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..core.tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient is wrong, or cannot be trusted. `report` holds what was found."""

    def __init__(self, message: str, report: Report | None = None):
        super().__init__(message)
        self.report = report


class Step(NamedTuple):
    """Difference quotients of one output element along one input element, with one step."""

    eps: float
    central: float  # (f(x + eps) - f(x - eps)) / 2 eps
    left: float  # (f(x) - f(x - eps)) / eps
    right: float  # (f(x + eps) - f(x)) / eps


@dataclass
class Failure:
    """One thing that is wrong, for one input.

    kind: "value" (analytic and numeric derivative differ), "nondeterministic", "shape", "dtype", "mutation",
    "exception" or "not finite". Fields that do not apply are None or empty.
    """

    kind: str
    what: str  # one sentence
    order: int = 1
    input: int | None = None
    name: str | None = None
    element: tuple[int, ...] | None = None
    output: int | None = None
    output_element: tuple[int, ...] | None = None
    analytic: float = math.nan
    numeric: float = math.nan
    wrong: int = 0  # elements of this input's Jacobian beyond the tolerance …
    total: int = 0  # … of so many
    sweep: list[Step] = field(default_factory=list)
    kink: bool = False
    hints: list[str] = field(default_factory=list)

    @property
    def absolute(self) -> float:
        """|analytic - numeric|."""
        return abs(self.analytic - self.numeric)

    @property
    def relative(self) -> float:
        """|analytic - numeric| / |numeric|."""
        return self.absolute / abs(self.numeric) if self.numeric else math.inf

    def __str__(self) -> str:
        order = "" if self.order == 1 else f" (order {self.order}: the gradient's own gradient)"
        lines = [f"{self.what}{order}"]
        if self.input is not None:
            name = f" ({self.name})" if self.name else ""
            at = "" if self.element is None else f", element {_index(self.element)}"
            lines.append(f"  input {self.input}{name}{at}")
        if self.output is not None:
            lines.append(f"  output {self.output}, element {_index(self.output_element or ())}")
        if self.kind == "value":
            lines.append(
                f"  analytic {self.analytic:.10g}, numeric {self.numeric:.10g}: "
                f"off by {self.absolute:.3g} (relative {self.relative:.3g})"
            )
        if self.total:
            lines.append(f"  {self.wrong} of {self.total} elements of this input's Jacobian are beyond the tolerance")
        if self.sweep:
            lines.append("  step      central difference     error       left             right")
            for s in self.sweep:
                error = abs(s.central - self.analytic)
                lines.append(f"  {s.eps:<8.1e}  {s.central:<21.12g}  {error:<10.2e}  {s.left:<15.8g}  {s.right:<.8g}")
        lines += [f"  {'suspected: ' if i == 0 else '           '}{hint}" for i, hint in enumerate(self.hints)]
        return "\n".join(lines)


def _index(element: tuple[int, ...]) -> str:
    return "[" + ", ".join(map(str, element)) + "]"


@dataclass
class Report:
    """The result of a check; true if nothing failed.

    error: for each order that was checked, the largest |analytic - numeric| / max(1, |analytic|, |numeric|).
    evaluations: how often the function was called.
    """

    failures: list[Failure] = field(default_factory=list)
    error: dict[int, float] = field(default_factory=dict)
    evaluations: int = 0
    saved: Path | None = None

    def __bool__(self) -> bool:
        return not self.failures

    def __str__(self) -> str:
        if self:
            errors = ", ".join(f"order {order}: {error:.2g}" for order, error in self.error.items())
            return f"gradients agree (largest error, {errors}; {self.evaluations} evaluations)"
        text = "\n".join(map(str, self.failures))
        if self.saved is not None:
            check = "gradcheck(fn, case.inputs)"
            if self.failures[0].order == 2:
                check = "gradgradcheck(fn, case.inputs, case.grad_outputs)"
            text += (
                f"\nsaved in {self.saved}; again with\n"
                f"  from minidl.checking import {check.partition('(')[0]}, load_case\n"
                f"  case = load_case({str(self.saved)!r})\n"
                f"  {check}"
            )
        return text

    def add(self, other: Report) -> None:
        """Take over what another check found."""
        self.failures += other.failures
        self.error |= other.error
        self.evaluations += other.evaluations
        self.saved = self.saved or other.saved


# ---- arrays in a given memory order
def in_layout(array: np.ndarray, strides: Sequence[int] | None = None) -> np.ndarray:
    """A writable copy with the same strides (negative ones, gaps and permuted axes included), so that a function sees
    the memory order it was called with. Arrays whose elements share memory are copied plainly."""
    strides = tuple(array.strides if strides is None else strides)
    reach = 0  # how far the elements along the smaller strides extend: a larger stride must lead beyond that
    for step, n in sorted((abs(s), n) for s, n in zip(strides, array.shape, strict=True) if n > 1):
        if step <= reach:
            return array.copy(order="K")
        reach += step * (n - 1)
    if array.size == 0 or any(s % array.itemsize for s in strides):
        return array.copy(order="K")
    ends = [s * (n - 1) for s, n in zip(strides, array.shape, strict=True)]
    low, high = sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)
    memory = np.zeros((high - low) // array.itemsize + 1, array.dtype)
    copy: np.ndarray = np.ndarray(array.shape, array.dtype, memory, -low, strides)
    copy[...] = array
    return copy


# ---- a file that reproduces a failure
class SavedCase(NamedTuple):
    """The content of a file that `save=` wrote."""

    inputs: tuple  # as they were given to gradcheck
    grad_outputs: tuple | None  # at order 2: what flowed into the gradient function
    order: int
    input: int
    element: tuple[int, ...]
    output: int
    output_element: tuple[int, ...]
    analytic: float
    numeric: float
    sweep: np.ndarray  # columns: eps, central, left, right


def save_case(path: str | os.PathLike, failure: Failure, inputs: Sequence[Any], given: int) -> Path:
    """Write inputs and indices of a failure to an .npz file: numbers and text only, no pickles.

    given: how many of `inputs` are the user's; at order 2 the rest are gradients of the outputs. The file appears
    under its name only when it is complete.
    """
    target = Path(path)
    if target.suffix != ".npz":
        target = target.with_name(target.name + ".npz")
    arrays: dict[str, Any] = {}
    described: list[dict] = []
    for i, x in enumerate(inputs):
        array = x.numpy() if isinstance(x, Tensor) else x
        if isinstance(array, np.ndarray):
            arrays[f"input_{i}"] = array
            kind = "tensor" if isinstance(x, Tensor) else "array"
            requires = isinstance(x, Tensor) and x.requires_grad
            described.append({"kind": kind, "requires_grad": requires, "strides": list(array.strides)})
        else:
            try:
                json.dumps(x)
                described.append({"kind": "value", "value": x})
            except TypeError:
                described.append({"kind": "text", "value": repr(x)})
    about = {
        "inputs": described, "given": given, "order": failure.order, "kind": failure.kind, "message": failure.what,
        "input": failure.input, "element": failure.element, "output": failure.output,
        "output_element": failure.output_element,
    }  # fmt: skip
    arrays["about"] = np.array(json.dumps(about))
    arrays["analytic"] = np.array(failure.analytic)
    arrays["numeric"] = np.array(failure.numeric)
    arrays["sweep"] = np.array([tuple(s) for s in failure.sweep], np.float64).reshape(-1, 4)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(target, buffer.getvalue())
    return target


def write_whole(target: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it: a temporary one beside it takes its name at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_case(path: str | os.PathLike) -> SavedCase:
    """Read what `gradcheck(…, save=path)` wrote. Tensors come back with their memory order and requires_grad."""
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        inputs: list[Any] = []
        for i, described in enumerate(about["inputs"]):
            if described["kind"] in ("value", "text"):
                inputs.append(described["value"])
                continue
            array = in_layout(file[f"input_{i}"], described["strides"])
            inputs.append(array)
            if described["kind"] == "tensor":
                inputs[-1] = Tensor(array).requires_grad_(described["requires_grad"])
        given = about["given"]
        return SavedCase(
            tuple(inputs[:given]),
            tuple(inputs[given:]) or None,
            about["order"],
            -1 if about["input"] is None else about["input"],
            tuple(about["element"] or ()),
            -1 if about["output"] is None else about["output"],
            tuple(about["output_element"] or ()),
            float(file["analytic"]),
            float(file["numeric"]),
            file["sweep"],
        )
