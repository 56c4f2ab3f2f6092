"""`minidl`: the command line.

A command is a row of COMMANDS and a function (arguments) -> exit status. The options of a command are the fields of a
dataclass, which tyro turns into flags with help. Nothing heavy is imported before the command is known.

Exit status: 0 done; 1 a check failed; 2 something for the user to put right (one message on stderr); 130 Ctrl-C.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
    formatted, warnings.formatwarning = warnings.formatwarning, _plainly
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
    from .data import DataError, MissingExtra, WorkerError
    from .train.errors import TrainingError

    return isinstance(error, (TrainingError, MissingExtra, DataError, WorkerError))


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
    rows = list(rows)
    width = max(12, *(len(name) + 2 for name, _ in rows))
    return [f"{title}:", *(f"  {name:<{width}}{summary}" for name, summary in rows)]


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest one, and all there are."""
    from difflib import get_close_matches

    known = list(known)
    near = get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"there is no {what} {name!r}{hint} Known: {', '.join(known)}."


def _options(cls: type, args: list[str], prog: str, description: str | None = None) -> Any:
    """An instance of a dataclass from the command line. Exits by itself for --help (0) and wrong options (2)."""
    import tyro

    return tyro.cli(cls, args=args, prog=prog, description=description, config=(tyro.conf.FlagCreatePairsOff,))


def _named(what: str, args: list[str], known: Mapping[str, Any], command: str, example: str) -> tuple[str, list[str]]:
    """The name that comes first, and the other words."""
    if not args or args[0].startswith("-"):
        raise UsageError(f"which {what}? It comes first: minidl {command} {example} …")
    if args[0] not in known:
        raise UsageError(_unknown(what, args[0], known))
    return args[0], args[1:]


def _at(place: str) -> Any:
    """The object at "module:name"."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


# ---- minidl list


def _list(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Show the models, data, demos and networks that there are, by the names that the other commands take."""

    from .demos import DEMOS
    from .models import MODELS, NETWORKS

    _options(Options, args, "minidl list")
    from .train.sources import IMAGES, VIDEOS

    sources = {**IMAGES, **VIDEOS}
    for title, rows in (
        ("models, for minidl train", {name: entry.summary for name, entry in MODELS.items()}),
        (
            "data, for --data (images: ae, vae, dcgan; videos: c3d, gru-rcn)",
            {f"{name}:FOLDER" if source.folder else name: source.summary for name, source in sources.items()},
        ),
        ("demos, for minidl demo", {name: entry.summary for name, entry in DEMOS.items()}),
        ("networks, for minidl summary and minidl draw", {name: entry.summary for name, entry in NETWORKS.items()}),
    ):
        print("\n".join(_listing(title, rows.items())), end="\n\n")
    return 0


# ---- minidl train, resume, eval, sample

SETTINGS = (
    "Options can also come from a file, --config run.toml (or the config.json of a run), and from --set key=value. "
    "Flags win over --set, and --set over the file."
)


def _train(args: list[str]) -> int:
    from inspect import getdoc

    from .models import MODELS

    if args and args[0] in ("-h", "--help"):
        print("usage: minidl train MODEL [OPTIONS]\n\nTrain a model; the run folder holds its weights and a report.\n")
        print("\n".join(_listing("models", ((name, entry.summary) for name, entry in MODELS.items()))))
        print("\nminidl train MODEL --help shows the options of a model.")
        return 0
    model, rest = _named("model", args, MODELS, "train", "ae")
    recipe = _at(MODELS[model].recipe)
    from .train.run import train

    return train(_options(recipe, _settled(rest, recipe), f"minidl train {model}", f"{getdoc(recipe)}\n\n{SETTINGS}"))


def _settled(args: list[str], recipe: type) -> list[str]:
    """The words of a command line in which --config and --set have become flags, before all others."""
    from .train.config import as_flags, read_assignments, read_config

    files, rest = _taken("--config", args, 1)
    pairs, rest = _taken("--set", rest, "+")
    values: dict[str, Any] = {}
    for path in files:
        values |= read_config(Path(path), recipe)
    return [*as_flags(values | read_assignments(pairs, recipe)), *rest]


