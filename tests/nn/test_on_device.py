"""Modules and optimizers on arrays that are not NumPy's: a stand-in for CuPy, which refuses any mixture of the two."""

import copy
import math

import numpy as np
import pytest

import minidl
from minidl import nn, optim
from minidl.checking.cuda_host import stand_in


@pytest.fixture
def cupy():
    with minidl.backend(None), stand_in.installed() as library:
        yield library


@pytest.mark.parametrize(("kind", "options"), [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    (optim.AdamW, {}),
    (optim.RMSprop, {"centered": True, "momentum": 0.5}),
    (optim.Adagrad, {"initial_accumulator_value": 0.1}),
])  # fmt: skip
def test_training_is_the_same_as_on_the_host(cupy, kind, options):
    host = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.Tanh(), nn.Linear(4, 2)).double()
    device = copy.deepcopy(host).to("cuda")
    optimizers = {net: kind(net.parameters(), **options) for net in (host, device)}
    x = minidl.randn(6, 3, dtype="float64")
    for _ in range(3):
        for net, optimizer in optimizers.items():
            optimizer.zero_grad()
            net(x.to(net[0].weight.device)).square().sum().backward()
            for p in (1, 2, math.inf):
                nn.utils.clip_grad_norm_(net.parameters(), 3 / p if p < 3 else 1, p)
            nn.utils.clip_grad_value_(net.parameters(), 0.3)
            optimizer.step()
    for key, value in device.state_dict().items():
        assert isinstance(value.data, cupy.ndarray)
        np.testing.assert_allclose(value.numpy(), host.state_dict()[key].numpy(), rtol=1e-7, atol=1e-10, err_msg=key)
    optimizers[device].load_state_dict(optimizers[host].state_dict())
    for state in optimizers[device].state.values():
        assert all(isinstance(v, cupy.ndarray) for k, v in state.items() if k != "step")


def test_states_cross_over(cupy):
    host, device = nn.BatchNorm1d(3), nn.BatchNorm1d(3, device="cuda")
    host(minidl.randn(5, 3))
    device.load_state_dict(host.state_dict())
    assert device.running_mean.device == "cuda:0" and int(device.num_batches_tracked) == 1
    device.reset_parameters()
    host.load_state_dict(device.state_dict())
    assert int(host.num_batches_tracked) == 0
    assert device.cpu().running_mean.device == "cpu"


@pytest.mark.parametrize("fill", [
    nn.init.orthogonal_, nn.init.trunc_normal_, nn.init.eye_, nn.init.kaiming_normal_, nn.init.ones_,
    lambda p: nn.init.sparse_(p, 0.5),
])  # fmt: skip
def test_a_seed_means_the_same_everywhere(cupy, fill):
    host, device = (nn.Parameter(minidl.zeros(3, 4, device=d)) for d in ("cpu", "cuda"))
    for p in (host, device):
        minidl.manual_seed(7)
        fill(p)
    assert device.device == "cuda:0"
    np.testing.assert_array_equal(host.numpy(), device.numpy())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector([device]) * 2, [device])
    np.testing.assert_array_equal(host.numpy() * 2, device.numpy())


def test_layers_without_parameters(cupy):
    x = minidl.randn(2, 3, 5)
    for layer in (
        nn.AdaptiveAvgPool1d(2),
        nn.AdaptiveAvgPool1d(1),
        nn.Upsample(scale_factor=2),
        nn.Flatten(),
        nn.GELU(),
    ):
        np.testing.assert_allclose(layer(x.to("cuda")).numpy(), layer(x).numpy(), rtol=1e-5, atol=1e-6)
    assert nn.Dropout()(x.to("cuda")).device == "cuda:0"
