"""Dropout of elements and of channels."""

from __future__ import annotations

from .. import functional as F
from ..core.tensor import Tensor
from .module import Module


class _Dropout(Module):
    """inplace is accepted for the sake of ported code; nothing is ever computed in place."""

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"{type(self).__name__}: p is {p}; it is a probability, from 0 to 1")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training mode each element becomes 0 with probability p, and the others are divided by 1 - p; any shape.
    Srivastava et al. 2014."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training)


class Dropout1d(_Dropout):
    """Dropout of whole channels of (N, C, L)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout1d(input, self.p, self.training)


class Dropout2d(_Dropout):
    """Dropout of whole channels of (N, C, H, W). Tompson et al. 2015."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout2d(input, self.p, self.training)


class Dropout3d(_Dropout):
    """Dropout of whole channels of (N, C, D, H, W)."""

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout3d(input, self.p, self.training)
