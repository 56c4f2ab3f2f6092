"""A CuPy made of NumPy: its arrays are a type of their own that refuses what CuPy's arrays refuse, its raw kernels run
through HostModule.

It finds host code that mixes NumPy and CuPy arrays or arrays of two devices, converts implicitly, calls what CuPy does
not have, passes a kernel the wrong arguments, or works on an array whose device is not the current one. It counts how
often the host waits for the device (`library.waits`) or sends it data (`library.uploads`), and its memory can be made
small (`library.memory.limit`), so that CuPy's OutOfMemoryError comes where it would.
It is no CuPy: there are two devices, but one memory and one stream, everything is synchronous, and random numbers are
NumPy's.
"""

from __future__ import annotations

import contextlib
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import numpy as np

from .module import HostModule

DEVICES = 2  # the stand-in's
MISSING = frozenset((
    "asmatrix", "block", "bmat", "einsum_path", "errstate", "fromregex", "geomspace", "geterr", "histogram_bin_edges",
    "insert", "isnat", "matrix", "matvec", "memmap", "nanpercentile", "nanquantile", "ndenumerate", "nditer",
    "polyder", "polydiv", "polyint", "recarray", "seterr", "spacing", "unstack", "vecdot", "vecmat", "longdouble",
    "float128", "object_", "str_", "void", "datetime64", "timedelta64",
))  # fmt: skip
"""Names that NumPy has and CuPy has not."""
METHODS = {
    "all": "axis out keepdims", "any": "axis out keepdims", "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims", "argsort": "axis kind", "astype": "dtype order casting subok copy",
    "clip": "min max out", "copy": "order", "cumprod": "axis dtype out", "cumsum": "axis dtype out",
    "diagonal": "offset axis1 axis2", "dot": "b out", "fill": "value", "flatten": "order",
    "max": "axis out keepdims", "mean": "axis dtype out keepdims", "min": "axis out keepdims", "nonzero": "",
    "prod": "axis dtype out keepdims", "ptp": "axis out keepdims", "ravel": "order", "repeat": "repeats axis",
    "reshape": None, "round": "decimals out", "sort": "axis kind", "squeeze": "axis",
    "std": "axis dtype out ddof keepdims", "sum": "axis dtype out keepdims", "swapaxes": "axis1 axis2",
    "take": "indices axis out", "trace": "offset axis1 axis2 dtype out", "transpose": None,
    "var": "axis dtype out ddof keepdims", "view": "dtype",
}  # fmt: skip
"""Methods of CuPy's arrays and the names of their arguments (None: NumPy's own check will do)."""
ATTRIBUTES = ("T", "dtype", "imag", "itemsize", "mT", "nbytes", "ndim", "real", "shape", "size", "strides")
FUNCTIONS = {
    **dict.fromkeys(("all", "any", "max", "min", "amax", "amin"), "a axis out keepdims"),
    **dict.fromkeys(("argmax", "argmin", "mean", "prod", "sum"), "a axis dtype out keepdims"),
    **dict.fromkeys(("zeros", "ones"), "shape dtype order"),
    **dict.fromkeys(("zeros_like", "ones_like"), "a dtype order subok shape"),
    "arange": "start stop step dtype", "argsort": "a axis kind", "ascontiguousarray": "a dtype",
    "broadcast_to": "array shape", "concatenate": "tup axis out dtype casting", "eye": "N M k dtype order",
    "full": "shape fill_value dtype order", "full_like": "a fill_value dtype order subok shape",
    "linspace": "start stop num endpoint retstep dtype axis", "sort": "a axis kind",
    "stack": "tup axis out dtype casting", "where": "condition x y",
}  # fmt: skip
"""Functions of CuPy that take fewer arguments than NumPy's."""
SCATTERING = ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor")  # ufuncs with `at`
VIEWS = ("view", "transpose", "swapaxes", "squeeze")  # methods that compute nothing, so that any device may be current
LOOKING = ("nonzero", "flatnonzero", "argwhere", "unique", "array_equal", "allclose")  # they wait for the device


class Waits(list):
    """Where the host waited for the device: one line of text for each time. `clear()` begins anew."""

    def note(self, what: str) -> None:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        self.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")


class Memory:
    """The devices' memory: bytes of arrays that live, and how many there may be."""

    def __init__(self) -> None:
        self.used, self.cached = 0, 0
        self.limit: int | None = None

    def take(self, array: ndarray) -> None:
        """Count an array until it is gone. Raises OutOfMemoryError."""
        size = array._host.nbytes
        if self.limit is not None and self.used + size > self.limit:
            raise OutOfMemoryError(size, self.used + self.cached, self.limit)
        self.used += size
        self.cached = max(self.cached - size, 0)
        weakref.finalize(array, self._give_back, size).atexit = False

    def _give_back(self, size: int) -> None:
        self.used -= size
        self.cached += size


