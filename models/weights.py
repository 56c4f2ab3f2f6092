"""Where a network's parameters come from: its paper's initialisation, or a safetensors file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.extras import require
from ..nn import Module

SHOWN = 3  # names in a message, at most


def start(model: Any, weights: str | os.PathLike | None) -> None:
    """Load a file if one is given, else draw parameters as the paper says, with `model.reset_parameters()`.

    Models build their layers under `nn.init.skip()` and call this at the end, so that nothing is drawn twice.
    """
    if weights is None:
        model.reset_parameters()
    else:
        load_weights(model, weights)


def load_weights(model: Module, path: str | os.PathLike, keep: Sequence[str] = ()) -> None:
    """Copy the arrays of a safetensors file into the parameters and buffers of the same names.

    The file may be one of minidl's checkpoints, whose other parts (the optimizer's, …) are passed over, or come from
    any program that uses the same names. keep: modules, by dotted name, that keep what they have, as in
    `load_weights(C3D(classes=101), path, keep=["fc8"])` for new classes on top of old features.

    Raises CheckpointError, and changes nothing, if the file is missing, damaged, or of another model; MissingExtra if
    the library is not installed; AttributeError if the model has no such module to keep.
    """
    from ..train.errors import CheckpointError

    kept = {f"{name}.{key}" for name in keep for key in model.get_submodule(name).state_dict()}
    mine = {name: value for name, value in model.state_dict().items() if name not in kept}
    given = {name: array for name, array in _read(path).items() if name not in kept}
    problems = _problems(mine, given)
    if problems:
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        listed = ", ".join(problems[:SHOWN]) + more
        raise CheckpointError(f"{path} holds the weights of another model than {type(model).__name__}: {listed}")
    model.load_state_dict(given, strict=not kept)


def _read(path: str | os.PathLike) -> dict[str, Any]:
    """The arrays of a file, without those that only continue a training."""
    from ..train.errors import CheckpointError
    from ..train.files import reason

    safetensors = require("safetensors", "loading weights")
    if Path(path).is_dir():
        raise CheckpointError(f"{path} is a folder; give the safetensors file")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            # checkpoints name other arrays "<part>/…"; no attribute, hence no parameter, has a slash in its name
            return {name: file.get_tensor(name) for name in file.keys() if "/" not in name}  # noqa: SIM118 (no dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file of weights") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except (safetensors.SafetensorError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged, no safetensors file, or of a type unknown here: {error}") from error


def _problems(mine: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """What is different between the names and shapes that a model has and those of a file."""
    shapes = {name: tuple(value.shape) for name, value in mine.items()}
    return [
        *(f"{name} {shape} is missing" for name, shape in shapes.items() if name not in given),
        *(f"{name} is unknown here" for name in given if name not in shapes),
        *(
            f"{name} has shape {tuple(given[name].shape)}, here {shape}"
            for name, shape in shapes.items()
            if name in given and tuple(given[name].shape) != shape
        ),
    ]
