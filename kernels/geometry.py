"""Every size of a convolution or pooling, resolved once and frozen.

No kernel and no gradient rule ever guesses a size: whoever calls the family builds one geometry with
`ConvGeometry.of`, `ConvGeometry.transposed` or `PoolGeometry.of`, and all members of the family share it.
A geometry is hashable, holds only ints and tuples of ints, and knows nothing of arrays or dtypes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

Ints = tuple[int, ...]
Sizes = int | Sequence[int]  # one number, or one for each spatial axis
Pairs = tuple[tuple[int, int], ...]


def _axis(name: str, axis: int, rank: int) -> str:
    return f"{name} (spatial axis {axis} of {rank})"


def per_axis(name: str, value: object, rank: int, least: int) -> Ints:
    """An int, or one int for each spatial axis, as a tuple of `rank` ints that are all >= least."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, (tuple, list)) else (value,) * rank
    if len(values) == 1:
        values *= rank
    if len(values) != rank:
        raise ValueError(f"{name} is {value}: one number or {rank} of them, one for each spatial axis")
    try:
        numbers = tuple(v.__index__() for v in values)
    except AttributeError:
        raise TypeError(f"{name} is {value!r}: it must consist of whole numbers") from None
    if any(v < least for v in numbers):
        raise ValueError(f"{name} is {value}: every number must be at least {least}")
    return numbers


