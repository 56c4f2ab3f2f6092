"""bfloat16 arrays, whose dtype the package ml_dtypes brings, through the CUDA kernels on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from minidl.checking import cuda_host
from minidl.checking.cuda_host import installed
from minidl.kernels.cuda import conv, plan, pool
from minidl.kernels.geometry import ConvGeometry, PoolGeometry
from minidl.kernels.reference import conv as reference
from minidl.kernels.reference import pool as reference_pool

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes").bfloat16


def whole(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.integers(-2, 3, shape).astype(bfloat16)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("channels", [3, 20])
def test_convolutions_round_the_exact_result(monkeypatch, direct, channels):
    monkeypatch.setattr(plan, "TINY", 2**60 if direct else -1)
    plan.gather.cache_clear()
    plan.weight.cache_clear()
    g, rng = ConvGeometry.of((2, channels, 9, 7), (10, channels, 3, 3), 2, 1), np.random.default_rng(0)
    x, w, y, b = (whole(rng, shape) for shape in (g.x_shape, g.w_shape, g.y_shape, (10,)))
    with installed() as cupy:
        for operation, pair in {"conv": (x, w), "conv_input": (y, w), "conv_weight": (x, y)}.items():
            result = getattr(conv, operation)(*map(cupy.asarray, pair), geometry=g)
            expected = getattr(reference, operation)(*(a.astype("f8") for a in pair), geometry=g)
            assert result.dtype == bfloat16
            np.testing.assert_array_equal(result.get(), expected.astype(bfloat16))
        biased = conv.conv_relu(*map(cupy.asarray, (x, w, b)), geometry=g, transposed=False).get()
    exact = reference.conv(x.astype("f8"), w.astype("f8"), geometry=g) + b.astype("f8")[:, None, None]
    np.testing.assert_array_equal(biased, np.maximum(exact, 0).astype(bfloat16))
    plan.gather.cache_clear()
    plan.weight.cache_clear()


def test_pooling():
    g, rng = PoolGeometry.of((2, 3, 7, 8), 3, 2, 1), np.random.default_rng(0)
    x, gy = whole(rng, g.x_shape), whole(rng, g.y_shape)
    mean = {"geometry": g, "count_include_pad": False, "divisor": None}
    with installed() as cupy:
        y, indices = (a.get() for a in pool.max_pool(cupy.asarray(x), geometry=g))
        gx = pool.max_unpool(cupy.asarray(gy), cupy.asarray(indices), geometry=g).get()
        average = pool.avg_pool(cupy.asarray(x), **mean).get()
        share = pool.avg_unpool(cupy.asarray(gy), **mean).get()
    expected, places = reference_pool.max_pool(x.astype("f8"), geometry=g)
    np.testing.assert_array_equal(y, expected.astype(bfloat16))
    np.testing.assert_array_equal(indices, places)
    np.testing.assert_array_equal(gx, reference_pool.max_unpool(gy.astype("f8"), places, geometry=g).astype(bfloat16))
    for result, wanted in (
        (average, reference_pool.avg_pool(x.astype("f8"), **mean)),
        (share, reference_pool.avg_unpool(gy.astype("f8"), **mean)),
    ):
        assert result.dtype == bfloat16
        np.testing.assert_allclose(result.astype("f8"), wanted, rtol=2.0**-8, atol=1e-6)
