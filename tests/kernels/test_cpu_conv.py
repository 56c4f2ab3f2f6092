"""The convolution family: the reference against naive loops, every algorithm of the CPU against the reference."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numba
import numpy as np
import oracle
import pytest
import threadpoolctl
from cpu_cases import LAYOUTS, framed, guarded
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import (
    algorithms,
    col2im,
    conv,
    depthwise,
    direct,
    finish,
    im2col,
    layout,
    slope,
    threads,
    vector,
    weights,
    winograd,
)  # fmt: skip
from minidl.kernels.cpu.algorithms import Choice
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.precision import conv_precision
from minidl.kernels.reference import conv as reference

ROOT = Path(__file__).resolve().parents[2]
FAMILY = ("conv", "conv_input", "conv_weight")


@st.composite
def geometries(draw: st.DrawFn, most: int) -> ConvGeometry:
    """Of any kind, with at most `most` multiply-adds."""
    rank = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    per_group = st.integers(1, 20 // groups)
    c, k = draw(st.sampled_from([(1, 1), None])) or (draw(per_group), draw(per_group))
    kernel, stride, dilation, padding, size = [], [], [], [], []
    for _ in range(rank):
        kernel.append(draw(st.integers(1, 4)))
        stride.append(draw(st.integers(1, 4)))
        dilation.append(draw(st.integers(1, 3)))
        span = dilation[-1] * (kernel[-1] - 1) + 1
        before, after = draw(st.integers(0, span)), draw(st.integers(0, span))
        padding.append((before, after))
        size.append(draw(st.integers(max(1, span - before - after), span + 6)))
    if draw(st.booleans()):
        stride = [1] * rank
    output = oracle.conv_output(size, kernel, stride, padding, dilation)
    g = ConvGeometry(
        draw(st.integers(0, 3)), groups * c, groups * k, groups,
        *map(tuple, (size, kernel, output, stride, padding, dilation)),
    )  # fmt: skip
    assume(g.multiply_adds <= most)
    return g


def arguments(
    name: str, g: ConvGeometry, dtype: Any, layouts: tuple[str, str] = ("planes", "planes")
) -> list[np.ndarray]:
    rng = np.random.default_rng(prod(g.x_shape) + prod(g.w_shape))
    shapes = {
        "conv": (g.x_shape, g.w_shape),
        "conv_input": (g.y_shape, g.w_shape),
        "conv_weight": (g.x_shape, g.y_shape),
    }
    return [
        framed(rng.standard_normal(shape).astype(dtype), layout)
        for shape, layout in zip(shapes[name], layouts, strict=True)
    ]


MODULES = (direct, im2col, col2im, winograd, depthwise, layout, finish, slope)


@contextlib.contextmanager
def forced(algorithm: str, tile: int = 0, **limits: int) -> Iterator[None]:
    """All work done in one way; limits of the modules set so low that small arrays meet every branch."""
    with contextlib.ExitStack() as stack:

        def only(name: str, g: ConvGeometry, dtype: np.dtype, *_: Any) -> Choice:
            return Choice(algorithm, tile) if dtype in (np.float32, np.float64) else Choice("reference")

        stack.enter_context(patch.object(conv, "choose", only))
        for name, value in limits.items():
            module = next(m for m in (conv, *MODULES) if hasattr(m, name))
            stack.enter_context(patch.object(module, name, value))
        yield


def run_guarded(name: str, g: ConvGeometry, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The CPU's result, that of the reference in float64, and the sum of the magnitudes of its terms."""
    copies = [a.copy() for a in arrays]
    with guarded(*MODULES):
        result = getattr(conv, name)(*arrays, geometry=g)
    for a, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, copy, "an input was changed")
    exact = [a.astype(np.float64) for a in arrays]
    expected = getattr(reference, name)(*exact, geometry=g)
    assert result.shape == expected.shape
    assert result.dtype == np.result_type(*arrays)
    assert result.flags.writeable
    return result, expected, getattr(reference, name)(*map(abs, exact), geometry=g)


