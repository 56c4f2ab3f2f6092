"""Captured steps on the stand-in: the same bits as the step itself, in every replay; and what cannot be captured says
so.

There a captured stream computes nothing, and a replay repeats what it noted, on the same memory. Steps beside graphs
run with the kernels of a capture, since cuBLAS's products may differ in their last bits.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import graphs, nn, optim
from minidl.checking import cuda_host
from minidl.core import Tensor
from minidl.kernels import capture
from minidl.models.motion import ConvGRUClassifier
from minidl.models.vae import MLPVAE

REASON = cuda_host.unavailable()
needs_kernels = pytest.mark.skipif(REASON is not None, reason=str(REASON))


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


@contextmanager
def own_kernels(cupy: Any) -> Iterator[None]:
    """Products as in a captured step."""
    with capture.recording(capture.Recorder(cupy.asarray)):
        yield


def image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.MaxPool2d(2),
        nn.BatchNorm2d(4, momentum=None), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(), nn.Linear(24, 5),
    )  # fmt: skip


class Words(nn.Module):
    """Rows picked by index, many short steps, more than eight results put together."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(np.random.default_rng(0).standard_normal((11, 6)).astype("float32"))
        self.layer = nn.GRU(6, 4)
        self.out = nn.Linear(4, 5)

    def forward(self, words: Any) -> Any:
        y, _ = self.layer(self.table[words.data])
        parts = [minidl.cat([row.tanh(), row * 2], 0) for row in y]
        return self.out(F.dropout(minidl.stack(parts, 0), 0.2, self.training).mean(0)[: y.shape[1]])


class Again(nn.Module):
    """Half of it is computed again in the backward pass, with the same random numbers."""

    def __init__(self, again: bool = True) -> None:
        super().__init__()
        self.again = again
        self.first, self.second = nn.Sequential(nn.Flatten(), nn.Linear(40, 9), nn.Dropout(0.5)), nn.Linear(9, 5)

    def forward(self, x: Any) -> Any:
        return self.second(minidl.checkpoint(self.first, x) if self.again else self.first(x))


def classify(model: Any, x: Any, labels: Any) -> Any:
    return F.cross_entropy(model(x), labels)


def images(rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    return rng.standard_normal((3, 2, 5, 4)).astype("float32"), rng.integers(0, 5, 3)


NETWORKS: dict[str, tuple[Callable, Callable, Callable]] = {
    "layers": (image_net, images, classify),
    "words": (Words, lambda rng: (rng.integers(0, 11, (10, 3)), rng.integers(0, 5, 3)), classify),
    "checkpointed": (Again, images, classify),
    "VAE": (
        lambda: MLPVAE((1, 4, 4), 6, 2), lambda rng: (rng.random((3, 1, 4, 4)).round(),), lambda m, x: m.elbo(x)[0],
    ),
    "ConvGRU": (
        lambda: ConvGRUClassifier(4, 1),
        lambda rng: (rng.standard_normal((2, 1, 3, 8, 8)), rng.integers(0, 4, 2)), classify,
    ),
}  # fmt: skip
OPTIMIZERS: dict[str, Callable] = {
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "Adam": lambda p: optim.Adam(p, lr=0.01, weight_decay=0.01),
    "AdamW": lambda p: optim.AdamW(p, lr=0.01),
    "AMSGrad": lambda p: optim.Adam(p, lr=0.01, amsgrad=True, maximize=True),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.1),
}