def _taken(flag: str, args: list[str], count: int | str) -> tuple[list[str], list[str]]:
    """All words that belong to a flag, which may be given several times, and the rest of the command line."""
    from argparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument(flag, nargs=count, action="extend", default=[], dest="words")
    try:
        known, rest = parser.parse_known_args(args)
    except ArgumentError as error:
        raise UsageError(str(error)) from None
    return known.words, rest


def _resume(args: list[str]) -> int:
    from tyro.conf import Positional

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Go on with a run that was stopped, or that crashed, from its last checkpoint, as if it had never stopped."""

        run: Positional[Path]
        """Run folder."""

    from .train.run import resume

    return resume(_options(Options, args, "minidl resume").run)


def _eval(args: list[str]) -> int:
    import json

    from tyro.conf import Positional

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Measure the weights of a run on its test data."""

        run: Positional[Path]
        """Run folder."""
        checkpoint: Literal["best", "last"] = "best"
        """Which weights."""
        json: bool = False
        """Print JSON, full precision."""

    options = _options(Options, args, "minidl eval")
    from .train.run import evaluate, table

    numbers = evaluate(options.run, options.checkpoint)
    if options.json:
        print(json.dumps(numbers, indent=2))
    else:
        from rich.console import Console

        Console().print(table(numbers))
    return 0


def _sample(args: list[str]) -> int:
    from tyro.conf import Positional, arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Draw new images with a run's network, or show what it says of test clips."""

        run: Positional[Path]
        """Run folder."""
        count: int = 64
        """Images or clips."""
        seed: int = 0
        """Start of the random numbers."""
        out: Annotated[Path | None, arg(metavar="FILE")] = None
        """Where to write the picture; without it samples.png or clips.gif in the current folder."""
        checkpoint: Literal["best", "last"] = "best"
        """Which weights."""

    options = _options(Options, args, "minidl sample")
    if options.count < 1 or options.seed < 0:
        raise UsageError(f"--count must be at least 1 and --seed at least 0, not {options.count} and {options.seed}")
    from .train.run import sample

    path, caption = sample(options.run, options.count, options.seed, options.out, options.checkpoint)
    print(f"{path}: {caption}")
    return 0


# ---- minidl demo


