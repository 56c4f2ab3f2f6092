"""Which of several kernels computes a product fastest: measured once on each kind of device, remembered on disk.

plan.py chooses by a model. Here candidates for one problem (a member of the convolution family, sizes, types) are run
on arrays like the real ones, compared with the kernel that the model chose, and timed. The fastest is kept, in a file
of its own below `folder`: several processes may measure at once, none can damage what another has written.

Different splits of a sum give different last bits. What is remembered is chosen again in every run, so a device's
results stay the same from run to run; they may change when something is measured that was not. `set_autotune` says
what is allowed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from .. import capture
from ..arrays import Array
from ..geometry import ConvGeometry
from . import launch, plan

MODES = ("measure", "remembered", "off")
WORDS = {"1": "measure", "0": "off"}  # that the environment may say, too
MOST = 16  # candidates of plan.py for one problem,
OF_A_TILE = 2  # and of these with one tile: splits near the best
SLOWEST = 3.0  # times what the model expects of its best: slower ones are not tried
ROUNDS = 3, 15  # of timing: at least, at most
SECONDS = 0.3  # that the rounds may take, about
HOPELESS = 1.5  # times the fastest in the first round: not measured any further
FLOODS = 4  # times that the second-level cache is overwritten before each turn: a quarter of a millisecond on an H100
GAIN = 0.02  # by which another must be faster than the model's choice
# Largest difference between two right results, as a share of the largest number: they add in another order, and round
# 2-byte results once. A product forgotten or counted twice is more.
TOLERANCE = {"highest": 2e-5, "tf32x3": 2e-5, "high": 1e-3, "medium": 1e-3}
TOLERANCE_OF_TYPES = {"float64": 1e-12, "float16": 2e-3, "bfloat16": 1e-2}


class Problem(NamedTuple):
    """What is to be computed. member: conv, conv_input or conv_weight. dtype: of the arrays. precision: how float32 is
    multiplied, "highest" for other types. bias, relu: what follows conv or conv_input."""

    member: str
    geometry: ConvGeometry
    dtype: str
    precision: str
    bias: bool
    relu: bool
    device: plan.Device

    def written(self) -> dict[str, Any]:
        """As it stands in a file: all but the device, whose folder the file is in."""
        whole = {**self._asdict(), "geometry": asdict(self.geometry)}
        del whole["device"]
        return json.loads(json.dumps(whole))  # tuples become lists


class Candidate(NamedTuple):
    """One way to solve a problem. name: remembered; different for each candidate of a problem. run: gets the operands
    and, last, the array of the result, of which it writes every element, on the current stream. It may assume that
    their shapes and types fit, and keeps none of them."""

    name: str
    run: Callable[..., None]


class Entry(NamedTuple):
    """What was found out about a problem. microseconds: of each candidate that is right; of a slow one, from one turn.
    wrong: why others were dropped."""

    chosen: str
    microseconds: dict[str, float]
    wrong: dict[str, str]


# ---- what is allowed
def _from_environment() -> str:
    said = os.environ.get("MINIDL_AUTOTUNE", "remembered")
    mode = WORDS.get(said, said)
    if mode not in MODES:
        raise ValueError(f"MINIDL_AUTOTUNE is {said!r}: it must be 1 or {', '.join(MODES)} or 0")
    return mode


_mode: str | None = None  # None: as the environment says
_chosen: dict[tuple[int, Problem], Candidate] = {}
_lock = threading.RLock()
_told: set[str] = set()


def set_autotune(mode: bool | str) -> None:
    """Whether CUDA kernels for convolutions and products of matrices are chosen by measuring, in this whole process.

    "measure" or True: what has not been measured on this kind of device is measured when it first occurs (a good second
    for each geometry, type and precision, and as much memory as its arrays once more), and remembered on disk.
    "remembered", the default: what was measured before counts, nothing new is measured.
    "off" or False: a model chooses, the same on every machine with such a device.

    MINIDL_AUTOTUNE in the environment says it for a process from the start. Choices may differ in how they split a sum,
    so in the last bits of results. Raises ValueError for another word.
    """
    global _mode
    found = {True: "measure", False: "off"}.get(mode, mode) if isinstance(mode, bool) else mode
    if found not in MODES:
        raise ValueError(f"autotune is {mode!r}: it must be True, False or one of {', '.join(map(repr, MODES))}")
    with _lock:
        _mode = str(found)
        _chosen.clear()


def get_autotune() -> str:
    """What `set_autotune` set last, or else MINIDL_AUTOTUNE: "measure", "remembered" or "off"."""
    global _mode
    if _mode is None:
        _mode = _from_environment()
    return _mode


_tell: Callable[[Problem], None] | None = None


@contextmanager
def measuring(tell: Callable[[Problem], None] = lambda problem: None) -> Iterator[list[Problem]]:
    """Inside the block what has not been measured is measured, whatever `set_autotune` said; what was, as a list that
    grows. tell: is called with each problem when its measurement begins."""
    global _tell
    measured: list[Problem] = []
    before = get_autotune(), _tell

    def note(problem: Problem) -> None:
        measured.append(problem)
        tell(problem)

    set_autotune("measure")
    _tell = note
    try:
        yield measured
    finally:
        _tell = before[1]
        set_autotune(before[0])


# ---- choosing
def choose(
    problem: Problem, candidates: Callable[[Problem], Iterable[Candidate]], device: int, operands: tuple[Any, ...],
    out: Array,
) -> Candidate:  # fmt: skip
    """The candidate to run, on the device of this number, which is the current one. The first of `candidates` is what
    the model chooses. operands, out: what it will be given; only looked at, never written."""
    found = _chosen.get((device, problem))
    return found or _decide(problem, candidates, device, operands, out)


def _decide(problem: Problem, candidates: Any, device: int, operands: tuple[Any, ...], out: Array) -> Candidate:
    with _lock:
        mode = get_autotune()
        chosen: Candidate = next(iter(candidates(problem)))
        entry = None if mode == "off" else remembered(problem, device)
        if entry is not None or mode == "measure":
            found = list(candidates(problem))
            known = {candidate.name: candidate for candidate in found}
            if entry is not None and entry.chosen in known:
                chosen = known[entry.chosen]
            elif mode == "measure" and len(found) > 1:
                if capture.capturing():
                    return chosen  # measured when it occurs outside
                chosen = _measured(problem, found, device, operands, out)
        _chosen[device, problem] = chosen
    return chosen


def _measured(
    problem: Problem, found: list[Candidate], device: int, operands: tuple[Any, ...], out: Array
) -> Candidate:
    if _tell is not None:
        _tell(problem)
    try:
        with _own_memory():
            entry = measure(problem, found, operands, out)
    except MemoryError:
        _warn(
            "memory", f"{problem.member} of {problem.geometry}: there is not enough memory to measure kernels for it, "
            f"so the model's choice is used"
        )  # fmt: skip
        return found[0]
    _remember(problem, device, entry)
    for name, reason in entry.wrong.items():
        _warn(
            f"{problem} {name}", f"the kernel {name!r} is not used for {problem.member} of {problem.geometry}, "
            f"{problem.dtype}, {problem.precision}: {reason}. Please report this"
        )  # fmt: skip
    return next(candidate for candidate in found if candidate.name == entry.chosen)


def _own_memory() -> Any:
    """A context: what measuring takes is free again afterwards, also where a graph is warmed up, which keeps what it
    takes."""
    if not capture.active():
        return nullcontext()
    import cupy

    return cupy.cuda.using_allocator(cupy.get_default_memory_pool().malloc)


def measure(problem: Problem, found: list[Candidate], operands: tuple[Any, ...], out: Array) -> Entry:
    """Run, compare and time candidates, of which the first is known to be right, on random arrays that lie in memory as
    these do."""
    import cupy

    scratch = [None if a is None else random_like(a, seed) for seed, a in enumerate(operands)]
    result = cupy.empty_like(out)
    found[0].run(*scratch, result)
    expected = _exact(result)
    right, wrong = [found[0]], {}
    for candidate in found[1:]:
        try:
            reason = _difference(problem, candidate, scratch, result, expected)
        except MemoryError:
            continue  # its workspace does not fit now
        except Exception as error:
            reason = f"it fails with {type(error).__name__}: {error}"
        if reason:
            wrong[candidate.name] = reason
        else:
            right.append(candidate)
    del expected
    times = _timed(right, scratch, result)
    best = min(times, key=lambda name: times[name])
    own = found[0].name
    chosen = best if times[best] < (1 - GAIN) * times[own] else own
    return Entry(chosen, {name: round(1e6 * s, 3) for name, s in sorted(times.items(), key=lambda t: t[1])}, wrong)


def check(problem: Problem, candidate: Candidate, trusted: Candidate, operands: tuple[Any, ...], out: Array) -> str:
    """In what a candidate's result differs from a trusted one's, for random operands like these; "" if in nothing."""
    import cupy

    scratch = [None if a is None else random_like(a, seed) for seed, a in enumerate(operands)]
    result = cupy.empty_like(out)
    trusted.run(*scratch, result)
    return _difference(problem, candidate, scratch, result, _exact(result))


def _exact(result: Array) -> Array:
    return result.astype(result.dtype if result.dtype.itemsize >= 4 else np.float32)


def _difference(problem: Problem, candidate: Candidate, scratch: list[Any], result: Array, expected: Array) -> str:
    result.fill(np.nan)  # an element that is not written shows
    candidate.run(*scratch, result)
    largest = float(abs(expected).max()) or 1.0  # all zeros, where every tap meets padding
    difference = float(abs(_exact(result) - expected).max()) / largest
    allowed = TOLERANCE_OF_TYPES.get(problem.dtype) or TOLERANCE[problem.precision]
    return "" if difference <= allowed else f"its result differs by {difference:.2g} of the largest number"


def _timed(candidates: list[Candidate], scratch: list[Any], result: Array) -> dict[str, float]:
    """Seconds on the device, the median of several rounds in which each has a turn. Before each turn the second-level
    cache is overwritten; while that lasts, the host hands over the turn's kernels, so its own time is not measured."""
    import cupy

    cache_bytes = cupy.cuda.Device().attributes["L2CacheSize"]
    flood = cupy.empty((4 * cache_bytes // 4,), np.float32)
    spans: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}

    def turn(candidate: Candidate) -> float:
        begin, end = cupy.cuda.Event(), cupy.cuda.Event()
        for _ in range(FLOODS):
            flood.fill(0)
        begin.record()
        candidate.run(*scratch, result)
        end.record()
        end.synchronize()
        return cupy.cuda.get_elapsed_time(begin, end) / 1e3

    for candidate in candidates:
        spans[candidate.name].append(turn(candidate))
    fastest = min(first[0] for first in spans.values())
    # the first stays in any case: the others have to be faster than it
    kept = [c for c in candidates if c is candidates[0] or spans[c.name][0] <= HOPELESS * fastest]
    a_round = sum(spans[c.name][0] for c in kept)
    for _ in range(min(max(int(SECONDS / max(a_round, 1e-9)), ROUNDS[0]), ROUNDS[1])):
        for candidate in kept:
            spans[candidate.name].append(turn(candidate))
    return {name: median(found[1:] or found) for name, found in spans.items()}


def random_like(array: Array, seed: int) -> Array:
    """Numbers from -1 to 1 in an array that lies in memory as this one: its axes in the same order, without gaps.

    A hash of each element's place, so that the user's random numbers are not touched. Real data would not do: zeros
    multiply faster than they should and hide errors, as NaN does.
    """
    import cupy

    order = sorted(range(array.ndim), key=lambda axis: -array.strides[axis])
    x = cupy.arange(array.size, dtype=np.uint32)
    x += np.uint32(0x9E3779B9 * (seed + 1) & 0xFFFFFFFF)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):  # the last steps of MurmurHash3
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    values = x.astype(np.float32) * np.float32(2**-31) - np.float32(1)
    flat = values.astype(array.dtype).reshape([array.shape[axis] for axis in order])
    return flat.transpose([order.index(axis) for axis in range(array.ndim)])


