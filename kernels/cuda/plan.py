"""How a convolution is computed on a CUDA device, decided by pure functions: sizes in, a plan out.

A plan says which kernel (its compile-time sizes are an `Instance`), how many blocks of how many threads, how much
shared memory and workspace, and holds the kernel's arguments. Nothing here needs CuPy or a device.

The choice rests on a model of the device: how fast a multiprocessor multiplies, reads shared memory, and is fed. The
model was made from published rates, not from measurements; tuner.py measures `options` and may choose another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import gcd, prod

import numpy as np

from ..geometry import ConvGeometry
from .launch import INT_LIMIT, STORAGE, fold

LOWEST = 80  # compute capability from which on there are cp.async and mma on TF32 and bfloat16; below: direct kernels
TINY = 2**16  # multiply-adds up to which the direct kernel is used: it needs no other order of weights or inputs
PHASES = 27  # of struct Gather: those of stride 3 on three axes
MOST_PHASES = 1024  # of a convolution; each launch has PHASES of them
MOST_BLOCKS = 2**16 - 1  # on the grid's third axis
LEAST_STEPS = 8  # of a split: fewer are not worth the second pass over the result
MOST_SPLITS = 64
SPLITS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64)  # that are considered
LONGEST_SUM = 2**14  # positions that one split of a weight's gradient adds up: rounding errors grow with them
LARGEST_WORKSPACE = 2**28  # bytes of the sums of all splits
SIZES = {"float": 4, "double": 8, "Half": 2, "Bfloat16": 2}

# The model: what one multiprocessor of compute capability 9.0 does in a cycle; elsewhere the relations are alike.
# Multiply-adds with fused ones, and with mma.sync (which reaches 0.62 of what wgmma does)
MULTIPLY_ADDS = {"FMA float": 110, "FMA double": 55, "TF32": 640, "TF32X3": 180, "F16": 1280, "BF16": 1280}
SHARED_BYTES = 128  # read from or written to shared memory
CACHE_BYTES = 24  # from the second-level cache
MEMORY_BYTES = 12  # from or to the device's memory
FIRST = 1500  # cycles until the first parts of a block are there
FINISH = 4000  # cycles of one more kernel, which adds the splits
CLOCK = 1.7e9  # cycles in a second


@dataclass(frozen=True)
class Device:
    """What a plan depends on: compute capability (90 is 9.0), multiprocessors, and the bytes of shared memory that a
    block may have."""

    capability: int = 90
    processors: int = 132
    shared: int = 227 * 1024


@dataclass(frozen=True)
class Tile:
    """m x n elements of the product by one block of warps_m x warps_n warps. In shared memory a row of `row` bytes of k
    (64 or 128) is one step, `stages` steps are there at a time. least_blocks on one multiprocessor limit the registers.
    """

    m: int
    n: int
    warps_m: int
    warps_n: int
    row: int
    stages: int
    least_blocks: int = 1

    @property
    def threads(self) -> int:
        return 32 * self.warps_m * self.warps_n


# By the kernel and its arithmetic, larger ones first: a large tile reads each factor less often.
TILES: dict[tuple[str, str], tuple[Tile, ...]] = {
    ("gather", "FMA float"): (
        Tile(128, 128, 4, 2, 64, 4, 2),
        Tile(128, 64, 4, 1, 64, 4, 2),
        Tile(64, 64, 2, 2, 64, 4, 3),
        Tile(128, 16, 4, 1, 64, 4, 3),
    ),
    ("gather", "FMA double"): (Tile(64, 64, 2, 2, 64, 4), Tile(64, 16, 2, 1, 64, 4)),
    ("gather", "tensor"): (  # warps of 64 x 64 read shared memory least often for what they multiply
        Tile(256, 128, 4, 2, 64, 4),
        Tile(128, 256, 2, 4, 64, 4),
        Tile(128, 128, 2, 2, 64, 4, 2),
        Tile(256, 64, 4, 1, 64, 4, 2),
        Tile(128, 128, 2, 4, 64, 4, 2),
        Tile(128, 64, 4, 2, 128, 3, 2),
        Tile(64, 64, 2, 2, 128, 3, 3),
        Tile(128, 16, 4, 1, 128, 3, 3),
    ),
    ("weight", "FMA float"): (
        Tile(128, 128, 4, 2, 64, 3, 2),
        Tile(64, 128, 2, 2, 64, 3, 2),
        Tile(16, 128, 1, 4, 64, 3, 3),
    ),
    ("weight", "FMA double"): (Tile(64, 64, 2, 2, 64, 3), Tile(16, 64, 1, 2, 64, 3)),
    ("weight", "tensor"): (
        Tile(128, 256, 2, 4, 64, 4),
        Tile(256, 128, 4, 2, 64, 4),
        Tile(128, 128, 2, 2, 64, 4, 2),
        Tile(64, 256, 1, 4, 64, 4, 2),
        Tile(128, 128, 2, 4, 64, 4, 2),
        Tile(64, 128, 2, 2, 64, 4, 2),
        Tile(16, 128, 1, 4, 64, 4, 3),
    ),
}
for _kind in ("gather", "weight"):  # 3xTF32 has twice the fragments: smaller warps, and one block has all registers
    TILES[_kind, "TF32X3"] = (Tile(128, 128, 2, 4, 64, 4), *TILES[_kind, "tensor"][5:])


def family(math: str, storage: str) -> str:
    """Under what an arithmetic is found in TILES."""
    return f"FMA {storage}" if math == "FMA" else "TF32X3" if math == "TF32X3" else "tensor"


NO_TILE = Tile(0, 0, 0, 0, 0, 0)  # of an instance before the choice


@dataclass(frozen=True)
class Instance:
    """A kernel of conv_gather.cu or conv_weight.cu with all its compile-time sizes.

    storage: what x, w and y are read as; result: what is written, both as the .cu files call them. vector: bytes of one
    asynchronous copy of x.
    """

    kind: str  # gather or weight
    math: str  # FMA, TF32, TF32X3, F16 or BF16
    storage: str
    result: str
    tile: Tile
    vector: int

    @cached_property
    def name(self) -> str:
        t = self.tile
        sizes = f"{t.m}x{t.n}_{t.warps_m}x{t.warps_n}_{t.row}x{t.stages}_{self.vector}"
        return f"{self.kind}_{self.math}_{self.storage}_{self.result}_{sizes}".lower()

    @cached_property
    def file(self) -> str:
        return f"conv_{self.kind}.cu"

    @cached_property
    def source(self) -> str:
        """The kernel as text, to stand behind its file."""
        t, s, r = self.tile, self.storage, self.result
        sizes = f"{t.m}, {t.n}, {t.warps_m}, {t.warps_n}, {t.row}, {t.stages}, {self.vector}"
        pointers, names, struct = {
            "gather": (f"const {s}* x, const {s}* w, const {r}* bias, {r}* y", "x, w, bias, y", "Gather"),
            "weight": (f"const {s}* x, const {s}* y, {r}* w", "x, y, w", "Weight"),
        }[self.kind]
        return (
            f'extern "C" __global__ void __launch_bounds__({t.threads}, {t.least_blocks}) {self.name}('
            f"{pointers}, const __grid_constant__ {struct} g) {{\n"
            f"    {self.kind}<{s}, {r}, {self.math}, {sizes}>({names}, g);\n}}\n"
        )

    @cached_property
    def depth(self) -> int:
        """Elements of k in one step."""
        return self.tile.row // SIZES[self.storage]

    @cached_property
    def shared(self) -> int:
        """Bytes of shared memory."""
        t, size = self.tile, SIZES[self.storage]
        if self.kind == "gather":
            return t.stages * (t.m + t.n) * t.row + t.m * (16 + 4)
        pad = 32 if self.math in ("TF32", "TF32X3") else 16
        return t.stages * self.depth * ((t.m + t.n) * size + 2 * pad) + 2 * self.depth * 16


def text(instance: Instance) -> str:
    """What stands behind the instance's file when it is compiled."""
    return instance.source


