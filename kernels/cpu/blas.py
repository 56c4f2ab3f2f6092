"""`gemm` for use inside compiled kernels: SciPy's BLAS, called without Python.

SciPy publishes the addresses of its BLAS functions for Cython. LLVM gets them under names of our own, not as numbers
in the code, so that compiled kernels can be kept on disk.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic, overload


def _external(routine: str, real: types.Type) -> types.ExternalFunction:
    name = f"minidl_{routine}"
    llvmlite.binding.add_symbol(name, get_cython_function_address("scipy.linalg.cython_blas", routine))
    flag, size, number = (types.CPointer(kind) for kind in (types.uint8, types.int32, real))
    address = types.intp
    return types.ExternalFunction(
        name,
        types.void(flag, flag, size, size, size, number, address, size, address, size, number, address, size),
    )


_ROUTINES = {types.float32: _external("sgemm", types.float32), types.float64: _external("dgemm", types.float64)}


@intrinsic
def _pointer(_: Any, value: Any) -> Any:
    """The address of a copy of value on the stack: Fortran takes every argument by reference."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return cgutils.alloca_once_value(builder, arguments[0])

    return types.CPointer(value)(value), generate


def gemm(a_turned, b_turned, rows, columns, depth, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
    """c (rows, columns) = op(a) (rows, depth) @ op(b) (depth, columns) + beta * c; only inside compiled kernels.

    a, b and c are flat arrays; their row-major matrices begin at elements a_at, b_at and c_at, rows are lda, ldb and
    ldc elements apart, and op transposes if `turned`. Nothing is checked. Only a kernel's arguments are safe to pass:
    Numba may release an array made in the kernel before BLAS is done with it.
    """
    raise NotImplementedError("gemm can only be called from compiled code")


@overload(gemm)
def _gemm(a_turned, b_turned, rows, columns, depth, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
    routine, width = _ROUTINES[c.dtype], c.dtype.bitwidth // 8
    real = np.float64 if c.dtype == types.float64 else np.float32

    def call(a_turned, b_turned, rows, columns, depth, a, a_at, lda, b, b_at, ldb, beta, c, c_at, ldc):
        # BLAS counts by columns: it sees every matrix transposed, so b comes first
        routine(
            _pointer(np.uint8(84 if b_turned else 78)),  # "T" or "N"
            _pointer(np.uint8(84 if a_turned else 78)),
            _pointer(np.int32(columns)),
            _pointer(np.int32(rows)),
            _pointer(np.int32(depth)),
            _pointer(real(1)),
            b.ctypes.data + b_at * width,
            _pointer(np.int32(ldb)),
            a.ctypes.data + a_at * width,
            _pointer(np.int32(lda)),
            _pointer(real(beta)),
            c.ctypes.data + c_at * width,
            _pointer(np.int32(ldc)),
        )

    return call