def _demo(args: list[str]) -> int:
    from tyro.conf import arg

    from .demos import DEMOS

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Train and measure what the lecture claims, over several seeds.

        The exit status is 1 if a claim does not hold.
        """

        seeds: int = 3
        """How many seeds, from 0 on."""
        jobs: Annotated[int | None, arg(metavar="N")] = None
        """Processes at the same time; without it one for each core."""
        quick: bool = False
        """Scaled down, for a first look: what the claims are about is measured, but not judged."""
        out: Annotated[Path | None, arg(metavar="DIR")] = None
        """Also write results.json and report.html into this folder."""

    if args and args[0] in ("-h", "--help"):
        print("\n".join(["usage: minidl demo NAME|all [OPTIONS]", "", *_demos()]))
        print("\nminidl demo NAME --help shows the options.")
        return 0
    names, rest = [], list(args)
    while rest and not rest[0].startswith("-"):
        names.append(rest.pop(0))
    for name in names:
        if name not in (*DEMOS, "all"):
            raise UsageError(_unknown("demo", name, [*DEMOS, "all"]))
    options = _options(Options, rest, "minidl demo NAME")
    if not names:
        raise UsageError("which demo? " + ", ".join([*DEMOS, "all"]))
    return _at("minidl.demos.command:run")(list(DEMOS) if "all" in names else names, **asdict(options))


def _demos() -> list[str]:
    from .demos import DEMOS

    return _listing(
        "demos", [*((name, entry.summary) for name, entry in DEMOS.items()), ("all", "one after the other")]
    )


# ---- minidl summary, draw


def _network(args: list[str], command: str, cls: type) -> tuple[str, Any, Any, Any]:
    """The name, the network (its weights not drawn), its input shape, and the other options."""
    from .models import NETWORKS

    if args and args[0] in ("-h", "--help"):
        print("\n".join([f"usage: minidl {command} NETWORK [OPTIONS]", "", *_listing("networks", _networks())]))
        print(f"\nminidl {command} NETWORK --help shows the options.")
        raise SystemExit(0)
    name, rest = _named("network", args, NETWORKS, command, "c3d")
    given, rest = _taken("--set", rest, "+")
    options = _options(cls, [*rest, *(["--set", *given] if given else [])], f"minidl {command} {name}")
    network = NETWORKS[name]
    build = _at(network.place)
    values = _keywords(build, options.set)
    from . import nn

    try:
        with nn.init.skip():
            model = build(**{**network.options, **values})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be built so: {error}") from error
    return name, model, options.shape or network.shape, options


def _networks() -> list[tuple[str, str]]:
    from .models import NETWORKS

    return [(name, network.summary) for name, network in NETWORKS.items()]


def _keywords(build: Any, pairs: list[str]) -> dict[str, Any]:
    """The arguments in key=value words, values as in TOML."""
    import tomllib
    from inspect import signature

    defaults = {name: p.default for name, p in signature(build).parameters.items() if name != "weights"}
    values = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if name not in defaults:
            raise UsageError(_unknown("argument", name, defaults))
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except ValueError:
            values[name] = text
        if isinstance(values[name], str) and not isinstance(defaults[name], str):
            raise UsageError(f"--set {pair}: expected a value like {defaults[name]!r}")
    return values


@contextmanager
def _fitting() -> Iterator[None]:
    """What a network says of an input that does not fit is for the user: --shape may be wrong."""
    try:
        yield
    except ValueError as error:
        raise UsageError(", ".join([str(error), *getattr(error, "__notes__", [])])) from error


def _summary(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Every layer of a network with its output shape, parameters, multiply-adds and memory; nothing is computed."""

        set: tuple[str, ...] = ()
        """Arguments of the network's class, as key=value: --set classes=101 width=32."""
        shape: tuple[int, ...] = ()
        """Shape of the input, batch first, in the place of the paper's."""

    _, model, shape, _ = _network(args, "summary", Options)
    with _fitting():
        print(_at("minidl.inspect:summary")(model, shape))
    return 0


def _draw(args: list[str]) -> int:
    from tyro.conf import arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Draw a network's layers and how data flows through them, or the graph that autograd records; as SVG."""

        graph: Literal["layers", "autograd"] = "layers"
        """What to draw."""
        set: tuple[str, ...] = ()
        """Arguments of the network's class, as key=value: --set classes=101 width=32."""
        shape: tuple[int, ...] = ()
        """Shape of the input, batch first, in the place of the paper's."""
        out: Annotated[Path | None, arg(metavar="FILE")] = None
        """A file .svg or .dot; without it NETWORK-layers.svg or NETWORK-autograd.svg."""

    name, model, shape, options = _network(args, "draw", Options)
    inspect = import_module("minidl.inspect")
    with _fitting():
        drawing = (inspect.draw_layers if options.graph == "layers" else inspect.draw_recording)(model, shape)
    out = options.out or Path(f"{name}-{options.graph}.svg")
    try:
        drawing.save(out)
    except ValueError as error:
        raise UsageError(f"--out: {error}") from error
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror or error}") from error
    print(f"{out}: {len(drawing.nodes)} nodes, {len(drawing.edges)} edges")
    return 0


# ---- minidl data


def _data(args: list[str]) -> int:
    from tyro.conf import Positional

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Write moving digits as real .avi files in UCF-101's layout: minidl train c3d --data ucf101:DIR."""

        folder: Positional[Path]
        """A folder that does not exist yet, or is empty."""
        train: int = 200
        """Videos to train on."""
        test: int = 80
        """Videos to test on."""
        seed: int = 0
        """Start of the random numbers."""
        frames: int = 32
        """Frames of a video."""
        scale: int = 4
        """Each pixel of the 16 x 16 torus becomes scale x scale pixels."""
        codec: Literal["ffv1", "mjpeg"] = "ffv1"
        """ffv1 keeps every byte; mjpeg is smaller and loses a little, as real videos do."""

    words = ["make", "moving-digits"]
    if any(word in ("-h", "--help") for word in args[:2]):
        args = [*words, "--help"]
    for word, known in zip(args, words, strict=False):
        if word != known:
            raise UsageError(f"{_unknown('data', word, [known])} Expected: minidl data make moving-digits DIR")
    if len(args) < 2:
        raise UsageError("expected: minidl data make moving-digits DIR")
    options = _options(Options, args[2:], "minidl data make moving-digits")
    from .data import make_moving_digits

    values = asdict(options)
    folder = values.pop("folder")
    try:
        made = make_moving_digits(folder, **values)
    except (ValueError, FileExistsError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror or error}") from error
    print(f"{options.train + options.test} videos in {made.videos}, the lists of both splits in {made.lists}")
    print(f"minidl train c3d --data ucf101:{folder} --size 16 --frames 8 --epochs 40 trains on them")
    return 0


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


