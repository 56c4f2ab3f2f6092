"""The convolution family: the reference against naive loops, the CPU's two ways against the reference."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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

from minidl.kernels.cpu import columns, conv, threads
from minidl.kernels.geometry import ConvGeometry
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


@contextlib.contextmanager
def forced(way: str, **limits: int) -> Iterator[None]:
    """All work done in one way; limits of columns.py set so low that small arrays meet every branch."""
    with contextlib.ExitStack() as stack:
        # work of size zero is plain in any case
        stack.enter_context(patch.object(conv, "SMALL", {"plain": 2**62, "columns": 0}[way]))
        for name, value in limits.items():
            stack.enter_context(patch.object(conv if name == "SHARE" else columns, name, value))
        stack.callback(columns.plan.cache_clear)
        columns.plan.cache_clear()
        yield


def check(name: str, g: ConvGeometry, arrays: list[np.ndarray]) -> np.ndarray:
    """Runs the CPU's function and compares it with the reference, in float64."""
    copies = [a.copy() for a in arrays]
    with guarded(columns):
        result = getattr(conv, name)(*arrays, geometry=g)
    for a, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, copy, "an input was changed")
    exact = [a.astype(np.float64) for a in arrays]
    expected = getattr(reference, name)(*exact, geometry=g)
    magnitude = getattr(reference, name)(*map(abs, exact), geometry=g)
    assert result.shape == expected.shape
    assert result.dtype == np.result_type(*arrays)
    assert result.flags.writeable
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


@settings(max_examples=60)
@given(
    geometries(most=400_000),
    st.sampled_from([np.float32, np.float64]),
    st.tuples(st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS)),
    st.sampled_from([1, 1000]),
    st.sampled_from([(3, 1), (7, 4), (512, 128)]),
    st.sampled_from([1, 700, 2**19]),
    st.sampled_from([0, 2**16]),
)
@example(SAME, np.float32, ("planes", "planes"), 1, (7, 4), 2**19, 0)
@example(DEPTHWISE, np.float32, ("channels last", "planes"), 1, (7, 4), 2**19, 0)
@example(POINTWISE, np.float32, ("channels last", "planes"), 1, (7, 4), 2**19, 0)
@example(LATE, np.float32, ("planes", "planes"), 1, (512, 128), 2**19, 2**16)
@example(UNREACHED, np.float32, ("planes", "channels last"), 1, (512, 128), 2**19, 2**16)
def test_columns_agree_with_the_reference(
    g: ConvGeometry, dtype: Any, layouts: tuple[str, str], share: int, tiles: tuple[int, int], cache: int, small: int
) -> None:
    limits = {"SHARE": share, "TILE": tiles[0], "LEAST_TILE": tiles[1], "COLUMNS": cache, "SMALL_WEIGHT": small}
    for name in FAMILY:
        arrays = arguments(name, g, dtype, layouts)
        with forced("columns", **limits):
            first = check(name, g, arrays)
            again = getattr(conv, name)(*arrays, geometry=g)
        np.testing.assert_array_equal(first, again, "the same call gave other bits")


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
    assert not conv.is_small(g)
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
    with forced("columns"):
        y = conv.conv(*arguments("conv", g, np.float32), geometry=g)
        x = conv.conv_input(*arguments("conv_input", g, np.float32), geometry=g)
        w = conv.conv_weight(*arguments("conv_weight", g, np.float32), geometry=g)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    assert np.moveaxis(x, 1, -1).flags.c_contiguous
    assert w.flags.c_contiguous
    assert columns.channels_last(y).base is not None, "the next layer reads it without a copy"
    assert np.shares_memory(columns.channels_last(y), y)


@pytest.mark.parametrize("way", ["plain", "columns"])
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
    with forced("columns"):
        check(name, g, arguments(name, g, np.float64))


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
    with patch.object(columns, "conv", lambda *_: now()):
        assert set(conv.conv(x, w, geometry=g)[1]) == {1}
    with patch.object(columns, "conv", side_effect=MemoryError), pytest.raises(MemoryError):
        conv.conv(x, w, geometry=g)
    assert now() == before


def test_limits_on_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        for value, expected in (("1", 1), ("1,8", 1), ("9999", numba.config.NUMBA_NUM_THREADS), ("0", 1)):
            monkeypatch.setenv("OMP_NUM_THREADS", value)
            threads._limit.cache_clear()
            assert threads.count() == expected
    finally:
        monkeypatch.undo()
        threads._limit.cache_clear()
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

COMPILE = """
import numpy as np, sys, time, warnings
from minidl.kernels.cpu import compile
@compile.jit
def twice(a):
    return a * 2
assert twice(3) == 6 and twice(2.5) == 5
print(sum(twice.stats.cache_hits.values()), sum(twice.stats.cache_misses.values()))
"""


def test_compiled_code_is_kept(tmp_path: Path) -> None:
    def files() -> list[Path]:
        return sorted(tmp_path.glob("*/*"))

    script = tmp_path / "twice.py"
    script.write_text(COMPILE)
    code = f"exec(compile(open({str(script)!r}).read(), {str(script)!r}, 'exec'))"
    home = {"MINIDL_CACHE_DIR": str(tmp_path)}
    assert run(code, **home).split() == ["0", "2"]
    assert len(files()) == 2
    assert run(code, **home).split() == ["2", "0"]
    files()[0].write_bytes(b"damaged")
    assert run(code, **home).split() == ["1", "1"]
    assert run(code, **home).split() == ["2", "0"]


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