def trained(
    cupy: Any, captured: bool, network: str, optimizer: str, steps: int = 8, device: str = "cuda", host: bool = False,
    dtype: str = "float32",
) -> tuple[list[bytes], Any]:  # fmt: skip
    """The bits of all losses, weights, buffers and the optimizer's state after some steps."""
    make, data, loss = NETWORKS[network]
    minidl.manual_seed(1)
    net = make().to(device, dtype)
    params = list(net.parameters())
    halves = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.03}]
    opt = OPTIMIZERS[optimizer](halves)
    average = optim.ExponentialMovingAverage(net, 0.9)
    schedule = optim.lr_scheduler.ExponentialLR(opt, 0.7)

    def step(*batch: Any) -> dict[str, Tensor]:
        opt.zero_grad()
        value = loss(net, *batch)
        value.backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
        average.update()
        return {"loss": value, "norm": norm}

    call = graphs.capture(step, device=device) if captured else step
    minidl.manual_seed(2)
    rng, bits = np.random.default_rng(0), []
    for i in range(steps):
        batch = [a.astype("float32") if a.dtype.kind == "f" else a for a in data(rng)]
        if not host or not captured:
            batch = [minidl.as_tensor(a, device=device) for a in batch]
            batch = [x.to(dtype) if x.is_floating_point() else x for x in batch]
        if captured:
            found = call(*batch)
        else:
            with own_kernels(cupy):
                found = call(*batch)
        bits += [x.numpy().tobytes() for x in found.values()]
        if i % 2:
            schedule.step()
    if captured:
        assert call.captured
    arrays = [p.data for p in net.state_dict().values()] + [p.grad.data for p in params] + [*average.average.values()]
    for state in opt.state_dict()["state"].values():
        arrays += [v for v in state.values() if hasattr(v, "strides")]
        bits.append(repr([v for v in state.values() if not hasattr(v, "strides")]).encode())
    return bits + [a.get().tobytes() for a in arrays], call


@needs_kernels
@pytest.mark.parametrize("network", [*list(NETWORKS)[:-1], pytest.param("ConvGRU", marks=pytest.mark.slow)])
def test_replays_are_the_steps_of_the_network_to_the_bit(cupy, network):
    expected, _ = trained(cupy, False, network, "Adam")
    found, step = trained(cupy, True, network, "Adam")
    assert found == expected and step.nbytes > 0


@needs_kernels
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replays_are_the_steps_of_the_optimizer_to_the_bit(cupy, optimizer):
    """With learning rates that a schedule changes, for groups of their own."""
    expected, _ = trained(cupy, False, "layers", optimizer, device="cuda:1")
    found, _ = trained(cupy, True, "layers", optimizer, device="cuda:1", host=True)
    assert found == expected


@needs_kernels
@pytest.mark.parametrize("optimizer", ["Adam", pytest.param("RMSprop", marks=pytest.mark.slow)])
def test_replays_with_master_weights(cupy, optimizer):
    pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes")
    expected, _ = trained(cupy, False, "words", optimizer, dtype="bfloat16")
    found, _ = trained(cupy, True, "words", optimizer, dtype="bfloat16")
    assert found == expected


@needs_kernels
def test_what_is_computed_again_in_a_replay_draws_the_same_numbers(cupy, monkeypatch):
    found = []
    for again in (False, True):
        monkeypatch.setitem(NETWORKS, "checkpointed", (lambda again=again: Again(again), images, classify))
        found.append(trained(cupy, True, "checkpointed", "SGD")[0])
    assert found[0] == found[1]


@needs_kernels
def test_a_replay_neither_waits_nor_sends_more_than_inputs_and_numbers(cupy):
    step = simple(cupy)[0]
    x = minidl.ones(3, 4, device="cuda")
    for _ in range(4):
        step(x)
    cupy.waits.clear()
    cupy.uploads.clear()
    for _ in range(5):
        step(x)
    assert not cupy.waits and len(cupy.uploads) == 5  # the learning rate


def simple(cupy: Any, **options: Any) -> tuple[Any, Any, Any]:
    """A captured step of a linear layer, the layer, and its optimizer."""
    minidl.manual_seed(0)
    net = nn.Linear(4, 2).to("cuda")
    opt = optim.SGD(net.parameters(), lr=0.1)

    def step(x: Tensor) -> Tensor:
        opt.zero_grad()
        loss = (net(x) ** 2).mean()
        loss.backward()
        opt.step()
        return loss

    return graphs.capture(step, **options), net, opt


@needs_kernels
def test_results_are_overwritten_and_clones_are_not(cupy):
    step = simple(cupy)[0]
    x = minidl.ones(3, 4, device="cuda")
    for _ in range(3):
        step(x)
    first = step(x)
    kept, value = first.clone(), first.item()
    second = step(x)
    assert second is first and first.item() < value and kept.item() == value