def check(name: str, g: ConvGeometry, arrays: list[np.ndarray]) -> np.ndarray:
    """Runs the CPU's function and compares it with the reference, in float64."""
    result, expected, magnitude = run_guarded(name, g, arrays)
    assert (abs(result - expected) <= 50 * np.finfo(result.dtype).eps * magnitude).all()
    return result


@settings(max_examples=40)
@given(geometries(most=5_000))
def test_the_reference_agrees_with_naive_loops(g: ConvGeometry) -> None:
    at = (g.stride, g.padding, g.dilation, g.groups)
    x, w = arguments("conv", g, np.float64)
    y = framed(np.random.default_rng(1).standard_normal(g.y_shape))
    np.testing.assert_allclose(reference.conv(x, w, geometry=g), oracle.conv(x, w, *at), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        reference.conv_input(y, w, geometry=g), oracle.conv_input(y, w, g.input, *at), rtol=1e-10, atol=1e-12
    )
    np.testing.assert_allclose(
        reference.conv_weight(x, y, geometry=g), oracle.conv_weight(x, y, g.kernel, *at), rtol=1e-10, atol=1e-12
    )


SAME = ConvGeometry.of((2, 3, 9, 10), (4, 3, 4, 3), padding="same")
DEPTHWISE = ConvGeometry.of((2, 18, 7, 8, 9), (18, 1, 3, 2, 3), (2, 1, 2), 1, (1, 2, 1), groups=18)
POINTWISE = ConvGeometry.of((3, 20, 9, 7), (18, 20, 1, 1))
LATE = ConvGeometry.of((2, 5, 3, 3), (20, 5, 3, 3), padding=1)  # fewer positions than output channels
UNREACHED = ConvGeometry.of((2, 4, 11, 11), (3, 4, 2, 1), (4, 3))  # parts of the input meet no kernel position


RGB = ConvGeometry.of((2, 3, 6, 17), (33, 3, 3, 4), (1, 2), (1, 2))


@settings(max_examples=60)
@given(
    geometries(most=400_000),
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    st.sampled_from([1, 1000]),
    st.sampled_from([(1, 1), (8, 32)]),
    st.sampled_from([1, 2**18]),
    st.sampled_from([(5, 1), (256, 2**25)]),
)
@example(SAME, np.float32, ("planes", "planes"), 1, (1, 1), 1, (5, 1))
@example(RGB, np.float32, ("planes", "planes"), 1, (1, 1), 2**18, (5, 2**25))
@example(POINTWISE, np.float32, ("channels last", "planes"), 1, (1, 1), 2**18, (5, 2**25))
@example(LATE, np.float32, ("planes", "planes"), 1, (8, 32), 2**18, (256, 2**25))
@example(UNREACHED, np.float32, ("planes", "channels last"), 1, (8, 32), 2**18, (256, 2**25))
def test_direct_agrees_with_the_reference(
    g: ConvGeometry, dtype: Any, layouts: tuple[str, str], share: int, blocks: tuple[int, int], packed: int,
    sums: tuple[int, int],
) -> None:  # fmt: skip
    limits = {"BLOCK": blocks[0], "MOST": blocks[1], "PACKED": packed, "POSITIONS": sums[0], "PARTIAL_SUMS": sums[1]}
    assume(g.multiply_adds)
    for name in FAMILY:
        arrays = arguments(name, g, dtype, layouts)
        with forced("direct", SHARE=share, **limits):
            first = check(name, g, arrays)
            again = getattr(conv, name)(*arrays, geometry=g)
        np.testing.assert_array_equal(first, again, "the same call gave other bits")


