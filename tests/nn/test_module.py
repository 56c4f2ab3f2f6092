"""Module: attributes, hooks, traversal, conversion, copies."""

import copy
import subprocess
import sys

import numpy as np
import pytest

import minidl
from minidl import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
        self.scale = nn.Parameter(np.ones(2, np.float32))
        self.register_buffer("seen", minidl.zeros(1))
        self.register_buffer("scratch", minidl.zeros(1), persistent=False)

    def forward(self, x):
        return self.second(self.first(x).relu()) * self.scale


NAMES = ["scale", "first.weight", "first.bias", "second.0.weight", "second.0.bias", "second.2.weight", "second.2.bias"]


def test_a_parameter_is_a_tensor_that_asks_for_gradients():
    p = nn.Parameter([1, 2.5])
    assert isinstance(p, minidl.Tensor) and p.requires_grad and p.is_leaf and p.dtype == "float32"
    array = np.zeros(3)
    assert nn.Parameter(array).data is array
    assert not nn.Parameter(array, requires_grad=False).requires_grad
    assert repr(p).startswith("Parameter containing:\ntensor([1. , 2.5], requires_grad=True")
    with pytest.raises(TypeError, match="int64"):
        nn.Parameter(np.zeros(3, np.int64))


def test_a_parameter_does_not_use_memory_that_cannot_be_written():
    fixed = np.broadcast_to(np.float32(1), (2, 3))
    p = nn.Parameter(fixed)
    p.data += 1
    np.testing.assert_array_equal(p.numpy(), np.full((2, 3), 2, np.float32))


def test_names():
    net = Net()
    assert [n for n, _ in net.named_parameters()] == NAMES
    assert [p.shape for p in net.parameters()] == [(2,), (4, 3), (4,), (4, 4), (4,), (2, 4), (2,)]
    assert [n for n, _ in net.named_parameters("net", recurse=False)] == ["net.scale"]
    assert [n for n, _ in net.named_buffers()] == ["seen", "scratch"]
    assert [n for n, _ in net.named_children()] == ["first", "second"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "second", "second.0", "second.1", "second.2"]
    assert list(net.modules())[1] is net.first and list(net.children())[1] is net.second
    assert net.get_submodule("second.2") is net.second[2] and net.get_submodule("") is net
    assert net.get_parameter("second.0.bias") is net.second[0].bias
    assert {"first", "scale", "seen"} <= set(dir(net))
    with pytest.raises(AttributeError, match="Sequential has no submodule '7'"):
        net.get_submodule("second.7")
    with pytest.raises(AttributeError, match="Linear has no parameter 'wait'"):
        net.get_parameter("first.wait")


def test_tied_parameters_count_once():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    assert len(list(net.parameters())) == 3
    assert len(list(net.named_parameters(remove_duplicate=False))) == 4
    assert list(net.state_dict()) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    twin = copy.deepcopy(net)
    assert twin[0].weight is twin[1].weight is not net[0].weight
    same = nn.Linear(2, 2)
    shared = nn.Sequential(same, same)
    assert len(list(shared.modules())) == 2 and len(list(shared.children())) == 1 and len(shared.state_dict()) == 4


def test_assignment_before_init():
    class Forgetful(nn.Module):
        def __init__(self, part):
            self.part = part

    for part in (nn.ReLU(), nn.Parameter([1.0]), nn.Buffer([1.0])):
        with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\) first in Forgetful.__init__"):
            Forgetful(part)
    forgetful = Forgetful(3)  # plain attributes are nobody's business
    with pytest.raises(AttributeError, match=r"has not called super\(\).__init__\(\)"):
        forgetful.missing  # noqa: B018


def test_assignment_keeps_kinds_apart():
    net = Net()
    with pytest.raises(TypeError, match=r"Net\.scale is a parameter: assign a Parameter or None, not a Tensor"):
        net.scale = minidl.ones(2)
    with pytest.raises(TypeError, match=r"Net\.first is a module: assign a Module or None, not a int"):
        net.first = 3
    with pytest.raises(TypeError, match=r"Net\.seen is a buffer: assign a Tensor or None, not a list"):
        net.seen = [1]
    net.seen = minidl.ones(1)
    assert "seen" in dict(net.named_buffers())
    net.scale = None
    assert net.scale is None and NAMES[1:] == [n for n, _ in net.named_parameters()]
    net.scale = nn.Parameter([2.0])
    assert "scale" in dict(net.named_parameters())
    net.first = nn.Parameter([1.0])  # one name, one thing
    assert "first" not in dict(net.named_children()) and "first" in dict(net.named_parameters())
    net.plain = 1
    net.plain = nn.Identity()
    assert "plain" in dict(net.named_children()) and "plain" not in vars(net)
    del net.plain
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'plain'"):
        net.plain  # noqa: B018
    net.kept = nn.Buffer([1.0])
    net.unkept = nn.Buffer([1.0], persistent=False)
    assert "kept" in net.state_dict() and "unkept" not in net.state_dict()
    assert copy.deepcopy(net.unkept).persistent is False


