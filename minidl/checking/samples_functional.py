"""Samples of the public functions: `minidl.functional` and the array functions of `minidl`. Primitives that are
public as they are (exp, add, …) have their rows in the other files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..core.random import replay
from ..core.tensor import Tensor
from ..functional import activation, conv, loss, normalization
from ..functional import elementwise as array_elementwise
from ..functional import indexing as array_indexing
from ..functional import products as array_products
from ..functional import reduction as array_reduction
from ..functional import shape as array_shape
from ..functional.einsum import einsum
from .sample import Case, Rng, Sample, away, distinct, normal, positive, scattered

Shape = tuple[int, ...]
ARRAY_MODULES = (array_elementwise, array_reduction, array_shape, array_indexing, array_products)
SEED: dict = dict(np.random.PCG64(7).state)  # what dropout draws from, so that every evaluation drops the same elements


def _row(
    module: Any,
    name: str,
    build: Callable[[Rng], Iterator[Case]],
    *,
    linear: bool = False,
    gradient: str = "checked",
    fn: Callable | None = None,
) -> Sample:
    return Sample(f"functional.{name}", "function", fn or getattr(module, name), build, linear, gradient)


def _calls(draw: Callable[..., np.ndarray], *calls: tuple[Shape, tuple, dict]) -> Callable[[Rng], Iterator[Case]]:
    """Cases from rows (shape of the one tensor, further positional arguments, keyword arguments)."""
    return lambda rng: (Case((draw(rng, *shape), *rest), params) for shape, rest, params in calls)


def _many(*calls: tuple[tuple[Shape, ...], tuple, dict]) -> Callable[[Rng], Iterator[Case]]:
    """Cases from rows (shapes of the tensors, further positional arguments, keyword arguments)."""
    return lambda rng: (Case((*(normal(rng, *s) for s in shapes), *rest), params) for shapes, rest, params in calls)


def _array_functions() -> Iterator[Sample]:
    home = lambda name: next((module for module in ARRAY_MODULES if hasattr(module, name)), None)
    row = lambda name, *args, **kwargs: _row(home(name), name, *args, **kwargs)
    reductions: tuple[tuple[Shape, tuple, dict], ...] = (
        ((2, 3), (), {}),
        ((2, 3), (1,), {}),
        ((2, 3, 2), ((0, 2),), {"keepdim": True}),
        ((2, 3), (-1,), {"keepdim": True}),
    )
    yield row("clamp", _calls(distinct, ((2, 4), (), {"min": -0.2}), ((2, 4), (-0.2, 0.3), {})))
    yield row("rsqrt", _calls(positive, ((2, 3), (), {}), ((), (), {})))
    yield row("reciprocal", _calls(away, ((2, 3), (), {})))
    for name in ("sum", "mean"):
        yield row(name, _calls(normal, *reductions), linear=True)
    for name in ("var", "std"):
        yield row(name, _calls(normal, *reductions, ((2, 3), (1,), {"correction": 0})))
    for name in ("amax", "amin"):
        yield row(name, _calls(distinct, *reductions))
    norms = tuple(((2, 3), (), {"p": p, "dim": d}) for p in (1, 2, 3, 2.5, math.inf) for d in (None, 1))
    yield row("norm", _calls(distinct, *norms))
    yield row(
        "prod",
        _calls(
            away,
            ((5,), (), {}),
            ((2, 3), (1,), {}),
            ((2, 4), (0,), {"keepdim": True}),
            ((0,), (), {}),
            ((2, 0), (1,), {}),
        ),
    )
    for name in ("argmax", "argmin"):
        yield row(name, _calls(distinct, ((2, 3), (), {}), ((2, 3), (1,), {"keepdim": True})), gradient="zero")
    for name in ("max", "min"):
        yield row(name, _calls(distinct, ((2, 3), (), {}), ((2, 3), (1,), {}), ((2, 3), (0,), {"keepdim": True})))
    for name in ("any", "all"):
        yield row(name, _calls(away, ((2, 3), (), {}), ((2, 3), (1,), {})), gradient="zero")
    yield row("cumsum", _calls(normal, ((2, 3), (1,), {}), ((2, 3), (-2,), {})), linear=True)
    yield row("logsumexp", _calls(normal, ((2, 3), (1,), {}), ((2, 3), ((0, 1),), {"keepdim": True})))
    for name in ("softmax", "log_softmax"):
        yield row(name, _calls(normal, ((2, 3), (1,), {}), ((2, 3, 2), (-2,), {})))

    yield row(
        "reshape", _calls(normal, ((2, 3), (3, -1), {}), ((2, 3), ((6,),), {}), ((0, 3), (3, 0), {})), linear=True
    )
    yield row("flatten", _calls(normal, ((2, 3, 2), (1,), {}), ((), (), {})), linear=True)
    yield row("unflatten", _calls(normal, ((2, 6), (1, (2, 3)), {})), linear=True)
    yield row("permute", _calls(normal, ((2, 3, 2), (2, 0, 1), {}), ((2, 3), ((-1, 0),), {})), linear=True)
    yield row("transpose", _calls(normal, ((2, 3, 2), (0, -1), {})), linear=True)
    yield row("movedim", _calls(normal, ((2, 3, 2), (0, -1), {}), ((2, 3, 2), (-1, 0), {})), linear=True)
    yield row("squeeze", _calls(normal, ((1, 3, 1), (), {}), ((1, 3, 1), (0,), {}), ((1, 3), (1,), {})), linear=True)
    yield row("unsqueeze", _calls(normal, ((2, 3), (1,), {}), ((2,), (-1,), {}), ((), (0,), {})), linear=True)
    yield row("broadcast_to", _calls(normal, ((2, 1), ((3, 2, 4),), {})), linear=True)
    yield row("expand", _calls(normal, ((2, 1), (3, -1, 4), {})), linear=True)
    yield row("repeat", _calls(normal, ((2, 3), (2, 1), {}), ((3,), (2, 2), {})), linear=True)
    yield row("flip", _calls(normal, ((2, 3), (1,), {}), ((2, 3), ((0, 1),), {})), linear=True)
    yield row("roll", _calls(normal, ((2, 3), (1, 0), {}), ((2, 3), ((1, -1), (0, 1)), {})), linear=True)
    yield row("cat", _many((((2, 3), (1, 3)), (), {}), (((2, 1), (2, 2)), (), {"dim": -1})), linear=True, fn=_cat)
    yield row("stack", _many((((2, 3), (2, 3)), (), {}), (((2,), (2,)), (), {"dim": -1})), linear=True, fn=_stack)
    yield row("split", _calls(normal, ((5, 2), (2,), {}), ((5, 2), ((1, 4),), {})), linear=True)
    yield row("chunk", _calls(normal, ((5, 2), (3,), {})), linear=True)
    yield row("unbind", _calls(normal, ((2, 3), (1,), {})), linear=True)
    pads = tuple(((2, 4), ((1, 2),), {"mode": m}) for m in ("constant", "reflect", "replicate", "circular"))
    yield row("pad", _calls(normal, *pads, ((2, 4), ((-1, 1, 1, 0),), {"value": 2.0})), linear=True)

    yield row(
        "getitem",
        _calls(normal, ((3, 4), ((slice(1, None), [0, 2]),), {}), ((3, 4), ([[0, 0], [2, 1]],), {})),
        linear=True,
    )
    yield row("gather", _picked(lambda index: (1, index)), linear=True)
    yield row("take_along_dim", _picked(lambda index: (index, 1)), linear=True)
    yield row("index_select", lambda rng: iter([Case((normal(rng, 3, 4), 1, rng.integers(0, 4, 6)))]), linear=True)
    yield row("tril", _calls(normal, ((3, 3), (), {}), ((2, 2, 3), (1,), {})), linear=True)
    yield row("triu", _calls(normal, ((3, 3), (), {}), ((2, 2, 3), (-1,), {})), linear=True)
    yield row(
        "diagonal", _calls(normal, ((3, 4), (), {}), ((3, 4), (1,), {}), ((2, 3, 2), (-1, 0, 2), {})), linear=True
    )
    products: tuple[tuple[Shape, ...], ...] = (
        ((2, 3), (3, 2)),
        ((3,), (3,)),
        ((3,), (2, 3, 2)),
        ((2, 2, 3), (3,)),
        ((2, 1, 2, 3), (2, 3, 2)),
    )
    yield row("matmul", _many(*((shapes, (), {}) for shapes in products)), linear=True)
    yield row("mm", _many((((2, 3), (3, 2)), (), {})), linear=True)
    yield row("bmm", _many((((2, 2, 3), (2, 3, 2)), (), {})), linear=True)
    yield row("sort", _calls(distinct, ((2, 3), (), {}), ((2, 3), (0,), {"descending": True})))
    yield row("topk", _calls(distinct, ((2, 4), (2,), {}), ((2, 3), (1, 0), {"largest": False})))
    yield row("argsort", _calls(distinct, ((2, 3), (), {}), ((2, 3), (0,), {"descending": True})), gradient="zero")
    yield row("outer", _many((((2,), (3,)), (), {})), linear=True)
    yield row("einsum", _einsums, linear=True, fn=lambda *xs, equation: einsum(equation, *xs))


def _cat(*xs: Any, **params: Any) -> Any:
    return array_shape.cat(xs, **params)


def _stack(*xs: Any, **params: Any) -> Any:
    return array_shape.stack(xs, **params)


def _picked(arguments: Callable[[np.ndarray], tuple]) -> Callable[[Rng], Iterator[Case]]:
    return lambda rng: iter([Case((normal(rng, 3, 4), *arguments(rng.integers(0, 4, (3, 2)))))])


EINSUMS: tuple[tuple[str, tuple[Shape, ...]], ...] = (
    ("ij,jk->ik", ((2, 3), (3, 2))),
    ("ij,jk", ((2, 3), (3, 2))),
    ("ii->i", ((3, 3),)),
    ("ii", ((3, 3),)),
    ("ij->ji", ((2, 3),)),
    ("...ij,...jk->...ik", ((2, 2, 3), (3, 2))),
    ("i,j,k->kij", ((2,), (3,), (2,))),
    ("bi,bj,b->ij", ((2, 2), (2, 3), (2,))),
    ("ij,ij->", ((2, 3), (2, 3))),
    ("ij,ij->i", ((2, 3), (2, 1))),
)


def _einsums(rng: Rng) -> Iterator[Case]:
    for equation, shapes in EINSUMS:
        yield Case(tuple(normal(rng, *s) for s in shapes), {"equation": equation}, equation)


# ---- convolution and pooling
SPACES: dict[int, Shape] = {1: (5,), 2: (4, 3), 3: (3, 2, 3)}


def _convolution(rank: int) -> Callable[[Rng], Iterator[Case]]:
    def build(rng: Rng) -> Iterator[Case]:
        space, kernel = SPACES[rank], (2,) * rank
        x = lambda *lead: normal(rng, *lead, *space)
        yield Case((x(2, 2), normal(rng, 2, 2, *kernel), normal(rng, 2)), {"stride": 2, "padding": 1})
        yield Case((x(1, 2), normal(rng, 2, 1, *kernel)), {"groups": 2, "padding": "same"})
        yield Case((x(1), normal(rng, 2, 1, *kernel), None), {}, "unbatched")

    return build


def _transposed(rank: int) -> Callable[[Rng], Iterator[Case]]:
    def build(rng: Rng) -> Iterator[Case]:
        space, kernel = (2,) * rank, (2,) * rank
        x = lambda *lead: normal(rng, *lead, *space)
        arguments = {"stride": 2, "padding": 1, "output_padding": 1}
        yield Case((x(1, 2), normal(rng, 2, 1, *kernel), normal(rng, 1)), arguments)
        yield Case((x(1, 2), normal(rng, 2, 1, *kernel)), {"groups": 2, "dilation": 2})
        yield Case((x(1), normal(rng, 1, 2, *kernel)), {}, "unbatched")

    return build


def _pooling(rank: int, draw: Callable[..., np.ndarray], *variants: dict) -> Callable[[Rng], Iterator[Case]]:
    def build(rng: Rng) -> Iterator[Case]:
        for variant in variants:
            yield Case((draw(rng, 1, 2, *SPACES[rank]), 2), variant)
        yield Case((draw(rng, 1, *SPACES[rank]), 2), note="unbatched")

    return build


def _spatial_functions() -> Iterator[Sample]:
    largest = ({"stride": 1}, {"stride": 2, "padding": 1, "ceil_mode": True}, {"stride": 1, "return_indices": True})
    mean = ({"stride": 1}, {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False})
    for rank in (1, 2, 3):
        yield _row(conv, f"conv{rank}d", _convolution(rank), linear=True)
        yield _row(conv, f"conv_transpose{rank}d", _transposed(rank), linear=True)
        yield _row(conv, f"max_pool{rank}d", _pooling(rank, distinct, *largest))
        yield _row(conv, f"avg_pool{rank}d", _pooling(rank, normal, *mean), linear=True)
    yield _row(
        conv,
        "unfold",
        _calls(normal, ((1, 2, 3, 4), (2,), {}), ((1, 1, 4, 4), ((2, 3),), {"stride": 2, "padding": 1})),
        linear=True,
    )
    yield _row(
        conv,
        "fold",
        _calls(normal, ((1, 8, 6), ((3, 4), 2), {}), ((1, 6, 4), ((4, 4), (2, 3)), {"stride": 2, "padding": (0, 1)})),
        linear=True,
    )


# ---- activations
def _dropped(name: str) -> Callable:
    def call(x: Any, **params: Any) -> Any:
        with replay(SEED):
            return getattr(activation, name)(x, **params)

    return call


def _activation_functions() -> Iterator[Sample]:
    row = lambda *args, **kwargs: _row(activation, *args, **kwargs)
    plain: tuple[tuple[Shape, tuple, dict], ...] = (((2, 3), (), {}), ((), (), {}))
    yield row("relu", _calls(away, *plain))
    yield row("leaky_relu", _calls(away, *plain, ((2, 3), (0.3,), {})))
    yield row("relu6", lambda rng: iter([Case((np.array([-2.0, -0.4, 0.5, 3.0, 5.6, 6.4, 9.0]),))]))
    yield row("hardtanh", _calls(distinct, ((4, 4), (), {}), ((2, 4), (-0.2, 0.3), {})))
    for name in ("elu", "selu"):
        yield row(name, _calls(away, *plain))
    yield row("silu", _calls(normal, *plain))
    yield row("gelu", _calls(normal, *plain, ((2, 3), (), {"approximate": "tanh"})))
    yield row("softplus", _calls(normal, *plain, ((2, 3), (2.0,), {}), ((2, 3), (1.0, 0.5), {})))
    yield row("logsigmoid", _calls(normal, *plain))
    yield row("linear", _many((((2, 3), (2, 3), (2,)), (), {}), (((2, 2, 3), (2, 3)), (), {})), linear=True)
    yield row(
        "dropout",
        _calls(normal, ((2, 3), (), {}), ((2, 3), (), {"training": False})),
        linear=True,
        fn=_dropped("dropout"),
    )
    for rank in (1, 2, 3):
        name, shape = f"dropout{rank}d", (2, 2, *SPACES[rank])
        yield row(name, _calls(normal, (shape, (), {"p": 0.4})), linear=True, fn=_dropped(name))


# ---- losses
REDUCTIONS = ("mean", "sum", "none")


def _regression(draw: Callable[[Rng], tuple[np.ndarray, ...]], *variants: dict) -> Callable[[Rng], Iterator[Case]]:
    """Every reduction, and variants of the other arguments. draw: the tensors."""

    def build(rng: Rng) -> Iterator[Case]:
        for reduction in REDUCTIONS:
            yield Case(draw(rng), {"reduction": reduction})
        for variant in variants:
            yield Case(draw(rng), variant)

    return build


def _pair(rng: Rng) -> tuple[np.ndarray, ...]:
    """Two arrays whose differences are away from 0, from 1 and from 0.5, where the robust losses change their form."""
    target = normal(rng, 2, 3)
    return target + rng.choice([-1.4, -0.8, -0.2, 0.3, 0.7, 1.5], (2, 3)), target


def _probabilities(rng: Rng) -> tuple[np.ndarray, ...]:
    return rng.uniform(0.1, 0.9, (2, 3)), rng.uniform(0.1, 0.9, (2, 3))


def _logits(rng: Rng) -> tuple[np.ndarray, ...]:
    return normal(rng, 2, 3), rng.uniform(0.1, 0.9, (2, 3))


def _classes(*, logits: bool) -> Callable[[Rng], Iterator[Case]]:
    def build(rng: Rng) -> Iterator[Case]:
        scores = lambda *shape: normal(rng, *shape) if logits else np.log(rng.uniform(0.1, 0.9, shape))
        target = rng.integers(0, 3, (4,))
        weight = Tensor(positive(rng, 3))
        for reduction in REDUCTIONS:
            yield Case((scores(4, 3), target), {"reduction": reduction})
        ignored = target.copy()
        ignored[1] = -100
        for reduction in REDUCTIONS:
            yield Case((scores(4, 3), ignored), {"weight": weight, "reduction": reduction}, "weights, one ignored")
        yield Case((scores(2, 3, 2), rng.integers(0, 3, (2, 2))), note="spatial")
        yield Case((scores(3), np.array(1)), note="single")
        if logits:
            yield Case((scores(4, 3), ignored), {"weight": weight, "label_smoothing": 0.2}, "smoothing")
            yield Case((scores(2, 3), rng.dirichlet((1.0,) * 3, 2)), note="probabilities as target")
            yield Case((scores(2, 3), rng.dirichlet((1.0,) * 3, 2)), {"label_smoothing": 0.1, "weight": weight})

    return build


def _normal_likelihood(rng: Rng) -> tuple[np.ndarray, ...]:
    return normal(rng, 2, 3), normal(rng, 2, 3), positive(rng, 2, 3)


def _loss_functions() -> Iterator[Sample]:
    row = lambda *args, **kwargs: _row(loss, *args, **kwargs)
    yield row("mse_loss", _regression(_pair))
    yield row("l1_loss", _regression(_pair))
    yield row("smooth_l1_loss", _regression(_pair, {"beta": 0.5}, {"beta": 0.0}))
    yield row("huber_loss", _regression(_pair, {"delta": 0.5}))
    yield row("binary_cross_entropy", _regression(_probabilities, {"weight": Tensor(np.array([0.5, 1.0, 2.0]))}))
    yield row(
        "binary_cross_entropy_with_logits", _regression(_logits, {"pos_weight": Tensor(np.array([0.5, 1.0, 2.0]))})
    )
    yield row("kl_div", _regression(_probabilities, {"reduction": "batchmean"}, {"log_target": True}))
    yield row("gaussian_nll_loss", _regression(_normal_likelihood, {"full": True}))
    yield row("nll_loss", _classes(logits=False), linear=True)
    yield row("cross_entropy", _classes(logits=True))


# ---- normalisation
def _batch_norm(rng: Rng) -> Iterator[Case]:
    for shape in ((4, 2), (2, 2, 2, 2)):
        x, weight, bias = scattered(rng, *shape), positive(rng, 2), normal(rng, 2)
        yield Case((x, weight, bias), {"training": True, "momentum": 0.1})
        yield Case((x, None, None), {"training": True, "momentum": 0.1}, "without weight and bias")
        yield Case((x, weight, bias), {"training": False, "momentum": 0.1}, "running statistics")


def _normalized(x: Any, weight: Any, bias: Any, **params: Any) -> Any:
    # running statistics are new ones at each call: training moves them
    mean, var = Tensor(np.array([0.3, -0.2])), Tensor(np.array([0.8, 1.3]))
    return normalization.batch_norm(x, mean, var, weight, bias, **params)


def samples() -> Iterator[Sample]:
    yield from _array_functions()
    yield from _spatial_functions()
    yield from _activation_functions()
    yield from _loss_functions()
    yield _row(normalization, "batch_norm", _batch_norm, fn=_normalized)
