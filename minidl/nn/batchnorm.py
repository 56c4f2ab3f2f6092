"""Batch normalisation with its running statistics."""

from __future__ import annotations

from typing import Any, ClassVar

from .. import functional as F
from ..core import cuda
from ..core.tensor import Tensor
from ..functional.creation import ones, zeros
from . import init
from .module import Module
from .parameter import Parameter, new_parameter


class _BatchNorm(Module):
    """Each channel with mean 0 and variance 1, then scaled and shifted; see BatchNorm2d."""

    ranks: ClassVar[tuple[int, ...]]  # how many axes the input may have
    layout: ClassVar[str]
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, device: str | None = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        vector = lambda make: make(num_features, dtype=dtype, device=device) if track_running_stats else None
        self.register_parameter("weight", new_parameter((num_features,), device, dtype) if affine else None)
        self.register_parameter("bias", new_parameter((num_features,), device, dtype) if affine else None)
        self.register_buffer("running_mean", vector(zeros))
        self.register_buffer("running_var", vector(ones))
        tracked = zeros((), dtype="int64", device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", tracked)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget all batches."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                with cuda.working_on(buffer.data):
                    buffer.data[...] = value
                buffer.mutated()

    def reset_parameters(self) -> None:
        """weight 1, bias 0, no batch seen."""
        self.reset_running_stats()
        if self.weight is not None and self.bias is not None:
            init.ones_(self.weight)
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim not in self.ranks:
            raise ValueError(f"{type(self).__name__}: input has shape {tuple(input.shape)}; it must be {self.layout}")
        tracked = self.num_batches_tracked if self.training else None
        momentum = self.momentum
        if momentum is None:  # a cumulative average: each batch counts the same
            momentum = 0.0 if tracked is None else _share(tracked)
        training = self.training or self.running_mean is None
        known = not self.training or self.track_running_stats
        output = F.batch_norm(
            input,
            self.running_mean if known else None,
            self.running_var if known else None,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
        )
        if tracked is not None:
            with cuda.working_on(tracked.data):
                tracked.data[...] += 1
            tracked.mutated()
        return output

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


def _share(tracked: Tensor) -> Any:
    """The weight of the next batch among all: a number, or on a device an array, for which the host need not wait."""
    if tracked.device == "cpu":
        return 1 / (int(tracked) + 1)
    with cuda.working_on(tracked.data):
        return 1 / (tracked.data + 1)


class BatchNorm1d(_BatchNorm):
    """Each feature normalised over the batch: (N, C), or (N, C, L) over the length as well. See BatchNorm2d."""

    ranks = (2, 3)
    layout = "(N, C) or (N, C, L)"


class BatchNorm2d(_BatchNorm):
    """(x - mean) / sqrt(variance + eps) · weight + bias for each channel of (N, C, H, W). Ioffe & Szegedy 2015.

    In training mode mean and (biased) variance are those of the batch, and running_mean and running_var (unbiased)
    move towards them by `momentum`; with momentum=None they are averages over all batches, counted by
    num_batches_tracked. In evaluation mode the running statistics are used. affine=False: no weight and bias.
    track_running_stats=False: the statistics are always those of the batch. All vectors have shape (num_features,).
    """

    ranks = (4,)
    layout = "(N, C, H, W)"


class BatchNorm3d(_BatchNorm):
    """Each channel of (N, C, D, H, W) normalised over batch and space. See BatchNorm2d."""

    ranks = (5,)
    layout = "(N, C, D, H, W)"