# ---- minidl bench, doctor, warmup


def _bench(args: list[str]) -> int:
    from tyro.conf import Positional, arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Measure speed and memory, beside PyTorch where it is installed: both take turns in processes of their own.

        The exit status is 1 if the two do not compute the same.
        """

        workloads: Positional[tuple[str, ...]] = ()
        """What to measure, or all; without it a few training steps, about two minutes."""
        list: bool = False
        """Only show the workloads and their sizes."""
        against: Literal["torch", "none"] | None = None
        """The peer; none measures minidl alone."""
        threads: Annotated[int | None, arg(metavar="N")] = None
        """CPU threads of each side; without it all cores."""
        device: Literal["cpu"] = "cpu"
        """Where to compute."""
        seconds: float = 5.0
        """How long to measure each case, about."""
        set: tuple[str, ...] = ()
        """Other sizes, as name=value: --set batch=8 frames=32."""
        sweep: bool = False
        """Also measure how time grows with batch, frames and image size."""
        json: Annotated[Path | None, arg(metavar="FILE")] = None
        """Also write all numbers, with the machine, into this file."""
        plot: Annotated[Path | None, arg(metavar="FILE")] = None
        """Also draw ratios and a roofline into this PNG file."""

    options = _options(Options, args, "minidl bench")
    from .bench import command

    if options.list:
        command.print_list()
        return 0
    return command.run(
        options.workloads, against=options.against, threads=options.threads, seconds=options.seconds,
        sizes=options.set, sweep=options.sweep, json=options.json, plot=options.plot,
    )  # fmt: skip


def _doctor(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Versions, threads, BLAS, SIMD, memory, compiled kernels and GPU: what is wrong, and what to do about it.

        The exit status is 1 if there is a problem.
        """

        json: bool = False
        """Print JSON."""
        clean: bool = False
        """First remove compiled kernels of other versions."""

    return _at("minidl.doctor:run")(**asdict(_options(Options, args, "minidl doctor")))


def _warmup(args: list[str]) -> int:
    from tyro.conf import Positional

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Compile now what the first training step would wait for; it is kept on disk."""

        models: Positional[tuple[str, ...]] = ()
        """Models, as for minidl train; without it all."""

    return _at("minidl.warmup:run")(_options(Options, args, "minidl warmup").models)


# ---- minidl version


def _version(args: list[str]) -> int:
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from . import __version__

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Print the versions of minidl and of what it stands on."""

    _options(Options, args, "minidl version")
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
    "list": Command("models, data, demos and networks that there are", _list),
    "train": Command("train a model: minidl train vae", _train),
    "resume": Command("go on with a run that was stopped", _resume),
    "eval": Command("measure a run's weights on its test data", _eval),
    "sample": Command("draw new images with a run's network", _sample),
    "demo": Command("train and measure what the lecture claims", _demo),
    "summary": Command("the layers of a network: shapes, parameters, cost", _summary),
    "draw": Command("draw a network as SVG", _draw),
    "data": Command("make data: minidl data make moving-digits DIR", _data),
    "gradcheck": Command("check every gradient against finite differences", _gradcheck),
    "bench": Command("measure speed and memory, beside PyTorch", _bench),
    "doctor": Command("what is wrong with this installation, and what to do", _doctor),
    "warmup": Command("compile now what the first training step needs", _warmup),
    "version": Command("print versions (also --version)", _version),
}


if __name__ == "__main__":
    sys.exit(main())
