"""CUDA devices: whether there are any, which one is current, their memory, and what to say when something is missing.

CuPy is imported when something is first asked of it here, never by `import minidl`.
"""

from __future__ import annotations

import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from numpy import generic, ndarray

INSTALL = "pip install 'minidl[cuda]'"


class OutOfMemoryError(MemoryError):
    """An array does not fit into the memory of a CUDA device.

    operation: what was being computed. asked: bytes of the array. used, cached: bytes of the device's arrays, and of
    freed memory that CuPy keeps for the next ones. free, total: bytes of the whole device.
    """

    def __init__(self, operation: str, device: int, asked: int | None, memory: dict[str, int]):
        self.operation, self.device, self.asked = operation, f"cuda:{device}", asked
        self.used, self.cached = memory.get("used"), memory.get("cached")
        self.free, self.total = memory.get("free"), memory.get("total")
        super().__init__(
            f"{operation}: out of memory on {self.device}: {size(asked)} asked; {size(self.free)} of "
            f"{size(self.total)} are free, this process has {size(self.used)} in use and {size(self.cached)} cached. "
            f"Try a smaller batch, minidl.checkpoint() around parts of the network, --accumulate in minidl train, "
            f"minidl.empty_cache() if other programs need the cached memory, or another device"
        )


def size(number: int | None) -> str:
    """Bytes in words."""
    if number is None:
        return "an unknown number of bytes"
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if number >= scale:
            return f"{number / scale:.1f} {unit}"
    return f"{number} bytes"


def explained(error: MemoryError, operation: str) -> MemoryError:
    """CuPy's out-of-memory error as ours, which knows the operation; any other as it is."""
    if type(error).__name__ != "OutOfMemoryError" or isinstance(error, OutOfMemoryError):
        return error
    device = cupy().cuda.runtime.getDevice()
    return OutOfMemoryError(operation, device, getattr(error, "_size", None) or _asked(error), memory(device))


def _asked(error: MemoryError) -> int | None:
    """The bytes, from the words of CuPy's error: Out of memory allocating 1,024 bytes (…)."""
    words = str(error).partition("allocating ")[2].split()
    number = words[0].replace(",", "") if words else ""
    return int(number) if number.isdigit() else None


# ---- is it there?
def cupy() -> Any:
    """The library. Raises RuntimeError that says what to install."""
    try:
        with warnings.catch_warnings():
            # its wheels find CUDA's libraries by themselves
            warnings.filterwarnings("ignore", message="CUDA path could not be detected", category=UserWarning)
            import cupy
    except ImportError as error:
        raise RuntimeError(f"CUDA arrays need CuPy, which cannot be imported ({error}): {missing()}") from None
    return cupy


def driver_found() -> bool:
    """Whether this machine has NVIDIA's driver, as far as can be seen from outside."""
    import shutil  # a tenth of `import minidl`, and needed only here
    from pathlib import Path

    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None


def missing() -> str:
    """What stands between this machine and a CUDA device, and what to do about it; minidl doctor says the same."""
    driver = driver_found()
    try:
        library = _imported()
    except ImportError:
        where = "" if driver else ", on a machine with an NVIDIA driver (here none was found)"
        return f"{INSTALL}{where}; minidl doctor shows more"
    try:
        count = library.cuda.runtime.getDeviceCount()
    except library.cuda.runtime.CUDARuntimeError as error:
        if driver:
            advice = "it may be older than CuPy's CUDA, or a container started without --gpus all"
            return f"the driver cannot be used ({error}): {advice}; minidl doctor shows more"
        return f"no NVIDIA driver was found ({error}): install one, or use the CPU; minidl doctor shows more"
    return f"there {'is 1 device' if count == 1 else f'are {count} devices'}, numbered from 0; minidl doctor lists them"


def _imported() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import cupy
    return cupy


def is_available() -> bool:
    """Whether there is a CUDA device that can be used."""
    return device_count() > 0


def device_count() -> int:
    """How many CUDA devices there are; 0 without CuPy or a driver."""
    try:
        return int(cupy().cuda.runtime.getDeviceCount())
    except RuntimeError:  # CuPy's own errors are of this kind as well
        return 0


