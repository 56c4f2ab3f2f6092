"""A step as one CUDA graph: recorded once, then replayed by a single call of the host.

    step = minidl.graphs.capture(train_step)
    for images, labels in loader:
        loss = step(images, labels)

A step of a small network consists of hundreds of short kernels, and the host needs longer to launch them than the
device to run them. A replay launches all of them at once. NVIDIA, CUDA C++ Programming Guide, "CUDA Graphs".
"""

from __future__ import annotations

import gc
import re
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .core import cuda
from .core.graph import Clock, Written, stamp_again, written_since
from .core.tensor import Tensor, as_array, place_of
from .core.uploads import Staging
from .kernels import capture as capturing

HERE = Path(__file__).parent
HINTS = (  # what CuPy's refusals mean for who wrote the step
    (
        r"D2H|synchronous API|StreamCapture",
        "it asks the device for a number: loss.item(), float(), print, `if x:`, an index of booleans. Or it waits for "
        "it. Return the tensors, and look at them when the step is over",
    ),
    (
        r"H2D",
        "it sends an array from the host: an index or mask of NumPy, a list, minidl.tensor(…), .to('cuda'). Make it an "
        "argument of the step, or send it before",
    ),
    (
        r"cu(BLAS|RAND|SOLVER|SPARSE)",
        "it calls a library that CuPy does not let be captured. minidl's own products can be captured in float16, "
        "bfloat16, float32 and float64, in the default backend",
    ),
)


class CaptureError(RuntimeError):
    """A step does what a CUDA graph cannot repeat."""


def capture(step: Callable[..., Any], *example_inputs: Any, warmup: int = 3, device: Any = None) -> CapturedStep:
    """A function that does what `step` does, as a CUDA graph. It takes the same tensors, always of the same shapes and
    dtypes, and returns what step returns: tensors, or tuples, lists and dicts of tensors.

    step: forward pass, zero_grad, backward pass, optimizer.step() and whatever else belongs to it; all of its work on
    one device. The first `warmup` calls run it as it is, so that kernels are compiled and the optimizer has its state;
    the next one captures it, and from then on calls replay it. With example_inputs the first calls are made at once,
    with them: they are steps like any other, and train. device: where it runs; None: where its first input is, and a
    NumPy array is on the CPU. On the CPU there is nothing to capture: step is simply called.

    The results of replays are always the same tensors: the next call overwrites them, so `.clone()` what is to be kept.
    Inputs are copied, from the host as well (then without waiting). Parameters, optimizer state and gradients stay
    where they are and change as in any other step. Learning rates and step counts of minidl's optimizers, averages of
    weights and random numbers (dropout, randn and so on) are taken anew for every replay: the numbers are those of the
    uncaptured step. Only products of matrices may differ in the last bits, as minidl's own kernels compute what would
    be cuBLAS's.

    Everything else that Python does in the step happens when it is captured, not when it is replayed: branches, prints,
    counters, numbers computed by the host. So a step must not look at the device's numbers or send arrays to it, must
    clear gradients itself, and must keep what lives from step to step by writing into it (x.data[...] = …). Schedules,
    logging and saving belong outside. Raises CaptureError where a step looks, sends, or adds to old gradients.
    """
    if warmup < 1:
        raise ValueError(f"warmup is {warmup}: at least one step must run before it is captured")
    captured = CapturedStep(step, warmup, None if device is None else str(device))
    if example_inputs:
        for _ in range(warmup):
            captured(*example_inputs)
        captured.record(*example_inputs)
    return captured


