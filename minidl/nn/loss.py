"""Losses as layers: called with (input, target).

reduction: "mean", "sum", or "none" for one value for each element. Options are keywords only.
"""

from __future__ import annotations

from typing import Any, ClassVar

from .. import functional as F
from ..core.tensor import Tensor, as_tensor
from .module import Module


class _Loss(Module):
    reductions: ClassVar[tuple[str, ...]] = ("mean", "sum", "none")

    def __init__(self, *, reduction: str = "mean"):
        super().__init__()
        if reduction not in self.reductions:
            known = ", ".join(f'"{r}"' for r in self.reductions)
            raise ValueError(f"{type(self).__name__}: reduction is {reduction!r}; it must be one of {known}")
        self.reduction = reduction

    def _weight(self, name: str, value: Any) -> None:
        """Weights are buffers: they move with the module and are part of its state."""
        self.register_buffer(name, None if value is None else as_tensor(value))


class MSELoss(_Loss):
    """(input - target)^2."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|input - target|."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2. Girshick 2015."""

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction=reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """d^2 / 2 where d = |input - target| < delta, else delta (d - delta / 2). Huber 1964."""

    def __init__(self, *, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class BCELoss(_Loss):
    """-(target log(input) + (1 - target) log(1 - input)), where input holds probabilities. weight multiplies each
    value."""

    weight: Tensor | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._weight("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """BCELoss of sigmoid(input), without its loss of accuracy. pos_weight multiplies the positive term."""

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None):
        super().__init__(reduction=reduction)
        self._weight("weight", weight)
        self._weight("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class CrossEntropyLoss(_Loss):
    """-log(softmax(input))[class of the target].

    input: logits (N, C, …) or (C,). target: classes (N, …), or probabilities in input's shape. weight: (C,), one for
    each class. Targets equal to ignore_index do not count. label_smoothing: the part of the target spread over all
    classes.
    """

    weight: Tensor | None

    def __init__(
        self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0
    ):
        super().__init__(reduction=reduction)
        self._weight("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_Loss):
    """-input[class of the target], where input (N, C, …) holds log-probabilities and target (N, …) classes."""

    weight: Tensor | None

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self._weight("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class KLDivLoss(_Loss):
    """target (log(target) - input), where input holds log-probabilities, and with log_target target as well.
    reduction="batchmean", the sum divided by the batch size, is the mathematical definition."""

    reductions = ("mean", "batchmean", "sum", "none")

    def __init__(self, *, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction=reduction)
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class GaussianNLLLoss(_Loss):
    """The negative log-likelihood of target under a normal distribution with mean input and variance var (at least
    eps): (log(var) + (input - target)^2 / var) / 2; full adds log(2 pi) / 2. Nix & Weigend 1994."""

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor, var: Any) -> Tensor:
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)
