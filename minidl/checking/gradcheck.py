"""Gradient checking: are the gradients that backward computes those of the function?

The derivative of f along an input element is compared with the central difference

    (f(x + h) - f(x - h)) / 2h  =  f'(x) + h^2 f'''(x) / 6 + …

Its error has two parts: the series is cut off (h^2 |f'''| / 6), and f itself is known only to rounding (about e |f| /
h with e = 2.2e-16 in float64). The sum is least near h = (3 e |f| / |f'''|)^(1/3), the cube root of the machine's
precision: about 6e-6 for functions and derivatives of size 1, where ten digits of the derivative are right. In
float32 the best step is 7e-3 and leaves four digits: too few to tell a wrong rule from rounding, so float32 is
refused. A function that is linear in each element (a convolution, a product) has no cut-off error at all; there h = 1
is best, and differences are exact to rounding.

One backward pass from a one-hot gradient gives a *row* of the Jacobian, one pair of evaluations a *column*. Per-element
mode compares the whole matrix; random-direction mode (`fast`) compares one number, v . J . u, for each input: v . J
comes from one backward pass, J . u from one difference. A wrong J goes unnoticed only if its error is orthogonal to u
and v.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.backward import grad
from ..core.mode import enable_grad
from ..core.primitive import Primitive
from ..core.random import get_rng_state
from ..core.tensor import Tensor, to_device
from ..kernels.arrays import is_floating
from .report import Failure, GradcheckError, Report, Step, in_layout, save_case

SWEEP = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


@dataclass(frozen=True)
class Settings:
    eps: float
    atol: float
    rtol: float
    fast: bool
    nondet_tol: float
    seed: int

    def close(self, analytic: Any, numeric: Any) -> Any:
        """Whether they agree; not a number and infinities never do."""
        return abs(analytic - numeric) <= self.atol + self.rtol * abs(numeric)


def gradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    order: int = 1,
    fast: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    save: str | os.PathLike | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Report:
    """Check the gradients of fn(*inputs) against finite differences.

    inputs: a tensor or a tuple. The float64 tensors that require gradients are checked; tensors that do not,
    integers, None and other values are passed through. They may have any memory order, be read-only or be parameters
    that fn reads by itself. fn returns a tensor or a tuple of tensors. eps: the step. atol, rtol: derivatives agree
    if |analytic - numeric| <= atol + rtol |numeric|. order: 1, or 2 to check the gradients' own gradients as well
    (see gradgradcheck). fast: compare along one random direction instead of element by element. raise_exception:
    raise GradcheckError; otherwise the report says what failed, and is false. nondet_tol: how far two runs of fn, or
    of its backward, may differ. save: on failure write an .npz there, to be read by load_case. names: of the inputs;
    by default fn's parameters. seed: of the random directions.

    Also checked: gradients have their input's shape and dtype, inputs and incoming gradients are not written to, fn
    and its backward are deterministic. Returns a Report (true if all is well). Raises TypeError and ValueError where
    there is nothing to check or no way to: no input requires gradients, one is not float64, no output carries a
    gradient.
    """
    if order not in (1, 2):
        raise ValueError(f"order is {order}; it must be 1 or 2")
    settings = _settings(eps, atol, rtol, fast, nondet_tol, seed)
    given = _as_tuple(inputs)
    report = _check(fn, given, settings, _names(fn, given, names), save)
    if order == 2 and report:
        report.add(_second(fn, given, None, settings, _names(fn, given, names), save))
    return _finish(report, raise_exception)


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    fast: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    save: str | os.PathLike | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Report:
    """Check the second derivatives of fn: gradcheck of the function that maps (inputs, grad_outputs) to fn's gradients.

    grad_outputs: one for each output that carries a gradient, random by default. Those that require gradients are
    inputs of the check. The rest is as in gradcheck; the first derivatives themselves are not checked.
    """
    settings = _settings(eps, atol, rtol, fast, nondet_tol, seed)
    given = _as_tuple(inputs)
    report = _second(fn, given, grad_outputs, settings, _names(fn, given, names), save)
    return _finish(report, raise_exception)


def _settings(eps: float, atol: float, rtol: float, fast: bool, nondet_tol: float, seed: int) -> Settings:
    if not eps > 0 or not math.isfinite(eps):
        raise ValueError(f"eps is {eps}; the step of the differences must be positive")
    for name, value in (("atol", atol), ("rtol", rtol), ("nondet_tol", nondet_tol)):
        if not value >= 0:
            raise ValueError(f"{name} is {value}; a tolerance must not be negative")
    return Settings(eps, atol, rtol, fast, nondet_tol, seed)


def _finish(report: Report, raise_exception: bool) -> Report:
    if raise_exception and not report:
        raise GradcheckError(str(report), report)
    return report


def _as_tuple(inputs: Any) -> tuple:
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


def _names(fn: Callable, inputs: tuple, names: Sequence[str] | None) -> list[str | None]:
    """Names for the inputs: given ones, a primitive's slots, or the parameters of fn."""
    if names is not None:
        if len(names) != len(inputs):
            raise ValueError(f"there are {len(inputs)} inputs but {len(names)} names")
        return list(names)
    found: list[str | None] = []
    if isinstance(fn, Primitive):
        found += fn.slots[: fn.inputs] if not fn.list_in else []
    else:
        with suppress(TypeError, ValueError):
            for p in inspect.signature(fn).parameters.values():
                if p.kind not in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
                    break
                found.append(p.name)
    return [found[i] if i < len(found) else None for i in range(len(inputs))]


