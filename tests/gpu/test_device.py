"""On a real device: the CUDA kernels of both columns against the reference, and the same bits in every run."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.kernels.geometry import ConvGeometry, PoolGeometry
from minidl.kernels.reference import conv as reference_conv
from minidl.kernels.reference import pool as reference_pool

pytestmark = pytest.mark.gpu

CONVOLUTIONS = {
    "one axis": ConvGeometry.of((2, 3, 50), (4, 3, 5), 2, 2),
    "uneven padding": ConvGeometry.of((2, 3, 12, 17), (5, 3, 3, 4), 1, "same"),
    "groups": ConvGeometry.of((2, 6, 15, 14), (4, 3, 3, 3), 2, 1, 1, 2),
    "dilation": ConvGeometry.of((1, 4, 9, 20, 18), (3, 4, 2, 3, 2), (2, 1, 3), (1, 0, 2), (2, 3, 1)),
    "three axes": ConvGeometry.of((2, 8, 8, 28, 28), (16, 8, 3, 3, 3), 1, 1),
    "empty batch": ConvGeometry.of((0, 2, 5, 5), (3, 2, 3, 3)),
}
POOLINGS = {
    "one axis": PoolGeometry.of((2, 3, 50), 3, 2, 1),
    "windows hang over": PoolGeometry.of((2, 3, 15, 17), 2, 2, 0, 1, True),
    "overlap": PoolGeometry.of((2, 8, 8, 28, 28), 3, (1, 2, 1), 1),
    "dilation": PoolGeometry.of((1, 2, 20, 22), (2, 3), 1, 1, (2, 1)),
}
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}  # of the largest value: sums run in another order


def arrays(g: ConvGeometry, dtype: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(shape).astype(dtype) for shape in (g.x_shape, g.w_shape, g.y_shape))
    return {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("operation", ["conv", "conv_input", "conv_weight"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_agree_with_the_reference(cupy, column, name, operation, dtype):
    g = CONVOLUTIONS[name]
    operands = arrays(g, dtype)[operation]
    result = getattr(column("conv"), operation)(*map(cupy.asarray, operands), geometry=g)
    expected = getattr(reference_conv, operation)(*operands, geometry=g)
    assert result.dtype == expected.dtype
    bound = TOLERANCE[dtype] * abs(expected).max(initial=1)
    np.testing.assert_allclose(cupy.asnumpy(result), expected, rtol=0, atol=bound)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", POOLINGS)
def test_max_pooling_equals_the_reference(cupy, column, name, dtype):
    g, rng = POOLINGS[name], np.random.default_rng(0)
    x = rng.integers(-4, 5, g.x_shape).astype(dtype)  # ties in most windows
    x[rng.random(x.shape) < 0.05] = np.nan
    x[rng.random(x.shape) < 0.1] = -np.inf
    gy = rng.standard_normal(g.y_shape).astype(dtype)
    y, indices = column("pool").max_pool(cupy.asarray(x), geometry=g)
    gx = column("pool").max_unpool(cupy.asarray(gy), indices, geometry=g)
    expected_y, expected_indices = reference_pool.max_pool(x, geometry=g)
    np.testing.assert_array_equal(cupy.asnumpy(y), expected_y)
    np.testing.assert_array_equal(cupy.asnumpy(indices), expected_indices)
    # a window's gradients are added in the same order here and there, so even these are equal
    np.testing.assert_array_equal(cupy.asnumpy(gx), reference_pool.max_unpool(gy, expected_indices, geometry=g))


def test_a_hundred_runs_give_the_same_bits(cupy, column):
    conv, pool = column("conv"), column("pool")
    g, p = CONVOLUTIONS["three axes"], POOLINGS["overlap"]
    operands = {operation: [cupy.asarray(a) for a in pair] for operation, pair in arrays(g, "float32").items()}
    gy = cupy.asarray(np.random.default_rng(1).standard_normal(p.y_shape, np.float32))

    def bits() -> list[bytes]:
        results = [getattr(conv, operation)(*pair, geometry=g) for operation, pair in operands.items()]
        y, indices = pool.max_pool(operands["conv"][0], geometry=p)
        results += [y, indices, pool.max_unpool(gy, indices, geometry=p)]
        return [cupy.asnumpy(result).tobytes() for result in results]

    first = bits()
    assert all(bits() == first for _ in range(100))


def test_kernels_run_on_the_current_stream(cupy, column):
    g = CONVOLUTIONS["groups"]
    x, w = arrays(g, "float64")["conv"]
    expected = reference_conv.conv(x, w, geometry=g)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        ones = cupy.ones((4000, 4000))
        for _ in range(50):
            ones = cupy.sqrt(ones)
        x_late = cupy.asarray(x) * ones[0, 0]  # is x, but only once all of this is done
        result = column("conv").conv(x_late, cupy.asarray(w), geometry=g)
        host = cupy.asnumpy(result, stream=stream)
    stream.synchronize()
    np.testing.assert_allclose(host, expected, rtol=0, atol=1e-12 * abs(expected).max())


def test_kernels_run_on_the_device_of_their_arrays(cupy, column):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one CUDA device only")
    g = CONVOLUTIONS["groups"]
    operands = arrays(g, "float64")["conv"]
    with cupy.cuda.Device(1):
        x, w = map(cupy.asarray, operands)
    y = column("conv").conv(x, w, geometry=g)
    assert y.device.id == 1
    expected = reference_conv.conv(*operands, geometry=g)
    np.testing.assert_allclose(cupy.asnumpy(y), expected, rtol=0, atol=1e-12 * abs(expected).max())
    with pytest.raises(ValueError, match="one CUDA device"):
        column("conv").conv(x, cupy.asarray(operands[1]), geometry=g)
