"""HostModule: what cupy.RawModule is to a device, for the CPU. It compiles a .cu file with a C++ compiler and launches
its kernels on NumPy arrays."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

SHIM = Path(__file__).with_name("shim.h")
FLAGS = ("-x", "c++", "-std=c++17", "-O2", "-w", "-shared", "-fPIC", "-fvisibility=hidden", "-fno-sanitize=all")
FENCE = 256  # bytes in front of and behind every array during a launch
POISON = 0xFF
PLAIN_SHARED = 48 * 1024  # bytes of dynamic shared memory that a kernel may have without asking for more

_order: ContextVar[int] = ContextVar("order", default=0)


class HostError(RuntimeError):
    """A kernel that is wrong, or one that could not be compiled."""


@contextmanager
def thread_order(order: int) -> Iterator[None]:
    """Order in which blocks, and the threads of a block, run: 0 ascending, 1 descending, others are shuffles."""
    token = _order.set(order)
    try:
        yield
    finally:
        _order.reset(token)


def compiler() -> list[str] | None:
    """The C++ compiler: $CXX, g++, or the one in the package ziglang; None where there is none."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    if shutil.which("g++"):
        return ["g++"]
    return [sys.executable, "-m", "ziglang", "c++"] if find_spec("ziglang") else None


def unavailable() -> str | None:
    """Why kernels cannot run on the CPU here, or None where they can."""
    if not sys.platform.startswith("linux"):
        return "CUDA kernels run on the CPU on Linux only"
    command = compiler()
    if command is None:
        return "no C++ compiler: install g++ or the package ziglang, or set CXX"
    return None if shutil.which(command[0]) else f"the C++ compiler {command[0]} does not exist; CXX names it"


def cache_directory() -> Path:
    """$MINIDL_CACHE_DIR/cuda_host, by default ~/.cache/minidl/cuda_host."""
    return Path(os.environ.get("MINIDL_CACHE_DIR") or Path.home() / ".cache" / "minidl") / "cuda_host"


class HostModule:
    """A compiled .cu file; takes the arguments of cupy.RawModule. Raises HostError where it does not compile.

    Of the options only -D, -U, -I and -std reach the C++ compiler.
    """

    def __init__(self, code: str, options: tuple[str, ...] = (), name_expressions: tuple[str, ...] = ()):
        named = re.findall(r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?(\w+)\s*\(', code)
        self._symbols = {name: f"cuda_host_kernel{i}" for i, name in enumerate((*named, *name_expressions))}
        exports = "".join(f"CUDA_HOST_KERNEL({symbol}, {name})\n" for name, symbol in self._symbols.items())
        text = f'{SHIM.read_text()}#line 1 "kernel.cu"\n{_shared_memory(code)}\n{exports}'
        self._library = ctypes.CDLL(str(_compiled(text, tuple(o for o in options if o.startswith(("-D", "-U", "-I"))))))
        self._library.cuda_host_message.restype = ctypes.c_char_p
        self._lock = threading.Lock()  # the compiled file keeps one launch's state in its globals

    def get_function(self, name: str) -> HostKernel:
        """The kernel of this name, or of this name expression."""
        if name not in self._symbols:
            raise HostError(f"no kernel {name!r}; there are {', '.join(self._symbols) or 'none'}")
        return HostKernel(name, self._library, self._symbols[name], self._lock)


class _Parameter(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_int), ("kind", ctypes.c_char), ("passed", ctypes.c_char)]

    def __str__(self) -> str:
        kind = {b"f": "floating-point number", b"i": "integer"}.get(self.kind, "struct")
        what = f"{kind} of {self.bytes} bytes" if self.bytes else "anything"
        return f"a pointer to {what}" if self.passed == b"p" else f"a {what}"


class _Launch(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint * 3) for n in ("grid", "block")] + [(n, ctypes.c_uint) for n in ("shared", "order")]


