"""The fast convolutions of kernels/cuda on the CPU: products of tiles with cp.async, ldmatrix and mma, against the
reference, in several thread orders and in every arithmetic. Tiles are tiny here, so that small problems have many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.checking import cuda_host
from minidl.checking.cuda_host import HostError, HostModule, installed, thread_order
from minidl.kernels import precision
from minidl.kernels.cuda import conv, launch, plan
from minidl.kernels.cuda.plan import Tile
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

ORDERS = (0, 1, 2, 3)  # of threads and blocks: ascending, descending, two shuffles
OPERATIONS = ("conv", "conv_input", "conv_weight")
ARITHMETIC = [  # dtype of the arrays, float32_matmul_precision
    ("float32", "highest"),
    ("float64", "highest"),
    ("float32", "high"),
    ("float32", "tf32x3"),
    ("float32", "medium"),
    ("float16", "highest"),
]
TINY_TILES = {
    ("gather", "FMA float"): (Tile(8, 16, 1, 2, 64, 3),),
    ("gather", "FMA double"): (Tile(16, 8, 2, 1, 128, 2),),
    ("gather", "tensor"): (Tile(32, 16, 2, 1, 64, 4),),
    ("weight", "FMA float"): (Tile(16, 64, 1, 2, 64, 3),),
    ("weight", "FMA double"): (Tile(8, 32, 1, 2, 64, 2),),
    ("weight", "tensor"): (Tile(16, 32, 1, 2, 64, 4),),
    ("gather", "TF32X3"): (Tile(16, 16, 1, 1, 128, 3),),
    ("weight", "TF32X3"): (Tile(16, 64, 1, 2, 64, 3),),
}
PRODUCTION = plan.TILES


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def tiny(_cache):
    """Tiny tiles for every problem, splits wherever there are two steps; all kernels of a file compiled in one go."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"TILES": TINY_TILES, "TINY": -1, "LEAST_STEPS": 1, "FINISH": -1e9}.items():
            patch.setattr(plan, name, value)
        forget()
        found = plan.instances()
        texts = {kind: "".join(i.source for i in found if i.kind == kind) for kind in ("gather", "weight")}
        patch.setattr(plan, "text", lambda instance: texts[instance.kind])
        yield
    forget()


def forget() -> None:
    plan.gather.cache_clear()
    plan.weight.cache_clear()


@pytest.fixture(autouse=True)
def _precision():
    yield
    precision.set_float32_matmul_precision("highest")


@st.composite
def geometries(draw):
    """One to three axes, every size its own: uneven padding, unused ends of the input, phases, odd channels."""
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 3), per_axis(1, 3), per_axis(1, 3)
    padding = tuple(zip(per_axis(0, 3), per_axis(0, 2), strict=True))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, s - sum(p)) for s, p in zip(span, padding, strict=True)]
    input = tuple(n + extra for n, extra in zip(least, per_axis(0, 4), strict=True))
    sizes = zip(input, padding, span, stride, strict=True)
    output = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in sizes)
    groups, batch = draw(st.sampled_from([1, 1, 2, 3])), draw(st.integers(1, 3))
    c, k = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16])) * groups, draw(st.sampled_from([8, 9, 16, 17])) * groups
    return ConvGeometry(batch, c, k, groups, input, kernel, output, stride, padding, dilation)