@settings(max_examples=40)
@given(
    geometries(most=400_000), st.sampled_from([np.float32, np.float64]), st.sampled_from([1, 1000]),
    st.sampled_from([vector.ROWS, 8 * vector.ROWS]),
)  # fmt: skip
@example(RGB, np.float32, 1, vector.ROWS)
@example(UNREACHED, np.float32, 1, vector.ROWS)
@example(replace(SAME, batch=1), np.float32, 1, 8 * vector.ROWS)  # an image is divided among the threads
@example(ConvGeometry.of((1, 5, 1, 6, 4), (2, 5, 2, 3, 3), padding=1), np.float32, 1, vector.ROWS)
@example(LATE, np.float64, 1, vector.ROWS)
def test_columns_agree_with_the_reference(g: ConvGeometry, dtype: Any, share: int, block: int) -> None:
    g = replace(g, groups=1)
    assume(0 < g.multiply_adds <= 400_000)
    members = [("im2col", "conv"), ("im2col", "conv_weight"), ("col2im", "conv_input")]
    for algorithm, name in members + [("col2im", "conv")] * algorithms.reverses(g):
        arrays = arguments(name, g, dtype, ("channels last", "planes"))
        blocks = patch.object(im2col, "BLOCK", block), patch.object(col2im, "BLOCK", block)
        with forced(algorithm, SHARE=share), blocks[0], blocks[1]:
            first = check(name, g, arrays)
            np.testing.assert_array_equal(first, getattr(conv, name)(*arrays, geometry=g))


@settings(max_examples=30)
@given(
    geometries(most=400_000),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([1, 1000]),
    st.integers(2, 40),
)
@example(DEPTHWISE, np.float32, 1, 18)
def test_depthwise_agrees_with_the_reference(g: ConvGeometry, dtype: Any, share: int, channels: int) -> None:
    g = replace(g, in_channels=channels, out_channels=channels, groups=channels)
    assume(0 < g.multiply_adds <= 400_000)
    for name in FAMILY:
        arrays = arguments(name, g, dtype, ("channels last", "planes"))
        with forced("depthwise", SHARE=share):
            first = check(name, g, arrays)
            np.testing.assert_array_equal(first, getattr(conv, name)(*arrays, geometry=g))


@st.composite
def planes(draw: st.DrawFn) -> ConvGeometry:
    """What Winograd's algorithm covers."""
    kernel, stride = draw(st.sampled_from([(3, 1), (3, 1), (4, 2)]))
    depth = draw(st.sampled_from([None, 1, 2, 3]))
    padding = [draw(st.tuples(st.integers(0, 3), st.integers(0, 3))) for _ in range(2)]
    size = [draw(st.integers(max(1, kernel - sum(p)), 13)) for p in padding]
    kernels, strides, dilations = [kernel, kernel], [stride, stride], [1, 1]
    if depth is not None:
        dilation = draw(st.integers(1, 2))
        before, after = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        span = dilation * (depth - 1) + 1
        padding.insert(0, (before, after))
        size.insert(0, draw(st.integers(max(1, span - before - after), span + 2)))
        kernels, strides, dilations = [depth, *kernels], [1, *strides], [dilation, *dilations]
    output = oracle.conv_output(size, kernels, strides, padding, dilations)
    channels = st.integers(1, 70)
    g = ConvGeometry(
        draw(st.integers(1, 3)), draw(channels), draw(channels), 1,
        *map(tuple, (size, kernels, output, strides, padding, dilations)),
    )  # fmt: skip
    assume(g.multiply_adds <= 2_000_000)
    return g


# what the transformations lose, relative to the largest sum of magnitudes
LOSS = {2: 1e-6, 4: 1e-5}


@settings(max_examples=60)
@given(
    planes(),
    st.sampled_from([2, 4]),
    st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    st.sampled_from([1, 1000]),
    st.sampled_from([1, 2**20]),
    st.sampled_from([1, 50]),
    st.booleans(),
)
@example(ConvGeometry.of((1, 16, 4, 4), (32, 16, 3, 3)), 4, ("channels last", "planes"), 1, 1, 1, True)
@example(ConvGeometry.of((2, 17, 2, 7, 7), (33, 17, 3, 3, 3), padding=1), 2, ("planes", "planes"), 1, 2**20, 50, False)
@example(ConvGeometry.of((3, 5, 9, 10), (70, 5, 4, 4), 2, 1), 4, ("planes", "planes"), 1, 1, 1, False)
def test_winograd_agrees_with_the_reference(
    g: ConvGeometry, tile: int, layouts: tuple[str, str], share: int, cache: int, rows: int, together: bool
) -> None:
    limits = {"CACHE": cache, "STEADY": rows, "SUMS": cache, "LONG": rows, "TOGETHER": cache}
    partial = {"PARTIAL_SUMS": 0 if together else 2**26}
    assert algorithms.winograd_covers(g)
    for name in FAMILY:
        arrays = arguments(name, g, np.float32, layouts)
        with forced("winograd", tile, SHARE=share, **limits), patch.multiple(winograd, **partial):
            result, expected, magnitude = run_guarded(name, g, arrays)
            assert abs(result - expected).max() <= LOSS[tile] * magnitude.max()
            np.testing.assert_array_equal(getattr(conv, name)(*arrays, geometry=g), result)


