"""Autoencoders: a network squeezes an image into a short code, another draws the image again from the code alone.

Three generations: linear (with or without a sigmoid, tied weights or not), deep and dense, convolutional. All have
`encode` (N, C, H, W) -> code, `decode` code -> (N, C, H, W), and `forward`, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, Literal

import minidl
import minidl.functional as F
from minidl import nn


class MLPAutoencoder(nn.Module):
    """The deep autoencoder of Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks"
    (Science 2006), figure 1, with tanh in the place of pretrained logistic units.

        image - hidden[0] - hidden[1] - … - code - … - hidden[1] - hidden[0] - image

    The code is linear, the image comes out of a sigmoid. Their MNIST network is ((1, 28, 28), (1000, 500, 250), 30).
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), hidden: Sequence[int] = (256, 128), code: int = 2):
        super().__init__()
        sizes = [prod(shape), *hidden, code]
        self.encoder = nn.Sequential({"0": nn.Flatten(), **_dense(sizes, 1, None)})
        unflatten = nn.Unflatten(1, tuple(shape))
        self.decoder = nn.Sequential({**_dense(sizes[::-1], 0, "sigmoid"), f"{2 * len(sizes) - 2}": unflatten})

    def encode(self, image: Any) -> Any:
        """(N, C, H, W) -> (N, code)"""
        return self.encoder(image)

    def decode(self, code: Any) -> Any:
        """(N, code) -> (N, C, H, W), values in (0, 1)"""
        return self.decoder(code)

    def forward(self, image: Any) -> Any:
        return self.decode(self.encode(image))

    def first_weights(self) -> Any:
        """What the first layer's units look for: (units, C, H, W)."""
        return self.encoder[1].weight.reshape(-1, *self.decoder[-1].unflattened_size)


def _dense(sizes: Sequence[int], first: int, last: Literal["sigmoid"] | None) -> dict[str, nn.Module]:
    """Linear layers from each size to the next, with tanh; the last one's activation is `last`.

    They are named from `first` on, as if the activations were layers between them, as in files saved when they were.
    """
    pairs = list(pairwise(sizes))
    return {
        f"{first + 2 * i}": nn.Linear(*pair, activation="tanh" if i < len(pairs) - 1 else last)
        for i, pair in enumerate(pairs)
    }


