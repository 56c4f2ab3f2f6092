"""On a real device: the convolutions as products of tiles, in every arithmetic; the instructions that the host shim
imitates; the same bits in every run; no growth of memory; compute-sanitizer finds nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels import precision
from minidl.kernels.cuda import conv, launch, plan, pool
from minidl.kernels.geometry import ConvGeometry, PoolGeometry
from minidl.kernels.reference import conv as reference
from minidl.kernels.reference import pool as reference_pool

pytestmark = pytest.mark.gpu

ROOT = Path(__file__).parents[2]
OPERATIONS = ("conv", "conv_input", "conv_weight")
# dtype of the arrays, float32_matmul_precision, largest error of normal numbers relative to the largest result
ARITHMETIC = [
    ("float32", "highest", 2e-6),
    ("float64", "highest", 1e-13),
    ("float32", "tf32x3", 4e-6),
    ("float32", "high", 1e-3),
    ("float32", "medium", 8e-3),
    ("float16", "highest", 2e-3),
]
LAYERS = {
    "first of C3D": ConvGeometry.of((2, 3, 16, 56, 56), (64, 3, 3, 3, 3), 1, 1),
    "second of C3D": ConvGeometry.of((1, 64, 16, 28, 28), (128, 64, 3, 3, 3), 1, 1),
    "last of C3D": ConvGeometry.of((2, 512, 2, 7, 7), (512, 512, 3, 3, 3), 1, 1),
    "DCGAN": ConvGeometry.of((16, 64, 32, 32), (128, 64, 4, 4), 2, 1),
    "to an image": ConvGeometry.of((4, 3, 64, 64), (64, 3, 4, 4), 2, 1),
    "groups": ConvGeometry.of((4, 96, 30, 28), (72, 24, 3, 5), (2, 1), (1, 2), (1, 2), 4),
    "depthwise": ConvGeometry.of((4, 64, 40, 40), (64, 1, 3, 3), 1, 1, groups=64),
    "one axis, odd channels": ConvGeometry.of((8, 37, 500), (51, 37, 7), 3, 2, 2),
    "nine phases": ConvGeometry.of((2, 20, 40, 41), (24, 20, 5, 4), 3, 1),
}


@pytest.fixture(autouse=True)
def _precision():
    yield
    precision.set_float32_matmul_precision("highest")


def operands(operation: str, g: ConvGeometry) -> tuple[tuple[int, ...], ...]:
    x, w, y = g.x_shape, g.w_shape, g.y_shape
    return {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}[operation]


def device_of(cupy) -> plan.Device:
    return plan.Device(*launch.properties(cupy.cuda.runtime.getDevice()))


@pytest.mark.parametrize(("dtype", "name", "bound"), ARITHMETIC)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_layers_agree_with_the_reference(cupy, layer, operation, dtype, name, bound):
    g, rng = LAYERS[layer], np.random.default_rng(0)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in operands(operation, g)]
    precision.set_float32_matmul_precision(name)
    result = cupy.asnumpy(getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g))
    expected = getattr(reference, operation)(*(a.astype("f8") for a in arrays), geometry=g)
    assert result.dtype == dtype
    assert abs(result - expected).max() <= bound * abs(expected).max()


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 4), per_axis(1, 4), per_axis(1, 3)
    padding = tuple(zip(per_axis(0, 3), per_axis(0, 2), strict=True))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, s - sum(p)) for s, p in zip(span, padding, strict=True)]
    input = tuple(n + extra for n, extra in zip(least, per_axis(0, 9), strict=True))
    sizes = zip(input, padding, span, stride, strict=True)
    output = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in sizes)
    groups, batch = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 4))
    c, k = (draw(st.integers(1, 70)) * groups for _ in range(2))
    return ConvGeometry(batch, c, k, groups, input, kernel, output, stride, padding, dilation)


@given(
    g=geometries(), arithmetic=st.sampled_from(ARITHMETIC), operation=st.sampled_from(OPERATIONS), relu=st.booleans()
)
@settings(max_examples=200, deadline=None)
def test_whole_numbers_are_exact(cupy, g, arithmetic, operation, relu):
    """Products of small whole numbers and their sums are exact in every arithmetic, with every tile."""
    dtype, name, _ = arithmetic
    rng = np.random.default_rng(g.batch)
    arrays = [rng.integers(-2, 3, shape).astype(dtype) for shape in operands(operation, g)]
    precision.set_float32_matmul_precision(name)
    expected = getattr(reference, operation)(*(a.astype("f8") for a in arrays), geometry=g)
    device = [cupy.asarray(a) for a in arrays]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "TINY", -1)
        plan.gather.cache_clear()
        plan.weight.cache_clear()
        if relu and operation != "conv_weight":
            result = conv.conv_relu(*device, None, geometry=g, transposed=operation == "conv_input")
            expected = np.maximum(expected, 0)
        else:
            result = getattr(conv, operation)(*device, geometry=g)
    plan.gather.cache_clear()
    plan.weight.cache_clear()
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(cupy.asnumpy(result), expected.astype(dtype))


def test_every_tile_computes_what_it_should(cupy, monkeypatch):
    """Each instance that the plan can choose, on a problem of its own."""
    monkeypatch.setattr(plan, "TINY", -1)
    rng, tiles, device = np.random.default_rng(0), dict(plan.TILES), device_of(cupy)
    for (kind, arithmetics), choices in tiles.items():
        for tile in choices:
            monkeypatch.setattr(plan, "TILES", {(kind, arithmetics): (tile,)})
            for dtype, name, _ in ARITHMETIC:
                math, storage = plan.arithmetic(dtype, name)
                if plan.family(math, storage) != arithmetics:
                    continue
                for channels in (1, 2, 3, 40):
                    if channels < 40 and tile.m * tile.n > 128 * 64:
                        continue  # few channels get no such tile
                    g = ConvGeometry.of((2, channels, 19, 23), (150, channels, 3, 3), 1, 1)
                    operation = "conv" if kind == "gather" else "conv_weight"
                    arrays = [rng.integers(-2, 3, shape).astype(dtype) for shape in operands(operation, g)]
                    precision.set_float32_matmul_precision(name)
                    plan.gather.cache_clear()
                    plan.weight.cache_clear()
                    p = (
                        plan.weight(g, dtype, name, device)
                        if kind == "weight"
                        else plan.gather(g, False, dtype, name, device)
                    )
                    assert p.instance is not None and p.instance.tile.m == tile.m
                    result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g)
                    expected = getattr(reference, operation)(*(a.astype("f8") for a in arrays), geometry=g)
                    np.testing.assert_array_equal(cupy.asnumpy(result), expected.astype(dtype), err_msg=p.instance.name)
    plan.gather.cache_clear()
    plan.weight.cache_clear()


def test_bfloat16_arrays(cupy):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes").bfloat16
    g, rng = LAYERS["groups"], np.random.default_rng(0)
    for operation in OPERATIONS:
        arrays = [rng.standard_normal(shape, np.float32).astype(bfloat16) for shape in operands(operation, g)]
        result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g)
        expected = getattr(reference, operation)(*(a.astype("f8") for a in arrays), geometry=g)
        assert result.dtype == bfloat16
        assert abs(cupy.asnumpy(result).astype("f8") - expected).max() <= 2.0**-8 * abs(expected).max()


# ---- the instructions that the shim imitates -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def instructions(cupy):
    text = (ROOT / "tests" / "kernels" / "instructions.cu").read_text()
    for header in ("numbers.cuh", "ptx.cuh"):
        text = text.replace(f'#include "{header}"', launch.source(header))
    return cupy.RawModule(code=text, options=("-std=c++17",))


def test_tensor_cores_multiply_as_numpy_does(cupy, instructions):
    rng, product = np.random.default_rng(0), instructions.get_function("product")
    cut = lambda x, mask: (x.view("u4") & np.uint32(mask)).view("f4").astype("f8")

    def multiplied(a: np.ndarray, b: np.ndarray, kind: int) -> np.ndarray:
        d = cupy.zeros((16, 8), "f4")
        words = [cupy.asarray(np.ascontiguousarray(x).view("u4")) for x in (a, b)]
        product((1,), (32,), (*words, d, np.int32(kind)))
        return cupy.asnumpy(d)

    for _ in range(20):
        a, b = rng.standard_normal((16, 8)).astype("f4"), rng.standard_normal((8, 8)).astype("f4")
        exact = cut(a, 0xFFFFE000) @ cut(b, 0xFFFFE000).T
        np.testing.assert_allclose(multiplied(a, b, 0), exact, rtol=0, atol=1e-5)
        a, b = rng.standard_normal((16, 16)).astype("f4"), rng.standard_normal((8, 16)).astype("f4")
        half_a, half_b = a.astype("f2"), b.astype("f2")
        np.testing.assert_allclose(
            multiplied(half_a, half_b, 1), half_a.astype("f8") @ half_b.astype("f8").T, atol=1e-5
        )
        upper = [(x.view("u4") >> 16).astype("u2") for x in (a, b)]
        exact = cut(a, 0xFFFF0000) @ cut(b, 0xFFFF0000).T
        np.testing.assert_allclose(multiplied(*upper, 2), exact, rtol=0, atol=1e-5)


def test_matrices_are_read_as_the_shim_reads_them(cupy, instructions):
    x = np.arange(256, dtype="u2").reshape(4, 8, 8)
    plain, transposed = cupy.zeros((4, 32), "u4"), cupy.zeros((4, 32), "u4")
    instructions.get_function("matrices")((1,), (32,), (cupy.asarray(x), plain, transposed))
    np.testing.assert_array_equal(cupy.asnumpy(plain).view("u2").reshape(4, 8, 8), x)
    np.testing.assert_array_equal(cupy.asnumpy(transposed).view("u2").reshape(4, 8, 8), x.transpose(0, 2, 1))


def test_conversions_are_those_of_the_shim(cupy, instructions):
    from minidl.checking import cuda_host

    if reason := cuda_host.unavailable():
        pytest.skip(reason)
    text = (ROOT / "tests" / "kernels" / "instructions.cu").read_text()
    for header in ("numbers.cuh", "ptx.cuh"):
        text = text.replace(f'#include "{header}"', launch.source(header))
    x = np.arange(2**16, dtype="u2").view("f2")
    x = x[np.isfinite(x)]
    x = np.resize(x, 2**16)
    results = []
    for function, array in (
        (instructions.get_function("through"), cupy.asarray),
        (cuda_host.HostModule(text).get_function("through"), np.array),
    ):
        out = [array(np.zeros(2**16, kind)) for kind in ("f2", "u2", "f4", "f4")]
        function((256,), (256,), (array(x), *out))
        results.append([a if isinstance(a, np.ndarray) else cupy.asnumpy(a) for a in out])
    for there, here in zip(*results, strict=True):
        np.testing.assert_array_equal(there.view("u1"), here.view("u1"))


# ---- runs that last -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "name", "_bound"), ARITHMETIC)
def test_a_hundred_runs_give_the_same_bits(cupy, dtype, name, _bound):
    precision.set_float32_matmul_precision(name)
    g, p = LAYERS["last of C3D"], PoolGeometry.of((2, 64, 8, 28, 28), 3, (1, 2, 2), 1)
    rng = np.random.default_rng(0)
    x, w, y = (cupy.asarray(rng.standard_normal(s).astype(dtype)) for s in (g.x_shape, g.w_shape, g.y_shape))
    px, py = (cupy.asarray(rng.standard_normal(s).astype(dtype)) for s in (p.x_shape, p.y_shape))
    mean = {"geometry": p, "count_include_pad": True, "divisor": None}

    def bits() -> list[bytes]:
        pooled, indices = pool.max_pool(px, geometry=p)
        results = [
            conv.conv(x, w, geometry=g), conv.conv_input(y, w, geometry=g), conv.conv_weight(x, y, geometry=g),
            pooled, pool.max_unpool(py, indices, geometry=p), pool.avg_pool(px, **mean), pool.avg_unpool(py, **mean),
        ]  # fmt: skip
        return [cupy.asnumpy(result).tobytes() for result in results]

    first = bits()
    assert all(bits() == first for _ in range(100))


def test_a_thousand_steps_need_no_more_memory(cupy):
    g, rng = LAYERS["DCGAN"], np.random.default_rng(0)
    x, w = (cupy.asarray(rng.standard_normal(s, np.float32)) for s in (g.x_shape, g.w_shape))

    def step() -> None:
        y = conv.conv(x, w, geometry=g)
        conv.conv_input(y, w, geometry=g)
        conv.conv_weight(x, y, geometry=g)

    memory = cupy.get_default_memory_pool()
    for _ in range(3):
        step()
    before = memory.total_bytes()
    for _ in range(1000):
        step()
    assert memory.total_bytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("pad", [False, True])
def test_average_pooling_agrees_with_the_reference(cupy, dtype, pad):
    g, rng = PoolGeometry.of((2, 24, 9, 20, 21), (2, 3, 3), (1, 2, 3), 1, ceil_mode=True), np.random.default_rng(0)
    x, gy = (rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.y_shape))
    parameters = {"geometry": g, "count_include_pad": pad, "divisor": None}
    for operation, array in {"avg_pool": x, "avg_unpool": gy}.items():
        result = cupy.asnumpy(getattr(pool, operation)(cupy.asarray(array), **parameters))
        expected = getattr(reference_pool, operation)(array.astype("f8"), **parameters)
        assert abs(result - expected).max() <= 4 * np.finfo(dtype).eps * abs(expected).max()


SANITIZED = """
import cupy, numpy as np
from minidl.kernels import precision
from minidl.kernels.cuda import conv, plan
from minidl.kernels.geometry import ConvGeometry
plan.TINY = -1
first = ConvGeometry.of((1, 3, 13, 11), (20, 3, 3, 3), 2, 1)
grouped = ConvGeometry.of((2, 40, 9, 10), (24, 20, 3, 3), 1, 1, groups=2)
for g in (first, grouped):
    x, w, y = (cupy.ones(s, "f4") for s in (g.x_shape, g.w_shape, g.y_shape))
    for name in precision.MATMUL_NAMES:
        precision.set_float32_matmul_precision(name)
        conv.conv(x, w, geometry=g), conv.conv_input(y, w, geometry=g), conv.conv_weight(x, y, geometry=g)
cupy.cuda.runtime.deviceSynchronize()
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck", "initcheck"])
def test_compute_sanitizer(cupy, tool):
    command = shutil.which("compute-sanitizer")
    if command is None:
        pytest.skip("compute-sanitizer, which comes with the CUDA toolkit, is not installed")
    done = subprocess.run(
        [command, f"--tool={tool}", "--error-exitcode=9", sys.executable, "-c", SANITIZED],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
