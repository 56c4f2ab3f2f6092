"""Samples of the convolution family and of pooling, in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..kernels.geometry import ConvGeometry, PoolGeometry
from ..ops.pool import max_pool
from .sample import Case, Rng, Sample, distinct, normal, primitive

# x, w, arguments: sizes that leave a remainder, strides larger than kernels, groups, an empty batch
CONVOLUTIONS: tuple[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 2, 6), (3, 2, 3), {"stride": 2, "padding": 1}),
    ((1, 2, 5), (2, 1, 2), {"groups": 2, "dilation": 3}),
    ((1, 1, 5), (2, 1, 2), {"padding": "same"}),
    ((2, 1, 4, 5), (2, 1, 3, 2), {"stride": (2, 1), "padding": (1, 0)}),
    ((1, 4, 3, 4), (2, 2, 2, 2), {"groups": 2, "dilation": (1, 2), "padding": (0, 1)}),
    ((1, 1, 5, 5), (1, 1, 1, 2), {"stride": 3}),
    ((1, 2, 3, 3), (2, 2, 3, 3), {"padding": "same"}),
    ((1, 1, 3, 4, 3), (2, 1, 2, 3, 2), {"stride": (1, 2, 1), "padding": (0, 1, 1)}),
    ((1, 2, 3, 2, 4), (2, 1, 2, 1, 2), {"groups": 2, "dilation": (2, 1, 3)}),
    ((0, 2, 4, 4), (1, 2, 2, 2), {}),
)

# x, arguments
POOLINGS: tuple[tuple[tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 1, 5), {"kernel_size": 2}),
    ((1, 2, 6), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((1, 1, 6), {"kernel_size": 2, "stride": 3, "ceil_mode": True}),
    ((1, 2, 4, 5), {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 1)}),
    ((1, 1, 5, 4), {"kernel_size": 2, "stride": 2, "ceil_mode": True}),
    ((1, 1, 5, 5), {"kernel_size": 2, "stride": 2, "padding": 1, "dilation": 2}),
    ((1, 1, 3, 4, 3), {"kernel_size": 2, "stride": (1, 2, 1)}),
    ((1, 2, 3, 3, 3), {"kernel_size": (2, 3, 2), "stride": 2, "padding": (1, 1, 0), "ceil_mode": True}),
    ((0, 2, 4, 4), {"kernel_size": 2}),
)


def _describe(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in arguments.items())


def _convolutions(x: str, w: str) -> Any:
    """Cases of the member of the family that takes the slots `x` and `w` ("x", "w" or "y")."""

    def build(rng: Rng) -> Iterator[Case]:
        for x_shape, w_shape, arguments in CONVOLUTIONS:
            geometry = ConvGeometry.of(x_shape, w_shape, **arguments)
            shapes = {"x": geometry.x_shape, "w": geometry.w_shape, "y": geometry.y_shape}
            yield Case((normal(rng, *shapes[x]), normal(rng, *shapes[w])), {"geometry": geometry}, _describe(arguments))

    return build


def _finished(relu: bool) -> Any:
    """Cases of a convolution, or its adjoint, with a bias (without one only before ReLU, now and then)."""

    def build(rng: Rng) -> Iterator[Case]:
        for i, (x_shape, w_shape, arguments) in enumerate(CONVOLUTIONS):
            g = ConvGeometry.of(x_shape, w_shape, **arguments)
            for transposed in (False, True):
                shape, channels = (g.y_shape, g.in_channels) if transposed else (g.x_shape, g.out_channels)
                bias = None if relu and i % 3 == 2 else normal(rng, channels)
                params = {"geometry": g, "transposed": transposed}
                note = _describe({**arguments, "transposed": transposed})
                yield Case((normal(rng, *shape), normal(rng, *g.w_shape), bias), params, note)

    return build


def _conv_relu_slope(rng: Rng) -> Iterator[Case]:
    for shape in ((2, 3, 4), (1, 2, 3, 2), (2, 1, 2, 3, 2), (0, 2, 3)):
        y = normal(rng, *shape)
        yield Case((normal(rng, *shape), y * (y > 0)), {}, f"{shape}")


def _geometries() -> Iterator[tuple[PoolGeometry, str]]:
    for shape, arguments in POOLINGS:
        yield PoolGeometry.of(shape, **arguments), _describe(arguments)


def _max_pool(rng: Rng) -> Iterator[Case]:
    for geometry, note in _geometries():
        yield Case((distinct(rng, *geometry.x_shape),), {"geometry": geometry}, note)


def _max_unpool(rng: Rng) -> Iterator[Case]:
    for geometry, note in _geometries():
        _, indices = max_pool(distinct(rng, *geometry.x_shape), geometry=geometry)
        yield Case((normal(rng, *geometry.y_shape), indices), {"geometry": geometry}, note)


def _pool_at(rng: Rng) -> Iterator[Case]:
    for geometry, note in _geometries():
        _, indices = max_pool(distinct(rng, *geometry.x_shape), geometry=geometry)
        yield Case((normal(rng, *geometry.x_shape), indices), {"geometry": geometry}, note)


def _averages(side: str) -> Any:
    def build(rng: Rng) -> Iterator[Case]:
        for geometry, note in _geometries():
            if any(d > 1 for d in geometry.dilation):
                continue  # average pooling has no dilation
            shape = geometry.x_shape if side == "x" else geometry.y_shape
            for params in ({"count_include_pad": True, "divisor": None}, {"count_include_pad": False, "divisor": None}):
                yield Case((normal(rng, *shape),), {"geometry": geometry, **params}, note)
            yield Case((normal(rng, *shape),), {"geometry": geometry, "count_include_pad": True, "divisor": 3}, note)

    return build


def _unfold(rng: Rng) -> Iterator[Case]:
    for geometry, note in _geometries():
        yield Case((normal(rng, *geometry.x_shape),), {"geometry": geometry}, note)


def _fold(rng: Rng) -> Iterator[Case]:
    for geometry, note in _geometries():
        n, c = geometry.x_shape[:2]
        yield Case((normal(rng, n, c, *geometry.kernel, *geometry.output),), {"geometry": geometry}, note)


def samples() -> Iterator[Sample]:
    yield primitive("conv", _convolutions("x", "w"), linear=True)
    yield primitive("conv_input", _convolutions("y", "w"), linear=True)
    yield primitive("conv_weight", _convolutions("x", "y"), linear=True)
    yield primitive("conv_bias", _finished(relu=False), linear=True)
    yield primitive("conv_relu", _finished(relu=True))
    yield primitive("conv_relu_slope", _conv_relu_slope, gradient="none")
    yield primitive("max_pool", _max_pool)
    yield primitive("max_unpool", _max_unpool, linear=True)
    yield primitive("pool_at", _pool_at, linear=True)
    yield primitive("avg_pool", _averages("x"), linear=True)
    yield primitive("avg_unpool", _averages("y"), linear=True)
    yield primitive("unfold", _unfold, linear=True)
    yield primitive("fold", _fold, linear=True)
