"""The kernels for Hopper's tensor cores without one: on the CPU, instruction by instruction, and through NVRTC. Then
the shim: does it see what would go wrong on a device?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import wgmma_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.checking import cuda_host
from minidl.checking.cuda_host import HostError, HostModule, installed, nvrtc, thread_order
from minidl.kernels.cuda import hopper, launch, plan, tuner
from minidl.kernels.cuda.plan import Tile
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference

REASON = cuda_host.unavailable()
on_the_host = pytest.mark.skipif(REASON is not None, reason=str(REASON))
NO_COMPILER = nvrtc.unavailable()
compiled = pytest.mark.skipif(NO_COMPILER is not None, reason=str(NO_COMPILER))

MEMBERS = ("conv", "conv_input", "conv_weight")
TYPES = (("float16", "highest"), ("float32", "medium"), ("float32", "high"), ("float32", "tf32x3"))
# two warpgroups side by side, each with two times 64 rows; three stages: one step ahead
TILE = Tile(128, 128, 4, 2, 128, 3)


@pytest.fixture(scope="module", autouse=True)
def _small(tmp_path_factory):
    """Products of tiles for every problem; the gathers of the default run are compiled in one go."""
    sizes = (("F16", "Half"), ("TF32", "float"), ("TF32X3", "float"))
    together = [hopper.Instance("gather", math, kind, kind, TILE, 16) for math, kind in sizes]
    names, text, alone = {i.name for i in together}, "".join(i.source for i in together), hopper.Instance.source.func
    with pytest.MonkeyPatch.context() as patch:
        source = property(lambda self: text if self.name in names else alone(self))
        patch.setattr(hopper.Instance, "source", source)
        patch.setenv("MINIDL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(plan, "TINY", -1)
        patch.setattr(plan, "LEAST_STEPS", 1)
        forget()
        yield
    forget()


def forget() -> None:
    plan.gather.cache_clear()
    plan.weight.cache_clear()


def problem(member: str, g: ConvGeometry, dtype: str, precision: str, bias: bool = False, relu: bool = False) -> Any:
    return tuner.Problem(member, g, dtype, precision, bias, relu, plan.Device())


def operands(member: str, g: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of both operands and of the result."""
    x, w, y = g.x_shape, g.w_shape, g.y_shape
    return {"conv": (x, w, y), "conv_input": (y, w, x), "conv_weight": (x, y, w)}[member]


def result(
    cupy: Any, task: Any, tile: Tile, splits: int, arrays: list[np.ndarray], bias: Any = None, fed: bool = False
) -> np.ndarray:
    *_, shape = operands(task.member, task.geometry)
    given = [cupy.asarray(a) for a in arrays]
    if task.member == "conv_weight":
        out = launch.empty(shape, task.dtype)
    else:
        out = launch.empty_channels_last(shape, task.dtype)
        given.append(None if bias is None else cupy.asarray(bias))
    out.fill(np.nan)  # what is not written shows
    hopper.run(task, tile, splits, fed, *given, out)
    return out.get()


def whole(seed: int, dtype: str, *shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Small whole numbers: their sums are exact in any order and arithmetic."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, shape).astype(dtype) for shape in shapes]


def exact(member: str, arrays: list[np.ndarray], g: ConvGeometry) -> np.ndarray:
    return getattr(reference, member)(*(a.astype("f8") for a in arrays), geometry=g)


@st.composite
def geometries(draw, channels=(5, 8, 20), groups=(1, 1, 2)):
    """Two or three axes: uneven padding, strides (phases), dilation, groups."""
    rank = draw(st.integers(2, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 3), per_axis(1, 2), per_axis(1, 2)
    padding = tuple(zip(per_axis(0, 2), per_axis(0, 2), strict=True))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, s - sum(p)) for s, p in zip(span, padding, strict=True)]
    input = tuple(n + extra for n, extra in zip(least, per_axis(0, 4), strict=True))
    sizes = zip(input, padding, span, stride, strict=True)
    output = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in sizes)
    groups, batch = draw(st.sampled_from(groups)), draw(st.integers(1, 2))
    c, k = draw(st.sampled_from(channels)) * groups, draw(st.sampled_from([8, 9, 16, 70])) * groups
    return ConvGeometry(batch, c, k, groups, input, kernel, output, stride, padding, dilation)


