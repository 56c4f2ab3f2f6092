"""Why a convolution takes as long as it does: the algorithms chosen for it, their work and memory; on a CUDA device the
kernels, what a model expects of them and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ..core import cuda
from ..core.dtypes import as_dtype
from ..kernels.cpu.algorithms import Choice, choose
from ..kernels.cpu.conv import SHARE
from ..kernels.cpu.threads import worth
from ..kernels.cuda import conv as cuda_conv
from ..kernels.cuda import plan, tuner
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


@dataclass(frozen=True)
class DeviceChoice:
    """The kernel for one of PASSES. expected: microseconds by plan.py's model, which are those of an H100; None for the
    direct sum. measured: microseconds of it and of others, as they were remembered; empty if nothing was."""

    name: str
    expected: float | None
    measured: dict[str, float]


@dataclass
class DeviceExplanation:
    """What computes a convolution and its gradients on a CUDA device. Print it."""

    geometry: ConvGeometry
    device: str
    dtype: np.dtype
    precision: str
    transposed: bool = False
    choices: dict[str, DeviceChoice] = field(default_factory=dict)  # by the names in PASSES

    def __getitem__(self, name: str) -> DeviceChoice:
        """The choice for one of PASSES."""
        return self.choices[name]

    def __str__(self) -> str:
        g = self.geometry
        source, result = (g.y_shape, g.x_shape) if self.transposed else (g.x_shape, g.y_shape)
        lines = [("", "kernel", "expected", "measured", "TFLOP/s")]
        for name, choice in self.choices.items():
            took = choice.measured.get(choice.name)
            best = took or choice.expected
            lines.append(
                (
                    name,
                    choice.name,
                    f"{choice.expected:.1f} us" if choice.expected else "",
                    f"{took:.1f} us" if took else "",
                    f"{2e-6 * g.multiply_adds / best:.1f}" if best else "",
                )
            )
            lines += [("", f"  {n}", "", f"{us:.1f} us", "") for n, us in choice.measured.items() if n != choice.name]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        head = f"{source} * {g.w_shape} -> {result}, {self.dtype}, {self.precision} precision, {self.device}"
        return "\n".join([head, *(_aligned(line, widths) for line in lines), f"autotune: {tuner.get_autotune()}"])


def explain(
    conv: Any, input_shape: Sequence[int] | None = None, *, dtype: Any = None, threads: int | None = None,
    device: str | None = None,
) -> Explanation | DeviceExplanation:  # fmt: skip
    """The algorithms that compute a convolution and its gradients, with their work and memory; on a CUDA device the
    kernels, with the times that a model expects and those that were measured (see `set_autotune`).

        print(minidl.explain(nn.Conv2d(64, 128, 3, padding=1), (16, 64, 56, 56)))

    conv: a convolution layer, with the shape of its input (with or without the batch axis); or a ConvGeometry. dtype:
    of the numbers (default: that of the layer's weight, or float32). threads: default: as many as would be used now.
    device: "cpu", "cuda" or "cuda:N" (default: where the layer's weight is).
    `conv_precision` counts. Multiply-adds are those that are executed, in the inner loops; the workspace comes on top
    of input, weight and result. docs/kernels describes the algorithms.

    Raises TypeError for anything else, ValueError for shapes that do not fit, and RuntimeError for a device that is not
    there.
    """
    transposed = isinstance(conv, _Transposed)
    device = device or (str(conv.weight.device) if isinstance(conv, _Conv) else "cpu")
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
    # a transposed convolution is the gradient of a convolution by its input, and the other way around
    members = ("conv_input", "conv", "conv_weight") if transposed else ("conv", "conv_input", "conv_weight")
    if device != "cpu":
        bias = isinstance(conv, _Conv) and conv.bias is not None
        return _on_device(geometry, kind, device, bias, transposed, members)
    if threads is None:
        threads = worth(geometry.multiply_adds, SHARE)
    elif threads < 1:
        raise ValueError(f"explain: threads is {threads}; it must be at least 1")
    result = Explanation(geometry, kind, threads, is_precise(), transposed)
    for name, member in zip(PASSES, members, strict=True):
        result.choices[name] = choose(member, geometry, kind, threads, result.precise)
    return result


def _on_device(
    g: ConvGeometry, dtype: np.dtype, device: str, bias: bool, transposed: bool, members: Sequence[str]
) -> DeviceExplanation:
    with cuda.place(device) as place:
        result = DeviceExplanation(g, device, dtype, "", transposed)
        for name, member in zip(PASSES, members, strict=True):
            own = bias and name == "output"  # the other two follow no layer's bias, nor ReLU
            task = cuda_conv.problem(member, g, dtype, own, False, place.id)
            tasks = [task, task._replace(relu=True)] if name == "output" else [task]
            chosen, measured = next(cuda_conv.candidates(task)).name, {}
            if tuner.get_autotune() != "off":
                entries = [entry for t in tasks if (entry := tuner.remembered(t, place.id)) is not None]
                if entries:
                    chosen, measured = entries[0].chosen, entries[0].microseconds
            options = plan.options(member, g, task.dtype, task.precision, task.device)
            expected = {option.name: 1e6 * option.cycles / plan.CLOCK for option in options}
            result.choices[name] = DeviceChoice(chosen, expected.get(chosen), measured)
            result.precision = task.precision
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