class HostKernel:
    """A kernel that runs on NumPy arrays; called as kernels of CuPy are: kernel(grid, block, arguments).

    An array of one or more dimensions is passed as a pointer, a NumPy scalar or a 0-d array by value, Python's int and
    float as int64 and float64. Raises TypeError for arguments of the wrong number, size or kind, HostError where
    the kernel deadlocks, writes outside its arrays, or is launched with more than a device allows.
    """

    def __init__(self, name: str, library: ctypes.CDLL, symbol: str, lock: threading.Lock):
        self.name = name
        self.max_dynamic_shared_size_bytes = PLAIN_SHARED
        self._library, self._lock = library, lock
        self._launch = getattr(library, f"{symbol}_launch")
        self._launch.restype = ctypes.c_bool
        parameters = (_Parameter * 64)()
        self._parameters = parameters[: getattr(library, f"{symbol}_describe")(parameters)]

    def __call__(self, grid: tuple, block: tuple, args: tuple, *, shared_mem: int = 0) -> None:
        if len(args) != len(self._parameters):
            raise TypeError(f"{self.name} takes {len(self._parameters)} arguments, {len(args)} were given")
        grid, block = (*grid, 1, 1)[:3], (*block, 1, 1)[:3]
        if not (min(grid) > 0 and grid[0] < 2**31 and max(grid[1:]) < 2**16):
            raise HostError(f"{self.name}: no device launches a grid of {grid} blocks")
        if not (min(block) > 0 and block[2] <= 64 and prod(block) <= 1024):
            raise HostError(f"{self.name}: no device launches blocks of {block} threads")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise HostError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory, but max_dynamic_shared_size_bytes is "
                f"{self.max_dynamic_shared_size_bytes}"
            )

        fenced = _Fenced([a for a, p in zip(args, self._parameters, strict=True) if _is_pointer(a)])
        values = [self._value(i, argument, fenced) for i, argument in enumerate(args)]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        launch = _Launch((ctypes.c_uint * 3)(*grid), (ctypes.c_uint * 3)(*block), shared_mem, _order.get())
        with self._lock:
            if not self._launch(ctypes.byref(launch), pointers):
                raise HostError(f"{self.name}: {self._library.cuda_host_message().decode()}")
        fenced.check(self.name)

    def _value(self, i: int, argument: Any, fenced: _Fenced) -> np.ndarray:
        """What the i-th parameter holds: the argument's value, or the address of the array's fenced copy."""
        parameter = self._parameters[i]
        pointer = _is_pointer(argument)
        value = argument if pointer else np.asarray(argument)
        kind = {"f": b"f", "i": b"i", "u": b"i", "b": b"i"}.get(value.dtype.kind, b"o")
        if pointer and value.itemsize == 2 and value.dtype.name in ("float16", "uint16") and parameter.kind == b"o":
            kind = b"o"  # C++ has no floating-point numbers of two bytes: they are structs there, or plain bits here
        if pointer != (parameter.passed == b"p") or (
            parameter.bytes and (value.itemsize, kind) != (parameter.bytes, parameter.kind)
        ):
            given = f"a pointer to {value.dtype}" if pointer else f"a {value.dtype} of {value.itemsize} bytes"
            raise TypeError(f"{self.name}: argument {i} is {given}, the kernel takes {parameter}")
        return np.array(fenced.address(argument), np.uintp) if pointer else value


def _is_pointer(argument: Any) -> bool:
    return isinstance(argument, np.ndarray) and argument.ndim > 0 and argument.dtype.names is None


class _Fenced:
    """Copies of arrays with poison around them: writes outside are noticed, reads outside give NaN."""

    def __init__(self, arrays: list[np.ndarray]):
        self._arrays: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # id -> (array, copy with fences)
        for array in arrays:
            apart = not any(np.may_share_memory(array, other) for other in arrays if other is not array)
            if array.flags.c_contiguous and apart:  # other arrays are used in place
                copy = np.full(array.nbytes + 2 * FENCE, POISON, np.uint8)
                copy[FENCE : FENCE + array.nbytes] = array.reshape(-1).view(np.uint8)
                self._arrays[id(array)] = array, copy

    def address(self, array: np.ndarray) -> int:
        if id(array) in self._arrays:
            return self._arrays[id(array)][1].ctypes.data + FENCE
        return array.ctypes.data

    def check(self, kernel: str) -> None:
        """Copies back what the kernel wrote. Raises HostError if any of it lies outside."""
        for array, copy in self._arrays.values():
            inside = copy[FENCE : FENCE + array.nbytes]
            if (copy[:FENCE] != POISON).any() or (copy[FENCE + array.nbytes :] != POISON).any():
                raise HostError(f"{kernel} wrote outside its array of shape {array.shape} and type {array.dtype}")
            if array.flags.writeable:
                array.reshape(-1).view(np.uint8)[:] = inside


def _shared_memory(code: str) -> str:
    """Shared variables as static ones that the shim knows of, so that it can poison them for every block."""

    def static(match: re.Match[str]) -> str:
        names = re.findall(r"(\w+)\s*(?:\[[^\]]*\]\s*)*(?:,|$)", match[1])
        return f"static {match[1]}; " + " ".join(f"cuda_host::shared(&{name}, sizeof({name}));" for name in names)

    dynamic = r"extern\s+__shared__\s+(?:__align__\(\d+\)\s*)?([\w:]+(?:\s+\w+)*?)\s+(\w+)\s*\[\s*\]\s*;"
    code = re.sub(dynamic, r"\1* \2 = (\1*)cuda_host::dynamic_shared.data();", code)
    return re.sub(r"__shared__\s+([^;=]+?)\s*;", static, code)


@cache
def _version(command: tuple[str, ...]) -> str:
    return subprocess.run([*command, "--version"], capture_output=True, text=True, check=False).stdout


def _compiled(text: str, options: tuple[str, ...]) -> Path:
    """The shared library of a C++ text, from the cache if it was compiled before."""
    if reason := unavailable():
        raise HostError(reason)
    command = compiler()
    assert command is not None
    key = repr((text, options, FLAGS, command, _version(tuple(command)), platform.machine()))
    library = cache_directory() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        source, built = Path(folder, "kernel.cpp"), Path(folder, "kernel.so")
        source.write_text(text)
        done = subprocess.run(
            [*command, *FLAGS, *options, str(source), "-o", str(built)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise HostError(f"{shlex.join(command)} could not compile the kernel:\n{done.stderr}")
        os.replace(built, library)  # atomic: another process sees all of it or nothing
    return library
