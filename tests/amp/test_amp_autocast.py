"""autocast: which operation computes in which type, what is kept of it, and that gradients come out right."""

from __future__ import annotations

import gc
import threading
import weakref

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import amp, nn, optim
from minidl.amp.autocast import FLOAT32, LOW
from minidl.core.mode import MODE, NORMAL
from minidl.core.primitive import Primitive

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

BF16 = minidl.bfloat16


@pytest.fixture(autouse=True)
def seed():
    minidl.manual_seed(0)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    )


def batch(dtype: str = "float32") -> tuple[minidl.Tensor, minidl.Tensor]:
    return minidl.randn(6, 2, 6, 6, dtype=dtype), minidl.randint(3, (6,))


def gradients(net: nn.Module) -> list[np.ndarray]:
    return [p.grad.numpy().copy() for p in net.parameters()]


# ---- the lists
LOW_CALLS = {
    "conv1d": lambda: F.conv1d(minidl.randn(1, 2, 5), minidl.randn(3, 2, 3), minidl.randn(3)),
    "conv2d": lambda: F.conv2d(minidl.randn(1, 2, 5, 5), minidl.randn(3, 2, 3, 3)),
    "conv3d": lambda: F.conv3d(minidl.randn(1, 2, 3, 5, 5), minidl.randn(3, 2, 3, 3, 3), activation="relu"),
    "conv_transpose2d": lambda: F.conv_transpose2d(minidl.randn(1, 2, 5, 5), minidl.randn(2, 3, 3, 3)),
    "linear": lambda: F.linear(minidl.randn(2, 3), minidl.randn(4, 3), minidl.randn(4)),
    "matmul": lambda: minidl.randn(2, 3) @ minidl.randn(3, 4),
    "bmm": lambda: minidl.bmm(minidl.randn(2, 2, 3), minidl.randn(2, 3, 4)),
    "einsum": lambda: minidl.einsum("ij,jk->ik", minidl.randn(2, 3), minidl.randn(3, 4)),
    "RNN": lambda: nn.RNN(3, 4)(minidl.randn(5, 2, 3))[0],
    "LSTM": lambda: nn.LSTM(3, 4)(minidl.randn(5, 2, 3))[0],
    "GRU": lambda: nn.GRU(3, 4)(minidl.randn(5, 2, 3))[0],
    "ConvGRU2d": lambda: nn.ConvGRU2d(2, 3, 3)(minidl.randn(4, 1, 2, 5, 5))[0],
}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", LOW_CALLS)
def test_products_compute_in_16_bits(name, dtype):
    minidl.manual_seed(1)
    expected = LOW_CALLS[name]()
    minidl.manual_seed(1)
    with amp.autocast("cpu", dtype=dtype):
        y = LOW_CALLS[name]()
    assert y.dtype == dtype and expected.dtype == np.float32
    np.testing.assert_allclose(y.detach().float().numpy(), expected.detach().numpy(), 0.05, 0.05)


WIDE_CALLS = {
    "exp": minidl.exp, "expm1": minidl.expm1, "log": lambda x: x.abs().log(), "log1p": lambda x: x.abs().log1p(),
    "pow": lambda x: x**2.0, "softplus": F.softplus, "sum": minidl.sum, "cumsum": lambda x: x.cumsum(0),
    "softmax": lambda x: x.softmax(0), "log_softmax": lambda x: x.log_softmax(0), "prod": lambda x: x.prod(),
    "logsumexp": lambda x: x.logsumexp(0), "norm": minidl.norm, "rsqrt": lambda x: x.abs().rsqrt(),
    "reciprocal": lambda x: x.reciprocal(), "mse_loss": lambda x: F.mse_loss(x, x * 2),
    "l1_loss": lambda x: F.l1_loss(x, x.float() * 2), "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, x * 2),
    "huber_loss": lambda x: F.huber_loss(x, x * 2), "kl_div": lambda x: F.kl_div(x, x.softmax(0)),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), x.sigmoid()),
    "bce_with_logits": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid(), pos_weight=minidl.ones(3)),
    "gaussian_nll_loss": lambda x: F.gaussian_nll_loss(x, x * 2, x.abs()),
    "cross_entropy": lambda x: F.cross_entropy(x[None], minidl.tensor([1]), weight=minidl.ones(3)),
    "soft cross_entropy": lambda x: F.cross_entropy(x[None], x[None].softmax(1), label_smoothing=0.1),
    "nll_loss": lambda x: F.nll_loss(x[None], minidl.tensor([1])),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE_CALLS)
