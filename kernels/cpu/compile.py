"""`jit`: numba.njit for the kernels of this package, compiled once per machine and kept on disk.

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
from pathlib import Path
from typing import Any

import numba
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

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
    """What a Numba dispatcher asks of its cache: load and save the result of compiling one signature."""

    def __init__(self, function: Callable):
        self.name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"

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


def jit(
    function: Callable | None = None, *, parallel: bool = False, inline: bool = False, reassociate: bool = False
) -> Any:
    """Decorator: compile for the types of each first call, without the GIL. `parallel` makes prange parallel;
    `inline` is for helpers that are only called by other kernels; `reassociate` lets the compiler add in another order,
    as vector instructions need it, but the same in each run."""
    if function is None:
        return lambda f: jit(f, parallel=parallel, inline=inline, reassociate=reassociate)
    relaxed = {"reassoc", "nsz", "contract"} if reassociate else False
    kernel = numba.njit(parallel=parallel, nogil=True, error_model="numpy", fastmath=relaxed)(function)
    if not inline:
        kernel._cache = _DiskCache(function)
    return kernel
