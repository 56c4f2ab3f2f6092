"""Why a convolution on the CPU takes as long as it does: the algorithms chosen for it, their work and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..core.dtypes import as_dtype
from ..kernels.cpu.algorithms import Choice, choose
from ..kernels.cpu.conv import SHARE
from ..kernels.cpu.threads import worth
from ..kernels.geometry import ConvGeometry
from ..kernels.precision import is_precise
from ..nn.conv import _Conv, _Transposed
from .values import bytes_text

PASSES = ("output", "gradient of the input", "gradient of the weight")


@dataclass
class Explanation:
    """What computes a convolution and its gradients. Print it."""

    geometry: ConvGeometry
    dtype: np.dtype
    threads: int
    precise: bool
    transposed: bool = False
    choices: dict[str, Choice] = field(default_factory=dict)  # by the names in PASSES

    @property
    def bytes(self) -> int:
        """The least that each of the three must read and write: input, weight and output once."""
        g = self.geometry
        return self.dtype.itemsize * sum(map(prod, (g.x_shape, g.w_shape, g.y_shape)))

    def __getitem__(self, name: str) -> Choice:
        """The choice for one of PASSES."""
        return self.choices[name]

    def __str__(self) -> str:
        g = self.geometry
        source, result = (g.y_shape, g.x_shape) if self.transposed else (g.x_shape, g.y_shape)
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        lines = [("", "algorithm", "multiply-adds", "of the direct sum", "workspace")]
        for name, choice in self.choices.items():
            share = f"{choice.multiply_adds / g.multiply_adds:.2f}" if g.multiply_adds else ""
            lines.append((name, choice.name, f"{choice.multiply_adds:,}", share, bytes_text(choice.workspace)))
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        head = f"{source} * {g.w_shape} -> {result}, {self.dtype}, {threads}, {'precise' if self.precise else 'fast'}"
        note = f"direct sum: {g.multiply_adds:,} multiply-adds; input, weight and output: {bytes_text(self.bytes)}"
        return "\n".join([head, *(_aligned(line, widths) for line in lines), note])


def explain(
    conv: Any, input_shape: Sequence[int] | None = None, *, dtype: Any = None, threads: int | None = None
) -> Explanation:
    """The algorithms that compute a convolution and its gradients on the CPU, with their work and memory.

        print(minidl.explain(nn.Conv2d(64, 128, 3, padding=1), (16, 64, 56, 56)))

    conv: a convolution layer, with the shape of its input (with or without the batch axis); or a ConvGeometry. dtype:
    of the numbers (default: that of the layer's weight, or float32). threads: default: as many as would be used now.
    `conv_precision` counts. Multiply-adds are those that are executed, in the inner loops; the workspace comes on top
    of input, weight and result. docs/kernels describes the algorithms.

    Raises TypeError for anything else and ValueError for shapes that do not fit.
    """
    transposed = isinstance(conv, _Transposed)
    if isinstance(conv, ConvGeometry):
        if input_shape is not None:
            raise TypeError("explain: input_shape is given together with a geometry, which has one")
        geometry, kind = conv, np.dtype(np.float32)
    elif isinstance(conv, _Conv):
        if input_shape is None:
            raise TypeError(f"explain: input_shape is missing; what a {type(conv).__name__} does depends on it")
        geometry, kind = _geometry(conv, tuple(input_shape)), conv.weight.dtype
    else:
        given = type(conv).__name__
        raise TypeError(f"explain: conv is of type {given}; it must be a convolution layer or a ConvGeometry")
    kind = kind if dtype is None else as_dtype(dtype)
    if threads is None:
        threads = worth(geometry.multiply_adds, SHARE)
    elif threads < 1:
        raise ValueError(f"explain: threads is {threads}; it must be at least 1")
    # a transposed convolution is the gradient of a convolution by its input, and the other way around
    members = ("conv_input", "conv", "conv_weight") if transposed else ("conv", "conv_input", "conv_weight")
    result = Explanation(geometry, kind, threads, is_precise(), transposed)
    for name, member in zip(PASSES, members, strict=True):
        result.choices[name] = choose(member, geometry, kind, threads, result.precise)
    return result


def _geometry(layer: Any, shape: tuple[int, ...]) -> ConvGeometry:
    rank = layer.num_spatial_dims
    if len(shape) == rank + 1:
        shape = (1, *shape)
    if len(shape) != rank + 2:
        raise ValueError(
            f"explain: input_shape is {shape}; for a {type(layer).__name__} it must have {rank + 2} axes (batch, "
            f"channels and {rank} spatial), or {rank + 1} without the batch"
        )
    w = tuple(layer.weight.shape)
    if isinstance(layer, _Transposed):
        return ConvGeometry.transposed(
            shape, w, layer.stride, layer.padding, layer.output_padding, layer.dilation, layer.groups
        )
    plain = ConvGeometry.of(shape, w, layer.stride, layer.padding, layer.dilation, layer.groups)
    if layer.padding_mode == "zeros":
        return plain
    return ConvGeometry.of(
        (*shape[:2], *plain.padded), w, layer.stride, 0, layer.dilation, layer.groups
    )  # padded first


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The first two columns to the left, numbers to the right."""
    parts = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "  ".join(parts).rstrip()
