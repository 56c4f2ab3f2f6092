"""Products of matrices on CUDA arrays: which of them go through the tiles, in which arithmetic, and what comes out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minidl
from minidl.checking import cuda_host
from minidl.checking.cuda_host import installed, thread_order
from minidl.core.tensor import to_device
from minidl.kernels import capture, precision
from minidl.kernels.cuda import launch, linalg, plan
from minidl.kernels.cuda.plan import Tile
from minidl.kernels.reference import linalg as reference

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# Tiny, so that small problems have many; one for each arithmetic that a test here computes in.
TINY_TILES = {
    ("gather", "FMA float"): (Tile(8, 16, 1, 2, 64, 3),),
    ("gather", "FMA double"): (Tile(16, 8, 2, 1, 64, 3),),
    ("gather", "tensor"): (Tile(32, 16, 2, 1, 64, 4),),
    ("gather", "TF32X3"): (Tile(16, 16, 1, 1, 128, 3),),
    ("weight", "FMA float"): (Tile(16, 64, 1, 2, 64, 3),),
    ("weight", "FMA double"): (Tile(16, 32, 1, 1, 64, 3),),
    ("weight", "tensor"): (Tile(16, 32, 1, 2, 64, 4),),
    ("weight", "TF32X3"): (Tile(16, 64, 1, 2, 64, 3),),
}
LINES = ("rows", "columns", "gaps")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIDL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CUPY_TF32", raising=False)
        yield


@pytest.fixture(autouse=True)
def _as_before():
    yield
    precision.set_float32_matmul_precision("highest")


def forget() -> None:
    plan.gather.cache_clear()
    plan.weight.cache_clear()


@pytest.fixture
def tiny(monkeypatch):
    """Tiny tiles for every product, and what is computed: the names of the kernels, and the products left to CuPy."""
    for name, value in {"TILES": TINY_TILES, "TINY": -1}.items():
        monkeypatch.setattr(plan, name, value)
    forget()
    seen = SimpleNamespace(kernels=[], cupy=[])
    load = launch.load

    def watched(file, kernel, *rest):
        seen.kernels.append(kernel)
        return load(file, kernel, *rest)

    watched.cache_clear = load.cache_clear
    monkeypatch.setattr(launch, "load", watched)
    for name in ("matmul", "linear", "linear_weight"):
        kernel = getattr(reference, name)
        monkeypatch.setattr(reference, name, lambda *a, name=name, kernel=kernel: seen.cupy.append(name) or kernel(*a))
    yield seen
    forget()


@pytest.fixture
def idle(tiny, monkeypatch):
    """Kernels that are launched and do nothing: for who computes what."""
    monkeypatch.setattr(launch, "load", lambda file, kernel, *_: tiny.kernels.append(kernel) or (lambda *_, **__: None))
    launch.load.cache_clear = lambda: None


def whole(seed: int, *shapes: tuple[int, ...], dtype: str = "float32") -> list[np.ndarray]:
    """Arrays of small whole numbers: sums of their products are exact in any order and in any arithmetic."""
    rng = np.random.default_rng(seed)
    return [rng.integers(-2, 3, shape).astype(dtype) for shape in shapes]


def lying(cupy, x: np.ndarray, how: str):
    """The matrices of x on the device: with rows, columns or neither in one piece."""
    if how == "gaps":
        wide = cupy.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
        wide[..., ::2] = cupy.asarray(x)
        return wide[..., ::2]
    x = cupy.asarray(x)
    return cupy.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2) if how == "columns" else x


def wide(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype("float64") for a in arrays]


# ---- values
# of 8 to 16 bytes a row, so that each kernel is compiled once
terms, some = st.sampled_from([8, 12, 13, 40]), st.sampled_from([8, 9, 16, 33])


@pytest.mark.parametrize(
    ("dtype", "name"), [("float32", "high"), pytest.param("float16", "highest", marks=pytest.mark.slow)]
)
@given(
    lead=st.lists(st.integers(1, 3), max_size=2), n=st.integers(1, 40), k=terms, m=some, lie=st.sampled_from(LINES),
    other=st.sampled_from(LINES), bias=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_linear_and_its_gradients_equal_exact_sums(tiny, dtype, name, lead, n, k, m, lie, other, bias, seed):
    x, w, b, g = whole(seed, (*lead, n, k), (m, k), (m,), (*lead, n, m), dtype=dtype)
    precision.set_float32_matmul_precision(name)
    tiny.cupy.clear()
    with installed() as cupy:
        there = [lying(cupy, x, lie), lying(cupy, w, other)]
        y = linalg.linear(*there, cupy.asarray(b) if bias else None)
        gw = linalg.linear_weight(lying(cupy, g, other), there[0])
        gx = linalg.linear(lying(cupy, g, lie), there[1].T, None)
        assert y.flags.c_contiguous and y.dtype == gx.dtype == gw.dtype == dtype
    assert not tiny.cupy
    exact = [*wide(x, w), b.astype("float64") if bias else None]
    np.testing.assert_array_equal(y.get(), reference.linear(*exact).astype(dtype))
    np.testing.assert_array_equal(gw.get(), reference.linear_weight(*wide(g, x)).astype(dtype))
    np.testing.assert_array_equal(gx.get(), (g.astype("float64") @ w.astype("float64")).astype(dtype))


@given(
    stacks=st.sampled_from([((), ()), ((2,), ()), ((3,), (3,)), ((2, 1), (3,)), ((), (2,))]), n=st.integers(1, 40),
    k=terms, m=some, lies=st.tuples(st.sampled_from(LINES), st.sampled_from(LINES)), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_matrices_and_stacks_of_them_equal_exact_sums(tiny, stacks, n, k, m, lies, seed):
    a, b = whole(seed, (*stacks[0], n, k), (*stacks[1], k, m))
    precision.set_float32_matmul_precision("high")
    tiny.cupy.clear()
    with installed() as cupy:
        y = linalg.matmul(lying(cupy, a, lies[0]), lying(cupy, b, lies[1])).get()
    assert not tiny.cupy
    np.testing.assert_array_equal(y, a @ b)


@pytest.mark.parametrize("subscripts", ["ij,kj->ki", "aij,ajk->aik", "iaj,kj->aki", "iaj,bjk->abik"])
def test_contractions_are_products(tiny, subscripts):
    left, right, out = subscripts.replace("->", ",").split(",")
    size = {"a": 3, "b": 2, "i": 9, "j": 16, "k": 12}
    a, b = whole(0, *(tuple(size[i] for i in names) for names in (left, right)))
    precision.set_float32_matmul_precision("high")
    with installed() as cupy:
        y = linalg.contract(cupy.asarray(a), cupy.asarray(b), subscripts=(left, right, out)).get()
    assert not tiny.cupy
    np.testing.assert_array_equal(y, np.einsum(subscripts, a, b))


@pytest.mark.slow
def test_bfloat16_rounds_the_exact_result(tiny):
    bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes").bfloat16
    x, w, b = whole(0, (20, 40), (16, 40), (16,), dtype=bfloat16)
    with installed() as cupy:
        y = linalg.linear(*map(cupy.asarray, (x, w, b)))
    assert y.dtype == bfloat16 and not tiny.cupy
    np.testing.assert_array_equal(y.get(), reference.linear(*wide(x, w, b)).astype(bfloat16))


# ---- the arithmetic
BOUNDS = [("highest", 0, 5e-7), ("tf32x3", 0, 5e-7), ("high", 2e-5, 1e-3), ("medium", 2e-4, 8e-3)]


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [pytest.param(*row, marks=pytest.mark.slow if row[0] == "medium" else ()) for row in BOUNDS],
)
def test_errors_are_those_of_the_precision(tiny, name, least, most):
    """Relative to the largest result, of normal numbers."""
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((40, 300), np.float32), rng.standard_normal((24, 300), np.float32)
    exact = wide(x)[0] @ wide(w)[0].T
    precision.set_float32_matmul_precision(name)
    with installed() as cupy:
        x, w = cupy.asarray(x), cupy.asarray(w)
        error = abs(linalg.linear(x, w, None).get() - exact).max() / abs(exact).max()
        assert least < error < most
        assert tiny.cupy == (["linear"] if name == "highest" else [])
        tiny.cupy.clear()
        with precision.conv_precision("precise"):
            linalg.linear(x, w, None)
        assert tiny.cupy == ["linear"]


@pytest.mark.parametrize(("dtype", "name", "math"), [
    ("float32", "tf32x3", "tf32x3"), ("float32", "high", "tf32"), ("float32", "medium", "bf16"),
    ("float16", "highest", "f16"), ("float16", "medium", "f16"),
])  # fmt: skip
def test_each_way_computes_in_the_arithmetic_that_was_set(tiny, idle, dtype, name, math):
    x, w, g = whole(0, (40, 16), (24, 16), (40, 24), dtype=dtype)
    precision.set_float32_matmul_precision(name)
    with installed() as cupy:
        x, w, g = map(cupy.asarray, (x, w, g))
        assert linalg.linear(x, w, None).dtype == linalg.linear_weight(g, x).dtype == dtype
    products = [k for k in tiny.kernels if k.startswith(("gather", "weight"))]
    assert [k.split("_")[:2] for k in products] == [["gather", math], ["weight", math]] and not tiny.cupy


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_cublas_computes_what_is_strict(tiny, dtype):
    if dtype != "float32":
        precision.set_float32_matmul_precision("medium")
    x, w = whole(0, (9, 16), (12, 16), dtype=dtype)
    with installed() as cupy:
        x, w = cupy.asarray(x), cupy.asarray(w)
        linalg.linear(x, w, None)
        linalg.linear_weight(x[:, :8], x)
        linalg.matmul(w, x.T)
        linalg.contract(x, w, subscripts=("ij", "kj", "ik"))
    assert tiny.cupy == ["linear", "linear_weight", "matmul", "matmul"] and not tiny.kernels


@pytest.mark.parametrize(("name", "math"), [("highest", "fma"), ("tf32x3", "tf32x3")])
def test_the_switch_of_cupy_does_not_round_what_must_not_be(tiny, idle, monkeypatch, name, math):
    """With CUPY_TF32=1 no float32 product is CuPy's that was asked to be exact; what is tiny is summed directly."""
    monkeypatch.setenv("CUPY_TF32", "1")
    monkeypatch.setattr(plan, "TINY", 2**10)
    forget()
    precision.set_float32_matmul_precision(name)
    for size, kernels in {
        4: ["conv_kernel", "conv_weight_kernel", "conv_input_kernel"],
        48: [f"gather_{math}_", f"weight_{math}_", f"gather_{math}_"],
    }.items():
        tiny.kernels.clear()
        with installed() as cupy:
            a, b = (cupy.zeros((size, size), "f") for _ in range(2))
            linalg.linear(a, b, None)
            linalg.linear_weight(a, b)
            linalg.matmul(a[None], b[None])
        products = [k for k in tiny.kernels if k.startswith(("gather", "weight", "conv"))]
        assert not tiny.cupy and len(products) == 3
        assert all(found.startswith(kernel) for found, kernel in zip(products, kernels, strict=True)), products


