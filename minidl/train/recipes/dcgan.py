"""`minidl train dcgan`: two networks play a game; one of them learns to draw."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import arg

import minidl
from minidl import Tensor, no_grad, optim

from ...metrics import class_coverage, nearest_neighbour_distance, parzen_log_likelihood
from ...models.dcgan import DCGAN, interpolate, vector_arithmetic
from ..callbacks import HealthMonitor
from ..config import TrainConfig
from ..errors import TrainingError
from ..experiment import Experiment, Gallery, examples
from ..loop import Callback, Trainer
from ..sources import ImageOptions, images
from ..tasks import Adversarial

if TYPE_CHECKING:
    from rich.console import Console

DRAWN = 1000  # images that a generator is judged by
WATCHED = 16  # codes whose images are kept after every epoch


@dataclass(frozen=True, kw_only=True)
class TrainDCGAN(TrainConfig):
    """Train a DCGAN, on scikit-learn's 8 x 8 handwritten digits if not told otherwise.

    Both players learn with Adam, beta1 0.5; the rate is 1e-3 for images below 16 pixels, else the paper's 2e-4.
    """

    model: ClassVar[str] = "dcgan"
    single_thread: ClassVar[bool] = True

    epochs: int = 75
    """How often training goes through the data."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Pixels on a side, a power of two from 8 to 128; images are scaled to it. Without it the next one that is large
    enough."""
    latent: Annotated[int | None, arg(metavar="N")] = None
    """Numbers that a code has; without it 100 as in the paper, 20 for images below 16 pixels."""
    width: int = 32
    """Channels before the image; each layer before has twice as many. The paper's nets have 64 or 128."""
    kernel_size: Literal[4, 5] = 4
    """4, or 5 for the authors' own network."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        self.require(self.accumulate == 1, "accumulate", "1: the players' batch norm needs whole batches")
        self.require(self.size in (None, 8, 16, 32, 64, 128), "size", "8, 16, 32, 64 or 128")
        self.require(self.latent is None or self.latent >= 1, "latent", "at least 1")
        self.require(self.width >= 1, "width", "at least 1")
        self.require(self.batch_size >= 2, "batch_size", "at least 2: batch norm compares images")

    def experiment(self) -> DCGANExperiment:
        return DCGANExperiment(self)


class DCGANExperiment(Experiment):
    """A generator, judged by a Parzen window on its samples, by the classes that it draws, and by eye."""

    config: TrainDCGAN
    unit = "loss of the discriminator"

    def __init__(self, config: TrainDCGAN):
        sets = images(config.data, ImageOptions(config.seed, config.size))
        found = sets.shape
        size = config.size or next((s for s in (8, 16, 32, 64, 128) if s >= max(found[1:])), 128)
        if found[1:] != (size, size):
            sets = images(config.data, ImageOptions(config.seed, size))
        super().__init__(config, sets)
        if len(self.validation.dataset) < 2:
            raise TrainingError(f"--data {config.data} leaves fewer than 2 images to validate on; a DCGAN needs them")
        minidl.manual_seed(config.seed)
        small = size < 16
        gan = DCGAN(
            size, found[0], config.latent or (20 if small else 100), config.width, config.kernel_size,
            base=size // 4 if small else 4,
        ).to(config.device)  # fmt: skip
        lr = config.lr or (1e-3 if small else 2e-4)
        adam = lambda player: optim.Adam(player.parameters(), lr=lr, betas=(0.5, 0.999))
        self.task = Adversarial(
            gan,
            adam(gan.generator),
            adam(gan.discriminator),
            self.real,
            judge=self.judge,
            monitor="val_parzen_loss",
            clip_norm=config.clip_norm,
            average=self.average(gan.generator),
            precision=self.precision(),
        )
        with minidl.core.random.replay(minidl.core.random.get_rng_state()):
            self.watched = gan.codes(WATCHED)  # the same images are looked at all the time
        self.film = Film(self)
        self.baselines = {"2 log 2, where it cannot tell": 2 * math.log(2)}

    @staticmethod
    def real(batch: Any) -> Tensor:
        """A batch's images, from [0, 1] to the generator's (-1, 1)."""
        return Tensor(2 * batch[0] - 1)

    def draw_images(self, codes: Any) -> np.ndarray:
        """Codes -> images (N, C, H, W) in [0, 1], in evaluation mode."""
        gan = self.task.model
        was = gan.training
        gan.eval()
        with no_grad():
            drawn = gan.generator(codes).numpy()
        gan.train(was)
        return (drawn + 1) / 2

    @cached_property
    def classifier(self) -> Any:
        """A linear judge of which class an image shows: logistic regression on pixels, fitted to training data."""
        from sklearn.dummy import DummyClassifier
        from sklearn.linear_model import LogisticRegression

        inputs, labels = examples(self.train.dataset, 2000)
        judge = LogisticRegression(max_iter=300) if len(np.unique(labels)) > 1 else DummyClassifier()
        return judge.fit(inputs.reshape(len(inputs), -1), labels)

    def probabilities(self, drawn: np.ndarray) -> np.ndarray:
        """What that judge says of images (N, …): (N, classes). A class that was not there to train on has 0."""
        found = np.zeros((len(drawn), len(self.sets.classes)))
        found[:, self.classifier.classes_] = self.classifier.predict_proba(drawn.reshape(len(drawn), -1))
        return found

    def judge(self) -> dict[str, float]:
        """Parzen window log-likelihood of validation images (with its sign turned: less is better) and the number of
        classes with at least 2 % of the samples."""
        drawn = self.draw_images(self.task.model.codes(DRAWN)).reshape(DRAWN, -1)
        held_back = examples(self.validation.dataset, DRAWN)[0].reshape(-1, drawn.shape[1])
        # training images are not among the samples, so they may choose the kernel's width
        width = examples(self.train.dataset, 500)[0].reshape(-1, drawn.shape[1])
        estimate = parzen_log_likelihood(drawn, held_back, validation=width)
        return {
            "parzen_loss": -estimate.mean,
            "classes": float(class_coverage(self.probabilities(drawn))),
        }

    def callbacks(self, console: Console) -> list[Callback]:
        return [self.film, HealthMonitor(console, len(self.sets.classes))]

    def measure(self, trainer: Trainer) -> dict[str, float]:
        test = examples(self.test.dataset, 1000)[0].reshape(-1, int(np.prod(self.sets.shape)))
        train = examples(self.train.dataset, 5000)[0].reshape(-1, test.shape[1])
        held_back = examples(self.validation.dataset)[0].reshape(-1, test.shape[1])
        drawn = self.draw_images(self.task.model.codes(DRAWN)).reshape(DRAWN, -1)
        estimate = parzen_log_likelihood(drawn, test, validation=held_back)
        return {
            "Parzen window log-likelihood, nats per image": estimate.mean,
            "its standard error": estimate.error,
            f"classes drawn, of {len(self.sets.classes)}": float(class_coverage(self.probabilities(drawn))),
            "distance of samples to the nearest training image": float(nearest_neighbour_distance(drawn, train).mean()),
            "the same for test images": float(nearest_neighbour_distance(test, train).mean()),
        }

    def notes(self, numbers: dict[str, float]) -> list[str]:
        drawn = next(value for name, value in numbers.items() if name.startswith("classes drawn"))
        total = len(self.sets.classes)
        return [] if drawn == total else [f"The generator draws {drawn:.0f} of {total} classes: it has dropped modes."]

    def draw(self, gallery: Gallery, trainer: Trainer) -> None:
        from .. import pictures
        from ..animation import images_gif

        gan, report = self.task.model, gallery.report
        report.section("New images")
        name, figure, _ = self.sample(64)
        gallery.picture(name, figure, "Images drawn by the generator")
        if self.film.frames:
            gallery.picture(
                "learning",
                images_gif(self.film.mosaics()),
                "The images of a few codes, after each epoch",
                "The same codes after every epoch: learning to draw",
            )
        report.section("From one code to another")
        ends = gan.codes(12)
        path = interpolate(ends[:6], ends[6:], spherical=gan.noise == "normal")
        steps, rows = path.shape[:2]
        drawn = self.draw_images(path.reshape(steps * rows, -1))
        gallery.picture(
            "interpolations",
            pictures.interpolations(
                drawn.reshape(steps, rows, *drawn.shape[1:]).swapaxes(0, 1), "Equal steps between two codes", ink=True
            ),
            "Rows of images that change from one into another",
        )
        self._arithmetic(gallery)
        if trainer.records:
            monitor = next(c for c in trainer.callbacks if isinstance(c, HealthMonitor))
            report.section("The game")
            gallery.picture(
                "health",
                pictures.gan_health(
                    trainer.records,
                    more={"Parzen window, minus log-likelihood": ["val_parzen_loss"], "classes drawn": ["val_classes"]},
                ),
                "Losses, probabilities and gradients of both players over training",
            )
            balanced = sum(verdict == "the players are in balance" for verdict in monitor.verdicts)
            epochs = f"{balanced} of {len(monitor.verdicts)} epochs"
            report.text(f"In balance after {epochs}. After the last: {monitor.verdicts[-1]}.")

    def _arithmetic(self, gallery: Gallery) -> None:
        """Codes of one class, less the mean code of it, plus the mean code of another."""
        from .. import pictures

        gan = self.task.model
        codes = gan.codes(DRAWN)
        drawn = self.draw_images(codes)
        probabilities = self.probabilities(drawn)
        sure = {c: np.flatnonzero(probabilities[:, c] > 0.9)[:3] for c in range(len(self.sets.classes))}
        usable = [c for c, found in sure.items() if len(found) == 3]
        if len(usable) < 2:
            return
        equations = []
        values = codes.numpy()
        for b, a in list(zip(usable, [*usable[1:], usable[0]], strict=True))[:3]:
            minus, plus = values[sure[b]], values[sure[a]]
            minus, plus = self.tensor(minus), self.tensor(plus)
            result = vector_arithmetic(minus, minus, plus)
            name_b, name_a = self.sets.classes[b], self.sets.classes[a]
            terms = [
                ("+", f"three of {name_b}", drawn[sure[b]]),
                ("-", f"mean of {name_b}", self.draw_images(minus.mean(0, keepdim=True))),
                ("+", f"mean of {name_a}", self.draw_images(plus.mean(0, keepdim=True))),
            ]
            equations.append((terms, self.draw_images(result)))
        gallery.report.section("Arithmetic with codes")
        gallery.picture(
            "arithmetic",
            pictures.arithmetic(
                *equations[0],
                "Codes, less the mean of their class, plus the mean of another",
                more=equations[1:],
                ink=True,
            ),
            "Equations of images: codes of one class, minus their mean, plus the mean of another class",
        )

    def sample(self, count: int) -> tuple[str, Any, str]:
        from .. import pictures

        drawn = self.draw_images(self.task.model.codes(count))
        caption = "Drawn from codes N(0, I)" if self.task.model.noise == "normal" else "Drawn from uniform codes"
        return "samples", pictures.image_grid(drawn, f"{count} new images", caption, ink=True), caption


class Film(Callback):
    """The images of the same few codes after each epoch."""

    MOST = 60  # frames

    def __init__(self, experiment: DCGANExperiment):
        self.experiment = experiment
        self.frames: list[np.ndarray] = []

    def on_epoch_end(self, trainer: Trainer) -> None:
        every = -(-trainer.epochs // self.MOST)
        if trainer.epoch % every == 0 or trainer.epoch == 1:
            with trainer.task.averaged():
                images = self.experiment.draw_images(self.experiment.watched)
                self.frames.append(np.rint(255 * images).astype(np.uint8))  # checkpoints hold them

    def mosaics(self) -> np.ndarray:
        """(F, C, H, W), the images of a frame beside one another, grey ones as dark ink on white."""
        from ..pictures import mosaic

        frames = np.array(self.frames) / 255
        frames = 1 - frames if frames.shape[2] == 1 else frames
        return np.array([[mosaic(p, WATCHED // 2, fill=1) for p in images.swapaxes(0, 1)] for images in frames])

    def state_dict(self) -> dict[str, Any]:
        return {"frames": np.array(self.frames)} if self.frames else {}

    def load_state_dict(self, state: Any) -> None:
        self.frames = list(state["frames"])