# ---- single instructions ---------------------------------------------------------------------------------------------


@on_the_host
@pytest.mark.parametrize("name", wgmma_cases.COPIES)
def test_a_copy_brings_pixels(instructions, monkeypatch, name):
    with installed() as cupy:
        kernel = cupy.RawModule(code=wgmma_cases.source() + CARELESS).get_function("copied")
        wgmma_cases.check_copied(*wgmma_cases.copied(cupy, kernel, wgmma_cases.COPIES[name]))


@on_the_host
def test_wrong_pixels_are_named(instructions):
    with installed() as cupy:
        kernel = cupy.RawModule(code=wgmma_cases.source() + CARELESS).get_function("copied")
        found, expected = wgmma_cases.copied(cupy, kernel, wgmma_cases.COPIES["padding"])
        with pytest.raises(AssertionError, match="row 5 is row 6, not"):
            wgmma_cases.check_copied(np.roll(found, -1, 0), expected)


@on_the_host
def test_a_copy_begins_at_a_pixel_of_its_box(instructions):
    one = wgmma_cases.COPIES["steps"]
    with installed() as cupy:
        kernel = cupy.RawModule(code=wgmma_cases.source() + CARELESS).get_function("copied")
        with pytest.raises(HostError, match="none of the bounding box"):
            wgmma_cases.copied(cupy, kernel, one._replace(first=(0, 0, -2, 0, 0)))


@on_the_host
def test_factors_begin_where_the_swizzle_does(alone):
    of = wgmma_cases.KINDS["f16"]
    one = wgmma_cases.case(of)
    with pytest.raises(HostError, match="its atoms of 1024 bytes do not"):
        wgmma_cases.run(alone, np.array, np.asarray, of, one._replace(a=one.a + (512 >> 4)))


CARELESS = r"""
extern "C" __global__ void careless(const float* x, float* y, const int sin) {
    extern __shared__ __align__(1024) unsigned char memory[];
    const int thread = threadIdx.x;
    for (int row = thread / 8; row < 128; row += 16)
        cp_async<16>(memory + swizzled<128>(row, thread % 8 * 16), x + row * 32 + thread % 8 * 4, true);
    cp_async_commit();
    cp_async_wait<0>();
    if (sin != 1) fence_proxy_async();
    __syncthreads();
    float sum[32] = {};
    const Bits64 a = factor_at(shared_address(memory)), b = factor_at(shared_address(memory + 8192));
    if (sin != 2) wgmma_fence();
    wgmma_tf32(sum, a, b + (sin == 3 && thread > 63 ? 2 : 0), 1);
    if (sin != 4) wgmma_commit();
    if (sin == 5) sum[3] = 0;
    if (sin == 6) *(float*)(memory + swizzled<128>(thread, 0)) = 7;
    if (sin != 7) wgmma_wait<0>();
    if (sin == 8) wgmma_tf32(sum, a, b, 1);
    for (int i = 0; i < 32; ++i) y[thread * 32 + i] = sum[i];
}
"""


@pytest.fixture(scope="module")
def instructions(_small):
    return HostModule(wgmma_cases.source() + CARELESS)


@pytest.fixture
def alone(instructions):
    return instructions.get_function("products")


@on_the_host
@pytest.mark.parametrize("kind", wgmma_cases.KINDS)
def test_an_instruction_multiplies_what_lies_in_swizzled_memory(alone, kind):
    of = wgmma_cases.KINDS[kind]
    one = wgmma_cases.case(of)
    wgmma_cases.check(wgmma_cases.run(alone, np.array, np.asarray, of, one), one)


