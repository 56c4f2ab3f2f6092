"""The judge, and the demo of the variational autoencoder: its parts, and what its claims turn on."""

import numpy as np
import pytest
from demo_runs import RUNS

import minidl
from minidl import Tensor
from minidl.data import digits
from minidl.demos.judge import Judge
from minidl.demos.vae import NETS, VAEDemo, train
from minidl.metrics import accuracy, confident_share
from minidl.models.vae import MLPVAE

RUN = RUNS["vae"]

# ---- the judge


def test_judge_knows_digits_and_with_weight_decay_is_less_sure_of_noise():
    images, labels = digits("test").arrays
    noise = np.random.default_rng(0).uniform(size=(1000, 1, 8, 8))
    judge, naive = Judge(0), Judge(0, weight_decay=0)
    for one in (judge, naive):
        probabilities = one.probabilities(images)
        assert probabilities.shape == (500, 10)
        np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-5)
        assert accuracy(labels, one.classes(images)) >= 0.91  # 0.926 to 0.932 over three seeds
    assert confident_share(judge.probabilities(images)) >= 0.7
    # 0.10 to 0.17 with decay, 0.48 to 0.55 without, over three seeds
    assert confident_share(judge.probabilities(noise)) < 0.3 < confident_share(naive.probabilities(noise))


def test_judge_is_a_function_of_its_seed():
    images = digits("test").arrays[0][:50]
    first, again, other = (Judge(seed, quick=True).probabilities(images) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# ---- the parts


def test_the_plain_loss_has_no_noise_and_no_divergence():
    minidl.manual_seed(0)
    vae = MLPVAE((1, 8, 8), 20, 3)
    batch = digits("test").arrays[0][:20], None
    loss = NETS["plain10"][2]
    assert loss(vae, batch).item() == loss(vae, batch).item()
    pixels, target = vae.reconstruct(Tensor(batch[0])).detach().numpy().astype(np.float64), batch[0]
    entropy = -(target * np.log(pixels) + (1 - target) * np.log(1 - pixels)).sum((1, 2, 3)).mean()
    assert loss(vae, batch).item() == pytest.approx(entropy, rel=1e-5)
    bound = NETS["bernoulli10"][2]
    assert bound(vae, batch).item() != bound(vae, batch).item()  # another code each time


def test_training_is_a_function_of_its_arguments():
    first, again = (train("gaussian10", seed=3, steps=5) for _ in range(2))
    assert not first.training
    assert first.likelihood == "gaussian" and first.latent == 10
    for name, value in first.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), again.state_dict()[name].numpy())


# ---- the claims


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"bernoulli2_classes": 9}, [0]),
        ({"gaussian10_classes": 9}, [0]),
        ({"plain10_parzen": 0.0}, [1]),
        ({"pixels_parzen": 14.0}, [2]),
        ({"gaussian10_parzen": 9.0}, [2]),
        ({"plain10_confident": 0.3}, [3]),
        ({"noise_naive": 0.3}, [4]),
        ({"plain2_confident": 0.4}, [5]),
        ({"plain2_classes": 8}, [5]),
        ({"manifold_classes": 9}, [6]),
        ({"bernoulli10_elbo": -24.9}, [7]),
        ({"gaussian10_importance": 53.7}, [8]),
    ],
)
def test_each_claim_fails_when_its_numbers_do(changes, fails):
    checks = VAEDemo().check([RUN | changes, RUN | changes])
    assert [i for i, check in enumerate(checks) if not check.holds] == fails


def test_coverage_is_claimed_for_every_seed():
    assert not VAEDemo().check([RUN, RUN | {"bernoulli10_classes": 9}, RUN])[0].holds