def test_sums_functions_and_losses_compute_in_float32(name):
    x = minidl.tensor([0.5, -1.5, 2.0], dtype=BF16, requires_grad=True)
    with amp.autocast("cpu"):
        y = WIDE_CALLS[name](x)
        z = WIDE_CALLS[name](x.detach().float())
    assert y.dtype == z.dtype == np.float32
    y.sum().backward()
    assert x.grad.dtype == BF16
    if name not in ("bce", "bce_with_logits", "mse_loss", "smooth_l1_loss", "huber_loss", "gaussian_nll_loss"):
        np.testing.assert_allclose(y.detach().numpy(), z.numpy(), 1e-6)  # the others round within their arguments here


def test_everything_else_takes_what_comes():
    low, wide = minidl.tensor([0.5, 1.0], dtype=BF16), minidl.tensor([0.5, 1.0])
    with amp.autocast("cpu"):
        for y in (low * 2.5, low + low, low.tanh(), F.relu(low), low.mean(), low.max(), low.sigmoid(), low.sqrt()):
            assert y.dtype == BF16
        for y in (wide * low, low - wide, wide.tanh(), minidl.cat([low, wide]), minidl.where(wide > 0, low, wide)):
            assert y.dtype == np.float32
        assert (minidl.ones(2, dtype="float64") @ minidl.ones(2, dtype="float64")).dtype == np.float64
        assert minidl.arange(3).sum().dtype == np.int64


def test_float64_is_not_cast_and_does_not_mix():
    w = minidl.randn(3, 3, dtype="float64")
    with amp.autocast("cpu"):
        assert F.linear(w, w).dtype == np.float64
        with pytest.raises(TypeError, match="linear: input is float32 but weight is float64"):
            F.linear(minidl.randn(2, 3), w)


def test_the_lists_name_primitives():
    assert not LOW & FLOAT32
    assert set(Primitive.names) >= LOW | FLOAT32
    products = {
        n for n in Primitive.names if n.startswith(("conv", "linear", "matmul", "contract", "rnn", "lstm", "gru"))
    }
    # backward kernels run on bare arrays, which nothing casts
    assert {n for n in products - LOW if not n.endswith(("_backward", "_slope"))} == set()


def test_batch_norm_keeps_its_statistics_in_float32():
    plain, cast = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    x = minidl.randn(4, 3, 5, 5) * 3 + 100
    low = x.bfloat16()
    y = plain(low.float())
    with amp.autocast("cpu"):
        z = cast(low)
    assert z.dtype == BF16 and cast.running_mean.dtype == np.float32
    np.testing.assert_array_equal(cast.running_mean.numpy(), plain.running_mean.numpy())
    np.testing.assert_allclose(z.detach().float().numpy(), y.detach().numpy(), 2.0**-8, 1e-6)
    z.float().sum().backward()
    assert cast.weight.grad.dtype == np.float32


# ---- gradients
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_a_network(dtype):
    net, (x, y) = network(), batch()
    F.cross_entropy(net(x), y).backward()
    expected = gradients(net)
    net.zero_grad()
    with amp.autocast("cpu", dtype=dtype):
        out = net(x)
        loss = F.cross_entropy(out, y)
    loss.backward()
    assert out.dtype == dtype and loss.dtype == np.float32
    for p, wanted in zip(net.parameters(), expected, strict=True):
        assert p.grad.dtype == np.float32
        np.testing.assert_allclose(p.grad.numpy(), wanted, rtol=0, atol=0.06 * max(np.abs(wanted).max(), 0.1))


