"""Few labels: does an encoder that learned without them help a classifier? (`minidl demo labels`)"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import numpy as np

import minidl.functional as F
from minidl import Tensor, manual_seed, nn

from ..data import ArrayDataset, digits
from ..data.dataset import Batch
from ..models.autoencoder import Classifier, ConvAutoencoder, MLPAutoencoder, corrupt
from .claims import Check, Demo, Run
from .fit import accuracy, cross_entropy, fit

NOISE = 0.5  # standard deviation of what the denoising autoencoder has to remove
PRETRAINING = 2400  # steps; with half as many the denoising encoder's gain was a third smaller
FEW, MANY = 300, 600  # steps with up to 10 labels per class, and with 100
QUICK_PRETRAINING, QUICK_STEPS = 300, 100
# Of whole nets. A third, three times as much, and twice the steps gave random nets at most 0.003 more
LEARNING_RATE = 1e-3
HEAD_RATE = 3e-3  # of the linear layer on a frozen encoder, which needs a larger one

# name of a row -> which autoencoder the encoder comes from, and whether it stays as it is
ROWS: dict[str, tuple[str | None, bool]] = {
    "random": (None, False),
    "ae": ("ae", False),
    "denoising": ("denoising", False),
    "ae_frozen": ("ae", True),
    "denoising_frozen": ("denoising", True),
}
TITLES = {
    "random": "random", "ae": "AE", "denoising": "denoising AE", "ae_frozen": "AE frozen",
    "denoising_frozen": "denoising AE frozen",
}  # fmt: skip

# Thresholds, and between which numbers seeds 0 to 4 were
GAIN = 0.01  # 0.021 to 0.032
GAIN_OF_TWO = 0.02  # 0.050 to 0.082
NOTHING = 0.01  # with 100 labels -0.009 to 0.005; the dense net -0.016 to 0.009
LOSS = 0.005  # 0.010 to 0.018


def conv() -> tuple[nn.Module, nn.Module, int]:
    """x 1x8x8 - 32x4x4 - 64x2x2, and back: (autoencoder, its encoder, numbers in a code)."""
    model = ConvAutoencoder((1, 8, 8), (32, 64), code=None)
    return model, model.down, 64 * 2 * 2


def mlp() -> tuple[nn.Module, nn.Module, int]:
    """x 64 - 256 - 64, tanh after both, and back."""
    model = MLPAutoencoder((1, 8, 8), (256,), code=64)
    return model, nn.Sequential(model.encoder, nn.Tanh()), 64


# net -> builder, and how many sets of labels of which size are drawn for each seed
NETS: dict[str, tuple[Any, dict[int, int]]] = {
    "conv": (conv, {2: 4, 5: 4, 10: 4, 100: 1}),
    "mlp": (mlp, {5: 4, 10: 4}),
}


def pretrain(build: Any, noise: float, seed: int, steps: int) -> dict[str, Any]:
    """Train an autoencoder on all training images, none of whose labels it sees; the weights of its encoder."""
    manual_seed(seed)
    model, encoder, _ = build()

    def loss(model: Any, batch: Batch) -> Tensor:
        images = Tensor(batch[0])
        return F.mse_loss(model(corrupt(images, noise)), images, reduction="sum") / len(images)

    fit(model, loss, digits("train"), steps, lr=2e-3, batch_size=64, seed=seed, decay=True)
    return encoder.state_dict()


def draw(labels_per_class: int, rng: np.random.Generator) -> ArrayDataset:
    """So many training images of each class, with their labels."""
    images, labels = digits("train").arrays
    rows = [rng.choice(np.flatnonzero(labels == digit), labels_per_class, replace=False) for digit in range(10)]
    return ArrayDataset(images[np.concatenate(rows)], labels[np.concatenate(rows)])


def classify(
    build: Any, weights: dict[str, Any] | None, frozen: bool, labelled: ArrayDataset, seed: int, steps: int
) -> float:
    """Train encoder and linear layer, or the layer alone, on a few labels; the share of test images got right."""
    manual_seed(seed)
    _, encoder, features = build()
    if weights is not None:
        encoder.load_state_dict(weights)
    model = Classifier(encoder, features, freeze_encoder=frozen)
    rate = HEAD_RATE if frozen else LEARNING_RATE
    fit(model, cross_entropy, labelled, steps, lr=rate, batch_size=min(64, len(labelled)), seed=seed)
    return accuracy(model, digits("test"))


class LabelsDemo(Demo):
    name = "labels"
    title = "Few labels: does an encoder trained without them help?"
    lecture = (
        "An autoencoder's encoder can start a supervised net: drop the decoder, put a classifier in its place, train "
        "both on. Sometimes this helps with small data; with more it does not, and it is not used much now. CS231n "
        "(2016), lecture 14, on autoencoders."
    )
    caveat = (
        "8 x 8 digits, one small net of each kind. The autoencoders see all 1297 training images, of which the "
        "classifiers see 20 to 1000 with labels. Each number is a mean over four draws of labels (one of 100 per "
        "class), and gains are between nets with the same labels. The tests are other people's handwriting; settings "
        "were chosen with the same test images in view."
    )

    def run(self, seed: int, quick: bool) -> Run:
        measured: Run = {}
        for net, (build, sizes) in NETS.items():
            length = QUICK_PRETRAINING if quick else PRETRAINING
            noises = {"ae": 0.0, "denoising": NOISE}
            weights = {name: pretrain(build, noise, seed, length) for name, noise in noises.items()}
            for labels, draws in sizes.items():
                found: dict[str, list[float]] = {row: [] for row in ROWS}
                steps = QUICK_STEPS if quick else FEW if labels <= 10 else MANY
                for i in range(1 if quick else draws):
                    labelled = draw(labels, np.random.default_rng([seed, labels, i]))
                    for row, (source, frozen) in ROWS.items():
                        start = None if source is None else weights[source]
                        found[row].append(classify(build, start, frozen, labelled, 100 * seed + i, steps))
                measured |= {f"{net}{labels}_{row}": fmean(values) for row, values in found.items()}
        return measured

    def check(self, runs: Sequence[Run]) -> list[Check]:
        mean = {name: fmean(run[name] for run in runs) for name in runs[0]}

        def gain(net: str, sizes: Sequence[int], *rows: str) -> float:
            """Over random initial values with the same labels."""
            return fmean(mean[f"{net}{size}_{row}"] - mean[f"{net}{size}_random"] for size in sizes for row in rows)

        def table(net: str, size: int) -> str:
            shown = ", ".join(f"{words} {mean[f'{net}{size}_{row}']:.3f}" for row, words in TITLES.items())
            return f"{size} labels: {shown}"

        few, two = gain("conv", (5, 10), "denoising_frozen"), gain("conv", (2,), "denoising_frozen")
        many, lost = gain("conv", (100,), "denoising", "denoising_frozen"), -gain("conv", (100,), "ae_frozen")
        dense = gain("mlp", (5, 10), "ae_frozen", "denoising_frozen")
        return [
            Check(
                f"5 and 10 labels per class: the frozen encoder of a denoising autoencoder gains at least {GAIN}",
                f"gain {few:+.3f}. {table('conv', 5)}; {table('conv', 10)}",
                few >= GAIN,
            ),
            Check(
                f"2 labels per class: it gains at least {GAIN_OF_TWO}",
                f"gain {two:+.3f}. {table('conv', 2)}",
                two >= GAIN_OF_TWO,
            ),
            Check(
                f"100 labels: denoising encoders gain at most {NOTHING}, a plain and frozen one loses at least {LOSS}",
                f"gain {many:+.3f}, loss {lost:.3f}. {table('conv', 100)}",
                many <= NOTHING and lost >= LOSS,
            ),
            Check(
                f"a dense net gains at most {NOTHING} from frozen encoders with 5 and 10 labels",
                f"gain {dense:+.3f}. {table('mlp', 5)}; {table('mlp', 10)}",
                dense <= NOTHING,
            ),
        ]