def _ints(*names: str) -> list[tuple]:
    return [(name, np.int32) for name in names]


def _triples(*names: str) -> list[tuple]:
    return [(name, np.int32, 3) for name in names]


# the structs of the .cu files, field by field; ints only, so there is no padding between them
PHASE = np.dtype([*_triples("size", "first", "origin", "taps"), *_ints("weights", "pitch")])
GATHER = np.dtype(
    [
        *_ints("batch", "groups", "phases", "splits", "channels", "filters", "x_pitch", "y_pitch", "slice"),
        *_ints("has_bias", "relu"),
        *_triples("input", "output", "stride", "dilation", "step"),
        ("phase", PHASE, PHASES),
    ]
)
WEIGHT = np.dtype(
    [
        *_ints("batch", "groups", "splits", "channels", "filters", "x_pitch", "y_pitch", "y_filters", "slice"),
        *_triples("input", "output", "kernel", "stride", "padding", "dilation"),
    ]
)
PACKED_PHASE = np.dtype([*_ints("begin", "pitch"), *_triples("taps", "first_tap")])
PACKED = np.dtype(
    [
        *_ints("elements", "phases", "rows", "channels", "padded", "row_stride", "channel_stride", "group_stride"),
        *_triples("kernel", "tap_step"),
        ("phase", PACKED_PHASE, PHASES),
    ]
)


