"""Libraries that only an extra brings: imported where first used, and a plain word where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtra(ImportError):
    """A library is not installed; the message says which command installs it."""


def require(module: str, purpose: str, extra: str = "train") -> Any:
    """Import `module`, or raise MissingExtra: "<purpose> needs <library>, which is not installed: pip install …"."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        library = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != library:
            raise  # the library is there, but something that it needs itself is not
        name = {"sklearn": "scikit-learn", "PIL": "pillow"}.get(library, library)
        raise MissingExtra(
            f"{purpose} needs {name}, which is not installed: pip install 'minidl[{extra}]'", name=library
        ) from error
