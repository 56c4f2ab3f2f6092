"""The CUDA sources compile for real architectures, within a register budget and without spills. No device is needed."""

from __future__ import annotations

import pytest

from minidl.checking.cuda_host import nvrtc
from minidl.kernels.cuda import launch

REASON = nvrtc.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

KERNELS = {
    "conv.cu": {"conv_kernel", "conv_input_kernel", "conv_weight_kernel"},
    "pool.cu": {"max_pool_kernel", "max_unpool_kernel"},
}
REGISTERS = 64  # four blocks of 256 threads on each multiprocessor


def test_every_source_is_listed():
    assert {path.name for path in launch.HERE.glob("*.cu")} == set(KERNELS)


@pytest.mark.parametrize("file", KERNELS)
@pytest.mark.parametrize("scalar", launch.SCALARS.values())
@pytest.mark.parametrize("architecture", ["80", "90", "90a"])
def test_kernels_keep_to_their_registers(file, scalar, architecture):
    used = nvrtc.usage(launch.source(file), architecture, (f"-DScalar={scalar}",))
    assert set(used) == KERNELS[file]
    for kernel, usage in used.items():
        assert usage.registers <= REGISTERS, kernel
        assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0), kernel


def test_spills_are_seen():
    many = "\n".join(f"    const double v{i} = x[{i} * n];\n    sum += v{i};" for i in range(200))
    total = " + ".join(f"v{i} * sum" for i in range(200))
    source = (
        'extern "C" __global__ void __launch_bounds__(1024) hungry(const double* x, double* y, int n) {\n'
        f"    double sum = 0;\n{many}\n    y[0] = {total};\n}}"
    )
    usage = nvrtc.usage(source)["hungry"]
    assert usage.registers <= 64 and usage.spill_stores > 0 and usage.spill_loads > 0


def test_errors_show_the_log():
    with pytest.raises(nvrtc.CompileError, match='identifier "missing" is undefined'):
        nvrtc.usage('extern "C" __global__ void f() { missing(); }')