@pytest.mark.parametrize(("tile", "bound"), [(2, 1.2e-6), (4, 5e-6)])
@pytest.mark.parametrize("name", FAMILY)
def test_winograd_loses_no_more_than_it_says(name: str, tile: int, bound: float) -> None:
    g = ConvGeometry.of((1, 64, 4, 24, 24), (64, 64, 3, 3, 3), padding=1)
    with forced("winograd", tile):
        result, expected, _ = run_guarded(name, g, arguments(name, g, np.float32))
    assert abs(result - expected).max() <= bound * abs(expected).max()


@settings(max_examples=60)
@given(
    geometries(most=400_000),
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
)
def test_plain_agrees_with_the_reference(g: ConvGeometry, dtype: Any, layouts: tuple[str, str]) -> None:
    for name in FAMILY:
        with forced("plain"):
            check(name, g, arguments(name, g, dtype, layouts))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    "g",
    [
        ConvGeometry.of((4, 16, 40, 40), (24, 16, 3, 3), padding=1),
        ConvGeometry.of((4, 8, 8, 20, 20), (16, 8, 3, 3, 3), 2, 1),
        ConvGeometry.of((8, 64, 4, 4), (160, 64, 4, 4)),
        ConvGeometry.of((16, 32, 99), (32, 8, 5), padding=2, groups=4),
    ],
    ids=["2d", "3d", "late", "1d in groups"],
)
def test_every_number_of_threads(name: str, g: ConvGeometry) -> None:
    arrays = arguments(name, g, np.float32)
    assert not algorithms.is_small(g)
    before = numba.get_num_threads()
    try:
        for number in {1, 2, before}:
            numba.set_num_threads(min(number, before))
            first = check(name, g, arrays)
            np.testing.assert_array_equal(getattr(conv, name)(*arrays, geometry=g), first)
    finally:
        numba.set_num_threads(before)


def test_layouts_of_results() -> None:
    g = ConvGeometry.of((2, 16, 20, 20), (24, 16, 3, 3), padding=1)
    with forced("direct"):
        y = conv.conv(*arguments("conv", g, np.float32), geometry=g)
        x = conv.conv_input(*arguments("conv_input", g, np.float32), geometry=g)
        w = conv.conv_weight(*arguments("conv_weight", g, np.float32), geometry=g)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    assert np.moveaxis(x, 1, -1).flags.c_contiguous
    assert w.flags.c_contiguous
    assert np.shares_memory(layout.channels_last(y), y), "the next layer reads it without a copy"


