"""The CUDA kernels on the CPU, against the reference, in several thread orders; the shim against planted bugs."""

from __future__ import annotations

import os
import subprocess
import sys
from math import prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.checking import cuda_host
from minidl.checking.cuda_host import HostError, HostModule, installed, thread_order
from minidl.kernels import reference, table
from minidl.kernels.arrays import namespace
from minidl.kernels.cuda import conv, launch, pool
from minidl.kernels.geometry import ConvGeometry, PoolGeometry
from minidl.kernels.reference import conv as reference_conv
from minidl.kernels.reference import pool as reference_pool

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

ORDERS = (0, 1, 2, 3)  # of threads and blocks: ascending, descending, two shuffles
OPERATIONS = ("conv", "conv_input", "conv_weight")
DTYPES = st.sampled_from(["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)
STORAGE = st.sampled_from(["float32", "float64", "float16"])


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cupy():
    with installed() as library:
        yield library


@st.composite
def conv_geometries(draw):
    """One to three axes, every size its own: uneven padding, unused ends of the input, empty batches."""
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 3), per_axis(1, 3), per_axis(1, 2)
    padding = tuple(zip(per_axis(0, 3), per_axis(0, 2), strict=True))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, s - sum(p)) for s, p in zip(span, padding, strict=True)]
    input = tuple(n + extra for n, extra in zip(least, per_axis(0, 3), strict=True))
    sizes = zip(input, padding, span, stride, strict=True)
    output = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in sizes)
    groups, batch = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    c, k = draw(st.integers(1, 2)) * groups, draw(st.integers(1, 2)) * groups
    return ConvGeometry(batch, c, k, groups, input, kernel, output, stride, padding, dilation)


