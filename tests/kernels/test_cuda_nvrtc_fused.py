"""The kernels beside the convolutions compile for real architectures, within a register budget and without spills."""

from __future__ import annotations

import re

import pytest

from minidl.checking.cuda_host import nvrtc
from minidl.kernels.cuda import launch

REASON = nvrtc.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

STORED = ("float", "double", "Bfloat16")  # the code for Half is the same but for its conversions
# file -> what it is compiled for, and registers of a thread: at most 64, for four blocks of 256 threads on each
# multiprocessor; kernels that only stream get by with 40 in all but float64, for six
BUDGETS = {
    "normalization.cu": (STORED, 40, 64),
    "losses.cu": (STORED, 40, 64),
    "recurrent.cu": (("float", "double"), 32, 40),
    "optimizer.cu": (STORED, 24, 32),
    "dropout.cu": (STORED, 24, 24),
    "elementwise.cu": (STORED, 40, 48),
}


@pytest.mark.parametrize("file", BUDGETS)
@pytest.mark.parametrize("architecture", ["80", "90", "90a"])
def test_kernels_keep_to_their_registers(file, architecture):
    source = launch.source(file)
    kernels = set(
        re.findall(r"^extern \"C\" __global__ void\s+(?:__launch_bounds__\([^)]*\)\s+)?(\w+)\(", source, re.M)
    )
    types, single, double = BUDGETS[file]
    for storage in types if architecture == "90" else types[:2] if architecture == "80" else types[:1]:
        used = nvrtc.usage(source, architecture, (f"-DStorage={storage}",))
        assert set(used) == kernels and len(kernels) >= 2
        for kernel, usage in used.items():
            assert usage.registers <= (double if storage == "double" else single), (storage, kernel)
            assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0), (storage, kernel)