def packed(kind: np.dtype, fields: dict) -> np.ndarray:
    """A struct as a 0-d array, to be passed by value."""
    array = np.zeros((), kind)
    for name in kind.names or ():
        value = fields[name]
        if name == "phase":
            for i, phase in enumerate(value):
                array[name][i] = tuple(phase[field] for field in kind[name].base.names or ())
        else:
            array[name] = value
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Launch:
    """One launch of a plan: `arguments` of the product, `packing` of its weights (gather only), the grid's `blocks`."""

    arguments: np.ndarray
    blocks: tuple[int, int, int]
    packing: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """How to compute one member of the convolution family; instance is None for the direct kernel.

    x_channels and y_filters: channels of a group as the product reads them, filled up with zeros. workspace: elements
    of the sums of all splits, 0 where the product writes the result itself.
    """

    instance: Instance | None = None
    x_channels: int = 0
    y_filters: int = 0
    splits: int = 1
    workspace: int = 0
    launches: tuple[Launch, ...] = ()


DIRECT = Plan()


def arithmetic(dtype: str, precision: str) -> tuple[str, str]:
    """(what mma computes in, what it reads) for the dtype of the arrays and `float32_matmul_precision`."""
    if dtype == "float32":
        by_precision = {"highest": "FMA", "tf32x3": "TF32X3", "high": "TF32", "medium": "BF16"}
        math = by_precision[precision]
        return math, "Bfloat16" if math == "BF16" else "float"
    return {"float64": ("FMA", "double"), "float16": ("F16", "Half"), "bfloat16": ("BF16", "Bfloat16")}[dtype]


