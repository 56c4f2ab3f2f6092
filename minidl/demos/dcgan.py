"""DCGAN: images from noise that are no copies, and arithmetic with what they are drawn from (`minidl demo dcgan`)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from statistics import fmean

import numpy as np

from minidl import Tensor, manual_seed, no_grad, optim

from ..data import digits
from ..metrics import (
    class_coverage,
    confident_share,
    gaussian_samples,
    nearest_neighbour_distance,
    parzen_log_likelihood,
)
from ..models.dcgan import DCGAN, interpolate, vector_arithmetic
from ..train.tasks import Adversarial
from .claims import Check, Demo, Run, spread
from .fit import batches
from .judge import Judge

LATENT = 20
WIDTH = 32
BATCH = 64
STEPS, QUICK_STEPS = 1500, 400
SAMPLES = 1297  # as many as there are training images
CODES = 6000  # from which the examples of each class are taken
EXAMPLES = 100  # of each class; half of them make its mean, half are moved
PAIRS = 200  # of codes between which images are drawn
INTERPOLATION_STEPS = 11

# Thresholds, and between which numbers seeds 0 to 5 were
OVER_PIXELS = 4.0  # nats of Parzen likelihood: 8.7 to 10.6
NEAREST = 0.2  # 0.52 to 0.64, of the nearest of 1297 samples; on average they are 1.35 to 1.38 away
ARITHMETIC = 0.4  # 0.86 to 0.88
OVER_RANDOM = 4  # 27 to 29


def train(seed: int, steps: int) -> DCGAN:
    """Both nets for 8 x 8 pixels, trained in turn on the digits, in evaluation mode.

    z 20 - 64x2x2 - 32x4x4 - 1x8x8, the discriminator its mirror. The learning rate is five times the paper's,
    which nets this small stand.
    """
    manual_seed(seed)
    gan = DCGAN(size=8, channels=1, latent=LATENT, width=WIDTH, base=2)
    adam = lambda player: optim.Adam(player.parameters(), lr=1e-3, betas=(0.5, 0.999))
    real = lambda batch: Tensor(2 * batch[0] - 1)
    game = Adversarial(gan, adam(gan.generator), adam(gan.discriminator), real)
    for batch in batches(digits("train"), steps, BATCH, seed):
        game.train_step(batch)
    return gan.eval()


def draw(gan: DCGAN, codes: np.ndarray) -> np.ndarray:
    """Codes (…, latent) -> images (…, 1, 8, 8), values 0..1."""
    with no_grad():
        images = gan(Tensor(codes.reshape(-1, LATENT).astype(np.float32))).numpy()
    return (images.reshape(*codes.shape[:-1], 1, 8, 8) + 1) / 2


def arithmetic(gan: DCGAN, judge: Judge, codes: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """How often "b - mean of b + mean of a" is judged a, over all pairs of classes: shares from 0 to 1.

    arithmetic: for codes b that had no part in the mean. random: as far in a random direction instead. means: how many
    of the ten mean codes give an image of their class.
    """
    probabilities = judge.probabilities(draw(gan, codes))
    # (10, EXAMPLES, latent): the codes whose images the judge is surest about
    examples = codes[np.argsort(-probabilities, 0)[:EXAMPLES].T]
    averaged, moved = examples[:, ::2], examples[:, 1::2]
    hits: list[float] = []
    chance: list[float] = []
    for a, b in permutations(range(10), 2):
        there = vector_arithmetic(moved[b], averaged[b], averaged[a])
        steps = rng.standard_normal(there.shape)
        steps *= np.linalg.norm(there - moved[b], axis=1, keepdims=True) / np.linalg.norm(steps, axis=1, keepdims=True)
        for found, target in ((hits, there), (chance, moved[b] + steps)):
            found.append(float(np.mean(judge.classes(draw(gan, target)) == a)))
    means = judge.classes(draw(gan, averaged.mean(1)))
    return {
        "arithmetic": float(np.mean(hits)),
        "random": float(np.mean(chance)),
        "means": int(np.sum(means == np.arange(10))),
    }


def walk(gan: DCGAN, codes: np.ndarray, train_images: np.ndarray) -> dict[str, float]:
    """On the way between two codes: codes (2, N, latent).

    largest_step: the longest of the steps between images, as a share of the distance from the first image to the last
    (a jump would be 1, equal steps on a line 0.1); midpoint, blend: the distance to the nearest training image of what
    is drawn half-way, and of the mean of both ends' pixels.
    """
    way = interpolate(Tensor(codes[0]), Tensor(codes[1]), INTERPOLATION_STEPS).numpy()
    images = draw(gan, way)
    distance = lambda a, b: np.sqrt(np.square(a - b).sum((-1, -2, -3)))
    steps = distance(images[1:], images[:-1]).max(0) / distance(images[-1], images[0])
    middle, blend = images[INTERPOLATION_STEPS // 2], (images[0] + images[-1]) / 2
    return {
        "largest_step": float(steps.mean()),
        "midpoint": float(nearest_neighbour_distance(middle, train_images).mean()),
        "blend": float(nearest_neighbour_distance(blend, train_images).mean()),
    }


class DCGANDemo(Demo):
    name = "dcgan"
    title = "DCGAN: samples, and arithmetic with codes"
    lecture = (
        "A generator made of transposed convolutions, trained against a discriminator, draws images from noise. Codes "
        "can be calculated with: smiling woman - woman + man gives a smiling man. CS231n (2016), lecture 14, after "
        "Radford, Metz and Chintala, 'Unsupervised Representation Learning with Deep Convolutional Generative "
        "Adversarial Networks' (ICLR 2016)."
    )
    caveat = (
        "8 x 8 digits, and classes in the place of smiles. The codes of each class are those whose images a classifier "
        "is surest about. Parzen windows measure roughly; their width is chosen on every second test image, the others "
        "are measured. That images change little by little between two codes is measured and not claimed: pixels "
        "blended half and half are hardly farther from real images."
    )

    def run(self, seed: int, quick: bool) -> Run:
        judge = Judge(1000 + seed, quick=quick)
        train_images, test_images = digits("train").arrays[0], digits("test").arrays[0]
        gan = train(seed, QUICK_STEPS if quick else STEPS)
        rng = np.random.default_rng(seed)
        images = draw(gan, gan.codes(SAMPLES).numpy())
        pixels = gaussian_samples(train_images, SAMPLES, rng).clip(0, 1)
        probabilities = judge.probabilities(images)
        nearest = nearest_neighbour_distance(images, train_images)

        def parzen(samples: np.ndarray) -> float:
            return parzen_log_likelihood(samples, test_images[::2], validation=test_images[1::2]).mean

        return {
            "parzen": parzen(images),
            "parzen_pixels": parzen(pixels),
            "parzen_train": parzen(train_images),
            "classes": class_coverage(probabilities),
            "confident": confident_share(probabilities),
            "nearest": float(nearest.min()),
            "distance": float(nearest.mean()),
            "distance_test": float(nearest_neighbour_distance(test_images, train_images).mean()),
            **arithmetic(gan, judge, gan.codes(CODES).numpy(), rng),
            **walk(gan, gan.codes(2 * PAIRS).numpy().reshape(2, PAIRS, LATENT), train_images),
        }

    def check(self, runs: Sequence[Run]) -> list[Check]:
        mean = {name: fmean(run[name] for run in runs) for name in runs[0]}
        fewest = min(run["classes"] for run in runs)
        nearest = min(run["nearest"] for run in runs)
        return [
            Check(
                f"Parzen log-likelihood of test images: over a Gaussian fitted to the pixels by {OVER_PIXELS:g} nats",
                f"DCGAN {spread(runs, 'parzen', 1)}, Gaussian {spread(runs, 'parzen_pixels', 1)} (the training "
                f"images themselves {spread(runs, 'parzen_train', 1)})",
                mean["parzen"] - mean["parzen_pixels"] >= OVER_PIXELS,
            ),
            Check(
                "samples show ten classes, each more than 2 % of them, with every seed",
                f"at least {fewest:.0f} of 10; the judge is sure (> 0.9) of {spread(runs, 'confident', 2)}",
                fewest == 10,
            ),
            Check(
                f"no sample is a copy: each at least {NEAREST} from all training images",
                f"nearest {nearest:.2f}, mean {spread(runs, 'distance', 2)} (test images "
                f"{spread(runs, 'distance_test', 2)})",
                nearest >= NEAREST,
            ),
            Check(
                f"code of b - mean of b + mean of a gives an image of class a: share at least {ARITHMETIC}",
                f"{spread(runs, 'arithmetic', 2)}; the mean code of a class gives the class in "
                f"{spread(runs, 'means', 1)} of 10",
                mean["arithmetic"] >= ARITHMETIC,
            ),
            Check(
                f"… at least {OVER_RANDOM} times as often as a step of the same length in a random direction",
                f"random {spread(runs, 'random', 3)}",
                mean["arithmetic"] >= OVER_RANDOM * mean["random"],
            ),
        ]
