"""`minidl train ae`: an autoencoder on images, from the data to the pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import minidl
import minidl.functional as F
from minidl import Tensor, no_grad, optim

from ...models.autoencoder import AutoencoderConfig, build, corrupt
from ..config import TrainConfig
from ..experiment import Experiment, Gallery, examples
from ..loop import Trainer
from ..sources import ImageOptions, images

LEARNING_RATES = {"mlp": 3e-3, "conv": 3e-3, "linear": 3e-2}
FILTERS = 64  # shown at most
NAMES = {"mlp": "MLP", "conv": "convolutional", "linear": "linear"}
UNIT = "squared error per image"  # summed over its pixels, each between 0 and 1; a mean over images
MOST = 10_000  # images that principal components are computed from


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainConfig, AutoencoderConfig):
    """Train an autoencoder, on scikit-learn's 8 x 8 handwritten digits if not told otherwise, and draw what it learned.

    The learning rate falls to zero along a cosine.
    """

    model: ClassVar[str] = "ae"
    single_thread: ClassVar[bool] = True

    noise: float = 0.0
    """Standard deviation of noise added to the inputs in training: a denoising autoencoder, which has to draw the clean
    image."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        self.require(self.code >= 1, "code", "at least 1")
        self.require(self.noise >= 0, "noise", "0 or more")

    def experiment(self) -> AutoencoderExperiment:
        return AutoencoderExperiment(self)


class AutoencoderExperiment(Experiment):
    """An autoencoder against principal components, the best linear code of the same size."""

    config: TrainAutoencoder
    unit = UNIT

    def __init__(self, config: TrainAutoencoder):
        super().__init__(config, images(config.data, ImageOptions(config.seed)))
        pixels = int(np.prod(self.sets.shape))
        config.require(config.code <= pixels, "code", f"at most {pixels}, the numbers that an image has")
        minidl.manual_seed(config.seed)
        with self.fitting():
            model = build(config, self.sets.shape).to(config.device)
        optimizer = optim.Adam(model.parameters(), lr=config.lr or LEARNING_RATES[config.arch])
        self.task = self.minimize(
            model, optimizer, self.loss, optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps())
        )
        self.pca = PCA(examples(self.train.dataset, MOST)[0], config.code)
        self.baselines = {f"PCA with {_count(config.code, 'number')}, validation": self.pca_error(self.validation)}

    def loss(self, model: Any, batch: Any) -> Any:
        """Squared error summed over the pixels of an image, mean over the batch."""
        clean = Tensor(batch[0])
        given = corrupt(clean, self.config.noise) if self.config.noise and model.training else clean
        return F.mse_loss(model(given), clean, reduction="sum") / len(clean)

    def pca_error(self, loader: Any) -> float:
        """Squared error per image of the principal components."""
        return self.pca.error(examples(loader.dataset, MOST)[0])

    def measure(self, trainer: Trainer) -> dict[str, float]:
        numbers = {}
        for name, loader in (("training", self.train), ("validation", self.validation), ("test", self.test)):
            whole = minidl.data.DataLoader(loader.dataset, 256)
            numbers[f"{name}: {UNIT}"] = trainer.evaluate(whole)["loss"]
            numbers[f"{name}: PCA with as many numbers"] = self.pca_error(loader)
        return numbers

    def notes(self, numbers: dict[str, float]) -> list[str]:
        blank = PCA(examples(self.train.dataset, MOST)[0], 0)
        error = blank.error(examples(self.train.dataset, MOST)[0])
        if numbers[f"training: {UNIT}"] < error * (1 if self.epochs >= 10 else 3):  # runs begin above
            return []
        return [
            f"The autoencoder is no better than drawing the mean of all images, with an error of {error:.2f}: "
            f"it diverged (try a smaller --lr) or has hardly begun."
        ]

    def draw(self, gallery: Gallery, trainer: Trainer) -> None:
        from .. import pictures

        config, model = self.config, self.task.model
        inputs, labels = examples(self.test.dataset, 2000)
        with no_grad():
            codes = model.encode(self.tensor(inputs)).numpy()
            drawn = model(self.tensor(inputs)).numpy()
        numbers = _count(config.code, "number")
        until = f"{NAMES[config.arch]} autoencoder after {_count(trainer.step, 'step')}"
        chosen = _some_of_each(labels, len(self.sets.classes))
        rows = {"input": inputs, "autoencoder": drawn, "PCA": self.pca.reconstruct(inputs)}
        gallery.report.section("Reconstructions")
        figure = pictures.reconstructions(
            {name: shown[chosen] for name, shown in rows.items()},
            [self.sets.classes[label] for label in labels[chosen]],
            f"Images drawn from {numbers} each",
            f"Test images, {until}.",
        )
        gallery.picture("reconstructions", figure, "Test images above their reconstructions and those of PCA")
        points, axes, subtitle = _plane(codes)
        gallery.report.section("The code")
        gallery.picture(
            "code",
            pictures.class_map(
                points, labels, axes, "The code of every test image", f"{subtitle} The autoencoder never saw a label."
            ),
            "A map of the codes, one point for each test image, coloured by class",
        )
        weights, unit = _filters(model, self.pca.spread)
        count, height, width = weights.shape
        some = f"the strongest {FILTERS} of {count}" if count > FILTERS else f"{count}"
        gallery.report.section("Filters")
        gallery.picture(
            "filters",
            pictures.filters(
                weights,
                f"What the first layer looks for: {some} filters",
                f"{height} x {width} pixels each, strongest first, one colour scale; {until}.",
                unit,
                FILTERS,
            ),
            "The weights of the first layer as small pictures",
        )

    def sample(self, count: int) -> tuple[str, Any, str]:
        from .. import pictures

        model = self.task.model
        known = examples(self.train.dataset, 2000)[0]
        with no_grad():
            codes = model.encode(self.tensor(known)).numpy()
            flat = codes.reshape(len(codes), -1).astype(np.float64)
            draw = minidl.core.random.generator().multivariate_normal
            drawn = draw(flat.mean(0), np.cov(flat.T).reshape(flat.shape[1], -1), count)
            shaped = drawn.astype(np.float32).reshape(count, *codes.shape[1:])
            shown = model.decode(self.tensor(shaped)).numpy()
        caption = (
            "Codes drawn from a Gaussian fitted to the codes of training images: an autoencoder has no other prior"
        )
        return "samples", pictures.image_grid(shown, f"{count} new images", caption, ink=True), caption


