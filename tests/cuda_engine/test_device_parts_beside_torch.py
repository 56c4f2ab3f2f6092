"""What benchmarks/device.py measures, at tiny sizes on the stand-in for CuPy; its peer is PyTorch on the CPU."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minidl
from minidl.bench import device_parts as parts
from minidl.bench import devices
from minidl.bench.duel import Result, Side
from minidl.bench.worker import find
from minidl.bench.workloads import WORKLOADS
from minidl.checking import cuda_host
from minidl.kernels.cuda import plan, tuner
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.precision import get_float32_matmul_precision, set_float32_matmul_precision
from minidl.kernels.reference import conv as reference

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture(autouse=True)
def _as_before(monkeypatch, tmp_path):
    before = devices.now, get_float32_matmul_precision()
    monkeypatch.setattr(parts, "SPAN", 1e-4)
    monkeypatch.setattr(parts, "TURNS", 2)
    monkeypatch.setattr(parts, "CALLS", 4)
    monkeypatch.setattr(tuner, "cache_home", lambda: tmp_path)
    monkeypatch.setattr(tuner, "_mode", None)
    tuner.forget()
    yield
    devices.now = before[0]
    set_float32_matmul_precision(before[1])
    tuner.forget()


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


class OnCPU(parts.Peer):
    """PyTorch without a device: it gets copies of the arrays."""

    def tensor(self, array):
        return self.torch.from_numpy(array.get())


@pytest.fixture
def peer():
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
    return OnCPU("cpu")


SMALL = parts.Options(divide=64)


def test_layers_stand_beside_the_peer(cupy, peer, monkeypatch):
    monkeypatch.setattr(parts, "LAYERS", {"conv2": parts.LAYERS["C3D conv2"], "first": parts.LAYERS["DCGAN 3"]})
    monkeypatch.setattr(parts, "PRECISIONS", ("high",))
    rows = list(parts.layers("cuda", SMALL, peer))
    assert [(r["layer"], r["member"]) for r in rows] == [
        ("conv2", "conv"), ("conv2", "conv_input"), ("conv2", "conv_weight"), ("first", "conv"),
        ("first", "conv_weight"),
    ]  # fmt: skip
    for row in rows:
        assert "error" not in row, row
        assert set(row["us"]) == {"minidl", "cuDNN", "cuDNN channels last"} and row["ratio"] > 0
        assert math.isclose(*row["mean results"], rel_tol=1e-3)
        assert row["flops"] > 0 and row["bytes"] > 0 and row["kernel"] == "direct"
        assert row["their kernels"]["names"]


def test_a_wrong_result_is_told(cupy, peer, monkeypatch):
    monkeypatch.setattr(parts, "LAYERS", {"conv2": parts.LAYERS["C3D conv2"]})
    monkeypatch.setattr(parts, "PRECISIONS", ("highest",))
    product = peer.product

    def wrong(*arguments):
        step = product(*arguments)
        return lambda: 1.1 * step()

    monkeypatch.setattr(peer, "product", wrong)
    rows = list(parts.layers("cuda", SMALL, peer))
    assert all(row["error"].startswith("the libraries do not compute the same") for row in rows)


def test_a_failing_case_is_a_row(cupy, monkeypatch):
    monkeypatch.setattr(parts, "LAYERS", {"conv2": parts.LAYERS["C3D conv2"]})
    monkeypatch.setattr(parts, "PRECISIONS", ("highest",))

    def fails(*_, **__):
        raise RuntimeError("an illegal address")

    monkeypatch.setattr(parts.conv, "conv_weight", fails)
    first, second, third = parts.layers("cuda", SMALL, None)
    assert "error" not in first and "error" not in second and first["us"].keys() == {"minidl"}
    assert third["error"] == "RuntimeError: an illegal address" and third["case"].startswith("conv2, gradient of w")


@pytest.mark.parametrize("rank", [2, 3])
def test_the_peers_products_are_the_same(peer, rank):
    g = ConvGeometry.of((2, 3, *range(6, 6 + rank)), (4, 3, *(3,) * rank), 2, 1)
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(shape, np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    for member, given in (("conv", (x, w)), ("conv_input", (y, w)), ("conv_weight", (x, y))):
        for last in (False, True):
            theirs = peer.product(member, g, *(peer.laid_out(peer.torch.from_numpy(a), last) for a in (x, w, y)))()
            expected = getattr(reference, member)(*given, geometry=g)
            np.testing.assert_allclose(theirs.numpy(), expected, atol=1e-4)


def test_the_order_of_the_layers(monkeypatch):
    monkeypatch.setattr(parts, "_product", lambda *_: {})
    rows = list(parts.layers("cuda", SMALL, None))
    words = [(row["layer"].startswith("C3D"), row["precision"]) for row in rows]
    assert list(dict.fromkeys(words)) == [
        (True, "high"), (True, "bfloat16"), (True, "tf32x3"), (False, "high"), (True, "highest"),
        (False, "bfloat16"), (False, "tf32x3"), (False, "highest"),
    ]  # fmt: skip
    assert len(rows) == 4 * (3 * len(parts.LAYERS) - 2) == len({row["case"] for row in rows})


def test_kernels_are_compiled_and_failures_told(cupy, monkeypatch):
    names = [i.name for i in parts.plan.instances()] + [i.name for i in parts.hopper.instances()]
    loaded = []

    def load(file, name, options=(), device=0, text="", shared=0):
        loaded.append(name)
        if name == names[3]:
            raise RuntimeError("no such instruction")

    load.cache_clear = lambda: None
    monkeypatch.setattr(parts.launch, "load", load)
    failures = [failure for first in range(3) for failure in parts._compile("cuda:1", first, 3)]
    assert sorted(loaded) == sorted(names)
    assert failures == [f"{names[3]}: RuntimeError: no such instruction"]
    older = lambda device: (80, 108, 163 * 1024)
    older.cache_clear = lambda: None
    monkeypatch.setattr(parts.launch, "properties", older)
    loaded.clear()
    parts._compile("cuda", 0, 1)
    assert 0 < len(loaded) < len(names) and not any(name.startswith("hopper") for name in loaded)


def test_what_was_measured_comes_along(cupy, monkeypatch):
    """A layer that tiles compute: the row has the choice, the model's, and the times of all."""
    monkeypatch.setattr(plan, "TINY", 0)
    plan.gather.cache_clear()
    monkeypatch.setattr(tuner, "measure", lambda problem, found, *_: tuner.Entry("direct", {"direct": 3.5}, {}))
    minidl.set_autotune("measure")
    g = ConvGeometry.of((2, 4, 6, 6), (8, 4, 3, 3), 1, 1)
    row = parts._product("conv", g, "highest", "cuda", None)
    plan.gather.cache_clear()
    assert row["kernel"] == "direct" and "warps" in row["by model"]
    assert row["tuning"] == {"us": {"direct": 3.5}, "wrong": {}} and row["expected us"] > 0


