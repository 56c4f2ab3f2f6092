"""Samples of the elementwise primitives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .sample import Case, Rng, Sample, away, distinct, normal, positive, primitive

# shapes that broadcast against each other; the last ones are empty
PAIRS = (((2, 3), (2, 3)), ((2, 1, 3), (4, 1)), ((), (3,)), ((3,), ()), ((0, 3), (3,)), ((1, 3), (0, 1, 1)))
SHAPES = ((2, 3), (), (4, 0))

Draw = Callable[..., np.ndarray]


def _one(draw: Draw = normal, **params: float | None) -> Callable[[Rng], Iterator[Case]]:
    def build(rng: Rng) -> Iterator[Case]:
        for shape in SHAPES:
            yield Case((draw(rng, *shape),), params)

    return build


def _two(left: Draw = normal, right: Draw = normal, number: float | None = 1.5) -> Callable[[Rng], Iterator[Case]]:
    """Pairs of arrays; if `number` is given, also a tensor beside a Python number, on either side."""

    def build(rng: Rng) -> Iterator[Case]:
        for a, b in PAIRS:
            yield Case((left(rng, *a), right(rng, *b)))
        if number is not None:
            yield Case((left(rng, 2, 2), number), note="number on the right")
            yield Case((number, right(rng, 2, 2)), note="number on the left")

    return build


def _apart(rng: Rng) -> Iterator[Case]:
    """Pairs whose elements differ by at least 0.1 wherever they meet."""
    for a, b in PAIRS:
        sizes = int(np.prod(a)), int(np.prod(b))
        numbers = distinct(rng, sum(sizes))
        yield Case((numbers[: sizes[0]].reshape(a), numbers[sizes[0] :].reshape(b)))
    yield Case((distinct(rng, 2, 2), 0.0), note="number on the right")


def _division(rng: Rng) -> Iterator[Case]:
    """Quotients away from whole numbers, where floor jumps."""
    for a, b in PAIRS:
        y = away(rng, *b, low=0.8)
        shape = np.broadcast_shapes(a, b)
        if a == shape and shape:
            quotient = rng.integers(-3, 4, shape) + rng.uniform(0.2, 0.8, shape)
            yield Case((np.asarray(quotient * y), y))
    yield Case((np.array([-2.3, -0.6, 0.7, 5.2]), 1.5), note="number on the right")


def _powers(rng: Rng) -> Iterator[Case]:
    yield from _two(positive, normal)(rng)
    for exponent in (0, 1, 2, 3, -1, 0.5, -1.5):
        yield Case((positive(rng, 2, 2), exponent), note=f"exponent {exponent}")
    yield Case((away(rng, 2, 3), 3), note="negative base")
    yield Case((np.array([-1.2, 0.0, 1.3]), 2), note="base with a zero")


def _log_gradient(rng: Rng) -> Iterator[Case]:
    for a, b in PAIRS:
        yield Case((away(rng, *a), positive(rng, *b)))


def _where(rng: Rng) -> Iterator[Case]:
    yield Case((rng.random((2, 3)) < 0.5, normal(rng, 2, 3), normal(rng, 2, 3)))
    yield Case((rng.random((4, 1)) < 0.5, normal(rng, 2, 1, 3), normal(rng, 3)), note="all broadcast")
    yield Case((rng.random((2, 3)) < 0.5, normal(rng, 2, 3), 0.5), note="number")
    yield Case((rng.random((2, 3)) < 0.5, 0.5, normal(rng, 3)), note="number")
    yield Case((rng.random((0, 3)) < 0.5, normal(rng, 3), normal(rng, 0, 1)))


BOUNDS: tuple[dict[str, float | None], ...] = (
    {"min": -0.7, "max": 0.9},
    {"min": -0.7, "max": None},
    {"min": None, "max": 0.9},
)


def _clamp(rng: Rng) -> Iterator[Case]:
    for bounds in BOUNDS:
        yield Case((np.array([[-1.5, -0.3, 0.2], [0.6, 1.1, -0.9]]),), bounds)
    yield Case((np.array(0.3),), BOUNDS[0])
    yield Case((np.zeros((0, 2)),), BOUNDS[0])


def _clamp_gradient(rng: Rng) -> Iterator[Case]:
    for bounds in BOUNDS:
        yield Case((normal(rng, 2, 3), np.array([[-1.5, -0.3, 0.2], [0.6, 1.1, -0.9]])), bounds)


def _hardtanh(rng: Rng) -> Iterator[Case]:
    yield Case((np.array([[-1.5, -0.3, 0.2], [0.6, 1.1, -0.9]]),), BOUNDS[0])
    yield Case((np.array(0.3),), BOUNDS[0])
    yield Case((np.zeros((0, 2)),), BOUNDS[0])


def _hardtanh_gradient(rng: Rng) -> Iterator[Case]:
    yield Case((normal(rng, 2, 3), np.array([[-1.5, -0.3, 0.2], [0.6, 1.1, -0.9]])), BOUNDS[0])


def _larger_part(rng: Rng) -> Iterator[Case]:
    for case in _apart(rng):
        a, b = case.inputs
        yield Case((normal(rng, *np.broadcast_shapes(a.shape, np.shape(b))), a, b), note=case.note)


def _gated(**params: float) -> Callable[[Rng], Iterator[Case]]:
    """A gradient, and the value that says whether it passes; that one away from 0."""

    def build(rng: Rng) -> Iterator[Case]:
        for shape in SHAPES:
            yield Case((normal(rng, *shape), away(rng, *shape)), params)

    return build


def _integers(rng: Rng) -> Iterator[Case]:
    yield Case((rng.integers(0, 16, (2, 3)), rng.integers(0, 16, (2, 3))))
    yield Case((rng.integers(-9, 9, (2, 3)).astype("int8"), rng.integers(-9, 9, (3,)).astype("int8")))
    yield Case((rng.random((2, 3)) < 0.5, rng.random((2, 1)) < 0.5), note="booleans")


def _invert(rng: Rng) -> Iterator[Case]:
    yield Case((rng.integers(-9, 9, (2, 3)),))
    yield Case((rng.random((2, 3)) < 0.5,), note="booleans")


def _special(rng: Rng) -> Iterator[Case]:
    yield Case((np.array([[1.0, np.nan, -np.inf], [np.inf, 0.0, -2.0]]),), fixed=(0,), note="NaN and infinities")
    yield Case((normal(rng, 2, 2),))


def _steps(rng: Rng) -> Iterator[Case]:
    """Numbers away from whole and half ones."""
    for shape in SHAPES:
        yield Case((np.asarray(rng.integers(-3, 3, shape) + rng.uniform(0.1, 0.4, shape)),))


def _sum_to(rng: Rng) -> Iterator[Case]:
    for shape, target in (
        ((2, 3), (3,)),
        ((4, 2, 3), (2, 1)),
        ((2, 3), ()),
        ((2, 3), (2, 3)),
        ((0, 3), (1, 3)),
        ((2, 0), (1, 1)),
    ):
        yield Case((normal(rng, *shape),), {"shape": target})


def _broadcast_to(rng: Rng) -> Iterator[Case]:
    for shape, target in (((3,), (2, 3)), ((2, 1), (4, 2, 3)), ((), (2, 3)), ((2, 3), (2, 3)), ((1, 3), (0, 3))):
        yield Case((normal(rng, *shape),), {"shape": target})


def _astype(rng: Rng) -> Iterator[Case]:
    for shape in SHAPES:  # other types are too coarse for differences; the battery of tests looks at them
        yield Case((normal(rng, *shape),), {"dtype": np.dtype("float64")})


def _dropout(rng: Rng) -> Iterator[Case]:
    yield Case((normal(rng, 2, 3), rng.random((2, 3)) < 0.6), {"scale": 1 / 0.6})
    yield Case((normal(rng, 2, 3, 2), rng.random((2, 3, 1)) < 0.6), {"scale": 1 / 0.6}, "whole channels")
    yield Case((normal(rng, 0, 3), rng.random((0, 3)) < 0.6), {"scale": 2.0})


def _checkpoint(rng: Rng) -> Iterator[Case]:
    from ..core.checkpoint import checkpoint

    yield Case((normal(rng, 2, 3), normal(rng, 3)), fn=lambda x, w: checkpoint(lambda a, b: (a * b) * a, x, w))
    yield Case((normal(rng, 2, 3), normal(rng, 3)), fn=lambda x, w: checkpoint(lambda a: a * w, x), note="closure")
    yield Case((normal(rng, 3),), fn=lambda x: checkpoint(lambda a: (a * a, a + 1.0), x), note="two outputs")


def _transfer(rng: Rng) -> Iterator[Case]:
    yield Case((normal(rng, 2, 3),), {"source": "cpu", "target": "cpu"})


def samples() -> Iterator[Sample]:
    # linear ones, checked with step 1
    for name in ("add", "sub"):
        yield primitive(name, _two(), linear=True)
    yield primitive("mul", _two(), linear=True)
    yield primitive("neg", _one(), linear=True)
    yield primitive("copy", _one(), linear=True)
    yield primitive("alias", _one(), linear=True)
    yield primitive("astype", _astype, linear=True)
    yield primitive("transfer", _transfer, linear=True)
    yield primitive("sum_to", _sum_to, linear=True)
    yield primitive("broadcast_to", _broadcast_to, linear=True)
    yield primitive("where", _where, linear=True)
    yield primitive("dropout", _dropout, linear=True)
    # curved ones
    yield primitive("div", _two(normal, lambda rng, *s: away(rng, *s, low=0.6)))
    yield primitive("square", _one())
    yield primitive("pow", _powers)
    yield primitive("log_gradient", _log_gradient)
    yield primitive("remainder", _division)
    yield primitive("maximum", _apart)
    yield primitive("minimum", _apart)
    yield primitive("abs", _one(away))
    yield primitive("clamp", _clamp)
    yield primitive("clamp_gradient", _clamp_gradient)
    yield primitive("hardtanh", _hardtanh)
    yield primitive("hardtanh_gradient", _hardtanh_gradient)
    yield primitive("larger_part", _larger_part)
    yield primitive("relu", _one(away))
    yield primitive("positive_part", _gated())
    yield primitive("leaky_relu", _one(away, slope=0.1))
    yield primitive("leaky_part", _gated(slope=0.1))
    for name in ("exp", "expm1", "sin", "cos", "tanh", "erf", "sigmoid", "softplus", "silu", "gelu", "gelu_tanh"):
        yield primitive(name, _one())
    yield primitive("elu", _one(away, alpha=1.5))
    yield primitive("elu_gradient", _gated(alpha=1.5))
    for name in ("gelu_gradient", "gelu_tanh_gradient"):
        yield primitive(name, _gated())
    for name in ("log", "sqrt"):
        yield primitive(name, _one(positive))
    yield primitive("log1p", _one(lambda rng, *s: positive(rng, *s, low=-0.5)))
    yield primitive("checkpoint", _checkpoint)
    # steps and tests
    yield primitive("sign", _one(away), gradient="zero")
    yield primitive("floor_divide", _division, gradient="zero")
    for name in ("floor", "ceil", "round"):
        yield primitive(name, _steps, gradient="zero")
    for name in ("isfinite", "isnan"):
        yield primitive(name, _special, gradient="zero")
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        yield primitive(name, _apart, gradient="zero")
    for name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
        yield primitive(name, _integers, gradient="none")
    yield primitive("invert", _invert, gradient="none")
