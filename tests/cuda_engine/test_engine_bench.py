"""`minidl bench --device cuda` up to the device: the workloads run on the stand-in for CuPy and compute what they
compute on the CPU, and time, memory and precision are asked for in the right places."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import minidl
from minidl.bench import command, devices, show, worker
from minidl.bench.case import Case, Work
from minidl.bench.duel import Result, Side
from minidl.bench.show import Ceiling
from minidl.bench.workloads import WORKLOADS
from minidl.checking import cuda_host
from minidl.kernels.precision import get_float32_matmul_precision, set_float32_matmul_precision

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from test_workloads import TINY

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
SMALL = {
    "c3d": TINY["c3d"] | {"batch": 1, "frames": 2, "width": 2},
    "convgru": TINY["convgru"] | {"channels": 2},
    "dcgan": TINY["dcgan"] | {"batch": 2, "size": 8, "width": 2},
    "conv-vae": TINY["conv-vae"] | {"batch": 2},
    "mlp-vae": TINY["mlp-vae"],
    "batch-norm": TINY["batch-norm"],
    "max-pool3d": TINY["max-pool3d"],
    "optimizers": TINY["optimizers"],
}


@pytest.fixture(autouse=True)
def _as_before():
    before = devices.now, get_float32_matmul_precision()
    yield
    devices.now = before[0]
    set_float32_matmul_precision(before[1])


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


@pytest.mark.parametrize("name", SMALL)
def test_workloads_compute_on_the_device_what_they_compute_on_the_cpu(cupy, name):
    place = worker.find(WORKLOADS[name].place)
    expected = {title: case(check=True) for title, case in place("minidl", **SMALL[name]).items()}
    devices.use("minidl", "cuda:1")
    for title, case in place("minidl", **SMALL[name]).items():
        run = case(check=True)
        assert math.isclose(run.value, expected[title].value, rel_tol=1e-3), title
        assert (run.flops, run.bytes) == (expected[title].flops, expected[title].bytes)
    assert devices.memory() == cupy.memory.used + cupy.memory.cached


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["c3d", "convgru", "dcgan", "conv-vae", "mlp-vae"])
def test_workloads_in_mixed_precision(cupy, name, precision):
    place = worker.find(WORKLOADS[name].place)
    expected = {title: case(check=True) for title, case in place("minidl", **SMALL[name]).items()}
    devices.use("minidl", "cuda:1", precision)
    for title, case in place("minidl", **SMALL[name]).items():
        with devices.computing():
            assert minidl.amp.get_autocast_dtype("cuda") == devices.LOW[precision]
        run = case(check=True)
        assert math.isclose(run.value, expected[title].value, rel_tol=devices.TOLERANCE[precision]), title
        assert precision == "fp16" or run.value != expected[title].value  # it did compute otherwise


@pytest.mark.parametrize("name", ["c3d", "convgru", "dcgan", "conv-vae", "mlp-vae"])
def test_captured_steps_of_workloads(cupy, name):
    """Each is captured, and is the same step."""
    place, found = worker.find(WORKLOADS[name].place), []
    for graphs in (False, True):
        minidl.manual_seed(0)
        devices.use("minidl", "cuda:1", graphs=graphs)
        cases = place("minidl", **SMALL[name])
        found.append([case(check=True).value for case in cases.values() for _ in range(6)])
        if graphs:
            assert all(case._work.step.captured for case in cases.values())
    np.testing.assert_allclose(found[1], found[0], rtol=1e-3)


def test_the_peers_steps_are_captured_as_its_documentation_has_it(monkeypatch):
    said: list[str] = []

    class Optimizer:
        param_groups = [{"capturable": False}, {}]

    class Stream:
        def wait_stream(self, other: Any) -> None:
            said.append("wait")

    @contextmanager
    def block(_: Any) -> Iterator[None]:
        said.append("begin")
        yield
        said.append("end")

    graph = SimpleNamespace(replay=lambda: said.append("replay"))
    cuda = SimpleNamespace(
        Stream=Stream, current_stream=Stream, stream=block, CUDAGraph=lambda: graph, graph=block,
        set_device=lambda name: None,
    )  # fmt: skip
    torch = SimpleNamespace(
        cuda=cuda, optim=SimpleNamespace(Optimizer=Optimizer), set_float32_matmul_precision=lambda name: None,
        backends=SimpleNamespace(cudnn=SimpleNamespace(benchmark=False, allow_tf32=None)),
    )  # fmt: skip
    monkeypatch.setattr(devices, "import_module", lambda name: torch)
    devices.use("torch", "cuda:0", graphs=True)
    optimizer, results = Optimizer(), iter(range(9))
    step = devices.captured(lambda: said.append("step") or next(results))
    assert [step() for _ in range(6)] == [0, 1, 2, 3, 3, 3]
    assert said == ["wait", "begin", "step", "end", "wait"] * 3 + ["begin", "step", "end"] + ["replay"] * 3
    assert optimizer.param_groups == [{"capturable": True}, {}]


def test_graphs_are_for_devices(capsys):
    assert command.run(["mlp-vae"], graphs="ours", against="none") == 2
    assert "--graphs is for CUDA devices" in capsys.readouterr().err


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_products_of_convolutions(cupy, device):
    devices.use("minidl", device)
    cases = worker.find("convolutions:cases")("minidl", batch=1, divide=32)
    titles = [t for t in cases if t.startswith(("C3D conv1", "C3D conv5"))]
    assert len(titles) == 5
    for title in titles:
        run = cases[title](check=True)
        assert run.value > 0 and run.flops > 0 and run.bytes > 0


def test_the_host_waits_at_the_ends_of_a_turn_only(cupy):
    devices.use("minidl", "cuda")
    x = minidl.ones(10, device="cuda")
    runs = []
    case = Case(lambda: Work(lambda: runs.append(x * 2)))
    case()
    cupy.waits.clear()
    answer = worker._turn("minidl", case, 0.01, False)
    assert len(runs) > 10 and 0 < answer["seconds"] < 0.01
    # one run to know how many fit, and then all of them: each begins and ends with a wait
    assert [line.partition(" at ")[0] for line in cupy.waits] == ["Device.synchronize", "Event.synchronize"] * 2


def test_precision_and_device_are_set_for_the_process(cupy):
    devices.use("minidl", "cuda:1", "tf32x3")
    assert get_float32_matmul_precision() == "tf32x3" and minidl.cuda.current_device() == 1
    devices.use("minidl", "cuda:0", "high")
    assert get_float32_matmul_precision() == "high" and minidl.cuda.current_device() == 0


@pytest.mark.parametrize(("precision", "tf32", "word"), [
    ("highest", False, "highest"), ("tf32x3", False, "highest"), ("high", True, "high"), ("medium", True, "medium"),
    ("bf16", True, "high"), ("fp16", True, "high"),
])  # fmt: skip
def test_the_peer_computes_with_the_same_precision_and_its_better_layout(monkeypatch, precision, tf32, word):
    said: dict[str, str] = {}
    torch = SimpleNamespace(
        cuda=SimpleNamespace(set_device=lambda name: said.update(device=name)),
        backends=SimpleNamespace(cudnn=SimpleNamespace(benchmark=False, allow_tf32=None)),
        set_float32_matmul_precision=lambda name: said.update(precision=name),
        autocast=lambda *at: at,
        bfloat16="bfloat16", float16="float16",
    )  # fmt: skip
    monkeypatch.setattr(devices, "import_module", lambda name: torch)
    devices.use("torch", "cuda:0", precision)
    assert said == {"device": "cuda:0", "precision": word}
    assert torch.backends.cudnn.benchmark and torch.backends.cudnn.allow_tf32 is tf32
    assert devices.layouts() == [False, True]
    low = {"medium": ("cuda", "bfloat16"), "bf16": ("cuda", "bfloat16"), "fp16": ("cuda", "float16")}.get(precision)
    assert devices.computing() == low if low else isinstance(devices.computing(), nullcontext)


def test_a_case_keeps_the_faster_layout(monkeypatch):
    made = []
    monkeypatch.setattr(devices, "layouts", lambda: [False, True])
    monkeypatch.setattr(devices, "timed", lambda step, runs=1: (step(), None))

    def prepare() -> Work:
        last = devices.now.channels_last
        made.append(last)
        return Work(lambda: 1.0 if last else 2.0)

    assert Case(prepare)().seconds == 1.0 and made == [False, True, True]


# ---- the command
def test_what_the_device_can_do_is_measured(cupy):
    devices.use("minidl", "cuda")
    cases = worker.find("ceiling:cases")("minidl", size=8, megabytes=1)
    product, copy = (cases[name](check=True) for name in ("product", "copy"))
    assert product.flops == 2 * 32**3 and copy.bytes == 8 * 2**20
    assert product.value is None


def test_options(cupy, capsys, monkeypatch):
    for options, words in (
        ({"device": "gpu"}, "it must be cpu, cuda or cuda:N"),
        ({"device": "cuda:9"}, "there are 2 devices"),
        ({"device": "cuda", "precision": ["exact"]}, "--precision is exact"),
        ({"precision": ["high"]}, "--precision is for CUDA devices"),
        ({"device": "cuda", "workloads": ["overhead"]}, "measured on the CPU only"),
    ):
        assert command.run(**options) == 2
        assert words in capsys.readouterr().err
    chosen = command.select([], "cuda")
    assert {"conv3d", "max-pool3d"} == chosen.keys() - command.select([]).keys()
    assert command._sizes(["size=56"], chosen, "cuda")["c3d"] == {"batch": 16, "size": 56}
    assert command._sizes(["batch=2"], chosen, "cuda")["c3d"] == {"batch": 2}
    assert "conv3d" in command.select(["all"], "cuda") and "overhead" not in command.select(["all"], "cuda")


def test_each_precision_has_its_ceiling_and_its_table(cupy, capsys, monkeypatch, tmp_path):
    asked = []

    def duel(place, *, name="", sizes=None, peer=None, threads=1, seconds=5.0, device="cpu", precision="highest", **_):
        asked.append((place, device, precision))
        side = Side(1e-3, 1.0, 2**20)
        if place == "ceiling:cases":
            yield Result("ceiling", "product", {}, side, flops=4e10)
            yield Result("ceiling", "copy", {}, side, bytes=3e9)
        else:
            yield Result(name, "step", sizes, side, precision=precision, flops=2e10, bytes=1e7)

    monkeypatch.setattr(command, "duel", duel)
    file = tmp_path / "a.json"
    assert command.run(["c3d"], against="none", device="cuda:1", precision=["highest", "high"], json=file) == 0
    assert asked == [
        ("ceiling:cases", "cuda:1", "highest"), ("c3d:cases", "cuda:1", "highest"),
        ("ceiling:cases", "cuda:1", "high"), ("c3d:cases", "cuda:1", "high"),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "stand-in for a GPU" in shown and "highest precision:" in shown and "high precision:" in shown
    assert "20.0 TFLOP/s, 50%" in shown
    assert '"device": "cuda:1"' in file.read_text()


def test_rates_stand_beside_the_peers_and_below_the_roofline():
    ours, theirs = Side(1e-3, 1.0, None), Side(2e-3, 1.0, None)
    result = Result("conv3d", "forward", {}, ours, theirs, 0.5, 0.4, 0.6, 3, flops=4e10, bytes=4e9)
    assert show.achieved(result, Ceiling(1e14, 8e12)) == "40.0 / 20.0 TFLOP/s, 50%"
