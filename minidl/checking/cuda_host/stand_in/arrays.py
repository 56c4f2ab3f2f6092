"""Arrays of the stand-in: NumPy arrays that do not pass as such, and the way through which all work on them goes."""

from __future__ import annotations

import sys
import types
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from .devices import Device, Stream
from .memory import Piece, allocate, counters, pinned_view

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
IN_PLACE = ("fill", "sort", "at", "copyto", "put", "putmask", "place", "fill_diagonal")  # they give nothing new
CUBLAS = ("matmul", "dot", "tensordot", "inner", "vdot", "einsum")
NO_UPLOAD = "the current stream is capturing, so H2D transfers are disallowed"
NO_DOWNLOAD = "the current stream is capturing, so D2H transfers are disallowed"
SINGLY, LARGE = 8, 2 * 2**20  # from so many arrays on, smaller than so many bytes, CuPy concatenates with one kernel


# ---- all work on arrays
def computed(function: Callable, *args: Any, uses: Iterable[ndarray] = (), **kwargs: Any) -> Any:
    """A function of NumPy, with the host arrays of its arguments: new arrays, or views of old ones. The current stream
    does the work or notes it. uses: arrays beside the arguments."""
    host_args, host_kwargs = to_host(args), to_host(kwargs)
    call = lambda: function(*host_args, **host_kwargs)
    stream = Stream.now()
    graph = stream.capture
    if graph is None:
        stream.catch_up()
        return to_device(call())
    with np.errstate(all="ignore"):  # nothing holds numbers while a stream is captured
        result = to_device(call())
    old = {id(a) for a in _arrays((args, kwargs, list(uses)))}
    new = [(i, a._host) for i, a in enumerate(_arrays(result)) if a.base is None and id(a) not in old]
    if new:

        def again() -> None:
            values = _leaves(call())
            for i, target in new:
                target[...] = values[i]

        graph.note(again, _pieces((args, kwargs, result, list(uses))))
        for _, target in new:
            graph.makes(target)
    return result


def done(function: Callable, *args: Any, uses: Iterable[ndarray] = (), **kwargs: Any) -> None:
    """A function of NumPy that changes its arguments."""
    host_args, host_kwargs = to_host(args), to_host(kwargs)
    Stream.now().give(lambda: function(*host_args, **host_kwargs), _pieces((args, kwargs, list(uses))))


def look(what: str) -> None:
    """The host waits for the current stream."""
    if Stream.now().is_capturing():
        raise RuntimeError(NO_DOWNLOAD)
    Stream.now().catch_up()
    counters.waits.note(what)


def refuse_capture(words: str, kind: type[Exception] = RuntimeError) -> None:
    if Stream.now().is_capturing():
        raise kind(words)


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [value]


def _arrays(value: Any) -> Iterator[ndarray]:
    """The arrays in what a function takes or gives."""
    if isinstance(value, ndarray):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _arrays(item)
    elif isinstance(value, dict):
        yield from _arrays(list(value.values()))


def _pieces(value: Any) -> list[Piece]:
    return [(a if a.base is None else a.base)._piece for a in _arrays(value)]


