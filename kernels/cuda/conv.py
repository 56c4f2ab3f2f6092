"""The convolution family on CuPy arrays: one to three spatial axes; float32, float64, float16 and bfloat16.

A product of matrices computes it (conv_gather.cu, conv_weight.cu) or, where that does not pay, the direct sum
(conv.cu). plan.py chooses which by a model, and tuner.py by measuring, where that is allowed. Results are (N, C, *S)
with the channels innermost in memory (weights: C-contiguous), and bitwise reproducible on a device. Inputs that lie the
same way are read as they are, others are copied by one kernel. float16 and bfloat16 are summed in float32;
`set_float32_matmul_precision` says how float32 is multiplied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import numpy as np

from ..arrays import Array
from ..geometry import ConvGeometry
from ..precision import float32_products
from . import hopper, launch, layout, plan, tuner

LARGEST_DIRECT = 2**24  # multiply-adds up to which the direct sum is tried beside products of tiles


def conv(x: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (K, C/G, *k) -> (N, K, *O)"""
    return _gather("conv", x, w, None, False, geometry, False)


def conv_input(y: Array, w: Array, *, geometry: ConvGeometry) -> Array:
    """(N, K, *O) * (K, C/G, *k) -> (N, C, *I), the adjoint of conv in x: the transposed convolution"""
    return _gather("conv_input", y, w, None, False, geometry, True)