@pytest.mark.parametrize("way", ["plain", "direct"])
@pytest.mark.parametrize("name", FAMILY)
def test_other_dtypes(name: str, way: str) -> None:
    g = ConvGeometry.of((2, 3, 7, 7), (4, 3, 3, 3), 2, 1)
    rng = np.random.default_rng(0)
    a, b = arguments(name, g, np.float64)
    with forced(way):
        function = getattr(conv, name)
        exact = getattr(reference, name)(a, b, geometry=g)
        half = function(a.astype(np.float16), b.astype(np.float16), geometry=g)
        assert half.dtype == np.float16
        np.testing.assert_allclose(half, exact, rtol=0.02, atol=0.02)
        mixed = function(a.astype(np.float32), b, geometry=g)
        assert mixed.dtype == np.float64
        np.testing.assert_allclose(mixed, exact, rtol=1e-5, atol=1e-5)
        swapped = function(a.astype(a.dtype.newbyteorder()), b, geometry=g)
        np.testing.assert_allclose(swapped, exact, rtol=1e-10, atol=1e-12)
        integers = [rng.integers(-9, 9, array.shape) for array in (a, b)]
        whole = function(*integers, geometry=g)
        assert whole.dtype == np.int64
        np.testing.assert_array_equal(whole, getattr(reference, name)(*integers, geometry=g))
        np.testing.assert_allclose(function(a * 1j, b, geometry=g), exact * 1j, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", FAMILY)
def test_four_spatial_axes(name: str) -> None:
    g = ConvGeometry.of((1, 2, 3, 4, 3, 4), (2, 2, 2, 2, 2, 2), padding=1)
    with patch.object(algorithms, "is_small", lambda g: False):
        check(name, g, arguments(name, g, np.float64))


# ---- bias and ReLU

DEPTHWISE_2D = ConvGeometry.of((2, 37, 9, 8), (37, 1, 3, 3), 2, 1, groups=37)
GROUPS = ConvGeometry.of((2, 34, 9, 8), (66, 17, 3, 3), 1, 1, groups=2)
STRIDED = ConvGeometry.of((2, 19, 10, 9), (35, 19, 4, 4), 2, 1)
FINISHED = [
    ("plain", 0, STRIDED), ("plain", 0, GROUPS), ("direct", 0, STRIDED), ("direct", 0, GROUPS), ("direct", 0, RGB),
    ("direct", 0, UNREACHED), ("columns", 0, STRIDED), ("columns", 0, UNREACHED), ("columns", 0, RGB),
    ("depthwise", 0, DEPTHWISE_2D), ("depthwise", 0, replace(DEPTHWISE_2D, stride=(4, 3), output=(3, 3))),
    ("winograd", 2, STRIDED), ("winograd", 4, STRIDED),
    ("winograd", 4, ConvGeometry.of((2, 17, 2, 7, 7), (33, 17, 3, 3, 3), padding=1)),
    ("reference", 0, GROUPS),
]  # fmt: skip


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", FINISHED, ids=lambda case: f"{case[0]}{case[1] or ''} {case[2].x_shape}")
def test_bias_and_relu(case: tuple[str, int, ConvGeometry], dtype: Any, with_bias: bool, relu: bool) -> None:
    algorithm, tile, g = case
    if not (with_bias or relu) or (algorithm == "winograd" and dtype == np.float64):
        return
    for transposed in (False, True):
        x, w = arguments("conv_input" if transposed else "conv", g, dtype, ("channels last", "planes"))
        channels = g.in_channels if transposed else g.out_channels
        b = framed(np.random.default_rng(0).standard_normal(channels).astype(dtype)) if with_bias else None
        at = {"geometry": g, "transposed": transposed}
        name = "conv_relu" if relu else "conv_bias"
        way = ("col2im" if transposed else "im2col") if algorithm == "columns" else algorithm
        with forced(way, tile, SHARE=1, PACKED=1), guarded(*MODULES):
            result, again = (getattr(conv, name)(x, w, b, **at) for _ in range(2))
        wide = [None if a is None else a.astype(np.float64) for a in (x, w, b)]
        expected = getattr(reference, name)(*wide, **at)
        magnitude = getattr(reference, name)(*(None if a is None else abs(a) for a in wide), **at)
        assert result.shape == expected.shape and result.dtype == dtype
        assert not relu or (result >= 0).all()
        if tile:
            assert abs(result - expected).max() <= LOSS[tile] * magnitude.max()
        else:
            assert (abs(result - expected) <= (1e-6 if dtype == np.float32 else 1e-14) * magnitude).all()
        np.testing.assert_array_equal(result, again)


@pytest.mark.parametrize("algorithm", ["plain", "direct", "im2col", "col2im", "depthwise", "winograd"])
def test_relu_keeps_nan(algorithm: str) -> None:
    g = ConvGeometry.of((1, 18, 6, 6), (18, 1, 3, 3), padding=1, groups=18)
    if algorithm != "depthwise":
        g = ConvGeometry.of((1, 18, 6, 6), (7, 18, 3, 3), padding=1)
    for transposed in (False, True):
        if algorithm == "im2col" and transposed:
            continue
        x, w = (a.copy() for a in arguments("conv_input" if transposed else "conv", g, np.float32))
        x[0, 3, 0, 0] = np.nan
        with forced(algorithm, 2 if algorithm == "winograd" else 0):
            y = conv.conv_relu(x, w, None, geometry=g, transposed=transposed)
        assert np.isnan(y[0, :, 0, 0]).sum() == (1 if algorithm == "depthwise" else y.shape[1])
        assert (y[0, :, 5, 5] >= 0).all()


@pytest.mark.parametrize("way", ["plain", "direct"])
def test_bias_and_relu_in_half_precision(way: str) -> None:
    g = ConvGeometry.of((2, 3, 7, 7), (4, 3, 3, 3), 2, 1)
    x, w = arguments("conv", g, np.float64)
    at = {"geometry": g, "transposed": False}
    with forced(way):
        half = conv.conv_relu(*(a.astype(np.float16) for a in (x, w, np.ones(4))), **at)
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, reference.conv_relu(x, w, np.ones(4), **at), rtol=0.02, atol=0.02)
    slope_half = conv.conv_relu_slope(half, half)
    assert [a.dtype for a in slope_half] == [np.float16] * 2