# ---- the function under test
class _Function:
    """fn with its inputs: evaluates it at shifted inputs, and knows which inputs and outputs take part."""

    def __init__(self, fn: Callable, inputs: tuple, names: list[str | None]):
        self.fn, self.inputs, self.names = fn, inputs, names
        self.checked = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
        self.evaluations = 0
        self._refuse()
        self.outputs: list[int] = []  # positions of the floating-point tensors among what fn returns
        self.shapes: list[tuple[int, ...]] = []

    def _refuse(self) -> None:
        if not self.checked:
            kinds = ", ".join(_describe(x) for x in self.inputs) or "nothing"
            raise ValueError(
                f"gradcheck: no input requires a gradient, so there is nothing to check; the inputs are {kinds}. "
                f"Set requires_grad=True on float64 tensors"
            )
        for i in self.checked:
            x = self.inputs[i]
            if x.dtype != np.float64:
                digits = {"float32": "7e-3, and leaves about 4 digits", "float16": "0.1, and leaves 1 or 2 digits"}
                digits["bfloat16"] = "0.2, and leaves 1 digit"
                raise TypeError(
                    f"gradcheck: input {i}{self._named(i)} is {x.dtype}, and finite differences need float64. The best "
                    f"step of a central difference is about the cube root of the machine's precision, in {x.dtype} "
                    f"{digits.get(str(x.dtype), 'large')}, too few to tell a wrong gradient from rounding. "
                    f"Pass x.double(), or layer.double() for a whole layer"
                )

    def _named(self, i: int) -> str:
        return f" ({self.names[i]})" if self.names[i] else ""

    def tensors(self) -> list[Tensor]:
        """Run fn. What it returns as a list; only floating-point tensors take part."""
        self.evaluations += 1
        with enable_grad():
            result = self.fn(*self.inputs)
        outs = list(result) if isinstance(result, (tuple, list)) else [result]
        for k, y in enumerate(outs):
            if not isinstance(y, Tensor):
                raise TypeError(f"gradcheck: output {k} of the function is {_describe(y)}; it must return tensors")
        return outs

    def start(self) -> list[Tensor]:
        """The first run: settles which outputs take part."""
        outs = self.tensors()
        self.outputs = [k for k, y in enumerate(outs) if is_floating(y.dtype)]
        found = [outs[k] for k in self.outputs]
        if not any(y.requires_grad for y in found):
            kinds = ", ".join(_describe(y) for y in outs) or "nothing"
            raise ValueError(
                f"gradcheck: no output carries a gradient, so there is nothing to check; the function returned "
                f"{kinds}. Was the result detached, computed under no_grad() or with NumPy, or is the function a step?"
            )
        for k, y in zip(self.outputs, found, strict=True):
            if y.dtype != np.float64 and y.requires_grad:
                raise TypeError(
                    f"gradcheck: output {k} is {y.dtype}; differences of it are too coarse to check a gradient. "
                    f"Compute in float64 throughout"
                )
        self.shapes = [y.shape for y in found]
        return found

    def value(self) -> np.ndarray:
        """All outputs in one vector (a copy)."""
        outs = self.tensors()
        picked = [outs[k].numpy() for k in self.outputs if k < len(outs)]
        if [y.shape for y in picked] != self.shapes:
            raise GradcheckError(
                f"the function returned outputs of shapes {[y.shape for y in picked]}, at first they were {self.shapes}"
            )
        return np.concatenate([y.ravel() for y in picked]).astype(np.float64)

    def shifted(self, i: int, array: np.ndarray) -> np.ndarray:
        """The outputs with another array in place of input i; the tensor gets its own array back."""
        x = self.inputs[i]
        original = x._data
        try:
            x._data = array if isinstance(original, np.ndarray) else to_device(array, x.device)
            return self.value()
        finally:
            x._data = original

    def along(self, i: int, direction: np.ndarray, eps: float) -> np.ndarray:
        """The central difference of all outputs along a direction in input i."""
        host = self.inputs[i].numpy()
        plus, minus = in_layout(host), in_layout(host)
        plus += eps * direction
        minus -= eps * direction
        return (self.shifted(i, plus) - self.shifted(i, minus)) / (2 * eps)

    def column(self, i: int, element: tuple[int, ...], eps: float, room: np.ndarray) -> np.ndarray:
        """The derivative of all outputs by one element of input i; `room` holds input i's values, and does so again."""
        x = room[element]
        room[element] = x + eps
        # x + eps is rounded: what counts is the distance between the two points that are really used
        upper = float(room[element])
        above = self.shifted(i, room)
        room[element] = x - eps
        below = self.shifted(i, room)
        width = upper - float(room[element])
        room[element] = x
        return (above - below) / width

    def place(self, m: int) -> tuple[int, tuple[int, ...]]:
        """Output and element of position m of the vector of all outputs."""
        for k, shape in zip(self.outputs, self.shapes, strict=True):
            size = math.prod(shape)
            if m < size:
                return k, tuple(int(n) for n in np.unravel_index(m, shape)) if shape else ()
            m -= size
        raise IndexError(m)


