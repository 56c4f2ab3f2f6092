"""Check one row of the table of samples: what `minidl gradcheck` and the tests do with each operation."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..core.tensor import Tensor, to_device
from ..kernels import table
from ..kernels.arrays import is_floating
from .gradcheck import gradcheck, gradgradcheck
from .report import Report
from .sample import Case, Sample

# Where a function is linear in each element, differences with step 1 have no cut-off error: what is left is rounding.
LINEAR: dict[str, Any] = {"eps": 1.0, "atol": 1e-9, "rtol": 1e-9}
# Elsewhere a step near the cube root of the machine's precision leaves about ten digits of numbers of size 1.
CURVED: dict[str, Any] = {"eps": 1e-5, "atol": 1e-7, "rtol": 1e-6}


# What each verdict means, in the order in which they are counted.
VERDICTS = {
    "ok": "gradients and differences agree",
    "failed": "they do not agree, or the function raised an error",
    "constant": "a step or a test; no gradient flows, and the result does not move with the inputs",
    "not checked": "has no gradient to compare",
    "skipped": "not run in this column of the kernel table",
}


@dataclass
class Result:
    """What came out for one row. error: the largest error of each order, as in Report."""

    name: str
    kind: str
    cases: int = 0
    error: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0
    verdict: str = "ok"  # one of VERDICTS
    failures: list[tuple[str, str]] = field(default_factory=list)  # (which case, what is wrong)
    reason: str = ""  # why it was skipped or not checked


def describe(case: Case) -> str:
    """The sizes of a case in one line."""
    given = ", ".join(f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else repr(x) for x in case.inputs)
    options = {} if case.note and "geometry" in case.params else case.params
    rest = "".join(f", {k}={v!r}" for k, v in options.items())
    return f"({given}{rest})" + (f" [{case.note}]" if case.note else "")


def check_case(
    sample: Sample, case: Case, order: int = 2, fast: bool = False, seed: int = 0, device: str = "cpu"
) -> Report:  # fmt: skip
    """gradcheck one case, up to an order."""
    case = replace(case, params=moved(case.params, device))
    inputs = [on(x, device) if isinstance(x, Tensor) else x for x in case.tensors()]
    inputs += case.parameters.values()
    options: dict[str, Any] = {"fast": fast, "seed": seed, "raise_exception": False, "names": sample.names(case)}
    options |= LINEAR if sample.linear else CURVED
    report = gradcheck(sample.function(case), tuple(inputs), **options)
    if order == 2:
        report.add(gradgradcheck(sample.function(case), tuple(inputs), **options))
    return report


def on(x: Tensor, device: str) -> Tensor:
    """The tensor on a device, as a leaf."""
    return x if device == "cpu" else Tensor(to_device(x.numpy(), device)).requires_grad_(x.requires_grad)


def moved(value: Any, device: str) -> Any:
    """The arrays in a value, which may hold some, on a device."""
    if isinstance(value, np.ndarray):
        return to_device(value, device)
    if type(value) in (tuple, list):
        return type(value)(moved(v, device) for v in value)
    return {k: moved(v, device) for k, v in value.items()} if type(value) is dict else value


def check_constant(sample: Sample, case: Case, device: str = "cpu") -> str:
    """Nothing, or what is wrong with a function that claims to be constant wherever it can be differentiated: its
    outputs must not carry gradients, and must not move with the inputs."""
    inputs = [on(x, device) if isinstance(x, Tensor) else x for x in case.tensors()]
    call = sample.function(case)
    outs = _listed(call(*inputs))
    if any(y.requires_grad for y in outs):
        return "an output carries a gradient, though the table says that no gradient flows"
    for i, x in enumerate(inputs):
        for step in (1e-6, -1e-6) if isinstance(x, Tensor) and x.requires_grad else ():
            moved = [*inputs[:i], on(Tensor(x.numpy() + step), device), *inputs[i + 1 :]]
            pairs = zip(outs, _listed(call(*moved)), strict=True)
            if any(not np.array_equal(a.numpy(), b.numpy(), equal_nan=is_floating(a.dtype)) for a, b in pairs):
                return f"the result changes with input {i}, but no gradient flows to it"
    return ""


def _listed(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def check_row(
    sample: Sample, order: int = 2, fast: bool = False, seed: int = 0, device: str = "cpu"
) -> Result:  # fmt: skip
    """Check all cases of a row. An exception in one of them is a failure of it."""
    result = Result(sample.name, sample.kind)
    start = time.perf_counter()
    try:
        cases = sample.cases(seed)
    except Exception as error:
        cases = []
        result.failures.append(("making the sample inputs", _words(error)))
    for case in cases:
        result.cases += 1
        try:
            if sample.gradient == "checked":
                report = check_case(sample, case, order, fast, seed, device)
                for at, size in report.error.items():
                    result.error[at] = max(result.error.get(at, 0.0), size)
                wrong = "" if report else str(report)
            else:
                wrong = check_constant(sample, case, device) if sample.gradient == "zero" else ""
        except Exception as error:
            wrong = _words(error)
        if wrong:
            result.failures.append((describe(case), wrong))
    result.seconds = time.perf_counter() - start
    verdict = {"checked": "ok", "zero": "constant", "none": "not checked"}[sample.gradient]
    result.verdict = "failed" if result.failures else verdict
    if result.verdict == "not checked":
        whole = sample.name.removesuffix("_backward").removesuffix("_slope")
        result.reason = f"checked through {whole}" if whole != sample.name else "takes integers only"
    return result


def _words(error: Exception) -> str:
    return "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", ())])


def own_kernel(name: str, column: str) -> bool:
    """Whether a primitive has a kernel written for this column, rather than the reference or an array library's
    function."""
    return name in table.TABLE and table.own(name, column)