class ConvAutoencoder(nn.Module):
    """Convolutions down, transposed convolutions up: kernel 4, stride 2, padding 1, so every layer halves or doubles.

        image @HxW - channels[0] @H/2 - channels[1] @H/4 - … - (code) - … - image @HxW

    code: size of a linear code; None leaves the last feature maps as the code, as in the 32-64-128-256 network for
    3 x 32 x 32 images, which has 1,380,035 parameters. H and W must be divisible by 2 ** len(channels).
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), channels: Sequence[int] = (32, 64), code: int | None = 2):
        super().__init__()
        depth, height, width = shape
        scale = 2 ** len(channels)
        if height % scale or width % scale:
            raise ValueError(
                f"{height} x {width} pixels cannot be halved {len(channels)} times: both must be divisible by {scale}"
            )
        maps = (channels[-1], height // scale, width // scale)
        sizes = [depth, *channels]
        self.down = nn.Sequential(_steps(nn.Conv2d, sizes, last="relu"))
        self.up = nn.Sequential({**_steps(nn.ConvTranspose2d, sizes[::-1], last=None), "image": nn.Sigmoid()})
        self.squeeze: nn.Module = nn.Identity()
        self.expand: nn.Module = nn.Identity()
        if code is not None:
            self.squeeze = nn.Sequential(nn.Flatten(), nn.Linear(prod(maps), code))
            self.expand = nn.Sequential(nn.Linear(code, prod(maps)), nn.ReLU(), nn.Unflatten(1, maps))

    def encode(self, image: Any) -> Any:
        """(N, C, H, W) -> (N, code), or without a code size (N, channels[-1], H / scale, W / scale)"""
        return self.squeeze(self.down(image))

    def decode(self, code: Any) -> Any:
        """The code -> (N, C, H, W), values in (0, 1)"""
        return self.up(self.expand(code))

    def forward(self, image: Any) -> Any:
        return self.decode(self.encode(image))

    def first_weights(self) -> Any:
        """The kernels of the first convolution: (channels[0], C, 4, 4)."""
        return self.down[0].weight


def _steps(layer: Callable[..., nn.Module], sizes: Sequence[int], last: Literal["relu"] | None) -> dict[str, nn.Module]:
    """4x4 layers of stride 2 from each number of channels to the next, with ReLU; the last one's activation is `last`.

    They are named as if ReLU were a layer between them, as in files saved when it was.
    """
    layers = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        activation = last if i == len(sizes) - 2 else "relu"
        layers[f"{2 * i}"] = layer(inputs, outputs, kernel_size=4, stride=2, padding=1, activation=activation)
    return layers


class LinearAutoencoder(nn.Module):
    """One matrix down, one matrix up. With squared error its best code spans the principal components: the same
    subspace, not the same axes (Baldi and Hornik, "Neural Networks and Principal Component Analysis", 1989).

    tied: the matrix up is the transpose of the matrix down.
    sigmoid: code and image pass through a sigmoid, the traditional non-linear autoencoder.
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), code: int = 2, tied: bool = False, sigmoid: bool = False):
        super().__init__()
        pixels = prod(shape)
        self.shape = tuple(shape)
        self.down = nn.Linear(pixels, code)
        up = nn.Linear(code, pixels)
        # tied weights: of the way up only the bias is a parameter
        self.up = None if tied else up
        self.bias = up.bias if tied else None
        self.nonlinearity = nn.Sigmoid() if sigmoid else nn.Identity()

    def encode(self, image: Any) -> Any:
        """(N, C, H, W) -> (N, code)"""
        return self.nonlinearity(self.down(image.flatten(1)))

    def decode(self, code: Any) -> Any:
        """(N, code) -> (N, C, H, W)"""
        pixels = (
            F.linear(code, minidl.transpose(self.down.weight, 0, 1), self.bias) if self.up is None else self.up(code)
        )
        return self.nonlinearity(pixels).unflatten(1, self.shape)

    def forward(self, image: Any) -> Any:
        return self.decode(self.encode(image))

    def first_weights(self) -> Any:
        """What each number of the code looks for: (code, C, H, W)."""
        return minidl.reshape(self.down.weight, -1, *self.shape)


def corrupt(image: Any, noise: float = 0.5) -> Any:
    """image + noise · N(0, 1) in every pixel, not limited to (0, 1): what a denoising autoencoder is given, to draw the
    clean image. It cannot copy: it has to know which images there are. Vincent et al., "Stacked Denoising
    Autoencoders" (JMLR 2010)."""
    if noise < 0:
        raise ValueError(f"noise is {noise}; it is a standard deviation and must be at least 0")
    return image + noise * minidl.randn_like(image)


class Classifier(nn.Module):
    """What becomes of an autoencoder when labels come: its decoder is dropped, a linear layer takes its place.

        image - encoder - head classes

    encoder: images -> (N, …), `features` numbers for each image. It is used itself, not a copy, and trained along with
    the head (fine-tuning) unless freeze_encoder; then its parameters get no gradients. Gives logits (N, classes).
    """

    def __init__(self, encoder: nn.Module, features: int, classes: int = 10, freeze_encoder: bool = False):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(features, classes)
        if freeze_encoder:
            encoder.requires_grad_(False)

    def forward(self, image: Any) -> Any:
        return self.head(self.encoder(image).flatten(1))


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Which autoencoder."""

    arch: Literal["mlp", "conv", "linear"] = "mlp"
    """The network: dense layers, convolutions, or one matrix (which finds what PCA finds)."""
    code: int = 2
    """Numbers that the code of an image has. With 2 they are the map; with more, the map shows their PCA."""


def build(config: AutoencoderConfig, shape: Sequence[int] = (1, 8, 8)) -> nn.Module:
    """The network that a configuration describes, for images of this shape (C, H, W)."""
    return {"mlp": MLPAutoencoder, "conv": ConvAutoencoder, "linear": LinearAutoencoder}[config.arch](
        shape, code=config.code
    )
