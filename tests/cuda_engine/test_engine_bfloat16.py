"""The engine on bfloat16 CUDA arrays: on the stand-in for CuPy, taught what CuPy's ufuncs do with the type, every row
of the table of samples gives what it gives on the CPU, and nothing waits. autocast and GradScaler on such a device."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import amp, nn, optim
from minidl.checking import cuda_host
from minidl.checking.sample import Sample
from minidl.checking.samples import table
from minidl.kernels import bfloat16 as kernels
from minidl.kernels.arrays import is_bfloat16, is_floating

sys.path.insert(0, str(Path(__file__).parents[1] / "amp"))
from narrow_samples import computed

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

LEFT_OUT = {row.name for row in table().values() if row.gradient == "none"}
LEFT_OUT |= {"astype", "transfer", "functional.batch_norm"} | {n for n in table() if "dropout" in n.lower()}
WAITING = {"functional.one_hot", "getitem", "scatter"}  # as in test_engine_samples.py


@pytest.fixture
def cupy(monkeypatch):
    with minidl.backend(None), cuda_host.installed() as library:
        # functions of CuPy without a loop for bfloat16: they compute in float32, or refuse it
        for name in ("where", "clip"):
            monkeypatch.setattr(library, name, in_float32(getattr(library, name)))
        for name in ("sort", "argsort", "einsum"):
            monkeypatch.setattr(library, name, refusing(name, getattr(library, name)))
        yield library


def in_float32(function):
    def call(*args, **kwargs):
        result = function(*args, **kwargs)
        return result.astype("float32") if is_bfloat16(result.dtype) else result

    return call


def refusing(name, function):
    def call(*args, **kwargs):
        if any(is_bfloat16(a.dtype) for a in args if hasattr(a, "strides")):
            raise TypeError(f"{name}: bfloat16 is not supported")
        return function(*args, **kwargs)

    return call


@pytest.mark.parametrize("row", [r for r in table().values() if r.name not in LEFT_OUT], ids=lambda r: r.name)
def test_samples(cupy, row: Sample):
    for case in row.cases()[:2]:  # shapes are a matter of test_engine_samples.py
        if any(getattr(getattr(v, "dtype", None), "kind", "") == "f" for v in case.params.values()):
            continue
        expected = [None if a is None else a.detach().numpy() for a in computed(row, case, "bfloat16")]
        cupy.waits.clear()
        found = computed(row, case, "bfloat16", "cuda:1")
        waited = list(cupy.waits)
        assert not waited or row.name in WAITING, waited
        for a, b in zip(found, expected, strict=True):
            if a is None or b is None:
                assert a is b
                continue
            assert a.device == "cuda:1" and a.dtype == b.dtype
            got = a.detach().numpy()
            if not is_floating(b.dtype):
                np.testing.assert_array_equal(got, b)
                continue
            # other kernels add up in another order, and may round an element of a sum of 8 bits the other way
            scale = max(1.0, np.abs(b.astype("f8")[np.isfinite(b)]).max(initial=0.0))
            np.testing.assert_allclose(got.astype("f8"), b.astype("f8"), rtol=0, atol=0.03 * scale)


def network() -> nn.Module:
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3)
    )


def trained(device: str, dtype: str, steps: int = 3) -> list[np.ndarray]:
    net = network().to(device)
    x = minidl.randn(6, 2, 6, 6)
    x, y = (minidl.as_tensor(a, device=device) for a in (x, minidl.tensor([0, 1, 2, 0, 1, 2])))
    optimizer, scaler = optim.Adam(net.parameters(), lr=0.01), amp.GradScaler(enabled=dtype == "float16")
    for _ in range(steps):
        with amp.autocast(device.partition(":")[0], dtype=dtype):
            out = net(x)
            loss = F.cross_entropy(out, y)
        assert out.dtype == dtype and loss.dtype == np.float32
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return [p.numpy() for p in net.parameters()]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_training_is_as_on_the_cpu(cupy, dtype):
    for a, b in zip(trained("cuda:1", dtype), trained("cpu", dtype), strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=0.07)  # three steps of 0.01, whose signs may differ near 0


def test_the_host_waits_once_in_a_step(cupy):
    trained("cuda:0", "bfloat16", 1)
    cupy.waits.clear()
    before = len(cupy.waits)
    trained("cuda:0", "bfloat16", 2)
    at_the_end = len(cupy.waits) - before  # the parameters are fetched
    cupy.waits.clear()
    trained("cuda:0", "float16", 2)
    assert len(cupy.waits) == at_the_end + 2
    assert sum("scaler.py" in line for line in cupy.waits) == 2


def test_an_overflow_skips_the_step(cupy):
    net = nn.Linear(2, 1, bias=False).to("cuda:1")
    p = net.weight
    optimizer, scaler = optim.SGD([p], lr=1.0), amp.GradScaler(init_scale=8.0)
    before = p.numpy()
    p.grad = minidl.tensor([[1.0, math.inf]], device="cuda:1")
    cupy.waits.clear()
    scaler.unscale_(optimizer)
    assert not cupy.waits
    scaler.step(optimizer)
    scaler.update()
    assert len(cupy.waits) == 1 and scaler.get_scale() == 4.0
    np.testing.assert_array_equal(p.numpy(), before)
    p.grad = minidl.tensor([[3e38, 3e38]], device="cuda:1")  # their float32 sum would be infinite
    scaler.step(optimizer)
    assert not scaler.overflowed(optimizer)


def test_autocast_is_for_its_kind_of_device(cupy):
    x = minidl.ones(8, 8)
    with amp.autocast("cuda", dtype="bfloat16"):
        assert (x @ x).dtype == np.float32 and (x.to("cuda") @ x.to("cuda")).dtype == minidl.bfloat16
    with amp.autocast("cpu"):
        assert (x @ x).dtype == minidl.bfloat16 and (x.to("cuda") @ x.to("cuda")).dtype == np.float32


def test_master_weights(cupy):
    found = {}
    for device in ("cpu", "cuda:1"):
        net = network().to(device).bfloat16()
        x, y = (minidl.as_tensor(a, device=device) for a in (minidl.randn(6, 2, 6, 6).bfloat16(), minidl.arange(6) % 3))
        optimizer = optim.AdamW(net.parameters(), lr=1e-3)
        average = optim.ExponentialMovingAverage(net, 0.9)
        for _ in range(3):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            cupy.waits.clear()
            optimizer.step()
            average.update()
            assert not cupy.waits
        with average.applied():
            pass
        found[device] = [minidl.Tensor(optimizer.state[p]["master"]).numpy() for p in net.parameters()]
        for p, master in zip(net.parameters(), found[device], strict=True):
            assert p.dtype == minidl.bfloat16 and master.dtype == np.float32
            np.testing.assert_array_equal(p.numpy(), master.astype(p.dtype))
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=7e-3)  # three steps of 0.001, whose signs may differ near 0


def stepped(captured: bool, scaled: bool = False) -> list[np.ndarray]:
    net = network().to("cuda")
    optimizer, scaler = optim.Adam(net.parameters(), lr=0.01), amp.GradScaler(enabled=scaled)

    def step(x: minidl.Tensor, y: minidl.Tensor) -> minidl.Tensor:
        with amp.autocast("cuda", dtype="bfloat16"):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        return loss

    x, y = minidl.randn(6, 2, 6, 6).to("cuda"), (minidl.arange(6) % 3).to("cuda")
    run = minidl.graphs.capture(step) if captured else step
    for _ in range(6):
        run(x, y)
    return [p.numpy() for p in net.parameters()]


def test_a_captured_step_is_the_step(cupy):
    for a, b in zip(stepped(True), stepped(False), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_graph_holds_no_copies_of_before(cupy):
    layer, x = nn.Linear(8, 8, bias=False).to("cuda"), minidl.ones(4, 8, device="cuda")
    with amp.autocast("cuda", dtype="bfloat16"):
        run = minidl.graphs.capture(layer)
        before = [run(x).float().numpy() for _ in range(5)][-1]
        assert run.captured
        layer.weight.data[...] = layer.weight.data * 2
        layer.weight.mutated()
        np.testing.assert_array_equal(run(x).float().numpy(), 2 * before)


def test_a_captured_step_sees_what_others_do_to_16_bit_parameters(cupy):
    found = []
    for captured in (False, True):
        layer = nn.Linear(8, 2, bias=False).to("cuda").bfloat16()
        layer.weight.data[...] = 1.0
        optimizer, x = optim.SGD(layer.parameters(), lr=1e-3), minidl.ones(1, 8, device="cuda", dtype="bfloat16")

        def step(x, layer=layer, optimizer=optimizer):
            optimizer.zero_grad()
            layer(x).sum().backward()
            optimizer.step()
            return x.sum()

        run = minidl.graphs.capture(step) if captured else step
        for i in range(8):
            run(x)
            if i == 5:
                layer.weight.data[0] = 3.0
                layer.weight.mutated()
        found.append(minidl.Tensor(optimizer.state[layer.weight]["master"]).numpy())
    np.testing.assert_array_equal(*found)
    np.testing.assert_allclose(found[0][:, 0], [3 - 2e-3, 1 - 8e-3], 1e-6)


def test_a_step_with_a_scaler_is_not_captured(cupy):
    with pytest.raises(RuntimeError, match="a step with a GradScaler cannot be captured"):
        stepped(True, scaled=True)


# ---- CuPy itself, which says without a device which loop it would take
UFUNCS = {
    "abs": "absolute", "add": "add", "ceil": "ceil", "cos": "cos", "div": "true_divide", "eq": "equal", "exp": "exp",
    "expm1": "expm1", "floor": "floor", "ge": "greater_equal", "gt": "greater", "isfinite": "isfinite",
    "isnan": "isnan", "le": "less_equal", "log": "log", "log1p": "log1p", "lt": "less", "maximum": "maximum",
    "minimum": "minimum", "mul": "multiply", "ne": "not_equal", "neg": "negative", "relu": "maximum", "round": "rint",
    "sign": "sign", "sin": "sin", "sqrt": "sqrt", "square": "multiply", "sub": "subtract", "tanh": "tanh",
}  # fmt: skip
BINARY = {
    "add", "equal", "greater", "greater_equal", "less", "less_equal", "maximum", "minimum", "multiply", "not_equal",
    "subtract", "true_divide",
}  # fmt: skip
OTHERWISE = {"amax", "amin", "positive_part", "sigmoid", "sum", "sum_to", "where"}  # no ufuncs, or bits, or float32


@pytest.fixture
def loops():
    """A function: what a ufunc of CuPy makes of arguments, dtypes or types of Python numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no toolkit, no device
        library = pytest.importorskip("cupy", reason="CuPy is not installed")

    def result(name: str, *arguments: object) -> np.dtype:
        ufunc = getattr(library, name)
        if not hasattr(getattr(ufunc, "_ops", None), "_guess_routine_from_in_types"):
            pytest.skip("this CuPy does not tell which loop it takes")
        weak = tuple(a if a in (int, float) else False for a in arguments)
        types = tuple(np.dtype(a) for a in arguments)
        return ufunc._ops._guess_routine_from_in_types(types, weak if any(weak) else None).out_types[0]

    return result


@pytest.mark.parametrize("row", sorted(UFUNCS))
def test_cupy_has_loops_over_it(loops, row):
    arguments = (minidl.bfloat16,) * (2 if UFUNCS[row] in BINARY else 1)
    assert loops(UFUNCS[row], *arguments) in (minidl.bfloat16, np.dtype("bool"))


def test_these_are_all_rows_that_need_them():
    assert set(UFUNCS) | OTHERWISE == kernels.LOOPS | kernels.ON_DEVICES


def test_what_cupy_makes_of_python_numbers(loops):
    assert loops("multiply", minidl.bfloat16, float) == np.float32  # so these go another way
    assert loops("multiply", minidl.bfloat16, int) == loops("maximum", minidl.bfloat16, int) == minidl.bfloat16