def whole(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    """Arrays of small whole numbers: sums of their products are exact in any order and in any arithmetic."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, shape).astype(dtype) for shape in shapes]


def normal(seed: int, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def operands(operation: str, g: ConvGeometry) -> tuple[tuple[int, ...], ...]:
    x, w, y = g.x_shape, g.w_shape, g.y_shape
    return {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}[operation]


def exact(operation: str, arrays: list[np.ndarray], g: ConvGeometry) -> np.ndarray:
    return getattr(reference, operation)(*(a.astype("float64") for a in arrays), geometry=g)


def chosen(operation: str, g: ConvGeometry, dtype: str, name: str) -> plan.Plan:
    if operation == "conv_weight":
        return plan.weight(g, dtype, name, plan.Device())
    return plan.gather(g, operation == "conv_input", dtype, name, plan.Device())


# ---- against the reference -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "name"), ARITHMETIC)
@pytest.mark.parametrize("operation", OPERATIONS)
@given(g=geometries(), seed=st.integers(0, 2**32 - 1), channels_last=st.booleans())
@settings(max_examples=12, deadline=None)
def test_products_equal_the_reference(tiny, operation, dtype, name, g, seed, channels_last):
    arrays = whole(seed, *operands(operation, g), dtype=dtype)
    expected = exact(operation, arrays, g).astype(dtype)
    precision.set_float32_matmul_precision(name)
    with installed() as cupy:
        first, second = map(cupy.asarray, arrays)
        if channels_last:
            first = cupy.moveaxis(cupy.ascontiguousarray(cupy.moveaxis(first, 1, -1)), -1, 1)
        result = getattr(conv, operation)(first, second, geometry=g)
        inside = result if operation == "conv_weight" else cupy.moveaxis(result, 1, -1)
        assert inside.flags.c_contiguous
    assert result.dtype == dtype and result.shape == expected.shape
    np.testing.assert_array_equal(result.get(), expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_bias_and_relu_come_with_the_product(tiny, monkeypatch, transposed, splits, dtype):
    g = ConvGeometry.of((2, 16, 7, 6), (12, 16, 3, 3), 1, 1)
    monkeypatch.setattr(plan, "MOST_SPLITS", splits)
    forget()
    x, w, b = whole(0, g.y_shape if transposed else g.x_shape, g.w_shape, (16 if transposed else 12,), dtype=dtype)
    operation = "conv_input" if transposed else "conv"
    expected = exact(operation, [x, w], g) + b.astype("float64")[:, None, None]
    expected[0, 0, 0, 0] = np.nan
    with installed() as cupy:
        parameters = {"geometry": g, "transposed": transposed}
        arrays = [cupy.asarray(a) for a in (x, w, b)]
        plain = conv.conv_bias(*arrays, **parameters).get()
        relu = conv.conv_relu(*arrays, **parameters).get()
        alone = conv.conv_relu(*arrays[:2], None, **parameters).get()
    assert chosen(operation, g, dtype, "highest").splits == splits
    expected = exact(operation, [x, w], g)
    np.testing.assert_array_equal(alone, np.maximum(expected, 0).astype(dtype))
    expected += b.astype("float64")[:, None, None]
    np.testing.assert_array_equal(plain, expected.astype(dtype))
    np.testing.assert_array_equal(relu, np.maximum(expected, 0).astype(dtype))
    forget()


def test_not_a_number_passes_relu(tiny):
    g = ConvGeometry.of((1, 4, 5), (8, 4, 2))
    x, w = whole(0, g.x_shape, g.w_shape)
    x[0, 0, 0] = np.nan
    with installed() as cupy:
        y = conv.conv_relu(cupy.asarray(x), cupy.asarray(w), None, geometry=g, transposed=False).get()
    assert np.isnan(y[0, :, 0]).all() and not np.isnan(y[0, :, 1:]).any()


@pytest.mark.parametrize(("dtype", "name"), ARITHMETIC)
def test_every_thread_order_gives_the_same_bits(tiny, dtype, name):
    g = ConvGeometry.of((2, 10, 5, 6), (18, 5, 3, 2), (2, 1), 1, (1, 2), 2)
    precision.set_float32_matmul_precision(name)
    x, w, y = (a.astype(dtype) for a in normal(0, g.x_shape, g.w_shape, g.y_shape))
    assert chosen("conv_weight", g, dtype, name).splits > 1  # sums of several blocks meet
    with installed() as cupy:
        x, w, y = map(cupy.asarray, (x, w, y))

        def bits():
            results = (
                conv.conv(x, w, geometry=g),
                conv.conv_input(y, w, geometry=g),
                conv.conv_weight(x, y, geometry=g),
            )
            return [result.get().tobytes() for result in results]

        first = bits()
        for order in ORDERS:
            with thread_order(order):
                assert bits() == first


@pytest.mark.parametrize("operation", OPERATIONS)
def test_errors_are_those_of_the_arithmetic(tiny, operation):
    """Errors relative to the largest value, of normal numbers: 3xTF32 is as good as float32, the others as expected.
    The shim's tensor cores cut sums off, as devices do."""
    g = ConvGeometry.of((2, 32, 8, 8), (24, 32, 3, 3), 1, 1)
    arrays = normal(1, *operands(operation, g))
    expected = exact(operation, arrays, g)
    error = {}
    for name in precision.MATMUL_NAMES:
        precision.set_float32_matmul_precision(name)
        with installed() as cupy:
            result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g).get()
        error[name] = abs(result - expected).max() / abs(expected).max()
    assert error["highest"] < 5e-7 and error["tf32x3"] < 5e-7
    assert 2e-5 < error["high"] < 1e-3  # it is TF32, and rounded: cutting off would give twice this
    assert 2e-4 < error["medium"] < 8e-3
    with precision.conv_precision("precise"), installed() as cupy:
        result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g).get()
    assert abs(result - expected).max() / abs(expected).max() == error["highest"]