@settings(max_examples=40)
@given(
    st.tuples(st.integers(0, 4), st.integers(1, 70), st.integers(1, 30), st.integers(1, 40)),
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    st.sampled_from([(8, 1), (512, 64)]),
)
@example((3, 600, 9, 8), np.float32, ("channels last", "channels last"), (512, 64))
@example((2, 1, 30, 40), np.float32, ("planes", "channels last"), (512, 1))
def test_slope_of_bias_and_relu(
    shape: tuple[int, ...], dtype: Any, layouts: tuple[str, str], lines: tuple[int, int]
) -> None:
    rng = np.random.default_rng(sum(shape))
    y = rng.standard_normal(shape).astype(dtype)
    y[y < 0] = 0
    y[rng.random(shape) < 0.01] = np.nan
    g, y = framed(rng.standard_normal(shape).astype(dtype), layouts[0]), framed(y, layouts[1])
    limits = {"LINE": lines[0], "LINES": lines[1]}
    with patch.multiple(slope, **limits), patch.multiple(conv, LARGE=0, PASS=1), guarded(*MODULES):
        (gz, gb), again = (conv.conv_relu_slope(g, y) for _ in range(2))
    expected, sums = reference.conv_relu_slope(g.astype(np.float64), y.astype(np.float64))
    np.testing.assert_array_equal(gz, expected)
    assert gz.dtype == gb.dtype == dtype
    eps = 50 * np.finfo(dtype).eps
    assert (abs(gb - sums) <= eps * (abs(expected).sum((0, 2, 3)) + 1e-30)).all()
    np.testing.assert_array_equal(gb, again[1])
    if layouts[1] == "channels last":
        assert np.moveaxis(gz, 1, -1).flags.c_contiguous, "the kernels that follow read it without a copy"


# ---- the choice

CHOICES = {
    # a geometry and a member: the algorithm in float32 with one thread
    ("conv", (1, 3, 8, 8), (4, 3, 3, 3), 1, 1): "plain",
    ("conv", (2, 3, 16, 112, 112), (64, 3, 3, 3, 3), 1, 1): "winograd F(4x4)",
    ("conv", (32, 3, 64, 64), (64, 3, 4, 4), 2, 1): "im2col",
    ("conv", (2, 64, 16, 56, 56), (128, 64, 3, 3, 3), 1, 1): "winograd F(4x4)",
    ("conv_input", (2, 64, 16, 56, 56), (128, 64, 3, 3, 3), 1, 1): "winograd F(4x4)",
    ("conv_weight", (2, 64, 16, 56, 56), (128, 64, 3, 3, 3), 1, 1): "winograd F(4x4)",
    ("conv", (1, 512, 4, 14, 14), (512, 512, 3, 3, 3), 1, 1): "winograd F(2x2)",
    ("conv", (32, 64, 32, 32), (128, 64, 4, 4), 2, 1): "winograd F(4x4)",
    ("conv_input", (32, 64, 32, 32), (128, 64, 4, 4), 2, 1): "winograd F(4x4)",
    ("conv_input", (32, 3, 64, 64), (64, 3, 4, 4), 2, 1): "col2im",
    ("conv_weight", (32, 3, 64, 64), (64, 3, 4, 4), 2, 1): "im2col",
    ("conv", (8, 64, 56, 56), (3, 64, 3, 3), 1, 1): "col2im",
    ("conv", (16, 64, 56, 56), (256, 64, 1, 1), 1, 0): "direct",
    ("conv", (16, 64, 56, 56), (64, 64, 3, 3), 2, 1): "direct",
}


