"""On a real device: captured steps are the steps themselves, to the bit; they are quicker and need no more memory, and
what cannot be captured says so. Uploads arrive whole, beside other work."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import graphs, nn, optim
from minidl.core import Tensor, uploads
from minidl.data import ArrayDataset, DataLoader
from minidl.kernels import capture
from minidl.kernels.cuda import linalg
from minidl.models.motion import C3DMini, ConvGRUClassifier
from minidl.models.vae import MLPVAE

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("cupy")]


@contextmanager
def own_kernels(cupy: Any) -> Iterator[None]:
    """Products as in a captured step: cuBLAS's may differ in their last bits."""
    with capture.recording(capture.Recorder(cupy.asarray)):
        yield


class Words(nn.Module):
    """Rows picked by index (whose gradient sorts), recurrent layers, more than eight arrays put together."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(np.random.default_rng(0).standard_normal((50, 24)).astype("float32"))
        self.layers = nn.ModuleList([kind(24, 12, bidirectional=True) for kind in (nn.RNN, nn.GRU, nn.LSTM)])
        self.out = nn.Linear(24, 5)

    def forward(self, words: Any) -> Any:
        x = self.table[words.data]
        for layer in self.layers:
            x, _ = layer(x)
        return self.out(F.dropout(minidl.stack([row.tanh() for row in x], 0), 0.3, self.training).mean(0))


def image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(2),
        nn.Conv2d(32, 48, 3, 2, 1), nn.BatchNorm2d(48, momentum=None), nn.GELU(), nn.AdaptiveAvgPool2d((3, 2)),
        nn.Flatten(), nn.Linear(288, 64), nn.Linear(64, 5),
    )  # fmt: skip


def classify(model: Any, x: Any, labels: Any) -> Any:
    return F.cross_entropy(model(x), labels)


def labelled(*shape: int) -> Callable:
    return lambda rng: (rng.standard_normal(shape).astype("float32"), rng.integers(0, 5, shape[0]))


NETWORKS: dict[str, tuple[Callable, Callable, Callable]] = {
    "images": (image_net, labelled(8, 3, 20, 18), classify),
    "words": (Words, lambda rng: (rng.integers(0, 50, (20, 6)), rng.integers(0, 5, 6)), classify),
    "VAE": (
        lambda: MLPVAE((1, 28, 28), 64, 8), lambda rng: (rng.random((16, 1, 28, 28)).round().astype("float32"),),
        lambda m, x: m.elbo(x)[0],
    ),
    "video": (lambda: C3DMini(5, (1, 8, 16, 16)), labelled(4, 1, 8, 16, 16), classify),
    "ConvGRU": (lambda: ConvGRUClassifier(5, 1), labelled(4, 1, 4, 16, 16), classify),
}  # fmt: skip
OPTIMIZERS: dict[str, Callable] = {
    "momentum": lambda p: optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, lr=0.003),
    "AdamW": lambda p: optim.AdamW(p, lr=0.003),
    "AMSGrad": lambda p: optim.Adam(p, lr=0.003, amsgrad=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.001, centered=True, momentum=0.5),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.1),
}


def trained(cupy: Any, captured: bool, network: str, optimizer: str = "Adam", steps: int = 12) -> list[bytes]:
    make, data, loss = NETWORKS[network]
    minidl.manual_seed(1)
    net = make().float().to("cuda")
    opt = OPTIMIZERS[optimizer](net.parameters())
    average = optim.ExponentialMovingAverage(net, 0.9)
    schedule = optim.lr_scheduler.ExponentialLR(opt, 0.8)

    def step(*batch: Any) -> tuple[Tensor, Tensor]:
        opt.zero_grad()
        value = loss(net, *batch)
        value.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        average.update()
        return value, norm

    call = graphs.capture(step, device="cuda") if captured else step
    minidl.manual_seed(2)
    rng, bits = np.random.default_rng(0), []
    for i in range(steps):
        batch = data(rng)
        if captured:
            found = call(*batch)
        else:
            with own_kernels(cupy):
                found = call(*(minidl.as_tensor(a, device="cuda") for a in batch))
        bits += [x.numpy().tobytes() for x in found]
        if i % 3 == 2:
            schedule.step()
    arrays = [*net.state_dict().values(), *(p.grad for p in net.parameters())]
    return bits + [a.numpy().tobytes() for a in arrays] + [cupy.asnumpy(a).tobytes() for a in average.average.values()]


@pytest.mark.parametrize("network", NETWORKS)
def test_replays_are_the_steps_of_the_network_to_the_bit(cupy, network):
    assert trained(cupy, True, network) == trained(cupy, False, network)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replays_are_the_steps_of_the_optimizer_to_the_bit(cupy, optimizer):
    assert trained(cupy, True, "images", optimizer) == trained(cupy, False, "images", optimizer)


@pytest.mark.parametrize("precision", ["tf32x3", "high", "medium"])
def test_other_precisions_and_mixed_precision(cupy, precision):
    before = minidl.get_float32_matmul_precision()
    minidl.set_float32_matmul_precision(precision)
    try:
        assert trained(cupy, True, "images") == trained(cupy, False, "images")
    finally:
        minidl.set_float32_matmul_precision(before)


def test_autocast_in_a_captured_step():
    losses = []
    for captured in (False, True):
        minidl.manual_seed(0)
        net = image_net().to("cuda").eval()
        opt = optim.SGD(net.parameters(), lr=0.05)

        def step(x: Tensor, y: Tensor, net: Any = net, opt: Any = opt) -> Tensor:
            opt.zero_grad()
            with minidl.autocast("cuda", minidl.bfloat16):
                loss = classify(net, x, y)
            loss.backward()
            opt.step()
            return loss

        call = graphs.capture(step, device="cuda") if captured else step
        x, y = (minidl.as_tensor(a, device="cuda") for a in NETWORKS["images"][1](np.random.default_rng(0)))
        losses.append([call(x, y).item() for _ in range(10)])
    assert losses[1][-1] < losses[1][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 2e-6), ("float64", 1e-14)])
def test_own_strict_products_agree_with_numpy(cupy, dtype, bound):
    rng = np.random.default_rng(0)
    for n, k, m in ((1, 1, 1), (7, 300, 5), (128, 784, 400), (400, 128, 784), (1000, 33, 64)):
        x, w, b = (rng.standard_normal(s).astype(dtype) for s in ((n, k), (m, k), (m,)))
        exact = [a.astype("longdouble") for a in (x, w, b)]
        with own_kernels(cupy):
            there = [cupy.asarray(a) for a in (x, w, b)]
            found = linalg.linear(*there), linalg.matmul(there[0], there[1].T), linalg.linear_weight(there[0], there[0])
        expected = exact[0] @ exact[1].T + exact[2], exact[0] @ exact[1].T, exact[0].T @ exact[0]
        for a, e in zip(found, expected, strict=True):
            assert a.dtype == dtype and abs(cupy.asnumpy(a) - e).max() <= bound * abs(e).max(initial=1)


def test_memory_does_not_grow_over_a_thousand_replays():
    step, x = linear_step()
    for _ in range(10):
        step(x)
    minidl.cuda.synchronize()
    gc.collect()
    before = minidl.memory_stats("cuda")
    for _ in range(1000):
        step(x)
    minidl.cuda.synchronize()
    after = minidl.memory_stats("cuda")
    assert after["used"] == before["used"] and after["cached"] <= before["cached"]


def linear_step(layers: int = 1) -> tuple[Any, Tensor]:
    minidl.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(32, 32) for _ in range(layers))).to("cuda")
    opt = optim.Adam(net.parameters(), lr=1e-3)

    def step(x: Tensor) -> Tensor:
        opt.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    return graphs.capture(step), minidl.randn(16, 32, device="cuda")


def test_a_replay_is_quicker_than_a_step():
    step, x = linear_step(20)
    seconds = {}
    for name, call in (("captured", step), ("step", step.step)):
        for _ in range(10):
            call(x)
        minidl.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(100):
            call(x)
        minidl.cuda.synchronize()
        seconds[name] = time.perf_counter() - began
    print(f"us per step of 20 small layers: {', '.join(f'{n} {1e4 * s:.0f}' for n, s in seconds.items())}")
    assert seconds["captured"] < seconds["step"] / 2


def test_replays_on_another_stream(cupy):
    step, x = linear_step()
    stream = cupy.cuda.Stream(non_blocking=True)
    for _ in range(4):
        step(x)
    minidl.cuda.synchronize()
    with stream:
        losses = [step(x).clone() for _ in range(50)]
        values = [loss.item() for loss in losses]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "item": "asks the device for a number",
        "if": "asks the device for a number",
        "booleans": "asks the device for a number",
        "synchronize": "cannot be captured",
        "upload": "sends an array from the host",
        "list": "sends an array from the host",
        "cuBLAS": "own products can be captured",
        "gradients add up": r"call optimizer\.zero_grad\(\) in the step",
    }.items(),
)
def test_what_cannot_be_captured_is_named(cupy, name, words):
    weight = minidl.ones(3, device="cuda").requires_grad_()

    def synchronizes(x: Tensor) -> Tensor:
        minidl.cuda.synchronize()
        return x

    def accumulates(x: Tensor) -> Tensor:
        y = (weight * x).sum()
        y.backward()
        return y

    steps: dict[str, Callable] = {
        "item": lambda x: x * x.sum().item(),
        "if": lambda x: x if (x > 0).all() else -x,
        "booleans": lambda x: x[(x > 0).data],
        "synchronize": synchronizes,
        "upload": lambda x: x + minidl.tensor([1.0, 2.0, 3.0], device="cuda"),
        "list": lambda x: x[[0, 2]],
        "cuBLAS": lambda x: Tensor(cupy.dot(x.data, x.data)),
        "gradients add up": accumulates,
    }
    step, x = graphs.capture(steps[name], warmup=1), minidl.ones(3, device="cuda")
    step(x)
    with pytest.raises(graphs.CaptureError, match=words):
        step(x)
    assert (minidl.ones(3, device="cuda") + 1).sum().item() == 6  # the device is as good as before
    again, x = linear_step()
    for _ in range(5):
        loss = again(x)
    assert np.isfinite(loss.item())


# ---- uploads
def test_batches_arrive_whole_beside_work(cupy):
    """The device is busy with each batch while the next one travels, and memory of old ones is used again."""
    x = np.random.default_rng(0).standard_normal((200, 3, 64, 64)).astype("float32")
    loader, busy = DataLoader(ArrayDataset(x, np.arange(200)), 16), cupy.ones((2000, 2000))
    found = []
    for images, numbers in loader.on("cuda"):
        for _ in range(20):
            busy = cupy.sqrt(busy)
        found.append((images + 0 * busy[0, 0], numbers.copy()))
        del images, numbers
    for i, (images, numbers) in enumerate(found):
        np.testing.assert_array_equal(cupy.asnumpy(images), x[16 * i : 16 * i + 16])
        np.testing.assert_array_equal(cupy.asnumpy(numbers), np.arange(200)[16 * i : 16 * i + 16])


def test_epochs_need_no_more_memory(cupy):
    x = np.ones((64, 3, 64, 64), "float32")
    loader, sizes = DataLoader(ArrayDataset(x), 16), []
    for epoch in range(20):
        for (images,) in loader.on("cuda"):
            (images * 2).sum()
        if epoch in (2, 19):
            minidl.cuda.synchronize()
            sizes.append(cupy.get_default_memory_pool().total_bytes())
    assert sizes[0] == sizes[1]


def test_pinned_buffers_are_not_filled_before_they_were_read(cupy):
    staging, stream = uploads.Staging(), cupy.cuda.Stream(non_blocking=True)
    targets = [cupy.empty(2**20, "float32") for _ in range(5 * uploads.BUFFERS)]
    for i, target in enumerate(targets):
        staging.send(np.full(2**20, i, "float32"), target, stream)
    stream.synchronize()
    assert all(bool((t == i).all()) for i, t in enumerate(targets)) and len(staging._buffers) <= uploads.BUFFERS


def test_pinned_batches_go_without_waiting(cupy):
    x = np.random.default_rng(0).standard_normal((64, 1000)).astype("float32")
    found = []
    for (batch,) in DataLoader(ArrayDataset(x), 8, pin_memory=True):
        assert uploads.is_pinned(batch)
        found.append(minidl.as_tensor(batch).to("cuda", non_blocking=True))
        del batch
        gc.collect()
    np.testing.assert_array_equal(np.concatenate([t.numpy() for t in found]), x)


def test_a_copy_from_pinned_memory_is_not_slower(cupy):
    """A figure for the notes; the claim is weak, as machines differ."""
    x = np.ones(2**26, "float32")
    pinned, seconds = uploads.pinned(x), {}
    for name, array in (("ordinary", x), ("pinned", pinned)):
        minidl.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(5):
            minidl.as_tensor(array).to("cuda", non_blocking=True)
        minidl.cuda.synchronize()
        seconds[name] = time.perf_counter() - began
    print(f"GB/s to the device: {', '.join(f'{n} {5 * x.nbytes / s / 1e9:.1f}' for n, s in seconds.items())}")
    assert seconds["pinned"] < 1.2 * seconds["ordinary"]
