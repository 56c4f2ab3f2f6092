"""The numba.cuda kernels in Numba's simulator against the reference, and compiled for a device as far as that goes
without one.

The simulator is chosen for a whole process, so the cases run in processes of their own: this file as a script.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numba_cuda_cases import ROOT, main, reported

OPERATIONS = ("conv", "conv_input", "conv_weight", "conv_bias", "conv_relu", "max_pool", "avg_pool")
# arguments of ConvGeometry.of: shape of x, shape of w, stride, padding, dilation, groups
CONVOLUTIONS: dict[str, tuple[Any, ...]] = {
    "one axis": ((2, 2, 5), (3, 2, 3), 2, 1),
    "uneven padding": ((1, 1, 4, 3), (2, 1, 2, 4), 1, "same"),
    "rest of the input unused": ((1, 2, 6), (1, 2, 2), 3),
    "groups": ((1, 4, 3, 3), (6, 2, 2, 2), 1, 0, 1, 2),
    "three axes": ((2, 1, 3, 4, 3), (2, 1, 2, 2, 2), (2, 1, 2), (1, 0, 1), (1, 2, 1)),
    "empty batch": ((0, 2, 4), (2, 2, 3)),
    "single": ((1, 1, 1), (1, 1, 1)),
}
# arguments of PoolGeometry.of: shape of x, kernel_size, stride, padding, dilation, ceil_mode
POOLINGS: dict[str, tuple[Any, ...]] = {
    "one axis": ((2, 1, 7), 3, 2, 1),
    "windows hang over": ((1, 2, 5, 4), 2, 2, 0, 1, True),
    "overlap and dilation": ((1, 1, 5, 6), (2, 3), 1, (1, 1), (2, 1)),
    "three axes": ((1, 1, 3, 4, 3), (2, 2, 3), (1, 2, 2), (1, 0, 1)),
    "empty batch": ((0, 1, 4), 2),
}
CASES = [
    (operation, name, dtype)
    for operation in OPERATIONS
    for name in (POOLINGS if operation.endswith("pool") else CONVOLUTIONS)
    for dtype in ("float32", "float64")
]


def run_case(operation: str, name: str, dtype: str) -> None:
    """Compares one operation with the reference; of poolings their adjoints, too."""
    from minidl.kernels.geometry import ConvGeometry, PoolGeometry
    from minidl.kernels.numba_cuda import conv, pool
    from minidl.kernels.reference import conv as reference_conv
    from minidl.kernels.reference import pool as reference_pool

    rng = np.random.default_rng(0)
    whole = lambda shape: rng.integers(-4, 5, shape).astype(dtype)  # small whole numbers: sums are exact in any order
    if operation == "max_pool":
        p = PoolGeometry.of(*POOLINGS[name])
        x, gy = whole(p.x_shape), whole(p.y_shape)
        x[rng.random(x.shape) < 0.1] = np.nan
        x[rng.random(x.shape) < 0.2] = -np.inf
        y, indices = pool.max_pool(x, geometry=p)
        expected_y, expected_indices = reference_pool.max_pool(x, geometry=p)
        same(y, expected_y)
        same(indices, expected_indices)
        same(pool.max_unpool(gy, indices, geometry=p), reference_pool.max_unpool(gy, indices, geometry=p))
        return
    if operation == "avg_pool":
        p = PoolGeometry.of(*POOLINGS[name])
        x, gy = whole(p.x_shape), whole(p.y_shape)
        for pad, divisor in ((True, None), (False, None), (False, 4)):
            options = {"geometry": p, "count_include_pad": pad, "divisor": divisor}
            for f, a in (("avg_pool", x), ("avg_unpool", gy)):
                expected = getattr(reference_pool, f)(a, **options)
                actual = getattr(pool, f)(a, **options)
                assert type(actual) is np.ndarray and actual.dtype == expected.dtype
                np.testing.assert_allclose(actual, expected, rtol=1e-6)
        return
    g = ConvGeometry.of(*CONVOLUTIONS[name])
    shapes = {
        "conv": (g.x_shape, g.w_shape),
        "conv_input": (g.y_shape, g.w_shape),
        "conv_weight": (g.x_shape, g.y_shape),
    }
    if operation in ("conv_bias", "conv_relu"):  # to both sides
        for adjoint, (name, other) in ((False, ("conv", "conv_input")), (True, ("conv_input", "conv"))):
            arrays = [*map(whole, shapes[name]), whole(shapes[other][0][1])]
            options = {"geometry": g, "transposed": adjoint}
            for b in (arrays[2],) if operation == "conv_bias" else (arrays[2], None):
                expected = getattr(reference_conv, operation)(*arrays[:2], b, **options)
                same(getattr(conv, operation)(*arrays[:2], b, **options), expected)
        return
    arrays = [whole(shape) for shape in shapes[operation]]
    expected = getattr(reference_conv, operation)(*arrays, geometry=g)
    same(getattr(conv, operation)(*arrays, geometry=g), expected)


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert type(actual) is np.ndarray and actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def run_errors() -> None:
    """In the simulator: what is refused."""
    from minidl.kernels.geometry import ConvGeometry
    from minidl.kernels.numba_cuda.conv import conv

    g = ConvGeometry.of((1, 1, 2), (1, 1, 1))
    x, w = np.zeros(g.x_shape, "f2"), np.zeros(g.w_shape, "f2")
    with pytest.raises(NotImplementedError, match="float32 and float64, not float16"):
        conv(x, w, geometry=g)
    with pytest.raises(ValueError, match="x has shape"):
        conv(np.zeros((1, 1, 3)), np.zeros(g.w_shape), geometry=g)
    with pytest.raises(TypeError, match="takes NumPy arrays only"):
        conv([1.0], w, geometry=g)


def run_compilation(scalar: str) -> None:
    """Type inference and lowering for a device, which the simulator skips: every sum has the type of the arrays."""
    import numba
    from numba import types
    from numba.cuda import dispatcher
    from numba.cuda.compiler import compile_cuda

    from minidl.kernels.cuda.launch import fold
    from minidl.kernels.geometry import ConvGeometry
    from minidl.kernels.numba_cuda import conv, pool
    from minidl.kernels.numba_cuda.launch import Geometry

    # device functions ask for the current device's capability and nothing else of it
    dispatcher.get_current_device = lambda: type("Device", (), {"compute_capability": (8, 0)})
    geometry = numba.typeof(Geometry(**fold(ConvGeometry.of((1, 1, 2), (1, 1, 1)))))
    array = types.Array(getattr(types, scalar), 5, "C")
    indices = types.Array(types.int32, 5, "C")
    numbers = (types.boolean, types.int64)
    finishing = (types.Array(getattr(types, scalar), 1, "C"), types.boolean, types.boolean)
    for kernel, arrays, *rest in [
        (conv.conv_kernel, (array, array, array), finishing),
        (conv.conv_input_kernel, (array, array, array), finishing),
        (conv.conv_weight_kernel, (array, array, array)),
        (pool.max_pool_kernel, (array, array, indices)),
        (pool.max_unpool_kernel, (array, indices, array)),
        (pool.avg_pool_kernel, (array, array), numbers),
        (pool.avg_unpool_kernel, (array, array), numbers),
    ]:
        compiled = compile_cuda(kernel.py_func, types.void, (*arrays, geometry, *sum(rest, ())), cc=(8, 0))
        found = {
            str(kind)
            for variable, kind in compiled.type_annotation.typemap.items()
            if variable.split(".")[0] in ("total", "row", "best", "value")
        }
        assert found == {scalar}, (kernel.py_func.__name__, found)


def run_without_device() -> None:
    from numba import cuda

    from minidl.kernels.geometry import ConvGeometry
    from minidl.kernels.numba_cuda.conv import conv

    g = ConvGeometry.of((1, 1, 2), (1, 1, 1))
    x, w = np.zeros(g.x_shape), np.zeros(g.w_shape)
    error = TypeError if cuda.is_available() else RuntimeError  # with a device, it is NumPy's arrays that are wrong
    with pytest.raises(error, match="NUMBA_ENABLE_CUDASIM=1"):
        conv(x, w, geometry=g)


SIMULATED = {" ".join(case): lambda case=case: run_case(*case) for case in CASES} | {"errors": run_errors}
COMPILED = {
    "without a device": run_without_device,
    "float32": lambda: run_compilation("float32"),
    "float64": lambda: run_compilation("float64"),
}


@pytest.fixture(scope="module")
def simulated():
    return reported(__file__, "simulated")


@pytest.fixture(scope="module", params=[(), ("built-in",)], ids=["as installed", "built-in"])
def compiled(request):
    return reported(__file__, "compiled", *request.param)


@pytest.mark.parametrize("case", SIMULATED)
def test_simulator(simulated, case):
    assert not simulated[case], simulated[case]


@pytest.mark.parametrize("case", COMPILED)
def test_compilation(compiled, case):
    assert not compiled[case], compiled[case]


@pytest.mark.parametrize("name", ["conv", "pool"])
def test_the_two_cuda_columns_have_the_same_kernels_in_the_same_order(name):
    """For whoever lays them side by side."""
    head = r"__global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\("
    cplusplus = re.findall(head, (ROOT / "kernels/cuda" / f"{name}.cu").read_text())
    python = re.findall(r"^@cuda.jit\ndef (\w+)\(", (ROOT / "kernels/numba_cuda" / f"{name}.py").read_text(), re.M)
    assert python == cplusplus and len(python) >= 2


if __name__ == "__main__":
    main(SIMULATED, COMPILED)
