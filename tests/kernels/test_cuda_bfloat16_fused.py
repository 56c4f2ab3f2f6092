"""bfloat16 arrays (the package ml_dtypes brings the dtype) through the kernels beside the convolutions, on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from minidl.checking import cuda_host
from minidl.kernels.cuda import dropout, elementwise, losses, normalization, optimizer
from minidl.kernels.reference import elementwise as reference_elementwise
from minidl.kernels.reference import normalization as reference_normalization

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
bfloat16 = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes").bfloat16


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    monkeypatch.setenv("MINIDL_CACHE_DIR", str(tmp_path))
    with cuda_host.installed() as library:
        yield library


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(bfloat16)


def rounded(actual: Any, expected: np.ndarray) -> None:
    """Computed in float32 and rounded once: within one step of the format, whose fraction has 7 bits."""
    host = actual.get()
    assert host.dtype == bfloat16 and host.shape == expected.shape
    np.testing.assert_allclose(host.astype("float32"), expected, rtol=2**-7, atol=1e-6)


def single(*arrays: np.ndarray) -> list[np.ndarray]:
    return [a.astype("float32") for a in arrays]


def test_batch_norm(cupy):
    x, gamma = drawn(6, 3, 5, 4), drawn(3, seed=1)
    out = normalization.batch_norm(*map(cupy.asarray, (x, gamma, gamma)), eps=1e-3)
    expected = reference_normalization.batch_norm(*single(x, gamma, gamma), eps=1e-3)
    for actual, right in zip(out, expected, strict=True):
        rounded(actual, right)


def test_softmax_cross_entropy(cupy):
    x, target = drawn(8, 10), np.arange(8)
    loss, lse = losses.softmax_cross_entropy(cupy.asarray(x), cupy.asarray(target))
    for actual, right in zip(
        (loss, lse), reference_normalization.softmax_cross_entropy(*single(x), target), strict=True
    ):
        rounded(actual, right)


def test_elementwise(cupy):
    x, mask = drawn(2, 3, 7), np.arange(42).reshape(2, 3, 7) % 3 > 0
    rounded(dropout.dropout(cupy.asarray(x), cupy.asarray(mask), scale=1.5), single(x)[0] * mask * np.float32(1.5))
    p, g = cupy.asarray(x), cupy.asarray(drawn(2, 3, 7, seed=2))
    assert optimizer.covers(p, g)
    optimizer.sgd([(p, g, None)], [(1,)], decay=0.5, momentum=0, nesterov=False, rate=0.25)
    before, slope = single(x, g.get())
    rounded(p, before - (before * 0.5 + slope) * 0.25)


@pytest.mark.parametrize("name", ["gelu", "gelu_gradient", "gelu_tanh", "gelu_tanh_gradient"])
def test_gelu(cupy, name):
    arrays = [drawn(2, 3, 7, seed=seed) for seed in range(1 + name.endswith("gradient"))]
    result = getattr(elementwise, name)(*map(cupy.asarray, arrays))
    rounded(result, getattr(reference_elementwise, name)(*single(*arrays)))
