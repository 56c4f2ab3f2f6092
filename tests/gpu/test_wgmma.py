"""On a real device of compute capability 9.0: the instructions of wgmma.cuh one by one, where a failure prints what the
threads really hold, and the kernels made of them against the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import wgmma_cases
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.kernels.cuda import conv, hopper, launch, plan, tuner
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.reference import conv as reference

pytestmark = pytest.mark.gpu

MEMBERS = ("conv", "conv_input", "conv_weight")
# dtype of the arrays, float32_matmul_precision, largest error of normal numbers relative to the largest result
TYPES = [
    ("float16", "highest", 2e-3),
    ("float32", "medium", 8e-3),
    ("float32", "high", 1e-3),
    ("float32", "tf32x3", 4e-6),
]
LAYERS = {
    "first of C3D": ConvGeometry.of((2, 3, 16, 56, 56), (64, 3, 3, 3, 3), 1, 1),
    "second of C3D": ConvGeometry.of((2, 64, 16, 28, 28), (128, 64, 3, 3, 3), 1, 1),
    "last of C3D": ConvGeometry.of((4, 512, 2, 7, 7), (512, 512, 3, 3, 3), 1, 1),
    "DCGAN": ConvGeometry.of((16, 64, 32, 32), (128, 64, 4, 4), 2, 1),
    "groups": ConvGeometry.of((4, 96, 30, 28), (160, 24, 3, 5), (2, 1), (1, 2), (1, 2), 4),
    "one axis, odd channels": ConvGeometry.of((8, 37, 500), (131, 37, 7), 3, 2, 2),
}


@pytest.fixture
def device(cupy: Any) -> plan.Device:
    found = plan.Device(*launch.properties(cupy.cuda.runtime.getDevice()))
    if found.capability != hopper.CAPABILITY:
        pytest.skip(f"wgmma is for compute capability 9.0, not {found.capability / 10}")
    return found


def operands(member: str, g: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Shapes of both operands and of the result."""
    x, w, y = g.x_shape, g.w_shape, g.y_shape
    return {"conv": (x, w, y), "conv_input": (y, w, x), "conv_weight": (x, y, w)}[member]


def computed(cupy: Any, candidate: tuner.Candidate, task: tuner.Problem, arrays: list[np.ndarray]) -> np.ndarray:
    *_, shape = operands(task.member, task.geometry)
    given = [cupy.asarray(a) for a in arrays]
    if task.member == "conv_weight":
        out = launch.empty(shape, task.dtype)
    else:
        out = launch.empty_channels_last(shape, task.dtype)
        given.append(None)
    out.fill(np.nan)  # what is not written shows
    candidate.run(*given, out)
    return cupy.asnumpy(out)


# ---- single instructions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", wgmma_cases.KINDS)
def test_an_instruction_multiplies_what_lies_in_swizzled_memory(cupy, device, kind):
    options = ("-std=c++17", *hopper.OPTIONS)
    kernel = cupy.RawModule(code=wgmma_cases.source(), options=options).get_function("products")
    of = wgmma_cases.KINDS[kind]
    one = wgmma_cases.case(of)
    wgmma_cases.check(wgmma_cases.run(kernel, cupy.asarray, cupy.asnumpy, of, one), one)


@pytest.mark.parametrize("name", wgmma_cases.COPIES)
def test_a_copy_brings_pixels(cupy, device, name):
    """Of the tensor memory accelerator, with a map that the driver packed."""
    options = ("-std=c++17", *hopper.OPTIONS)
    kernel = cupy.RawModule(code=wgmma_cases.source(), options=options).get_function("copied")
    wgmma_cases.check_copied(*wgmma_cases.copied(cupy, kernel, wgmma_cases.COPIES[name]))


