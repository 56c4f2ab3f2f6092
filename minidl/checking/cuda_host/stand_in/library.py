"""The modules of the stand-in: `cupy`, `cupy.cuda` and the part of `cupyx` that mirrors SciPy."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..module import HostModule
from ..tensor_maps import tensor_map
from . import memory
from .arrays import (
    FUNCTIONS,
    MISSING,
    NO_UPLOAD,
    Wrapped,
    computed,
    in_c_order,
    ndarray,
    on_device,
    poisoned,
    refuse_capture,
    to_device,
    to_host,
)  # fmt: skip
from .arrays import _pieces as pieces
from .devices import DEVICES, Device, Event, Graph, Stream, get_elapsed_time, wait_for_all
from .memory import CUDARuntimeError, OutOfMemoryError, counters, usage


class _Library(types.ModuleType):
    """The functions of a NumPy module, each taking and giving arrays of the stand-in."""

    def __init__(self, name: str, host: types.ModuleType):
        super().__init__(name)
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in MISSING:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        value = getattr(self._host, name)
        if isinstance(value, types.ModuleType):
            value = _Library(f"{self.__name__}.{name}", value)
        elif isinstance(value, np.ufunc):
            value = Wrapped(value)
        elif callable(value) and not isinstance(value, type):
            value = on_device(_ordered(value) if name == "where" else value, FUNCTIONS.get(name))
        setattr(self, name, value)
        return value


def _ordered(function: Callable) -> Callable:
    """What is a ufunc in CuPy: results are in C order."""

    def where(*args: Any, **kwargs: Any) -> Any:
        return in_c_order(function(*args, **kwargs))

    return where


class RawModule:
    """cupy.RawModule through HostModule."""

    __module__ = "cupy"

    def __init__(self, *, code: str, options: tuple[str, ...] = (), name_expressions: Any = (), **_: Any):
        self._module = HostModule(code, options, tuple(name_expressions or ()))

    def get_function(self, name: str) -> Callable:
        kernel = self._module.get_function(name)

        def launch(grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
            for argument in args:
                if isinstance(argument, np.ndarray) and argument.size != 1:
                    raise TypeError(f"a numpy.ndarray of shape {argument.shape} was passed as a kernel parameter")
            kernel.max_dynamic_shared_size_bytes = launch.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
            given = tuple(map(_argument, args))
            Stream.now().give(lambda: kernel(grid, block, given, shared_mem=shared_mem), pieces(args))

        launch.max_dynamic_shared_size_bytes = kernel.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
        return launch


def _argument(value: Any) -> Any:
    """A kernel argument for HostKernel: arrays of the stand-in are pointers, NumPy's go by value."""
    if isinstance(value, ndarray):
        return np.atleast_1d(to_host(value))  # of a 0-d array, too, the kernel gets the address
    return value.copy()[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _cupy() -> types.ModuleType:
    library = _Library("cupy", np)

    def sent(a: Any, what: str) -> Any:
        """What comes from the host: a number is an argument of a kernel, an array a copy."""
        values = np.asarray([to_host(item) for item in a] if isinstance(a, (list, tuple)) else a)
        if values.ndim:
            refuse_capture(NO_UPLOAD)
        counters.uploads.note(what)
        return values

    def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
        if isinstance(a, ndarray):
            if a._place != Device.current:  # CuPy copies from device to device
                return to_device(np.array(a._host, dtype, order=order or "K"))
            return computed(np.asarray, a, dtype, order) if dtype is not None or order is not None else a
        values = sent(a, "asarray")
        return computed(lambda: np.array(values, dtype, order=order or "K"))  # another memory: always a copy

    def array(a: Any, dtype: Any = None, copy: bool = True, order: Any = "K") -> ndarray:
        if isinstance(a, ndarray):
            return computed(np.array, a, dtype, order=order)
        if isinstance(a, (list, tuple)) and any(isinstance(item, ndarray) for item in a):
            return computed(lambda items: np.array(items, dtype, order=order), list(a))
        values = sent(a, "array")
        return computed(lambda: np.array(values, dtype, order=order))

    def asnumpy(a: Any, *_: Any, **__: Any) -> np.ndarray:
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def get_array_module(*arrays: Any) -> types.ModuleType:
        return library if any(isinstance(a, ndarray) for a in arrays) else np

    def empty(*args: Any, **kwargs: Any) -> ndarray:
        return to_device(poisoned(np.empty(*args, **kwargs)))

    def empty_like(a: ndarray, *args: Any, **kwargs: Any) -> ndarray:
        return to_device(poisoned(np.empty_like(to_host(a), *args, **kwargs)))

    functions = (asarray, array, asnumpy, get_array_module, empty, empty_like)
    vars(library).update({function.__name__: function for function in functions}, asanyarray=asarray)
    vars(library).update(
        ndarray=ndarray, RawModule=RawModule, tensor_map=tensor_map, cuda=_cuda(), waits=counters.waits,
        uploads=counters.uploads, memory=usage, __version__="0 (a stand-in)",
        get_default_memory_pool=lambda: memory.default_pool,
    )  # fmt: skip
    return library


def _cuda() -> types.ModuleType:
    cuda = types.ModuleType("cupy.cuda")
    vars(cuda).update(
        Device=Device,
        Stream=Stream,
        Event=Event,
        Graph=Graph,
        get_elapsed_time=get_elapsed_time,
        get_current_stream=Stream.now,
        is_available=lambda: True,
        Memory=memory.Memory,
        MemoryPointer=memory.MemoryPointer,
        MemoryPool=memory.MemoryPool,
        using_allocator=memory.using_allocator,
        alloc_pinned_memory=memory.alloc_pinned_memory,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        runtime=types.SimpleNamespace(
            getDevice=lambda: Device.current,
            setDevice=lambda number: Device(number).use(),
            getDeviceCount=lambda: DEVICES,
            deviceSynchronize=lambda: wait_for_all("deviceSynchronize"),
            memGetInfo=lambda: (2**30 - usage.used, 2**30),
            driverGetVersion=lambda: 13000,
            runtimeGetVersion=lambda: 13000,
            getDeviceProperties=lambda number: {
                "name": b"stand-in for a GPU",
                "totalGlobalMem": 2**30,
                "major": 9,
                "minor": 0,
                "multiProcessorCount": 4,
            },
            CUDARuntimeError=CUDARuntimeError,
        ),
    )
    return cuda


def _cupyx() -> dict[str, types.ModuleType]:
    """The part of CuPy's second package that mirrors SciPy, by the names of its modules."""
    import scipy.special

    above = {name: types.ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    return {**above, "cupyx.scipy.special": _Library("cupyx.scipy.special", scipy.special)}


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """Within the block `import cupy` gives the stand-in, and operations on its arrays run in the column "cuda".

    A CuPy that was imported before is put aside and comes back afterwards. Yields the stand-in, with `waits` and
    `uploads` (lists of lines), and `memory` (`used`, `cached`, and `limit`, which can be set).
    """
    from ....kernels import table
    from ....kernels.cuda import launch

    def is_cupy(name: str) -> bool:
        return name.partition(".")[0] in ("cupy", "cupyx")

    library = _cupy()
    aside = {name: module for name, module in sys.modules.items() if is_cupy(name)}
    registered = ndarray in table.HOME
    for name in aside:
        del sys.modules[name]
    sys.modules.update({"cupy": library, "cupy.cuda": library.cuda, **_cupyx()})
    table.HOME[ndarray] = "cuda"
    launch.forget()
    counters.waits.clear()
    counters.uploads.clear()
    usage.limit = None
    try:
        yield library
    finally:
        launch.forget()
        Device.current, usage.limit = 0, None
        Stream.forget()
        if not registered:
            table.HOME.pop(ndarray, None)
        for name in [name for name in sys.modules if is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(aside)
