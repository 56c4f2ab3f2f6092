"""A step of a task: parts of a batch, clipping, averages, both players of a GAN, and what is no number."""

import copy
import re

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.models.dcgan import DCGAN
from minidl.train import Adversarial, Minimize
from minidl.train.errors import NotFinite
from minidl.train.tasks import clip, first_not_finite, split


def net(*, norm=False):
    minidl.manual_seed(3)
    layers = [nn.Linear(3, 5), *([nn.BatchNorm1d(5)] if norm else []), nn.Tanh(), nn.Linear(5, 2)]
    return nn.Sequential(*layers).double()


def batch(count=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 3)), rng.standard_normal((count, 2))


def error(model, batch):
    return F.mse_loss(model(Tensor(batch[0])), Tensor(batch[1])), {"size": len(batch[0])}


def weights(model):
    return {name: np.array(value.numpy()) for name, value in model.state_dict().items()}


def minimize(model, **options):
    return Minimize(model, optim.SGD(model.parameters(), lr=0.1), error, **options)


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


# ---- parts of a batch


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 7, 9])
@pytest.mark.parametrize("clip_norm", [None, 0.01])
def test_the_gradients_of_the_parts_are_the_batchs(parts, clip_norm):
    """7 examples in 2, 3 or 5 parts: the parts differ in size, so a mean of their means would be something else."""
    whole, apart = net(), net()
    expected = minimize(whole, clip_norm=clip_norm).train_step(batch())
    numbers = minimize(apart, accumulate=parts, clip_norm=clip_norm).train_step(batch())
    assert numbers["loss"] == pytest.approx(expected["loss"], rel=1e-14)
    for name, value in weights(whole).items():
        np.testing.assert_allclose(weights(apart)[name], value, rtol=1e-13, atol=1e-15)
    assert not np.array_equal(weights(whole)["0.weight"], weights(net())["0.weight"])


def test_parts_are_in_order_nearly_equal_and_never_empty():
    for size in range(1, 9):
        for parts in range(1, 11):
            pieces = split((np.arange(size), np.arange(size) * 2), parts)
            assert len(pieces) == min(parts, size)
            np.testing.assert_array_equal(np.concatenate([p[0] for p in pieces]), np.arange(size))
            np.testing.assert_array_equal(np.concatenate([p[1] for p in pieces]), np.arange(size) * 2)
            sizes = [len(p[0]) for p in pieces]
            assert max(sizes) - min(sizes) <= 1


def test_numbers_are_means_over_examples():
    numbers = minimize(net(), accumulate=3).train_step(batch())
    assert numbers["size"] == pytest.approx((2 * 2 + 2 * 2 + 3 * 3) / 7)


# ---- clipping


def test_clipping_scales_all_gradients_by_one_factor():
    """Against the definition: min(1, most / norm) for the norm of everything as one vector."""
    free, clipped = net(), net()
    for model in (free, clipped):
        error(model, batch())[0].backward()
    flat = np.concatenate([p.grad.numpy().ravel() for p in free.parameters()])
    norm = float(np.sqrt((flat**2).sum()))
    assert clip(clipped, norm / 3) == pytest.approx(norm, rel=1e-12)
    after = np.concatenate([p.grad.numpy().ravel() for p in clipped.parameters()])
    np.testing.assert_allclose(after, flat / 3, rtol=1e-5)
    assert clip(free, norm * 3) == clip(free, None) == pytest.approx(norm, rel=1e-12)
    np.testing.assert_array_equal(np.concatenate([p.grad.numpy().ravel() for p in free.parameters()]), flat)


def test_the_reported_norm_is_the_one_before_clipping():
    numbers = minimize(net(), clip_norm=1e-3).train_step(batch())
    assert numbers["grad_norm"] > 0.1
    assert "grad_norm" not in minimize(net()).train_step(batch())


# ---- averages


def test_the_average_follows_each_step_and_is_what_is_judged():
    model = net()
    average = optim.ExponentialMovingAverage(model, 0.9)
    task = minimize(model, average=average)
    naive = {n: p.numpy().copy() for n, p in model.named_parameters()}
    for t in range(1, 6):
        task.train_step(batch(seed=t))
        d = min(0.9, (1 + t) / (10 + t))
        for name, p in model.named_parameters():
            naive[name] = d * naive[name] + (1 - d) * p.numpy()
    for name, value in naive.items():
        np.testing.assert_allclose(average.average[name], value, rtol=1e-12)
    before = weights(model)
    own = task.validation_step(batch())["loss"]
    with task.averaged():
        judged = task.validation_step(batch())["loss"]
        np.testing.assert_allclose(model[0].weight.numpy(), naive["0.weight"], rtol=1e-12)
    assert judged != own
    assert_equal(weights(model), before)
    assert set(task.parts) == {"optimizer", "average"}


# ---- what is no number