def test_registration_errors():
    net = Net()
    with pytest.raises(ValueError, match=r"needs a name without dots, not 'a\.b'"):
        net.register_parameter("a.b", None)
    with pytest.raises(KeyError, match="Net has an attribute 'forward' already"):
        net.register_buffer("forward", None)
    with pytest.raises(TypeError, match="parameter 'p' must be a Parameter or None, not a Tensor"):
        net.register_parameter("p", minidl.ones(1))
    with pytest.raises(TypeError, match="buffer 'b' must be a Tensor or None, not a list"):
        net.register_buffer("b", [1])
    with pytest.raises(TypeError, match=r"not the class ReLU \(write ReLU\(…\) to make one\)"):
        net.add_module("act", nn.ReLU)
    with pytest.raises(NotImplementedError, match=r"Module defines no forward\(\)"):
        nn.Module()(1)


def test_hooks():
    layer = nn.Linear(2, 2)
    x = minidl.randn(3, 2)
    plain = layer(x).numpy()
    calls = []
    handle = layer.register_forward_hook(lambda module, args, output: calls.append((module, args, output)))
    y = layer(x)
    assert calls[0][0] is layer and calls[0][1][0] is x and calls[0][2] is y
    with (
        layer.register_forward_pre_hook(lambda module, args: args[0] * 2),
        layer.register_forward_hook(lambda module, args, output: output + 1),
    ):
        expected = (2 * x.numpy()) @ layer.weight.numpy().T + layer.bias.numpy() + 1
        np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-6)
    assert len(calls) == 2
    handle.remove()
    handle.remove()
    np.testing.assert_array_equal(layer(x).numpy(), plain)
    assert len(calls) == 2


def test_modes_and_apply():
    net = Net()
    assert net.eval() is net and not any(m.training for m in net.modules())
    assert net.train().second[1].training
    order = []
    net.apply(lambda m: order.append(type(m).__name__))
    assert order == ["Linear", "Linear", "ReLU", "Linear", "Sequential", "Net"]


def test_zero_grad():
    net = Net()
    net(minidl.randn(5, 3)).sum().backward()
    gradient = net.scale.grad
    net.zero_grad(set_to_none=False)
    assert not any(p.grad.numpy().any() for p in net.parameters())
    assert gradient.numpy().all()  # a gradient at rest is never written
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_freezing_and_unfreezing():
    net = Net()
    x = minidl.randn(5, 3)
    net.first.requires_grad_(False)
    net(x).sum().backward()
    assert net.first.weight.grad is None and net.scale.grad is not None
    net.first.requires_grad_(True)
    net(x).sum().backward()
    assert net.first.weight.grad is not None


def test_conversion_keeps_the_parameters():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    params = list(net.parameters())
    net(minidl.randn(4, 2)).square().sum().backward()
    before = net.state_dict()
    assert net.double() is net
    assert all(a is b for a, b in zip(params, net.parameters(), strict=True))
    assert all(p.dtype == p.grad.dtype == "float64" for p in params)
    assert net[1].running_mean.dtype == "float64" and net[1].num_batches_tracked.dtype == "int64"
    assert before["0.weight"].dtype == "float32"
    net.zero_grad()
    x = minidl.randn(4, 2, dtype="float64")
    net(x).square().sum().backward()
    assert all(p.grad.dtype == "float64" for p in params)
    conversions = [
        (lambda: net.to(minidl.ones(1)), "float32"),
        (net.half, "float16"),
        (net.float, "float32"),
        (lambda: net.to("cpu", "float64"), "float64"),
        (lambda: net.cpu().to(dtype=float), "float32"),
    ]
    for convert, dtype in conversions:
        convert()
        assert {p.dtype.name for p in net.parameters()} == {dtype}
    with pytest.raises(TypeError, match="floating-point type, not to int64"):
        net.to("int64")


def test_an_older_graph_does_not_survive_a_conversion():
    layer = nn.Linear(2, 2)
    loss = layer(minidl.randn(3, 2, requires_grad=True)).sum()
    layer.double()
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_deepcopy_is_independent():
    net = Net().eval()
    net.first.bias.requires_grad_(False)
    twin = copy.deepcopy(net)
    assert type(twin.first.weight) is nn.Parameter and not twin.training
    assert twin.first.weight.requires_grad and not twin.first.bias.requires_grad
    for (name, a), (other, b) in zip(net.state_dict().items(), twin.state_dict().items(), strict=True):
        assert name == other and not np.shares_memory(a.data, b.data)
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    twin(minidl.randn(2, 3)).sum().backward()
    assert net.scale.grad is None and twin.scale.grad is not None


def test_repr_is_a_tree():
    assert repr(Net()) == (
        "Net(\n"
        "  (first): Linear(in_features=3, out_features=4, bias=True)\n"
        "  (second): Sequential(\n"
        "    (0): Linear(in_features=4, out_features=4, bias=True)\n"
        "    (1): ReLU()\n"
        "    (2): Linear(in_features=4, out_features=2, bias=True)\n"
        "  )\n"
        ")"
    )


def test_training_a_sequential_decreases_the_loss():
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = minidl.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = minidl.randn(64, 2)
    target = minidl.tensor(x.numpy()[:, :1] * x.numpy()[:, 1:])
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.MSELoss()(net(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]


def test_importing_is_light():
    code = "import sys, minidl.nn, minidl.optim; print({'numba', 'scipy', 'sklearn', 'cupy'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "set()"