# ---- what is remembered
def cache_home() -> Path:
    """$MINIDL_CACHE_DIR, by default minidl in the user's cache folder."""
    home = os.environ.get("MINIDL_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "minidl")
    return Path(home).expanduser()


@cache
def sources() -> str:
    """A hash of everything in this package: another version of the kernels measures anew."""
    found = hashlib.sha256()
    for path in sorted(p for p in Path(__file__).parent.iterdir() if p.suffix in (".py", ".cu", ".cuh")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:16]


def home() -> Path:
    """The folder of what was measured with these kernels; a folder in it for each kind of device."""
    return cache_home() / f"cuda-{sources()}"


@cache
def _kind(device: int) -> str:
    """What tells one kind of device, with its driver, from another."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(device)["name"].decode(errors="replace")
    capability, processors, _ = launch.properties(device)
    versions = f"driver {runtime.driverGetVersion()} CUDA {runtime.runtimeGetVersion()}"
    return re.sub(r"[^\w.]+", "-", f"{name} sm{capability} x{processors} {versions}")


def folder(device: int) -> Path:
    """Where the choices for a device's kind are kept, a file for each problem."""
    return home() / _kind(device)


def file(problem: Problem, device: int) -> Path:
    key = hashlib.sha256(json.dumps(problem.written(), sort_keys=True).encode()).hexdigest()[:24]
    return folder(device) / f"{problem.member}-{key}.json"


def remembered(problem: Problem, device: int) -> Entry | None:
    """What was found out about a problem on this kind of device, here or in another process; None: nothing."""
    path = file(problem, device)
    try:
        read = json.loads(path.read_bytes())
        if read["problem"] != problem.written():
            raise ValueError("it is about another problem")
        return Entry(str(read["chosen"]), dict(read["microseconds"]), dict(read["wrong"]))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _warn("damaged", f"{path} cannot be used ({error}): remove it; what it was about is chosen as if it were new")
        return None


def _remember(problem: Problem, device: int, entry: Entry) -> None:
    path = file(problem, device)
    part = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.part")
    text = json.dumps({"problem": problem.written(), **entry._asdict()}, indent=1)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part.write_text(text + "\n")
        part.replace(path)  # another process sees all of it or nothing
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        _warn(
            "unwritable", f"choices of CUDA kernels cannot be kept in {path.parent} ({error}): every process will "
            f"measure its own. Set MINIDL_CACHE_DIR to a writable folder"
        )  # fmt: skip


def forget() -> None:
    """Drops what this process has chosen: for whoever replaces the library behind the name cupy."""
    with _lock:
        _chosen.clear()
        _kind.cache_clear()
        _told.clear()


def _warn(key: str, text: str) -> None:
    """Once in a process."""
    if key not in _told:
        _told.add(key)
        warnings.warn(text, RuntimeWarning, stacklevel=3)
