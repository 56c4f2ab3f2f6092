"""What may be missing or damaged: libraries that only an extra brings, files, and how they are reported."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any


class DataError(ValueError):
    """A file of a data set is missing, damaged or of another format; the message names it, and what was expected."""


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
        name = {"sklearn": "scikit-learn", "PIL": "pillow", "av": "PyAV"}.get(library, library)
        raise MissingExtra(
            f"{purpose} needs {name}, which is not installed: pip install 'minidl[{extra}]', "
            f"or from a checkout pip install -e '.[{extra}]'",
            name=library,
        ) from error


def no_such(what: str, name: str, known: Iterable[str], shown: Iterable[str] | None = None) -> str:
    """What to say about a name that is not known: the nearest one that is, and all there are.

    shown: how these are written, if not by their names.
    """
    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no {what} {name!r}{hint} Known: {', '.join(known if shown is None else shown)}."


def read_lines(path: Path, purpose: str) -> list[str]:
    """The lines of a text file without blank ones and without white space around them. Raises DataError."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {purpose}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}") from error
    return [line.strip() for line in lines if line.strip()]


def report(skipped: Mapping[str, str], total: int, what: str, corrupt: str) -> None:
    """Apply the policy to files that cannot be used: one warning for all if `corrupt` is "skip", else DataError.

    Also raises DataError if none is left. skipped: name -> reason.
    """
    if not skipped:
        return
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    text = f"{len(skipped)} of {total} {what} cannot be used: {shown}{more}"
    if corrupt == "raise" or len(skipped) == total:
        raise DataError(text)
    warnings.warn(f"{text}. They are left out", stacklevel=3)


def check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} is {value!r}: it must be one of {', '.join(map(repr, choices))}")
