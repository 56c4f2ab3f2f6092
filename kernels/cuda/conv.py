"""The convolution family on CuPy arrays: one to three spatial axes; float32, float64, float16 and bfloat16.

plan.py chooses the kernel: a product of matrices (conv_gather.cu, conv_weight.cu) or, where that does not pay, the
direct sum (conv.cu). Results are (N, C, *S) with the channels innermost in memory (weights: C-contiguous), and bitwise
reproducible on a device. Inputs that lie the same way are read as they are, others are copied by one kernel. float16
and bfloat16 are summed in float32; `set_float32_matmul_precision` says how float32 is multiplied.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Array
from ..geometry import ConvGeometry
from ..precision import float32_products
from . import launch, layout, plan


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
        w = launch.empty(g.w_shape, dtype)
        p = plan.weight(g, dtype.name, float32_products(), plan.Device(*launch.properties(device.id)))
        if p.instance is None:
            x = launch.channels_last("x", x, g.x_shape, dtype)
            y = launch.channels_last("y", y, g.y_shape, dtype)
            launch.run("conv.cu", "conv_weight_kernel", dtype, w.size, x, y, w, launch.struct(g))
            return w
        x = layout.prepared("x", x, g.x_shape, dtype, p.instance.storage, g.groups, p.x_channels)
        y = layout.prepared("y", y, g.y_shape, dtype, p.instance.storage, g.groups, p.y_filters)
        parts = launch.empty((p.workspace,), layout.ITEM[p.instance.result])
        for one in p.launches:
            _start(p.instance, one.blocks, device.id, x, y, parts, one.arguments)
        layout.finish_weight(parts, w, p.x_channels, p.splits)
    return w


def _gather(operation: str, x: Array, w: Array, b: Array | None, relu: bool, g: ConvGeometry, adjoint: bool) -> Array:
    """conv, or its adjoint in x, then bias and ReLU."""
    name, kernel = ("y", "conv_input_kernel") if adjoint else ("x", "conv_kernel")
    shape, result = (g.y_shape, g.x_shape) if adjoint else (g.x_shape, g.y_shape)
    arrays = {name: x, "w": w} if b is None else {name: x, "w": w, "b": b}
    with launch.device_of(operation, **arrays) as device:
        dtype = launch.common_type(operation, *arrays.values(), among=launch.STORAGE)
        w = launch.operand("w", w, g.w_shape, dtype)
        b = None if b is None else launch.operand("b", b, result[1:2], dtype)
        y = launch.empty_channels_last(result, dtype)
        precision, kind = float32_products(), plan.Device(*launch.properties(device.id))
        p = plan.gather(g, adjoint, dtype.name, precision, kind, b is not None, relu)
        if p.instance is None:
            x = launch.channels_last(name, x, shape, dtype)
            numbers = (np.int32(b is not None), np.int32(relu))
            launch.run("conv.cu", kernel, dtype, y.size, x, w, y if b is None else b, y, launch.struct(g), *numbers)
            return y
        x = layout.prepared(name, x, shape, dtype, p.instance.storage, g.groups, p.x_channels)
        parts = launch.empty((p.workspace,), layout.ITEM[p.instance.result]) if p.splits > 1 else y
        bias = parts if b is None or p.splits > 1 else b  # parts: a pointer that is not read
        for one in p.launches:
            assert one.packing is not None
            rows = layout.packed(w, one.packing, p.instance.storage)
            _start(p.instance, one.blocks, device.id, x, rows, bias, parts, one.arguments)
        if p.splits > 1:
            layout.finish(parts, b, y, p.splits, relu)
    return y


def _start(instance: plan.Instance, blocks: tuple[int, int, int], device: int, *arguments: Any) -> None:
    """One launch of a product, on the current device and its current stream."""
    function = launch.load(instance.file, instance.name, (), device, plan.text(instance), instance.shared)
    function(blocks, (instance.tile.threads,), arguments, shared_mem=instance.shared)