@pytest.mark.parametrize("case", CHOICES, ids=lambda case: f"{case[0]} {case[1]} {case[2]}")
def test_choices(case: tuple) -> None:
    name, x, w, stride, padding = case
    g = ConvGeometry.of(x, w, stride, padding)
    single, double = np.dtype(np.float32), np.dtype(np.float64)
    choice = algorithms.choose(name, g, single, 1, False)
    assert choice.name == CHOICES[case]
    if choice.algorithm in ("winograd", "direct", "im2col", "col2im"):
        every = algorithms.candidates(name, g, single, 1, False)
        assert choice.cost == min(candidate.cost for candidate in every)
    assert algorithms.choose(name, g, single, 1, True).name != "winograd F(4x4)"
    assert algorithms.choose(name, g, double, 1, False).algorithm != "winograd"
    assert algorithms.choose(name, g, np.dtype(np.int64), 1, False).algorithm == "reference"


def test_precision_is_heard() -> None:
    g = ConvGeometry.of((1, 64, 28, 28), (64, 64, 3, 3), padding=1)
    arrays = arguments("conv", g, np.float32)
    fast = conv.conv(*arrays, geometry=g)
    with conv_precision("precise"):
        precise, choice = conv.conv(*arrays, geometry=g), conv.choice_for("conv", g, arrays[0].dtype)
    assert choice.name != "winograd F(4x4)"
    with forced(choice.algorithm, choice.tile):
        exact = conv.conv(*arrays, geometry=g)
    np.testing.assert_array_equal(precise, exact)
    assert (fast != precise).any()


OTHER_PROCESSORS = """
import llvmlite.binding
import numpy as np
features = llvmlite.binding.get_host_cpu_features()
for name in ("avx512f", "avx", "neon"):
    features[name] = name == {best!r}
llvmlite.binding.get_host_cpu_features = lambda: features
from minidl.kernels.cpu import col2im, depthwise, direct, im2col, products, recurrent, vector, winograd
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference
assert (vector.BYTES, vector.REGISTERS) == {register}
rng = np.random.default_rng(0)
for module, x, w, at, extra in (
    (winograd, (2, 19, 3, 9, 14), (21, 19, 3, 3, 3), (1, 1), (4,)),
    (winograd, (2, 5, 9, 10), (18, 5, 4, 4), (2, 1), (2,)),
    (direct, (2, 19, 9, 10), (21, 19, 3, 3), (2, 1), ()),
    (direct, (2, 3, 9, 10), (21, 3, 3, 3), (1, 1), ()),
    (im2col, (2, 3, 9, 10), (21, 3, 4, 4), (2, 1), ()),
    (col2im, (2, 19, 9, 10), (3, 19, 3, 3), (1, 1), ()),
    (depthwise, (2, 19, 9, 10), (19, 1, 3, 3), (1, 1, 1, 19), ()),
):
    g = ConvGeometry.of(x, w, *at)
    x, w, y = (rng.standard_normal(shape, dtype=np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    for name, arrays in (("conv", (x, w)), ("conv_input", (y, w)), ("conv_weight", (x, y))):
        if hasattr(module, name):
            exact = getattr(reference, name)(*(a.astype(float) for a in arrays), geometry=g)
            np.testing.assert_allclose(getattr(module, name)(*arrays, g, *extra), exact, rtol=1e-3, atol=1e-3)
for dtype in (np.float32, np.float64):
    for first, second in (("C", "C"), ("C", "F"), ("F", "C"), ("F", "F")):
        a, b = (rng.standard_normal((300, 300)).astype(dtype, order) for order in (first, second))
        for a, b in ((a, b), (a[:71], b[:, :37])):
            np.testing.assert_allclose(products.multiply(a, b), a @ b, atol=1e-4)
x, h, w = (rng.standard_normal(shape, dtype=np.float32) / 4 for shape in ((5, 9, 400), (9, 100), (400, 100)))
compiled = recurrent.lstm(x, h, h, w, None, reverse=False)
for array, exact in zip(compiled, recurrent.reference.lstm(x, h, h, w, None, reverse=False), strict=True):
    np.testing.assert_allclose(array, exact, atol=1e-5)
"""