@on_the_host
def test_a_wrong_layout_is_explained(alone):
    of = wgmma_cases.KINDS["f16"]
    one = wgmma_cases.case(of)
    found = wgmma_cases.run(alone, np.array, np.asarray, of, one)
    with pytest.raises(AssertionError, match=r"thread 1: holds \(0, 0\) \(0, 1\) \(8, 0\)"):
        wgmma_cases.check(np.roll(found, 1, 0), one)
    without = one._replace(image=one.image[[wgmma_cases.swizzled(i) for i in range(one.image.size)]])
    with pytest.raises(AssertionError, match=r"3\d{3} of 4096 sums are not"):
        wgmma_cases.check(wgmma_cases.run(alone, np.array, np.asarray, of, without), one)


SINS = {
    0: None,
    1: "did not fence for it",
    2: "has not passed wgmma.fence",
    3: "different descriptors",
    4: "NaN",
    5: "wrote a sum while",
    6: "shared memory changed while",
    7: "NaN",
    8: "has not passed wgmma.fence",
}


@on_the_host
@pytest.mark.parametrize("sin", SINS)
def test_the_shim_sees_what_a_device_would_not_forgive(instructions, sin):
    careless = instructions.get_function("careless")
    x = np.random.default_rng(0).standard_normal((128, 32)).astype("f4")
    y = np.zeros((128, 32), "f4")
    run = lambda: careless((1,), (128,), (x, y, np.int32(sin)), shared_mem=16384)
    if SINS[sin] in (None, "NaN"):
        run()
        assert np.isnan(y).all() == (SINS[sin] == "NaN")
    else:
        with pytest.raises(HostError, match=SINS[sin]):
            run()


# ---- whole kernels ---------------------------------------------------------------------------------------------------


def equals_the_reference(task, splits, seed, fed=False):
    first, second, shape = operands(task.member, task.geometry)
    arrays = whole(seed, task.dtype, first, second)
    expected = exact(task.member, arrays, task.geometry)
    (b,) = whole(seed + 1, task.dtype, shape[1:2])
    if task.bias:
        expected = expected + b.reshape(-1, *[1] * (len(shape) - 2))
    if task.relu:
        expected = np.maximum(expected, 0)
    p = hopper.planned(task, TILE, splits)
    if p.instance is None or (fed and not hopper._can_be_fed(p)):
        return  # groups too narrow for tiles, or what tensor maps cannot say
    with installed() as cupy, thread_order(seed % 4):
        found = result(cupy, task, TILE, splits, arrays, b if task.bias else None, fed)
    np.testing.assert_array_equal(found, expected.astype(task.dtype))


SEEDS = st.integers(0, 2**32 - 1)


@on_the_host
@pytest.mark.parametrize(("dtype", "precision"), [t for t in TYPES if t[1] != "medium"])
@given(g=geometries(), adjoint=st.booleans(), seed=SEEDS, bias=st.booleans(), relu=st.booleans())
@settings(max_examples=5, deadline=None)
def test_gathers_equal_the_reference(dtype, precision, g, adjoint, seed, bias, relu):
    member = "conv_input" if adjoint else "conv"
    equals_the_reference(problem(member, g, dtype, precision, bias, relu), 1, seed)


@on_the_host
@pytest.mark.parametrize("precision", ["highest", pytest.param("high", marks=pytest.mark.slow)])
@given(g=geometries((5, 8, 70), groups=(1,)), adjoint=st.booleans(), seed=SEEDS, bias=st.booleans())
@settings(max_examples=10, deadline=None)
def test_what_tensor_maps_bring_equals_the_reference(precision, g, adjoint, seed, bias):
    member, dtype = "conv_input" if adjoint else "conv", "float16" if precision == "highest" else "float32"
    equals_the_reference(problem(member, g, dtype, precision, bias, True), 1, seed, fed=True)


