"""Running out of a device's memory, and having no device at all: what is said, and that nothing else changes."""

from __future__ import annotations

import builtins
import gc
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn, optim
from minidl.checking import cuda_host
from minidl.cli import main
from minidl.core import cuda

REASON = cuda_host.unavailable()
needs_kernels = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


@pytest.fixture
def full(cupy):
    """Leaves room for so many more bytes."""

    def limit(room: int) -> None:
        gc.collect()
        cupy.memory.limit = cupy.memory.used + room

    return limit


def check(error: minidl.OutOfMemoryError, operation: str, asked: int) -> None:
    words = str(error)
    assert error.operation == operation and words.startswith(f"{operation}: out of memory on cuda:0")
    assert error.asked == asked and error.used is not None and error.cached is not None
    for part in (cuda.size(asked), "in use", "cached", "smaller batch", "checkpoint()", "empty_cache()", "device"):
        assert part in words


def test_forward(full):
    x = minidl.ones(100, 100, device="cuda")
    full(30_000)
    with pytest.raises(minidl.OutOfMemoryError) as caught:
        x * 2
    check(caught.value, "mul", 40_000)
    assert isinstance(caught.value, MemoryError) and type(caught.value.__cause__).__name__ == "OutOfMemoryError"


def test_elementwise_of_the_graph(full):
    x = minidl.ones(100, 100, device="cuda", requires_grad=True)
    _ = x * 2  # the short way of small arrays is found
    del _
    full(30_000)
    with pytest.raises(minidl.OutOfMemoryError) as caught:
        x * 2
    check(caught.value, "mul", 40_000)


@needs_kernels
def test_kernels(full):
    x, w = minidl.ones(1, 2, 30, 30, device="cuda"), minidl.ones(5, 2, 3, 3, device="cuda")
    full(8000)
    with pytest.raises(minidl.OutOfMemoryError, match=r"^conv"):
        F.conv2d(x, w)


def test_backward(full):
    x = minidl.ones(100, 100, device="cuda", requires_grad=True)
    y = (x * x).sum()
    full(20_000)
    with pytest.raises(minidl.OutOfMemoryError, match=r"^the gradient of mul: out of memory"):
        y.backward()


def test_optimizer_transfer_and_creation(full):
    net = nn.Linear(100, 100, bias=False).to("cuda")
    net(minidl.ones(1, 100, device="cuda")).sum().backward()
    adam = optim.Adam(net.parameters())
    full(30_000)
    with pytest.raises(minidl.OutOfMemoryError, match=r"^Adam.step: out of memory"):
        adam.step()
    with pytest.raises(minidl.OutOfMemoryError, match=r"^to\('cuda'\): out of memory"):
        minidl.ones(100, 100).to("cuda")
    with pytest.raises(minidl.OutOfMemoryError, match=r"^zeros: out of memory"):
        minidl.zeros(100, 100, device="cuda")


def test_out_of_memory_in_a_run_ends_it_with_a_sentence(cupy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cupy.memory, "limit", cupy.memory.used + 500_000)
    words = ["train", "ae", "--fast-dev-run", "--device", "cuda", "--out", str(tmp_path / "run"), "--threads", "1"]
    assert main(words) != 0
    shown = capsys.readouterr().err
    assert "out of memory on cuda:0" in shown and "Traceback" not in shown


def test_statistics_and_giving_back(cupy):
    gc.collect()
    x = minidl.ones(1000, device="cuda")
    before = minidl.memory_stats("cuda")
    assert before["used"] >= 4000 and before["total"] == 2**30
    del x
    gc.collect()
    after = minidl.memory_stats("cuda:0")
    assert after["used"] == before["used"] - 4000 and after["cached"] >= 4000
    minidl.empty_cache()
    assert minidl.memory_stats("cuda:1")["cached"] == 0
    assert "peak" in minidl.memory_stats() or "used" in minidl.memory_stats("cpu")
    with pytest.raises(ValueError, match="'cpu', 'cuda' or 'cuda:N'"):
        minidl.memory_stats("gpu")
    with pytest.raises(ValueError, match="device is 'cuda:x': a CUDA device is 'cuda' or 'cuda:N'"):
        minidl.memory_stats("cuda:x")


# ---- without a device
def test_import_does_not_import_cupy():
    code = (
        "import sys, minidl, minidl.nn, minidl.optim, minidl.train, minidl.data, minidl.checking\n"
        "minidl.empty_cache(); minidl.memory_stats(); minidl.ones(2, requires_grad=True).sum().backward()\n"
        "assert not minidl.cuda.several_devices()\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'cupy', 'cupyx', 'cupy_backends'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def without_cupy(monkeypatch):
    """CuPy is not installed."""
    for name in [name for name in sys.modules if name.partition(".")[0] in ("cupy", "cupyx")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "cupy":
            raise ImportError("No module named 'cupy'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)


@pytest.mark.parametrize("driver", [True, False])
def test_without_cupy(without_cupy, monkeypatch, driver, tmp_path, capsys):
    monkeypatch.setattr(cuda, "driver_found", lambda: driver)
    with pytest.raises(RuntimeError) as caught:
        nn.Linear(2, 2).to("cuda")
    words = str(caught.value)
    assert "pip install 'minidl[cuda]'" in words and "minidl doctor" in words
    assert ("none was found" in words) is not driver
    assert not minidl.cuda.is_available() and minidl.cuda.device_count() == 0
    assert main(["train", "ae", "--device", "cuda", "--out", str(tmp_path / "run")]) != 0
    assert "pip install 'minidl[cuda]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("driver", [True, False])
def test_without_a_device(cupy, monkeypatch, driver):
    def refuse(*_: Any) -> int:
        raise cupy.cuda.runtime.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")

    monkeypatch.setattr(cuda, "driver_found", lambda: driver)
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceCount", refuse)
    monkeypatch.setattr(cupy.cuda, "Device", refuse)
    with pytest.raises(RuntimeError, match="the driver cannot be used" if driver else "no NVIDIA driver") as caught:
        minidl.ones(2).to("cuda")
    assert "cudaErrorInsufficientDriver" in str(caught.value) and "minidl doctor" in str(caught.value)
    assert not minidl.cuda.is_available()


def test_a_device_that_is_not_there(cupy):
    with pytest.raises(RuntimeError, match=r"'cuda:7' cannot be used: there are 2 devices, numbered from 0"):
        minidl.ones(2, device="cuda:7")
    for name in ("gpu", "cpu:0", "cuda:", "cuda:x"):
        with pytest.raises(ValueError, match="'cpu', 'cuda' or 'cuda:N'"):
            minidl.zeros(2, device=name)


def test_the_current_device(cupy):
    assert cuda.current_device() == 0
    cuda.set_device(1)
    assert minidl.ones(2, device="cuda").device == "cuda:1"
    cuda.set_device("cuda:0")
    assert minidl.ones(2, device="cuda").device == "cuda:0"
    cuda.synchronize()
    np.testing.assert_array_equal(minidl.arange(3, device="cuda").numpy(), [0, 1, 2])
    for name in ("cpu", "gpu", "cuda:", "cuda:-1", "cuda:x"):
        with pytest.raises(ValueError, match=f"device is '{name}': a CUDA device is 'cuda' or 'cuda:N'"):
            cuda.set_device(name)
