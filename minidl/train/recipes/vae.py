"""`minidl train vae`: a variational autoencoder on images, its bound, its samples and the map of its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import arg

import minidl
from minidl import Tensor, no_grad, optim

from ...models.vae import MLPVAE, VAE, ConvVAE
from ..config import TrainConfig
from ..experiment import Experiment, Gallery, examples
from ..loop import Trainer
from ..sources import ImageOptions, images

IMPORTANCE = 50  # codes for each image in the tighter bound


@dataclass(frozen=True, kw_only=True)
class TrainVAE(TrainConfig):
    """Train a variational autoencoder, on scikit-learn's 8 x 8 handwritten digits if not told otherwise.

    Adam with a constant learning rate, 2e-3 by default. The loss is minus the evidence lower bound, in nats per image.
    """

    model: ClassVar[str] = "vae"
    single_thread: ClassVar[bool] = True

    arch: Literal["mlp", "conv"] = "mlp"
    """The network: one hidden layer on either side, as in the paper, or convolutions."""
    latent: int = 2
    """Numbers that a code has. With 2 there is a map of all images that the network can draw."""
    hidden: int = 200
    """Units of the hidden layers (mlp)."""
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    """What the decoder says of a pixel: a probability, or a mean and a variance. Their bounds cannot be compared."""
    kl_weight: float = 1.0
    """Weight of the KL term while training; with 1 the loss is the bound."""
    warmup: Annotated[float, arg(metavar="EPOCHS")] = 0.0
    """Epochs in which that weight grows from 0: helps where the decoder ignores the code."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        self.require(self.latent >= 1, "latent", "at least 1")
        self.require(self.hidden >= 1, "hidden", "at least 1")
        self.require(self.kl_weight >= 0, "kl_weight", "0 or more")
        self.require(self.warmup >= 0, "warmup", "0 or more")

    def experiment(self) -> VAEExperiment:
        return VAEExperiment(self)


class VAEExperiment(Experiment):
    """A variational autoencoder, judged by its bound and looked at through its samples."""

    config: TrainVAE
    unit = "minus the bound (nats per image)"

    def __init__(self, config: TrainVAE):
        super().__init__(config, images(config.data, ImageOptions(config.seed)))
        minidl.manual_seed(config.seed)
        model: VAE
        with self.fitting():
            if config.arch == "mlp":
                model = MLPVAE(self.sets.shape, config.hidden, config.latent, config.likelihood)
                model.reset_layers()  # the paper's N(0, 0.01) learns more slowly and ends a little lower
            else:
                model = ConvVAE(self.sets.shape, latent=config.latent, likelihood=config.likelihood)
        model.to(config.device)
        self.task = self.minimize(model, optim.Adam(model.parameters(), lr=config.lr or 2e-3), self.loss)

    def loss(self, model: Any, batch: Any) -> Any:
        """Minus the bound, and its two parts."""
        weight = 1.0
        if model.training:
            weight = self.config.kl_weight * self._grown()
        loss, reconstruction, kl = model.elbo(Tensor(batch[0]), weight)
        return loss, {"reconstruction": reconstruction, "kl": kl}

    def _grown(self) -> float:
        """How much of the KL term's weight is there by now, from 0 to 1."""
        steps = self.config.warmup * len(self.train)
        return min(1.0, self.steps_taken() / steps) if steps else 1.0

    def steps_taken(self) -> int:
        """Steps of the optimizer so far: it counts them for each parameter, and checkpoints keep it."""
        optimizer = self.task.optimizer  # type: ignore[attr-defined]
        return max((int(state.get("step", 0)) for state in optimizer.state.values()), default=0)

    def measure(self, trainer: Trainer) -> dict[str, float]:
        numbers = trainer.evaluate(self.test)
        inputs = examples(self.test.dataset, 500)[0]
        with no_grad():
            tighter = self.task.model.importance_bound(self.tensor(inputs), IMPORTANCE).mean().item()
        return {
            "bound on log p(x), nats per image": -numbers["loss"],
            "reconstruction term": -numbers["reconstruction"],
            "KL term": numbers["kl"],
            f"bound from {IMPORTANCE} codes for each of {len(inputs)} images": tighter,
        }

    def draw(self, gallery: Gallery, trainer: Trainer) -> None:
        from .. import pictures

        model = self.task.model
        report = gallery.report
        inputs, labels = examples(self.test.dataset, 2000)
        with no_grad():
            means = model.encode(self.tensor(inputs))[0].numpy()
            again = model.reconstruct(self.tensor(inputs[:20])).numpy()
        report.section("New images")
        name, figure, _ = self.sample(64)
        gallery.picture(name, figure, "Images drawn from random codes")
        if self.config.latent == 2:
            with no_grad():
                grid, ticks = model.manifold(15 if inputs.shape[-1] <= 16 else 12)
            gallery.picture(
                "manifold",
                pictures.manifold(
                    grid.numpy(),
                    "All images that the network can draw",
                    "At equal steps of the prior's probability",
                    ticks=ticks,
                    ink=True,
                ),
                "The images that belong to a grid of codes",
            )
        report.section("Reconstructions")
        rows = {"input": inputs[:20], "VAE": again}
        names = [self.sets.classes[label] for label in labels[:20]]
        gallery.picture(
            "reconstructions",
            pictures.reconstructions(rows, names, "Images drawn again from their codes", "Test images; mean codes."),
            "Test images above their reconstructions",
        )
        report.section("From one image to another")
        pairs = self._pairs(labels)
        with no_grad():
            ends = (self.tensor(inputs[pairs[:, i]]) for i in (0, 1))
            steps = model.interpolate(*ends).numpy()
        gallery.picture(
            "interpolations",
            pictures.interpolations(steps.swapaxes(0, 1), "Equal steps between two codes", ink=True),
            "Rows of images that change from one test image into another",
        )
        report.section("The codes")
        axes = ("first number of the code", "second number of the code")
        if self.config.latent == 1:
            means = np.concatenate([means, np.random.default_rng(0).uniform(-1, 1, means.shape)], 1)
            axes = ("the code", "(spread at random)")
        elif self.config.latent > 2:
            order = np.argsort(-means.var(0))[:2]
            means, axes = means[:, order], (f"number {order[0] + 1} of the code", f"number {order[1] + 1} of the code")
        gallery.picture(
            "code",
            pictures.class_map(means[:, :2], labels, axes, "The mean code of every test image"),
            "A map of the codes, one point for each test image, coloured by class",
        )
        if trainer.records:
            report.section("The two terms of the bound")
            groups = {term: [f"train_{term}", f"val_{term}"] for term in ("reconstruction", "kl")}
            gallery.picture(
                "terms",
                pictures.curves(trainer.records, groups, "Reconstruction and KL, nats per image"),
                "Both terms of the bound over training",
            )

    def _pairs(self, labels: np.ndarray) -> np.ndarray:
        """Six pairs of examples of different classes."""
        first = {int(label): i for i, label in reversed(list(enumerate(labels)))}
        places = [first[label] for label in sorted(first)]
        return np.array([(a, b) for a, b in zip(places, [*places[1:], places[0]], strict=True)][:6])

    def sample(self, count: int) -> tuple[str, Any, str]:
        from .. import pictures

        with no_grad():
            drawn = self.task.model.sample(count).numpy()
        caption = "Means of p(x|z) for codes drawn from the prior N(0, I)"
        return "samples", pictures.image_grid(drawn, f"{count} new images", caption, ink=True), caption
