"""minidl list, train, resume, eval, sample, data: what trains, and what comes before and after."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from .words import UsageError, at, listing, named, no_such, options_of, taken

# ---- minidl list


def list_all(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Show the models, data, demos and networks that there are, by the names that the other commands take."""

    from ..demos import DEMOS
    from ..models import MODELS, NETWORKS

    options_of(Options, args, "minidl list")
    from ..train.sources import IMAGES, VIDEOS

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
        print("\n".join(listing(title, rows.items())), end="\n\n")
    return 0


# ---- minidl train, resume, eval, sample

SETTINGS = (
    "Options can also come from a file, --config run.toml (or the config.json of a run), and from --set key=value. "
    "Flags win over --set, and --set over the file."
)


def train(args: list[str]) -> int:
    from inspect import getdoc

    from ..models import MODELS

    if args and args[0] in ("-h", "--help"):
        print("usage: minidl train MODEL [OPTIONS]\n\nTrain a model; the run folder holds its weights and a report.\n")
        print("\n".join(listing("models", ((name, entry.summary) for name, entry in MODELS.items()))))
        print("\nminidl train MODEL --help shows the options of a model.")
        return 0
    model, rest = named("model", args, MODELS, "train", "ae")
    recipe = at(MODELS[model].recipe)
    from ..train import run

    return run.train(
        options_of(recipe, _settled(rest, recipe), f"minidl train {model}", f"{getdoc(recipe)}\n\n{SETTINGS}")
    )


def _settled(args: list[str], recipe: type) -> list[str]:
    """The words of a command line in which --config and --set have become flags, before all others."""
    from ..train.config import as_flags, read_assignments, read_config

    files, rest = taken("--config", args, 1)
    pairs, rest = taken("--set", rest, "+")
    values: dict[str, Any] = {}
    for path in files:
        values |= read_config(Path(path), recipe)
    return [*as_flags(values | read_assignments(pairs, recipe)), *rest]


def resume(args: list[str]) -> int:
    from tyro.conf import Positional, arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Go on with a run that was stopped, or that crashed, from its last checkpoint, as if it had never stopped."""

        run: Positional[Path]
        """Run folder."""
        device: Annotated[str | None, arg(metavar="NAME")] = None
        """cpu, cuda or cuda:N; without it the run's own."""

    options = options_of(Options, args, "minidl resume")
    from ..train import run

    return run.resume(options.run, options.device)


def evaluate(args: list[str]) -> int:
    import json

    from tyro.conf import Positional, arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Measure the weights of a run on its test data."""

        run: Positional[Path]
        """Run folder."""
        checkpoint: Literal["best", "last"] = "best"
        """Which weights."""
        device: Annotated[str | None, arg(metavar="NAME")] = None
        """cpu, cuda or cuda:N; without it the run's own."""
        json: bool = False
        """Print JSON, full precision."""

    options = options_of(Options, args, "minidl eval")
    from ..train import run

    numbers = run.evaluate(options.run, options.checkpoint, options.device)
    if options.json:
        print(json.dumps(numbers, indent=2))
    else:
        from rich.console import Console

        Console().print(run.table(numbers))
    return 0


def sample(args: list[str]) -> int:
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
        device: Annotated[str | None, arg(metavar="NAME")] = None
        """cpu, cuda or cuda:N; without it the run's own."""

    options = options_of(Options, args, "minidl sample")
    if options.count < 1 or options.seed < 0:
        raise UsageError(f"--count must be at least 1 and --seed at least 0, not {options.count} and {options.seed}")
    from ..train import run

    path, caption = run.sample(
        options.run, options.count, options.seed, options.out, options.checkpoint, options.device
    )
    print(f"{path}: {caption}")
    return 0


# ---- minidl data


def data(args: list[str]) -> int:
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
            raise UsageError(f"{no_such('data', word, [known])} Expected: minidl data make moving-digits DIR")
    if len(args) < 2:
        raise UsageError("expected: minidl data make moving-digits DIR")
    options = options_of(Options, args[2:], "minidl data make moving-digits")
    from ..data import make_moving_digits

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
