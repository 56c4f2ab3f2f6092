"""`minidl`: the command line.

A command is a row of COMMANDS and a function (arguments) -> exit status. The options of a command are the fields of a
dataclass, which tyro turns into flags with help. Nothing heavy is imported before the command is known.

Exit status: 0 done; 1 a check failed; 2 something for the user to put right (one message on stderr); 130 Ctrl-C.
"""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple


class UsageError(Exception):
    """The command line makes no sense; the message says why."""


class Command(NamedTuple):
    """What `minidl --help` says and what runs."""

    summary: str
    run: Callable[[list[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit status."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(args)
    except SystemExit as end:  # tyro has said what was wrong, or printed help
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt as stop:  # it may say what it leaves behind
        print(": ".join(["minidl: stopped", *map(str, stop.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as in `minidl … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end
        return 1
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        print(f"minidl: {error}", file=sys.stderr)
        return 2


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message alone helps. Anything else is a bug, and its traceback is wanted."""
    if isinstance(error, UsageError):
        return True
    from .data.extras import MissingExtra
    from .train.errors import TrainingError

    return isinstance(error, (TrainingError, MissingExtra))


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name = "version" if args[0] in ("--version", "-V") else args[0]
    if name not in COMMANDS:
        raise UsageError(_unknown("command", name, COMMANDS))
    return COMMANDS[name].run(args[1:])


def _help() -> str:
    return "\n".join(
        [
            "usage: minidl COMMAND [OPTIONS]",
            "",
            "A deep-learning engine small enough to read and fast enough to use.",
            "",
            *_listing("commands", ((name, command.summary) for name, command in COMMANDS.items())),
            "",
            "minidl COMMAND --help shows the options of a command.",
        ]
    )


def _listing(title: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{title}:", *(f"  {name:<12}{summary}" for name, summary in rows)]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest one, and all there are."""
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no {what} {name!r}{hint} Known: {', '.join(known)}."


def _options(cls: type, args: list[str], prog: str) -> Any:
    """An instance of a dataclass from the command line. Exits by itself for --help (0) and wrong options (2)."""
    import tyro

    return tyro.cli(cls, args=args, prog=prog, config=(tyro.conf.FlagCreatePairsOff,))


def _at(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


# ---- minidl train


def _train(args: list[str]) -> int:
    from .models import MODELS

    if not args or args[0] in ("-h", "--help"):
        print("usage: minidl train MODEL [OPTIONS]\n\nTrain a model; the run folder holds its weights and pictures.\n")
        print("\n".join(_listing("models", ((name, entry.summary) for name, entry in MODELS.items()))))
        print("\nminidl train MODEL --help shows the options of a model.")
        if args:
            return 0
        raise UsageError("which model? For example: minidl train ae")
    model, *rest = args
    if model.startswith("-"):
        raise UsageError(f"the model comes before the options: minidl train MODEL {model} …")
    if model not in MODELS:
        raise UsageError(_unknown("model", model, MODELS))
    recipe = _options(_at(MODELS[model].recipe), rest, f"minidl train {model}")
    return recipe.run()


# ---- minidl gradcheck


def _gradcheck(args: list[str]) -> int:
    from tyro.conf import arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Check the gradients of every operation and every layer against finite differences.

        The exit status is 0 if all agree, 1 if one does not, and 2 for options that make no sense.
        """

        only: Annotated[str | None, arg(metavar="NAMES")] = None
        """Check only these: names or patterns such as conv*, in capitals or not, separated by commas; "primitive",
        "function" and "layer" stand for all of a kind."""
        order: Literal[1, 2] = 2
        """With 2 also the gradients of the gradients."""
        backend: Annotated[str | None, arg(metavar="COLUMN")] = None
        """Column of the kernel table: reference, cpu (the default), cuda or numba_cuda."""
        report: Annotated[Path | None, arg(metavar="FILE")] = None
        """Also write the result as a page, such as report.html."""
        fast: bool = False
        """Check along random directions instead of element by element."""
        seed: int = 0
        """Start of the random numbers that inputs are drawn from; 0 or more."""

    options = _options(Options, args, "minidl gradcheck")
    return _at("minidl.checking.command:run")(**asdict(options))


# ---- minidl version


def _version(args: list[str]) -> int:
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from . import __version__

    if args:
        raise UsageError(f"version takes no options, but got {' '.join(args)}")
    print(f"minidl {__version__}")
    parts = [f"Python {python_version()}"]
    for library in ("numpy", "scipy", "numba"):
        try:
            parts.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            parts.append(f"{library} missing")
    print(", ".join(parts))
    return 0


COMMANDS = {
    "train": Command("train a model: minidl train ae", _train),
    "gradcheck": Command("check every gradient against finite differences", _gradcheck),
    "version": Command("print versions (also --version)", _version),
}


if __name__ == "__main__":
    sys.exit(main())
