"""DCGAN: two convolutional nets play a game. One draws images from noise, the other tells them from real ones.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional Generative Adversarial
Networks" (ICLR 2016), figure 1; the game is that of Goodfellow et al., "Generative Adversarial Nets" (NIPS 2014).
Images are (N, C, H, W) with values from -1 to 1, the range of tanh; codes are (N, latent). Discriminators give logits:
the paper's last sigmoid is part of the losses, where its rounding does no harm.

Three pairs of sizes are known. Kernel 4 is the net that most programs mean by DCGAN; kernel 5 with a dense first layer
is the paper's figure and the authors' program for faces; `CIFARDiscriminator` is their net for learning features.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Literal

import numpy as np

import minidl
import minidl.functional as F
from minidl import Tensor, nn

from .weights import start


class Generator(nn.Module):
    """Codes (N, latent) -> images (N, channels, size, size) in (-1, 1).

        z 100 - project 512x4x4 - conv1 256x8x8 - conv2 128x16x16 - conv3 64x32x32 - conv4 3x64x64

    size: base times a power of two, at least 2 base. width: channels in front of the image; each layer before has
    twice as many. kernel_size: 4, or 5 for the authors' net. base: pixels on a side of the first feature maps. The net
    for 64 x 64 pixels in colour has 3,576,704 parameters (3,574,656 in grey); the authors' net, `Generator(width=128,
    kernel_size=5)`, 18,885,760. weights: a safetensors file to start from.
    """

    def __init__(
        self, size: int = 64, channels: int = 3, latent: int = 100, width: int = 64, kernel_size: Literal[4, 5] = 4,
        base: int = 4, weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        self.latent = latent
        layers = _layers(size, base, kernel_size)
        maps = [width * 2**i for i in reversed(range(layers))]  # 512, 256, 128, 64
        with nn.init.skip():
            self.project = _project(latent, maps[0], base, kernel_size)
            for i, (wide, narrow) in enumerate(pairwise(maps), 1):
                up = _double(wide, narrow, kernel_size)
                self.add_module(f"conv{i}", nn.Sequential(up, nn.BatchNorm2d(narrow), nn.ReLU()))
            # the image is not normalised, neither here nor where the discriminator takes it in (section 3)
            self.add_module(f"conv{layers}", nn.Sequential(_double(width, channels, kernel_size), nn.Tanh()))
        start(self, weights)

    def reset_parameters(self) -> None:
        """Weights N(0, 0.02), those of batch norm N(1, 0.02) (standard deviations); biases 0."""
        _reset(self)

    def forward(self, code: Any) -> Any:
        x = code
        for layer in self.children():
            x = layer(x)
        return x


class _Discriminator(nn.Module):
    """What discriminators share; abstract. Children: conv1, conv2, … and at last `score`."""

    base: int  # pixels on a side of the last feature maps
    score: nn.Module

    def reset_parameters(self) -> None:
        """Weights N(0, 0.02), those of batch norm N(1, 0.02) (standard deviations); biases 0."""
        _reset(self)

    def forward(self, image: Any) -> Any:
        """Images -> logits (N,), positive for what looks real. In training mode batch norm makes the answers depend on
        the whole batch: real images and drawn ones go in separately."""
        return self.score(self._activations(image)[-1]).flatten()

    def features(self, image: Any) -> Any:
        """What the net knows about images, for a linear classifier (the paper takes an L2-SVM): the answers of all
        convolutions, max-pooled to base x base cells each, in a row (section 5.1).

        (N, C, H, W) -> (N, base² · channels of all layers), 28,672 numbers from CIFARDiscriminator. Use evaluation
        mode.
        """
        pooled = [F.max_pool2d(x, x.shape[-1] // self.base) for x in self._activations(image)]
        return minidl.cat([x.flatten(1) for x in pooled], 1)

    def _activations(self, image: Any) -> list[Any]:
        """What each convolution gives, after its leaky ReLU."""
        found = [image]
        for layer in self.children():
            if layer is not self.score:
                found.append(layer(found[-1]))
        return found[1:]


class Discriminator(_Discriminator):
    """The generator's mirror: images (N, channels, size, size) -> logits (N,), positive for what looks real.

        x 3x64x64 - conv1 64x32x32 - conv2 128x16x16 - conv3 256x8x8 - conv4 512x4x4 - score 1

    Arguments as in Generator. The net for 64 x 64 pixels in colour has 2,765,568 parameters (2,763,520 in grey); the
    authors' net, `Discriminator(width=128, kernel_size=5)`, 17,232,768.
    """

    def __init__(
        self, size: int = 64, channels: int = 3, width: int = 64, kernel_size: Literal[4, 5] = 4, base: int = 4,
        weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        self.base = base
        maps = [width * 2**i for i in range(_layers(size, base, kernel_size))]  # 64, 128, 256, 512
        with nn.init.skip():
            self.conv1 = nn.Sequential(_halve(channels, width, kernel_size), nn.LeakyReLU(0.2))
            for i, (narrow, wide) in enumerate(pairwise(maps), 2):
                self.add_module(f"conv{i}", _normalised(_halve(narrow, wide, kernel_size)))
            self.score = _score(maps[-1], base, kernel_size)
        start(self, weights)


class CIFARDiscriminator(_Discriminator):
    """The authors' net for 32 x 32 pixels, trained on ImageNet, whose features classify CIFAR-10 (section 5.1).

    3 x 3 kernels; every second layer halves. Images (N, channels, 32, 32) -> logits (N,). width: channels of conv1.
    weights: a safetensors file to start from.
    """

    base = 4

    def __init__(self, channels: int = 3, width: int = 128, weights: str | os.PathLike | None = None):
        super().__init__()
        w = width
        with nn.init.skip():  # sizes for width 128                                          3 x 32 x 32
            self.conv1 = nn.Sequential(_three(channels, w, stride=1), nn.LeakyReLU(0.2))  # 128 x 32 x 32
            self.conv2 = _normalised(_three(w, w, stride=2))  #                             128 x 16 x 16
            self.conv3 = _normalised(_three(w, 2 * w, stride=1))  #                         256 x 16 x 16
            self.conv4 = _normalised(_three(2 * w, 2 * w, stride=2))  #                     256 x 8 x 8
            self.conv5 = _normalised(_three(2 * w, 4 * w, stride=1))  #                     512 x 8 x 8
            self.conv6 = _normalised(_three(4 * w, 4 * w, stride=2))  #                     512 x 4 x 4
            self.score = _score(4 * w, self.base, 5)  #                                     1
        start(self, weights)


# ---- the boxes
def _layers(size: int, base: int, kernel_size: int) -> int:
    """How often base is doubled to give size."""
    if kernel_size not in (4, 5):
        raise ValueError(f"kernel_size is {kernel_size}; 4 and 5 are known")
    layers = (size // base).bit_length() - 1 if base > 0 else 0
    if layers < 1 or base * 2**layers != size:
        fits = ", ".join(str(base * 2**i) for i in range(1, 6))
        raise ValueError(f"size is {size}; it must be base={base} times a power of two: {fits}, …")
    return layers


def _project(latent: int, maps: int, base: int, kernel_size: int) -> nn.Sequential:
    """(N, latent) -> (N, maps, base, base). One matrix either way, but normalised in another way: the authors' dense
    layer over the batch alone, each unit by itself; the transposed convolution over the positions as well."""
    if kernel_size == 5:
        units = maps * base**2
        dense = nn.Linear(latent, units, bias=False)
        return nn.Sequential(dense, nn.BatchNorm1d(units), nn.ReLU(), nn.Unflatten(1, (maps, base, base)))
    point = nn.Unflatten(1, (latent, 1, 1))
    return nn.Sequential(point, nn.ConvTranspose2d(latent, maps, base, bias=False), nn.BatchNorm2d(maps), nn.ReLU())


def _double(inputs: int, outputs: int, kernel_size: int) -> nn.Module:
    """(N, inputs, H, W) -> (N, outputs, 2H, 2W). Padding 2 with kernel 5 gives 2H - 1, hence the output padding."""
    padding, extra = {4: (1, 0), 5: (2, 1)}[kernel_size]
    return nn.ConvTranspose2d(inputs, outputs, kernel_size, 2, padding, extra, bias=False)


def _halve(inputs: int, outputs: int, kernel_size: int) -> nn.Conv2d:
    """(N, inputs, 2H, 2W) -> (N, outputs, H, W)"""
    return nn.Conv2d(inputs, outputs, kernel_size, 2, {4: 1, 5: 2}[kernel_size], bias=False)


def _three(inputs: int, outputs: int, stride: int) -> nn.Conv2d:
    """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)"""
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


def _normalised(conv: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels), nn.LeakyReLU(0.2))


def _score(maps: int, base: int, kernel_size: int) -> nn.Module:
    """(N, maps, base, base) -> one number for each image, as a convolution or as the authors' dense layer."""
    if kernel_size == 5:
        return nn.Sequential(nn.Flatten(), nn.Linear(maps * base**2, 1, bias=False))
    return nn.Conv2d(maps, 1, base, bias=False)


def _reset(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            layer.reset_running_stats()
            assert layer.weight is not None and layer.bias is not None
            nn.init.normal_(layer.weight, mean=1.0, std=0.02)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            nn.init.normal_(layer.weight, std=0.02)


# ---- the game
def discriminator_loss(real: Any, fake: Any) -> Any:
    """-log D(x) - log(1 - D(G(z))), each a mean over its batch, from logits (N,) and (M,). It is 2 log 2 where the
    discriminator cannot tell them apart."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Any, saturating: bool = False) -> Any:
    """-log D(G(z)), mean over the batch, from logits (N,). It pulls hardest while the discriminator is sure that the
    image is drawn. saturating: the game's own log(1 - D(G(z))), whose gradient vanishes just there (Goodfellow et al.,
    section 3)."""
    return -F.softplus(fake).mean() if saturating else F.softplus(-fake).mean()


class DCGAN(nn.Module):
    """Both players, for images of channels x size x size; arguments as in Generator, width for both.

    noise: codes are "normal", N(0, 1), or "uniform" in (-1, 1), as in the authors' program. One step of the game:

        loss = gan.discriminator_loss(images)      # backward() leaves the generator's gradients alone
        loss = gan.generator_loss(len(images))     # and this one the discriminator's

    The paper trains both with `optim.Adam(…, lr=2e-4, betas=(0.5, 0.999))` and batches of 128.
    """

    def __init__(
        self, size: int = 64, channels: int = 3, latent: int = 100, width: int = 64, kernel_size: Literal[4, 5] = 4,
        base: int = 4, noise: Literal["normal", "uniform"] = "normal", weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__()
        if noise not in ("normal", "uniform"):
            raise ValueError(f'noise is {noise!r}; it must be "normal" or "uniform"')
        self.noise = noise
        with nn.init.skip():
            self.generator = Generator(size, channels, latent, width, kernel_size, base)
            self.discriminator = Discriminator(size, channels, width, kernel_size, base)
        start(self, weights)

    def reset_parameters(self) -> None:
        """Those of both players."""
        self.generator.reset_parameters()
        self.discriminator.reset_parameters()

    def codes(self, n: int) -> Any:
        """n random codes, (n, latent)."""
        w = next(self.generator.parameters())
        draw = minidl.randn if self.noise == "normal" else minidl.rand
        code = draw(n, self.generator.latent, dtype=w.dtype, device=w.device)
        return code if self.noise == "normal" else 2 * code - 1

    def forward(self, code: Any) -> Any:
        """Codes (N, latent) -> images."""
        return self.generator(code)

    def sample(self, n: int) -> Any:
        """n new images. In evaluation mode an image depends on its code alone, in training mode on the whole batch."""
        return self.generator(self.codes(n))

    def discriminator_scores(self, real: Any, code: Any = None) -> tuple[Any, Any]:
        """The discriminator's logits for real images and as many drawn ones (from `code`, if given). The generator gets
        no gradient."""
        with minidl.no_grad():
            fake = self.generator(self.codes(len(real)) if code is None else code)
        # two batches: normalised together, each image would give away the other kind's statistics
        return self.discriminator(real), self.discriminator(fake)

    def generator_scores(self, n: int, code: Any = None) -> Any:
        """The discriminator's logits for n drawn images (from `code`, if given). The discriminator gets no gradient,
        and none is computed for its weights."""
        fake = self.generator(self.codes(n) if code is None else code)
        with _frozen(self.discriminator):
            return self.discriminator(fake)

    def discriminator_loss(self, real: Any, code: Any = None) -> Any:
        """The discriminator's loss on `discriminator_scores`."""
        return discriminator_loss(*self.discriminator_scores(real, code))

    def generator_loss(self, n: int, code: Any = None) -> Any:
        """The generator's loss on `generator_scores`."""
        return generator_loss(self.generator_scores(n, code))


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """What is recorded inside the block takes the model's parameters for constants."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for p in trained:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in trained:
            p.requires_grad = True


# ---- walking among the codes
def interpolate(first: Any, second: Any, steps: int = 10, spherical: bool = True) -> Any:
    """Codes on the way from some to others: (…, latent) twice -> (steps, …, latent), both ends included.

    spherical: along the great circle (Shoemake, "Animating Rotation with Quaternion Curves", 1985). Normal codes of
    many components nearly all have the same length, and a straight line leaves their shell: use spherical=False for
    uniform codes. Codes of the same or exactly opposite directions are joined by a straight line, as is the code 0.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; it needs at least the two ends")
    a, b = (np.asarray(code.detach().numpy(), np.float64) for code in (first, second))
    t = np.linspace(0, 1, steps).reshape(-1, *(1,) * a.ndim)
    lengths = np.linalg.norm(a, axis=-1, keepdims=True) * np.linalg.norm(b, axis=-1, keepdims=True)
    cosine = np.divide((a * b).sum(-1, keepdims=True), lengths, out=np.ones_like(lengths), where=lengths > 0)
    angle = np.arccos(np.clip(cosine, -1, 1))
    straight = np.full_like(angle, not spherical, bool) | (np.sin(angle) < 1e-6)
    angle = np.where(straight, 1.0, angle)  # any but 0: these are not used
    from_a = np.where(straight, 1 - t, np.sin((1 - t) * angle) / np.sin(angle))
    from_b = np.where(straight, t, np.sin(t * angle) / np.sin(angle))
    return Tensor((from_a * a + from_b * b).astype(first.dtype)).to(first.device)


def vector_arithmetic(codes: Any, minus: Any, plus: Any) -> Any:
    """codes - mean(minus) + mean(plus): (…, latent), (K, latent), (L, latent) -> (…, latent).

    "Smiling woman - neutral woman + neutral man" is `vector_arithmetic(smiling.mean(0), neutral_women, neutral_men)`.
    The paper averages three codes for each notion, as single ones are unstable (section 6.3.2). Draw the images in
    evaluation mode.
    """
    return codes - minus.mean(0) + plus.mean(0)