@on_the_host
@given(g=geometries(), splits=st.integers(1, 3), seed=SEEDS)
@settings(max_examples=12, deadline=None)
def test_gradients_of_weights_equal_the_reference(g, splits, seed):
    equals_the_reference(problem("conv_weight", g, "float16", "highest"), splits, seed)


@on_the_host
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "precision"), TYPES)
@given(
    g=geometries((1, 2, 3, 4, 5, 8, 20, 70)), member=st.sampled_from(MEMBERS), seed=SEEDS, splits=st.integers(1, 3),
    bias=st.booleans(), relu=st.booleans(), fed=st.booleans(),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_everything_equals_the_reference(dtype, precision, g, member, seed, splits, bias, relu, fed):
    """Copies of 4, 8 and 16 bytes, results as they are and in splits, threads and tensor maps."""
    if member == "conv_weight" and precision in ("high", "tf32x3"):
        member = "conv"  # wgmma cannot compute that one
    gathers = member != "conv_weight"
    task = problem(member, g, dtype, precision, bias and gathers, relu and gathers)
    equals_the_reference(task, splits, seed, fed and gathers and precision != "tf32x3")


@on_the_host
@pytest.mark.parametrize(("precision", "bound"), [("high", 1e-3), ("tf32x3", 1e-6)])
def test_floats_are_rounded_not_cut_off(precision, bound):
    g = ConvGeometry.of((1, 24, 9, 8), (20, 24, 3, 3), 1, 1)
    rng = np.random.default_rng(0)
    arrays = [abs(rng.standard_normal(s, np.float32)) for s in (g.x_shape, g.w_shape)]  # cutting off would add up
    expected = exact("conv", arrays, g)
    with installed() as cupy:
        error = result(cupy, problem("conv", g, "float32", precision), TILE, 1, arrays) / expected - 1
    assert abs(error).max() < bound
    assert abs(error.mean()) < bound / 5


@on_the_host
def test_every_order_of_threads_gives_the_same_bits():
    g = ConvGeometry.of((1, 20, 9, 17), (70, 20, 3, 3), 1, 1)
    rng = np.random.default_rng(0)
    for member, splits in (("conv", 1), ("conv_weight", 2)):
        arrays = [rng.standard_normal(s).astype("f2") for s in operands(member, g)[:2]]
        bits = set()
        for order in range(4):
            with installed() as cupy, thread_order(order):
                bits.add(result(cupy, problem(member, g, "float16", "highest"), TILE, splits, arrays).tobytes())
        assert len(bits) == 1


BUGS = {
    "the wait for copies": ("cp_async_wait<AHEAD - 1>();", ""),
    "the proxy fence": ("fence_proxy_async();         // for", "// for"),
    "the barrier": ("__syncthreads();             // those", "// those"),
    "the registers' fence": ("wgmma_fence();\n#pragma unroll\n        for (int k = 0; k < K", "for (int k = 0; k < K"),
    "the last wait": ("        wgmma_wait<0>();\n#pragma unroll", "#pragma unroll"),
    "the wait for the step before": ("wgmma_wait<1>();", ""),
    "the commit": ("add || k > 0);\n        wgmma_commit();", "add || k > 0);"),
    "the swizzle": ("b + swizzled<ROW>(row, i % WHOLE * 16)", "b + row * ROW + i % WHOLE * 16"),
    "the way to the next rows": ("(Bits64)(1024 >> 4) << 32", "(Bits64)(512 >> 4) << 32"),
    "a step ahead too far": ("AHEAD = STAGES - 2;", "AHEAD = STAGES - 1;"),
}  # fmt: skip
FED_BUGS = {
    "the wait for a full stage": ("barrier_wait(full + step % STAGES, step / STAGES % 2);", ""),
    "the wait for an empty stage": ("barrier_wait(empty + stage, step / STAGES % 2 ^ 1);", ""),
    "the parity": ("step / STAGES % 2 ^ 1", "step / STAGES % 2"),
    "the bytes": ("barrier_expect(full + stage, STAGE);", "barrier_expect(full + stage, STAGE - 16);"),
    "the last step read": ("barrier_arrive(empty + (step - 1) % STAGES)", "barrier_arrive(empty + step % STAGES)"),
    "the direction of taps": ("g.dilation[axis] < 0 ?", "false ?"),
}


def shows(monkeypatch, file, member, bug, fed):
    """Whether some order of threads gives a wrong result or an error with this text of the source replaced."""
    read = launch.source
    assert bug[0] in read(file)
    monkeypatch.setattr(launch, "source", lambda file: read(file).replace(*bug))
    launch.forget()
    g = ConvGeometry.of((1, 64, 9, 8), (64, 64, 3, 3), 1, 1)
    arrays = whole(0, "float16", *operands(member, g)[:2])
    expected = exact(member, arrays, g)
    shown = []
    for order in range(4):
        with installed() as cupy, thread_order(order):
            try:
                task = problem(member, g, "float16", "highest")
                found = result(cupy, task, Tile(64, 64, 4, 1, 128, 3), 1, arrays, None, fed)
                shown.append(not np.array_equal(found, expected))
            except HostError:
                shown.append(True)
    launch.forget()
    return any(shown)


@on_the_host
@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_without_something_it_shows(monkeypatch, bug):
    assert shows(monkeypatch, "hopper_gather.cu", "conv", BUGS[bug], False)


@on_the_host
@pytest.mark.slow
@pytest.mark.parametrize("bug", FED_BUGS)
def test_without_something_it_shows_with_tensor_maps(monkeypatch, bug):
    assert shows(monkeypatch, "hopper_tma.cu", "conv_input", FED_BUGS[bug], True)


@on_the_host
@pytest.mark.slow
@pytest.mark.parametrize("kernel", hopper.instances(), ids=lambda i: i.name)
def test_every_tile_computes(kernel):
    precision = {"TF32": "high", "TF32X3": "tf32x3"}.get(kernel.math, "highest" if kernel.math == "F16" else "medium")
    dtype = "float16" if kernel.math == "F16" else "float32"
    if kernel.result == "Bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
        dtype, precision = "bfloat16", "highest"
    member = "conv_weight" if kernel.kind == "weight" else "conv"
    channels = {16: 24, 8: 4 if kernel.storage != "float" else 2, 4: 2 if kernel.storage != "float" else 1}
    g = ConvGeometry.of((2, channels[kernel.vector], 14, 15), (150, channels[kernel.vector], 3, 3), 1, 1)
    splits = 2 if kernel.kind == "gather" and kernel.result == "float" and dtype == "float16" else 1
    task = problem(member, g, dtype, precision)
    arrays = whole(1, dtype, *operands(member, g)[:2])
    fed = isinstance(kernel, hopper.FedInstance)
    assert hopper.made(hopper.planned(task, kernel.tile, splits), fed).name == kernel.name
    with installed() as cupy:
        found = result(cupy, task, kernel.tile, splits, arrays, None, fed)
    np.testing.assert_array_equal(found, exact(member, arrays, g).astype(dtype))


# ---- candidates ------------------------------------------------------------------------------------------------------

LAYER = ConvGeometry.of((16, 64, 16, 56, 56), (128, 64, 3, 3, 3), 1, 1)


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize(("dtype", "precision"), [*TYPES, ("bfloat16", "highest")])
def test_candidates_fit_the_problem(member, dtype, precision):
    task = problem(member, LAYER, dtype, precision)
    found = list(hopper.candidates(task))
    if member == "conv_weight" and precision in ("high", "tf32x3"):
        assert found == []
        return
    assert len({c.name for c in found}) == len(found) >= 1
    for candidate in found:
        _, tile, splits, fed = candidate.run.args
        p = hopper.planned(task, tile, splits)
        assert hopper.made(p, fed).shared <= task.device.shared
        assert p.splits == splits and p.workspace * 4 <= plan.LARGEST_WORKSPACE
        if member == "conv_weight":
            assert -(-LAYER.batch * 16 * 56 * 56 // splits) <= plan.LONGEST_SUM


@pytest.mark.parametrize("capability", [80, 89, 100, 120])
def test_other_devices_have_no_candidates(capability):
    task = problem("conv", LAYER, "float16", "highest")._replace(device=plan.Device(capability))
    assert list(hopper.candidates(task)) == []


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "highest"), ("float64", "highest")])
def test_strict_arithmetic_has_no_candidates(dtype, precision):
    assert list(hopper.candidates(problem("conv", LAYER, dtype, precision))) == []