@pytest.mark.parametrize(
    ("kind", "math"), [("gather", "FMA"), ("weight", "FMA"), ("gather", "TF32"), ("weight", "F16")]
)
def test_tiles_for_a_device_on_the_cpu(monkeypatch, kind, math):
    """The largest tiles, as a device gets them."""
    forget()
    monkeypatch.setattr(plan, "TINY", -1)
    dtype = "float16" if math == "F16" else "float32"
    key = next(k for k in PRODUCTION if k[0] == kind and k[1] == ("FMA float" if math == "FMA" else "tensor"))
    monkeypatch.setattr(plan, "TILES", {key: PRODUCTION[key][:1]})
    monkeypatch.setattr(plan, "text", lambda instance: instance.source)
    g = ConvGeometry.of((1, 24, 13, 11), (130, 24, 3, 3), 1, 1)
    precision.set_float32_matmul_precision("high" if math == "TF32" else "highest")
    operation = "conv_weight" if kind == "weight" else "conv"
    arrays = whole(0, *operands(operation, g), dtype=dtype)
    with installed() as cupy:
        result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g).get()
    np.testing.assert_array_equal(result, exact(operation, arrays, g).astype(dtype))
    forget()


def test_strides_of_many_phases_take_several_launches(tiny):
    g = ConvGeometry.of((1, 4, 15, 18), (8, 4, 6, 5), (6, 5), 1)
    assert len(chosen("conv_input", g, "float32", "highest").launches) == 2
    y, w = whole(0, g.y_shape, g.w_shape)
    with installed() as cupy:
        x = conv.conv_input(cupy.asarray(y), cupy.asarray(w), geometry=g).get()
    np.testing.assert_array_equal(x, exact("conv_input", [y, w], g))


def test_inputs_that_lie_channels_last_are_read_as_they_are(tiny, monkeypatch):
    g = ConvGeometry.of((2, 8, 5, 4), (8, 8, 3, 3), 1, 1)
    x, w = whole(0, g.x_shape, g.w_shape)
    with installed() as cupy:
        launched = []
        load = launch.load

        def watched(file, kernel, *rest):
            launched.append(kernel)
            return load(file, kernel, *rest)

        watched.cache_clear = load.cache_clear
        monkeypatch.setattr(launch, "load", watched)
        y = conv.conv(cupy.asarray(x), cupy.asarray(w), geometry=g)
        assert "channels_last_kernel" in launched
        launched.clear()
        conv.conv(y, cupy.asarray(w), geometry=g)
        assert "channels_last_kernel" not in launched and "pack_kernel" in launched
        launched.clear()
        shifted = cupy.moveaxis(cupy.empty((2 * 5 * 4 * 8 + 1,), "float32")[1:].reshape(2, 5, 4, 8), -1, 1)
        shifted[...] = cupy.asarray(x)
        again = conv.conv(shifted, cupy.asarray(w), geometry=g)  # not aligned to 16 bytes: copied
        assert "channels_last_kernel" in launched
    np.testing.assert_array_equal(again.get(), y.get())


@pytest.mark.parametrize("name", precision.MATMUL_NAMES)
def test_the_host_never_waits_and_works_on_the_device_of_its_arrays(tiny, name):
    g = ConvGeometry.of((2, 5, 6, 5), (9, 5, 3, 3), 2, 1)
    precision.set_float32_matmul_precision(name)
    arrays = whole(0, g.x_shape, g.w_shape, g.y_shape, (9,))
    with installed() as cupy:
        with cupy.cuda.Device(1):
            x, w, y, b = map(cupy.asarray, arrays)
        cupy.waits.clear()
        results = [
            conv.conv(x, w, geometry=g),
            conv.conv_input(y, w, geometry=g),
            conv.conv_weight(x, y, geometry=g),
            conv.conv_relu(x, w, b, geometry=g, transposed=False),
        ]
        assert not cupy.waits
        assert [result.device.id for result in results] == [1, 1, 1, 1]
        assert cupy.cuda.runtime.getDevice() == 0
        with pytest.raises(ValueError, match="one CUDA device: x on 1, w on 0"):
            conv.conv(x, cupy.asarray(arrays[1]), geometry=g)


# ---- planted bugs ----------------------------------------------------------------------------------------------------

