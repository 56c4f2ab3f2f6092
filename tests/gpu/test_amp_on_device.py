"""On a real device: bfloat16 through every row of the table of samples, what CuPy does with the type, training in mixed
precision, and scaled gradients."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import amp, nn, optim
from minidl.checking.sample import Sample
from minidl.checking.samples import table
from minidl.kernels import bfloat16 as kernels
from minidl.kernels.arrays import is_floating

sys.path.insert(0, str(Path(__file__).parents[1] / "amp"))
from narrow_samples import computed

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")
pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]

LEFT_OUT = {row.name for row in table().values() if row.gradient == "none"}
LEFT_OUT |= {"astype", "transfer", "functional.batch_norm"} | {n for n in table() if "dropout" in n.lower()}
ROWS = [row for row in table().values() if row.name not in LEFT_OUT]


# ---- what the engine relies on
@pytest.mark.parametrize("name", sorted(kernels.LOOPS | kernels.ON_DEVICES))
def test_rows_that_take_bfloat16_give_it(name, cupy):
    """If CuPy has no loop for one of these, it belongs out of kernels/bfloat16.py's sets: see what came instead."""
    row = table()[name]
    for case in row.cases()[:2]:
        args = [x.astype(minidl.bfloat16) if getattr(x, "dtype", None) == np.float64 else x for x in case.inputs]
        args = [cupy.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
        raw = row.fn.kernel(None, cupy.ndarray)
        results = raw(*args, **case.params)
        for y in results if isinstance(results, tuple) else (results,):
            assert y.dtype in (minidl.bfloat16, np.bool_), f"{name}: CuPy {cupy.__version__} gave {y.dtype}"


def test_sums_of_bfloat16_are_not_bfloat16(cupy):
    x = cupy.full(5000, 1, minidl.bfloat16)
    assert float(x.sum(dtype="float32")) == float(x.sum(dtype="float64")) == 5000
    assert float(cupy.full((3, 3), math.inf, minidl.bfloat16).sum(dtype="float64")) == math.inf


def test_the_host_and_the_device_exchange_it(cupy):
    x = np.array([1.5, -2.0, np.inf], minidl.bfloat16)
    y = cupy.asarray(x)
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y.get().astype("f4"), x.astype("f4"))
    np.testing.assert_array_equal(y.view("u2").get(), x.view("u2"))
    y[...] = cupy.asarray([0.5, 3e38, 1.001], "float32")
    np.testing.assert_array_equal(y.get(), np.array([0.5, 3e38, 1.001], "f4").astype(x.dtype))


# ---- every operation
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_samples(row: Sample):
    for case in row.cases()[:3]:
        if any(getattr(getattr(v, "dtype", None), "kind", "") == "f" for v in case.params.values()):
            continue
        for graph in (False, True):
            expected, found = (computed(row, case, "bfloat16", device, graph) for device in ("cpu", "cuda"))
            for a, b in zip(found, expected, strict=True):
                if a is None or b is None:
                    assert a is b
                    continue
                assert a.dtype == b.dtype
                got, wanted = (t.detach().numpy() for t in (a, b))
                if not is_floating(wanted.dtype):
                    np.testing.assert_array_equal(got, wanted)
                    continue
                got, wanted = got.astype("f8"), wanted.astype("f8")
                scale = max(1.0, np.abs(wanted[np.isfinite(wanted)]).max(initial=0.0))
                np.testing.assert_allclose(got, wanted, rtol=0, atol=0.03 * scale)


# ---- training
def network() -> nn.Module:
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 16, 3, padding=1), nn.BatchNorm3d(16), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(16, 32, 3, padding=1),
        nn.ReLU(), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(32 * 2 * 4 * 4, 10),
    )  # fmt: skip


def losses(dtype: str | None, steps: int = 20) -> list[float]:
    net = network().to("cuda")
    rng = np.random.default_rng(0)
    x = minidl.tensor(rng.standard_normal((8, 3, 8, 16, 16), dtype="f4"), device="cuda")
    y = minidl.tensor(rng.integers(10, size=8), device="cuda")
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    scaler, found = amp.GradScaler(enabled=dtype == "float16"), []
    for _ in range(steps):
        with amp.autocast("cuda", dtype=dtype or "float16", enabled=dtype is not None):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_learns_as_float32_does(dtype):
    low, wide = losses(dtype), losses(None)
    assert abs(low[0] - wide[0]) < 0.02 * wide[0]
    assert low[-1] < 0.3 * low[0] and wide[-1] < 0.3 * wide[0], (low, wide)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_run_gives_the_same_bits(dtype):
    assert losses(dtype) == losses(dtype)


def test_an_overflow_skips_the_step():
    net = nn.Linear(64, 8).to("cuda")
    before = net.weight.numpy()
    optimizer, scaler = optim.Adam(net.parameters()), amp.GradScaler(init_scale=2.0**40)
    with amp.autocast("cuda"):
        loss = (net(minidl.ones(4, 64, device="cuda")) ** 2).sum()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert scaler.overflowed(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**39
    np.testing.assert_array_equal(net.weight.numpy(), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_network_in_16_bits_with_master_weights(dtype):
    net = network().to("cuda").to(dtype)
    rng = np.random.default_rng(0)
    x = minidl.tensor(rng.standard_normal((8, 3, 8, 16, 16), dtype="f4"), device="cuda").to(dtype)
    y = minidl.tensor(rng.integers(10, size=8), device="cuda")
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    found = []
    for _ in range(30):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < 0.5 * found[0], found
    for p in net.parameters():
        master = optimizer.state[p]["master"]
        assert master.dtype == np.float32
        assert bool((master.astype(p.dtype) == p.data).all())
