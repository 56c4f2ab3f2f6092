"""`minidl train ae`: an autoencoder on handwritten digits, from the data to the pictures."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.extras import require
from ..models.autoencoder import AutoencoderConfig, build
from .config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from ..data import DataLoader

VALIDATION = 130  # images held back from the 1297 training images
# Matrices this small are multiplied fastest by one thread; several cost up to four times as long on a busy machine.
THREADS = 1
LEARNING_RATES = {"mlp": 3e-3, "conv": 3e-3, "linear": 3e-2}
FILTERS = 64  # shown at most
NAMES = {"mlp": "MLP", "conv": "convolutional", "linear": "linear"}
UNIT = "squared error per image"  # summed over its 64 pixels, each between 0 and 1; a mean over images


@dataclass(frozen=True, kw_only=True)
class TrainAutoencoder(TrainConfig, AutoencoderConfig):
    """Train an autoencoder on scikit-learn's 8 x 8 handwritten digits and draw what it learned."""

    def check(self) -> None:
        """Raise TrainingError for options that make no sense."""
        super().check()
        self.require(1 <= self.code <= 64, "code", "between 1 and 64, the pixels of an image")

    def run(self) -> int:
        """Train, draw, print a summary; the exit status: 0, or 130 after Ctrl-C.

        Raises TrainingError or MissingExtra for what the user can put right.
        """
        from .threads import limit_threads

        self.check()
        with limit_threads(self.threads or THREADS):
            return _run(self)


def _run(config: TrainAutoencoder) -> int:
    from .. import manual_seed, optim
    from ..data import DataLoader, digits, random_split
    from .callbacks import Checkpoints, LossHistory, Metrics, ProgressBar
    from .folder import RunFolder
    from .loop import Minimize, Trainer
    from .screen import Screen

    for library in ("sklearn.datasets", "safetensors.numpy", "matplotlib.figure"):  # rather now than after training
        require(library, "training")
    data = digits("train")
    train, validation = random_split(data, [len(data) - VALIDATION, VALIDATION], config.seed)
    config.require(config.batch_size <= len(train), "batch_size", f"at most {len(train)}, the training images")
    loader = DataLoader(train, config.batch_size, shuffle=True, drop_last=True, seed=config.seed)
    held_back = DataLoader(validation, batch_size=VALIDATION)

    manual_seed(config.seed)
    model = build(config)
    optimizer = optim.Adam(model.parameters(), lr=config.lr or LEARNING_RATES[config.arch])
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs * len(loader))

    folder = RunFolder.create("ae", config.out, config.overwrite)
    folder.write_config("ae", config.as_json())
    folder.require_space(10)

    console = Screen(highlight=False)
    parameters = sum(p.numel() for p in model.parameters())
    console.print(
        f"{type(model).__name__}, {parameters:,} parameters, code of {config.code}; "
        f"{len(train)} images to train on, {len(validation)} to validate; Ctrl-C stops and keeps what is there",
        soft_wrap=True,
    )
    history = LossHistory()
    callbacks = [
        Checkpoints(folder, config.as_json()),
        Metrics(folder, config.log_steps),
        history,
        ProgressBar(console),
    ]
    trainer = Trainer(Minimize(model, optimizer, squared_error, schedule), loader, held_back, callbacks)
    doing = "training"
    try:
        trainer.fit(config.epochs)
        doing = "drawing, so pictures may be missing"
        _report(config, folder, trainer, history, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"while {doing}; the run folder is {folder.path}") from None
    return 130 if trainer.interrupted else 0


def squared_error(model: Any, batch: Any) -> Any:
    """The loss, a scalar: squared error summed over the pixels of an image, mean over the batch."""
    import minidl.functional as F
    from minidl import Tensor

    images = Tensor(batch[0])
    return F.mse_loss(model(images), images, reduction="sum") / len(images)


class PCA:
    """Principal components of images (N, …): the best linear code, and what the autoencoder is measured against."""

    def __init__(self, images: np.ndarray, components: int):
        flat = images.reshape(len(images), -1).astype(np.float64)
        self.spread = images.std(0)  # standard deviation of each pixel, in the shape of an image
        self.mean = flat.mean(0)
        self.axes = np.linalg.svd(flat - self.mean, full_matrices=False)[2][:components]

    def encode(self, images: np.ndarray) -> np.ndarray:
        """(N, …) -> (N, components)"""
        return (images.reshape(len(images), -1) - self.mean) @ self.axes.T

    def reconstruct(self, images: np.ndarray) -> np.ndarray:
        """Images of the same shape, seen through the components."""
        return (self.encode(images) @ self.axes + self.mean).reshape(images.shape)

    def error(self, images: np.ndarray) -> float:
        """Squared error per image."""
        return float(np.sum((self.reconstruct(images) - images) ** 2) / len(images))


def _report(config: TrainAutoencoder, folder: Any, trainer: Any, history: Any, console: Console) -> None:
    """Pictures and summary, from the weights as they are now."""
    from minidl import Tensor, no_grad

    from ..data import DataLoader, digits

    model = trainer.task.model
    test = digits("test")
    images, labels = test.arrays
    train = _images(trainer.train)
    validation = _images(trainer.validation)
    pca = PCA(train, config.code)
    model.eval()
    with no_grad():
        codes = model.encode(Tensor(images)).numpy()
        reconstructed = model(Tensor(images)).numpy()
    errors = {
        "training": (trainer.evaluate(DataLoader(trainer.train.dataset, 256))["loss"], pca.error(train)),
        "validation": (trainer.evaluate(trainer.validation)["loss"], pca.error(validation)),
        "test": (trainer.evaluate(DataLoader(test, 256))["loss"], pca.error(images)),
    }
    _draw(config, folder, trainer, history, (images, labels, codes, reconstructed), pca, errors)
    blank = PCA(train, 0).error(train)
    warning = ""
    if not errors["training"][0] < blank * (1 if trainer.epoch >= 10 else 3):  # runs begin above
        warning = (
            f"The autoencoder is no better than drawing the mean of all images, with an error of {blank:.2f}: "
            f"it diverged (try a smaller --lr) or has hardly begun."
        )
    _summarize(config, folder, trainer, errors, warning, console)