# ---- whole kernels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "precision", "bound"), [*TYPES, ("bfloat16", "highest", 1.6e-2)])
@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("layer", LAYERS)
def test_candidates_agree_with_the_reference(cupy, device, layer, member, dtype, precision, bound):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
    g, rng = LAYERS[layer], np.random.default_rng(0)
    task = tuner.Problem(member, g, dtype, precision, False, False, device)
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in operands(member, g)[:2]]
    expected = getattr(reference, member)(*(a.astype("f4") for a in arrays), geometry=g)
    errors = {}
    for candidate in hopper.candidates(task):
        result = computed(cupy, candidate, task, arrays).astype("f4")
        errors[candidate.name] = abs(result - expected).max() / abs(expected).max()
    if member != "conv_weight" or precision in ("highest", "medium"):
        assert errors
    assert all(error <= bound for error in errors.values()), errors  # NaN is not


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 4), per_axis(1, 3), per_axis(1, 3)
    padding = tuple(zip(per_axis(0, 3), per_axis(0, 2), strict=True))
    span = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, s - sum(p)) for s, p in zip(span, padding, strict=True)]
    input = tuple(n + extra for n, extra in zip(least, per_axis(0, 9), strict=True))
    sizes = zip(input, padding, span, stride, strict=True)
    output = tuple((n + sum(p) - w) // s + 1 for n, p, w, s in sizes)
    groups, batch = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 4))
    c, k = (draw(st.integers(1, 150)) * groups for _ in range(2))
    return ConvGeometry(batch, c, k, groups, input, kernel, output, stride, padding, dilation)


@given(g=geometries(), kind=st.sampled_from(TYPES), member=st.sampled_from(MEMBERS), pick=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_whole_numbers_are_exact(cupy, device, g, kind, member, pick):
    """Products of small whole numbers and their sums are exact in every arithmetic, with every tile and split."""
    dtype, precision, _ = kind
    rng = np.random.default_rng(pick)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "TINY", -1)
        plan.gather.cache_clear()
        plan.weight.cache_clear()
        task = tuner.Problem(member, g, dtype, precision, False, False, device)
        found = list(hopper.candidates(task))
        if found:
            arrays = [rng.integers(-2, 3, shape).astype(dtype) for shape in operands(member, g)[:2]]
            candidate = found[pick % len(found)]
            result = computed(cupy, candidate, task, arrays)
            expected = getattr(reference, member)(*(a.astype("f8") for a in arrays), geometry=g)
            np.testing.assert_array_equal(result, expected.astype(dtype), err_msg=candidate.name)
    plan.gather.cache_clear()
    plan.weight.cache_clear()


@pytest.mark.parametrize(("dtype", "precision", "_bound"), TYPES)
def test_twenty_runs_give_the_same_bits(cupy, device, dtype, precision, _bound):
    g, rng = LAYERS["second of C3D"], np.random.default_rng(0)
    for member in MEMBERS:
        task = tuner.Problem(member, g, dtype, precision, False, False, device)
        arrays = [rng.standard_normal(shape).astype(dtype) for shape in operands(member, g)[:2]]
        for candidate in hopper.candidates(task):
            first = computed(cupy, candidate, task, arrays).tobytes()
            runs = (computed(cupy, candidate, task, arrays).tobytes() for _ in range(20))
            assert all(bits == first for bits in runs), candidate.name


@pytest.mark.parametrize("member", MEMBERS)
def test_the_tuner_finds_nothing_wrong(cupy, device, member):
    g = LAYERS["second of C3D"]
    for dtype, precision, _ in TYPES:
        task = tuner.Problem(member, g, dtype, precision, False, False, device)
        first, second, shape = operands(member, g)
        given = [cupy.zeros(first, dtype), cupy.zeros(second, dtype), *([] if member == "conv_weight" else [None])]
        out = launch.empty(shape, dtype) if member == "conv_weight" else launch.empty_channels_last(shape, dtype)
        trusted = next(iter(conv.candidates(task)))
        for candidate in hopper.candidates(task):
            assert tuner.check(task, candidate, trusted, tuple(given), out) == "", candidate.name