def test_the_switch_of_cupy_is_left_to_what_may_be_rounded(tiny, idle, monkeypatch):
    monkeypatch.setenv("CUPY_TF32", "1")
    monkeypatch.setattr(plan, "TINY", 2**20)
    forget()
    with installed() as cupy:
        a = cupy.zeros((4, 8), "d")
        linalg.linear(a, a, None)  # float64, which it does not concern
        precision.set_float32_matmul_precision("high")
        linalg.linear(a.astype("f"), a.astype("f"), None)
    assert tiny.cupy == ["linear", "linear"] and not tiny.kernels


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 48])
def test_strict_products_beside_the_switch_of_cupy(tiny, monkeypatch, size):
    monkeypatch.setenv("CUPY_TF32", "1")
    monkeypatch.setattr(plan, "TINY", 2**10)
    forget()
    x, w = (np.random.default_rng(i).standard_normal((size, size), np.float32) for i in range(2))
    with installed() as cupy:
        a, b = cupy.asarray(x), cupy.asarray(w)
        results = [linalg.linear(a, b, None), linalg.linear_weight(a, b), linalg.matmul(a[None], b[None])[0]]
    x, w = wide(x, w)
    for y, exact in zip(results, (x @ w.T, x.T @ w, x @ w), strict=True):
        assert abs(y.get() - exact).max() < 5e-7 * abs(exact).max()


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("size", [1, 40])
def test_a_captured_step_has_no_product_of_cublas(tiny, idle, monkeypatch, capability, size):
    """Neither a strict one nor one that is small, has few columns, or is on an old device; whole numbers never were."""
    monkeypatch.setattr(plan, "TINY", 2**12)
    forget()
    with installed() as cupy, capture.recording(capture.Recorder(cupy.asarray)), monkeypatch.context() as patch:
        patch.setattr(launch, "properties", lambda device: (capability, 40, 64 * 1024))
        for dtype in ("float32", "float64", "float16"):
            for name in precision.MATMUL_NAMES:
                precision.set_float32_matmul_precision(name)
                x, w, stack = map(cupy.asarray, whole(0, (size, 16), (12, 16), (3, 16, 2), dtype=dtype))
                linalg.linear(x, w, None)
                linalg.linear_weight(x[:, :8], x)
                assert linalg.matmul(x, stack).shape == (3, size, 2)
                linalg.contract(x, w, subscripts=("ij", "kj", "ik"))
        assert not tiny.cupy
        assert linalg.linear(x[:0], w, None).shape == (0, 12)
        linalg.linear(x.astype("int32"), w.astype("int32"), None)
    assert tiny.cupy == ["linear", "linear"]


