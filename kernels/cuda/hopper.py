"""Products of tiles by Hopper's own tensor-core instructions (compute capability 9.0): candidates for tuner.py.

plan.py lays the product out, for tiles of a warpgroup's shape. hopper_gather.cu and hopper_weight.cu compute it with
wgmma, their threads copy; in hopper_tma.cu the tensor memory accelerator does. These kernels have not run on a device
yet. So the plan never chooses one: it takes a measurement, which compares the result with that of a kernel of
conv_gather.cu or conv_weight.cu first.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Array
from . import launch, layout, plan, tensor_map

if TYPE_CHECKING:
    from .tuner import Candidate, Problem

CAPABILITY = 90
OPTIONS = ("-arch=sm_90a",)  # behind which CuPy puts -arch=sm_90: of the two, NVRTC obeys this one
ROW = 128  # bytes of k in a step, the width of the swizzle

# A block's elements, its warps (a warpgroup has 4 x 1), stages, blocks on a multiprocessor. Large tiles first.
TILES: dict[tuple[str, str], tuple[plan.Tile, ...]] = {
    ("gather", "two bytes"): (
        plan.Tile(128, 256, 8, 1, ROW, 4),
        plan.Tile(256, 128, 8, 1, ROW, 4),
        plan.Tile(128, 128, 8, 1, ROW, 3, 2),
        plan.Tile(128, 128, 8, 1, ROW, 6),
        plan.Tile(256, 64, 8, 1, ROW, 4),
        plan.Tile(128, 64, 8, 1, ROW, 4, 2),
        plan.Tile(64, 64, 4, 1, ROW, 4, 3),
    ),
    ("gather", "TF32"): (
        plan.Tile(128, 256, 8, 1, ROW, 4),
        plan.Tile(128, 128, 8, 1, ROW, 3, 2),
        plan.Tile(128, 128, 8, 1, ROW, 6),
        plan.Tile(128, 64, 8, 1, ROW, 4, 2),
        plan.Tile(64, 64, 4, 1, ROW, 4, 3),
    ),
    ("weight", "two bytes"): (
        plan.Tile(128, 256, 8, 1, ROW, 4),
        plan.Tile(256, 128, 8, 1, ROW, 4),
        plan.Tile(128, 128, 8, 1, ROW, 3, 2),
        plan.Tile(64, 256, 4, 1, ROW, 4),
        plan.Tile(64, 128, 4, 1, ROW, 4, 2),
    ),
    ("gather", "TF32X3"): (
        plan.Tile(128, 128, 8, 1, ROW, 4),
        plan.Tile(128, 64, 8, 1, ROW, 4),
        plan.Tile(64, 64, 4, 1, ROW, 4, 2),
    ),
}

for _of in ("two bytes", "TF32"):  # a warpgroup more brings the parts, so one block has all registers
    TILES["tma", _of] = (
        plan.Tile(128, 256, 8, 1, ROW, 4),
        plan.Tile(256, 128, 8, 1, ROW, 4),
        plan.Tile(128, 128, 8, 1, ROW, 6),
        plan.Tile(256, 64, 8, 1, ROW, 5),
        plan.Tile(128, 64, 8, 1, ROW, 8),
    )


def family(kind: str, math: str) -> tuple[str, str]:
    """Under what an arithmetic is found in TILES. wgmma reads floats along k only, so TF32 has no weight gradient;
    small parts of floats do not lie in memory, so 3xTF32 has no "tma"."""
    return kind, "two bytes" if math in ("F16", "BF16") else math


class Instance(plan.Instance):
    """A kernel of hopper_gather.cu or hopper_weight.cu with all its compile-time sizes."""

    @cached_property
    def name(self) -> str:
        return f"hopper_{super().name}"

    @cached_property
    def file(self) -> str:
        return f"hopper_{self.kind}.cu"

    @cached_property
    def source(self) -> str:
        t, s, r = self.tile, self.storage, self.result
        sizes = f"{t.m}, {t.n}, {t.warps_m // 4}, {t.warps_n}, {t.stages}, {self.vector}"
        pointers, names, struct = {
            "gather": (
                f"const {s}* x, const {s}* w, const {r}* bias, {r}* y, const long long apart",
                "x, w, bias, y, apart",
                "Gather",
            ),
            "weight": (f"const {s}* x, const {s}* y, {r}* w", "x, y, w", "Weight"),
        }[self.kind]
        return (
            f'extern "C" __global__ void __launch_bounds__({t.threads}, {t.least_blocks}) {self.name}('
            f"{pointers}, const __grid_constant__ {struct} g) {{\n"
            f"    {self.kind}<{s}, {r}, {self.math}, {sizes}>({names}, g);\n}}\n"
        )

    @property
    def threads(self) -> int:
        return self.tile.threads

    @property
    def copies(self) -> int:
        """Of the weights: 3xTF32 reads their large and their small parts."""
        return 2 if self.math == "TF32X3" else 1

    @cached_property
    def shared(self) -> int:
        t = self.tile
        if self.kind == "gather":
            return t.stages * (t.m + self.copies * t.n) * t.row + t.m * (16 + 4)
        return t.stages * (t.m + t.n) * t.row + 2 * self.depth * 16


class FedInstance(Instance):
    """A kernel of hopper_tma.cu: a gather whose parts the tensor memory accelerator brings."""

    @cached_property
    def name(self) -> str:
        return super().name.replace("gather", "tma")

    @cached_property
    def file(self) -> str:
        return "hopper_tma.cu"

    @cached_property
    def source(self) -> str:
        t, s, r = self.tile, self.storage, self.result
        sizes = f"{t.m}, {t.n}, {t.warps_m // 4}, {t.warps_n}, {t.stages}"
        return (
            f'extern "C" __global__ void __launch_bounds__({self.threads}, 1) {self.name}(const __grid_constant__ '
            f"TensorMap x, const __grid_constant__ TensorMap w, const {r}* bias, {r}* y, "
            f"const __grid_constant__ Gather g) {{\n"
            f"    gather<{s}, {r}, {self.math}, {sizes}>(x, w, bias, y, g);\n}}\n"
        )

    @property
    def threads(self) -> int:
        return self.tile.threads + 128

    @cached_property
    def shared(self) -> int:
        return super().shared + 2 * 8 * self.tile.stages


def instances() -> list[Instance]:
    """Every kernel that `candidates` can name."""
    found = []
    for of in plan.instances():
        if of.tile != plan.tiles(of.kind, of.math, of.storage, of.vector)[0]:  # each arithmetic once
            continue
        sizes = of.kind, of.math, of.storage, of.result
        found += [Instance(*sizes, tile, of.vector) for tile in TILES.get(family(of.kind, of.math), ())]
        if of.kind == "gather" and of.vector == 16:
            found += [FedInstance(*sizes, tile, 16) for tile in TILES.get(family("tma", of.math), ())]
    return found


def planned(task: Problem, tile: plan.Tile, splits: int) -> plan.Plan:
    """The plan of a problem with this tile; its instance is None where a product of tiles does not pay."""
    g, option = task.geometry, plan.Option(tile, splits, 0.0)
    if task.member == "conv_weight":
        return plan.weight(g, task.dtype, task.precision, task.device, option)
    adjoint = task.member == "conv_input"
    return plan.gather(g, adjoint, task.dtype, task.precision, task.device, task.bias, task.relu, option)


def made(p: plan.Plan, fed: bool = False) -> Instance:
    """The kernel that computes a plan; fed: by the tensor memory accelerator."""
    i = p.instance
    assert i is not None
    return (FedInstance if fed else Instance)(i.kind, i.math, i.storage, i.result, i.tile, i.vector)


def candidates(task: Problem) -> Iterator[Candidate]:
    """Candidates for each tile that fits the problem and the device, cut into as many splits as fill the device."""
    from .tuner import Candidate

    if task.device.capability != CAPABILITY:
        return
    math, _ = plan.arithmetic(task.dtype, task.precision)
    kinds = ("weight",) if task.member == "conv_weight" else ("tma", "gather")
    for kind in kinds:
        for tile in TILES.get(family(kind, math), ()):
            p = planned(task, tile, 1)
            if p.instance is None:
                return
            fed = kind == "tma"
            too_large = made(p, fed).shared > task.device.shared
            if too_large or not _used(task.geometry, task.member, tile) or (fed and not _can_be_fed(p)):
                continue
            splits = _splits(task, p, tile)
            words = [
                f"wgmma{' and tma' if fed else ''} {tile.m}x{tile.n} by {tile.threads // 128} warpgroups",
                f"{tile.stages} stages",
                *([f"{splits} splits"] if splits > 1 else []),
            ]
            yield Candidate(", ".join(words), partial(run, task, tile, splits, fed))


def run(task: Problem, tile: plan.Tile, splits: int, fed: bool, *operands: Any) -> None:
    """Computes a problem on the current device: operands (x, w, bias or None, y), or (x, y, w) for conv_weight."""
    p = planned(task, tile, splits)
    (_run_weight if task.member == "conv_weight" else _run_gather)(task, p, made(p, fed), *operands)


def _run_gather(
    task: Problem, p: plan.Plan, kernel: Instance, x: Array, w: Array, bias: Array | None, y: Array
) -> None:
    g, adjoint = task.geometry, task.member == "conv_input"
    name, shape = ("y", g.y_shape) if adjoint else ("x", g.x_shape)
    x = layout.prepared(name, x, shape, y.dtype, kernel.storage, g.groups, p.x_channels)
    parts = launch.empty((p.workspace,), layout.ITEM[kernel.result]) if p.splits > 1 else y
    added = parts if bias is None or p.splits > 1 else bias  # parts: a pointer that is not read
    for one in p.launches:
        assert one.packing is not None
        rows = layout.packed(w, one.packing, kernel.storage)
        if isinstance(kernel, FedInstance):  # which rounds on the way
            arguments, maps = _fed(kernel, one.arguments)
            encoded = (tensor_map.encoded(tensor, of) for tensor, of in zip(maps, (x, rows), strict=True))
            _start(kernel, one.blocks, *encoded, added, parts, arguments)
            continue
        if kernel.storage == "float":
            rows = _rounded(rows, kernel.copies)
        apart = np.int64(rows.size // kernel.copies)
        _start(kernel, one.blocks, x, rows, added, parts, apart, one.arguments)
    if p.splits > 1:
        layout.finish(parts, bias, y, p.splits, task.relu)


def _run_weight(task: Problem, p: plan.Plan, kernel: Instance, x: Array, y: Array, w: Array) -> None:
    g = task.geometry
    x = layout.prepared("x", x, g.x_shape, w.dtype, kernel.storage, g.groups, p.x_channels)
    y = layout.prepared("y", y, g.y_shape, w.dtype, kernel.storage, g.groups, p.y_filters)
    parts = launch.empty((p.workspace,), layout.ITEM[kernel.result])
    for one in p.launches:
        _start(kernel, one.blocks, x, y, parts, one.arguments)
    layout.finish_weight(parts, w, p.x_channels, p.splits)


def _box(g: np.ndarray) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], list[int], tuple[int, ...]]:
    """The bounding box of the input positions that a launch's first tap meets, for an im2col map: its corners, the
    largest offsets of other taps, and the steps; innermost axis first."""
    p = g["phase"][0]
    corners, offsets = [], []
    for axis in (2, 1, 0):
        reach = int((p["taps"][axis] - 1) * g["dilation"][axis])
        lower = int(p["origin"][axis]) + min(reach, 0)
        last = lower + int((p["size"][axis] - 1) * g["stride"][axis])
        corners.append((lower, last + 1 - int(g["input"][axis])))
        offsets.append(abs(reach))
    lower_corner, upper_corner = zip(*corners, strict=True)
    return (lower_corner, upper_corner), offsets, tuple(int(s) for s in g["stride"][::-1])


def _can_be_fed(p: plan.Plan) -> bool:
    """Whether two tensor maps say what a plan reads: one group, one phase, whole vectors, small kernels."""
    i, g = p.instance, p.launches[0].arguments
    assert i is not None
    if len(p.launches) > 1 or g["groups"] > 1 or g["phases"] > 1 or i.vector != 16 or not g["phase"][0]["taps"].all():
        return False
    corners, offsets, steps = _box(g)
    return tensor_map.fits(corners, offsets, steps, i.tile.m)


def _fed(kernel: FedInstance, g: np.ndarray) -> tuple[np.ndarray, tuple[tensor_map.Tensor, tensor_map.Tensor]]:
    """The launch's arguments, its splits cut along taps and pieces of 128 bytes of channels; the maps of x and w."""
    p, size, tile = g["phase"][0], plan.SIZES[kernel.storage], kernel.tile
    channels, taps, filters = int(g["channels"]), prod(map(int, p["taps"])), int(g["filters"])
    arguments = g.copy()
    arguments["slice"] = -(-taps * -(-channels // kernel.depth) // int(g["splits"]))
    corners, _, steps = _box(g)
    sizes = (channels, *(int(n) for n in g["input"][::-1]), int(g["batch"]))
    strides = tuple(prod(sizes[: axis + 1]) * size for axis in range(4))
    x = tensor_map.Tensor(kernel.storage, sizes, strides, (kernel.depth, tile.m), corners, steps)
    pitches = (channels * size, int(p["pitch"]) * size)
    w = tensor_map.Tensor(kernel.storage, (channels, taps, filters), pitches, (kernel.depth, 1, tile.n))
    return arguments, (x, w)


def _used(g: Any, member: str, tile: plan.Tile) -> bool:
    """Whether more than half of the tile's rows and columns are of use; the smallest always may be tried."""
    taps, outputs, inputs = prod(g.kernel), g.batch * prod(g.output), g.batch * prod(g.input)
    channels, filters = g.in_channels // g.groups, g.out_channels // g.groups
    rows, columns = {
        "conv": (outputs, filters),
        "conv_input": (-(-inputs // prod(g.stride)), channels),
        "conv_weight": (filters, taps * channels),
    }[member]
    return (tile.m == 64 or rows > tile.m // 2) and (tile.n == 64 or columns > tile.n // 2)


def _splits(task: Problem, p: plan.Plan, tile: plan.Tile) -> int:
    """So many that the device has a block wherever there is room for one, with LEAST_STEPS or more each; p has one."""
    g, i = task.geometry, p.instance
    assert i is not None
    if task.member == "conv_weight":
        steps, elements = int(p.launches[0].arguments["slice"]) // i.depth, p.workspace
        least = -(-g.batch * prod(g.output) // plan.LONGEST_SUM)
        most = plan.MOST_BLOCKS // g.groups
    else:
        steps = max(int(one.arguments["slice"]) for one in p.launches)
        elements, least = prod(g.x_shape if task.member == "conv_input" else g.y_shape), 1
        most = plan.MOST_BLOCKS // (plan.PHASES * g.groups)
    room = task.device.processors * tile.least_blocks // max(1, sum(prod(one.blocks) for one in p.launches))
    limit = min(most, plan.LARGEST_WORKSPACE // max(1, 4 * elements))
    count = max(1, min(max(least, min(room, plan.MOST_SPLITS)), steps // plan.LEAST_STEPS, limit))
    return max(1, -(-steps // -(-steps // count)))  # none is left without steps


def _rounded(rows: Array, copies: int) -> Array:
    """Packed weights as the kernels read them: rounded to TF32, `copies` of them (hopper_weights.cu)."""
    out = launch.empty((copies * rows.size,), np.float32)
    (blocks,), block = launch.plan(rows.size)
    function = launch.load("hopper_weights.cu", "round_kernel", (), _device())
    function((blocks,), block, (rows, out, np.int64(rows.size), np.int32(copies)))
    return out


def _start(kernel: Instance, blocks: tuple[int, int, int], *arguments: Any) -> None:
    """One launch, on the current device and its current stream."""
    function = launch.load(kernel.file, kernel.name, OPTIONS, _device(), kernel.source, kernel.shared)
    function(blocks, (kernel.threads,), arguments, shared_mem=kernel.shared)


def _device() -> int:
    import cupy

    return cupy.cuda.runtime.getDevice()
