"""minidl demo, gradcheck, bench, doctor, warmup, version: what is measured and checked."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from .words import at, listing, options_of

# ---- minidl demo


def demo(args: list[str]) -> int:
    from tyro.conf import arg

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
    return at("minidl.demos.command:run")(names, **asdict(options_of(Options, rest, "minidl demo NAME")))


def _demos() -> list[str]:
    from ..demos import DEMOS

    return listing("demos", [*((name, entry.summary) for name, entry in DEMOS.items()), ("all", "one after the other")])


# ---- minidl gradcheck


def gradcheck(args: list[str]) -> int:
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

    options = options_of(Options, args, "minidl gradcheck")
    return at("minidl.checking.command:run")(**asdict(options))


# ---- minidl bench, doctor, warmup


def bench(args: list[str]) -> int:
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
        device: Annotated[str, arg(metavar="NAME")] = "cpu"
        """Where to compute: cpu, cuda or cuda:N."""
        precision: tuple[Literal["highest", "tf32x3", "high", "medium", "bf16", "fp16"], ...] = ()
        """On a CUDA device: of products of float32, or mixed precision by autocast (bf16, fp16); without it highest,
        high and bf16, one after the other."""
        graphs: Literal["ours", "both"] | None = None
        """On a CUDA device: capture steps as CUDA graphs, minidl's (beside PyTorch's as they are) or both."""
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

    options = options_of(Options, args, "minidl bench")
    from ..bench import command

    if options.list:
        command.print_list()
        return 0
    return command.run(
        options.workloads, against=options.against, threads=options.threads, seconds=options.seconds,
        sizes=options.set, sweep=options.sweep, json=options.json, plot=options.plot, device=options.device,
        precision=options.precision, graphs=options.graphs,
    )  # fmt: skip


def doctor(args: list[str]) -> int:
    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Versions, threads, BLAS, SIMD, memory, compiled kernels and GPU: what is wrong, and what to do about it.

        The exit status is 1 if there is a problem.
        """

        json: bool = False
        """Print JSON."""
        clean: bool = False
        """First remove compiled kernels of other versions."""

    return at("minidl.doctor:run")(**asdict(options_of(Options, args, "minidl doctor")))


def warmup(args: list[str]) -> int:
    from tyro.conf import Positional, arg

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Compile now what the first training step would wait for; it is kept on disk."""

        models: Positional[tuple[str, ...]] = ()
        """Models, as for minidl train; without it all."""
        device: Annotated[str, arg(metavar="NAME")] = "cpu"
        """Where to compute: cpu, cuda or cuda:N."""
        tune: bool = False
        """Also measure which CUDA kernels are fastest for these models; what is found is used from then on."""
        precision: tuple[Literal["highest", "tf32x3", "high", "medium", "bf16", "fp16"], ...] = ()
        """On a CUDA device, one or more: of products of float32, or mixed (bf16, fp16); without it highest."""

    options = options_of(Options, args, "minidl warmup")
    return at("minidl.warmup:run")(
        options.models, device=options.device, tune=options.tune, precision=options.precision
    )  # fmt: skip


# ---- minidl version


def version(args: list[str]) -> int:
    from importlib.metadata import PackageNotFoundError, version
    from platform import python_version

    from .. import __version__

    @dataclass(frozen=True, kw_only=True)
    class Options:
        """Print the versions of minidl and of what it stands on."""

    options_of(Options, args, "minidl version")
    print(f"minidl {__version__}")
    parts = [f"Python {python_version()}"]
    for library in ("numpy", "scipy", "numba"):
        try:
            parts.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            parts.append(f"{library} missing")
    print(", ".join(parts))
    return 0
