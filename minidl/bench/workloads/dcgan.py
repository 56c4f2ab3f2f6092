"""DCGAN (Radford et al., 2016), 3 x 64 x 64: one step of the discriminator and one of the generator, both with Adam."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..case import Case, Work
from .common import ADAM_TRAFFIC, Library, cost, library, random, set_parameters

LATENT = 100
ADAM = {"lr": 2e-4, "betas": (0.5, 0.999)}


def cases(name: str, batch: int = 32, size: int = 64, width: int = 64) -> dict[str, Case]:
    """batch, size: of the images. width: channels next to the image."""
    lib = library(name)

    def prepare() -> Work:
        real = lib.tensor(random(batch, 3, size, size)).tanh()
        codes = [lib.tensor(random(batch, LATENT, seed=seed)) for seed in (1, 2)]
        generator, discriminator = (
            set_parameters(lib.dl, model, seed)
            for seed, model in enumerate(_minidl(size, width) if name == "minidl" else _torch(lib, size, width))
        )
        g, d = cost(lib, generator, (batch, LATENT)), cost(lib, discriminator, (batch, 3, size, size))
        generator, discriminator = lib.place(generator), lib.place(discriminator)
        g_optimizer = lib.optim.Adam(generator.parameters(), **ADAM)
        d_optimizer = lib.optim.Adam(discriminator.parameters(), **ADAM)
        softplus = lib.F.softplus

        def step() -> Any:
            # the discriminator's turn
            with lib.dl.no_grad():
                fake = generator(codes[0])
            d_optimizer.zero_grad()
            d_loss = softplus(-discriminator(real)).mean() + softplus(discriminator(fake)).mean()
            d_loss.backward()
            d_optimizer.step()
            # the generator's; the discriminator only passes gradients on
            for p in discriminator.parameters():
                p.requires_grad = False
            g_optimizer.zero_grad()
            g_loss = softplus(-discriminator(generator(codes[1]))).mean()
            g_loss.backward()
            g_optimizer.step()
            for p in discriminator.parameters():
                p.requires_grad = True
            return d_loss + g_loss

        # drawn once without and once with backward; judged three times, twice with all gradients, once with inputs'
        flops, moved = (4 * g[i] + 8 * d[i] for i in (0, 1))
        return Work(step, flops, moved + ADAM_TRAFFIC * (g.parameters + d.parameters))

    return {"step of both players": Case(prepare)}


def _minidl(size: int, width: int) -> tuple[Any, Any]:
    from minidl.models.dcgan import DCGAN

    gan = DCGAN(size, width=width, latent=LATENT)
    return gan.generator, gan.discriminator


def _torch(lib: Library, size: int, width: int) -> tuple[Any, Any]:
    nn = lib.nn
    maps = [width]
    while 4 * 2 ** len(maps) < size:
        maps.append(2 * maps[-1])
    down, up = pairwise(maps), pairwise(maps[::-1])
    generator = [
        nn.Unflatten(1, (LATENT, 1, 1)),
        nn.ConvTranspose2d(LATENT, maps[-1], 4, bias=False),
        nn.BatchNorm2d(maps[-1]),
        nn.ReLU(),
    ]
    for wide, narrow in up:
        generator += [nn.ConvTranspose2d(wide, narrow, 4, 2, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU()]
    generator += [nn.ConvTranspose2d(width, 3, 4, 2, 1, bias=False), nn.Tanh()]
    discriminator = [nn.Conv2d(3, width, 4, 2, 1, bias=False), nn.LeakyReLU(0.2)]
    for narrow, wide in down:
        discriminator += [nn.Conv2d(narrow, wide, 4, 2, 1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(0.2)]
    discriminator += [nn.Conv2d(maps[-1], 1, 4, bias=False), nn.Flatten(0)]
    return nn.Sequential(*generator), nn.Sequential(*discriminator)
