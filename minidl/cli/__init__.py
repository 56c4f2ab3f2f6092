"""`minidl`: the command line.

A command is a row of COMMANDS and a function (arguments) -> exit status. The options of a command are the fields of a
dataclass, which tyro turns into flags with help. Nothing heavy is imported before the command is known.

Exit status: 0 done; 1 a check failed; 2 something for the user to put right (one message on stderr); 130 Ctrl-C.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .measuring import bench, demo, doctor, gradcheck, version, warmup
from .networks import draw, summary
from .training import data, evaluate, list_all, resume, sample, train
from .words import UsageError, listing, no_such


class Command(NamedTuple):
    """What `minidl --help` says and what runs."""

    summary: str
    run: Callable[[list[str]], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line (default: this process's) and return its exit status."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    formatted, warnings.formatwarning = warnings.formatwarning, _plainly
    try:
        return dispatch(args)
    except SystemExit as end:  # tyro has said what was wrong, or printed help
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt as stop:  # it may say what it leaves behind
        print(": ".join(["minidl: stopped", *map(str, stop.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left, as in `minidl … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end
        return 1
    except MemoryError as error:
        print(f"minidl: there is not enough memory: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if not _is_for_the_user(error):
            raise
        print(f"minidl: {error}", file=sys.stderr)
        return 2
    finally:
        warnings.formatwarning = formatted


def _plainly(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
    """A warning without the line of code that gave it."""
    return f"minidl: {message}\n"


def _is_for_the_user(error: Exception) -> bool:
    """Whether the message alone helps. Anything else is a bug, and its traceback is wanted."""
    if isinstance(error, UsageError):
        return True
    from ..data import DataError, MissingExtra, WorkerError
    from ..train.errors import TrainingError

    return isinstance(error, (TrainingError, MissingExtra, DataError, WorkerError))


def dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    name = "version" if args[0] in ("--version", "-V") else args[0]
    if name not in COMMANDS:
        raise UsageError(no_such("command", name, COMMANDS))
    return COMMANDS[name].run(args[1:])


def _help() -> str:
    return "\n".join(
        [
            "usage: minidl COMMAND [OPTIONS]",
            "",
            "A deep-learning engine small enough to read and fast enough to use.",
            "",
            *listing("commands", ((name, command.summary) for name, command in COMMANDS.items())),
            "",
            "minidl COMMAND --help shows the options of a command.",
        ]
    )


COMMANDS = {
    "list": Command("models, data, demos and networks that there are", list_all),
    "train": Command("train a model: minidl train vae", train),
    "resume": Command("go on with a run that was stopped", resume),
    "eval": Command("measure a run's weights on its test data", evaluate),
    "sample": Command("draw new images with a run's network", sample),
    "demo": Command("train and measure what the lecture claims", demo),
    "summary": Command("the layers of a network: shapes, parameters, cost", summary),
    "draw": Command("draw a network as SVG", draw),
    "data": Command("make data: minidl data make moving-digits DIR", data),
    "gradcheck": Command("check every gradient against finite differences", gradcheck),
    "bench": Command("measure speed and memory, beside PyTorch", bench),
    "doctor": Command("what is wrong with this installation, and what to do", doctor),
    "warmup": Command("compile now what the first training step needs", warmup),
    "version": Command("print versions (also --version)", version),
}