@needs_kernels
def test_example_inputs_warm_up_at_once(cupy):
    x = minidl.ones(3, 4, device="cuda")
    step, net, _ = simple(cupy)
    examples, twin, _ = simple(cupy)
    examples = graphs.capture(examples.step, x, warmup=2)
    assert examples.captured and not step.captured
    for _ in range(2):
        step(x)
    assert not step.captured
    assert (net.weight.numpy() == twin.weight.numpy()).all()  # two steps each, the capture is none
    assert step(x).item() == examples(x).item()


@needs_kernels
def test_graphs_that_saved_what_a_replay_changes_refuse_to_run_backward(cupy):
    step, net, _ = simple(cupy)
    x = minidl.ones(3, 4, device="cuda").requires_grad_()
    for _ in range(4):
        step(x.detach())
    y = net(x).sum()
    step(x.detach())
    with pytest.raises(RuntimeError, match=r"changed|written"):
        y.backward()


@needs_kernels
def test_loading_states_reaches_the_graph(cupy):
    """A network's and an optimizer's arrays stay where they are."""
    step, net, _ = simple(cupy)
    x = minidl.ones(3, 4, device="cuda")
    step(x)
    weights = {name: value.numpy().copy() for name, value in net.state_dict().items()}
    found = []
    for _ in range(2):
        net.load_state_dict(weights)
        found.append([step(x).item() for _ in range(5)])
    with own_kernels(cupy):
        net.load_state_dict(weights)
        assert found[1] == [step.step(x).item() for _ in range(5)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)


@needs_kernels
def test_an_optimizers_loaded_state_is_what_replays_go_on_from(cupy):
    def run(captured: bool) -> list[float]:
        minidl.manual_seed(0)
        net = nn.Linear(4, 2).to("cuda")
        opt = optim.Adam(net.parameters(), lr=0.1)

        def step(x: Tensor) -> Tensor:
            opt.zero_grad()
            loss = (net(x) ** 2).mean()
            loss.backward()
            opt.step()
            return loss

        call, x, losses, saved = graphs.capture(step), minidl.ones(3, 4, device="cuda"), [], None
        for i in range(12):
            if i == 5:
                state = opt.state_dict()["state"]
                copied = lambda s: {name: a.copy() if hasattr(a, "copy") else a for name, a in s.items()}
                saved = opt.state_dict() | {"state": {k: copied(s) for k, s in state.items()}}
            if i == 8:
                opt.load_state_dict(saved)
            if captured:
                losses.append(call(x).item())
            else:
                with own_kernels(cupy):
                    losses.append(step(x).item())
        return losses

    assert run(True) == run(False)


@needs_kernels
def test_memory_stays_with_the_graph_and_is_counted(cupy):
    gc.collect()
    before = minidl.memory_stats("cuda")["used"]
    step, net, opt = simple(cupy)
    x = minidl.ones(3, 4, device="cuda")
    for _ in range(4):
        step(x)
    gc.collect()
    used = minidl.memory_stats("cuda")["used"]
    for _ in range(5):
        step(x)
        others = [cupy.zeros(8) for _ in range(20)]  # they get other memory
        minidl.empty_cache()
    del others
    assert minidl.memory_stats("cuda")["used"] == used and 0 < step.nbytes < used
    del step, net, opt, x
    gc.collect()
    assert minidl.memory_stats("cuda")["used"] == before


@needs_kernels
def test_a_network_that_was_moved_has_to_be_captured_again(cupy):
    step, net, _ = simple(cupy)
    x = minidl.ones(3, 4, device="cuda")
    for _ in range(4):
        step(x)
    net.to("cpu")
    with pytest.raises(RuntimeError, match="moved or converted"):
        step(x)


def test_states_that_are_assigned_are_written_in_place(cupy):
    """And what was assigned in a replay is there in the next one."""
    total = minidl.zeros(3, device="cuda")

    def step(x: Tensor) -> Tensor:
        total.data = total.data + x.data
        return total * 2

    call, x = graphs.capture(step, warmup=1), minidl.ones(3, device="cuda")
    assert [call(x).numpy()[0] for _ in range(5)] == [2, 4, 6, 8, 10]
    assert total.numpy().tolist() == [5] * 3