class Memory:
    """A pool of a device's memory that only one graph uses: what it has taken stays until the graph is gone, as the
    graph goes on writing to it."""

    def __init__(self) -> None:
        self.blocks: list[Any] = []
        self.device = cuda.current_device()
        self._pool = cuda.cupy().cuda.MemoryPool(self._block)
        cuda.private.add(self)

    @property
    def nbytes(self) -> int:
        return sum(block.size for block in self.blocks)

    def _block(self, size: int) -> Any:
        library = cuda.cupy().cuda
        try:
            block = library.Memory(size)
        except library.runtime.CUDARuntimeError:  # perhaps there is some that is only kept
            cuda.cupy().get_default_memory_pool().free_all_blocks()
            block = library.Memory(size)
        self.blocks.append(block)
        return library.MemoryPointer(block, 0)

    def allocator(self, note: Callable[[Any], None]) -> Callable[[int], Any]:
        """For cupy.cuda.using_allocator; `note` is told of each piece."""

        def allocate(size: int) -> Any:
            pointer = self._pool.malloc(size)
            note(pointer.mem)
            return pointer

        return allocate


class CapturedStep:
    """What `capture` returns."""

    def __init__(self, step: Callable[..., Any], warmup: int, device: str | None):
        self.step, self.warmup, self.device = step, warmup, device
        self.runs = 0  # of the warm-up
        self._place: Any = None  # the cupy.cuda.Device; None before the first call, and on the CPU
        self._recorder: Any = None
        self._memory: Memory | None = None
        self._inputs: list[Any] = []  # CuPy arrays that the graph reads
        self._graph: Any = None
        self._outputs: Any = None
        self._written: Written = []  # arrays from before the graph that it writes to
        self._staging, self._values = Staging(), Staging()  # of inputs, and of what the host computes anew

    def __call__(self, *inputs: Any) -> Any:
        arrays = [_array(i, x) for i, x in enumerate(inputs)]
        if not arrays and self.device is None:
            raise TypeError("a captured step without inputs needs to know where it runs: capture(…, device='cuda')")
        place = self._place or place_of(self.device or Tensor(arrays[0]).device)
        if place is None:
            return _detached(self.step(*map(Tensor, arrays)))
        with place:
            if self._place is None:
                self._begin(place, arrays)
            self._check(arrays)
            for static, array in zip(self._inputs, arrays, strict=True):
                self._copy(array, static)
            if self._graph is None:
                if self.runs < self.warmup:
                    self.runs += 1
                    return self._run()
                self._capture()
            return self._replay()

    def record(self, *inputs: Any) -> None:
        """Capture now, with inputs like these, and without a step."""
        if self._place is not None:
            with self._place:
                self._check([_array(i, x) for i, x in enumerate(inputs)])
                self._capture()

    @property
    def captured(self) -> bool:
        """Whether calls replay a graph."""
        return self._graph is not None

    @property
    def nbytes(self) -> int:
        """Bytes of the device's memory that belong to the graph alone."""
        return 0 if self._memory is None else self._memory.nbytes

    # ---- before
    def _begin(self, place: Any, arrays: list[Any]) -> None:
        library = cuda.cupy()
        self._place = place
        self._stream = library.cuda.Stream(non_blocking=True)  # the default one cannot be captured
        self._inputs = [library.empty(a.shape, a.dtype) for a in arrays]
        self._recorder = capturing.Recorder(library.asarray)

    def _check(self, arrays: list[Any]) -> None:
        if len(arrays) != len(self._inputs):
            raise TypeError(f"the step was captured with {len(self._inputs)} inputs, {len(arrays)} were given")
        for i, (static, array) in enumerate(zip(self._inputs, arrays, strict=True)):
            if (array.shape, array.dtype) != (static.shape, static.dtype):
                raise ValueError(
                    f"input {i} is {array.dtype}{list(array.shape)}, the step was captured with "
                    f"{static.dtype}{list(static.shape)}: a graph has fixed shapes. DataLoader(drop_last=True) leaves "
                    f"an incomplete batch out; for another size capture the step again"
                )
            if not isinstance(array, np.ndarray) and array.device.id != self._place.id:
                raise ValueError(f"input {i} is on cuda:{array.device.id}, the step runs on cuda:{self._place.id}")

    def _copy(self, array: Any, static: Any) -> None:
        if isinstance(array, np.ndarray):
            self._staging.send(array, static, cuda.cupy().cuda.get_current_stream())
        elif array is not static:
            static[...] = array

    def _run(self) -> Any:
        """The step itself, on the stream and with the kernels of the graph to come."""
        library = cuda.cupy().cuda
        current = library.get_current_stream()
        self._stream.wait_event(current.record())
        self._recorder.warm_up()
        with capturing.recording(self._recorder), self._stream:
            outputs = self.step(*map(Tensor, self._inputs))
        current.wait_event(self._stream.record())
        return _detached(outputs)

    def _capture(self) -> None:
        library = cuda.cupy()
        stream, recorder = self._stream, self._recorder
        gc.collect()  # nothing is to be freed while the stream is captured that has nothing to do with it
        library.cuda.Device().synchronize()
        # what the warm-up needed on this stream serves no other one
        library.get_default_memory_pool().free_all_blocks(stream)
        self._memory = Memory()
        recorder.capture(library.empty(max(recorder.size, 1), np.uint8))
        began = Clock.changed
        with capturing.recording(recorder), library.cuda.using_allocator(self._memory.allocator(recorder.note)), stream:
            stream.begin_capture()
            try:
                outputs = _detached(self.step(*map(Tensor, self._inputs)), on_device=True)
                recorder.finish()
                self._graph = stream.end_capture()
            except BaseException as error:
                with suppress(RuntimeError):  # it may only say what is known: that the capture is no good
                    stream.end_capture()
                recorder.abandon()
                self._memory = None
                self.runs = self.warmup - 1  # gradients are what the capture left: nothing
                explained = _explained(error)
                if explained is error:
                    raise
                raise explained from error
        self._outputs = outputs
        changed = [(key, ref, ref()) for key, ref in written_since(began)]
        self._written = [(key, ref) for key, ref, a in changed if a is not None and not recorder.made(a)]

    # ---- after
    def _replay(self) -> Any:
        if not stamp_again(self._written):
            raise RuntimeError(
                "an array that the captured step writes to is gone: a network was moved or converted, or its tensors "
                "replaced. Capture the step again"
            )
        recorder, current = self._recorder, cuda.cupy().cuda.get_current_stream()
        if recorder.values:
            table = np.empty(len(recorder.table), np.uint8)
            recorder.fill(table)
            self._values.send(table, recorder.table, current)
        self._graph.launch(current)
        return self._outputs


