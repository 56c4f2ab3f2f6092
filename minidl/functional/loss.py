"""Losses. reduction: "mean" over all elements (weights considered), "sum", or "none" for one value for each element."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from ..core.tensor import Tensor
from ..kernels.arrays import is_floating, namespace
from ..ops import binary, indexing, norm
from ..ops.elementwise import abs, clamp, exp, log, softplus, square, where
from .arguments import check_array, check_floating, check_shape, in_single, may_look, on_its_device, single_in_autocast
from .reduction import log_softmax, mean, sum
from .shape import squeeze, unsqueeze


def _reduced(function: str, value: Any, reduction: str) -> Any:
    if reduction == "mean":
        return mean(value)
    if reduction == "sum":
        return sum(value)
    if reduction == "none":
        return value
    raise ValueError(f'{function}: reduction is {reduction!r}; it must be "mean", "sum" or "none"')


def _pair(function: str, input: Any, target: Any) -> tuple:
    """input and target, checked; inside amp.autocast in float32."""
    check_floating(function, input=input, target=target)
    if input.shape != target.shape:
        raise ValueError(
            f"{function}: input has shape {tuple(input.shape)}, target {tuple(target.shape)}; they must be equal"
        )
    return single_in_autocast(input, target)


def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """(input - target)^2."""
    input, target = _pair("mse_loss", input, target)
    return _reduced("mse_loss", square(input - target), reduction)


def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """|input - target|."""
    input, target = _pair("l1_loss", input, target)
    return _reduced("l1_loss", abs(input - target), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where d = |input - target| < beta, else d - beta / 2."""
    input, target = _pair("smooth_l1_loss", input, target)
    if beta < 0:
        raise ValueError(f"smooth_l1_loss: beta is {beta}; it must not be negative")
    e = input - target
    d = abs(e)
    # the square is that of e: |e| has no second derivative at 0
    loss = d if beta == 0 else where(d < beta, square(e) / (2 * beta), d - beta / 2)
    return _reduced("smooth_l1_loss", loss, reduction)