def test_a_step_on_the_cpu_is_no_step_of_the_device(cupy):
    step = graphs.capture(lambda x: minidl.ones(3) * 2, warmup=1)
    step(minidl.ones(3, device="cuda"))
    with pytest.raises(graphs.CaptureError, match="on the CPU"):
        step(minidl.ones(3, device="cuda"))


@needs_kernels
def test_other_options_must_stay(cupy):
    step, _, opt = simple(cupy)
    x = minidl.ones(3, 4, device="cuda")
    for _ in range(5):
        step(x)
    opt.param_groups[0]["weight_decay"] = 0.5
    with pytest.raises(RuntimeError, match=r"weight_decay was 0 when the step was captured, and is 0\.5 now"):
        step(x)


# ---- what is refused
def hidden(name: str, cupy: Any) -> Callable:
    """A step that does what a graph cannot repeat."""
    weight = minidl.ones(3, device="cuda").requires_grad_()
    count: list[int] = []

    def accumulates(x: Tensor) -> Tensor:
        y = (weight * x).sum()
        y.backward()
        return y

    def differs(x: Tensor) -> Tensor:
        count.append(1)
        return x + minidl.randn(3 if len(count) < 2 else 6, device="cuda")[:3]

    def counts(x: Tensor) -> Tensor:
        count.append(1)
        return x + sum((minidl.randn(3, device="cuda") for _ in range(len(count))), start=x)

    def synchronizes(x: Tensor) -> Tensor:
        minidl.cuda.synchronize()
        return x

    def seeds(x: Tensor) -> Tensor:
        minidl.manual_seed(0)
        return x

    steps: dict[str, Callable] = {
        "seed": seeds,
        "item": lambda x: x * x.sum().item(),
        "print": lambda x: x * len(str(x)),
        "if": lambda x: x if (x > 0).all() else -x,
        "booleans": lambda x: x[(x > 0).data],
        "upload": lambda x: x + minidl.tensor([1.0, 2.0, 3.0], device="cuda"),
        "list": lambda x: x[[0, 2]],
        "cuBLAS": lambda x: Tensor(cupy.dot(x.data, x.data)),
        "synchronize": synchronizes,
        "gradients add up": accumulates,
        "other sizes": differs,
        "other work": counts,
        "a number": lambda x: (x, 3.0),
    }
    return steps[name]


@pytest.mark.parametrize(
    ("name", "words"),
    {
        "seed": "cannot set the random stream",
        "item": "asks the device for a number",
        "print": "asks the device for a number",
        "if": "asks the device for a number",
        "booleans": "asks the device for a number",
        "upload": "sends an array from the host",
        "list": "sends an array from the host",
        "cuBLAS": "own products can be captured",
        "synchronize": "asks the device for a number",
        "gradients add up": r"call optimizer\.zero_grad\(\) in the step",
        "other sizes": "was float32.*now it is|other work",
        "other work": "other work while it was captured",
        "a number": "returns a float",
    }.items(),
)
def test_what_cannot_be_captured_is_named(cupy, name, words):
    step = graphs.capture(hidden(name, cupy), warmup=1)
    x = minidl.ones(3, device="cuda")
    run = lambda: [step(x) for _ in range(3)]
    with pytest.raises(RuntimeError, match=words) as caught:
        run()
    assert isinstance(caught.value, graphs.CaptureError) or name == "other sizes"
    if name in ("item", "upload", "cuBLAS"):
        assert "test_engine_graphs.py" in str(caught.value) and caught.value.__cause__ is not None
    assert not capture.active() and not cupy.cuda.get_current_stream().is_capturing()
    y = (minidl.ones(3, device="cuda") + 1).sum()  # the device is as good as before
    assert y.item() == 6


def test_an_error_of_the_step_itself_comes_through_and_it_can_be_mended(cupy):
    wrong = [False, True]

    def step(x: Tensor) -> Tensor:
        if wrong and wrong.pop(0):
            raise KeyError("mine")
        return x * 2

    call, x = graphs.capture(step, warmup=1), minidl.ones(3, device="cuda")
    call(x)
    with pytest.raises(KeyError, match="mine"):
        call(x)
    assert [call(x * i).numpy()[0] for i in range(4)] == [0, 2, 4, 6] and call.captured