class OutOfMemoryError(MemoryError):
    """What CuPy raises when an array does not fit."""

    __module__ = "cupy.cuda.memory"

    def __init__(self, size: int, total: int, limit: int = 0):
        self._size, self._total, self._limit = size, total, limit
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class Pool:
    """cupy.get_default_memory_pool()"""

    def used_bytes(self) -> int:
        return memory.used

    def total_bytes(self) -> int:
        return memory.used + memory.cached

    def free_bytes(self) -> int:
        return memory.cached

    def free_all_blocks(self, stream: Any = None) -> None:
        memory.cached = 0


waits, memory, uploads = Waits(), Memory(), Waits()
_owners: weakref.WeakValueDictionary[int, ndarray] = weakref.WeakValueDictionary()  # id of a NumPy array -> its owner


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that lives on the pretended device: a NumPy array that does not pass as one."""

    __slots__ = ("__weakref__", "_host", "_place", "base")
    __module__ = "cupy"

    def __init__(self, shape: Any, dtype: Any = float):
        self._settle(_poisoned(np.empty(shape, dtype)))

    def _settle(self, host: np.ndarray) -> None:
        """Hold this array; a view is on its base's device, anything else on the current one."""
        self._host, self.base, self._place = host, None, Device.current
        root = host
        while isinstance(root.base, np.ndarray):
            root = root.base
        if root is not host:
            owner = _owners.get(id(root))
            if owner is not None and owner._host is root:
                self.base, self._place = owner, owner._place
                return
        _owners[id(root)] = self
        memory.take(self)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc.__name__ in MISSING:
            return NotImplemented
        _check_method(ufunc, method)
        if out is not None:
            kwargs["out"] = out
        result = getattr(ufunc, method)(*to_host(inputs), **to_host(kwargs))
        if out is None:
            return to_device(_in_c_order(result))
        return out[0] if len(out) == 1 else out

    def __array_function__(self, function: Callable, _types: Any, args: Any, kwargs: Any) -> Any:
        module: Any = sys.modules["cupy"]
        for part in function.__module__.split(".")[1:]:
            module = getattr(module, part)
        return getattr(module, function.__name__)(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ATTRIBUTES:
            return to_device(getattr(self._host, name))
        if name not in METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}", name=name, obj=self)
        if name in LOOKING:
            waits.note(name)
        host = self._host if name in VIEWS else to_host(self)
        return _on_device(getattr(host, name), METHODS[name])

    @property
    def flags(self) -> Any:
        host = self._host.flags
        return types.SimpleNamespace(
            c_contiguous=host.c_contiguous, f_contiguous=host.f_contiguous, owndata=self.base is None
        )

    def __getitem__(self, key: Any) -> ndarray:
        for part in key if isinstance(key, tuple) else (key,):
            if isinstance(part, ndarray) and part.dtype.kind == "b":
                waits.note("an index of booleans")
        return to_device(np.asarray(to_host(self)[to_host(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        to_host(self)[to_host(key)] = to_host(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def _looked_at(self, what: str) -> np.ndarray:
        waits.note(what)
        return self._host

    def __bool__(self) -> bool:
        return bool(self._looked_at("bool"))

    def __int__(self) -> int:
        return int(self._looked_at("int"))

    def __float__(self) -> float:
        return float(self._looked_at("float"))

    def __complex__(self) -> complex:
        return complex(self._looked_at("complex"))

    def __repr__(self) -> str:
        return repr(self._looked_at("repr"))

    def __str__(self) -> str:
        return str(self._looked_at("str"))

    def __format__(self, spec: str) -> str:
        return format(self._looked_at("format"), spec)

    def item(self) -> Any:
        return self._looked_at("item").item()

    def tolist(self) -> Any:
        return self._looked_at("tolist").tolist()

    def __copy__(self) -> ndarray:
        return to_device(to_host(self).copy())

    def __deepcopy__(self, _memo: Any) -> ndarray:
        return self.__copy__()

    @property
    def device(self) -> Device:
        return Device(self._place)

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._host.ctypes.data, device=self.device, device_id=self._place)

    def get(self, *_: Any, **__: Any) -> np.ndarray:
        """A copy of the array in NumPy."""
        return self._looked_at("get").copy(order="A")

    def set(self, values: np.ndarray, *_: Any) -> None:
        """Takes the values of a NumPy array of the same shape and dtype."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype}{values.shape} does not fit {self.dtype}{self.shape}")
        self._host[...] = values


def _check_method(ufunc: np.ufunc, method: str) -> None:
    """Raise NotImplementedError for methods of ufuncs that CuPy has not."""
    known = {"__call__": True, "outer": True, "at": ufunc.__name__ in SCATTERING}
    if not known.get(method, ufunc.__name__ in ("add", "multiply") and method in ("reduce", "accumulate")):
        raise NotImplementedError(f"`cupy_{ufunc.__name__}.{method}` is not supported yet")


def _check_arguments(name: str, known: str | None, args: tuple, kwargs: dict) -> None:
    """Raise TypeError for arguments that CuPy's function does not take."""
    if known is not None:
        names = known.split()
        if len(args) > len(names) or not set(kwargs) <= set(names):
            raise TypeError(f"{name}() takes ({', '.join(names)}), not {len(args)} and {', '.join(kwargs)}")
        if kwargs.get("kind") not in (None, "stable"):
            raise ValueError(f"{name}: kind can only be None or 'stable'")


def _poisoned(array: np.ndarray) -> np.ndarray:
    """What an uninitialised array holds: NaN, or -1, so that an element nobody wrote shows."""
    array[...] = np.nan if array.dtype.kind in "fc" else np.array(-1).astype(array.dtype)
    return array


def _in_c_order(result: Any) -> Any:
    """What a ufunc gives: CuPy's results are C-contiguous, whatever their arguments were."""
    if isinstance(result, tuple):
        return tuple(map(_in_c_order, result))
    return np.asarray(result, order="C") if isinstance(result, np.ndarray) else result


def to_host(value: Any) -> Any:
    """Arguments of a function, with NumPy arrays for the stand-in's. Raises TypeError where there are NumPy arrays."""
    if isinstance(value, ndarray):
        if value._place != Device.current:
            raise ValueError(
                f"The device where the array resides ({value._place}) is different from the current device "
                f"({Device.current}). Peer access is unavailable between these devices."
            )
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>: CuPy functions take CuPy arrays")
    if type(value) in (tuple, list):
        return type(value)(map(to_host, value))
    if type(value) is dict:
        return {key: to_host(item) for key, item in value.items()}
    return value


def to_device(value: Any) -> Any:
    """Results of a NumPy function as CuPy gives them: never NumPy scalars, but 0-d arrays."""
    if isinstance(value, (np.ndarray, np.generic)):
        known = _owners.get(id(value))
        if known is not None and known._host is value:
            return known
        array = object.__new__(ndarray)
        array._settle(np.asarray(value))
        return array
    if isinstance(value, (tuple, list)):
        items = map(to_device, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return _Wrapped(value)
    return value


def _on_device(function: Callable, known: str | None = None) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(call.__name__, known, args, kwargs)
        return to_device(function(*to_host(args), **to_host(kwargs)))

    call.__name__ = getattr(function, "__name__", "call")
    return call


class _Wrapped:
    """A ufunc or random generator whose methods take and give arrays of the stand-in."""

    def __init__(self, host: Any):
        self._host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        result = self._host(*to_host(args), **to_host(kwargs))
        return to_device(_in_c_order(result)) if out is None else out

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._host, name)
        if callable(value) and isinstance(self._host, np.ufunc):
            _check_method(self._host, name)
        return _on_device(value) if callable(value) else value


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
            value = _Wrapped(value)
        elif callable(value) and not isinstance(value, type):
            if name == "where":  # a ufunc in CuPy
                value = _ordered(value)
            value = _on_device(value, FUNCTIONS.get(name))
            if name in LOOKING:
                value = _looking(name, value)
        setattr(self, name, value)
        return value


def _ordered(function: Callable) -> Callable:
    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return _in_c_order(function(*args, **kwargs))

    return call


def _looking(name: str, function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        waits.note(name)
        return function(*args, **kwargs)

    return call


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime refuses."""


class Device:
    """One of the two devices there are. `Device.current` is the number of the current one."""

    __module__ = "cupy.cuda"
    compute_capability = "90"
    attributes = {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 227 * 1024}
    current = 0

    def __init__(self, device: Any = None):
        self.id = Device.current if device is None else int(device)
        self._before: list[int] = []
        if not 0 <= self.id < DEVICES:
            raise CUDARuntimeError(f"cudaErrorInvalidDevice: invalid device ordinal ({device})")

    def __enter__(self) -> Device:
        self._before.append(Device.current)
        Device.current = self.id
        return self

    def __exit__(self, *_: Any) -> None:
        Device.current = self._before.pop()

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return self.id

    def use(self) -> None:
        Device.current = self.id

    def synchronize(self) -> None:
        waits.note("Device.synchronize")


class Stream:
    """A stream whose work is done as soon as it is given."""

    __module__ = "cupy.cuda"
    ptr = 0

    def __init__(self, *_: Any, **__: Any):
        pass

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        waits.note("Stream.synchronize")


class Event:
    """A moment in a stream."""

    __module__ = "cupy.cuda"

    def __init__(self, *_: Any, **__: Any):
        self._time = 0.0

    def record(self, stream: Any = None) -> None:
        import time

        self._time = time.perf_counter()

    def synchronize(self) -> None:
        waits.note("Event.synchronize")


def get_elapsed_time(start: Event, end: Event) -> float:
    """Milliseconds."""
    return 1e3 * (end._time - start._time)


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
            kernel(grid, block, tuple(map(_argument, args)), shared_mem=shared_mem)

        launch.max_dynamic_shared_size_bytes = kernel.max_dynamic_shared_size_bytes  # type: ignore[attr-defined]
        return launch


def _argument(value: Any) -> Any:
    """A kernel argument for HostKernel: arrays of the stand-in are pointers, NumPy's go by value."""
    if isinstance(value, ndarray):
        return np.atleast_1d(to_host(value))  # of a 0-d array, too, the kernel gets the address
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _cupy() -> types.ModuleType:
    library = _Library("cupy", np)

    def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
        if isinstance(a, ndarray):
            if a._place != Device.current:  # CuPy copies from device to device
                return to_device(np.array(a._host, dtype, order=order or "K"))
            return to_device(np.asarray(a._host, dtype, order)) if dtype is not None or order is not None else a
        uploads.note("asarray")
        return to_device(np.array(a, dtype, order=order or "K"))  # another memory: always a copy

    def array(a: Any, dtype: Any = None, copy: bool = True, order: Any = "K") -> ndarray:
        if not isinstance(a, ndarray):
            uploads.note("array")
        return to_device(np.array(to_host(a) if isinstance(a, ndarray) else _gathered(a), dtype, order=order))

    def asnumpy(a: Any, *_: Any, **__: Any) -> np.ndarray:
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def get_array_module(*arrays: Any) -> types.ModuleType:
        return library if any(isinstance(a, ndarray) for a in arrays) else np

    def empty(*args: Any, **kwargs: Any) -> ndarray:
        return to_device(_poisoned(np.empty(*args, **kwargs)))

    def empty_like(a: ndarray, *args: Any, **kwargs: Any) -> ndarray:
        return to_device(_poisoned(np.empty_like(to_host(a), *args, **kwargs)))

    def _gathered(a: Any) -> Any:
        """Of a list of 0-d arrays CuPy makes an array, too."""
        return [to_host(item) for item in a] if isinstance(a, (list, tuple)) else a

    functions = (asarray, array, asnumpy, get_array_module, empty, empty_like)
    vars(library).update({function.__name__: function for function in functions}, asanyarray=asarray)
    stream, cuda = Stream(), types.ModuleType("cupy.cuda")
    vars(cuda).update(
        Device=Device,
        Stream=Stream,
        Event=Event,
        get_elapsed_time=get_elapsed_time,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        get_current_stream=lambda: stream,
        is_available=lambda: True,
        runtime=types.SimpleNamespace(
            getDevice=lambda: Device.current,
            setDevice=lambda number: Device(number).use(),
            getDeviceCount=lambda: DEVICES,
            deviceSynchronize=lambda: waits.note("deviceSynchronize"),
            memGetInfo=lambda: (2**30 - memory.used, 2**30),
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
    pool = Pool()
    vars(library).update(
        ndarray=ndarray, RawModule=RawModule, cuda=cuda, waits=waits, uploads=uploads, memory=memory,
        __version__="0 (a stand-in)", get_default_memory_pool=lambda: pool,
    )  # fmt: skip
    return library


def _cupyx() -> dict[str, types.ModuleType]:
    """The part of CuPy's second package that mirrors SciPy, by the names of its modules."""
    import scipy.special

    above = {name: types.ModuleType(name) for name in ("cupyx", "cupyx.scipy")}
    return {**above, "cupyx.scipy.special": _Library("cupyx.scipy.special", scipy.special)}


@contextlib.contextmanager
def installed() -> Iterator[types.ModuleType]:
    """Within the block `import cupy` gives the stand-in, and operations on its arrays run in the column "cuda".

    A CuPy that was imported before is put aside and comes back afterwards. Yields the stand-in.
    """
    from ...kernels import table
    from ...kernels.cuda import launch

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
    waits.clear()
    uploads.clear()
    memory.limit = None
    try:
        yield library
    finally:
        launch.forget()
        Device.current, memory.limit = 0, None
        if not registered:
            table.HOME.pop(ndarray, None)
        for name in [name for name in sys.modules if is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(aside)
