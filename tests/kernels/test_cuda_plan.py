"""Which kernel computes a convolution on a device, with which sizes: pure functions, nothing is compiled or run."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minidl
from minidl.kernels.cuda import plan
from minidl.kernels.cuda.plan import Device
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.precision import MATMUL_NAMES

A100, H100 = Device(80, 108, 163 * 1024), Device(90, 132, 227 * 1024)
DEVICES = st.sampled_from([A100, H100, Device(86, 28, 99 * 1024), Device(89, 128, 99 * 1024)])
ARITHMETIC = st.sampled_from(
    [("float32", name) for name in MATMUL_NAMES] + [(d, "highest") for d in ("float64", "float16", "bfloat16")]
)


@st.composite
def geometries(draw):
    """From tiny to the layers of large networks, with strides, dilations, groups and output padding."""
    rank = draw(st.integers(1, 3))
    per_axis = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, stride, dilation = per_axis(1, 5), per_axis(1, 4), per_axis(1, 3)
    groups = draw(st.sampled_from([1, 1, 1, 2, 4, 64]))
    channels, filters = (draw(st.sampled_from([1, 2, 3, 4, 5, 8, 12, 64, 100, 512])) * groups for _ in range(2))
    size = tuple(d * (k - 1) + draw(st.sampled_from([1, 4, 7, 28, 56])) for k, d in zip(kernel, dilation, strict=True))
    x = (draw(st.sampled_from([1, 3, 16])), channels, *size)
    return ConvGeometry.of(x, (filters, channels // groups, *kernel), stride, per_axis(0, 2), dilation, groups)


@given(g=geometries())
@settings(max_examples=80, deadline=None)
def test_phases_are_the_adjoint(g):
    """Every input position is in exactly one phase, and meets there the taps and outputs that the definition says."""
    found, tap_step, dilation = plan.phases(g)
    three = 3 - g.rank
    padding = [0] * three + [before for before, _ in g.padding]
    sizes = {name: (1,) * three + getattr(g, name) for name in ("input", "kernel", "output", "stride", "dilation")}
    seen = []
    for axis in range(3):
        n, k, outputs, s, d = (sizes[name][axis] for name in ("input", "kernel", "output", "stride", "dilation"))
        met = {}
        for p in {tuple(p[name][axis] for name in ("size", "first", "origin", "taps", "first_tap")) for p in found}:
            size, first, origin, taps, first_tap = p
            for q in range(size):
                outs = {(first_tap + j * tap_step[axis], q + origin + j * dilation[axis]) for j in range(taps)}
                assert first + q * s not in met
                met[first + q * s] = {(t, o) for t, o in outs if 0 <= o < outputs}
        for i in range(n):
            assert met.pop(i) == {
                (t, o) for t, o in product(range(k), range(outputs)) if o * s - padding[axis] + t * d == i
            }
        assert not met
        seen.append(n)
    assert sum(prod(p["size"]) for p in found) == prod(seen)


def plans(g, dtype, precision, device):
    return {
        "conv": plan.gather(g, False, dtype, precision, device),
        "conv_input": plan.gather(g, True, dtype, precision, device),
        "conv_weight": plan.weight(g, dtype, precision, device),
    }


@given(g=geometries(), arithmetic=ARITHMETIC, device=DEVICES)
@settings(max_examples=150, deadline=None)
def test_plans_keep_the_limits_of_their_device(g, arithmetic, device):
    known = set(plan.instances())
    for operation, p in plans(g, *arithmetic, device).items():
        if p.instance is None:
            continue
        i, size = p.instance, plan.SIZES[p.instance.storage]
        assert i in known
        assert i.shared <= device.shared and i.tile.threads <= 1024
        assert i.math == plan.arithmetic(*arithmetic)[0]
        assert p.workspace * plan.SIZES[i.result] <= plan.LARGEST_WORKSPACE or p.splits == 1
        per_group = (g.out_channels if operation == "conv_input" else g.in_channels) // g.groups
        assert p.x_channels >= per_group and p.x_channels * size % i.vector == 0
        for one in p.launches:
            a = one.arguments
            assert one.blocks[0] < 2**31 and one.blocks[2] < 2**16
            if operation == "conv_weight":
                positions = g.batch * prod(g.output)
                assert p.splits * a["slice"] >= positions and a["slice"] % i.depth == 0
                assert (p.splits - 1) * a["slice"] < positions  # every split has something to do
                assert p.y_filters * size % 16 == 0
                continue
            rows, phases = int(a["filters"]), int(a["phases"])
            for j, phase in enumerate(a["phase"][:phases]):
                depth = int(prod(map(int, phase["taps"]))) * p.x_channels
                assert p.splits * a["slice"] * i.depth >= depth
                assert phase["pitch"] >= depth and phase["pitch"] * size % 16 == 0 and phase["weights"] * size % 16 == 0
                assert one.packing["phase"][j]["begin"] == phase["weights"]
                tiles = -(-g.batch * int(prod(map(int, phase["size"]))) // i.tile.m) * -(-rows // i.tile.n)
                assert tiles <= one.blocks[0]
            last = a["phase"][phases - 1]
            assert one.packing["elements"] == last["weights"] + g.groups * rows * last["pitch"]
            assert one.blocks[2] == phases * g.groups * p.splits


def test_what_needs_no_product_is_summed_directly():
    tiny = ConvGeometry.of((1, 4, 6, 6), (4, 4, 3, 3), 1, 1)
    depthwise = ConvGeometry.of((8, 64, 56, 56), (64, 1, 3, 3), 1, 1, groups=64)
    usual = ConvGeometry.of((8, 64, 56, 56), (64, 64, 3, 3), 1, 1)
    direct = lambda g, device=H100: {k: p.instance is None for k, p in plans(g, "float32", "highest", device).items()}
    assert direct(tiny) == dict.fromkeys(("conv", "conv_input", "conv_weight"), True)
    assert direct(depthwise) == {"conv": True, "conv_input": True, "conv_weight": False}
    assert direct(usual) == dict.fromkeys(("conv", "conv_input", "conv_weight"), False)
    giant = ConvGeometry.of((8, 16, 400, 400), (64, 16, 40, 40), 40)  # 1,600 phases
    assert direct(giant) == {"conv": False, "conv_input": True, "conv_weight": False}
    assert direct(usual, Device(75, 40, 64 * 1024)) == dict.fromkeys(("conv", "conv_input", "conv_weight"), True)
    huge = ConvGeometry.of((2**15, 1, 2**16), (64, 1, 3))  # more positions than 32 bits count
    assert all(direct(huge).values())


@pytest.mark.parametrize(
    ("channels", "size", "expected"),
    [
        (1, 4, (1, 4)), (2, 4, (2, 8)), (3, 4, (3, 4)), (4, 4, (4, 16)), (5, 4, (8, 16)), (64, 4, (64, 16)),
        (1, 2, (2, 4)), (2, 2, (2, 4)), (3, 2, (4, 8)), (4, 2, (4, 8)), (5, 2, (8, 16)), (8, 2, (8, 16)),
        (9, 2, (16, 16)),
        (1, 8, (1, 8)), (2, 8, (2, 16)), (3, 8, (3, 8)), (5, 8, (6, 16)),
    ],
)  # fmt: skip
def test_few_channels_are_copied_in_small_pieces(channels, size, expected):
    assert plan.vectors(channels, size) == expected


def test_large_layers_get_large_tiles_and_small_ones_splits():
    c3d = ConvGeometry.of((16, 64, 16, 56, 56), (128, 64, 3, 3, 3), 1, 1)
    for p in plans(c3d, "float32", "high", H100).values():
        assert p.instance.tile.m * p.instance.tile.n >= 128 * 64
    last = ConvGeometry.of((2, 512, 2, 7, 7), (512, 512, 3, 3, 3), 1, 1)
    p = plan.gather(last, False, "float32", "high", H100)
    assert p.splits > 1 and p.launches[0].blocks[0] * p.splits > H100.processors // 2
    assert plan.gather(last, False, "float32", "high", H100) is p  # planned once
    weight = plan.weight(c3d, "float32", "high", H100)
    assert weight.splits > 1 and weight.launches[0].blocks[2] == weight.splits


def peak(math: str, device: Device) -> float:
    """Multiply-adds a second by the model's own rates."""
    return plan.MULTIPLY_ADDS[math] * device.processors * plan.CLOCK


