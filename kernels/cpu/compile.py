"""`jit` and `threaded`: numba.njit for the kernels of this package, compiled once per machine and kept on disk.

Numba's own cache looks only at the file that holds a function and lets two processes that compile at the same moment
overwrite each other's entries. Ours keeps one file for each function and signature, in a folder named after a hash of
everything in this package, and moves files into place whole. The user's own numba functions are not affected.

`MINIDL_CACHE_DIR` names the folder; without it, it is `minidl` in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from inspect import signature as signature_of
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once_value, for_range, get_or_insert_function
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps
from numba.extending import intrinsic

from .threads import start_threads

_temporary: tempfile.TemporaryDirectory | None = None  # kept alive until the process ends


@cache
def cache_directory() -> Path:
    """The folder for machine code compiled from these sources, which may be read-only if it holds some; else, if it is
    not writable, a temporary one and a warning."""
    global _temporary
    sources = hashlib.sha256(repr((numba.__version__, sys.version_info[:2])).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(path.name.encode() + path.read_bytes())
    home = os.environ.get("MINIDL_CACHE_DIR") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "minidl")
    folder = Path(home).expanduser() / f"cpu-{sources.hexdigest()[:16]}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        if folder.is_dir() and next(folder.glob("*.bin"), None):
            return folder  # read-only: what was compiled when it was not, in an image of a container say, serves
        # a private folder of this process, not a shared name in /tmp: what lies in the cache is executed
        _temporary = tempfile.TemporaryDirectory(prefix="minidl-")
        folder = Path(_temporary.name)
        warnings.warn(
            f"compiled kernels cannot be kept in {home} ({error}): every process will compile its own. "
            f"Set MINIDL_CACHE_DIR to a writable folder.",
            RuntimeWarning,
            stacklevel=2,
        )
    return folder


class _DiskCache:
    """What a Numba dispatcher asks of its cache: load and save the result of compiling one signature.

    part: the kernel of `threaded` that machine code of this function calls by its address.
    """

    def __init__(self, function: Callable, part: Any = None):
        self.name = _name(function)
        self.part = part

    @property
    def cache_path(self) -> str:
        return str(cache_directory())

    def _file(self, signature: Any, codegen: Any) -> Path:
        # magic_tuple names the processor and its features: a home folder shared by several machines is safe
        key = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:24]
        return cache_directory() / f"{self.name}-{key}.bin"

    def load_overload(self, signature: Any, target: Any) -> Any:
        target.refresh()
        try:
            payload = pickle.loads(self._file(signature, target.codegen()).read_bytes())
        except (OSError, EOFError, pickle.UnpicklingError):
            return None  # not there, or damaged: compile
        if self.part is not None:
            _known(self.part, signature[1:])
        return CompileResult._rebuild(target, *payload)

    def save_overload(self, signature: Any, result: Any) -> None:
        if result.library.has_dynamic_globals:
            return  # holds addresses that only this process knows
        path = self._file(signature, result.codegen)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            part.write_bytes(dumps(result._reduce()))
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)  # a full disk costs the next process its time, not this one its result


def jit(function: Callable | None = None, *, inline: bool = False, reassociate: bool = False) -> Any:
    """Decorator: compile for the types of each first call, without the GIL. `inline` is for helpers that are only
    called by other kernels; `reassociate` lets the compiler add in another order, as vector instructions need it, but
    the same in each run."""
    if function is None:
        return lambda f: jit(f, inline=inline, reassociate=reassociate)
    kernel = _compiled(function, reassociate, no_cpython_wrapper=inline)
    if not inline:
        _keep(kernel)
    return kernel


def threaded(function: Callable | None = None, *, reassociate: bool = False) -> Any:
    """Decorator: function(thread, threads, *args) does one thread's part of some work; it becomes kernel(threads,
    *args), which has it called for each thread from 0 to threads - 1, all at once, in Numba's pool. It must not raise:
    nobody would hear of it.

    Numba's prange would do, but compiles for three times as long: it analyses all that is in the loop, and optimises it
    again with each function that it puts around it. Here these see no more than a call.
    """
    if function is None:
        return lambda f: threaded(f, reassociate=reassociate)
    part = _compiled(function, reassociate, no_cpython_wrapper=True)
    _keep(part)
    # a function with these very parameters: those of one with *args would be put into a tuple at each call
    names = ", ".join(list(signature_of(function).parameters)[2:])
    space: dict[str, Any] = {"_start": _start, "_part": part}
    exec(f"def launch(threads, {names}):\n    _start(_part, threads, ({names},))", space)
    launch = space["launch"]
    launch.__module__, launch.__doc__ = function.__module__, function.__doc__
    launch.__name__, launch.__qualname__ = function.__name__, f"{function.__qualname__}.launch"
    kernel = _compiled(launch, False)
    _keep(kernel, part)
    return kernel


def _compiled(function: Callable, reassociate: bool, **options: Any) -> Any:
    relaxed = {"reassoc", "nsz", "contract"} if reassociate else False
    return numba.njit(nogil=True, error_model="numpy", fastmath=relaxed, no_cfunc_wrapper=True, **options)(function)


def _keep(kernel: Any, part: Any = None) -> None:
    """Keep it on disk, if it belongs to this package: the cache's folder is named after these sources alone."""
    if kernel.py_func.__module__.startswith(f"{__package__}."):
        kernel._cache = _DiskCache(kernel.py_func, part)


