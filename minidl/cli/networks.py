"""minidl summary, draw: looking at a network as its paper has it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from .words import UsageError, at, listing, named, no_such, options_of, taken

# ---- minidl summary, draw


def _network(args: list[str], command: str, cls: type) -> tuple[str, Any, Any, Any]:
    """The name, the network (its weights not drawn), its input shape, and the other options."""
    from ..models import NETWORKS

    if args and args[0] in ("-h", "--help"):
        print("\n".join([f"usage: minidl {command} NETWORK [OPTIONS]", "", *listing("networks", _networks())]))
        print(f"\nminidl {command} NETWORK --help shows the options.")
        raise SystemExit(0)
    name, rest = named("network", args, NETWORKS, command, "c3d")
    given, rest = taken("--set", rest, "+")
    options = options_of(cls, [*rest, *(["--set", *given] if given else [])], f"minidl {command} {name}")
    network = NETWORKS[name]
    build = at(network.place)
    values = _keywords(build, options.set)
    from .. import nn

    try:
        with nn.init.skip():
            model = build(**{**network.options, **values})
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} cannot be built so: {error}") from error
    return name, model, options.shape or network.shape, options


def _networks() -> list[tuple[str, str]]:
    from ..models import NETWORKS

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
            raise UsageError(no_such("argument", name, defaults))
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


def summary(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Every layer of a network with its output shape, parameters, multiply-adds and memory; nothing is computed."""

        set: tuple[str, ...] = ()
        """Arguments of the network's class, as key=value: --set classes=101 width=32."""
        shape: tuple[int, ...] = ()
        """Shape of the input, batch first, in the place of the paper's."""

    _, model, shape, _ = _network(args, "summary", Options)
    with _fitting():
        print(at("minidl.inspect:summary")(model, shape))
    return 0


def draw(args: list[str]) -> int:
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
