"""A CuPy made of NumPy: its arrays are a type of their own that refuses what CuPy's arrays refuse, its raw kernels run
through HostModule.

It finds host code that mixes NumPy and CuPy arrays, converts implicitly, or passes a kernel the wrong arguments.
It is no CuPy: there is one device and one stream, everything is synchronous, and random numbers are NumPy's.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .module import HostModule


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that lives on the pretended device: a NumPy array that does not pass as one."""

    __slots__ = ("__weakref__", "_host")
    __module__ = "cupy"

    def __init__(self, shape: Any, dtype: Any = float):
        self._host = _poisoned(np.empty(shape, dtype))

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if out is not None:
            kwargs["out"] = out
        result = to_device(getattr(ufunc, method)(*to_host(inputs), **to_host(kwargs)))
        return result if out is None else out[0] if len(out) == 1 else out

    def __array_function__(self, function: Callable, _types: Any, args: Any, kwargs: Any) -> Any:
        return to_device(function(*to_host(args), **to_host(kwargs)))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._host, name)
        return _on_device(value) if callable(value) else to_device(value)

    def __getitem__(self, key: Any) -> ndarray:
        return to_device(np.asarray(self._host[to_host(key)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[to_host(key)] = to_host(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self._host)

    def __int__(self) -> int:
        return int(self._host)

    def __float__(self) -> float:
        return float(self._host)

    def __complex__(self) -> complex:
        return complex(self._host)

    def __index__(self) -> int:
        return self._host.__index__()

    def __repr__(self) -> str:
        return repr(self._host)

    def __str__(self) -> str:
        return str(self._host)

    def __format__(self, spec: str) -> str:
        return format(self._host, spec)

    def __copy__(self) -> ndarray:
        return to_device(self._host.copy())

    def __deepcopy__(self, _memo: Any) -> ndarray:
        return to_device(self._host.copy())

    @property
    def device(self) -> Device:
        return Device(0)

    @property
    def data(self) -> Any:
        return types.SimpleNamespace(ptr=self._host.ctypes.data, device=Device(0), device_id=0)

    def get(self, *_: Any, **__: Any) -> np.ndarray:
        """A copy of the array in NumPy."""
        return self._host.copy(order="A")

    def set(self, values: np.ndarray, *_: Any) -> None:
        """Takes the values of a NumPy array of the same shape and dtype."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype}{values.shape} does not fit {self.dtype}{self.shape}")
        self._host[...] = values


def _poisoned(array: np.ndarray) -> np.ndarray:
    """What an uninitialised array holds: NaN, or -1, so that an element nobody wrote shows."""
    array[...] = np.nan if array.dtype.kind in "fc" else np.array(-1).astype(array.dtype)
    return array


def to_host(value: Any) -> Any:
    """Arguments of a function, with NumPy arrays for the stand-in's. Raises TypeError where there are NumPy arrays."""
    if isinstance(value, ndarray):
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
        array = object.__new__(ndarray)
        array._host = np.asarray(value)
        return array
    if isinstance(value, (tuple, list)):
        items = map(to_device, value)
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (np.random.Generator, np.random.RandomState)):
        return _Wrapped(value)
    return value


def _on_device(function: Callable) -> Callable:
    def call(*args: Any, **kwargs: Any) -> Any:
        return to_device(function(*to_host(args), **to_host(kwargs)))

    call.__name__ = getattr(function, "__name__", "call")
    return call


class _Wrapped:
    """A ufunc or random generator whose methods take and give arrays of the stand-in."""

    def __init__(self, host: Any):
        self._host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        result = to_device(self._host(*to_host(args), **to_host(kwargs)))
        return result if out is None else out

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._host, name)
        return _on_device(value) if callable(value) else value


class _Library(types.ModuleType):
    """The functions of a NumPy module, each taking and giving arrays of the stand-in."""

    def __init__(self, name: str, host: types.ModuleType):
        super().__init__(name)
        self._host = host

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._host, name)
        if isinstance(value, types.ModuleType):
            value = _Library(f"{self.__name__}.{name}", value)
        elif isinstance(value, np.ufunc):
            value = _Wrapped(value)
        elif callable(value) and not isinstance(value, type):
            value = _on_device(value)
        setattr(self, name, value)
        return value


class CUDARuntimeError(RuntimeError):
    """What the CUDA runtime refuses."""


class Device:
    """The one device there is."""

    __module__ = "cupy.cuda"
    compute_capability = "90"

    def __init__(self, device: Any = None):
        if int(device or 0) != 0:
            raise CUDARuntimeError(f"the stand-in has device 0 only, not {device}")
        self.id = 0

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def __int__(self) -> int:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device)

    def __hash__(self) -> int:
        return 0

    def use(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


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
        pass


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
            kernel(grid, block, tuple(map(_argument, args)), shared_mem=shared_mem)

        return launch


def _argument(value: Any) -> Any:
    """A kernel argument for HostKernel: arrays of the stand-in are pointers, NumPy's go by value."""
    if isinstance(value, ndarray):
        return np.atleast_1d(value._host)  # of a 0-d array, too, the kernel gets the address
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _cupy() -> types.ModuleType:
    library = _Library("cupy", np)

    def asarray(a: Any, dtype: Any = None, order: Any = None) -> ndarray:
        if isinstance(a, ndarray):
            return to_device(np.asarray(a._host, dtype, order)) if dtype is not None or order is not None else a
        return to_device(np.array(a, dtype, order=order or "K"))  # another memory: always a copy

    def array(a: Any, dtype: Any = None, copy: bool = True, order: Any = "K") -> ndarray:
        return to_device(np.array(a._host if isinstance(a, ndarray) else a, dtype, order=order))

    def asnumpy(a: Any, *_: Any, **__: Any) -> np.ndarray:
        return a.get() if isinstance(a, ndarray) else np.asarray(a)

    def get_array_module(*arrays: Any) -> types.ModuleType:
        return library if any(isinstance(a, ndarray) for a in arrays) else np

    def empty(*args: Any, **kwargs: Any) -> ndarray:
        return to_device(_poisoned(np.empty(*args, **kwargs)))

    def empty_like(a: ndarray, *args: Any, **kwargs: Any) -> ndarray:
        return to_device(_poisoned(np.empty_like(to_host(a), *args, **kwargs)))

    functions = (asarray, array, asnumpy, get_array_module, empty, empty_like)
    vars(library).update({function.__name__: function for function in functions}, asanyarray=asarray)
    stream, cuda = Stream(), types.ModuleType("cupy.cuda")
    vars(cuda).update(
        Device=Device,
        Stream=Stream,
        get_current_stream=lambda: stream,
        is_available=lambda: True,
        runtime=types.SimpleNamespace(
            getDevice=lambda: 0,
            getDeviceCount=lambda: 1,
            deviceSynchronize=lambda: None,
            CUDARuntimeError=CUDARuntimeError,
        ),
    )
    vars(library).update(ndarray=ndarray, RawModule=RawModule, cuda=cuda)
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
    try:
        yield library
    finally:
        launch.forget()
        if not registered:
            table.HOME.pop(ndarray, None)
        for name in [name for name in sys.modules if is_cupy(name)]:
            del sys.modules[name]
        sys.modules.update(aside)
