"""Compiling CUDA C++ for real architectures without a device: does it compile, how many registers, does it spill?

NVRTC is reached through CuPy and needs the packages nvidia-cuda-nvrtc, and nvidia-cuda-runtime and -crt for headers.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from typing import Any

CUPY_OPTIONS = ("-ftz=true",)  # what CuPy adds to every compilation


@dataclass(frozen=True)
class Usage:
    """What one thread of a kernel needs: registers, and bytes of local memory for the stack and for what spills."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int


class CompileError(RuntimeError):
    """The source does not compile; the message is NVRTC's log."""


def unavailable() -> str | None:
    """Why nothing can be compiled here, or None where it can."""
    try:
        _library().getVersion()
    except ImportError:
        return "CuPy is not installed"
    except Exception as error:  # CuPy has errors of several kinds for a library it cannot load
        return f"NVRTC cannot be loaded: {str(error).strip().splitlines()[0]}"
    return None


def usage(source: str, architecture: str = "90", options: tuple[str, ...] = ()) -> dict[str, Usage]:
    """Compiles for sm_<architecture>, such as "80" or "90a": what each `extern "C"` kernel needs, by its name.

    Raises CompileError.
    """
    nvrtc = _library()
    flags = ("-std=c++17", *options, *CUPY_OPTIONS, f"-arch=sm_{architecture}", "--ptxas-options=-v")
    program = nvrtc.createProgram(source, "kernel.cu", (), ())
    try:
        try:
            nvrtc.compileProgram(program, flags)
        except nvrtc.NVRTCError:
            raise CompileError(nvrtc.getProgramLog(program)) from None
        return _read(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


def _library() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CUDA path could not be detected", category=UserWarning)
        from cupy_backends.cuda.libs import nvrtc
    return nvrtc


def _read(log: str) -> dict[str, Usage]:
    """The kernels in the log of ptxas -v."""
    number = {
        "stack": r"(\d+) bytes stack frame",
        "spill_stores": r"(\d+) bytes spill stores",
        "spill_loads": r"(\d+) bytes spill loads",
        "registers": r"Used (\d+) registers",
    }
    parts = re.split(r"Compiling entry function '(\w+)'", log)[1:]
    return {
        name: Usage(**{field: int(re.search(pattern, text)[1]) for field, pattern in number.items()})  # type: ignore[index]
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
