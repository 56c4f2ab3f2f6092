"""What is measured on a CUDA device, part by part: each is a function that yields rows, as soon as it has one.

A row is a dictionary of plain values: "case", and "us" (microseconds, by name, the first is minidl's); "ratio" of
minidl to the best of the others; "flops" or "bytes" of one run; whatever else is worth keeping. Or "case" and "error".

`python -m minidl.bench.device_parts PART DEVICE OPTIONS` prints the rows of one part, a JSON object a line.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib import import_module
from math import isclose, prod
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from ..kernels.cpu.threads import available
from ..kernels.cuda import conv, hopper, launch, plan, tuner
from ..kernels.geometry import ConvGeometry
from . import devices
from .duel import BenchError, duel
from .worker import find
from .workloads import WORKLOADS

TURNS = 5  # of each side
SPAN = 0.03  # seconds of one turn, about
CALLS = 2000  # of a small operation, to know what the host needs for one
Row = dict[str, Any]


class Options(NamedTuple):
    """divide: sizes by so much, for a quick look. peer: whether PyTorch is measured as well. seconds: for each case of
    `steps`."""

    divide: int = 1
    peer: bool = True
    seconds: float = 2.0


class Layer(NamedTuple):
    """A convolution: shapes of input and weight, stride, padding."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    padding: int = 1

    def geometry(self, divide: int) -> ConvGeometry:
        """With batch, channels and size on each axis divided."""
        smaller = lambda sizes: tuple(max(1, n // divide) for n in sizes)
        x = smaller(self.x[:2]) + tuple(max(k, n // divide) for n, k in zip(self.x[2:], self.w[2:], strict=True))
        return ConvGeometry.of(x, smaller(self.w[:2]) + self.w[2:], self.stride, self.padding)


LAYERS = {  # the heavy ones first
    "C3D conv2": Layer((16, 64, 16, 56, 56), (128, 64, 3, 3, 3)),
    "C3D conv3b": Layer((16, 256, 8, 28, 28), (256, 256, 3, 3, 3)),
    "C3D conv4b": Layer((16, 512, 4, 14, 14), (512, 512, 3, 3, 3)),
    "C3D conv1": Layer((16, 3, 16, 112, 112), (64, 3, 3, 3, 3)),
    "C3D conv5": Layer((16, 512, 2, 7, 7), (512, 512, 3, 3, 3)),
    "C3D conv3a": Layer((16, 128, 8, 28, 28), (256, 128, 3, 3, 3)),
    "C3D conv4a": Layer((16, 256, 4, 14, 14), (512, 256, 3, 3, 3)),
    "ConvGRU x": Layer((40, 64, 28, 28), (192, 64, 3, 3)),
    "ConvGRU h": Layer((4, 64, 28, 28), (128, 64, 3, 3)),
    "DCGAN 64": Layer((32, 64, 32, 32), (128, 64, 4, 4), 2),
    "DCGAN 256": Layer((32, 256, 8, 8), (512, 256, 4, 4), 2),
    "DCGAN 3": Layer((32, 3, 64, 64), (64, 3, 4, 4), 2),
    "VAE 32": Layer((128, 32, 14, 14), (64, 32, 4, 4), 2),
}
PRECISIONS = ("high", "bfloat16", "tf32x3", "highest")  # of the layers; bfloat16: arrays of it
TOLERANCE = {**devices.TOLERANCE, "bfloat16": 2e-2}
MEMBERS = {"conv": "forward", "conv_input": "gradient of x", "conv_weight": "gradient of w"}


class Step(NamedTuple):
    """A training step of a workload: its sizes, which of its cases, and whether minidl captures it as a graph."""

    workload: str
    precision: str
    graph: bool = False
    sizes: Mapping[str, int] = {}
    cases: tuple[str, ...] = ()


SMALL_NETS = ("convgru", "dcgan", "conv-vae", "mlp-vae")
STEPS = (  # what is worth most first
    *(Step("c3d", word, False, {"batch": 16}, ("training step",)) for word in ("high", "bf16", "tf32x3")),
    *(Step(workload, "high", graph) for graph in (True, False) for workload in SMALL_NETS),
)
POOLS = {  # shape, window
    "2-D": ((32, 64, 56, 56), 2),
    "3-D": ((16, 128, 16, 56, 56), 2),
}


# ---- one library beside the other
class Peer:
    """PyTorch on the same device, in the same process: it reads minidl's arrays where they are."""

    def __init__(self, place: str) -> None:
        self.place = place
        self.torch = import_module("torch")
        self.F = import_module("torch.nn.functional")

    @classmethod
    def found(cls, device: str) -> Peer | None:
        """None where PyTorch, or its view of the device, is missing."""
        try:
            peer = cls(device)
        except ImportError:
            return None
        return peer if peer.torch.cuda.is_available() else None

    def tensor(self, array: Any) -> Any:
        """The same numbers in the same memory."""
        return self.torch.from_dlpack(array)

    def laid_out(self, x: Any, channels_last: bool) -> Any:
        """A tensor (N, C, *S) whose channels, or whose positions, are innermost in memory."""
        formats = {4: self.torch.channels_last, 5: self.torch.channels_last_3d}
        known = formats.get(x.dim()) if channels_last else self.torch.contiguous_format
        return x.contiguous() if known is None else x.contiguous(memory_format=known)

    def precision(self, word: str) -> None:
        """As `devices.use` sets it; bfloat16 lies in the arrays."""
        devices.use("torch", self.place, "high" if word == "bfloat16" else word)

    def product(self, member: str, g: ConvGeometry, x: Any, w: Any, y: Any) -> Callable[[], Any]:
        """The convolution, or one of its gradients."""
        padding = [before for before, _ in g.padding]
        if member == "conv":
            call = getattr(self.F, f"conv{g.rank}d")
            return lambda: call(x, w, None, g.stride, padding, g.dilation, g.groups)
        wanted = [member == "conv_input", member == "conv_weight", False]
        backward, which = self.torch.ops.aten.convolution_backward, wanted.index(True)
        rest = (None, g.stride, padding, g.dilation, False, (0,) * g.rank, g.groups, wanted)
        return lambda: backward(y, x, w, *rest)[which]

    def kernels(self, step: Callable[[], Any]) -> list[str]:
        """The kernels that a step really runs, by PyTorch's profiler, the longest first."""
        profiler = import_module("torch.profiler")
        activity = profiler.ProfilerActivity.CUDA if self.place != "cpu" else profiler.ProfilerActivity.CPU
        with profiler.profile(activities=[activity]) as seen:
            step()
            if self.place != "cpu":
                self.torch.cuda.synchronize()
        spans: dict[str, float] = {}
        for event in seen.events():
            if event.device_type.name == ("CPU" if self.place == "cpu" else "CUDA"):
                spans[event.name] = spans.get(event.name, 0.0) + event.time_range.elapsed_us()
        return sorted(spans, key=lambda name: -spans[name])


def alternately(
    ours: Callable[[], Any], others: Mapping[str, Callable[[], Any]], word: str, device: str, peer: Peer | None
) -> Row:
    """Microseconds of each side, the median of TURNS, taken in turn; the ratio to the best other's, pair by pair."""
    sides = {"minidl": ours, **others}

    def turn(name: str, runs: int = 1) -> float:
        if name == "minidl":
            devices.use("minidl", device, "high" if word == "bfloat16" else word)
        else:
            assert peer is not None
            peer.precision(word)
        return devices.timed(sides[name], runs)[0]

    runs = {}
    for name in sides:  # compiles, chooses, warms up
        turn(name)
        runs[name] = max(1, min(200, int(SPAN / max(turn(name), 1e-6))))
    spans: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS):
        for name in sides:
            spans[name].append(turn(name, runs[name]))
    row: Row = {"us": {name: 1e6 * median(times) for name, times in spans.items()}}
    if others:
        best = min(others, key=lambda name: row["us"][name])
        row["ratio"] = median(a / b for a, b in zip(spans["minidl"], spans[best], strict=True))
    return row


def guarded(case: str, measure: Callable[[], Row]) -> Row:
    """The row of a case; if it fails, what it says."""
    try:
        return {"case": case, **measure()}
    except Exception as error:  # whatever a kernel, a driver or the peer may raise: the other cases are measured
        traceback.print_exc()
        return {"case": case, "error": f"{type(error).__name__}: {error}"}


# ---- the parts
def kernels(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """Compiles every product of tiles, in as many processes as there are cores: NVRTC compiles one at a time in each.
    CuPy keeps them on disk for the parts that follow."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    count = len(plan.instances()) + len(hopper.instances())
    processes = min(available(), count)
    began = time.perf_counter()
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        jobs = [pool.submit(_compile, device, first, processes) for first in range(processes)]
        failures = [failure for job in jobs for failure in job.result()]
    yield {
        "case": f"{count} kernels compiled by {processes} processes",
        "us": {"minidl": 1e6 * (time.perf_counter() - began)},
        **({"error": "; ".join(failures)} if failures else {}),
    }


def _compile(device: str, first: int, step: int) -> list[str]:
    """Every step-th kernel from the first on; those that cannot be compiled or loaded."""
    failures = []
    made: list[tuple[plan.Instance, tuple[str, ...], str]] = [(i, (), plan.text(i)) for i in plan.instances()]
    made += [(i, hopper.OPTIONS, i.source) for i in hopper.instances()]
    with import_module("minidl.core.cuda").place(device) as place:
        capability, _, shared = launch.properties(place.id)
        for instance, flags, text in made[first::step]:
            fits = capability == hopper.CAPABILITY if flags else capability >= plan.LOWEST
            if not fits or instance.shared > shared:
                continue
            try:
                launch.load(instance.file, instance.name, flags, place.id, text, instance.shared)
            except Exception as error:
                failures.append(f"{instance.name}: {type(error).__name__}: {str(error)[:200]}")
    return failures


def ceilings(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """What the device can do at best: a large product in each precision, a large copy."""
    sizes = {"size": max(8, 2048 // options.divide), "megabytes": max(1, 256 // options.divide**3)}
    for word in ("highest", "high", "bf16", "fp16"):
        for library in ["minidl", *(["torch"] if peer else [])]:

            def measure(library: str = library, word: str = word) -> Row:
                devices.use(library, device, word)
                case = find("ceiling:cases")(library, **sizes)["product"]
                case()
                run = case(runs=5)
                return {"us": {library: 1e6 * run.seconds}, "flops": run.flops, "precision": word}

            yield guarded(f"product of matrices by {library}, {word}", measure)

    def copy() -> Row:
        devices.use("minidl", device)
        case = find("ceiling:cases")("minidl", **sizes)["copy"]
        case()
        run = case(runs=10)
        return {"us": {"minidl": 1e6 * run.seconds}, "bytes": run.bytes}

    yield guarded("copy", copy)


def layers(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """The three products of each convolution in each precision, beside cuDNN in both memory formats; which kernels ran.
    Arrays are channels-last, as they are inside a network. What is worth most comes first, in case time runs out."""
    heavy = [title for title in LAYERS if title.startswith("C3D")]
    small = [title for title in LAYERS if title not in heavy]
    cases = [(title, word) for word in PRECISIONS[:-1] for title in heavy]
    cases += [(title, PRECISIONS[0]) for title in small]
    cases += [(title, PRECISIONS[-1]) for title in heavy] + [(title, w) for w in PRECISIONS[1:] for title in small]
    for title, word in dict.fromkeys(cases):
        layer = LAYERS[title]
        g = layer.geometry(options.divide)
        for member, what in MEMBERS.items():
            if member == "conv_input" and layer.x[1] <= 3:
                continue  # images need no gradient
            yield {
                "layer": title, "precision": word, "member": member,
                **guarded(f"{title}, {what}, {word}", partial(_product, member, g, word, device, peer)),
            }  # fmt: skip


def _product(member: str, g: ConvGeometry, word: str, device: str, peer: Peer | None) -> Row:
    import cupy

    devices.use("minidl", device, "high" if word == "bfloat16" else word)
    dtype = np.dtype(import_module("ml_dtypes").bfloat16 if word == "bfloat16" else np.float32)
    with import_module("minidl.core.cuda").place(device) as place:
        x, y = (_channels_last(shape, seed) for seed, shape in enumerate((g.x_shape, g.y_shape)))
        w = tuner.random_like(cupy.empty(g.w_shape, np.float32), 2)
        mine = [a.astype(dtype, copy=False) for a in (x, w, y)]
        given = {"conv": mine[:2], "conv_input": [mine[2], mine[1]], "conv_weight": [mine[0], mine[2]]}[member]
        ours = lambda: getattr(conv, member)(*given, geometry=g)
        others = {}
        if peer is not None:
            theirs = [peer.tensor(a) for a in (x, w, y)]
            if word == "bfloat16":
                theirs = [a.bfloat16() for a in theirs]
            peer.precision(word)
            for name, last in (("cuDNN", False), ("cuDNN channels last", True)):
                others[name] = peer.product(member, g, *(peer.laid_out(a, last) for a in theirs))
        row = alternately(ours, others, word, device, peer)
        devices.use("minidl", device, "high" if word == "bfloat16" else word)
        problem = conv.problem(member, g, dtype, False, False, place.id)
        options = plan.options(member, g, dtype.name, problem.precision, problem.device)
        entry = tuner.remembered(problem, place.id) if tuner.get_autotune() != "off" else None
        row |= {
            "flops": 2.0 * g.multiply_adds,
            "bytes": float(dtype.itemsize * (prod(g.x_shape) + prod(g.w_shape) + prod(g.y_shape))),
            "kernel": entry.chosen if entry else next(conv.candidates(problem)).name,
            "by model": options[0].name if options else "direct",
            "expected us": 1e6 * options[0].cycles / plan.CLOCK if options else None,
            "tuning": None if entry is None else {"us": entry.microseconds, "wrong": entry.wrong},
        }
        if peer is not None:
            peer.precision(word)
            best = min(others, key=lambda name: row["us"][name])
            row["their kernels"] = guarded("", lambda: {"names": peer.kernels(others[best])[:3]})
            values = float(abs(ours().astype(np.float32)).mean()), float(others[best]().float().abs().mean())
            row["mean results"] = values
            if not isclose(*values, rel_tol=TOLERANCE[word]):
                row["error"] = f"the libraries do not compute the same: {values[0]:.6g} and {values[1]:.6g}"
        return row


def _channels_last(shape: tuple[int, ...], seed: int) -> Any:
    return tuner.random_like(launch.empty_channels_last(shape, np.float32), seed)


def steps(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """Whole training steps, in two processes that take turns (`minidl bench`). PyTorch's are eager, with cuDNN's
    benchmark."""
    for step in STEPS:
        at = f"{step.precision}{', as a graph' if step.graph else ''}"
        found = duel(
            WORKLOADS[step.workload].place, name=step.workload, peer="torch" if peer else None, device=device,
            sizes=_divided(step.workload, step.sizes, options.divide), seconds=options.seconds, only=step.cases,
            precision=step.precision, graphs=("minidl",) if step.graph else (), threads=min(4, available()),
        )  # fmt: skip
        try:
            for result in found:
                us = {"minidl": 1e6 * result.ours.seconds}
                if result.theirs:
                    us["torch"] = 1e6 * result.theirs.seconds
                yield {
                    "case": f"{step.workload}: {result.case}, {at}", "precision": step.precision, "us": us,
                    "ratio": result.ratio, "from": result.low, "to": result.high, "flops": result.flops,
                    "bytes": result.bytes, "result": asdict(result),
                }  # fmt: skip
        except BenchError as error:
            yield {"case": f"{step.workload}, {at}", "error": str(error)}


def _divided(workload: str, sizes: Mapping[str, int], divide: int) -> dict[str, int]:
    if divide == 1:
        return dict(sizes)
    from inspect import signature

    usual = {n: p.default for n, p in list(signature(find(WORKLOADS[workload].place)).parameters.items())[1:]}
    return {name: max(1, value // divide) for name, value in (usual | dict(sizes)).items() if name != "checkpoint"}


def pooling(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """Gigabytes a second of 2-D and 3-D pooling. Bytes: the larger array and the smaller, once."""
    for axes, (shape, window) in POOLS.items():
        small = (shape[0], shape[1], *(max(window, n // options.divide) for n in shape[2:]))
        for kind in ("max", "avg"):
            for backward in (False, True):
                what = f"{kind} pooling {axes}, {'forward + backward' if backward else 'forward'}"
                yield guarded(what, partial(_pool, kind, small, window, backward, device, peer))


def _pool(kind: str, shape: tuple[int, ...], window: int, backward: bool, device: str, peer: Peer | None) -> Row:
    import minidl
    import minidl.functional as F

    devices.use("minidl", device)
    name = f"{kind}_pool{len(shape) - 2}d"
    with import_module("minidl.core.cuda").place(device):
        array = _channels_last(shape, 0)

        def step(F: Any, x: Any, seed: Any) -> Callable[[], Any]:
            pool = getattr(F, name)
            x.requires_grad = backward

            def run() -> None:
                x.grad = None
                y = pool(x, window)
                if backward:
                    y.backward(seed)

            return run

        x = minidl.as_tensor(array)
        seed = minidl.ones_like(getattr(F, name)(x, window))
        others = {}
        if peer is not None:
            for title, last in (("torch", False), ("torch channels last", True)):
                theirs = peer.laid_out(peer.tensor(array), last).detach().clone()
                others[title] = step(peer.F, theirs, peer.torch.ones_like(getattr(peer.F, name)(theirs, window)))
        row = alternately(step(F, x, seed), others, "highest", device, peer)
        return row | {"bytes": 4.0 * (prod(shape) + seed.numel()) * (1 + backward)}


def overhead(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """What the host needs to hand over small work, without waiting for it."""
    import minidl
    import minidl.functional as F

    devices.use("minidl", device)
    calls = max(10, CALLS // options.divide)

    def host(call: Callable[[], Any], wait: Callable[[], Any]) -> float:
        for _ in range(10):
            call()
        wait()
        spans = []
        for _ in range(TURNS):
            start = time.perf_counter()
            for _ in range(calls // TURNS):
                call()
            spans.append((time.perf_counter() - start) / (calls // TURNS))
            wait()
        return 1e6 * median(spans)

    def small(dl: Any, F: Any, make: Callable[[np.ndarray], Any]) -> dict[str, Callable[[], Any]]:
        a, image, weight, matrix = (
            make(np.ones(shape, np.float32)) for shape in ((8, 8), (1, 8, 8, 8), (8, 8, 3, 3), (64, 64))
        )
        leaf = make(np.ones((8, 8), np.float32))
        leaf.requires_grad = True

        def backward() -> None:
            leaf.grad = None
            (leaf * a).sum().backward()

        return {
            "add 8x8": lambda: a + a,
            "add 8x8, recorded": lambda: leaf + a,
            "multiply and sum 8x8, with backward": backward,
            "conv2d 8->8, 8x8": lambda: F.conv2d(image, weight, None, 1, 1),
            "product 64x64": lambda: matrix @ matrix,
        }

    ours = small(minidl, F, lambda array: minidl.tensor(array, device=device))
    theirs = {} if peer is None else small(peer.torch, peer.F, lambda a: peer.torch.from_numpy(a).to(peer.place))
    wait = import_module("minidl.core.cuda").synchronize
    for case, call in ours.items():

        def measure(case: str = case, call: Callable[[], Any] = call) -> Row:
            us = {"minidl": host(call, wait)}
            if peer is not None:
                us["torch"] = host(theirs[case], peer.torch.cuda.synchronize if peer.place != "cpu" else lambda: None)
            return {"us": us, **({"ratio": us["minidl"] / us["torch"]} if peer else {})}

        yield guarded(case, measure)

    def alone() -> Row:
        import cupy

        x = cupy.ones((8, 8), np.float32)
        g = ConvGeometry.of((1, 1, 8), (1, 1, 1))
        y = cupy.empty((1, 1, 8), np.float32)
        arguments = (x, x, y, y, launch.struct(g), np.int32(0), np.int32(0))
        launched = host(lambda: launch.run("conv.cu", "conv_kernel", np.dtype(np.float32), 8, *arguments), wait)
        return {"us": {"minidl": launched, "CuPy's add": host(lambda: x + x, wait)}}

    yield guarded("one launch of a kernel", alone)


def numba(device: str, options: Options, peer: Peer | None) -> Iterator[Row]:
    """The same direct sums and poolings in CUDA C++ and in numba.cuda."""
    import minidl
    from minidl.kernels import table
    from minidl.kernels.geometry import PoolGeometry

    devices.use("minidl", device)
    g = Layer((16, 32, 56, 56), (32, 32, 3, 3)).geometry(options.divide)
    pool = PoolGeometry.of((16, 64, 56 // options.divide, 56 // options.divide), 2, 2)
    with minidl.core.cuda.place(device) as place:
        x, y = (_channels_last(shape, seed) for seed, shape in enumerate((g.x_shape, g.y_shape)))
        w = tuner.random_like(launch.empty(g.w_shape, np.float32), 2)
        image = _channels_last(pool.x_shape, 3)
        for member, given in (("conv", (x, w)), ("conv_input", (y, w)), ("conv_weight", (x, y))):

            def direct(member: str = member, given: Any = given) -> Any:
                problem = conv.problem(member, g, np.dtype(np.float32), False, False, place.id)
                if member == "conv_weight":
                    out = launch.empty(g.w_shape, np.float32)
                    conv.direct(problem, *given, out)
                else:
                    out = launch.empty_channels_last(g.y_shape if member == "conv" else g.x_shape, np.float32)
                    conv.direct(problem, *given, None, out)
                return out

            theirs = partial(table.find(member, "numba_cuda"), *given, geometry=g)
            yield guarded(f"direct sum, {MEMBERS[member]}", partial(_both, direct, theirs, flops=2.0 * g.multiply_adds))
        pools = [partial(table.find("max_pool", column), image, geometry=pool) for column in ("cuda", "numba_cuda")]
        moved = 4.0 * (prod(pool.x_shape) + prod(pool.y_shape))
        yield guarded("max pooling 2-D, forward", partial(_both, *pools, bytes=moved))


def _both(ours: Callable[[], Any], numbas: Callable[[], Any], **counted: float) -> Row:
    """CUDA C++ and numba.cuda, in turn."""
    spans: dict[str, list[float]] = {"minidl": [], "numba.cuda": []}
    for call in (ours, numbas):
        devices.timed(call)
    for _ in range(TURNS):
        for name, call in zip(spans, (ours, numbas), strict=True):
            spans[name].append(devices.timed(call, 5)[0])
    us = {name: 1e6 * median(times) for name, times in spans.items()}
    return {"us": us, "ratio": us["minidl"] / us["numba.cuda"], **counted}


PARTS: dict[str, Callable[[str, Options, Peer | None], Iterator[Row]]] = {
    part.__name__: part for part in (kernels, ceilings, pooling, overhead, layers, steps, numba)
}


def main(part: str, device: str, options: str) -> None:
    """Print a part's rows as they come."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not come between the rows
    asked = Options(**json.loads(options))
    devices.use("minidl", device)
    devices.tune()
    peer = Peer.found(device) if asked.peer else None
    for row in PARTS[part](device, asked, peer):
        print(json.dumps(row), file=answers, flush=True)


def known(names: Collection[str]) -> list[str]:
    """The parts of these names, all if there are none. Raises ValueError."""
    from ..data.extras import no_such

    for name in names:
        if name not in PARTS:
            raise ValueError(no_such("part", name, PARTS))
    return [name for name in PARTS if name in names] if names else list(PARTS)


if __name__ == "__main__":
    main(*sys.argv[1:])