def test_strict_products_of_a_captured_step(tiny):
    rng, exact = np.random.default_rng(0), np.longdouble
    x, w, b, g = (rng.standard_normal(s) for s in ((3, 21, 17), (18, 17), (18,), (3, 21, 18)))
    with installed() as cupy, capture.recording(capture.Recorder(cupy.asarray)):
        there = [cupy.asarray(a) for a in (x, w, b, g)]
        found = [linalg.linear(*there[:3]), linalg.linear_weight(there[3], there[0])]
        found.append(linalg.matmul(there[0], there[0].transpose(0, 2, 1)))
        found = [a.get() for a in found]
    wide = [a.astype(exact) for a in (x, w, b, g)]
    expected = [wide[0] @ wide[1].T + wide[2], np.einsum("tno,tni->oi", wide[3], wide[0])]
    expected.append(wide[0] @ wide[0].transpose(0, 2, 1))
    for a, e in zip(found, expected, strict=True):
        assert a.dtype == "float64" and abs(a - e).max() < 1e-14 * abs(e).max()
    assert not tiny.cupy and {k.split("_")[1] for k in tiny.kernels if k.startswith(("gather", "weight"))} == {"fma"}


def test_small_products_old_devices_and_empty_ones_are_cupys(tiny, monkeypatch):
    precision.set_float32_matmul_precision("high")
    x, w = whole(0, (9, 16), (12, 16))
    with installed() as cupy:
        x, w = cupy.asarray(x), cupy.asarray(w)
        assert linalg.linear(x[:0], w, None).shape == (0, 12)
        np.testing.assert_array_equal(linalg.linear_weight(x[:0], x[:0]).get(), np.zeros((16, 16)))
        with monkeypatch.context() as patch:
            patch.setattr(launch, "properties", lambda device: (75, 40, 64 * 1024))
            linalg.linear(x, w, None)
            patch.setenv("CUPY_TF32", "1")  # there is no TF32 either
            with precision.conv_precision("precise"):
                linalg.linear(x, w, None)
        monkeypatch.setattr(plan, "TINY", 9 * 16 * 12)
        forget()
        linalg.linear(x, w, None)
    assert tiny.cupy == ["linear", "linear_weight", "linear", "linear", "linear"] and not tiny.kernels