@pytest.mark.slow  # compiles everything once more
@pytest.mark.parametrize(("best", "register"), [("avx", (32, 16)), ("neon", (16, 32)), ("", (16, 16))])
@pytest.mark.skipif(vector.BYTES != 64, reason="pretends that a processor with AVX-512 is a smaller one")
def test_smaller_vectors(best: str, register: tuple[int, int], tmp_path: Path) -> None:
    run(OTHER_PROCESSORS.format(best=best, register=register), MINIDL_CACHE_DIR=str(tmp_path))


@pytest.mark.parametrize("channels", [3, 20])
def test_weights_are_packed_once_for_a_recurrence(channels: int) -> None:
    g = ConvGeometry.of((1, channels, 9, 9), (4, channels, 3, 3), 1, 1)
    x, w = arguments("conv", g, np.float32)
    with weights.kept(), patch.object(direct, "pack", wraps=direct.pack) as pack:
        results = [direct.conv(x, w, g) for _ in range(3)]
    assert pack.call_count == 1
    for result in results:
        np.testing.assert_array_equal(result, direct.conv(x, w, g))


# ---- threads


def test_settings_of_the_user_are_put_back() -> None:
    g = ConvGeometry.of((4, 16, 30, 30), (16, 16, 3, 3))

    def now() -> Any:
        pools = [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
        return numba.get_num_threads(), [pool["num_threads"] for pool in pools]

    x, w = arguments("conv", g, np.float32)
    expected = conv.conv(x, w, geometry=g)
    before = now()
    with ThreadPoolExecutor(4) as pool:
        for result in pool.map(lambda _: conv.conv(x, w, geometry=g), range(16)):
            np.testing.assert_array_equal(result, expected)
    assert now() == before
    with patch.object(direct, "conv", side_effect=MemoryError), forced("direct"), pytest.raises(MemoryError):
        conv.conv(x, w, geometry=g)
    assert now() == before


def test_limits_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for value, expected in (("1", 1), ("1,8", 1), ("9999", threads.most()), ("0", threads.most())):
            monkeypatch.setenv("OMP_NUM_THREADS", value)
            threads._default.cache_clear()
            assert threads.count() == expected
    finally:
        monkeypatch.undo()
        threads._default.cache_clear()
    with threads.region(work=1, share=2):
        assert threads.count() == 1


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


START = """
import sys
import numpy as np
from minidl.kernels.cpu.conv import conv
from minidl.kernels.cpu.pool import max_pool
from minidl.kernels.geometry import ConvGeometry, PoolGeometry
def go(size):
    g = ConvGeometry.of((2, 8, size, size), (8, 8, 3, 3))
    return conv(np.ones(g.x_shape, "f"), np.ones(g.w_shape, "f"), geometry=g)
"""


def test_small_work_imports_no_compiler() -> None:
    code = """
go(8)
g = PoolGeometry.of((2, 3, 8, 8), 2)
max_pool(np.ones(g.x_shape, "f"), geometry=g)
assert not {"numba", "scipy", "llvmlite", "threadpoolctl"} & set(sys.modules)
"""
    run(START + code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes() -> None:
    code = """
import os, warnings
warnings.simplefilter("ignore")  # forking with threads is what is tried here
expected = go(64)
child = os.fork()
if child == 0:
    os._exit(0 if np.allclose(go(64), expected) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    run(START + code)


# ---- the cache of compiled code


def test_a_cache_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code = """
import warnings
from minidl.kernels.cpu import compile
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    folder = compile.cache_directory()
assert folder.is_dir() and len(caught) == 1, caught
assert "MINIDL_CACHE_DIR" in str(caught[0].message)
print(folder)
"""
    folder = run(code, MINIDL_CACHE_DIR=str(tmp_path / "file"))
    assert not Path(folder.strip()).exists(), "the temporary folder outlives its process"