def broken(where):
    """A network and a batch whose loss is not finite, for a reason that can be named."""
    model, data = net(), batch()
    if where == "data":
        data[0][2, 1] = np.nan
    elif where == "parameter":
        model[2].bias.data[1] = np.inf
    else:
        data[0][...] = 1e200
        model[0].weight.data[...] = 1e200
    return model, data


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("data", "the batch itself is not finite: look at the data"),
        ("parameter", r"the parameter 2\.bias is not finite"),
        ("layer", r"the output of 0 \(Linear\) is the first that is not finite"),
    ],
)
def test_a_step_that_is_no_number_changes_nothing_and_says_where_it_began(where, words, accumulate):
    model, data = broken(where)
    if where == "layer":  # tanh would hide it
        model[1] = nn.Identity()
    average = optim.ExponentialMovingAverage(model, 0.5)
    task = minimize(model, accumulate=accumulate, average=average)
    before, state, mean = weights(model), copy.deepcopy(task.optimizer.state_dict()), copy.deepcopy(average.average)
    with np.errstate(all="ignore"), pytest.raises(NotFinite, match=r"the loss became (nan|inf)") as caught:
        task.train_step(data)
    assert_equal(weights(model), before)
    assert task.optimizer.state_dict() == state and average.updates == 0
    assert_equal(average.average, mean)
    assert re.search(words, caught.value.diagnosis())


def test_a_gradient_that_is_no_number_changes_nothing_either():
    """The square root of 0 is 0, but its slope is infinite: the loss alone does not tell."""
    model = net()
    model[2].weight.data[...] = 0
    model[2].bias.data[...] = 0

    def loss(model, batch):
        return (model(Tensor(batch[0])) ** 2).sqrt().sum()

    task = Minimize(model, optim.SGD(model.parameters(), lr=0.1), loss)
    before = weights(model)
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotFinite, match=r"norm of the gradients became .*: first that of 0\."),
    ):
        task.train_step(batch())
    assert_equal(weights(model), before)


def test_where_all_layers_are_finite_it_is_the_loss():
    model = net()
    assert first_not_finite(model, batch(), lambda: model(Tensor(batch()[0]))) == (
        "every layer's output is finite: look at the loss"
    )
    assert not any(module._forward_hooks for _, module in model.named_modules())


# ---- two players


def gan():
    minidl.manual_seed(0)
    return DCGAN(8, 1, 4, 2, base=2)


def players(model, lr=1e-3, **options):
    return Adversarial(
        model,
        optim.Adam(model.generator.parameters(), lr=lr),
        optim.Adam(model.discriminator.parameters(), lr=lr),
        lambda batch: Tensor(batch[0]),
        **options,
    )


def images(count=8, seed=0):
    return (np.random.default_rng(seed).uniform(-1, 1, (count, 1, 8, 8)).astype(np.float32),)


@pytest.mark.parametrize("still", ["generator", "discriminator"])
def test_each_optimizer_moves_its_own_player_only(still):
    model = gan()
    task = players(model)
    for group in getattr(task, f"{still}_optimizer").param_groups:
        group["lr"] = 0.0
    moving = {"generator": "discriminator", "discriminator": "generator"}[still]
    before = {name: [p.numpy().copy() for p in getattr(model, name).parameters()] for name in (still, moving)}
    model.train()
    numbers = task.train_step(images())
    for p, old in zip(getattr(model, still).parameters(), before[still], strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    assert any(
        (p.numpy() != old).any() for p, old in zip(getattr(model, moving).parameters(), before[moving], strict=True)
    )
    assert numbers.keys() == {"loss", "g_loss", "d_real", "d_fake", "d_grad", "g_grad"}
    assert 0 < numbers["d_real"] < 1 and 0 < numbers["d_fake"] < 1
    assert numbers["d_grad"] > 0 and numbers["g_grad"] > 0


def test_the_losses_of_two_players_that_know_nothing():
    """All scores 0: the discriminator loses 2 log 2, the generator log 2."""
    model = gan()
    model.discriminator_scores = lambda real: (Tensor(np.zeros(len(real))), Tensor(np.zeros(len(real))))
    numbers = players(model).validation_step(images())
    assert numbers == {"loss": pytest.approx(2 * np.log(2)), "d_real": 0.5, "d_fake": 0.5}


def test_judge_and_monitor_are_passed_on():
    task = players(gan(), judge=lambda: {"classes": 3.0}, monitor="val_classes")
    assert (task.after_validation(), task.monitor) == ({"classes": 3.0}, "val_classes")
    assert players(gan()).after_validation() == {}


def test_a_player_that_is_no_number_changes_nothing():
    model = gan()
    model.train()
    task = players(model)
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    bad = images()
    bad[0][0] = np.nan
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotFinite, match="the loss of the discriminator became nan") as caught,
    ):
        task.train_step(bad)
    assert caught.value.diagnosis() == "the batch itself is not finite: look at the data"
    assert_equal({name: p.numpy() for name, p in model.named_parameters()}, before)
