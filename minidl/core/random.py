"""The one stream of random numbers that initialisation, dropout and sampling draw from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@cache
def generator() -> np.random.Generator:
    """The generator itself."""
    from numpy.random import PCG64, Generator  # a quarter of NumPy's import time, so only when it is needed

    return Generator(PCG64())


def manual_seed(seed: int) -> None:
    """Start the stream anew from `seed`; the same seed gives the same numbers on every machine."""
    from numpy.random import PCG64

    set_rng_state(dict(PCG64(seed).state))


def get_rng_state() -> dict[str, Any]:
    """The state of the stream: a dict of numbers and strings, fit for JSON."""
    return dict(generator().bit_generator.state)


def set_rng_state(state: dict[str, Any]) -> None:
    """Go back (or forward) to a state from `get_rng_state`."""
    generator().bit_generator.state = state


@contextmanager
def replay(state: dict[str, Any]) -> Iterator[None]:
    """Draw from `state` inside the block, then go on from where the stream was."""
    now = get_rng_state()
    set_rng_state(state)
    try:
        yield
    finally:
        set_rng_state(now)