@on_the_host
@pytest.mark.slow
def test_a_candidate_agrees_with_the_trusted_kernel():
    from minidl.kernels.cuda import conv

    g = ConvGeometry.of((1, 16, 8, 8), (64, 16, 3, 3), 1, 1)
    task = problem("conv", g, "float16", "highest", relu=True)
    candidate = next(c for c in hopper.candidates(task) if "64x64" in c.name)
    with installed() as cupy:
        given = (cupy.zeros(g.x_shape, "f2"), cupy.zeros(g.w_shape, "f2"), None)
        out = launch.empty_channels_last(g.y_shape, np.dtype("f2"))
        assert tuner.check(task, candidate, next(iter(conv.candidates(task))), given, out) == ""


# ---- NVRTC -----------------------------------------------------------------------------------------------------------


def compile_for_hopper(source: str, order: tuple[str, ...] = ("-arch=sm_90a", "-arch=sm_90")) -> tuple[str, bytes]:
    """Log and machine code, with the options that CuPy hands over."""
    library = nvrtc._library()
    program = library.createProgram(source, "kernel.cu", (), ())
    try:
        library.compileProgram(program, ("-std=c++17", *order, *nvrtc.CUPY_OPTIONS, "--ptxas-options=-v"))
        return library.getProgramLog(program), library.getCUBIN(program)
    finally:
        library.destroyProgram(program)