def _array(number: int, x: Any) -> Any:
    """An input as an array where it is."""
    if not isinstance(x, Tensor) and not hasattr(x, "strides"):
        raise TypeError(
            f"input {number} is {type(x).__name__}; a captured step takes tensors and arrays. A number would be the "
            f"same in every replay: give minidl.tensor(number)"
        )
    return x._data if isinstance(x, Tensor) else as_array(x)


def _detached(value: Any, on_device: bool = False) -> Any:
    """The outputs without their graphs."""
    if isinstance(value, (tuple, list)):
        items = [_detached(item, on_device) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: _detached(item, on_device) for key, item in value.items()}
    if on_device and isinstance(getattr(value, "_data", value), (np.ndarray, np.generic)):
        raise CaptureError("the step returns what it has computed on the CPU: a graph has the work of one device")
    if isinstance(value, Tensor):
        return value.detach()
    if value is None or hasattr(value, "strides"):
        return value
    raise CaptureError(
        f"the step returns a {type(value).__name__}: it would be the same after every replay. Return tensors"
    )


def _explained(error: BaseException) -> BaseException:
    """An error of a capture in words; one that has nothing to do with it as it is."""
    if isinstance(error, CaptureError) or not isinstance(error, RuntimeError):
        return error
    words = str(error)
    hint = next((text for pattern, text in HINTS if re.search(pattern, words)), None)
    if hint is None and not re.search("captur|replay", words, re.IGNORECASE):
        return error
    return CaptureError(f"the step cannot be captured{_where(error)}: {hint or words}")


def _where(error: BaseException) -> str:
    """The last line of the user's own that led there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if HERE not in Path(f.filename).parents and "cupy" not in Path(f.filename).parts]
    return f", at {own[-1].filename}:{own[-1].lineno} in {own[-1].name}" if own else ""


__all__ = ["CaptureError", "CapturedStep", "capture"]