# ---- how it runs
def test_factors_are_read_as_they_lie(tiny, monkeypatch):
    """A step of a linear layer copies no factor: not x, and neither w nor the gradient in both of their products."""
    precision.set_float32_matmul_precision("high")
    operand, in_place = launch.operand, []

    def watched(name, array, *rest):
        in_place.append(array.flags.c_contiguous)
        return operand(name, array, *rest)

    monkeypatch.setattr(launch, "operand", watched)
    x, w, g = whole(0, (40, 16), (24, 16), (40, 24))
    with installed() as cupy:
        x, w, g = map(cupy.asarray, (x, w, g))
        y = linalg.linear(x, w, None)
        linalg.linear(g, w.T, None)
        linalg.linear_weight(g, x)
        linalg.matmul(x.T, y)  # as the gradient of matmul asks for it
    assert "channels_last_kernel" not in tiny.kernels and in_place == [True, True]
    assert sum(k.startswith("weight_") for k in tiny.kernels) == 2


def test_every_thread_order_gives_the_same_bits(tiny, monkeypatch):
    monkeypatch.setattr(plan, "LEAST_STEPS", 1)
    forget()
    precision.set_float32_matmul_precision("high")
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((70, 16), np.float32), rng.standard_normal((70, 24), np.float32)
    found = set()
    with installed() as cupy:
        for order in range(4):
            with thread_order(order):
                found.add(linalg.linear_weight(cupy.asarray(g), cupy.asarray(x)).get().tobytes())
    assert len(found) == 1 and "finish_weight_kernel" in tiny.kernels


