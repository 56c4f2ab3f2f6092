"""Every primitive, function and layer on CUDA arrays, as far as that can be seen without a device: on a stand-in for
CuPy that refuses what CuPy refuses. Same values and gradients as on the CPU, on a device that is not the current one,
and the host never waits."""

from __future__ import annotations

import numpy as np
import pytest
from engine_arrays import computed, parameters_on

import minidl
from minidl.checking import cuda_host
from minidl.checking.sample import Sample
from minidl.checking.samples import table

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

# these look at numbers: at indices that are booleans, to know how many; at classes, to know how many columns
WAITING = {"functional.one_hot", "getitem", "scatter"}
OPAQUE = {row.name for row in table().values() if row.gradient == "none"}
OPAQUE |= {"transfer", "functional.batch_norm"}  # which hold devices and arrays of their own
OPAQUE |= {name for name in table() if "dropout" in name.lower() and "." in name}  # a device draws its own masks
# a device draws its own masks: kernels/test_cuda_host_fused.py
OPAQUE |= {row.name for row in table().values() if row.kind != "primitive" and "dropout" in row.name.lower()}


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


@pytest.mark.parametrize("row", [r for r in table().values() if r.name not in OPAQUE], ids=lambda r: r.name)
def test_same_as_on_the_cpu(cupy, row: Sample):
    for case in row.cases():
        expected = [None if a is None else np.array(a) for a in computed(row, case, "cpu", None, False)]
        with parameters_on(case, "cuda:1"):
            for create_graph in (False, True):
                cupy.waits.clear()
                found = computed(row, case, "cuda:1", None, create_graph)
                waited = list(cupy.waits)
                for a, b in zip(found, expected, strict=True):
                    if a is None or b is None:
                        assert a is b
                        continue
                    assert isinstance(a, cupy.ndarray) and a.device.id == 1
                    assert a.dtype == b.dtype
                    np.testing.assert_allclose(a.get(), b, 1e-11, 1e-11)
                assert not waited or row.name in WAITING, waited
        assert cupy.cuda.runtime.getDevice() == 0
