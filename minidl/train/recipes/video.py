"""`minidl train c3d` and `minidl train gru-rcn`: what happens in a video?"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from tyro.conf import arg

import minidl
import minidl.functional as F
from minidl import nn, no_grad, optim

from ...models.c3d import C3D, SmallC3D
from ...models.gru_rcn import GRURCN, VGG16GRURCN
from ...models.motion import C3DMini, ConvGRUClassifier
from ...models.vgg import VGG16
from ...models.weights import load_weights
from ..config import TrainConfig
from ..experiment import Experiment, Gallery, examples
from ..loop import Trainer
from ..sources import Sets, VideoOptions, videos

SHOWN = 12  # clips in the moving picture
GREY = 128.0  # taken from the bytes that C3D sees, in the place of the mean of its authors' videos
MEAN_COLOUR = (123.68, 116.779, 103.939)  # of ImageNet, red green blue, 0..255: what VGG-16 was trained less


@dataclass(frozen=True, kw_only=True)
class TrainVideo(TrainConfig):
    """Options of networks that classify clips; abstract."""

    data: str = "torus"
    """What to train on, as SOURCE or SOURCE:FOLDER: torus and order are moving digits, made here; ucf101:FOLDER and
    hmdb51:FOLDER are real videos."""
    epochs: int = 4
    """How often training goes through the data."""
    batch_size: int = 32
    """Examples in one step."""
    frames: Annotated[int | None, arg(metavar="N")] = None
    """Frames of a clip; without it what suits the data and the network."""
    size: Annotated[int | None, arg(metavar="PIXELS")] = None
    """Pixels on a side; without it what suits the data and the network."""
    clips: int = 2000
    """Clips to make, where they are made."""
    flip: bool = False
    """Flip half of the clips left to right in training; not for labels that are directions."""
    weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """Weights to start from (safetensors). The last layer begins anew, for these classes."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        self.require(self.frames is None or self.frames >= 1, "frames", "at least 1")
        self.require(self.size is None or self.size >= 8, "size", "at least 8")
        self.require(self.clips >= 10, "clips", "at least 10")

    def experiment(self) -> VideoExperiment:
        return VideoExperiment(self)

    def sets(self) -> Sets:
        """The data."""
        return videos(self.data, VideoOptions(self.seed, self.frames, self.size, self.flip, self.clips))

    @abstractmethod
    def network(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        """The network for clips of a shape (C, T, H, W), with `weights` if given."""

    @abstractmethod
    def optimizer(self, model: Any) -> Any:
        """The optimizer for it."""


@dataclass(frozen=True, kw_only=True)
class TrainC3D(TrainVideo):
    """Train C3D: convolutions over space and time. On moving digits if not told otherwise."""

    model: ClassVar[str] = "c3d"

    net: Literal["mini", "small", "full"] = "mini"
    """mini: three convolutions, for small made clips. small: the authors' net for UCF-101 from scratch. full: the net
    of the paper; on a CPU a step takes minutes at its full size."""
    width: int = 64
    """Channels of the first convolution (small, full)."""

    def network(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        if self.net == "mini":
            model: Any = C3DMini(classes, shape)
            last = "fc"
        else:
            model = {"small": SmallC3D, "full": C3D}[self.net](classes, shape, self.width)
            last = "fc8"
        if self.weights is not None:
            load_weights(model, self.weights, keep=[last])
        return model

    def optimizer(self, model: Any) -> Any:
        if self.net == "mini":
            return optim.Adam(model.parameters(), lr=self.lr or 3e-3)
        # the authors' solver for UCF-101 from scratch, but for its steps: here the rate falls along a cosine
        return optim.SGD(model.parameter_groups(self.lr or 3e-3, 5e-3), lr=self.lr or 3e-3, momentum=0.9)


@dataclass(frozen=True, kw_only=True)
class TrainGRURCN(TrainVideo):
    """Train a convolutional GRU on what a network sees in each frame. On moving digits if not told otherwise."""

    model: ClassVar[str] = "gru-rcn"

    net: Literal["small", "vgg"] = "small"
    """small: one convolution and one recurrence, for small made clips. vgg: the paper's five recurrences on VGG-16, for
    clips of 224 pixels; give VGG-16's weights."""
    stacked: bool = False
    """vgg: the state of the level below enters the gates."""
    bidirectional: bool = False
    """vgg: a second network reads the clip from its end."""
    vgg_weights: Annotated[Path | None, arg(metavar="FILE")] = None
    """vgg: the weights of VGG-16 (safetensors, with fc8), which then stay as they are."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        for name in ("stacked", "bidirectional"):
            self.require(self.net == "vgg" or not getattr(self, name), name, "left out with --net small")
        self.require(self.net == "vgg" or self.vgg_weights is None, "vgg_weights", "left out with --net small")

    def sets(self) -> Sets:
        frames, size = self.frames, self.size
        if self.net == "vgg":
            frames, size = frames or 10, size or 224
        return videos(self.data, VideoOptions(self.seed, frames, size, self.flip, self.clips))

    def network(self, classes: int, shape: tuple[int, ...]) -> nn.Module:
        if self.net == "small":
            model: Any = ConvGRUClassifier(classes, shape[0])
            if self.weights is not None:
                load_weights(model, self.weights, keep=["fc"])
            return model
        self.require(shape[0] == 3, "data", "videos in colour, for --net vgg")
        vgg = VGG16(shape=(3, *shape[2:]), weights=self.vgg_weights)
        if self.vgg_weights is not None:
            vgg.requires_grad_(False)
        rcn = GRURCN(classes, stacked=self.stacked, bidirectional=self.bidirectional)
        if self.weights is not None:
            load_weights(rcn, self.weights, keep=["classifier"])
        return VGG16GRURCN(vgg, rcn)

    def optimizer(self, model: Any) -> Any:
        lr = self.lr or (3e-3 if self.net == "small" else 1e-4)
        return optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)


class VideoExperiment(Experiment):
    """Clips and classes: cross-entropy and accuracy."""

    config: TrainVideo
    unit = "cross-entropy (nats)"

    def __init__(self, config: TrainVideo):
        super().__init__(config, config.sets())
        minidl.manual_seed(config.seed)
        classes = self.sets.classes
        with self.fitting():
            model = config.network(len(classes), self.sets.shape).to(config.device)
        optimizer = config.optimizer(model)
        self.task = self.minimize(
            model, optimizer, self.loss, optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.steps())
        )
        self.baselines = {f"guessing among {len(classes)}": float(np.log(len(classes)))}

    def scores(self, model: Any, clips: Any) -> Any:
        """Logits, or log-probabilities, which are logits as well: (N, C, T, H, W) in [0, 1] -> (N, classes)."""
        if isinstance(model, (C3D, SmallC3D, VGG16GRURCN)):  # their authors' initial values and weights are for bytes
            mean = MEAN_COLOUR if isinstance(model, VGG16GRURCN) else (GREY,)
            clips = 255 * self.tensor(clips) - self.tensor(np.array(mean, np.float32).reshape(-1, 1, 1, 1))
        return model(self.tensor(clips))

    def loss(self, model: Any, batch: Any) -> Any:
        """Cross-entropy, and the share of clips that are right."""
        scores = self.scores(model, batch[0])
        right = scores.detach().argmax(1) == batch[1]
        return F.cross_entropy(scores, batch[1]), {"accuracy": right.double().mean()}

    def predictions(self, loader: Any) -> tuple[np.ndarray, np.ndarray]:
        """Labels (N,) and probabilities (N, classes) of everything in a loader."""
        labels, found = [], []
        with no_grad():
            for batch in loader:
                found.append(F.softmax(self.scores(self.task.model, batch[0]), 1).numpy())
                labels.append(batch[1])
        return np.concatenate(labels), np.concatenate(found)

    def measure(self, trainer: Trainer) -> dict[str, float]:
        numbers = trainer.evaluate(self.test)
        return {
            "accuracy": numbers["accuracy"],
            "accuracy of guessing": 1 / len(self.sets.classes),
            "cross-entropy, nats": numbers["loss"],
        }

    def draw(self, gallery: Gallery, trainer: Trainer) -> None:
        from .. import pictures

        classes, report = self.sets.classes, gallery.report
        report.section("What it sees")
        name, animation, caption = self.sample(SHOWN)
        gallery.picture(name, animation, "Test clips, moving, with the predicted class over each", caption)
        labels, probabilities = self.predictions(self.test)
        predicted = probabilities.argmax(1)
        clips = examples(self.test.dataset, 6)[0]
        gallery.picture(
            "frames",
            pictures.film_strip(
                clips, labels[:6], predicted[:6], probabilities[:6], classes, "The same, frame by frame"
            ),
            "Frames of test clips beside the predicted class",
        )
        report.section("Which classes it confuses")
        gallery.picture(
            "confusion",
            pictures.confusion_matrix(labels, predicted, classes, "Confusion matrix, test clips"),
            "Confusion matrix of the test clips",
        )
        weights = first_convolution(self.task.model)
        if weights is not None:
            report.section("Filters")
            gallery.picture(
                "filters",
                pictures.filters(
                    weights.reshape(-1, *weights.shape[-2:]),
                    "The first convolution",
                    f"{len(weights)} filters of {weights.shape[1]} time steps; the strongest slices first.",
                ),
                "The weights of the first convolution as small pictures",
            )
        if trainer.records:
            report.section("Accuracy")
            groups = {"loss": ["train_loss", "val_loss"], "accuracy": ["train_accuracy", "val_accuracy"]}
            gallery.picture(
                "accuracy",
                pictures.curves(trainer.records, groups, "Loss and accuracy after each epoch"),
                "Loss and accuracy over training",
            )

    def sample(self, count: int) -> tuple[str, Any, str]:
        from ..animation import clips_gif

        clips, labels = examples(self.test.dataset, count)
        with no_grad():
            probabilities = F.softmax(self.scores(self.task.model, clips), 1).numpy()
        caption = "Test clips with the predicted class, its probability, and where it is wrong the true one"
        gif = clips_gif(clips, self.sets.classes, labels, probabilities.argmax(1), probabilities)
        return "clips", gif, caption


def first_convolution(model: Any) -> np.ndarray | None:
    """The first convolution's weights (filters, time, H, W), input channels averaged; time is 1 for images."""
    for layer in model.modules():
        if isinstance(layer, (nn.Conv3d, nn.Conv2d)):
            weights = layer.weight.detach().numpy().mean(1)
            return weights if weights.ndim == 4 else weights[:, None]
    return None