def test_a_linear_layer_learns_on_the_device_as_on_the_cpu(tiny):
    """Forward, backward and a stack, through the engine; on the second device, without waiting."""
    minidl.set_float32_matmul_precision("high")
    x, w, b, s = whole(0, (5, 8, 16), (24, 16), (24,), (5, 24, 8))

    def step(device):
        leaves = [minidl.Tensor(to_device(a, device)).requires_grad_() for a in (x, w, b, s)]
        y = minidl.functional.linear(*leaves[:3])
        z = y @ leaves[3]
        z.sum().backward()
        return [y, z, *(leaf.grad for leaf in leaves)]

    expected = [t.numpy() for t in step("cpu")]
    tiny.cupy.clear()
    with installed() as cupy:
        cupy.waits.clear()
        results = step("cuda:1")
        assert not cupy.waits and not tiny.cupy
        assert {t.device for t in results} == {"cuda:1"}
        for found, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(found.numpy(), wanted)


def test_what_is_cupys_is_handed_on_as_it_is(tiny, monkeypatch):
    """No copy is made for a product that is not computed here."""
    with installed() as cupy:
        whole, w = cupy.zeros((5, 16, 8), "f"), cupy.zeros((12, 16), "f")
        x, given = whole.swapaxes(1, 2), []
        memory = cupy.get_default_memory_pool().used_bytes
        taken = memory()
        for name in ("matmul", "linear", "linear_weight"):
            monkeypatch.setattr(reference, name, lambda *arrays: given.append((arrays[0], memory())))
        linalg.linear(x, w, None)
        linalg.linear_weight(x, x)
        linalg.matmul(x, w.T)
        linalg.matmul(x, x.swapaxes(1, 2))
    assert [(a is x, used) for a, used in given] == [(True, taken)] * 4


def test_factors_of_two_devices_do_not_mix(tiny):
    precision.set_float32_matmul_precision("high")
    with installed() as cupy:
        x = cupy.zeros((9, 16), "f")
        with cupy.cuda.Device(1):
            w = cupy.zeros((12, 16), "f")
        with pytest.raises(ValueError, match="needs all arrays on one CUDA device: argument 0 on 0, argument 1 on 1"):
            linalg.linear(x, w, None)
