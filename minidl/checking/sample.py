"""What a row of the table of samples is: an operation and inputs to check it at."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.primitive import Primitive
from ..core.tensor import Tensor
from ..kernels.arrays import is_floating

Rng = np.random.Generator


@dataclass(frozen=True)
class Case:
    """One call. Floating-point arrays among the inputs are float64 and require gradients, unless `fixed` names their
    position; parameters are tensors that the function reads by itself, by their names."""

    inputs: tuple
    params: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    fixed: tuple[int, ...] = ()
    fn: Callable[..., Any] | None = None  # instead of the sample's, for instance a layer with these sizes
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self, dtype: Any = None, requires_grad: bool = True) -> list[Any]:
        """The inputs as new tensors (arrays copied, in their memory order); dtype: of the floating-point ones."""
        out: list[Any] = []
        for i, x in enumerate(self.inputs):
            if isinstance(x, np.ndarray) and is_floating(x.dtype):
                wanted = requires_grad and i not in self.fixed
                out.append(Tensor(x.astype(dtype or x.dtype, order="K")).requires_grad_(wanted))
            else:
                out.append(Tensor(x.copy()) if isinstance(x, np.ndarray) else x)
        return out


@dataclass(frozen=True)
class Sample:
    """A row: an operation and its cases.

    kind: "primitive", "function" or "layer".
    linear: linear in each element that requires gradients, so that differences with step 1 are exact.
    gradient: "checked"; "zero": a step or a test, whose value does not change when the inputs move a little; "none":
    takes no part in gradients (backward kernels of fused primitives, which run on bare arrays only).
    """

    name: str
    kind: str
    fn: Callable[..., Any]
    build: Callable[[Rng], Iterable[Case]]
    linear: bool = False
    gradient: str = "checked"

    def cases(self, seed: int = 0) -> list[Case]:
        """The cases; equal seeds give equal numbers, whatever other rows there are."""
        return list(self.build(np.random.default_rng([seed, *self.name.encode()])))

    def function(self, case: Case) -> Callable[..., Any]:
        """The operation as a function of the case's inputs (and, unused, its parameters): what gradcheck is given."""
        fn, count = case.fn or self.fn, len(case.inputs)

        def call(*inputs: Any) -> Any:
            out = fn(*inputs[:count], **case.params)
            if isinstance(fn, Primitive) and not fn.single and not fn.list_out:
                return out[: fn.differentiable]  # residuals carry no gradient, though they change with the inputs
            return out

        return call

    def names(self, case: Case) -> list[str]:
        """Names of the inputs and parameters."""
        slots = self.fn.slots if isinstance(self.fn, Primitive) and not self.fn.list_in else []
        own = [slots[i] if i < len(slots) else f"input {i}" for i in range(len(case.inputs))]
        return [*own, *case.parameters]


def primitive(
    name: str, build: Callable[[Rng], Iterable[Case]], *, linear: bool = False, gradient: str = "checked"
) -> Sample:
    return Sample(name, "primitive", Primitive.names[name], build, linear, gradient)


# ---- arrays
def normal(rng: Rng, *shape: int) -> np.ndarray:
    return np.asarray(rng.standard_normal(shape))


def away(rng: Rng, *shape: int, low: float = 0.2, high: float = 1.6) -> np.ndarray:
    """Positive and negative numbers away from 0, where many functions have their kink."""
    return np.asarray(rng.uniform(low, high, shape) * rng.choice([-1.0, 1.0], shape))


def positive(rng: Rng, *shape: int, low: float = 0.4, high: float = 2.0) -> np.ndarray:
    return np.asarray(rng.uniform(low, high, shape))


def distinct(rng: Rng, *shape: int, gap: float = 0.1) -> np.ndarray:
    """Numbers with at least `gap` between any two of them, none of them 0: no ties for a maximum."""
    size = int(np.prod(shape))
    return np.asarray((rng.permutation(size) - size / 2 + 0.25).reshape(shape) * gap)


def scattered(rng: Rng, *shape: int) -> np.ndarray:
    """Numbers from -2 to 2, none close to another: no channel has so small a variance that normalising it is steep."""
    return distinct(rng, *shape, gap=4 / int(np.prod(shape)))