def conv_bias(x: Array, w: Array, b: Array, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """conv(x, w) + b, or if `transposed` conv_input(x, w) + b; b: one number for each channel of the result"""
    return _gather("conv_bias", x, w, b, False, geometry, transposed)


def conv_relu(x: Array, w: Array, b: Array | None, *, geometry: ConvGeometry, transposed: bool) -> Array:
    """relu(conv_bias(x, w, b)); b may be None"""
    return _gather("conv_relu", x, w, b, True, geometry, transposed)


def conv_weight(x: Array, y: Array, *, geometry: ConvGeometry) -> Array:
    """(N, C, *I) * (N, K, *O) -> (K, C/G, *k), the adjoint of conv in w"""
    g = geometry
    with launch.device_of("conv_weight", x=x, y=y) as device:
        dtype = launch.common_type("conv_weight", x, y, among=launch.STORAGE)
        _check_shape("x", x, g.x_shape)
        _check_shape("y", y, g.y_shape)
        w = launch.empty(g.w_shape, dtype)
        _solve(problem("conv_weight", g, dtype, False, False, device.id), device.id, x, y, w)
    return w


def _gather(operation: str, x: Array, w: Array, b: Array | None, relu: bool, g: ConvGeometry, adjoint: bool) -> Array:
    """conv, or its adjoint in x, then bias and ReLU."""
    member, name = ("conv_input", "y") if adjoint else ("conv", "x")
    shape, result = (g.y_shape, g.x_shape) if adjoint else (g.x_shape, g.y_shape)
    arrays = {name: x, "w": w} if b is None else {name: x, "w": w, "b": b}
    with launch.device_of(operation, **arrays) as device:
        dtype = launch.common_type(operation, *arrays.values(), among=launch.STORAGE)
        _check_shape(name, x, shape)
        w = launch.operand("w", w, g.w_shape, dtype)
        b = None if b is None else launch.operand("b", b, result[1:2], dtype)
        y = launch.empty_channels_last(result, dtype)
        _solve(problem(member, g, dtype, b is not None, relu, device.id), device.id, x, w, b, y)
    return y


def _check_shape(name: str, x: Array, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"{name} has shape {x.shape}, its geometry says {shape}")


def problem(member: str, g: ConvGeometry, dtype: np.dtype, bias: bool, relu: bool, device: int) -> tuner.Problem:
    """What the tuner knows a call by: at the precision that counts now, on the device of this number."""
    precision = float32_products() if dtype == np.float32 else "highest"
    return tuner.Problem(member, g, dtype.name, precision, bias, relu, _kind(*launch.properties(device)))


_kind = cache(plan.Device)  # there are few; making one takes as long as everything else here


def _solve(task: tuner.Problem, device: int, *operands: Any) -> None:
    """The last operand is the result; where it is empty there is nothing to choose."""
    *given, out = operands
    chosen = tuner.choose(task, candidates, device, tuple(given), out) if out.size else next(candidates(task))
    chosen.run(*operands)


def candidates(task: tuner.Problem) -> Iterator[tuner.Candidate]:
    """The ways to solve a problem; the plan's first. Those of hopper.py are chosen by measuring only."""
    options = plan.options(task.member, task.geometry, task.dtype, task.precision, task.device)
    yield tuner.Candidate(options[0].name if options else "direct", partial(_run, task, None))
    if not options:
        return
    if task.geometry.multiply_adds <= LARGEST_DIRECT:
        yield tuner.Candidate("direct", partial(direct, task))
    tiles = Counter([options[0].tile])
    for option in options[1:]:
        if option.cycles > tuner.SLOWEST * options[0].cycles or tiles.total() == tuner.MOST:
            break
        if tiles[option.tile] < tuner.OF_A_TILE:
            tiles[option.tile] += 1
            yield tuner.Candidate(option.name, partial(_run, task, option))
    yield from hopper.candidates(task)


def planned(task: tuner.Problem, option: plan.Option | None = None) -> plan.Plan:
    """How the problem is solved by one of the plan's options; None: by the first."""
    if task.member == "conv_weight":
        return plan.weight(task.geometry, task.dtype, task.precision, task.device, option)
    adjoint = task.member == "conv_input"
    return plan.gather(
        task.geometry, adjoint, task.dtype, task.precision, task.device, task.bias, task.relu, option
    )  # fmt: skip


def _run(task: tuner.Problem, option: plan.Option | None, *operands: Any) -> None:
    """A product of tiles as planned, or the direct sum if the plan says so."""
    p = planned(task, option)
    if p.instance is None:
        direct(task, *operands)
    elif task.member == "conv_weight":
        _weight_product(task, p, p.instance, *operands)
    else:
        _gather_product(task, p, p.instance, *operands)


def direct(task: tuner.Problem, x: Array, second: Array, *rest: Array | None) -> None:
    """The sum as it is defined: (x, w, b, y), or (x, y, w) for the weight's gradient."""
    g, dtype, out = task.geometry, second.dtype, rest[-1]
    assert out is not None
    if task.member == "conv_weight":
        x = launch.channels_last("x", x, g.x_shape, out.dtype)
        y = launch.channels_last("y", second, g.y_shape, out.dtype)
        launch.run("conv.cu", "conv_weight_kernel", out.dtype, out.size, x, y, out, launch.struct(g))
        return
    bias, adjoint = rest[0], task.member == "conv_input"
    x = launch.channels_last("y" if adjoint else "x", x, g.y_shape if adjoint else g.x_shape, dtype)
    kernel = "conv_input_kernel" if adjoint else "conv_kernel"
    arrays = (x, second, out if bias is None else bias, out)
    launch.run(
        "conv.cu", kernel, dtype, out.size, *arrays, launch.struct(g), np.int32(task.bias), np.int32(task.relu)
    )  # fmt: skip


def _weight_product(task: tuner.Problem, p: plan.Plan, made: plan.Instance, x: Array, y: Array, w: Array) -> None:
    g = task.geometry
    x = layout.prepared("x", x, g.x_shape, w.dtype, made.storage, g.groups, p.x_channels)
    y = layout.prepared("y", y, g.y_shape, w.dtype, made.storage, g.groups, p.y_filters)
    parts = launch.empty((p.workspace,), layout.ITEM[made.result])
    for one in p.launches:
        _start(made, one.blocks, x, y, parts, one.arguments)
    layout.finish_weight(parts, w, p.x_channels, p.splits)


def _gather_product(
    task: tuner.Problem, p: plan.Plan, made: plan.Instance, x: Array, w: Array, b: Array | None, y: Array
) -> None:
    g, adjoint = task.geometry, task.member == "conv_input"
    name, shape = ("y", g.y_shape) if adjoint else ("x", g.x_shape)
    x = layout.prepared(name, x, shape, y.dtype, made.storage, g.groups, p.x_channels)
    parts = launch.empty((p.workspace,), layout.ITEM[made.result]) if p.splits > 1 else y
    bias = parts if b is None or p.splits > 1 else b  # parts: a pointer that is not read
    for one in p.launches:
        assert one.packing is not None
        rows = layout.packed(w, one.packing, made.storage)
        _start(made, one.blocks, x, rows, bias, parts, one.arguments)
    if p.splits > 1:
        layout.finish(parts, b, y, p.splits, task.relu)


def _start(instance: plan.Instance, blocks: tuple[int, int, int], *arguments: Any) -> None:
    """One launch of a product, on the current device and its current stream."""
    import cupy

    device = cupy.cuda.runtime.getDevice()
    function = launch.load(instance.file, instance.name, (), device, plan.text(instance), instance.shared)
    function(blocks, (instance.tile.threads,), arguments, shared_mem=instance.shared)