WAIT = "cp_async_wait<STAGES - 2>();"
BUGS = {
    "a missing wait": (WAIT, ""),
    "a wait too short": (WAIT, "cp_async_wait<STAGES - 1>();"),
    "a missing barrier": ("__syncthreads();              // those", "// those"),
    "fragments exchanged": (
        "ldmatrix(left[i][0], left[i][1], left[i][2], left[i][3],",
        "ldmatrix(left[i][0], left[i][2], left[i][1], left[i][3],",
    ),
    "a tap too few": ("tap < taps &&", "tap < taps - 1 &&"),
    "padding ignored": ("(unsigned)(at.w + d2) < (unsigned)g.input[2]", "true"),
    "the swizzle forgotten": ("b + swizzled<ROW>(row, i % WHOLE * 16)", "b + row * ROW + i % WHOLE * 16"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_show(tiny, monkeypatch, bug):
    read = launch.source
    assert BUGS[bug][0] in read("conv_gather.cu")
    monkeypatch.setattr(launch, "source", lambda file: read(file).replace(*BUGS[bug]))
    monkeypatch.setattr(plan, "text", lambda instance: instance.source)
    g = ConvGeometry.of((1, 8, 6, 7), (16, 8, 3, 3), 1, 1)
    precision.set_float32_matmul_precision("high")
    x, w = whole(3, g.x_shape, g.w_shape)
    expected = exact("conv", [x, w], g)
    wrong = []
    with installed() as cupy:
        for order in ORDERS:
            with thread_order(order):
                y = conv.conv(cupy.asarray(x), cupy.asarray(w), geometry=g).get()
                wrong.append(not np.array_equal(y, expected))
    assert any(wrong)
    if bug in ("a missing wait", "a wait too short"):
        assert all(wrong)


def test_launches_beyond_the_plain_shared_memory_must_ask():
    kernel = HostModule('extern "C" __global__ void f(int* y) { extern __shared__ int a[]; a[0] = 1; y[0] = a[0]; }')
    function, y = kernel.get_function("f"), np.zeros(1, "i")
    with pytest.raises(HostError, match="max_dynamic_shared_size_bytes is 49152"):
        function((1,), (1,), (y,), shared_mem=60_000)
    function.max_dynamic_shared_size_bytes = 60_000
    function((1,), (1,), (y,), shared_mem=60_000)
    assert y[0] == 1


# ---- the shim's tensor cores and copies, by themselves -------------------------------------------------------------

INSTRUCTIONS = Path(__file__).with_name("instructions.cu")


@pytest.fixture(scope="module")
def alone(_cache):
    text = INSTRUCTIONS.read_text()
    for header in ("numbers.cuh", "ptx.cuh"):
        text = text.replace(f'#include "{header}"', launch.source(header))
    return HostModule(text)


def test_a_copy_is_there_only_after_the_wait(alone):
    x = np.arange(1, 129, dtype="f")
    for wait in (0, 1):
        y = np.zeros(128, "f")
        alone.get_function("late")((1,), (32,), (x, y, np.int32(wait)))
        if wait:
            np.testing.assert_array_equal(y, np.where(np.arange(128) // 4 % 2, 0, x))
        else:
            assert np.isnan(y).all()


def test_copies_must_be_aligned(alone):
    with pytest.raises(HostError, match="both must be aligned"):
        alone.get_function("crooked")((1,), (1,), (np.zeros(4, "f"), np.zeros(4, "f")))


def test_products_of_the_tensor_cores(alone):
    rng = np.random.default_rng(0)
    product = alone.get_function("product")
    a, b, d = rng.standard_normal((16, 8)).astype("f"), rng.standard_normal((8, 8)).astype("f"), np.zeros((16, 8), "f")
    product((1,), (32,), (a.view("u4"), b.view("u4"), d, np.int32(0)))
    cut = lambda x: (x.view("u4") & 0xFFFFE000).view("f").astype("float64")  # ten bits of fraction
    np.testing.assert_allclose(d, cut(a) @ cut(b).T, rtol=0, atol=1e-6)
    assert abs(d - a @ b.T).max() > 1e-5

    half_a, half_b = rng.standard_normal((16, 16)).astype("f2"), rng.standard_normal((8, 16)).astype("f2")
    product((1,), (32,), (half_a.view("u4"), half_b.view("u4"), d, np.int32(1)))
    np.testing.assert_allclose(d, half_a.astype("f8") @ half_b.astype("f8").T, rtol=0, atol=1e-5)

    upper = lambda x: (x.view("u4") >> 16).astype("u2")
    wide_a, wide_b = rng.standard_normal((16, 16)).astype("f"), rng.standard_normal((8, 16)).astype("f")
    product((1,), (32,), (upper(wide_a).view("u4"), upper(wide_b).view("u4"), d, np.int32(2)))
    cut = lambda x: (x.view("u4") & 0xFFFF0000).view("f").astype("f8")
    np.testing.assert_allclose(d, cut(wide_a) @ cut(wide_b).T, rtol=0, atol=1e-5)


def test_matrices_are_read_as_the_manual_says(alone):
    x = np.arange(256, dtype="u2").reshape(4, 8, 8)
    plain, transposed = np.zeros((4, 32), "u4"), np.zeros((4, 32), "u4")
    alone.get_function("matrices")((1,), (32,), (x.reshape(-1), plain, transposed))
    np.testing.assert_array_equal(plain.view("u2").reshape(4, 8, 8), x)
    np.testing.assert_array_equal(transposed.view("u2").reshape(4, 8, 8), x.transpose(0, 2, 1))


def test_numbers_of_two_bytes_are_converted_as_numpy_does(alone):
    x = np.arange(2**16, dtype="u2").view("f2")  # every one
    y, z, wide, rounded = np.zeros_like(x), np.zeros(2**16, "u2"), np.zeros(2**16, "f"), np.zeros(2**16, "f")
    alone.get_function("through")((256,), (256,), (x, y, z, wide, rounded))
    with np.errstate(over="ignore", invalid="ignore"):
        np.testing.assert_array_equal(y, (x.astype("f") * np.float32(1 + 3e-4)).astype("f2"))
    with np.errstate(invalid="ignore"):
        single = x.astype("f")
    finite = np.isfinite(single)
    bits = single.view("u4")
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("f")
    np.testing.assert_array_equal(wide[finite], nearest[finite])
    np.testing.assert_array_equal(wide[np.isinf(single)], single[np.isinf(single)])
    assert np.isnan(wide[np.isnan(single)]).all()
    usual = finite & (single != 0)
    error = abs(rounded[usual] / (single[usual] * np.float32(1.0001)) - 1)
    assert 0 < error.max() <= 2.0**-11


# ---- with the address sanitizer --------------------------------------------------------------------------------------

SANITIZED = r"""
import sys
import numpy as np
from minidl.checking import cuda_host
from minidl.checking.cuda_host import module
from minidl.kernels import precision
from minidl.kernels.cuda import conv, launch, plan
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference

sanitize = ("-fsanitize=address", "-g", "-fno-omit-frame-pointer")
module.FLAGS = (*(flag for flag in module.FLAGS if flag != "-fno-sanitize=all"), *sanitize)
module.FENCE = 0  # the sanitizer has its own
plan.TINY = -1
if sys.argv[1] == "planted":
    source = launch.source
    launch.source = lambda file: source(file).replace("(unsigned)(at.w + d2) < (unsigned)g.input[2]", "true")
g = ConvGeometry.of((2, 12, 60, 10), (20, 12, 3, 3), (1, 2), (1, 40), (1, 9))
rng = np.random.default_rng(0)
x, w, y = (rng.integers(-2, 3, s).astype("f") for s in (g.x_shape, g.w_shape, g.y_shape))
for name in ("highest", "high", "medium"):
    precision.set_float32_matmul_precision(name)
    with cuda_host.installed() as cupy:
        for operation, pair in {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}.items():
            result = getattr(conv, operation)(*map(cupy.asarray, pair), geometry=g).get()
            assert (result == getattr(reference, operation)(*pair, geometry=g)).all(), (name, operation)
print("clean")
"""


@pytest.mark.slow
@pytest.mark.parametrize("case", ["right", "planted"])
def test_address_sanitizer(case, tmp_path):
    command = cuda_host.compiler()
    if command != ["g++"]:
        pytest.skip("the sanitizer's library is looked for beside g++")
    library = subprocess.run(
        [*command, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "LD_PRELOAD": library.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "MINIDL_CACHE_DIR": str(tmp_path),
        "PYTHONMALLOC": "malloc",
    }
    done = subprocess.run([sys.executable, "-c", SANITIZED, case], capture_output=True, text=True, check=False, env=env)
    if case == "right":
        assert done.returncode == 0 and "clean" in done.stdout, done.stderr[-3000:]
    else:
        assert done.returncode and "AddressSanitizer: heap-buffer-overflow" in done.stderr
