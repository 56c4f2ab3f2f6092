"""The one stream of random numbers that initialisation, dropout and sampling draw from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


_of_thread = threading.local()


def generator() -> np.random.Generator:
    """The generator itself. Each thread has one of its own: with a common one no thread could repeat its numbers."""
    try:
        return _of_thread.generator
    except AttributeError:
        from numpy.random import PCG64, Generator  # a quarter of NumPy's import time, so only when it is needed

        _of_thread.generator = Generator(PCG64())
        return _of_thread.generator


def manual_seed(seed: int) -> None:
    """Start this thread's stream anew from `seed`; the same seed gives the same numbers on every machine."""
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