def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 where d = |input - target| < delta, else delta (d - delta / 2)."""
    input, target = _pair("huber_loss", input, target)
    if delta <= 0:
        raise ValueError(f"huber_loss: delta is {delta}; it must be positive")
    e = input - target
    d = abs(e)
    return _reduced("huber_loss", where(d < delta, square(e) / 2, (d - delta / 2) * delta), reduction)


def _check_weight(function: str, name: str, weight: Any, input: Any) -> None:
    """Weights of the elements broadcast to input, not the other way round."""
    if weight is None or isinstance(weight, (int, float)):
        return
    check_floating(function, input=input, **{name: weight})
    try:
        fits = np.broadcast_shapes(input.shape, weight.shape) == input.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{function}: {name} has shape {tuple(weight.shape)}, which does not broadcast to that of input, "
            f"{tuple(input.shape)}"
        )


@on_its_device
def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: str = "mean") -> Any:
    """-(target log(input) + (1 - target) log(1 - input)); input: probabilities.

    Logarithms are limited to at least -100.
    """
    input, target = _pair("binary_cross_entropy", input, target)
    _check_weight("binary_cross_entropy", "weight", weight, input)
    values = input._data if isinstance(input, Tensor) else input
    if values.size and may_look(values) and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            "binary_cross_entropy: input must consist of probabilities, from 0 to 1; for other numbers use "
            "binary_cross_entropy_with_logits"
        )
    # where exp(-100) is 0: float16's smallest number, bfloat16's smallest normal one
    least = {"float16": 2.0**-24, "bfloat16": 2.0**-126}.get(input.dtype.name, math.exp(-100))
    safe_log = lambda p: log(clamp(p, min=least, max=None))
    loss = -(target * safe_log(input) + (1 - target) * safe_log(1 - input))
    return _reduced("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """binary_cross_entropy(sigmoid(input), target) without its loss of accuracy.

    pos_weight multiplies the positive term.
    """
    input, target = _pair("binary_cross_entropy_with_logits", input, target)
    for name, given in (("weight", weight), ("pos_weight", pos_weight)):
        _check_weight("binary_cross_entropy_with_logits", name, given, input)
    if pos_weight is None:
        same = input.dtype == target.dtype
        loss = binary.binary_cross_entropy(input, target) if same else softplus(input) - input * target
    else:
        loss = (1 - target) * input + ((pos_weight - 1) * target + 1) * softplus(-input)
    return _reduced("binary_cross_entropy_with_logits", loss if weight is None else loss * weight, reduction)


def kl_div(input: Any, target: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    """target (log(target) - input), where input holds log-probabilities. reduction="batchmean" divides the sum by the
    batch size, which is the mathematical definition."""
    input, target = _pair("kl_div", input, target)
    if log_target:
        loss = exp(target) * (target - input)
    else:
        positive = target > 0
        loss = where(positive, target * (log(where(positive, target, 1.0)) - input), 0.0)
    if reduction == "batchmean":
        return sum(loss) / input.shape[0]
    return _reduced("kl_div", loss, reduction)


def _variance(var: Any, input: Any) -> Any:
    check_floating("gaussian_nll_loss", input=input, var=var)
    if var.shape != input.shape and var.shape == input.shape[:-1]:
        var = unsqueeze(var, -1)
    if var.ndim != input.ndim or builtins.any(m not in (1, n) for m, n in zip(var.shape, input.shape, strict=True)):
        raise ValueError(
            f"gaussian_nll_loss: var has shape {tuple(var.shape)}, input {tuple(input.shape)}; var must have the same "
            f"shape, that without the last axis, or 1 on some axes"
        )
    if may_look(var) and ((var._data if isinstance(var, Tensor) else var) < 0).any():
        raise ValueError("gaussian_nll_loss: var contains negative numbers, which no variance is")
    return var


def _at_least(x: Any, least: float) -> Any:
    """x limited from below, outside the graph: the gradient flows as if nothing had been done."""
    values = x._data if isinstance(x, Tensor) else x
    below = not isinstance(values, np.ndarray) or (values < least).any()  # the host does not wait for a device
    return x + (least - values).clip(0, None).astype(values.dtype, copy=False) if below else x


@on_its_device
def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """(log(var) + (input - target)^2 / var) / 2, the negative log-likelihood of target under N(input, var).

    var: a number, or a tensor of input's shape, of that without the last axis, or with 1 on some axes. It is computed
    with as at least eps; its gradient takes no notice of that. full adds log(2 pi) / 2.
    """
    input, target = _pair("gaussian_nll_loss", input, target)
    if not isinstance(var, (int, float)):
        var = _at_least(_variance(var, input), eps)
        loss = (log(var) + square(input - target) / var) * 0.5
    else:
        if var < 0:
            raise ValueError(f"gaussian_nll_loss: var is {var}; a variance is not negative")
        var = max(var, eps)
        loss = (square(input - target) / var + math.log(var)) * 0.5
    return _reduced("gaussian_nll_loss", loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


def _class_axis(function: str, input: Any, target: Any) -> tuple[Any, Any, bool]:
    """input (N, C, …) and target (N, …); a single (C,) with a single class gets a batch axis."""
    check_array(function, "input", input)
    check_array(function, "target", target)
    check_floating(function, input=input)
    (input,) = single_in_autocast(input)
    single = input.ndim == 1
    if single:
        input, target = unsqueeze(input, 0), unsqueeze(target, 0)
    if target.dtype.kind not in "iu" or target.shape != (*input.shape[:1], *input.shape[2:]):
        fits = tuple(input.shape[:1]) + tuple(input.shape[2:])
        raise ValueError(
            f"{function}: input has shape {tuple(input.shape)}, so target must hold class numbers (integers) in shape "
            f"{fits}; it is {target.dtype}{list(target.shape)}"
        )
    return input, target, single


def _valid(function: str, target: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """The classes with those to be ignored set to 0, and which ones count: their weights, 0 or 1; None if all do.

    A class that does not exist is an error; on a CUDA device, where the host does not look, its weight is NaN.
    """
    t = target._data if isinstance(target, Tensor) else target
    t = t.astype("int64")
    usual = may_look(t) and t.size > 0 and not 0 <= ignore_index < classes
    if usual and t.min() >= 0 and t.max() < classes:
        return t, None
    counted = t != ignore_index
    wrong = counted & ((t < 0) | (t >= classes))
    if not may_look(t):
        xp = namespace(t)
        return xp.where(wrong | ~counted, 0, t), xp.where(wrong, math.nan, counted.astype("float32"))
    if wrong.any():
        raise ValueError(
            f"{function}: target contains class {int(t[wrong].ravel()[0])}, but there are {classes} classes"
        )
    return namespace(t).where(counted, t, 0), counted


def _check_class_weight(function: str, weight: Any, input: Any, axis: int) -> None:
    if weight is not None:
        check_floating(function, input=input, weight=weight)
        check_shape(function, "weight", weight, (input.shape[axis],))


def _over(loss: Any, weights: Any) -> Any:
    """The sum of the losses divided by the total of their weights. If that is 0 there is no mean, and no gradient."""
    if loss.dtype.itemsize == 2:
        return in_single(_over, loss, weights)
    total = weights.sum(dtype="float64")
    if not isinstance(weights, np.ndarray):  # the same without a look at the total
        xp, empty = namespace(weights), total == 0
        share = xp.where(empty, 0, 1 / xp.where(empty, 1, total)).astype(loss.dtype)
        return sum(loss) * share + xp.where(empty, math.nan, 0).astype(loss.dtype)
    total = float(total)
    return sum(loss) / total if total else sum(loss) * 0.0 + math.nan


def _counting(counted: Any, target: Any) -> Any:
    """Which ones count, as an array."""
    return namespace(target).ones(target.shape, bool) if counted is None else counted


def _weighted(function: str, loss: Any, target: Any, counted: Any, weight: Any, reduction: str, single: bool) -> Any:
    """Losses weighted by their class and reduced; the mean is weighted as well."""
    if counted is not None or weight is not None:
        weights = _counting(counted, target).astype(loss.dtype)
        if weight is not None:
            weight = weight._data if isinstance(weight, Tensor) else weight
            weights = weights * weight[target]
        loss = loss * weights
        if reduction == "mean":
            return _over(loss, weights)
    out = _reduced(function, loss, reduction)
    return squeeze(out, 0) if single and reduction == "none" else out


@on_its_device
def nll_loss(input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean") -> Any:
    """-input[class of the target], where input (N, C, …) holds log-probabilities and target (N, …) classes."""
    input, target, single = _class_axis("nll_loss", input, target)
    _check_class_weight("nll_loss", weight, input, 1)
    classes, counted = _valid("nll_loss", target, input.shape[1], ignore_index)
    loss = -squeeze(indexing.gather(input, unsqueeze(classes, 1), axis=1), 1)
    return _weighted("nll_loss", loss, classes, counted, weight, reduction, single)


@on_its_device
def cross_entropy(
    input: Any, target: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """-log(softmax(input))[class of the target].

    input: logits (N, C, …) or (C,). target: classes (N, …), or probabilities in input's shape. weight: (C,), one for
    each class. label_smoothing: the part of the target spread evenly over all classes.
    """
    check_array("cross_entropy", "input", input)
    check_array("cross_entropy", "target", target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing is {label_smoothing}; it must be from 0 to 1")
    if is_floating(target.dtype):
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    input, target, single = _class_axis("cross_entropy", input, target)
    _check_class_weight("cross_entropy", weight, input, 1)
    classes, counted = _valid("cross_entropy", target, input.shape[1], ignore_index)
    loss, _ = norm.softmax_cross_entropy(input, classes)
    hard = _weighted("cross_entropy", loss, classes, counted, weight, reduction, single)
    if label_smoothing == 0:
        return hard
    scores = -log_softmax(input, 1)
    if weight is not None:
        scores = scores * _along_classes(weight, input)
    counted = _counting(counted, classes)
    smooth = sum(scores, 1) * counted.astype(scores.dtype) / input.shape[1]
    if reduction == "mean":
        share = (
            counted if weight is None else counted * (weight._data if isinstance(weight, Tensor) else weight)[classes]
        )
        smooth = _over(smooth, share)
    else:
        smooth = _reduced("cross_entropy", smooth, reduction)
        smooth = squeeze(smooth, 0) if single and reduction == "none" else smooth
    return hard * (1 - label_smoothing) + smooth * label_smoothing


def _along_classes(weight: Any, input: Any) -> Any:
    array = weight._data if isinstance(weight, Tensor) else weight
    return array.reshape(1, -1, *(1,) * (input.ndim - 2))


def _soft_cross_entropy(input: Any, target: Any, weight: Any, reduction: str, label_smoothing: float) -> Any:
    input, target = _pair("cross_entropy", input, target)
    axis = 0 if input.ndim == 1 else 1
    _check_class_weight("cross_entropy", weight, input, axis)
    classes = input.shape[axis]
    if label_smoothing:
        target = target * (1 - label_smoothing) + label_smoothing / classes
    scores = log_softmax(input, axis)
    if weight is not None:
        array = weight._data if isinstance(weight, Tensor) else weight
        scores = scores * (array if axis == 0 else _along_classes(array, input))
    loss = -sum(scores * target, axis)
    if reduction == "mean":  # over the batch and positions, not over classes
        return mean(loss)
    return _reduced("cross_entropy", loss, reduction)


__all__ = [
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "cross_entropy", "gaussian_nll_loss", "huber_loss",
    "kl_div", "l1_loss", "mse_loss", "nll_loss", "smooth_l1_loss",
]  # fmt: skip
