"""The DCGAN demo: its parts against gans that can be calculated, and what its claims turn on."""

import numpy as np
import pytest
from demo_runs import RUNS

from minidl import Tensor
from minidl.demos import dcgan
from minidl.demos.dcgan import LATENT, DCGANDemo, arithmetic, draw, walk

RUN = RUNS["dcgan"]


class Linear:
    """A generator whose images are known: pixel i is number i of the code, the others are 0."""

    def __call__(self, codes):
        images = np.zeros((len(codes), 64), np.float32)
        images[:, :LATENT] = codes.numpy()
        return Tensor(images.reshape(-1, 1, 8, 8))


class LargestPixel:
    """A judge for whom the class is the largest of the first ten pixels."""

    def probabilities(self, images):
        weights = np.exp(4 * images.reshape(len(images), -1)[:, :10])
        return weights / weights.sum(1, keepdims=True)

    def classes(self, images):
        return self.probabilities(images).argmax(1)


def test_draw_keeps_the_leading_axes_and_the_range():
    codes = np.random.default_rng(0).uniform(-1, 1, (3, 2, LATENT))
    images = draw(Linear(), codes)
    assert images.shape == (3, 2, 1, 8, 8)
    np.testing.assert_allclose(images.reshape(3, 2, 64)[..., :LATENT], (codes + 1) / 2, atol=1e-6)
    np.testing.assert_array_equal(images.reshape(3, 2, 64)[..., LATENT:], 0.5)


def test_arithmetic_works_where_classes_are_directions():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((6000, LATENT))
    found = arithmetic(Linear(), LargestPixel(), codes, rng)
    assert found["arithmetic"] > 0.9
    assert 0.01 < found["random"] < 0.1  # by chance
    assert found["means"] == 10


def test_arithmetic_does_not_work_where_the_judge_sees_no_classes():
    """A judge who decides by a pixel that no code reaches says the same of everything: a tenth of all is right."""

    class Same(LargestPixel):
        def probabilities(self, images):
            return np.tile(np.eye(10)[3], (len(images), 1))

    found = arithmetic(
        Linear(), Same(), np.random.default_rng(0).standard_normal((200, LATENT)), np.random.default_rng(1)
    )
    assert found["arithmetic"] == found["random"] == pytest.approx(0.1)
    assert found["means"] == 1


def test_walk_measures_steps_and_neighbours():
    """Between the codes e1 and e2 on a quarter circle: pixels are halved by the range, steps are equal."""
    codes = np.zeros((2, 1, LATENT))
    codes[0, 0, 0] = codes[1, 0, 1] = 1
    there = draw(Linear(), codes)
    found = walk(Linear(), codes, there[0])
    step = np.pi / 2 / (dcgan.INTERPOLATION_STEPS - 1)
    assert found["largest_step"] == pytest.approx(2 * np.sin(step / 2) / np.sqrt(2), rel=1e-5)
    assert found["midpoint"] == pytest.approx(np.sin(np.pi / 8), rel=1e-5)  # chord of 45 degrees, halved
    assert found["blend"] == pytest.approx(np.sqrt(2) / 4, rel=1e-5)


def test_training_is_a_function_of_the_seed():
    first, again, other = (dcgan.train(seed, 3).state_dict() for seed in (1, 1, 2))
    for name, value in first.items():
        np.testing.assert_array_equal(value.numpy(), again[name].numpy())
    name = "generator.project.1.weight"
    assert not np.array_equal(first[name].numpy(), other[name].numpy())
    assert int(first["discriminator.conv2.1.num_batches_tracked"].numpy()) == 2 * 3 + 3  # real, drawn; drawn again


@pytest.mark.parametrize(
    ("changes", "fails"),
    [
        ({}, []),
        ({"parzen": 9.3}, [0]),
        ({"parzen_pixels": 11.3}, [0]),
        ({"classes": 9}, [1]),
        ({"nearest": 0.0}, [2]),
        ({"arithmetic": 0.39}, [3]),
        ({"random": 0.25}, [4]),
    ],
)
def test_each_claim_fails_when_its_numbers_do(changes, fails):
    checks = DCGANDemo().check([RUN | changes, RUN | changes])
    assert [i for i, check in enumerate(checks) if not check.holds] == fails


def test_classes_and_copies_are_claimed_for_every_seed():
    checks = DCGANDemo().check([RUN, RUN | {"classes": 9, "nearest": 0.0}, RUN])
    assert [check.holds for check in checks[:4]] == [True, False, False, True]