def vectors(channels: int, size: int) -> tuple[int, int]:
    """(channels of a group filled up, bytes of one asynchronous copy) for elements of `size` bytes.

    A copy of 16 bytes stays at one tap: channels are filled up to a multiple of 16 bytes. Up to four channels (the
    first layer) would then be mostly filling; they are copied in pieces of 4 or 8 bytes, so that k, which is taps x
    channels, stays dense.
    """
    if channels > 4 or channels * size % 16 == 0:
        return _whole(channels, size), 16
    filled = max(channels, 4 // size) if channels != 3 or size >= 4 else 4
    piece = next(p for p in (8, 4) if p >= size and filled * size % p == 0)
    return filled, piece


def phases(g: ConvGeometry) -> tuple[list[dict], tuple[int, ...], tuple[int, ...]]:
    """The adjoint of g in x as convolutions of y with stride 1, one for each residue of the input position.

    Returns the phases (size, first, origin, taps, first_tap; see conv_gather.cu), and for each axis from which tap to
    which they go and by how many outputs that moves them (the dilation, negative).
    """
    f = fold(g)
    axes, tap_step, dilation = [], [], []
    for n, k, s, p, d in zip(f["input"], f["kernel"], f["stride"], f["padding"], f["dilation"], strict=True):
        step = s // gcd(s, d)
        axis = []
        for first in range(min(s, n)):
            met = [t for t in range(k) if (first + p - t * d) % s == 0]
            tap = met[0] if met else 0
            origin = (first + p - tap * d) // s if met else 0
            axis.append((-(-(n - first) // s), first, origin, len(met), tap))
        axes.append(axis)
        tap_step.append(step)
        dilation.append(-(d // gcd(s, d)))
    names = ("size", "first", "origin", "taps", "first_tap")
    found = [dict(zip(names, zip(*combined, strict=True), strict=True)) for combined in product(*axes)]
    return found, tuple(tap_step), tuple(dilation)


def tiles(kind: str, math: str, storage: str, vector: int) -> tuple[Tile, ...]:
    """The tiles to choose from. Where x is copied in small pieces (few channels) one is enough, with all registers."""
    every = TILES[kind, family(math, storage)]
    if vector == 16:
        return every
    return (replace(next(t for t in every if t.m * t.n <= 128 * 64), least_blocks=1),)


@dataclass(frozen=True)
class Option:
    """One way to compute a product: its tile, how many splits, and the cycles that the model expects it to take."""

    tile: Tile
    splits: int
    cycles: float

    @property
    def name(self) -> str:
        t = self.tile
        split = f", {self.splits} splits" if self.splits > 1 else ""
        return f"{t.m}x{t.n} by {t.warps_m}x{t.warps_n} warps, {t.stages} stages of {t.row} bytes{split}"


@dataclass(frozen=True)
class _Product:
    """What is to be multiplied, before a tile is chosen: products of these `sizes` (rows, columns), each `repeats`
    times, along a k of `depth` elements. `least` to `limit` splits; `elements` of the result, which with the factors
    is `traffic` bytes."""

    instance: Instance
    sizes: tuple[tuple[int, int], ...]
    repeats: int
    depth: int
    least: int
    limit: int
    elements: int
    traffic: int

    def steps(self, tile: Tile) -> int:
        return -(-self.depth // replace(self.instance, tile=tile).depth)

    def options(self, device: Device) -> list[Option]:
        """All that the device can run, the best first. Splits have LEAST_STEPS or more each, and none is without."""
        found = []
        i = self.instance
        for tile in tiles(i.kind, i.math, i.storage, i.vector):
            if replace(i, tile=tile).shared > device.shared:
                continue
            steps = self.steps(tile)
            counts = set()
            for asked in SPLITS:
                count = max(1, min(max(self.least, min(asked, MOST_SPLITS)), steps // LEAST_STEPS, self.limit))
                counts.add(max(1, -(-steps // max(1, -(-steps // count)))))
            found += [Option(tile, count, self.cycles(tile, count, device)) for count in sorted(counts)]
        return sorted(found, key=lambda option: option.cycles)

    def cycles(self, tile: Tile, splits: int, device: Device) -> float:
        """What a multiprocessor with the most blocks needs, and the memory: the shorter hides behind the longer, but
        not wholly.

        A step lasts as long as the slowest of: multiplying; reading fragments and writing parts of shared memory; the
        second-level cache. Few warps do not keep a multiprocessor busy; several blocks hide each other's first and last
        moments.
        """
        made = replace(self.instance, tile=tile)
        m, n, size = tile.m, tile.n, SIZES[made.storage]
        blocks = self.repeats * splits * sum(-(-rows // m) * -(-columns // n) for rows, columns in self.sizes)
        most = -(-blocks // device.processors)
        resident = max(1, min(tile.least_blocks, most))
        warps = resident * tile.threads / 32
        rate = MULTIPLY_ADDS[made.math if made.math != "FMA" else f"FMA {made.storage}"]
        if made.math == "FMA":  # 4 x 8 lanes: pieces of 16 bytes that a warp reads in one go
            fragments = (m // tile.warps_m // 4 + n // tile.warps_n // 8) * tile.row // 16 * SHARED_BYTES
        else:
            fragments = (m // tile.warps_m + n // tile.warps_n) * tile.row
        step = max(
            m * n * made.depth / rate,
            (tile.warps_m * tile.warps_n * fragments + (m + n) * tile.row) / SHARED_BYTES,
            (m + n) * tile.row / CACHE_BYTES,
        )
        steps = -(-self.steps(tile) // splits)
        alone = (FIRST + m * n * max(size, 4) / MEMORY_BYTES) / resident
        computing = most * (steps * step * (1 + 2 / warps) + alone)
        written = 2 * splits * self.elements * SIZES[made.result] if splits > 1 else 0
        memory = device.processors * MEMORY_BYTES
        finishing = FINISH + written / memory if splits > 1 else 0
        shorter, longer = sorted((computing, self.traffic / memory))
        return longer + shorter / 4 + finishing


def _pays(g: ConvGeometry, device: Device, largest: int) -> bool:
    """Whether a product of tiles is possible and worth it; `largest` is the largest number its indices count to."""
    return device.capability >= LOWEST and g.multiply_adds > TINY and largest < INT_LIMIT - 2**16


def _whole(elements: int, size: int) -> int:
    """The number of elements filled up to a multiple of 16 bytes."""
    return -(-elements * size // 16) * 16 // size


def _sides(g: ConvGeometry, adjoint: bool) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
    """Of conv, or of its adjoint: rows of the packed weights and channels of what is read, of a group; sizes of what is
    read and of the result."""
    f = fold(g)
    rows, channels = g.out_channels // g.groups, g.in_channels // g.groups
    if adjoint:
        return channels, rows, f["output"], f["input"]
    return rows, channels, f["input"], f["output"]


def _gather_product(g: ConvGeometry, adjoint: bool, dtype: str, precision: str, device: Device) -> _Product | None:
    """conv, or its adjoint in x, as a product of tiles; None where that is impossible or does not pay."""
    math, storage = arithmetic(dtype, precision)
    rows, channels, source, target = _sides(g, adjoint)
    filled, vector = vectors(channels, SIZES[storage])
    taps = prod(g.kernel)
    narrow = g.groups > 1 and rows < 8  # hardly any column of a tile would be used
    largest = max(g.batch * prod(source), g.batch * prod(target), g.groups * rows * (taps * filled + 16 * taps))
    many = adjoint and prod(g.stride) > MOST_PHASES
    if not _pays(g, device, largest) or narrow or many or g.groups * PHASES > MOST_BLOCKS:
        return None
    parts = phases(g)[0] if adjoint else [{"size": target, "taps": g.kernel}]
    elements = g.batch * prod(target) * rows * g.groups
    item = SIZES["double" if dtype == "float64" else "float"]
    read = g.batch * prod(source) * filled + rows * taps * filled
    return _Product(
        Instance("gather", math, storage, STORAGE[dtype], NO_TILE, vector),
        tuple((g.batch * prod(p["size"]), rows) for p in parts),
        g.groups,
        max(prod(p["taps"]) for p in parts) * filled,
        1,
        min(MOST_BLOCKS // (PHASES * g.groups), LARGEST_WORKSPACE // (elements * item)),
        elements,
        g.groups * read * SIZES[storage] + elements * SIZES[STORAGE[dtype]],
    )


def _weight_product(g: ConvGeometry, dtype: str, precision: str, device: Device) -> _Product | None:
    """conv_weight as a product of tiles; None where that is impossible or does not pay."""
    math, storage = arithmetic(dtype, precision)
    size = SIZES[storage]
    filters = g.out_channels // g.groups
    channels, vector = vectors(g.in_channels // g.groups, size)
    columns, positions = prod(g.kernel) * channels, g.batch * prod(g.output)
    if not _pays(g, device, max(positions, g.batch * prod(g.input), columns)) or g.groups > MOST_BLOCKS:
        return None
    sums = "double" if dtype == "float64" else "float"
    elements = g.groups * filters * columns
    return _Product(
        Instance("weight", math, storage, sums, NO_TILE, vector),
        ((filters, columns),),
        g.groups,
        positions,
        -(-positions // LONGEST_SUM),
        min(MOST_BLOCKS // g.groups, LARGEST_WORKSPACE // (elements * SIZES[sums])),
        elements,
        g.groups * size * (g.batch * prod(g.input) * channels + positions * filters) + elements * SIZES[sums],
    )


def options(member: str, g: ConvGeometry, dtype: str, precision: str, device: Device) -> list[Option]:
    """The products of tiles that compute conv, conv_input or conv_weight, the one that should be fastest first; none
    where there is only the direct sum."""
    if member == "conv_weight":
        product = _weight_product(g, dtype, precision, device)
    else:
        product = _gather_product(g, member == "conv_input", dtype, precision, device)
    return [] if product is None else product.options(device)


@lru_cache(maxsize=4096)
def gather(
    g: ConvGeometry, adjoint: bool, dtype: str, precision: str, device: Device, bias: bool = False, relu: bool = False,
    option: Option | None = None,
) -> Plan:  # fmt: skip
    """The plan of conv (or, adjoint, of conv_input) for arrays of this dtype, then bias and ReLU if asked. option: one
    of `options`; None: the first."""
    product = _gather_product(g, adjoint, dtype, precision, device)
    if product is None:
        return DIRECT
    option = option or product.options(device)[0]
    f = fold(g)
    rows, channels, source, target = _sides(g, adjoint)
    storage = product.instance.storage
    size = SIZES[storage]
    filled, _ = vectors(channels, size)
    taps = prod(f["kernel"])

    if adjoint:
        parts, tap_step, dilation = phases(g)
        stride, step = (1, 1, 1), f["stride"]
    else:
        origin = tuple(-p for p in f["padding"])
        parts = [{"size": target, "first": (0,) * 3, "origin": origin, "taps": f["kernel"], "first_tap": (0,) * 3}]
        tap_step, dilation, stride, step = (1, 1, 1), f["dilation"], f["stride"], (1, 1, 1)

    instance, splits, elements = replace(product.instance, tile=option.tile), option.splits, product.elements
    if splits > 1:  # parts are written as they were summed, finish_kernel does the rest
        instance = replace(instance, result="double" if dtype == "float64" else "float")
        bias = relu = False
    common = {
        "batch": g.batch, "groups": g.groups, "splits": splits,
        "slice": max(1, -(-product.steps(option.tile) // splits)),
        "channels": filled, "filters": rows, "x_pitch": g.groups * filled, "y_pitch": g.groups * rows,
        "input": source, "output": target, "stride": stride, "dilation": dilation, "step": step,
        "has_bias": bias, "relu": relu,
    }  # fmt: skip
    filter_size = taps * g.in_channels // g.groups  # of w, which is (F, C / groups, taps)
    packing = {
        "rows": rows, "channels": channels, "padded": filled, "kernel": f["kernel"], "tap_step": tap_step,
        "row_stride": taps if adjoint else filter_size, "channel_stride": filter_size if adjoint else taps,
        "group_stride": g.out_channels // g.groups * filter_size,
    }  # fmt: skip
    launches = []
    for begin in range(0, len(parts), PHASES):
        some, place = [], 0
        for part in parts[begin : begin + PHASES]:
            pitch = _whole(prod(part["taps"]) * filled, size)
            some.append({**part, "weights": place, "begin": place, "pitch": pitch})
            place += g.groups * rows * pitch
        tile = instance.tile
        tiles = max(-(-g.batch * prod(part["size"]) // tile.m) for part in some) * -(-rows // tile.n)
        launches.append(
            Launch(
                packed(GATHER, {**common, "phases": len(some), "phase": some}),
                (tiles, 1, len(some) * g.groups * splits),
                packed(PACKED, {**packing, "phases": len(some), "phase": some, "elements": place}),
            )
        )
    return Plan(instance, filled, rows, splits, splits * elements if splits > 1 else 0, tuple(launches))


@lru_cache(maxsize=4096)
def weight(g: ConvGeometry, dtype: str, precision: str, device: Device, option: Option | None = None) -> Plan:
    """The plan of conv_weight for arrays of this dtype. option: one of `options`; None: the first."""
    product = _weight_product(g, dtype, precision, device)
    if product is None:
        return DIRECT
    option = option or product.options(device)[0]
    f = fold(g)
    instance, splits = replace(product.instance, tile=option.tile), option.splits
    filters, size = g.out_channels // g.groups, SIZES[instance.storage]
    channels, _ = vectors(g.in_channels // g.groups, size)
    columns, y_filters = prod(f["kernel"]) * channels, _whole(filters, size)
    arguments = {
        "batch": g.batch, "groups": g.groups, "splits": splits, "channels": channels, "filters": filters,
        "x_pitch": g.groups * channels, "y_pitch": g.groups * y_filters, "y_filters": y_filters,
        "slice": -(-product.steps(option.tile) // splits) * instance.depth,
        **{name: f[name] for name in ("input", "output", "kernel", "stride", "padding", "dilation")},
    }  # fmt: skip
    grid = (-(-filters // instance.tile.m) * -(-columns // instance.tile.n), 1, g.groups * splits)
    launches = (Launch(packed(WEIGHT, arguments), grid),)
    return Plan(instance, channels, y_filters, splits, splits * product.elements, launches)


def instances() -> list[Instance]:
    """Every kernel that `gather` and `weight` can choose."""
    found = []
    for kind, found_under in TILES:
        for math, storage, result in (
            ("FMA", "float", "float"), ("FMA", "double", "double"), ("TF32", "float", "float"),
            ("TF32X3", "float", "float"), ("F16", "Half", "Half"), ("F16", "Half", "float"),
            ("BF16", "Bfloat16", "Bfloat16"), ("BF16", "Bfloat16", "float"),
        ):  # fmt: skip
            if family(math, storage) != found_under:
                continue
            if kind == "weight" and result not in ("float", "double"):
                continue
            for piece in sorted({vectors(c, SIZES[storage])[1] for c in range(1, 17)}):
                choices = tiles(kind, math, storage, piece)
                found += [Instance(kind, math, storage, result, tile, piece) for tile in choices]
    return found