def _name(function: Callable) -> str:
    return f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"


def _known(part: Any, kinds: Any) -> tuple[str, Any]:
    """The name under which machine code finds `part` compiled for these types, and the result of compiling it."""
    start_threads()  # now at the latest: what calls `part` also calls Numba's pool by name
    result = part.get_compile_result(types.void(types.int64, types.int64, *kinds))
    key = hashlib.sha256(repr(result.signature).encode()).hexdigest()[:16]
    name = f"minidl.{_name(part.py_func)}.{key}"
    llvmlite.binding.add_symbol(name, result.library.get_pointer_to_function(result.fndesc.llvm_func_name))
    return name, result


@intrinsic
def _start(_: Any, part: Any, threads: Any, args: Any) -> Any:
    """part(i, threads, *args) for each i < threads; a single one without the pool."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name, result = _known(part.dispatcher, args.types)
        kind = context.call_conv.get_function_type(result.fndesc.restype, result.fndesc.argtypes)
        number = context.cast(builder, arguments[1], threads, types.int64)
        shared = alloca_once_value(
            builder, context.make_tuple(builder, types.Tuple((types.int64, args)), (number, arguments[2]))
        )

        def call(builder: Any, thread: Any, at: Any) -> None:
            number, values = (builder.extract_value(builder.load(at), i) for i in range(2))
            values = [builder.extract_value(values, i) for i in range(len(args.types))]
            function = get_or_insert_function(builder.module, kind, name)
            context.call_conv.call_function(
                builder, function, result.fndesc.restype, result.fndesc.argtypes, [thread, number, *values]
            )

        pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
        # the pool calls void (char **arrays, size_t *dimensions, size_t *steps, void *data), as for a ufunc: of its one
        # "array", which begins at address 0 and has steps of 1, the address is the number of the thread
        task_kind = ir.FunctionType(
            ir.VoidType(), [pointer.as_pointer(), word.as_pointer(), word.as_pointer(), pointer]
        )
        task = ir.Function(builder.module, task_kind, f"{name}.task")
        task.linkage = "internal"
        inside = ir.IRBuilder(task.append_basic_block("entry"))
        first = inside.ptrtoint(inside.load(task.args[0]), word)
        with for_range(inside, inside.load(task.args[1])) as loop:
            call(inside, inside.add(first, loop.index), inside.bitcast(task.args[3], shared.type))
        inside.ret_void()

        one = ir.Constant(word, 1)
        with builder.if_else(builder.icmp_signed("==", number, one)) as (alone, together):
            with alone:
                call(builder, ir.Constant(word, 0), shared)
            with together:
                arrays = alloca_once_value(builder, ir.Constant(pointer, None))
                dimensions, steps = alloca_once_value(builder, number), alloca_once_value(builder, one)
                pool_kind = ir.FunctionType(ir.VoidType(), [pointer] * 5 + [word] * 3)
                pool = get_or_insert_function(builder.module, pool_kind, "numba_parallel_for")
                given = [builder.bitcast(at, pointer) for at in (task, arrays, dimensions, steps, shared)]
                # always a team of the same size: GNU's OpenMP ends the threads that a smaller one leaves out
                team = builder.call(
                    get_or_insert_function(builder.module, ir.FunctionType(word, []), "get_num_threads"), []
                )
                builder.call(pool, [*given, ir.Constant(word, 0), one, team])
        return context.get_dummy_value()

    return types.void(part, threads, args), generate