@given(g=geometries(), arithmetic=ARITHMETIC, device=DEVICES)
@settings(max_examples=80, deadline=None)
def test_options_are_sorted_and_none_is_faster_than_the_device(g, arithmetic, device):
    for member in ("conv", "conv_input", "conv_weight"):
        found = plan.options(member, g, *arithmetic, device)
        assert [o.cycles for o in found] == sorted(o.cycles for o in found)
        assert len({(o.tile, o.splits) for o in found}) == len({o.name for o in found}) == len(found)
        math, storage = plan.arithmetic(*arithmetic)
        rate = peak(f"FMA {storage}" if math == "FMA" else math, device)
        steps = prod(g.stride) if member == "conv_input" else 1  # the adjoint counts products with zeros, too
        assert all(o.cycles / plan.CLOCK > g.multiply_adds / steps / rate / 2 for o in found)
        first = plans(g, *arithmetic, device)[member]
        assert (first.instance is None) == (not found)
        if found:
            assert (first.instance.tile, first.splits) == (found[0].tile, found[0].splits)


@pytest.mark.parametrize("member", ["conv", "conv_input", "conv_weight"])
def test_every_option_is_a_plan(member):
    g = ConvGeometry.of((4, 64, 8, 14, 14), (128, 64, 3, 3, 3), 1, 1)
    for o in plan.options(member, g, "float32", "high", H100):
        if member == "conv_weight":
            p = plan.weight(g, "float32", "high", H100, o)
        else:
            p = plan.gather(g, member == "conv_input", "float32", "high", H100, option=o)
        assert (p.instance.tile, p.splits) == (o.tile, o.splits)
        assert p.launches[0].blocks[2] % o.splits == 0