def keeps_to_its_registers(kernel: hopper.Instance) -> None:
    """No spills, as many blocks on a multiprocessor as the tile says, and products that ptxas does not serialize."""
    log, _ = compile_for_hopper(launch.source(kernel.file) + kernel.source)
    assert "for 'sm_90a'" in log  # though CuPy puts -arch=sm_90 behind it
    assert "Performance Loss" not in log, log
    usage = nvrtc._read(log)[kernel.name]
    assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0)
    blocks = kernel.tile.least_blocks
    assert usage.registers <= min(2**16 // (kernel.threads * blocks), 232)
    assert (kernel.shared + 1024) * blocks <= 228 * 1024  # of a multiprocessor; the system takes 1024 for each block


LARGEST = {(i.file, i.math): i for i in reversed(hopper.instances()) if i.vector == 16 and i.math != "F16"}


@compiled
def test_the_largest_kernel_keeps_to_its_registers():
    keeps_to_its_registers(LARGEST["hopper_tma.cu", "BF16"])


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("kernel", hopper.instances(), ids=lambda i: i.name)
def test_all_kernels_keep_to_their_registers(kernel):
    keeps_to_its_registers(kernel)


@compiled
def test_weights_are_rounded_without_spills():
    log, _ = compile_for_hopper(launch.source("hopper_weights.cu"))
    assert nvrtc._read(log)["round_kernel"].spill_stores == 0


@compiled
def test_plain_hopper_code_has_no_wgmma():
    kernel = LARGEST["hopper_gather.cu", "BF16"]
    with pytest.raises(nvrtc._library().NVRTCError):
        compile_for_hopper(launch.source(kernel.file) + kernel.source, ("-arch=sm_90",))