_owners: weakref.WeakValueDictionary[int, ndarray] = weakref.WeakValueDictionary()  # id of a NumPy array -> its owner


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array that lives on the pretended device: a NumPy array that does not pass as one."""

    __slots__ = ("__weakref__", "_host", "_piece", "_place", "base")
    __module__ = "cupy"
    _piece: Piece

    def __init__(self, shape: Any, dtype: Any = float):
        self._settle(poisoned(np.empty(shape, dtype)))

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
        self._piece = allocate(host.nbytes)
        weakref.finalize(self, self._piece.free).atexit = False

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if ufunc.__name__ in MISSING:
            return NotImplemented
        check_method(ufunc, method)
        return run_ufunc(ufunc, method, inputs, out, kwargs)

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
        host = self._host if name in VIEWS else to_host(self)
        return on_device(getattr(host, name), METHODS[name], uses=(self,))

    @property
    def flags(self) -> Any:
        host = self._host.flags
        return types.SimpleNamespace(
            c_contiguous=host.c_contiguous, f_contiguous=host.f_contiguous, owndata=self.base is None
        )

    def __getitem__(self, key: Any) -> ndarray:
        parts = key if isinstance(key, tuple) else (key,)
        self._check_index(parts)
        if all(isinstance(part, (int, np.integer, slice, type(None))) for part in parts):
            key = (*parts, ...)  # of one element, too, CuPy gives a view
        return computed(lambda host, key: np.asarray(host[key]), self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._check_index(key if isinstance(key, tuple) else (key,))
        done(lambda host, key, value: host.__setitem__(key, value), self, key, value)

    @staticmethod
    def _check_index(parts: tuple) -> None:
        for part in parts:
            if isinstance(part, ndarray) and part.dtype.kind == "b":
                look("an index of booleans")
            if isinstance(part, list):
                refuse_capture(NO_UPLOAD)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))

    def _looked_at(self, what: str) -> np.ndarray:
        look(what)
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
        return computed(np.copy, self)

    def __deepcopy__(self, _memo: Any) -> ndarray:
        return self.__copy__()

    @property
    def device(self) -> Device:
        return Device(self._place)

    @property
    def data(self) -> Any:
        mem = (self if self.base is None else self.base)._piece
        return types.SimpleNamespace(ptr=self._host.ctypes.data, mem=mem, device=self.device, device_id=self._place)

    def get(self, *_: Any, **__: Any) -> np.ndarray:
        """A copy of the array in NumPy."""
        return self._looked_at("get").copy(order="A")

    def set(self, values: np.ndarray, stream: Stream | None = None) -> None:
        """Takes the values of a NumPy array of the same shape and dtype. From pinned memory they are fetched later."""
        if not isinstance(values, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype}{values.shape} does not fit {self.dtype}{self.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        stream = stream or Stream.now()
        if stream.is_capturing():
            raise RuntimeError(NO_UPLOAD)
        counters.uploads.note("set")
        values = np.ascontiguousarray(values) if self.flags.c_contiguous else np.asfortranarray(values)
        values, host = values.reshape(self.shape), self._host
        pinned = pinned_view(values) if values.flags.c_contiguous else None
        if pinned is None:
            copy = values.copy()
            stream.give(lambda: host.__setitem__(..., copy))
        else:
            stream.give_late(lambda: host.__setitem__(..., pinned))


def run_ufunc(ufunc: np.ufunc, method: str, inputs: tuple, out: Any, kwargs: dict) -> Any:
    """A ufunc, or one of its methods: into `out` (an array, or a tuple of one), or into a new array in C order."""
    function = getattr(ufunc, method)
    _check_capture(ufunc.__name__, inputs)
    if out is not None:
        done(function, *inputs, out=out, **kwargs)
        return out[0] if isinstance(out, tuple) and len(out) == 1 else out
    if method == "at" or (method == "__call__" and len(inputs) > ufunc.nin):
        done(function, *inputs, **kwargs)
        return inputs[ufunc.nin] if method == "__call__" else None
    return computed(lambda *a, **k: in_c_order(function(*a, **k)), *inputs, **kwargs)


def check_method(ufunc: np.ufunc, method: str) -> None:
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


def _check_capture(name: str, args: tuple) -> None:
    """Raise what CuPy raises where a function cannot be captured."""
    arrays = list(_arrays(args))
    if name in CUBLAS and all(a.dtype.kind == "f" and a.size for a in arrays):
        refuse_capture("calling cuBLAS API during stream capture is currently unsupported", NotImplementedError)
    if name in ("concatenate", "stack") and len(arrays) > SINGLY:
        if len({a.dtype for a in arrays}) == 1 and sum(a.nbytes for a in arrays) < LARGE * len(arrays):
            refuse_capture(NO_UPLOAD)  # their addresses


def poisoned(array: np.ndarray) -> np.ndarray:
    """What an uninitialised array holds: NaN, or -1, so that an element nobody wrote shows."""
    array[...] = np.nan if array.dtype.kind in "fc" else np.array(-1).astype(array.dtype)
    return array


def in_c_order(result: Any) -> Any:
    """What a ufunc gives: CuPy's results are C-contiguous, whatever their arguments were."""
    if isinstance(result, tuple):
        return tuple(map(in_c_order, result))
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
        return Wrapped(value)
    return value


def on_device(function: Callable, known: str | None = None, uses: Iterable[ndarray] = ()) -> Callable:
    """A function (or an array's method) of NumPy as CuPy's."""
    name = getattr(function, "__name__", "call")

    def call(*args: Any, **kwargs: Any) -> Any:
        _check_arguments(name, known, args, kwargs)
        _check_capture(name, args)
        if name in LOOKING:
            look(name)
        if name in IN_PLACE and (uses or name != "sort"):  # cupy.sort gives a new array
            return done(function, *args, uses=uses, **kwargs)
        if kwargs.get("out") is not None:
            done(function, *args, uses=uses, **kwargs)
            return kwargs["out"]
        return computed(function, *args, uses=uses, **kwargs)

    call.__name__ = name
    return call


class Wrapped:
    """A ufunc or random generator whose methods take and give arrays of the stand-in."""

    def __init__(self, host: Any):
        self._host = host

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return run_ufunc(self._host, "__call__", args, kwargs.pop("out", None), kwargs)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._host, name)
        if not callable(value):
            return value
        if isinstance(self._host, np.ufunc):
            check_method(self._host, name)
            return lambda *args, **kwargs: run_ufunc(self._host, name, args, kwargs.pop("out", None), kwargs)
        refuse_capture("calling cuRAND API during stream capture is currently unsupported", NotImplementedError)
        return on_device(value)