def test_what_the_model_knows():
    """Relations that hold on any device, whatever the rates are."""
    conv3b = ConvGeometry.of((16, 256, 8, 28, 28), (256, 256, 3, 3, 3), 1, 1)

    def best(g, precision, member="conv", dtype="float32", device=H100):
        return plan.options(member, g, dtype, precision, device)[0]

    cycles = [best(conv3b, word).cycles for word in ("highest", "tf32x3", "high", "medium")]
    assert cycles == sorted(cycles, reverse=True) and cycles[0] > 3 * cycles[2]
    # warps of 64 x 64 read shared memory least often: on tensor cores that decides
    tile = best(conv3b, "high").tile
    assert tile.m // tile.warps_m == tile.n // tile.warps_n == 64
    assert tile.m * tile.n >= 128 * 128
    # twice the batch takes about twice as long
    twice = ConvGeometry.of((32, 256, 8, 28, 28), (256, 256, 3, 3, 3), 1, 1)
    assert 1.8 < best(twice, "high").cycles / best(conv3b, "high").cycles < 2.2
    # a gradient of the weight of few tiles is cut until the blocks are spread evenly
    weight = best(conv3b, "high", "conv_weight")
    blocks = -(-256 // weight.tile.m) * -(-256 * 27 // weight.tile.n) * weight.splits
    assert blocks / (-(-blocks // H100.processors) * H100.processors) > 0.9
    # columns that nobody needs are not computed: 16 filters get the narrow tile
    narrow = best(ConvGeometry.of((16, 64, 56, 56), (16, 64, 3, 3), 1, 1), "high")
    assert narrow.tile.n == 16


def test_c3d_is_expected_to_run_near_the_rate_of_its_arithmetic():
    layers = [((64, 16, 56, 56), 128), ((256, 8, 28, 28), 256), ((512, 4, 14, 14), 512), ((512, 2, 7, 7), 512)]
    for (channels, *size), filters in layers:
        g = ConvGeometry.of((16, channels, *size), (filters, channels, 3, 3, 3), 1, 1)
        for word, math in (("highest", "FMA float"), ("tf32x3", "TF32X3"), ("high", "TF32")):
            for member in ("conv", "conv_input", "conv_weight"):
                seconds = plan.options(member, g, "float32", word, H100)[0].cycles / plan.CLOCK
                assert g.multiply_adds / seconds > 0.35 * peak(math, H100), (g, word, member)


def test_structs_hold_what_they_are_given():
    g = ConvGeometry.of((2, 64, 9, 20), (66, 64, 3, 4), (1, 2), (1, 2))
    (one,) = plan.gather(g, True, "float32", "highest", H100).launches
    a = one.arguments
    assert a.shape == () and not a.flags.writeable and a.dtype.itemsize == 4 * (11 + 15 + 14 * plan.PHASES)
    assert a["phases"] == 2 and a["stride"].tolist() == [1, 1, 1] and a["step"].tolist() == [1, 1, 2]
    assert [p["taps"].tolist() for p in a["phase"][:2]] == [[1, 3, 2], [1, 3, 2]]
    assert one.packing["tap_step"].tolist() == [1, 1, 2]
    assert one.packing["row_stride"] == 12 and one.packing["channel_stride"] == 64 * 12
    assert plan.WEIGHT.itemsize == 4 * (9 + 18) and plan.PACKED.itemsize == 4 * (8 + 6 + 8 * plan.PHASES)


def test_precision_is_the_users_word():
    assert minidl.get_float32_matmul_precision() == "highest"
    try:
        for name in MATMUL_NAMES:
            minidl.set_float32_matmul_precision(name)
            assert minidl.get_float32_matmul_precision() == name
        with pytest.raises(ValueError, match="is 'low': it must be 'highest', 'tf32x3', 'high' or 'medium'"):
            minidl.set_float32_matmul_precision("low")
        assert minidl.get_float32_matmul_precision() == "medium"
        x, w = minidl.randn(2, 3, 8), minidl.randn(4, 3, 3)
        low = minidl.functional.conv1d(x, w).numpy()
        minidl.set_float32_matmul_precision("highest")
        np.testing.assert_array_equal(low, minidl.functional.conv1d(x, w).numpy())  # on the CPU nothing changes
    finally:
        minidl.set_float32_matmul_precision("highest")
    assert [plan.arithmetic("float32", n) for n in MATMUL_NAMES] == [
        ("FMA", "float"), ("TF32X3", "float"), ("TF32", "float"), ("BF16", "Bfloat16"),
    ]  # fmt: skip
    assert plan.arithmetic("float64", "medium") == ("FMA", "double")
