"""On a real device: training steps are those of the CPU, memory does not grow, streams and devices are respected, and
running out of memory is said in words."""

from __future__ import annotations

import copy
import gc

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn, optim

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]


def net() -> nn.Module:
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(8, 8, 3, 2, 1),
        nn.ReLU(), nn.Flatten(), nn.Linear(8 * 2 * 3 * 3, 5),
    )  # fmt: skip


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((4, 2, 8, 12, 12)), np.array([0, 4, 2, 1])


def step(model: nn.Module, optimizer: optim.Optimizer, x: minidl.Tensor, labels: minidl.Tensor) -> minidl.Tensor:
    loss = F.cross_entropy(model(x), labels)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Adagrad])
def test_training_is_that_of_the_cpu(kind):
    host = net().double()
    device = copy.deepcopy(host).to("cuda")
    for model in (host, device):
        optimizer = kind(model.parameters(), lr=1e-2)
        x, labels = (minidl.as_tensor(a, device=model[0].weight.device) for a in batch())
        for _ in range(3):
            loss = step(model, optimizer, x, labels)
        assert np.isfinite(loss.item())
    for name, value in device.state_dict().items():
        np.testing.assert_allclose(value.numpy(), host.state_dict()[name].numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def test_every_run_gives_the_same_bits():
    found = []
    for _ in range(5):
        model = net().to("cuda")
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        x, labels = (minidl.as_tensor(a, device="cuda") for a in batch())
        x = x.float()
        for _ in range(10):
            step(model, optimizer, x, labels)
        found.append(b"".join(p.detach().numpy().tobytes() for p in model.parameters()))
    assert len(set(found)) == 1


def test_memory_does_not_grow_over_a_thousand_steps():
    model = net().to("cuda")
    optimizer = optim.Adam(model.parameters())
    x, labels = (minidl.as_tensor(a, device="cuda") for a in batch())
    x = x.float()
    sizes = []
    for i in range(1000):
        step(model, optimizer, x, labels)
        if i in (10, 999):
            minidl.cuda.synchronize()
            gc.collect()
            sizes.append(minidl.memory_stats("cuda"))
    assert sizes[1]["used"] <= sizes[0]["used"] and sizes[1]["cached"] <= sizes[0]["cached"]


def test_steps_run_on_the_current_stream(cupy):
    host = net().double()
    device = copy.deepcopy(host).to("cuda")
    stream = cupy.cuda.Stream(non_blocking=True)
    for model in (host, device):
        optimizer = optim.SGD(model.parameters(), lr=0.1)
        x, labels = (minidl.as_tensor(a, device=model[0].weight.device) for a in batch())
        minidl.cuda.synchronize()
        if model is host:
            step(model, optimizer, x, labels)
        else:
            with stream:
                for _ in range(30):  # x is there late, but still x
                    x = minidl.tensor(x * 1.0)
                step(model, optimizer, x, labels)
            stream.synchronize()
    for name, value in device.state_dict().items():
        np.testing.assert_allclose(value.numpy(), host.state_dict()[name].numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def test_another_device_than_the_current_one():
    if minidl.cuda.device_count() < 2:
        pytest.skip("there is one CUDA device only")
    host = net().double()
    device = copy.deepcopy(host).to("cuda:1")
    for model in (host, device):
        x, labels = (minidl.as_tensor(a, device=model[0].weight.device) for a in batch())
        step(model, optim.Adam(model.parameters()), x, labels)
    assert minidl.cuda.current_device() == 0
    for name, value in device.state_dict().items():
        assert value.device == "cuda:1"
        np.testing.assert_allclose(value.numpy(), host.state_dict()[name].numpy(), rtol=1e-7, atol=1e-9, err_msg=name)


def test_out_of_memory_is_said_in_words():
    x = minidl.ones(2**14, 2**14, device="cuda")  # 1 GiB
    kept = []

    def fill() -> None:
        while True:
            kept.append(x * 2)

    with pytest.raises(minidl.OutOfMemoryError, match=r"^mul: out of memory on cuda:0") as caught:
        fill()
    assert caught.value.asked == 2**30 and caught.value.used > 2**30
    kept.clear()
    del caught
    gc.collect()
    minidl.empty_cache()
    assert (x * 2).sum().item() == 2**29  # the device is as good as before


def test_precision_changes_convolutions_as_much_as_it_says():
    x, w = minidl.randn(2, 64, 8, 14, 14, device="cuda"), minidl.randn(64, 64, 3, 3, 3, device="cuda")
    exact = F.conv3d(x.double(), w.double(), padding=1).numpy()
    before = minidl.get_float32_matmul_precision()
    try:
        for precision, bound in (("highest", 1e-5), ("tf32x3", 1e-5), ("high", 3e-3), ("medium", 3e-2)):
            minidl.set_float32_matmul_precision(precision)
            error = abs(F.conv3d(x, w, padding=1).numpy() - exact).max() / abs(exact).max()
            assert error < bound, precision
    finally:
        minidl.set_float32_matmul_precision(before)
