"""Adding at places on CUDA arrays, in the same order in every run; and `minidl gradcheck --backend cuda`, which runs
the kernels on the CPU where there is no device."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl.checking import cuda_host
from minidl.checking.command import run
from minidl.checking.cuda_host import nvrtc, thread_order
from minidl.cli import main
from minidl.kernels import arrays
from minidl.kernels.cuda import indexing, launch

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


@settings(max_examples=40)
@given(
    st.integers(1, 4), st.integers(0, 9), st.sampled_from(["float16", "float32", "float64", "int64"]),
    st.sampled_from(["rows", "places", "mixed"]), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_repetition_of_an_index_counts(rows, count, dtype, how, seed):
    rng = np.random.default_rng(seed)
    out = rng.integers(-4, 5, (rows, 3)).astype(dtype)
    i, j = rng.integers(-rows, rows, count), rng.integers(-3, 3, count)
    index = {"rows": i, "places": (i, j), "mixed": (slice(None), j[:, None])}[how]
    values = rng.integers(-4, 5, out[index].shape).astype(dtype)
    with cuda_host.installed() as library:
        device = library.asarray(out)
        where = tuple(map(library.asarray, index)) if how == "places" else index
        if how == "rows":
            where = library.asarray(index)
        if how == "mixed":
            where = (slice(None), library.asarray(j[:, None]))
        with thread_order(seed % 4):
            indexing.add_at(device, where, library.asarray(values))
        np.add.at(out, index, values)
        np.testing.assert_array_equal(device.get(), out)


def test_rounding_is_the_same_in_every_order_of_threads(cupy):
    rng = np.random.default_rng(0)
    place, values = rng.integers(0, 3, 600), rng.standard_normal(600).astype("float32")
    found = []
    for order in range(4):
        out = cupy.zeros(3, "float32")
        with thread_order(order):
            indexing.add_at(out, cupy.asarray(place), cupy.asarray(values))
        found.append(out.get().tobytes())
    in_order = np.zeros(3, "float32")
    np.add.at(in_order, place, values)
    assert set(found) == {in_order.tobytes()}


def test_gradients_of_picked_rows_do_not_use_atomic_operations(cupy, monkeypatch):
    monkeypatch.setattr(arrays, "add_at", None)  # CuPy's, which is not reproducible
    x = minidl.randn(5, 2, device="cuda", requires_grad=True)
    (x[[0, 3, 3]].sum() + minidl.gather(x, 0, minidl.tensor([[1, 1]], device="cuda")).sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy().sum(1), [2, 2, 0, 4, 0])


@pytest.mark.skipif(nvrtc.unavailable() is not None, reason=str(nvrtc.unavailable()))
@pytest.mark.parametrize("scalar", ["float", "double"])
def test_it_compiles_for_real_devices(scalar):
    used = nvrtc.usage(launch.source("indexing.cu"), "80", (f"-DScalar={scalar}",))["add_runs_kernel"]
    assert used.registers <= 64 and (used.stack, used.spill_stores, used.spill_loads) == (0, 0, 0)


# ---- minidl gradcheck
def test_kernels_of_the_column_are_checked_without_a_device(capsys):
    assert run(["conv", "max_pool", "avg_pool", "scatter*", "tanh"], 1, "cuda", fast=True) == 0
    shown = capsys.readouterr().out
    assert "compiled for the CPU (there is no device)" in shown
    assert re.search(r"7 rows: 6 ok, 1 skipped", shown), shown
    assert re.search(r"conv \(tiles\) .* ok", shown), shown


def test_both_algorithms_of_a_convolution_are_checked(monkeypatch, capsys):
    launched = []
    real = launch.load

    def load(file, *at, **how):
        launched.append(file)
        return real(file, *at, **how)

    load.cache_clear = real.cache_clear
    monkeypatch.setattr(launch, "load", load)
    assert run(["conv_weight"], 1, "cuda", fast=True) == 0
    assert "conv.cu" in launched and "conv_weight.cu" in launched


def test_a_wrong_kernel_is_found(capsys, monkeypatch):
    right = indexing.add_at

    def wrong(out, index, values):
        right(out, index, values * 2)

    monkeypatch.setattr(indexing, "add_at", wrong)
    assert main(["gradcheck", "--backend", "cuda", "--only", "scatter_add", "--order", "1"]) == 1
    assert "failed" in capsys.readouterr().out