_counts: dict[Any, int] = {}  # library -> devices, which do not change while a process runs


def several_devices() -> bool:
    """Whether CuPy is in use and there is more than one device, so that the current one matters."""
    library = sys.modules.get("cupy")
    if library is None:
        return False
    if library not in _counts:
        _counts[library] = device_count()
    return _counts[library] > 1


# ---- which one
def current_device() -> int:
    """The number of the device that "cuda" stands for."""
    return int(cupy().cuda.runtime.getDevice())


def set_device(device: int | str) -> None:
    """Let "cuda" stand for the device of this number, or of this name "cuda:N"."""
    place(device if isinstance(device, str) else f"cuda:{device}").use()


def place(device: str) -> Any:
    """The cupy.cuda.Device behind "cuda" or "cuda:N". Raises RuntimeError, with what is missing, if there is none;
    ValueError for another name."""
    if not re.fullmatch(r"cuda(:\d+)?", device):
        raise ValueError(f"device is {device!r}: a CUDA device is 'cuda' or 'cuda:N'")
    library = cupy()
    number = device.partition(":")[2]
    try:
        found = library.cuda.Device(int(number)) if number else library.cuda.Device()
        with found:
            return found
    except library.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"device {device!r} cannot be used: {missing()}") from error


def synchronize() -> None:
    """Wait until the current device has done all that it was given."""
    cupy().cuda.Device().synchronize()


def working_on(array: Any) -> Any:
    """A context in which the device of this array is the current one; nothing for NumPy's."""
    return nullcontext() if isinstance(array, (ndarray, generic)) or not hasattr(array, "device") else array.device


@contextmanager
def naming(operation: str) -> Iterator[None]:
    """CuPy's out-of-memory error becomes ours, which names the operation."""
    try:
        yield
    except MemoryError as error:
        raise explained(error, operation) from error


@contextmanager
def working(operation: str, array: Any) -> Iterator[None]:
    """Both: on the device of the array, with memory errors that name the operation."""
    with working_on(array), naming(operation):
        yield


@contextmanager
def restored() -> Iterator[None]:
    """Inside the block the current device may change."""
    runtime = sys.modules["cupy"].cuda.runtime
    before = runtime.getDevice()
    try:
        yield
    finally:
        runtime.setDevice(before)


def follow(array: Any) -> None:
    """Make the device of a CuPy array (or of a Tensor's) the current one. Nothing for NumPy's."""
    array = getattr(array, "_data", array)
    if not isinstance(array, (ndarray, generic)):
        array.device.use()


def placed(operation: str, kernel: Callable) -> Callable:
    """A kernel for CuPy arrays, run on the device of its first array, whichever is current. If memory runs out, the
    error names the operation."""
    current = cupy().cuda.runtime.getDevice

    def call(*args: Any, **params: Any) -> Any:
        device = next(a for a in args if hasattr(a, "strides") and not isinstance(a, (ndarray, generic))).device
        try:
            if device.id == current():
                return kernel(*args, **params)
            with device:
                return kernel(*args, **params)
        except MemoryError as error:
            raise explained(error, operation) from error

    return call


# ---- memory
private: weakref.WeakSet[Any] = weakref.WeakSet()  # memory apart from CuPy's pool: has `device` and `nbytes`


def memory(device: int | None = None) -> dict[str, int]:
    """Bytes on a device (None: the current one): "used" by arrays of this process and by captured steps, "cached" by
    CuPy for the next ones, "free" and "total" of the whole device."""
    library = cupy()
    with library.cuda.Device(device) as place:
        pool = library.get_default_memory_pool()
        free, total = library.cuda.runtime.memGetInfo()
        used = pool.used_bytes() + sum(m.nbytes for m in private if m.device == place.id)
        return {"used": used, "cached": pool.free_bytes(), "free": free, "total": total}


def empty_cache() -> None:
    """Give the memory that CuPy keeps for the next arrays back to all devices; nothing if CuPy is not in use."""
    if "cupy" in sys.modules:
        library = sys.modules["cupy"]
        for number in range(device_count()):
            with library.cuda.Device(number):
                library.get_default_memory_pool().free_all_blocks()
