"""Variational autoencoders: a code with a known distribution, so that codes drawn at random give new images.

Kingma and Welling, "Auto-Encoding Variational Bayes" (ICLR 2014). The encoder gives the mean and the log variance of
q(z|x), a normal distribution with independent components; the decoder gives p(x|z), for every pixel a probability
(Bernoulli) or a mean and a variance (Gaussian); the prior p(z) is N(0, I). What is maximised is a lower bound of the
log-likelihood (equation 10 of the paper),

    log p(x)  >=  E_q log p(x|z) - KL(q(z|x) || p(z)),    z = mean + exp(logvar / 2) eps,  eps ~ N(0, I).

Both terms are sums over the pixels, or components, of an image: a mean over pixels would give the KL term that many
times the weight. Bounds of the two likelihoods cannot be compared: one is a log-probability and at most 0, the other
the log of a density, which has no upper limit. For grey values in (0, 1) the Bernoulli term is only a surrogate.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod
from statistics import NormalDist
from typing import Any, Literal

import minidl
import minidl.functional as F
from minidl import nn

from .weights import start

Likelihood = Literal["bernoulli", "gaussian"]
LOG_TWO_PI = math.log(2 * math.pi)


def kl_divergence(mean: Any, logvar: Any) -> Any:
    """KL(N(mean, exp(logvar)) || N(0, I)): (N, Nz) twice -> (N,). Appendix B of the paper:

    -1/2 sum(1 + logvar - mean^2 - exp(logvar)).
    """
    return -0.5 * (1 + logvar - minidl.square(mean) - minidl.exp(logvar)).sum(1)


class VAE(nn.Module):
    """What all have in common; abstract. A net has these parts, of which pixels_logvar is None for Bernoulli pixels:

        x - encoder - h - mean, logvar            z - decoder - h - pixels, pixels_logvar

    Images are (N, C, H, W) with values from 0 to 1, codes (N, latent).
    """

    encoder: nn.Module
    mean: nn.Linear
    logvar: nn.Linear
    decoder: nn.Module
    pixels: nn.Module
    pixels_logvar: nn.Module | None

    logvar_limits = (-10.0, 10.0)
    """Log variances of q(z|x) outside are set to the limit: exp() would overflow."""
    pixels_logvar_limits = (-6.0, 10.0)
    """The same for p(x|z). The lower one, a standard deviation of 0.05, matters for the bound: a pixel that never
    changes would otherwise have an unlimited density."""

    def __init__(self, shape: Sequence[int], latent: int, likelihood: Likelihood):
        super().__init__()
        if likelihood not in ("bernoulli", "gaussian"):
            raise ValueError(f'likelihood is {likelihood!r}; it must be "bernoulli" or "gaussian"')
        self.shape = tuple(shape)
        self.latent = latent
        self.likelihood = likelihood

    def reset_layers(self) -> None:
        """Draw every layer's own initial values, in place of the net's (`reset_parameters`)."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                layer.reset_parameters()

    # ---- the two distributions
    def encode(self, image: Any) -> tuple[Any, Any]:
        """q(z|x): images -> mean and log variance, (N, latent) each."""
        h = self.encoder(image)
        return self.mean(h), minidl.clamp(self.logvar(h), *self.logvar_limits)

    def decode(self, code: Any) -> Any:
        """The mean of p(x|z): codes -> images, values in (0, 1)."""
        return minidl.sigmoid(self.pixels(self.decoder(code)))

    def log_likelihood(self, image: Any, code: Any) -> Any:
        """log p(x|z), summed over the pixels, in nats: images and their codes -> (N,)."""
        h = self.decoder(code)
        pixels = self.pixels(h)
        if self.pixels_logvar is None:
            # from logits: the logarithm of a sigmoid that has rounded to 0 or 1 would be infinite
            loss = F.binary_cross_entropy_with_logits(pixels, image, reduction="none")
        else:
            logvar = minidl.clamp(self.pixels_logvar(h), *self.pixels_logvar_limits)
            # the paper's means for grey images: between 0 and 1
            distance = minidl.square(image - minidl.sigmoid(pixels))
            loss = 0.5 * (LOG_TWO_PI + logvar + distance * minidl.exp(-logvar))
        return -loss.flatten(1).sum(1)

    # ---- the bounds
    def forward(self, image: Any) -> Any:
        """Images -> a reconstruction from a random code, so another one in every call."""
        mean, logvar = self.encode(image)
        return self.decode(_draw(mean, logvar)[0])

    def elbo(self, image: Any, kl_weight: float = 1.0) -> tuple[Any, Any, Any]:
        """Images -> (loss, reconstruction, kl), scalars in nats per image (summed over pixels, mean over the batch).

        reconstruction estimates -E log p(x|z) from one code for each image, kl is exact, and loss = reconstruction +
        kl_weight · kl. With weight 1, -loss is the bound. The code is drawn in evaluation mode as well: the mean in
        its place would flatter the bound.
        """
        mean, logvar = self.encode(image)
        code, _ = _draw(mean, logvar)
        reconstruction = -self.log_likelihood(image, code).mean()
        kl = kl_divergence(mean, logvar).mean()
        return reconstruction + kl_weight * kl, reconstruction, kl

    def importance_bound(self, image: Any, samples: int = 100) -> Any:
        """A bound of log p(x) that is tighter the more codes are drawn for each image: images -> (N,), in nats.

            log 1/K sum_k p(x|z_k) p(z_k) / q(z_k|x),    z_k ~ q(z|x)

        Its expectation is the ELBO for one sample, never falls with more, and tends to log p(x). Burda, Grosse and
        Salakhutdinov, "Importance Weighted Autoencoders" (ICLR 2016), equation 8.
        """
        if samples < 1:
            raise ValueError(f"samples is {samples}; at least one code must be drawn")
        mean, logvar = self.encode(image)
        ratios = []
        for _ in range(samples):  # one after the other: all at once would need `samples` times the memory
            code, noise = _draw(mean, logvar)
            # log p(z) - log q(z|x), in which the log(2 pi) cancel
            prior = 0.5 * (minidl.square(noise) + logvar - minidl.square(code)).sum(1)
            ratios.append(self.log_likelihood(image, code) + prior)
        return minidl.logsumexp(minidl.stack(ratios), 0) - math.log(samples)

    # ---- looking at it
    def sample(self, n: int) -> Any:
        """n new images: the means of p(x|z) for codes from the prior."""
        w = self.mean.weight
        return self.decode(minidl.randn(n, self.latent, dtype=w.dtype, device=w.device))

    def reconstruct(self, image: Any) -> Any:
        """Images -> images, by way of the mean code; nothing is random."""
        return self.decode(self.encode(image)[0])

    def interpolate(self, first: Any, second: Any, steps: int = 10) -> Any:
        """From images to other images in equal steps between their mean codes: (N, C, H, W) twice -> (steps, N, C, H,
        W). The first and last step are the reconstructions."""
        a, b = self.encode(first)[0], self.encode(second)[0]
        return minidl.stack([self.decode(a * (1 - t) + b * t) for t in _steps(steps)])

    def manifold(self, size: int = 15) -> tuple[Any, tuple[list[float], list[float]]]:
        """What a code of two numbers means: the means of p(x|z) for codes on a grid between whose lines lie equal
        shares of the prior (figure 4 of the paper).

        Images (size, size, C, H, W), and the codes' numbers along the columns, which rise, and along the rows, which
        fall, so that row 0 is at the top: images[i, j] is decoded from (columns[j], rows[i]). Raises ValueError for
        codes of another length.
        """
        if self.latent != 2:
            raise ValueError(f"latent is {self.latent}; only codes of 2 numbers fill a grid")
        if size < 1:
            raise ValueError(f"size is {size}; it must be at least 1")
        columns = [NormalDist().inv_cdf((i + 0.5) / size) for i in range(size)]
        rows = columns[::-1]
        w = self.mean.weight
        codes = minidl.tensor([(x, y) for y in rows for x in columns], dtype=w.dtype, device=w.device)
        return self.decode(codes).unflatten(0, (size, size)), (columns, rows)