class PCA:
    """Principal components of images (N, …): the best linear code, and what the autoencoder is measured against."""

    def __init__(self, images: np.ndarray, components: int):
        flat = images.reshape(len(images), -1).astype(np.float64)
        self.spread = images.std(0)  # standard deviation of each pixel, in the shape of an image
        self.mean = flat.mean(0)
        centred = flat - self.mean
        vectors = np.linalg.eigh(centred.T @ centred)[1]  # by growing variance
        self.axes = vectors[:, ::-1][:, :components].T

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(N, …) -> (N, components)"""
        return (images.reshape(len(images), -1) - self.mean) @ self.axes.T

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images of the same shape, seen through the components."""
        return (self.encode(images) @ self.axes + self.mean).reshape(images.shape)

    def error(self, images: np.ndarray) -> float:
        """Squared error per image."""
        return float(np.sum((self.reconstruct(images) - images) ** 2) / len(images))


def _some_of_each(labels: np.ndarray, classes: int) -> np.ndarray:
    """Twenty examples: two of each of ten classes, the first ten in one block, the second ten in the next."""
    found = [np.flatnonzero(labels == label)[:2] for label in range(classes)]
    full = [pair for pair in found if len(pair) == 2][:10]
    if len(full) < 10:
        return np.arange(min(20, len(labels)))
    return np.concatenate([[pair[i] for pair in full] for i in range(2)])


def _filters(model: Any, spread: np.ndarray) -> tuple[np.ndarray, str]:
    """First-layer weights as tiles (N, H, W), and what they measure. Input channels are averaged.

    Where a unit sees whole images its weights are multiplied by the standard deviation of each pixel: that is how much
    the pixel moves the unit. Pixels that are hardly ever inked get large weights by accident, which hide the rest.
    """
    weights = model.first_weights().detach().numpy()
    whole = weights.shape[1:] == spread.shape
    return (weights * spread if whole else weights).mean(1), "weight x deviation of pixel" if whole else "weight"


def _plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str], str]:
    """Codes (N, …) as points in a plane, the names of its axes, and a sentence that says what they are."""
    codes = codes.reshape(len(codes), -1)
    size = codes.shape[1]
    if size == 1:
        jitter = np.random.default_rng(0).uniform(-1, 1, len(codes))
        return np.stack([codes[:, 0], jitter], 1), ("the code", "(spread at random)"), "The code is one number."
    if size == 2:
        return codes, ("first number of the code", "second number of the code"), "The code is these two numbers."
    pca = PCA(codes, 2)
    points = pca.encode(codes)
    first, second = points.var(0) / codes.var(0).sum()
    names = (
        f"principal component 1 of the code ({first:.0%} of its variance)",
        f"principal component 2 of the code ({second:.0%} of its variance)",
    )
    return points, names, f"The code has {size} numbers; shown is its PCA in two dimensions."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