def _images(loader: DataLoader) -> np.ndarray:
    """All images of a loader's dataset."""
    from ..data.dataset import gather

    return gather(loader.dataset, np.arange(len(loader.dataset)))[0]


def _draw(
    config: TrainAutoencoder, folder: Any, trainer: Any, history: Any, results: tuple, pca: PCA, errors: dict
) -> None:
    from . import pictures

    images, labels, codes, reconstructed = results
    size, name = config.code, NAMES[config.arch]
    numbers = _count(size, "number")
    ours, linear = errors["test"]
    until = f"stopped after {_count(trainer.step, 'step')}" if trainer.interrupted else f"after {_epochs(trainer)}"

    # two test images of each digit: the first ten in the upper block, the second ten below
    chosen = np.concatenate([[np.flatnonzero(labels == digit)[i] for digit in range(10)] for i in range(2)])
    pictures.save(
        pictures.reconstructions(
            {
                "input": images[chosen, 0],
                "autoencoder": reconstructed[chosen, 0],
                "PCA": pca.reconstruct(images[chosen])[:, 0],
            },
            [str(label) for label in labels[chosen]],
            f"Digits drawn from {numbers} each",
            f"Test images, {name} autoencoder {until}. {UNIT.capitalize()}: autoencoder {ours:.2f}, PCA {linear:.2f}.",
        ),
        folder.path / "reconstructions.png",
    )
    pictures.save(
        pictures.loss_curve(
            trainer.records, history.steps, history.losses, UNIT,
            {f"PCA with {numbers}, validation": errors["validation"][1]}, "Reconstruction error during training",
        ),
        folder.path / "loss.png",
    )  # fmt: skip
    weights, unit = _filters(trainer.task.model, pca.spread)
    count, height, width = weights.shape
    some = f"the strongest {FILTERS} of {count}" if count > FILTERS else f"{count}"
    pictures.save(
        pictures.filters(
            weights,
            f"What the first layer looks for: {some} filters",
            f"{height} x {width} pixels each, strongest first, one colour scale; {name} autoencoder {until}.",
            unit,
            FILTERS,
        ),
        folder.path / "filters.png",
    )
    points, axes, subtitle = _plane(codes)
    pictures.save(
        pictures.class_map(
            points, labels, axes, "The code of every test digit", f"{subtitle} The autoencoder never saw a label."
        ),
        folder.path / "code.png",
    )


def _filters(model: Any, spread: np.ndarray) -> tuple[np.ndarray, str]:
    """First-layer weights as tiles (N, H, W), and what they measure. Input channels are averaged.

    Where a unit sees whole images its weights are multiplied by the standard deviation of each pixel: that is how much
    the pixel moves the unit. Pixels that are hardly ever inked get large weights by accident, which hide the rest.
    """
    weights = model.first_weights().detach().numpy()
    whole = weights.shape[1:] == spread.shape
    return (weights * spread if whole else weights).mean(1), "weight x deviation of pixel" if whole else "weight"


def _plane(codes: np.ndarray) -> tuple[np.ndarray, tuple[str, str], str]:
    """Codes (N, K) as points in a plane, the names of its axes, and a sentence that says what they are."""
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


def _epochs(trainer: Any) -> str:
    return _count(trainer.epoch, "epoch")


def _summarize(
    config: TrainAutoencoder, folder: Any, trainer: Any, errors: dict, warning: str, console: Console
) -> None:  # fmt: skip
    """A table of errors and the files, on the screen and in summary.txt."""
    from rich.console import Console
    from rich.table import Table

    from .files import write_atomic

    name = NAMES[config.arch]
    table = Table(title=f"{UNIT}, code of {config.code}", title_justify="left", title_style="bold")
    table.add_column("images")
    table.add_column(f"{name} autoencoder", justify="right")
    table.add_column("PCA", justify="right")
    table.add_column("ratio", justify="right")
    for split, (ours, linear) in errors.items():
        table.add_row(split, f"{ours:.3f}", f"{linear:.3f}", f"{ours / linear:.2f}" if linear > 1e-9 else "-")
    lines = [
        *([f"warning     {warning}"] if warning else []),
        f"Ctrl-C: stopped after step {trainer.step}, {trainer.epoch} of {_count(trainer.epochs, 'epoch')}"
        if trainer.interrupted
        else f"{_epochs(trainer)}, {_count(trainer.step, 'step')}, {trainer.seconds:.1f} s",
        f"pictures    {folder.path}/{{reconstructions,code,filters,loss}}.png",
        f"checkpoint  {folder.checkpoints / 'last.safetensors'}",
        f"run folder  {folder.path}",
    ]
    text = io.StringIO()
    for target in (console, Console(file=text, width=100)):
        target.print(table)
        for line in lines:
            target.print(line, soft_wrap=True, markup=False, highlight=False)
    write_atomic(folder.summary, text.getvalue())