def _describe(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        kind = "a tensor" if isinstance(value, Tensor) else "an array"
        return f"{kind} {value.dtype}{list(value.shape)}"
    return type(value).__name__


# ---- first order
def _check(
    fn: Callable, inputs: tuple, settings: Settings, names: list[str | None], save: Any, order: int = 1,
    given: int | None = None,
) -> Report:  # fmt: skip
    """Compare the gradients of fn with differences; every failure is labelled with `order`."""
    f = _Function(fn, inputs, names)
    report = Report(error={order: 0.0})
    before = _snapshot(inputs)
    random_state = get_rng_state()
    outs = f.start()
    drew = get_rng_state() != random_state
    found: list[Failure] = []
    first = np.concatenate([y.numpy().ravel() for y in outs]).astype(np.float64)
    if bad := int(first.size - np.isfinite(first).sum()):
        found.append(Failure("not finite", f"{bad} of {first.size} outputs are not finite"))
    elif not _repeats(f, first, settings, 8 if drew else 1):
        found.append(Failure("nondeterministic", "the function is not deterministic: two runs differ"))
        found[0].hints = [RANDOM if drew else UNKNOWN]
    else:
        backward = _Backward(f, outs, settings)
        found += backward.trial() or _mutations(inputs, before, names)
        if not found:
            compare = _fast if settings.fast else _full
            with np.errstate(all="ignore"):  # a large step of a sweep may leave the function's domain
                found += compare(f, backward, settings, report, order)
    if not any(failure.kind == "mutation" for failure in found):
        found += _mutations(inputs, before, names)
    for failure in found:
        failure.order = order
        if failure.kind != "value":  # then nothing was measured
            report.error[order] = math.inf
    report.failures = found
    report.evaluations = f.evaluations
    if found and save is not None:
        report.saved = save_case(save, found[0], inputs, len(inputs) if given is None else given)
    return report


RANDOM = "it drew from minidl's random stream: fix the seed inside, or make what is drawn an input"
UNKNOWN = "something else than the inputs decides the result: random numbers, state, time, uninitialised memory"


def _repeats(f: _Function, first: np.ndarray, settings: Settings, runs: int) -> bool:
    """Whether further runs give the same values. One that draws random numbers may do so by chance: it runs more."""
    return all(_equal(first, f.value(), settings.nondet_tol) for _ in range(runs))


def _snapshot(inputs: tuple) -> list[np.ndarray | None]:
    arrays = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
    return [x.copy() if isinstance(x, np.ndarray) else None for x in arrays]


def _mutations(inputs: tuple, before: list[np.ndarray | None], names: list[str | None]) -> list[Failure]:
    found = []
    for i, (x, old, now) in enumerate(zip(inputs, before, _snapshot(inputs), strict=True)):
        if old is not None and now is not None and not np.array_equal(old, now, equal_nan=is_floating(old.dtype)):
            what = f"the function or its backward wrote to its input {_describe(x)}"
            found.append(Failure("mutation", what, input=i, name=names[i]))
    return found


def _equal(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return a.shape == b.shape and bool(np.all((a == b) | (abs(a - b) <= tolerance)))


class _Backward:
    """Backward passes through one graph of the function, kept for many."""

    def __init__(self, f: _Function, outs: list[Tensor], settings: Settings):
        self.f, self.outs, self.settings = f, outs, settings
        self.inputs = [f.inputs[i] for i in f.checked]
        self.rng = np.random.default_rng(settings.seed)

    def pull(self, vectors: list[np.ndarray | None]) -> list[Tensor | None]:
        """The gradients that arrive at the inputs when `vectors` enter at the outputs (None: nothing enters)."""
        pairs = [
            (y, Tensor(v if y.device == "cpu" else to_device(v, y.device)))
            for y, v in zip(self.outs, vectors, strict=True)
            if y.requires_grad and v is not None
        ]
        if not pairs:
            return [None] * len(self.inputs)
        ys, vs = zip(*pairs, strict=True)
        return list(grad(list(ys), self.inputs, list(vs), retain_graph=True, allow_unused=True))

    def arrays(self, vectors: list[np.ndarray | None]) -> list[np.ndarray]:
        """The same as arrays; an input that nothing depends on has the gradient 0."""
        found = self.pull(vectors)
        return [np.zeros(x.shape) if g is None else g.numpy() for g, x in zip(found, self.inputs, strict=True)]

    def rows(self) -> list[np.ndarray]:
        """The Jacobians of all outputs in one vector by each input: (outputs, elements of the input)."""
        total = sum(math.prod(s) for s in self.f.shapes)
        jacobians = [np.zeros((total, x.numel())) for x in self.inputs]
        m = 0
        for k, shape in enumerate(self.f.shapes):
            for at in np.ndindex(*shape):
                if self.outs[k].requires_grad:
                    one_hot = np.zeros(shape)
                    one_hot[at] = 1
                    vectors: list[np.ndarray | None] = [None] * len(self.outs)
                    vectors[k] = one_hot
                    for jacobian, g in zip(jacobians, self.arrays(vectors), strict=True):
                        jacobian[m] = g.ravel()
                m += 1
        return jacobians

    def trial(self) -> list[Failure]:
        """One pass from random gradients, twice: does it run, fit its inputs, repeat itself and leave its gradient
        alone?"""
        vectors: list[np.ndarray | None] = [self.rng.standard_normal(s) for s in self.f.shapes]
        kept = [v.copy() for v in vectors if v is not None]
        try:
            once, twice = self.pull(vectors), self.pull(vectors)
        except Exception as error:
            notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
            return [Failure("exception", f"backward failed with {type(error).__name__}: {error}{notes}")]
        found = []
        for i, x, g, again in zip(self.f.checked, self.inputs, once, twice, strict=True):
            where: dict[str, Any] = {"input": i, "name": self.f.names[i]}
            if g is None or again is None:
                continue
            if g.shape != x.shape:
                found.append(Failure("shape", f"the gradient has shape {g.shape}, its input {x.shape}", **where))
            elif g.dtype != x.dtype:
                found.append(Failure("dtype", f"the gradient is {g.dtype}, its input {x.dtype}", **where))
            elif bad := int(g.numel() - np.isfinite(g.numpy()).sum()):
                found.append(
                    Failure("not finite", f"{bad} of {g.numel()} elements of the gradient are not finite", **where)
                )
            elif not _equal(g.numpy(), again.numpy(), self.settings.nondet_tol):
                what = "backward is not deterministic: two passes from the same gradient differ"
                found.append(Failure("nondeterministic", what, **where))
        if any(not np.array_equal(v, old) for v, old in zip(vectors, kept, strict=True) if v is not None):
            found.append(Failure("mutation", "backward wrote to the gradient it was given"))
        return found


def _full(f: _Function, backward: _Backward, settings: Settings, report: Report, order: int) -> list[Failure]:
    """Every element of every input."""
    found = []
    for i, analytic in zip(f.checked, backward.rows(), strict=True):
        numeric = _numeric(f, i, settings.eps, analytic.shape[0])
        report.error[order] = max(report.error[order], _error(analytic, numeric))
        if not settings.close(analytic, numeric).all():
            found.append(_explain(f, i, analytic, numeric, settings))
    return found


def _numeric(f: _Function, i: int, eps: float, outputs: int) -> np.ndarray:
    room = in_layout(f.inputs[i].numpy())
    columns = np.zeros((outputs, room.size))
    for j, element in enumerate(np.ndindex(*room.shape)):
        columns[:, j] = f.column(i, element, eps, room)
    return columns


def _error(analytic: np.ndarray, numeric: np.ndarray) -> float:
    """The largest |a - n| / max(1, |a|, |n|)."""
    if not analytic.size:
        return 0.0
    size = np.maximum(1, np.maximum(abs(analytic), abs(numeric)))
    return float(np.max(abs(analytic - numeric) / size))


def _fast(f: _Function, backward: _Backward, settings: Settings, report: Report, order: int) -> list[Failure]:
    """One random direction for each input. Where it disagrees, the whole Jacobian is worked out to say where."""
    vectors: list[np.ndarray | None] = [backward.rng.standard_normal(s) for s in f.shapes]
    v = np.concatenate([np.ravel(w) for w in vectors if w is not None])
    found = []
    for i, g in zip(f.checked, backward.arrays(vectors), strict=True):
        u = backward.rng.standard_normal(g.shape)
        analytic = float((g * u).sum())
        numeric = float(v @ f.along(i, u, settings.eps))
        report.error[order] = max(report.error[order], _error(np.array([analytic]), np.array([numeric])))
        if not settings.close(analytic, numeric):
            position = f.checked.index(i)
            whole = backward.rows()[position]
            found.append(_explain(f, i, whole, _numeric(f, i, settings.eps, whole.shape[0]), settings))
            if not found[-1].wrong:
                found[-1].what = (
                    f"the gradient is wrong along a random direction: analytic {analytic:.10g}, numeric "
                    f"{numeric:.10g}; no single element is beyond the tolerance, the worst is"
                )
    return found


# ---- why it failed
def _explain(f: _Function, i: int, analytic: np.ndarray, numeric: np.ndarray, settings: Settings) -> Failure:
    """Describe the worst element of a Jacobian: how the differences behave as the step shrinks, and what that
    suggests."""
    wrong = ~settings.close(analytic, numeric)
    excess = abs(analytic - numeric) / np.maximum(settings.atol + settings.rtol * abs(numeric), 1e-300)
    m, j = np.unravel_index(np.nanargmax(np.where(np.isfinite(excess), excess, np.inf)), excess.shape)
    shape = f.inputs[i].shape
    output, output_element = f.place(int(m))
    failure = Failure(
        "value", "an analytic and a numeric derivative differ", input=i, name=f.names[i],
        element=tuple(int(n) for n in np.unravel_index(j, shape)) if shape else (),
        output=output, output_element=output_element, analytic=float(analytic[m, j]), numeric=float(numeric[m, j]),
        wrong=int(wrong.sum()), total=wrong.size,
    )  # fmt: skip
    if not _repeats(f, f.value(), settings, 8):
        failure.kind, failure.what = (
            "nondeterministic",
            "the function is not deterministic, though its first runs agreed",
        )
        failure.hints = [UNKNOWN]
        return failure
    failure.sweep = _sweep(f, i, failure.element or (), int(m), settings.eps)
    failure.kink = _kink(failure.sweep, settings)
    failure.hints = _hints(failure, analytic, numeric, settings)
    return failure


def _sweep(f: _Function, i: int, element: tuple[int, ...], m: int, eps: float) -> list[Step]:
    """Difference quotients of one element with many steps."""
    room = in_layout(f.inputs[i].numpy())
    here, middle = room[element], f.value()[m]
    steps = []
    for h in sorted({*SWEEP, eps}, reverse=True):
        values = []
        for x in (here - h, here + h):
            room[element] = x
            values.append(f.shifted(i, room)[m])
        below, above = values
        steps.append(Step(h, (above - below) / (2 * h), (middle - below) / h, (above - middle) / h))
    return [Step(*map(float, s)) for s in steps]


def _kink(sweep: list[Step], settings: Settings) -> bool:
    """Whether the slopes on both sides differ however small the step.

    Where a function is smooth, right - left = f'' h shrinks with the step; at a kink it stays. Steps below 1e-6 are
    left out: there rounding (about 1e-16 |f| / h) could look like one.
    """
    gaps = [(s.eps, abs(s.right - s.left), max(abs(s.right), abs(s.left))) for s in sweep if s.eps >= 1e-6]
    if len(gaps) < 3 or not all(math.isfinite(g) for _, g, _ in gaps):
        return False
    (wide, gap_wide, _), (narrow, gap_narrow, slope) = gaps[-3], gaps[-1]
    if gap_narrow <= max(settings.atol, 1e-3 * slope, 1e-8):
        return False
    return gap_narrow > math.sqrt(narrow / wide) * gap_wide  # between proportional to the step and constant


def _hints(failure: Failure, analytic: np.ndarray, numeric: np.ndarray, settings: Settings) -> list[str]:
    hints = []
    if failure.kink:
        at = min(failure.sweep, key=lambda s: abs(s.eps - 1e-6))
        side = ""
        if settings.close(failure.analytic, at.left):
            side = "; the analytic value is the slope on the left"
        elif settings.close(failure.analytic, at.right):
            side = "; the analytic value is the slope on the right"
        hints.append(
            f"a kink: the slopes on the left ({at.left:.6g}) and on the right ({at.right:.6g}) differ however small "
            f"the step{side}. Check at inputs away from it (ties, zeros, borders of a clamp)"
        )
        return hints
    settled = _limit(failure.sweep, settings)
    if settled is None:
        hints.append(
            "the differences do not settle for any step: the function is noisy, discontinuous or very curved here"
        )
    elif settings.close(failure.analytic, settled.central):
        hints.append(f"the step: with eps={settled.eps:.0e} the difference agrees with the analytic value")
    else:
        hints.append(f"the rule: the differences settle at {settled.central:.10g}, which is not the analytic value")
    square = float((numeric * numeric).sum())
    if not np.isfinite(square) or not np.isfinite(analytic).all():
        return hints
    if not analytic.any() and numeric.any():
        hints.append("a missing dependence: the analytic gradient of this input is zero everywhere")
    elif square:
        factor = float((analytic * numeric).sum()) / square
        rest = float(np.sqrt(((analytic - factor * numeric) ** 2).sum()))
        if rest <= 1e-4 * float(np.sqrt((analytic * analytic).sum())) and not settings.close(factor, 1.0):
            what = "a wrong sign" if settings.close(factor, -1.0) else "a wrong factor"
            hints.append(f"{what}: the whole analytic Jacobian is {factor:.6g} times the numeric one")
    return hints


def _limit(sweep: list[Step], settings: Settings) -> Step | None:
    """Where the central differences settle: the step that changes least against its neighbour."""
    best: tuple[float, Step] | None = None
    for wide, narrow in pairwise(sweep):
        change = abs(wide.central - narrow.central)
        if math.isfinite(change) and (best is None or change < best[0]):
            best = change, narrow
    if best is None or best[0] > settings.atol + settings.rtol * abs(best[1].central):
        return None
    return best[1]


# ---- second order
def _second(
    fn: Callable, inputs: tuple, grad_outputs: Any, settings: Settings, names: list[str | None], save: Any
) -> Report:
    """Check the gradient function: (inputs, gradients of the outputs) -> gradients of the inputs."""
    f = _Function(fn, inputs, names)
    outs = f.tensors()
    carriers = [k for k, y in enumerate(outs) if y.requires_grad]
    f.start()
    if grad_outputs is None:
        rng = np.random.default_rng(settings.seed + 1)
        seeds = [Tensor(rng.standard_normal(outs[k].shape)) for k in carriers]
        seeds = [
            (s if outs[k].device == "cpu" else Tensor(to_device(s._data, outs[k].device))).requires_grad_()
            for k, s in zip(carriers, seeds, strict=True)
        ]
    else:
        seeds = list(_as_tuple(grad_outputs))
        if len(seeds) != len(carriers):
            raise ValueError(f"{len(carriers)} outputs carry gradients, but there are {len(seeds)} grad_outputs")
        for k, s in zip(carriers, seeds, strict=True):
            if not isinstance(s, Tensor) or s.shape != outs[k].shape:
                raise ValueError(
                    f"the gradient of output {k} must be a tensor of shape {outs[k].shape}, not {_describe(s)}"
                )
    count = len(inputs)

    def gradients(*values: Any) -> tuple[Tensor, ...]:
        given, flowing = values[:count], values[count:]
        result = fn(*given)
        results = list(result) if isinstance(result, (tuple, list)) else [result]
        leaves = [given[i] for i in f.checked]
        found = grad([results[k] for k in carriers], leaves, list(flowing), create_graph=True, allow_unused=True)
        return tuple(g for g in found if g is not None)

    everything = (*inputs, *seeds)
    labels = [*names, *(f"gradient of output {k}" for k in carriers)]
    try:
        report = _check(gradients, everything, settings, labels, save, order=2, given=count)
    except Exception as error:  # the first run of fn itself went well above
        notes = "".join(f"\n    {note}" for note in getattr(error, "__notes__", ()))
        failure = Failure("exception", f"the gradient cannot be differentiated: {type(error).__name__}: {error}{notes}")
        report = Report([replace(failure, order=2)], {2: math.inf})
        if save is not None:
            report.saved = save_case(save, report.failures[0], everything, count)
    report.evaluations += f.evaluations
    return report