def _padding(padding: object, kernel: Ints, stride: Ints, dilation: Ints) -> Pairs:
    rank = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding != "same":
            raise ValueError(f'padding is {padding!r}: a number, one for each spatial axis, "same" or "valid"')
        if any(s != 1 for s in stride):
            raise ValueError(f'padding="same" keeps the size only with stride 1; stride is {stride}')
        return tuple((d * (k - 1) // 2, d * (k - 1) - d * (k - 1) // 2) for k, d in zip(kernel, dilation, strict=True))
    return tuple((p, p) for p in per_axis("padding", padding, rank, 0))


def _taps(kernel: Ints, stride: Ints, dilation: Ints, output: Ints) -> Iterator[tuple[Ints, tuple[slice, ...]]]:
    """For each kernel position: its index, and the slices of the padded input that it meets at all outputs."""
    for tap in product(*map(range, kernel)):
        yield (
            tap,
            tuple(
                slice(k * d, k * d + s * (o - 1) + 1, s)
                for k, d, s, o in zip(tap, dilation, stride, output, strict=True)
            ),
        )


@dataclass(frozen=True)
class ConvGeometry:
    """Sizes of `y = conv(x, w)` (cross-correlation, as in every deep-learning library).

    x: (batch, in_channels, *input), w: (out_channels, in_channels // groups, *kernel),
    y: (batch, out_channels, *output), with
    `output = (input + before + after - dilation * (kernel - 1) - 1) // stride + 1` on each axis.
    A transposed convolution maps y back to x under the same geometry.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    input: Ints
    kernel: Ints
    output: Ints
    stride: Ints
    padding: Pairs  # (before, after) on each spatial axis
    dilation: Ints

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def x_shape(self) -> Ints:
        return (self.batch, self.in_channels, *self.input)

    @property
    def w_shape(self) -> Ints:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def y_shape(self) -> Ints:
        return (self.batch, self.out_channels, *self.output)

    @property
    def padded(self) -> Ints:
        """Spatial size of the padded input."""
        return tuple(n + sum(p) for n, p in zip(self.input, self.padding, strict=True))

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the direct algorithm; the same for all three members of the family."""
        return prod(self.y_shape) * self.in_channels // self.groups * prod(self.kernel)

    def taps(self) -> Iterator[tuple[Ints, tuple[slice, ...]]]:
        return _taps(self.kernel, self.stride, self.dilation, self.output)

    @staticmethod
    def of(
        x_shape: Ints,
        w_shape: Ints,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """Geometry of conv(x, w). Raises ValueError, naming the argument and the sizes, when they do not fit."""
        return _conv_of(
            tuple(x_shape),
            tuple(w_shape),
            _whole("stride", stride),
            _whole("padding", padding),
            _whole("dilation", dilation),
            _whole("groups", groups),
        )

    @staticmethod
    def transposed(
        y_shape: Ints,
        w_shape: Ints,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        dilation: Sizes = 1,
        groups: int = 1,
    ) -> ConvGeometry:
        """Geometry of the convolution whose adjoint maps an array of `y_shape` up to x.

        w has shape (channels of y, channels of x // groups, *kernel). Each axis of the result has
        `(n - 1) * stride - 2 * padding + dilation * (kernel - 1) + output_padding + 1` elements.
        """
        return _conv_transposed(
            tuple(y_shape),
            tuple(w_shape),
            _whole("stride", stride),
            _whole("padding", padding),
            _whole("output_padding", output_padding),
            _whole("dilation", dilation),
            _whole("groups", groups),
        )


def _whole(name: str, value: Any) -> Any:
    """value with ints and tuples only, as the caches need it: there 2.0 would be found under 2."""
    if value is None or isinstance(value, (int, str)):
        return value
    try:
        if isinstance(value, (tuple, list)):
            return tuple(v.__index__() for v in value)
        return value.__index__()
    except (AttributeError, TypeError):
        raise TypeError(f"{name} is {value!r}: it must consist of whole numbers") from None


def _check_ranks(x_name: str, x_shape: Ints, w_shape: Ints) -> int:
    rank = len(w_shape) - 2
    if rank < 1 or len(x_shape) != len(w_shape):
        raise ValueError(
            f"{x_name} has shape {x_shape} and weight {w_shape}: both need a batch or output-channel axis, "
            f"a channel axis and the same number of spatial axes"
        )
    if any(k < 1 for k in w_shape[2:]):
        raise ValueError(f"weight has shape {w_shape}: every kernel size must be at least 1")
    return rank


@lru_cache(maxsize=4096)
def _conv_of(x_shape, w_shape, stride, padding, dilation, groups) -> ConvGeometry:
    rank = _check_ranks("input", x_shape, w_shape)
    batch, channels, *input = x_shape
    out_channels, per_group, *kernel = w_shape
    stride = per_axis("stride", stride, rank, 1)
    dilation = per_axis("dilation", dilation, rank, 1)
    pairs = _padding(padding, tuple(kernel), stride, dilation)
    _check_groups(groups, channels, out_channels)
    if per_group * groups != channels:
        raise ValueError(
            f"input has {channels} channels, but weight {w_shape} with groups={groups} expects {per_group * groups}"
        )
    output = []
    for axis, (n, k, s, (lo, hi), d) in enumerate(zip(input, kernel, stride, pairs, dilation, strict=True)):
        span = d * (k - 1) + 1
        if n + lo + hi < span:
            raise ValueError(
                f"the output would be empty: {_axis('input', axis, rank)} has size {n}, with padding {n + lo + hi}, "
                f"but the kernel of size {k} with dilation {d} spans {span}"
            )
        output.append((n + lo + hi - span) // s + 1)
    return ConvGeometry(
        batch, channels, out_channels, groups, tuple(input), tuple(kernel), tuple(output), stride, pairs, dilation
    )


@lru_cache(maxsize=4096)
def _conv_transposed(y_shape, w_shape, stride, padding, output_padding, dilation, groups) -> ConvGeometry:
    rank = _check_ranks("input", y_shape, w_shape)
    batch, channels, *size = y_shape
    kernel = w_shape[2:]
    stride = per_axis("stride", stride, rank, 1)
    dilation = per_axis("dilation", dilation, rank, 1)
    pad = per_axis("padding", padding, rank, 0)
    extra = per_axis("output_padding", output_padding, rank, 0)
    if channels != w_shape[0]:
        raise ValueError(f"input has {channels} channels, but weight {w_shape} expects {w_shape[0]}")
    result = []
    for axis, (n, k, s, p, e, d) in enumerate(zip(size, kernel, stride, pad, extra, dilation, strict=True)):
        if e >= max(s, d):
            raise ValueError(
                f"output_padding must be smaller than stride or dilation; on spatial axis {axis} it is {e}, "
                f"stride {s}, dilation {d}"
            )
        m = (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        if n < 1 or m < 1:
            raise ValueError(
                f"the output would be empty: {_axis('input', axis, rank)} has size {n}; with stride {s}, padding {p}, "
                f"kernel {k}, dilation {d}, output_padding {e} the result would have size {m}"
            )
        result.append(m)
    x_channels = w_shape[1] * groups
    _check_groups(groups, x_channels, channels)
    pairs = tuple((p, p) for p in pad)
    return ConvGeometry(
        batch, x_channels, channels, groups, tuple(result), tuple(kernel), tuple(size), stride, pairs, dilation
    )


def _check_groups(groups: int, in_channels: int, out_channels: int) -> None:
    if groups < 1:
        raise ValueError(f"groups is {groups}: it must be at least 1")
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} must divide the number of input channels ({in_channels}) and output channels "
            f"({out_channels})"
        )


@dataclass(frozen=True)
class PoolGeometry:
    """Sizes of a pooling from x: (batch, channels, *input) to y: (batch, channels, *output).

    Windows may reach over the edge: `before` padded positions in front, and behind the end whatever
    the last window needs (`ceil_mode` lets it start inside the input or the front padding and hang over).
    """

    batch: int
    channels: int
    input: Ints
    kernel: Ints
    output: Ints
    stride: Ints
    padding: Ints  # in front and behind, on each spatial axis
    dilation: Ints

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def x_shape(self) -> Ints:
        return (self.batch, self.channels, *self.input)

    @property
    def y_shape(self) -> Ints:
        return (self.batch, self.channels, *self.output)

    @property
    def reach(self) -> Pairs:
        """(before, after): the padding on each axis that makes every window lie inside; after >= 0."""
        return tuple(
            (p, max(0, (o - 1) * s + d * (k - 1) + 1 - n - p))
            for n, k, o, s, p, d in zip(
                self.input, self.kernel, self.output, self.stride, self.padding, self.dilation, strict=True
            )
        )

    def taps(self) -> Iterator[tuple[Ints, tuple[slice, ...]]]:
        return _taps(self.kernel, self.stride, self.dilation, self.output)

    @staticmethod
    def of(
        x_shape: Ints,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        ceil_mode: bool = False,
        pooling: bool = True,
    ) -> PoolGeometry:
        """Geometry of a pooling of x; stride defaults to kernel_size. Raises ValueError when sizes do not fit.

        pooling=False is for laying windows out: these may consist of padding alone, which has no maximum or mean.
        """
        return _pool_of(
            tuple(x_shape),
            _whole("kernel_size", kernel_size),
            _whole("stride", stride),
            _whole("padding", padding),
            _whole("dilation", dilation),
            bool(ceil_mode),
            bool(pooling),
        )


@lru_cache(maxsize=4096)
def _pool_of(x_shape, kernel_size, stride, padding, dilation, ceil_mode, pooling) -> PoolGeometry:
    batch, channels, *input = x_shape
    rank = len(input)
    kernel = per_axis("kernel_size", kernel_size, rank, 1)
    stride = kernel if stride is None else per_axis("stride", stride, rank, 1)
    pad = per_axis("padding", padding, rank, 0)
    dilation = per_axis("dilation", dilation, rank, 1)
    output = []
    for axis, (n, k, s, p, d) in enumerate(zip(input, kernel, stride, pad, dilation, strict=True)):
        span = d * (k - 1) + 1
        if pooling and 2 * p > span:
            raise ValueError(
                f"padding must be at most half of what the window spans; on spatial axis {axis} it is {p} of {span}"
            )
        room = n + 2 * p - span
        out = (room + (s - 1 if ceil_mode else 0)) // s + 1
        if ceil_mode and (out - 1) * s >= n + p:
            out -= 1  # the last window must start inside the input or the front padding
        if n < 1 or out < 1:
            raise ValueError(
                f"the output would be empty: {_axis('input', axis, rank)} has size {n}, padding {p}, "
                f"but the window of size {k} with dilation {d} spans {span}"
            )
        for start in range(-p, out * s - p, s) if pooling else ():
            if not any(0 <= start + d * i < n for i in range(k)):
                raise ValueError(
                    f"a window would hold nothing but padding: {_axis('input', axis, rank)} has size {n}, "
                    f"and the window of size {k} with dilation {d} that starts at {start} meets none of it"
                )
        output.append(out)
    return PoolGeometry(batch, channels, tuple(input), kernel, tuple(output), stride, pad, dilation)