def test_same_types_as_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    import torch.nn.functional as TF

    rng = np.random.default_rng(0)
    x, w, v = (rng.standard_normal(s).astype("f4") for s in ((4, 3, 6, 6), (5, 3, 3, 3), (2, 80)))

    def run(lib, functional, autocast):
        a, k, m = (lib.tensor(t, requires_grad=True) for t in (x, w, v))
        with autocast:
            h = functional.conv2d(a, k)
            p = functional.max_pool2d(functional.relu(h), 2)
            q = functional.linear(p.reshape(4, -1)[:, :80] if p[0].numel() >= 80 else p.reshape(4, 20).repeat(1, 4), m)
            s = functional.softmax(q, 1)
            loss = functional.cross_entropy(q, lib.tensor([0, 1, 1, 0]))
        loss.backward()
        values = [t.detach() for t in (h, p, q, s, loss, a.grad, k.grad, m.grad)]
        return [str(t.dtype).removeprefix("torch.") for t in values], [np.asarray(t.float()) for t in values]

    ours = run(minidl, F, amp.autocast("cpu", dtype=BF16))
    theirs = run(torch, TF, torch.autocast("cpu", dtype=torch.bfloat16))
    # on the CPU PyTorch leaves softmax to promotion; on CUDA devices it is float32 there, as here
    assert [d for i, d in enumerate(ours[0]) if i != 3] == [d for i, d in enumerate(theirs[0]) if i != 3]
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.03 * np.abs(b).max())


def test_rules_run_outside(monkeypatch):
    seen = []
    x = minidl.randn(3, requires_grad=True)
    with amp.autocast("cpu"):
        y = x.exp().sum()
        x.register_hook(lambda g: seen.append(MODE.get().autocast))
        y.backward()
        assert amp.is_autocast_enabled("cpu")
    assert seen == [None]


def test_second_order_through_it():
    w = minidl.randn(3, 3, requires_grad=True)
    x = minidl.randn(2, 3, requires_grad=True)
    with amp.autocast("cpu"):
        y = (F.linear(x, w).tanh() ** 2).sum()
        (g,) = minidl.grad(y, [x], create_graph=True)
        (h,) = minidl.grad((g * g).sum(), [w])
    v = w.detach().requires_grad_()
    (g32,) = minidl.grad((F.linear(x, v).tanh() ** 2).sum(), [x], create_graph=True)
    (expected,) = minidl.grad((g32 * g32).sum(), [v])
    assert g.dtype == h.dtype == np.float32
    np.testing.assert_allclose(h.numpy(), expected.numpy(), rtol=0, atol=0.05 * np.abs(expected.numpy()).max())


@pytest.mark.parametrize("inside", [True, False])
def test_checkpoint_computes_again_in_the_same_types(inside):
    net, (x, y) = network().eval(), batch()
    with amp.autocast("cpu"):
        F.cross_entropy(net(x), y).backward()
        expected = gradients(net)
        net.zero_grad()
        net(x)  # copies of the parameters are there before
        loss = F.cross_entropy(minidl.checkpoint(net, x), y)
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    for a, b in zip(gradients(net), expected, strict=True):
        np.testing.assert_array_equal(a, b)


# ---- what is kept
def test_a_copy_is_made_once_and_used_by_all(monkeypatch):
    made = []
    original = Primitive.run

    def run(self, mode, kind, values, params):
        if self.name == "astype":
            made.append(values[0].shape)
        return original(self, mode, kind, values, params)

    monkeypatch.setattr(Primitive, "run", run)
    cell = nn.Linear(3, 3, bias=False)
    x = minidl.randn(2, 3, dtype=BF16)
    with amp.autocast("cpu"):
        for _ in range(4):
            x = cell(x)
        with minidl.no_grad():
            cell(x)
    assert made.count((3, 3)) == 1
    x.sum().backward()
    assert cell.weight.grad.dtype == np.float32
    made.clear()
    with amp.autocast("cpu", cache_enabled=False):
        for _ in range(4):
            cell(x.detach())
    assert made.count((3, 3)) == 4


