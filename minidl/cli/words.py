"""What the commands share: options from words, lists of names, and what to say of words that make no sense."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from ..data.extras import no_such


class UsageError(Exception):
    """The command line makes no sense; the message says why."""


def listing(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(rows)
    width = max(12, *(len(name) + 2 for name, _ in rows))
    return [f"{title}:", *(f"  {name:<{width}}{summary}" for name, summary in rows)]


def options_of(cls: type, args: list[str], prog: str, description: str | None = None) -> Any:
    """An instance of a dataclass from the command line. Exits by itself for --help (0) and wrong options (2)."""
    import tyro

    return tyro.cli(cls, args=args, prog=prog, description=description, config=(tyro.conf.FlagCreatePairsOff,))


def named(what: str, args: list[str], known: Mapping[str, Any], command: str, example: str) -> tuple[str, list[str]]:
    """The name that comes first, and the other words."""
    if not args or args[0].startswith("-"):
        raise UsageError(f"which {what}? It comes first: minidl {command} {example} …")
    if args[0] not in known:
        raise UsageError(no_such(what, args[0], known))
    return args[0], args[1:]


def at(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def taken(flag: str, args: list[str], count: int | str) -> tuple[list[str], list[str]]:
    """All words that belong to a flag, which may be given several times, and the rest of the command line."""
    from argparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, nargs=count, action="extend", default=[], dest="words")
    try:
        known, rest = parser.parse_known_args(args)
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    return known.words, rest