def test_inputs_are_checked(cupy):
    step = graphs.capture(lambda x, y: x + y, warmup=1)
    x, y = minidl.ones(3, device="cuda"), minidl.ones(3, device="cuda")
    step(x, y)
    for wrong, error, words in (
        ((x,), TypeError, "2 inputs, 1 were given"),
        ((x, minidl.ones(4, device="cuda")), ValueError, r"input 1 is float32\[4\].*float32\[3\].*drop_last=True"),
        ((x.double(), y), ValueError, "input 0 is float64"),
        ((x, 3), TypeError, r"input 1 is int; .*minidl\.tensor\(number\)"),
        ((x, minidl.ones(3, device="cuda:1")), ValueError, "input 1 is on cuda:1, the step runs on cuda:0"),
    ):
        for _ in range(2):
            with pytest.raises(error, match=words):
                step(*wrong)
    with pytest.raises(TypeError, match="device='cuda'"):
        graphs.capture(lambda: None)()
    with pytest.raises(ValueError, match="warmup is 0"):
        graphs.capture(lambda: None, warmup=0)


def test_a_captured_step_captures_no_other(cupy):
    inner = graphs.capture(lambda x: x * 2, warmup=1)
    outer = graphs.capture(lambda x: inner(x) + 1, warmup=1)
    with pytest.raises(RuntimeError, match="cannot capture another one"):
        outer(minidl.ones(3, device="cuda"))


def test_steps_without_inputs(cupy):
    x = minidl.ones(3, device="cuda")

    def step() -> Tensor:
        x.data = x.data * 2
        return x

    call = graphs.capture(step, warmup=1, device="cuda")
    assert [call().numpy()[0] for _ in range(4)] == [2, 4, 8, 16]


# ---- the stand-in
def test_the_stand_in_computes_nothing_while_it_is_captured(cupy):
    stream, x, y = cupy.cuda.Stream(non_blocking=True), cupy.ones(3), cupy.zeros(3)
    with pytest.raises(RuntimeError, match="default"):
        cupy.cuda.get_current_stream().begin_capture()
    with stream:
        stream.begin_capture()
        y += x
        z = y * 2
        y[0] = 7
        graph = stream.end_capture()
    assert y.get().tolist() == [0, 0, 0] and np.isnan(z.get()).all()
    for n in (1, 2):
        graph.launch()
        assert y.get().tolist() == [7, n, n] and z.get()[1] == 2 * n


def test_the_stand_in_notices_memory_that_is_no_longer_the_graphs(cupy):
    def captured(allocator: Any) -> tuple[Any, Any]:
        stream, x = cupy.cuda.Stream(non_blocking=True), cupy.ones(3)
        with stream, cupy.cuda.using_allocator(allocator):
            stream.begin_capture()
            y = (x + 1) * 2  # x + 1 is gone at once
            return stream.end_capture(), (x, y)

    graph, kept = captured(None)
    with pytest.raises(RuntimeError, match="given back"):
        graph.launch()
    pool = cupy.cuda.MemoryPool()
    graph, kept = captured(pool.malloc)
    graph.launch()
    assert kept[1].get().tolist() == [4, 4, 4]
    with cupy.cuda.using_allocator(pool.malloc):
        other = cupy.zeros(3)
    with pytest.raises(RuntimeError, match="another array"):
        graph.launch()
    del other, pool
    gc.collect()
    with pytest.raises(RuntimeError, match="given back"):
        graph.launch()


# ---- without a device
def test_on_the_cpu_the_step_is_called():
    calls = []

    def step(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return (x * y).sum()

    call = graphs.capture(step)
    assert [call(np.full(3, i, "float32"), minidl.ones(3)).item() for i in range(5)] == [0, 3, 6, 9, 12]
    assert len(calls) == 5 and not call.captured and call.nbytes == 0
    graphs.capture(step, minidl.ones(3), minidl.ones(3))
    assert len(calls) == 8  # as many steps as on a device
    with pytest.raises(graphs.CaptureError, match="returns a float"):
        graphs.capture(lambda x: x.sum().item())(minidl.ones(3))
