"""Variational autoencoders (Kingma and Welling, 2014) on black-and-white images: a step of Adam on the bound.

PyTorch's Adam is the fused one, which is its fastest. The noise of the codes is drawn before, the same for both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..case import Case, Work
from .common import ADAM_TRAFFIC, Library, cost, library, random, set_parameters


def mlp(name: str, batch: int = 128, size: int = 28, hidden: int = 400, latent: int = 20) -> dict[str, Case]:
    """batch, size: of the images. hidden: units. latent: numbers of a code."""

    def network(lib: Library) -> Any:
        if name == "minidl":
            from minidl.models.vae import MLPVAE

            return MLPVAE((1, size, size), hidden, latent, activation=lib.nn.ReLU)
        nn, pixels = lib.nn, size * size
        return _torch(
            lib,
            nn.Sequential(nn.Flatten(), nn.Linear(pixels, hidden), nn.ReLU()),
            nn.Linear(hidden, latent),
            nn.Linear(hidden, latent),
            nn.Sequential(nn.Linear(latent, hidden), nn.ReLU()),
            nn.Sequential(nn.Linear(hidden, pixels), nn.Unflatten(1, (1, size, size))),
        )

    return _step(name, network, batch, size, latent)


def conv(name: str, batch: int = 128, size: int = 28, latent: int = 20) -> dict[str, Case]:
    """batch, size: of the images. latent: numbers of a code."""

    def network(lib: Library) -> Any:
        if name == "minidl":
            from minidl.models.vae import ConvVAE

            return ConvVAE((1, size, size), latent=latent)
        nn, maps = lib.nn, (64, size // 4, size // 4)
        units = 64 * (size // 4) ** 2
        return _torch(
            lib,
            nn.Sequential(
                nn.Conv2d(1, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 4, 2, 1), nn.ReLU(), nn.Flatten()
            ),
            nn.Linear(units, latent),
            nn.Linear(units, latent),
            nn.Sequential(
                nn.Linear(latent, units), nn.ReLU(), nn.Unflatten(1, maps),
                nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(),
            ),
            nn.ConvTranspose2d(32, 1, 4, 2, 1),
        )  # fmt: skip

    return _step(name, network, batch, size, latent)


def _step(name: str, network: Callable[[Library], Any], batch: int, size: int, latent: int) -> dict[str, Case]:
    lib = library(name)

    def prepare() -> Work:
        model = set_parameters(lib.dl, network(lib))
        images = lib.tensor((random(batch, 1, size, size) > 1).astype(np.float32))
        noise = lib.tensor(random(batch, latent, seed=1))
        spent = cost(lib, model, tuple(images.shape))
        model = lib.place(model)
        optimizer = lib.optim.Adam(model.parameters(), lr=1e-3, **({} if name == "minidl" else {"fused": True}))

        def step() -> Any:
            optimizer.zero_grad()
            mean, logvar = model.encode(images)
            code = mean + lib.dl.exp(0.5 * logvar) * noise
            kl = -0.5 * (1 + logvar - lib.dl.square(mean) - lib.dl.exp(logvar)).sum(1)
            loss = (kl - model.log_likelihood(images, code)).mean()
            loss.backward()
            optimizer.step()
            return loss

        return Work(step, 3 * spent.flops, 3 * spent.bytes + ADAM_TRAFFIC * spent.parameters)

    return {"training step": Case(prepare)}


def _torch(lib: Library, encoder: Any, mean: Any, logvar: Any, decoder: Any, pixels: Any) -> Any:
    dl, F = lib.dl, lib.F

    class VAE(lib.nn.Module):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.mean, self.logvar, self.decoder, self.pixels = encoder, mean, logvar, decoder, pixels

        def encode(self, image: Any) -> Any:
            h = self.encoder(image)
            return self.mean(h), dl.clamp(self.logvar(h), -10, 10)

        def log_likelihood(self, image: Any, code: Any) -> Any:
            pixels = self.pixels(self.decoder(code))
            return -F.binary_cross_entropy_with_logits(pixels, image, reduction="none").flatten(1).sum(1)

    return VAE()