@st.composite
def pool_geometries(draw):
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, dilation = per_axis(1, 3), per_axis(1, 2)
    padding = tuple(draw(st.integers(0, (d * (k - 1) + 1) // 2)) for k, d in zip(kernel, dilation, strict=True))
    input = tuple(d * (k - 1) + 1 + e for k, d, e in zip(kernel, dilation, per_axis(0, 3), strict=True))
    shape = (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *input)
    return PoolGeometry.of(shape, kernel, per_axis(1, 4), padding, dilation, draw(st.booleans()))


def whole(seed: int, *shapes: tuple[int, ...], dtype: str) -> list[np.ndarray]:
    """Arrays of small whole numbers: sums of their products are exact in any order, so results are compared exactly."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def is_channels_last(array) -> bool:
    return array.transpose(0, *range(2, array.ndim), 1).flags.c_contiguous


def operands(operation: str, g: ConvGeometry) -> tuple[tuple[int, ...], ...]:
    x, w, y = g.x_shape, g.w_shape, g.y_shape
    return {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}[operation]


# ---- the five operations ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", OPERATIONS)
@given(g=conv_geometries(), dtype=STORAGE, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_convolutions_equal_the_reference(operation, g, dtype, seed):
    arrays = whole(seed, *operands(operation, g), dtype=dtype)
    expected = getattr(reference_conv, operation)(*(a.astype("float64") for a in arrays), geometry=g).astype(dtype)
    with installed() as cupy:
        result = getattr(conv, operation)(*map(cupy.asarray, arrays), geometry=g)
        assert isinstance(result, cupy.ndarray)
    assert result.dtype == expected.dtype
    assert operation == "conv_weight" or is_channels_last(result)
    np.testing.assert_array_equal(result.get(), expected)


@given(g=pool_geometries(), dtype=STORAGE, seed=SEEDS)
@settings(max_examples=60, deadline=None)
def test_max_pooling_equals_the_reference(g, dtype, seed):
    (x,) = whole(seed, g.x_shape, dtype=dtype)  # nine values: ties in most windows
    rng = np.random.default_rng(seed)
    x[rng.random(x.shape) < 0.1] = np.nan
    x[rng.random(x.shape) < 0.2] = -np.inf  # what padding with -inf would lose to
    y, indices = reference_pool.max_pool(x, geometry=g)
    (gy,) = whole(seed, g.y_shape, dtype=dtype)
    with installed() as cupy:
        y_host, indices_host = (a.get() for a in pool.max_pool(cupy.asarray(x), geometry=g))
        gx = pool.max_unpool(cupy.asarray(gy), cupy.asarray(indices), geometry=g).get()
    np.testing.assert_array_equal(y_host, y)
    np.testing.assert_array_equal(indices_host, indices)
    np.testing.assert_array_equal(gx, reference_pool.max_unpool(gy, indices, geometry=g))
    assert (y_host.dtype, indices_host.dtype, gx.dtype) == (x.dtype, np.int32, x.dtype)


@given(
    g=pool_geometries(), dtype=STORAGE, seed=SEEDS, pad=st.booleans(), divisor=st.one_of(st.none(), st.integers(1, 9))
)
@settings(max_examples=60, deadline=None)
def test_average_pooling_equals_the_reference(g, dtype, seed, pad, divisor):
    x, gy = whole(seed, g.x_shape, g.y_shape, dtype=dtype)
    if not divisor and not all((reference_pool._window_sizes(np, np.dtype("f8"), g, pad, None) > 0).ravel()):
        divisor = 1  # a window of padding alone has no mean
    parameters = {"geometry": g, "count_include_pad": pad, "divisor": divisor}
    with installed() as cupy:
        y = pool.avg_pool(cupy.asarray(x), **parameters)
        gx = pool.avg_unpool(cupy.asarray(gy), **parameters)
        assert is_channels_last(y) and is_channels_last(gx)
    bound = 4 * np.finfo(dtype).eps
    for result, expected in (
        (y.get(), reference_pool.avg_pool(x.astype("f8"), **parameters)),
        (gx.get(), reference_pool.avg_unpool(gy.astype("f8"), **parameters)),
    ):
        assert result.dtype == dtype
        np.testing.assert_allclose(result, expected, rtol=0, atol=bound * max(1, abs(expected).max(initial=0)))


def test_every_thread_order_gives_the_same_bits(cupy):
    rng = np.random.default_rng(0)
    g = ConvGeometry.of((2, 4, 5, 6, 7), (6, 2, 3, 2, 3), (2, 1, 2), (1, 0, 2), (1, 2, 1), 2)
    p = PoolGeometry.of(g.x_shape, 3, (2, 1, 2), 1, ceil_mode=True)
    normal = lambda shape: cupy.asarray(rng.standard_normal(shape, np.float32))
    x, w, y, py = map(normal, (g.x_shape, g.w_shape, g.y_shape, p.y_shape))

    def bits():
        pooled, indices = pool.max_pool(x, geometry=p)
        results = (
            conv.conv(x, w, geometry=g),
            conv.conv_input(y, w, geometry=g),
            conv.conv_weight(x, y, geometry=g),
            pooled,
            indices,
            pool.max_unpool(py, indices, geometry=p),
        )
        return [result.get().tobytes() for result in results]

    first = bits()
    for order in ORDERS:
        with thread_order(order):
            assert bits() == first


def test_more_threads_than_one_block(cupy):
    g = ConvGeometry.of((3, 2, 40, 30), (5, 2, 3, 3), padding=1)
    x, w = whole(1, g.x_shape, g.w_shape, dtype="float32")
    assert launch.plan(prod(g.y_shape))[0][0] > 10
    y = conv.conv(cupy.asarray(x), cupy.asarray(w), geometry=g)
    np.testing.assert_array_equal(y.get(), reference_conv.conv(x, w, geometry=g))


def test_inputs_of_any_strides_and_mixed_dtypes_stay_as_they_are(cupy):
    g = ConvGeometry.of((2, 4, 5, 6), (3, 4, 2, 3))
    x, w = whole(2, g.x_shape, g.w_shape, dtype="float32")
    channels_last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    x_device, w_device = cupy.asarray(channels_last), cupy.asarray(w.astype("float64"))
    assert not x_device.flags.c_contiguous
    y = conv.conv(x_device, w_device, geometry=g)
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y.get(), reference_conv.conv(x, w, geometry=g))
    np.testing.assert_array_equal(x_device.get(), x)


def test_no_elements_launch_nothing(cupy, monkeypatch):
    g = ConvGeometry.of((0, 2, 4), (3, 2, 2))
    x, w = cupy.zeros(g.x_shape), cupy.ones(g.w_shape)
    np.testing.assert_array_equal(conv.conv_weight(x, cupy.zeros(g.y_shape), geometry=g).get(), np.zeros(g.w_shape))
    monkeypatch.setattr(launch, "load", lambda *_: pytest.fail("launched"))
    assert conv.conv(x, w, geometry=g).shape == (0, 3, 3)


def test_errors_name_what_is_wrong(cupy):
    g = ConvGeometry.of((1, 2, 4), (3, 2, 2))
    x, w = cupy.zeros(g.x_shape), cupy.zeros(g.w_shape)
    with pytest.raises(NotImplementedError, match="float32, float64, float16 and bfloat16, not int32"):
        conv.conv(x.astype("int32"), w.astype("int32"), geometry=g)
    with pytest.raises(ValueError, match=r"x has shape \(1, 2, 3\), its geometry says \(1, 2, 4\)"):
        conv.conv(x[:, :, 1:], w, geometry=g)
    with pytest.raises(TypeError, match="w is a ndarray"):
        conv.conv(x, w.get(), geometry=g)
    four = ConvGeometry.of((1, 1, 2, 2, 2, 2), (1, 1, 1, 1, 1, 1))
    with pytest.raises(NotImplementedError, match="one to three spatial axes"):
        conv.conv(cupy.zeros(four.x_shape), cupy.zeros(four.w_shape), geometry=four)


def test_sizes_beyond_the_indices_are_refused():
    plane = PoolGeometry.of((1, 1, 2**16, 2**15), 2)
    with pytest.raises(ValueError, match="indices of a pooling have 32 bits"):
        launch.fold(plane)
    with pytest.raises(ValueError, match="32 bits"):
        launch.fold(ConvGeometry.of((1, 1, 2**31), (1, 1, 1)))
    with pytest.raises(ValueError, match="more than one launch can compute"):
        launch.plan(2**31 * launch.THREADS)
    assert launch.plan(0) == ((0,), (256,))
    assert launch.plan(257) == ((2,), (256,))


def test_few_axes_fold_into_leading_ones():
    packed = launch.struct(ConvGeometry.of((2, 4, 9), (6, 2, 3), 2, 1, 2, groups=2))
    assert packed["groups"] == 2 and packed["out_channels"] == 6
    assert packed["input"].tolist() == [1, 1, 9] and packed["padding"].tolist() == [0, 0, 1]
    assert packed["stride"].tolist() == [1, 1, 2] and packed["dilation"].tolist() == [1, 1, 2]
    assert launch.GEOMETRY.itemsize == 4 * (4 + 6 * 3)


def test_sources_are_read_with_their_headers():
    text = launch.source("conv.cu")
    assert "#include" not in text and text.count("struct Geometry {") == 1
    lines, original = text.split("\n"), (launch.HERE / "conv.cu").read_text().split("\n")
    restart = max(i for i, line in enumerate(lines) if line.endswith('"conv.cu"'))
    number = int(lines[restart].split()[1])
    assert lines[restart + 1 :] == original[number - 1 :]


def test_nothing_is_imported_before_it_is_used():
    code = (
        "import sys, minidl, minidl.kernels.cuda.conv, minidl.kernels.cuda.pool, minidl.kernels.numba_cuda;"
        "import minidl.checking.cuda_host; print([m for m in ('cupy', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip() == "[]"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


# ---- the host shim -------------------------------------------------------------------------------------------------

PLANTED = r"""
extern "C" __global__ void reversed(const float* x, float* y) {
    __shared__ float a[64], b[2][32];
    const int t = threadIdx.x;
    a[t] = x[t];
#ifndef NO_BARRIER
    __syncthreads();
#endif
    b[t / 32][t % 32] = a[63 - t];
    y[t] = b[t / 32][t % 32];
}
extern "C" __global__ void divergent(float* y) {
    if (threadIdx.x < 16) __syncthreads();
    else {
        y[threadIdx.x] = 1;
        __syncthreads();
    }
}
extern "C" __global__ void never_written(float* y) {
    extern __shared__ float part[];
    y[threadIdx.x] = part[threadIdx.x];
}
extern "C" __global__ void __launch_bounds__(64) fill(float* y, int n, float value) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i <= n) y[i] = value;  // one too far, where there is a thread for it
}
extern "C" __global__ void last_block_wins(int* y) { y[0] = blockIdx.x; }
extern "C" __global__ void sum_warp(const float* x, float* y, unsigned* votes) {
    float v = x[threadIdx.x];
    for (int d = 16; d; d /= 2) v += __shfl_down_sync(0xffffffffu, v, d);
    y[threadIdx.x] = __shfl_sync(0xffffffffu, v, 0);
    votes[threadIdx.x] = __ballot_sync(0xffffffffu, x[threadIdx.x] > 20);
}
extern "C" __global__ void half_a_warp() {
    if (threadIdx.x % 32 < 16) __syncwarp();
    else __syncthreads();
}
extern "C" __global__ void lanes_disagree(float* y) {
    y[threadIdx.x] = threadIdx.x % 2 ? __shfl_xor_sync(0xffffffffu, 1.f, 1) : __shfl_up_sync(0xffffffffu, 1.f, 1);
}
extern "C" __global__ void too_much() {
    __shared__ double a[256][128];
    a[threadIdx.x][0] = 0;
}
extern "C" __global__ void where(int* y) {
    const int t = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const int b = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    y[b * blockDim.x * blockDim.y * blockDim.z + t] = b * 1000 + t;
}
template <typename T, int N> __global__ void times(const T* x, T* y) { y[threadIdx.x] = N * x[threadIdx.x]; }
"""


@pytest.fixture(scope="module")
def planted(_cache):
    return HostModule(PLANTED)


@pytest.mark.parametrize("order", ORDERS)
def test_a_barrier_orders_what_threads_share(planted, order):
    x, y = np.arange(64, dtype="f"), np.zeros(64, "f")
    with thread_order(order):
        planted.get_function("reversed")((1,), (64,), (x, y))
    np.testing.assert_array_equal(y, x[::-1])


def test_a_missing_barrier_shows():
    kernel = HostModule(PLANTED, ("-DNO_BARRIER",)).get_function("reversed")
    x = np.arange(64, dtype="f")
    results = []
    for order in ORDERS:
        y = np.zeros(64, "f")
        with thread_order(order):
            kernel((1,), (64,), (x, y))
        results.append(y.tobytes())
        assert np.isnan(y).any()  # threads read what nobody had written
    assert len(set(results)) > 1


def test_divergent_barriers_are_reported_with_their_lines(planted):
    lines = [i + 1 for i, line in enumerate(PLANTED.split("\n")) if "__syncthreads();" in line][1:3]
    with pytest.raises(HostError, match=f"divergent barriers.* line {lines[0]}.* line {lines[1]}"):
        planted.get_function("divergent")((1,), (32,), (np.zeros(32, "f"),))


def test_shared_memory_starts_as_poison(planted):
    y = np.zeros(4, "f")
    planted.get_function("never_written")((1,), (4,), (y,), shared_mem=16)
    assert np.isnan(y).all()


def test_too_much_shared_memory_is_refused(planted):
    with pytest.raises(HostError, match="shared memory"):
        planted.get_function("too_much")((1,), (32,), ())
    with pytest.raises(HostError, match="shared memory"):
        planted.get_function("reversed")((1,), (64,), (np.zeros(64, "f"), np.zeros(64, "f")), shared_mem=232_400)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(8, "f"), np.int64(8), np.float32(1)), "argument 1 is a int64 of 8 bytes, .* integer of 4 bytes"),
        ((np.zeros(8, "f"), 8, np.float32(1)), "argument 1"),
        ((np.zeros(8, "f"), np.float32(8), np.float32(1)), "argument 1 is a float32"),
        ((np.zeros(8, "d"), np.int32(8), np.float32(1)), "argument 0 is a pointer to float64"),
        ((np.zeros(8, "f"), np.int32(8), np.zeros(1, "f")), "argument 2 is a pointer"),
        ((np.float32(0), np.int32(8), np.float32(1)), "argument 0"),
        ((np.zeros(8, "f"), np.int32(8)), "takes 3 arguments, 2 were given"),
    ],
)
def test_wrong_arguments_are_refused(planted, arguments, message):
    with pytest.raises(TypeError, match=message):
        planted.get_function("fill")((1,), (8,), arguments)


def test_writing_outside_is_found(planted):
    y, fill = np.zeros(63, "f"), planted.get_function("fill")
    fill((1,), (63,), (y, np.int32(63), np.float32(2)))
    assert (y == 2).all()
    with pytest.raises(HostError, match=r"wrote outside its array of shape \(63,\)"):
        fill((1,), (64,), (y, np.int32(63), np.float32(3)))


def test_blocks_that_race_differ_between_orders(planted):
    results = set()
    for order in ORDERS:
        y = np.zeros(1, "i")
        with thread_order(order):
            planted.get_function("last_block_wins")((17,), (1,), (y,))
        results.add(int(y[0]))
    assert {16, 0} < results


def test_threads_and_blocks_have_three_axes(planted):
    for order in ORDERS:
        y = np.zeros(24 * 30, "i")
        with thread_order(order):
            planted.get_function("where")((2, 3, 4), (5, 3, 2), (y,))
        np.testing.assert_array_equal(y, (1000 * np.arange(24)[:, None] + np.arange(30)).ravel())


@pytest.mark.parametrize("order", ORDERS)
def test_lanes_exchange_values(planted, order):
    x, y, votes = np.arange(64, dtype="f"), np.zeros(64, "f"), np.zeros(64, "u4")
    with thread_order(order):
        planted.get_function("sum_warp")((1,), (64,), (x, y, votes))
    np.testing.assert_array_equal(y, np.repeat(x.reshape(2, 32).sum(1), 32))
    expected = [sum(1 << i for i, v in enumerate(warp) if v > 20) for warp in x.reshape(2, 32)]
    np.testing.assert_array_equal(votes, np.repeat(np.array(expected, "u4"), 32))


def test_deadlocks_and_lanes_that_disagree_are_reported(planted):
    with pytest.raises(HostError, match="deadlock: 16 threads wait in warp operations, 16 at a barrier"):
        planted.get_function("half_a_warp")((1,), (32,), ())
    with pytest.raises(HostError, match="lanes disagree: __shfl"):
        planted.get_function("lanes_disagree")((1,), (32,), (np.zeros(32, "f"),))


@pytest.mark.parametrize(("grid", "block"), [((0,), (1,)), ((1, 65536), (1,)), ((1,), (1025,)), ((1,), (1, 1, 65))])
def test_launches_that_no_device_accepts(planted, grid, block):
    with pytest.raises(HostError, match="no device launches"):
        planted.get_function("last_block_wins")(grid, block, (np.zeros(1, "i"),))


def test_templates_by_their_name_expressions():
    module = HostModule(PLANTED, name_expressions=("times<double, 3>",))
    y = np.zeros(4)
    module.get_function("times<double, 3>")((1,), (4,), (np.arange(4.0), y))
    np.testing.assert_array_equal(y, 3 * np.arange(4))
    with pytest.raises(HostError, match="no kernel 'times'"):
        module.get_function("times")


def test_errors_of_the_compiler_are_shown():
    with pytest.raises(HostError, match="undefined_thing"):
        HostModule('extern "C" __global__ void f() { undefined_thing(); }')


def test_what_was_compiled_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path))
    source = 'extern "C" __global__ void one(int* y) { y[0] = 1; }'
    HostModule(source)
    assert [path.suffix for path in (tmp_path / "cuda_host").iterdir()] == [".so"]
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    y = np.zeros(1, "i")
    HostModule(source).get_function("one")((1,), (1,), (y,))
    assert y[0] == 1


# ---- the stand-in for CuPy -------------------------------------------------------------------------------------------


def test_the_stand_in_comes_and_goes():
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "cupy"}
    home = dict(table.HOME)
    with installed() as library:
        import cupy
        from cupy.cuda import Device

        assert cupy is library and Device(0).id == 0
        x = cupy.zeros(3)
        assert namespace(x) is cupy and table.home(type(x)) == "cuda"
        assert table.find("conv", "cuda") is conv.conv
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "cupy"}
    assert after == before and home == table.HOME


def test_arrays_of_the_stand_in_do_not_pass_as_numpy(cupy):
    x = cupy.arange(6, dtype="f").reshape(2, 3)
    assert not isinstance(x, np.ndarray)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)
    for mix in (
        lambda: x + np.ones(3),
        lambda: np.ones(3) * x,
        lambda: cupy.add(x, np.ones(3)),
        lambda: cupy.sum(np.ones(3)),
    ):
        with pytest.raises(TypeError, match="Unsupported type"):
            mix()
    with pytest.raises(TypeError, match="Unsupported type"):
        x[0] = np.ones(3)
    kernel = cupy.RawModule(code='extern "C" __global__ void f(float* y) { y[0] = 1; }').get_function("f")
    with pytest.raises(TypeError, match="was passed as a kernel parameter"):
        kernel((1,), (1,), (np.zeros(3, "f"),))


def test_the_stand_in_computes_as_numpy_does(cupy):
    host = np.arange(6.0).reshape(2, 3)
    x = cupy.asarray(host)
    x += 1
    assert (host == np.arange(6.0).reshape(2, 3)).all()  # another memory
    for result, expected in [
        (np.exp(x) * 2, np.exp(host + 1) * 2),
        (x[:, cupy.asarray([0, 2])].T, (host + 1)[:, [0, 2]].T),
        (cupy.einsum("ij,kj->ik", x, x), (host + 1) @ (host + 1).T),
        (cupy.linalg.norm(x), np.linalg.norm(host + 1)),
        (x.sum(axis=1, keepdims=True), (host + 1).sum(axis=1, keepdims=True)),
        (np.concatenate([x, x]), np.concatenate([host + 1] * 2)),
    ]:
        assert isinstance(result, cupy.ndarray)
        np.testing.assert_allclose(result.get(), expected)
    assert isinstance(x[0, 0], cupy.ndarray) and x[0, 0].shape == () and float(x[0, 0]) == 1
    cupy.add.at(x, cupy.asarray([0, 0]), 1)
    assert x[0, 0].item() == 3
    assert np.isnan(cupy.empty(3).get()).all() and (cupy.empty_like(x, dtype="int32").get() == -1).all()
    noise = cupy.random.default_rng(0).standard_normal(3)
    np.testing.assert_array_equal(cupy.asnumpy(noise), np.random.default_rng(0).standard_normal(3))


def test_the_stand_in_has_the_device_and_the_modules_the_engine_asks_for(cupy):
    from cupyx.scipy.special import erf

    x = cupy.asarray([0.0, 1.0])
    assert isinstance(erf(x), cupy.ndarray) and erf(x).get()[1] == pytest.approx(0.8427007929)
    with cupy.cuda.Device(), cupy.cuda.Stream(non_blocking=True):
        assert x.device == cupy.cuda.Device(0) and cupy.cuda.runtime.getDeviceCount() == 2
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="invalid device ordinal"):
        cupy.cuda.Device(2)


def test_the_reference_runs_on_the_stand_in(cupy):
    g = PoolGeometry.of((2, 3, 5, 4), 2, 1, 1)
    x = np.random.default_rng(0).standard_normal(g.x_shape)
    y, indices = reference.pool.max_pool(cupy.asarray(x), geometry=g)
    expected_y, expected_indices = reference.pool.max_pool(x, geometry=g)
    np.testing.assert_array_equal(y.get(), expected_y)
    np.testing.assert_array_equal(indices.get(), expected_indices)
