"""Checkpoints: arrays in one safetensors file, never pickle, with a JSON beside it for people to read.

The weights keep their state_dict names, so other programs can read the file; arrays of other parts, such as Adam's
means, have names with slashes, `optimizer/<parameter>/exp_avg`. What is not an array (configuration, epoch, learning
rates, random state) lies in the file's own metadata, so weights and numbers cannot come apart; the JSON is its copy.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..data.extras import require
from .errors import CheckpointError
from .files import reason, write_atomic, write_json

FORMAT = 1


def save_checkpoint(path: str | os.PathLike, model: Any, parts: Mapping[str, Any] | None = None, **facts: Any) -> None:
    """Write `path` (….safetensors) and its JSON copy, each atomically.

    parts: what else has a state_dict, by name: optimizers, schedules. facts: anything that JSON can hold.
    Raises RunFolderError if the files cannot be written.
    """
    path = Path(path)
    arrays = {name: _array(value) for name, value in model.state_dict().items()}
    states = {name: _separate(part.state_dict(), name, arrays) for name, part in (parts or {}).items()}
    header = {"format": FORMAT, "model": type(model).__name__, **facts, "parts": states}
    text = json.dumps(header)
    write_atomic(path, require("safetensors.numpy", "saving a checkpoint").save(arrays, {"minidl": text}))
    write_json(path.with_suffix(".json"), header)


def read_checkpoint(path: str | os.PathLike) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The facts and the arrays of a checkpoint. Raises CheckpointError if it is missing or damaged."""
    safetensors = require("safetensors", "loading a checkpoint")
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("minidl", "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}") from error
    except (safetensors.SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no safetensors file: {error}") from error
    if header is None:
        raise CheckpointError(f"{path} holds arrays but was not written by minidl")
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"{path} was written by a newer minidl (format {header['format']}, this one reads {FORMAT})"
        )
    return header, arrays


def load_checkpoint(path: str | os.PathLike, model: Any, parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Put a checkpoint's weights into `model`, and the states of `parts` into them; return its other facts.

    Raises CheckpointError, and changes nothing, if it belongs to another model.
    """
    header, arrays = read_checkpoint(path)
    weights = {name: array for name, array in arrays.items() if "/" not in name}
    problem = _mismatch(header["model"], weights, model)
    if problem:
        raise CheckpointError(f"{path} is a checkpoint of another model: {problem}")
    missing = sorted(set(parts or {}) - set(header["parts"]))
    if missing:
        raise CheckpointError(
            f"{path} holds weights but no state of the {', '.join(missing)}: training cannot go on from it"
        )
    model.load_state_dict(weights)
    for name, part in (parts or {}).items():
        part.load_state_dict(_join(header["parts"][name], arrays))
    return header


def _mismatch(name: str, weights: dict[str, np.ndarray], model: Any) -> str:
    """What is different between stored weights and a model, or an empty string."""
    mine = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    theirs = {name: tuple(value.shape) for name, value in weights.items()}
    changed = [key for key in mine if key in theirs and theirs[key] != mine[key]]
    if name != type(model).__name__:
        return f"it holds {name}, this is {type(model).__name__}"
    differences = [
        *(f"{key} is missing" for key in mine if key not in theirs),
        *(f"{key} is unknown here" for key in theirs if key not in mine),
        *(f"{key} has shape {theirs[key]}, here {mine[key]}" for key in changed),
    ]
    more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
    return ", ".join(differences[:3]) + more


def _array(value: Any) -> np.ndarray:
    """A tensor or an array of any device, on the host and C-contiguous."""
    value = value.numpy() if hasattr(value, "numpy") else value.get() if hasattr(value, "get") else value
    return np.asarray(value, order="C")


def _separate(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """`value` with every array in it moved to `arrays` and replaced by {"array": its name there}."""
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic):
        arrays[name] = _array(value)
        return {"array": name}
    if isinstance(value, Mapping):
        # "state/" would stand in every name
        return {str(k): _separate(v, name if k == "state" else f"{name}/{k}", arrays) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_separate(v, f"{name}/{i}", arrays) for i, v in enumerate(value)]
    return value.item() if isinstance(value, np.generic) else value


def _join(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The reverse of `_separate`. JSON turned the numbers of parameters, which are keys, into strings."""
    if isinstance(value, dict):
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {int(k) if k.isdigit() else k: _join(v, arrays) for k, v in value.items()}
    return [_join(v, arrays) for v in value] if isinstance(value, list) else value