class MLPVAE(VAE):
    """The net of the paper's experiments: one hidden layer of tanh units on either side.

        x 784 - 500 - mean, logvar Nz            z Nz - 500 - 784

    784 - 500 - Nz has 788,788, 815,824 and 1,086,184 parameters for Nz = 2, 20 and 200; for Frey faces the paper takes
    ((1, 28, 20), 200, likelihood="gaussian"). PyTorch's example is hidden=400, activation=nn.ReLU: 652,824.
    weights: a safetensors file to start from.
    """

    def __init__(
        self, shape: Sequence[int] = (1, 28, 28), hidden: int = 500, latent: int = 20,
        likelihood: Likelihood = "bernoulli", activation: Callable[[], nn.Module] = nn.Tanh,
        weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__(shape, latent, likelihood)
        size = prod(shape)
        image = lambda: nn.Sequential(nn.Linear(hidden, size), nn.Unflatten(1, self.shape))
        with nn.init.skip():
            self.encoder = nn.Sequential(nn.Flatten(), *_dense(size, hidden, activation))
            self.mean = nn.Linear(hidden, latent)
            self.logvar = nn.Linear(hidden, latent)
            self.decoder = nn.Sequential(*_dense(latent, hidden, activation))
            self.pixels = image()
            self.pixels_logvar = image() if likelihood == "gaussian" else None
        start(self, weights)

    def reset_parameters(self) -> None:
        """Weights N(0, 0.01), as the paper writes it (read here as the standard deviation); biases 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)


FUSED: dict[Any, Any] = {nn.ReLU: "relu", nn.Tanh: "tanh", nn.Sigmoid: "sigmoid"}


def _dense(inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> list[nn.Module]:
    """A linear layer and the activation: one operation, if there is one that does both."""
    kind = FUSED.get(activation)
    return [nn.Linear(inputs, outputs, activation=kind), *([] if kind else [activation()])]


class ConvVAE(VAE):
    """Convolutions down, transposed convolutions up: kernel 4, stride 2, padding 1, so every layer halves or doubles.

        x 1x28x28 - 32x14x14 - 64x7x7 - mean, logvar Nz            z Nz - 64x7x7 - 32x14x14 - 1x28x28

    channels: of the layers, first to last. H and W must be divisible by 2 ** len(channels): (1, 28, 28) and (1, 8, 8)
    fit the two of the default. No paper prescribes it; the initial values are those of the layers. weights: a
    safetensors file to start from.
    """

    def __init__(
        self, shape: Sequence[int] = (1, 28, 28), channels: Sequence[int] = (32, 64), latent: int = 20,
        likelihood: Likelihood = "bernoulli", weights: str | os.PathLike | None = None,
    ):  # fmt: skip
        super().__init__(shape, latent, likelihood)
        depth, height, width = shape
        scale = 2 ** len(channels)
        if height % scale or width % scale:
            raise ValueError(
                f"{height} x {width} pixels cannot be halved {len(channels)} times: both must be divisible by {scale}"
            )
        maps = (channels[-1], height // scale, width // scale)
        with nn.init.skip():
            # layers are named as if ReLU were one after each convolution or product, as in files saved when it was
            unpack = {"0": nn.Linear(latent, prod(maps), activation="relu"), "2": nn.Unflatten(1, maps)}
            down = {f"{2 * i}": _halve(*sizes) for i, sizes in enumerate(pairwise([depth, *channels]))}
            up = {f"{2 * i + 3}": _double(*sizes, "relu") for i, sizes in enumerate(pairwise(channels[::-1]))}
            self.encoder = nn.Sequential({**down, "flatten": nn.Flatten()})
            self.mean = nn.Linear(prod(maps), latent)
            self.logvar = nn.Linear(prod(maps), latent)
            self.decoder = nn.Sequential({**unpack, **up})
            self.pixels = _double(channels[0], depth)
            self.pixels_logvar = _double(channels[0], depth) if likelihood == "gaussian" else None
        start(self, weights)

    def reset_parameters(self) -> None:
        """Each layer's own."""
        self.reset_layers()


def _halve(inputs: int, outputs: int) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel_size=4, stride=2, padding=1, activation="relu")


def _double(inputs: int, outputs: int, activation: Literal["relu"] | None = None) -> nn.Module:
    return nn.ConvTranspose2d(inputs, outputs, kernel_size=4, stride=2, padding=1, activation=activation)


def _draw(mean: Any, logvar: Any) -> tuple[Any, Any]:
    """A code from N(mean, exp(logvar)), differentiable in both, and the noise that it was made from."""
    noise = minidl.randn_like(mean)
    return mean + minidl.exp(0.5 * logvar) * noise, noise


def _steps(steps: int) -> list[float]:
    """`steps` numbers from 0 to 1."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; it needs at least the two ends")
    return [i / (steps - 1) for i in range(steps)]
