"""The CUDA sources compile for real architectures, within a register budget and without spills. No device is needed."""

from __future__ import annotations

from itertools import product

import pytest

from minidl.checking.cuda_host import nvrtc
from minidl.kernels.cuda import launch, plan

REASON = nvrtc.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))

KERNELS = {
    "conv.cu": {"conv_kernel", "conv_input_kernel", "conv_weight_kernel"},
    "pool.cu": {"max_pool_kernel", "max_unpool_kernel", "avg_pool_kernel", "avg_unpool_kernel"},
}
LAYOUT = {"channels_last_kernel", "pack_kernel", "finish_kernel", "finish_weight_kernel"}  # of layout.cu
PRODUCTS = {"conv_gather.cu", "conv_weight.cu"}  # whose kernels are the instances of plan.py
HOPPER = {f"hopper_{name}.cu" for name in ("gather", "weight", "weights", "tma")}  # test_cuda_hopper.py
FUSED = {f"{name}.cu" for name in ("normalization", "losses", "recurrent", "optimizer", "dropout", "elementwise")}
REGISTERS = 64  # four blocks of 256 threads on each multiprocessor
PRODUCT_REGISTERS = 248  # of a product of tiles: what the sums and two steps' fragments need


def test_every_source_is_listed():
    assert {path.name for path in launch.HERE.glob("*.cu")} == {
        *KERNELS,
        *PRODUCTS,
        *FUSED,
        *HOPPER,
        "layout.cu",
        "indexing.cu",
    }  # those: _fused.py


@pytest.mark.parametrize("file", KERNELS)
@pytest.mark.parametrize(
    ("scalar", "architecture"),
    [*product(launch.SCALARS.values(), ["80", "90", "90a"]), ("Half", "80"), ("Bfloat16", "80")],
)
def test_kernels_keep_to_their_registers(file, scalar, architecture):
    used = nvrtc.usage(launch.source(file), architecture, (f"-DScalar={scalar}",))
    assert set(used) == KERNELS[file]
    for kernel, usage in used.items():
        assert usage.registers <= REGISTERS, kernel
        assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0), kernel


@pytest.mark.parametrize("target", launch.STORAGE.values())
def test_layouts_keep_to_their_registers(target):
    for source in {target, "float"} if target == "Bfloat16" else {target}:
        used = nvrtc.usage(launch.source("layout.cu"), "80", (f"-DSource={source}", f"-DTarget={target}"))
        assert set(used) == LAYOUT
        for kernel, usage in used.items():
            assert usage.registers <= REGISTERS, kernel
            assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0), kernel


def product_keeps_to_its_registers(instance: plan.Instance, architecture: str) -> None:
    """No spills, and as many blocks on a multiprocessor as the tile says, by their registers."""
    ((name, usage),) = nvrtc.usage(launch.source(instance.file) + plan.text(instance), architecture).items()
    assert name == instance.name
    assert (usage.stack, usage.spill_stores, usage.spill_loads) == (0, 0, 0), name
    room = 2**16 // (instance.tile.threads * instance.tile.least_blocks)
    assert usage.registers <= min(room, PRODUCT_REGISTERS), name


# the largest tile of every arithmetic, once; `-m slow` compiles everything that can be chosen for everything
LARGEST = {(i.kind, i.math, i.storage, i.result): i for i in reversed(plan.instances()) if i.vector == 16}


@pytest.mark.parametrize("instance", LARGEST.values(), ids=lambda i: i.name)
def test_the_largest_products_keep_to_their_registers(instance):
    product_keeps_to_its_registers(instance, "80" if instance.kind == "weight" else "90a")


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["80", "90", "90a"])
@pytest.mark.parametrize("instance", plan.instances(), ids=lambda i: i.name)
def test_all_products_keep_to_their_registers(instance, architecture):
    product_keeps_to_its_registers(instance, architecture)


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