def test_pooling_overhead_and_ceilings(cupy, peer):
    (row, *_) = pools = list(parts.pooling("cuda", parts.Options(divide=28), peer))
    assert len(pools) == 8 and not any("error" in r for r in pools)
    assert set(row["us"]) == {"minidl", "torch", "torch channels last"}
    assert row["bytes"] == 4 * 32 * 64 * (2 * 2 + 1) and pools[1]["bytes"] == 2 * row["bytes"]
    rows = list(parts.overhead("cuda", SMALL, peer))
    assert len(rows) == 6 and not any("error" in r for r in rows)
    assert set(rows[0]["us"]) == {"minidl", "torch"} and "CuPy's add" in rows[-1]["us"]
    *products, copy = parts.ceilings("cuda", SMALL, None)
    assert [r["precision"] for r in products] == ["highest", "high", "bf16", "fp16"] and copy["bytes"] == 8 * 2**20


def test_steps_are_duels(monkeypatch):
    asked = []

    def duel(place, **rest):
        asked.append((place, rest))
        if rest["name"] == "dcgan":
            raise parts.BenchError("the process has stopped")
        side = Side(1e-3, 1.0, None)
        yield Result(rest["name"], "training step", {}, side, side, 0.5, 0.4, 0.6, 3, 1e9, 1e6, rest["precision"])

    monkeypatch.setattr(parts, "duel", duel)
    rows = list(parts.steps("cuda", parts.Options(divide=4), parts.Peer))
    assert {place for place, _ in asked} == {"c3d:cases", "convgru:cases", "dcgan:cases", "vae:conv", "vae:mlp"}
    assert [r["precision"] for r in rows[:3]] == ["high", "bf16", "tf32x3"] and rows[0]["ratio"] == 0.5
    assert (
        rows[0]["us"] == {"minidl": 1e3, "torch": 1e3} and rows[3]["case"] == "convgru: training step, high, as a graph"
    )
    broken = [r for r in rows if "error" in r]
    assert len(broken) == 2 and all(r["error"] == "the process has stopped" for r in broken)
    first, fourth = asked[0][1], asked[3][1]
    assert first["only"] == ("training step",) and first["sizes"]["batch"] == 4 and first["sizes"]["frames"] == 4
    assert first["peer"] == "torch" and first["device"] == "cuda" and first["graphs"] == ()
    assert fourth["graphs"] == ("minidl",)
    for step in parts.STEPS:  # all of it exists
        assert step.precision in devices.PRECISIONS
        cases = find(WORKLOADS[step.workload].place)("minidl", **step.sizes)
        assert not step.cases or set(step.cases) <= set(cases)


def test_the_current_device_needs_not_be_set_for_the_peer(monkeypatch):
    """torch.cuda.set_device refuses a name without a number."""
    torch = pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
    before = torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    with pytest.raises(ValueError, match="index"):
        torch.cuda.set_device("cuda")
    try:
        devices.use("torch", "cuda", "high")
        assert torch.backends.cudnn.benchmark and torch.get_float32_matmul_precision() == "high"
    finally:
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])


def test_minidl_tunes_in_its_worker_only_and_if_it_may(cupy, monkeypatch):
    monkeypatch.setattr(tuner, "_mode", None)
    monkeypatch.delenv("MINIDL_AUTOTUNE", raising=False)
    devices.use("minidl", "cpu")
    devices.tune()
    assert minidl.get_autotune() == "remembered"
    devices.use("minidl", "cuda")
    devices.tune()
    assert minidl.get_autotune() == "measure"
    minidl.set_autotune("off")
    monkeypatch.setenv("MINIDL_AUTOTUNE", "off")
    devices.tune()
    assert minidl.get_autotune() == "off"
