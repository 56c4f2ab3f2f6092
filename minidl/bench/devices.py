"""Where one side of a duel computes, how exactly, and how time is taken there: what differs between a CPU and a CUDA
device. One setting for the whole process, as a worker runs one library on one device."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, NamedTuple

PRECISIONS = ("highest", "tf32x3", "high", "medium", "bf16", "fp16")
# by how much results may differ: factors keep 24, 21, 11, 8, 8 or 11 bits
TOLERANCE = {"highest": 1e-3, "tf32x3": 1e-3, "high": 1e-2, "medium": 5e-2, "bf16": 5e-2, "fp16": 1e-2}
LOW = {"bf16": "bfloat16", "fp16": "float16"}  # mixed precision: what autocast multiplies in, on both sides


class Setting(NamedTuple):
    """library: "minidl" or its peer. precision: of products of float32, or of autocast. channels_last: whether the
    peer's arrays and weights lie so; minidl's own layout is its own choice."""

    library: str = "minidl"
    device: str = "cpu"
    precision: str = "highest"
    channels_last: bool = False
    graphs: bool = False  # steps are captured as CUDA graphs

    @property
    def cuda(self) -> bool:
        return self.device != "cpu"


now = Setting()


def use(library: str, device: str = "cpu", precision: str = "highest", graphs: bool = False) -> None:
    """Compute on a device from now on. PyTorch: with cudnn.benchmark, and tensor cores only as the precision allows."""
    global now
    now = Setting(library, device, precision, graphs=graphs)
    if library == "minidl":
        import minidl

        minidl.set_float32_matmul_precision("high" if precision in LOW else precision)
        if now.cuda:
            minidl.cuda.set_device(device)
    elif now.cuda:
        torch = import_module("torch")
        if ":" in device:  # PyTorch takes no "cuda" here: that is the current one
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.allow_tf32 = precision not in ("highest", "tf32x3")
        words = {"tf32x3": "highest", **dict.fromkeys(LOW, "high")}
        torch.set_float32_matmul_precision(words.get(precision, precision))


def tune() -> None:
    """Let minidl measure its CUDA kernels, as cudnn.benchmark lets the peer; MINIDL_AUTOTUNE may say otherwise."""
    if now.cuda and now.library == "minidl" and "MINIDL_AUTOTUNE" not in os.environ:
        import minidl

        minidl.set_autotune("measure")


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """The step as a CUDA graph, from its fourth run on, if steps are captured here."""
    if not now.graphs:
        return step
    if now.library != "minidl":
        return _PeersGraph(step)
    from ..graphs import capture

    return capture(step, device=now.device)


class _PeersGraph:
    """A step of PyTorch as a graph, as its documentation has it: three runs on a side stream, and then the capture."""

    def __init__(self, step: Callable[[], Any]):
        self.step, self.runs = step, 0
        self.graph: Any = None
        self.result: Any = None

    def __call__(self) -> Any:
        torch = import_module("torch")
        if self.runs < 3:
            self.runs += 1
            for optimizer in [o for o in gc.get_objects() if issubclass(type(o), torch.optim.Optimizer)]:
                for group in optimizer.param_groups:
                    if "capturable" in group:
                        group["capturable"] = True
            stream, current = torch.cuda.Stream(), torch.cuda.current_stream()
            stream.wait_stream(current)
            with torch.cuda.stream(stream):
                result = self.step()
            current.wait_stream(stream)
            return result
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.result = self.step()
        self.graph.replay()
        return self.result


def layouts() -> list[bool]:
    """The values of `channels_last` to choose the faster of."""
    return [False, True] if now.cuda and now.library != "minidl" else [False]


def lay_out(channels_last: bool) -> None:
    """What is prepared from now on lies so."""
    global now
    now = now._replace(channels_last=channels_last)


def computing() -> AbstractContextManager:
    """In this context a step runs: autocast, where the precision asks for it. PyTorch has no float32 products with
    bfloat16 factors ("medium"); there it is what comes nearest."""
    low = LOW.get(now.precision) or ("bfloat16" if now.precision == "medium" and now.library != "minidl" else None)
    if not now.cuda or low is None:
        return nullcontext()
    library = import_module(now.library)
    return library.autocast("cuda", getattr(library, low))


def tensor(dl: Any, array: Any, requires_grad: bool = False) -> Any:
    """A NumPy array as a tensor of the library, where it computes; a copy in the same memory order."""
    if dl.__name__ == "minidl":
        made = dl.tensor(array, device=now.device)
    else:
        made = _in_format(dl.from_numpy(array.copy(order="K")).to(now.device))
    made.requires_grad = requires_grad
    return made


def place(model: Any) -> Any:
    """A network, made and counted on the CPU, where it is to compute."""
    if not now.cuda:
        return model
    model = model.to(now.device)
    if now.library != "minidl":
        for p in model.parameters():
            p.data = _in_format(p.data)
    return model


def _in_format(x: Any) -> Any:
    if not now.channels_last or x.dim() not in (4, 5):
        return x
    torch = import_module("torch")
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)


def timed(step: Callable[[], Any], runs: int = 1) -> tuple[float, Any]:
    """Seconds of one run, of so many one after the other, and the last result.

    On a CUDA device the time between two events of its stream: the host does not wait between the runs, as it does not
    in a training loop.
    """
    if not now.cuda:
        start = time.perf_counter()
        for _ in range(runs):
            result = step()
        return (time.perf_counter() - start) / runs, result
    begin, end, elapsed = _events()
    begin.record()
    for _ in range(runs):
        with computing():  # once for each step: PyTorch keeps copies of weights until the block ends
            result = step()
    end.record()
    end.synchronize()
    return elapsed() / 1e3 / runs, result


def _events() -> tuple[Any, Any, Callable[[], float]]:
    """Two events and the milliseconds between them; nothing else is under way on the device."""
    if now.library == "minidl":
        from ..core.cuda import cupy, synchronize

        synchronize()
        library = cupy().cuda
        events = library.Event(), library.Event()
        return *events, lambda: library.get_elapsed_time(*events)
    torch = import_module("torch")
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    return begin, end, lambda: begin.elapsed_time(end)


def memory() -> int | None:
    """Bytes that the library has taken from the device so far, at most; None on the CPU."""
    if not now.cuda:
        return None
    if now.library == "minidl":
        from ..core.cuda import cupy

        return int(cupy().get_default_memory_pool().total_bytes())  # a pool that never shrinks by itself
    return int(import_module("torch").cuda.max_memory_reserved())