def test_each_use_adds_its_gradient_in_float32():
    w = minidl.ones(1, 1, requires_grad=True)
    with amp.autocast("cpu"):
        y = sum(F.linear(minidl.full((1, 1), v), w) for v in (256.0, 1.0))
    y.sum().backward()
    assert w.grad.item() == 257.0  # bfloat16 has no 257


def test_a_copy_does_not_outlive_a_step():
    net, (x, y) = network(), batch()
    optimizer = optim.SGD(net.parameters(), lr=0.5)
    with amp.autocast("cpu"):
        for _ in range(2):
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        inside = F.cross_entropy(net(x), y)
        net[5].weight.data = net[5].weight.data * 2
        doubled = F.cross_entropy(net(x), y)
    with amp.autocast("cpu"):
        outside = F.cross_entropy(net(x), y)
    assert doubled.item() == outside.item() != inside.item()


def test_two_backward_passes_in_one_block():
    w = nn.Linear(3, 2)
    with amp.autocast("cpu"):
        for _ in range(2):
            w(minidl.ones(1, 3)).sum().backward()
    np.testing.assert_array_equal(w.weight.grad.numpy(), 2)


def test_no_graph_and_no_parameter_is_kept_alive():
    gc.disable()
    try:
        with amp.autocast("cpu"):
            layer, x = nn.Linear(3, 2), minidl.randn(1, 3)
            y = layer(x).tanh()
            array, result = weakref.ref(layer.weight.data), weakref.ref(y.data)
            copies = MODE.get().autocast.copies
            assert len(copies) == 2
            del y, x
            assert result() is None
            del layer
            assert array() is None and not copies
            kept = weakref.ref(copies)
            del copies
        assert kept() is None
    finally:
        gc.enable()


# ---- blocks
def test_blocks_nest_and_end():
    x = minidl.ones(2, 2)
    assert MODE.get() is NORMAL
    with amp.autocast("cpu", dtype="float16"):
        assert (x @ x).dtype == np.float16 and amp.get_autocast_dtype("cpu") == np.float16
        with amp.autocast("cpu", enabled=False):
            assert (x @ x).dtype == np.float32 and not amp.is_autocast_enabled("cpu")
            with amp.autocast("cpu"):
                assert (x @ x).dtype == BF16
        with amp.autocast("cuda", dtype=BF16):
            assert (x @ x).dtype == np.float16 and amp.is_autocast_enabled("cuda")
        assert not amp.is_autocast_enabled("cuda")
        with pytest.raises(ZeroDivisionError), amp.autocast("cpu"):
            raise ZeroDivisionError
        assert (x @ x).dtype == np.float16
    assert MODE.get() is NORMAL and (x @ x).dtype == np.float32
    with amp.autocast("cpu", enabled=False):
        assert MODE.get() is NORMAL


def test_decorator_and_other_threads():
    @amp.autocast("cpu")
    def product(x):
        return x @ x

    found = []
    x = minidl.ones(2, 2)
    with amp.autocast("cpu", dtype="float16"):
        thread = threading.Thread(target=lambda: found.append((x @ x).dtype))
        thread.start()
        thread.join()
    assert found == [np.dtype("float32")]
    assert product(x).dtype == product(x).dtype == BF16 and minidl.autocast is amp.autocast


def test_defaults_are_those_of_pytorch():
    assert amp.get_autocast_dtype("cpu") == BF16 and amp.get_autocast_dtype("cuda") == np.float16


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"device_type is 'gpu'; it must be 'cuda' or 'cpu'"):
        amp.autocast("gpu")
    with pytest.raises(ValueError, match=r"dtype is float32; it must be bfloat16 or float16"):
        amp.autocast("cpu", dtype="float32")


def test_bare_arrays_are_left_alone():
    x = np.ones((2, 2), np.float32)
    with amp.autocast("cpu"):
        assert F.linear(x, x).dtype == np.float32
