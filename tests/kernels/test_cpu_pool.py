"""Pooling: the reference against naive loops, the CPU's compiled kernels against the reference."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import oracle
import pytest
from cpu_cases import LAYOUTS, framed, guarded
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minidl.kernels.cpu import pool
from minidl.kernels.geometry import PoolGeometry
from minidl.kernels.reference import pool as reference

OPTIONS = st.fixed_dictionaries({"count_include_pad": st.booleans(), "divisor": st.sampled_from([None, None, 3])})


@st.composite
def geometries(draw: st.DrawFn, most: int) -> tuple[PoolGeometry, bool]:
    """With at most `most` elements in all windows; and whether windows may hang over the end."""
    rank = draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, 4)] * rank))
    stride = draw(st.tuples(*[st.integers(1, 4)] * rank))
    dilation = draw(st.tuples(*[st.integers(1, 3)] * rank))
    padding = tuple(draw(st.integers(0, (d * (k - 1) + 1) // 2)) for k, d in zip(kernel, dilation, strict=True))
    size = draw(st.tuples(*[st.integers(1, 11)] * rank))
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 20)), *size)
    ceil_mode = draw(st.booleans())
    try:
        g = PoolGeometry.of(shape, kernel, stride, padding, dilation, ceil_mode)
    except ValueError:
        assume(False)
    assume(np.prod(g.y_shape) * np.prod(kernel) <= most)
    return g, ceil_mode


def values(g: PoolGeometry, dtype: Any, layout: str = "planes") -> np.ndarray:
    """Few different numbers, so that there are ties, and some that are not numbers."""
    rng = np.random.default_rng(sum(g.x_shape))
    x = rng.integers(-3, 3, g.x_shape).astype(dtype)
    x[rng.random(g.x_shape) < 0.1] = np.nan
    x[rng.random(g.x_shape) < 0.2] = -np.inf
    return framed(x, layout)


def normal(shape: tuple[int, ...], dtype: Any, layout: str = "planes") -> np.ndarray:
    return framed(np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype), layout)


def forced() -> Any:
    return patch.multiple(pool, SMALL=0, SHARE=1)  # work of size zero is small in any case


@settings(max_examples=60)
@given(geometries(most=3_000), OPTIONS)
def test_the_reference_agrees_with_naive_loops(case: tuple[PoolGeometry, bool], options: dict) -> None:
    g, ceil_mode = case
    at = (g.kernel, g.stride, g.padding, g.dilation, ceil_mode)
    x = values(g, np.float64)
    y, indices = reference.max_pool(x, geometry=g)
    expected, places = oracle.max_pool(x, *at)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, places)
    x = normal(g.x_shape, np.float64)
    y = reference.avg_pool(x, geometry=g, **options)
    np.testing.assert_allclose(y, oracle.avg_pool(x, *at, **options), rtol=1e-12, atol=1e-13)
    # the adjoints, by definition: <f(x), y> = <x, f'(y)>
    z = normal(g.y_shape, np.float64)
    back = reference.avg_unpool(z, geometry=g, **options)
    np.testing.assert_allclose((y * z).sum(), (x * back).sum(), rtol=1e-9, atol=1e-9)
    back = reference.max_unpool(z, indices, geometry=g)
    np.testing.assert_allclose((reference.pool_at(x, indices, geometry=g) * z).sum(), (x * back).sum(), atol=1e-9)


@settings(max_examples=100)
@given(geometries(most=60_000), st.sampled_from([np.float32, np.float64]), st.sampled_from(LAYOUTS), OPTIONS)
def test_compiled_kernels_agree_with_the_reference(
    case: tuple[PoolGeometry, bool], dtype: Any, layout: str, options: dict
) -> None:
    g, _ = case
    near = 1e-10 if dtype is np.float64 else 1e-5
    x = values(g, dtype, layout)
    copy = x.copy()
    with forced(), guarded(pool):
        y, indices = pool.max_pool(x, geometry=g)
    expected, places = reference.max_pool(x, geometry=g)
    assert (y.dtype, indices.dtype) == (dtype, np.int32)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_array_equal(x, copy, "the input was changed")

    z = normal(g.y_shape, dtype, layout)
    places = framed(places, layout)
    with forced(), guarded(pool):
        back = pool.max_unpool(z, places, geometry=g)
        again = pool.max_unpool(z, places, geometry=g)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, reference.max_unpool(z, places, geometry=g), rtol=near, atol=near)
    np.testing.assert_array_equal(back, again, "the same call gave other bits")

    x = normal(g.x_shape, dtype, layout)
    with forced(), guarded(pool):
        y = pool.avg_pool(x, geometry=g, **options)
        back = pool.avg_unpool(z, geometry=g, **options)
        again = pool.avg_unpool(z, geometry=g, **options)
    assert (y.dtype, back.dtype) == (dtype, dtype)
    np.testing.assert_allclose(y, reference.avg_pool(x, geometry=g, **options), rtol=near, atol=near)
    np.testing.assert_allclose(back, reference.avg_unpool(z, geometry=g, **options), rtol=near, atol=near)
    np.testing.assert_array_equal(back, again, "the same call gave other bits")


@pytest.mark.parametrize("layout", ["planes", "channels last"])
def test_results_lie_like_the_input(layout: str) -> None:
    g = PoolGeometry.of((3, 24, 30, 30), 3, 2, 1)
    assert not pool.is_small(g)
    x = normal(g.x_shape, np.float32, layout)
    y, indices = pool.max_pool(x, geometry=g)
    options: dict[str, Any] = {"count_include_pad": True, "divisor": None}
    mean = pool.avg_pool(x, geometry=g, **options)
    for a in (y, indices, mean, pool.max_unpool(y, indices, geometry=g), pool.avg_unpool(y, geometry=g, **options)):
        assert (np.moveaxis(a, 1, -1) if layout == "channels last" else a).flags.c_contiguous
        assert a.flags.writeable


@pytest.mark.parametrize("layout", ["planes", "channels last"])
@pytest.mark.parametrize("wrong", [-1, 25, 2**31 - 1])
def test_an_index_outside_of_its_plane_is_an_error(layout: str, wrong: int) -> None:
    g = PoolGeometry.of((1, 3, 5, 5), 2)
    places = np.zeros(g.y_shape, np.int32)
    places[0, 2, 1, 1] = wrong
    with forced(), guarded(pool), pytest.raises(IndexError, match="25 elements"):
        pool.max_unpool(normal(g.y_shape, np.float32, layout), framed(places, layout), geometry=g)


def test_other_dtypes() -> None:
    g = PoolGeometry.of((2, 3, 6, 7), 2)
    x = np.random.default_rng(0).integers(-9, 9, g.x_shape)
    with forced():
        for dtype in (np.int64, np.float16):
            y, indices = pool.max_pool(x.astype(dtype), geometry=g)
            expected, places = reference.max_pool(x, geometry=g)
            assert y.dtype == dtype
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(indices, places)
