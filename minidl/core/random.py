"""The one stream of random numbers that initialisation, dropout and sampling draw from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_generator = np.random.Generator(np.random.PCG64())


def generator() -> np.random.Generator:
    """The generator itself."""
    return _generator


def manual_seed(seed: int) -> None:
    """Start the stream anew from `seed`; the same seed gives the same numbers on every machine."""
    set_rng_state(np.random.PCG64(seed).state)


def get_rng_state() -> dict[str, Any]:
    """The state of the stream: a dict of numbers and strings, fit for JSON."""
    return _generator.bit_generator.state


def set_rng_state(state: dict[str, Any]) -> None:
    """Go back (or forward) to a state from `get_rng_state`."""
    _generator.bit_generator.state = state


@contextmanager
def replay(state: dict[str, Any]) -> Iterator[None]:
    """Draw from `state` inside the block, then go on from where the stream was."""
    now = get_rng_state()
    set_rng_state(state)
    try:
        yield
    finally:
        set_rng_state(now)
