"""The moving average of weights against its definition."""

import numpy as np
import pytest

import minidl
from minidl import nn, optim


def net():
    minidl.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def moved(model, rng):
    for p in model.parameters():
        p.data[...] += rng.standard_normal(p.shape).astype(np.float32)
        p.mutated()


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_every_update_is_the_formula(decay):
    model, rng = net(), np.random.default_rng(0)
    average = optim.ExponentialMovingAverage(model, decay)
    expected = {name: p.numpy().astype(np.float64) for name, p in model.named_parameters()}
    for t in range(1, 20):
        moved(model, rng)
        average.update()
        d = min(decay, (1 + t) / (10 + t))
        for name, p in model.named_parameters():
            expected[name] = d * expected[name] + (1 - d) * p.numpy()
    assert average.updates == 19 and average.average.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(average.average[name], value, rtol=1e-4, atol=1e-5)
        assert average.average[name].dtype == np.float32


def test_inside_the_block_the_model_is_the_average_and_afterwards_itself_again():
    model = net()
    average = optim.ExponentialMovingAverage(model, 0.9)
    moved(model, np.random.default_rng(0))
    average.update()
    own = {name: p.numpy().copy() for name, p in model.named_parameters()}
    mean = {name: value.copy() for name, value in average.average.items()}
    arrays = {name: p.data for name, p in model.named_parameters()}

    def inside():
        with average.applied():
            for name, p in model.named_parameters():
                np.testing.assert_array_equal(p.numpy(), mean[name])
            raise KeyError  # also after an error

    with pytest.raises(KeyError):
        inside()
    for name, p in model.named_parameters():
        np.testing.assert_array_equal(p.numpy(), own[name])
        np.testing.assert_array_equal(average.average[name], mean[name])
        assert p.data is arrays[name]  # optimizers may hold on to it
    assert not any(np.array_equal(own[name], mean[name]) for name in ("0.weight", "1.bias"))


def test_a_graph_from_before_the_block_is_stale_inside():
    model = net().eval()
    x = minidl.ones(2, 3, requires_grad=True)
    loss = model(x).sum()
    with optim.ExponentialMovingAverage(model).applied(), pytest.raises(RuntimeError):
        loss.backward()


def test_buffers_stay_those_of_the_model():
    model = net()
    average = optim.ExponentialMovingAverage(model, 0.9)
    assert set(average.average) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    model.train()
    model(minidl.randn(8, 3))
    mean = model[1].running_mean.numpy().copy()
    with average.applied():
        np.testing.assert_array_equal(model[1].running_mean.numpy(), mean)


def test_a_state_goes_on_exactly():
    one, rng = net(), np.random.default_rng(0)
    first = optim.ExponentialMovingAverage(one, 0.9)
    moved(one, rng)
    first.update()
    state = first.state_dict()
    second = optim.ExponentialMovingAverage(one, 0.9)
    second.load_state_dict(state)
    moved(one, rng)
    first.update()
    second.update()
    assert first.updates == second.updates == 2
    assert state["updates"] == 1  # a copy
    for name, value in first.average.items():
        np.testing.assert_array_equal(second.average[name], value)


def test_a_state_of_another_model_is_refused_and_changes_nothing():
    average = optim.ExponentialMovingAverage(net())
    before = {name: value.copy() for name, value in average.average.items()}
    state = optim.ExponentialMovingAverage(nn.Sequential(nn.Linear(3, 5))).state_dict()
    with pytest.raises(ValueError, match=r"the average is of another model: it differs in 0\.bias, 0\.weight, 1\.bias"):
        average.load_state_dict(state)
    for name, value in before.items():
        np.testing.assert_array_equal(average.average[name], value)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_a_decay_that_makes_no_sense(decay):
    with pytest.raises(ValueError, match=f"decay is {decay}: it must be at least 0 and less than 1"):
        optim.ExponentialMovingAverage(net(), decay)
