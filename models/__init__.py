"""The networks. Each module reads like the figure of the paper it comes from.

`MODELS` and `NETWORKS` are what the command line offers. They name things and import nothing, so they are free to read.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

if __name__ != "minidl.models":
    raise ImportError(f"import minidl.models, not {__name__}")


class Entry(NamedTuple):
    """A model that `minidl train` knows."""

    summary: str
    recipe: str  # "module:name" of the dataclass of all its options


class Network(NamedTuple):
    """A network as its paper has it, for `minidl summary` and `minidl draw`."""

    summary: str
    place: str  # "module:name" of the class
    shape: tuple[int, ...] | tuple[tuple[int, ...], ...]  # of one input, with the batch in front, or of several
    options: Mapping[str, Any] = {}


MODELS = {
    "ae": Entry("autoencoder: dense, convolutional or linear", "minidl.train.recipes.autoencoder:TrainAutoencoder"),
    "vae": Entry("variational autoencoder", "minidl.train.recipes.vae:TrainVAE"),
    "dcgan": Entry("generative adversarial network", "minidl.train.recipes.dcgan:TrainDCGAN"),
    "c3d": Entry("3-D convolutions on clips", "minidl.train.recipes.video:TrainC3D"),
    "gru-rcn": Entry("convolutional GRU on clips", "minidl.train.recipes.video:TrainGRURCN"),
}

CLIP = (1, 3, 16, 112, 112)

NETWORKS = {
    "ae": Network("the digits' autoencoder", "minidl.models.autoencoder:MLPAutoencoder", (1, 1, 8, 8)),
    "ae-conv": Network("convolutional autoencoder", "minidl.models.autoencoder:ConvAutoencoder", (1, 1, 8, 8)),
    "ae-mnist": Network(
        "Hinton and Salakhutdinov's, 2006", "minidl.models.autoencoder:MLPAutoencoder", (1, 1, 28, 28),
        {"shape": (1, 28, 28), "hidden": (1000, 500, 250), "code": 30},
    ),
    "vae": Network("Kingma and Welling's for MNIST, 2014", "minidl.models.vae:MLPVAE", (1, 1, 28, 28)),
    "vae-conv": Network("convolutional VAE", "minidl.models.vae:ConvVAE", (1, 1, 28, 28)),
    "dcgan": Network("DCGAN's generator, 64 x 64 in colour", "minidl.models.dcgan:Generator", (1, 100)),
    "dcgan-discriminator": Network("and its discriminator", "minidl.models.dcgan:Discriminator", (1, 3, 64, 64)),
    "dcgan-paper": Network(
        "the generator of the paper's figure 1", "minidl.models.dcgan:Generator", (1, 100),
        {"width": 128, "kernel_size": 5},
    ),
    "c3d": Network("Tran et al., 2015, 487 classes", "minidl.models.c3d:C3D", CLIP),
    "c3d-small": Network("their net for UCF-101 from scratch", "minidl.models.c3d:SmallC3D", CLIP),
    "c3d-mini": Network("a small one for moving digits", "minidl.models.motion:C3DMini", (1, 1, 8, 16, 16)),
    "vgg16": Network("Simonyan and Zisserman, 2015", "minidl.models.vgg:VGG16", (1, 3, 224, 224)),
    "convgru": Network("a ConvGRU for moving digits", "minidl.models.motion:ConvGRUClassifier", (1, 1, 8, 16, 16)),
    "gru-rcn": Network(
        "Ballas et al., 2016: five recurrences on VGG-16, 10 frames", "minidl.models.gru_rcn:vgg16_gru_rcn",
        (1, 3, 10, 224, 224),
    ),
}  # fmt: skip
