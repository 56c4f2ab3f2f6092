"""The one stream of random numbers that initialisation, dropout and sampling draw from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..kernels import capture

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
    if capture.capturing():
        raise RuntimeError("a captured step cannot set the random stream, as no replay would: do it before the step")
    generator().bit_generator.state = state


class Moment(NamedTuple):
    """Where the stream is, and in a step that is captured (minidl.graphs) how many values it has asked for."""

    state: dict[str, Any]
    values: int


def moment() -> Moment:
    """This moment, for `replay`."""
    recorder = capture.recorder()
    return Moment(get_rng_state(), 0 if recorder is None else len(recorder.values))


@contextmanager
def replay(then: dict[str, Any] | Moment) -> Iterator[None]:
    """Draw from a state, or what was drawn since a moment, inside the block; then go on from where the stream was."""
    recorder = capture.recorder()
    if recorder is not None and isinstance(then, Moment):  # what was drawn is in the device's memory, and read again
        with recorder.again(then.values):
            yield
        return
    now = get_rng_state()
    set_rng_state(then.state if isinstance(then, Moment) else then)
    try:
        yield
    finally:
        set_rng_state(now)
