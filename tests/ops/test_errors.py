"""Bad input: each error names the argument, the sizes given and what would fit. Nothing is computed silently wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor


def t(*shape: int, dtype: str = "float32", requires_grad: bool = False) -> Tensor:
    return minidl.ones(*shape, dtype=dtype, requires_grad=requires_grad)


# the call, the exception, and words that its message must contain
BAD: dict[str, tuple[Callable[[], object], type[Exception], tuple[str, ...]]] = {
    # shapes that do not match
    "add": (lambda: t(2, 3) + t(2, 4), ValueError, ("add: a has shape (2, 3), b (2, 4)", "equal or 1")),
    "matmul": (lambda: t(2, 3) @ t(2, 4), ValueError, ("matmul", "input [2, 3]", "other [2, 4]", "must be equal")),
    "matmul of a number": (lambda: minidl.matmul(t(), t(2)), ValueError, ("input has no axes", "use *")),
    "linear features": (
        lambda: F.linear(t(2, 3), t(4, 5)),
        ValueError,
        ("input has shape (2, 3)", "(4, 5)", "needs 5 features"),
    ),
    "linear bias": (
        lambda: F.linear(t(2, 3), t(4, 3), t(3)),
        ValueError,
        ("linear", "bias has shape (3,)", "must have shape (4,)"),
    ),
    "linear weight": (lambda: F.linear(t(2, 3), t(3)), ValueError, ("weight has shape (3,)", "two axes (out, in)")),
    "conv channels": (
        lambda: F.conv2d(t(1, 3, 5, 5), t(2, 4, 3, 3)),
        ValueError,
        ("conv2d", "3 channels", "(2, 4, 3, 3)", "expects 4"),
    ),
    "conv activation": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(2, 1, 3, 3), activation="tanh"),
        ValueError,
        ("conv2d: activation is 'tanh'", '"relu" or None'),
    ),
    "conv bias": (lambda: F.conv2d(t(1, 1, 5, 5), t(2, 1, 3, 3), t(3)), ValueError, ("bias has shape (3,)", "(2,)")),
    "transposed conv channels": (
        lambda: F.conv_transpose2d(t(1, 3, 5, 5), t(2, 4, 3, 3)),
        ValueError,
        ("conv_transpose2d", "3 channels", "expects 2"),
    ),
    "mse_loss": (lambda: F.mse_loss(t(2, 3), t(3, 2)), ValueError, ("mse_loss", "(2, 3)", "(3, 2)", "must be equal")),
    "cross_entropy": (
        lambda: F.cross_entropy(t(4, 3), t(3, dtype="int64")),
        ValueError,
        ("cross_entropy", "(4, 3)", "class numbers", "(4,)", "int64[3]"),
    ),
    "class out of range": (
        lambda: F.cross_entropy(t(2, 3), minidl.tensor([0, 3])),
        ValueError,
        ("class 3", "3 classes"),
    ),
    "batch_norm": (
        lambda: F.batch_norm(t(4, 3), t(2), t(2)),
        ValueError,
        ("running_mean has shape (2,)", "must have shape (3,)"),
    ),
    "cat": (lambda: minidl.cat([t(2, 3), t(2, 4)]), ValueError, ("cat along axis 0", "tensors[1]", "(2, 4)", "(2, 3)")),
    "stack": (lambda: minidl.stack([t(2), t(3)]), ValueError, ("stack", "tensors[1] has shape (3,)", "(2,)")),
    "reshape": (lambda: t(2, 3).reshape(4, 2), ValueError, ("(2, 3)", "6 elements", "(4, 2)")),
    "split": (lambda: minidl.split(t(5), [2, 2]), ValueError, ("[2, 2]", "do not add up to 5")),
    "einsum sizes": (
        lambda: minidl.einsum("ij,jk->ik", t(2, 3), t(4, 2)),
        ValueError,
        ("'j'", "length 3", "4 in operand 1"),
    ),
    "einsum axes": (lambda: minidl.einsum("ij->i", t(2, 3, 4)), ValueError, ("operand 0", "3 axes", "'ij' names 2")),
    "einsum operands": (lambda: minidl.einsum("ij,jk->ik", t(2, 3)), ValueError, ("names 2 operands", "1 were given")),
    "gather": (
        lambda: minidl.gather(t(2, 3), 1, t(3, 3, dtype="int64")),
        ValueError,
        ("gather along axis 1", "int64[3, 3]", "[2, 3]"),
    ),
    "gradient": (lambda: (t(2, requires_grad=True) * 2).backward(t(3)), ValueError, ("(3,)", "(2,)")),
    # types
    "conv types": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(1, 1, 3, 3, dtype="float64")),
        TypeError,
        ("input is float32", "weight is float64", "same type"),
    ),
    "conv of integers": (
        lambda: F.conv2d(t(1, 1, 5, 5, dtype="int64"), t(1, 1, 3, 3)),
        TypeError,
        ("conv2d", "input must be floating-point", "int64", ".float()"),
    ),
    "mean of integers": (lambda: t(3, dtype="int64").mean(), TypeError, ("mean", "int64", ".float()")),
    "index of floats": (lambda: t(3)[t(2)], TypeError, ("whole numbers or booleans", "float32")),
    "a list": (lambda: F.conv2d([[1.0]], t(1, 1, 3, 3)), TypeError, ("conv2d", "input must be a tensor", "list")),
    "text": (lambda: t(3) + "1", TypeError, ("add", "b must be a tensor, an array or a number", "str")),
    "bitwise and of floats": (lambda: t(3) & t(3), TypeError, ("bitwise_and",)),
    "one_hot of floats": (lambda: F.one_hot(t(3), 2), TypeError, ("one_hot", "integers", "float32")),
    # shapes that do not broadcast
    "add of many shapes": (
        lambda: t(2, 3) + t(4),
        ValueError,
        ("add: a has shape (2, 3), b (4,)", "counted from the end", "equal or 1"),
    ),
    "where shapes": (
        lambda: minidl.where(t(2, 3) > 0, t(2, 3), t(4)),
        ValueError,
        ("where: c has shape (2, 3), a (2, 3), b (4,)", "equal or 1"),
    ),
    "matmul batches": (
        lambda: t(2, 3, 4) @ t(5, 4, 3),
        ValueError,
        ("matmul: input has shape (2, 3, 4), other (5, 4, 3)", "equal or 1"),
    ),
    "expand": (lambda: t(2, 3).expand(2, 4), ValueError, ("expand", "(2, 3)", "(2, 4)", "or that of the tensor 1")),
    "expand a new axis by -1": (lambda: t(3).expand(-1, 3), ValueError, ("expand", "(3,)", "(-1, 3)")),
    "broadcast_to": (lambda: t(2, 3).broadcast_to((3,)), ValueError, ("broadcast_to", "(2, 3)", "(3,)")),
    # not a tensor, not a number
    "sum of a list": (lambda: minidl.sum([1.0, 2.0]), TypeError, ("sum: input must be a tensor, not list",)),
    "relu of a list": (lambda: F.relu([1.0, -2.0]), TypeError, ("relu: input must be a tensor, not list",)),
    "exp of a list": (
        lambda: minidl.exp([1.0]),
        TypeError,
        ("exp: x must be a tensor, an array or a number",),
    ),
    "reshape to text": (lambda: t(6).reshape("a"), TypeError, ("reshape: sizes must be whole numbers, not 'a'",)),
    "zeros of text": (lambda: minidl.zeros("a"), TypeError, ("zeros: sizes must be whole numbers, not 'a'",)),
    "clamp to text": (lambda: t(3).clamp(min="a"), TypeError, ("clamp: min must be a number, not str",)),
    "iteration over a number": (lambda: list(minidl.tensor(1.0)), TypeError, ("without axes", ".item()")),
    "unbind a number": (lambda: minidl.tensor(1.0).unbind(), ValueError, ("unbind", "without axes")),
    "cat of numbers": (lambda: minidl.cat([minidl.tensor(1.0)]), ValueError, ("cat: tensors[0]", "stack")),
    "running statistics": (
        lambda: F.batch_norm(t(3, 2), np.zeros(2, "f"), np.ones(2, "f"), training=True),
        TypeError,
        ("batch_norm: running_mean must be a tensor, not ndarray",),
    ),
    # types that do not fit
    "where": (lambda: minidl.where(t(2), t(2), t(2)), TypeError, ("where", "boolean tensor, not float32", "x > 0")),
    "where without a tensor": (lambda: minidl.where(True, t(2), 0.0), TypeError, ("boolean tensor", "class 'bool'")),
    "gelu of a list": (lambda: F.gelu([1.0]), TypeError, ("gelu: input must be a tensor, not list",)),
    "diagonal": (lambda: t(3, 3).diagonal(1.5), TypeError, ("diagonal", "whole numbers, not 1.5")),
    "chunk of a fraction": (lambda: t(3).chunk(1.5), TypeError, ("chunk", "whole numbers, not 1.5")),
    "max_pool of booleans": (lambda: F.max_pool2d(t(1, 2, 2) > 0, 2), TypeError, ("max_pool2d: input", "not bool")),
    "relu of booleans": (lambda: F.relu(t(2) > 0), TypeError, ("relu: input", "not bool", ".float()")),
    "softmax of integers": (
        lambda: F.softmax(minidl.tensor([1, 2]), 0),
        TypeError,
        ("softmax: input must be floating-point, not int64",),
    ),
    "log_softmax of integers": (lambda: F.log_softmax(minidl.tensor([1, 2]), 0), TypeError, ("log_softmax", "int64")),
    "norm of integers": (lambda: minidl.tensor([1, 2]).norm(), TypeError, ("norm: input must be floating-point",)),
    "elu of integers": (lambda: F.elu(minidl.tensor([1, 2])), TypeError, ("elu: input must be floating-point",)),
    # numbers out of range
    "division of integers by 0": (lambda: minidl.tensor([1]) // 0, ZeroDivisionError, ("floor_divide: the divisor b",)),
    "division of integers by a 0": (
        lambda: minidl.tensor([1, 2]) // minidl.tensor([1, 0]),
        ZeroDivisionError,
        ("floor_divide: the divisor b contains 0",),
    ),
    "remainder of integers by 0": (lambda: 3 % minidl.tensor([0]), ZeroDivisionError, ("remainder: the divisor b",)),
    "chunk": (lambda: minidl.chunk(t(3), 0), ValueError, ("chunk: chunks is 0", "at least 1")),
    "split into less than nothing": (lambda: minidl.split(t(4), [5, -1]), ValueError, ("[5, -1]", "at least 0")),
    "gather from the end": (
        lambda: minidl.gather(t(2, 3), 1, minidl.tensor([[0], [-1]])),
        IndexError,
        ("gather along axis 1", "from -1 to 0", "within 0 … 2"),
    ),
    "gather behind the end": (lambda: t(3).gather(0, minidl.tensor([3])), IndexError, ("from 3 to 3", "0 … 2")),
    "fraction of a group": (
        lambda: F.conv1d(t(1, 2, 4), t(2, 1, 2), groups=2.0),
        TypeError,
        ("conv1d: groups is 2.0", "whole numbers"),
    ),
    "einsum of a rectangle's diagonal": (
        lambda: minidl.einsum("ii->i", t(1, 3)),
        ValueError,
        ("einsum: index 'i'", "[1, 3]", "operand 0"),
    ),
    # losses
    "too few class weights": (
        lambda: F.cross_entropy(t(2, 3), minidl.tensor([0, 1]), t(2)),
        ValueError,
        ("cross_entropy: weight has shape (2,)", "(3,)"),
    ),
    "too many class weights": (
        lambda: F.nll_loss(t(2, 3), minidl.tensor([0, 1]), t(4)),
        ValueError,
        ("nll_loss: weight has shape (4,)", "(3,)"),
    ),
    "class weights for probabilities": (
        lambda: F.cross_entropy(t(2, 3), t(2, 3), t(1)),
        ValueError,
        ("cross_entropy: weight has shape (1,)", "(3,)"),
    ),
    "class weights of another type": (
        lambda: F.cross_entropy(t(2, 3), minidl.tensor([0, 1]), t(3, dtype="float64")),
        TypeError,
        ("cross_entropy: input is float32 but weight is float64",),
    ),
    "weights larger than the input": (
        lambda: F.binary_cross_entropy(t(3), t(3), t(2, 3)),
        ValueError,
        ("binary_cross_entropy: weight has shape (2, 3)", "(3,)"),
    ),
    "pos_weight larger than the input": (
        lambda: F.binary_cross_entropy_with_logits(t(3), t(3), pos_weight=t(2, 3)),
        ValueError,
        ("pos_weight has shape (2, 3)", "(3,)"),
    ),
    "negative variance": (lambda: F.gaussian_nll_loss(t(3), t(3), -t(3)), ValueError, ("var contains negative",)),
    "negative variance, a number": (lambda: F.gaussian_nll_loss(t(3), t(3), -1.0), ValueError, ("var is -1.0",)),
    "variance of another shape": (
        lambda: F.gaussian_nll_loss(t(2, 3), t(2, 3), t(3)),
        ValueError,
        ("var has shape (3,), input (2, 3)",),
    ),
    # number of axes
    "conv axes": (
        lambda: F.conv2d(t(1, 5), t(1, 1, 3, 3)),
        ValueError,
        ("conv2d", "(1, 5)", "must have 4 axes", "or 3 without the batch"),
    ),
    "conv weight axes": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(1, 1, 3)),
        ValueError,
        ("conv2d", "(1, 1, 5, 5)", "(1, 1, 3)", "same number of spatial axes"),
    ),
    "pool axes": (lambda: F.max_pool3d(t(1, 1, 4, 4, 4, 4), 2), ValueError, ("max_pool3d", "must have 5 axes")),
    "batch_norm axes": (
        lambda: F.batch_norm(t(3), None, None, training=True),
        ValueError,
        ("(3,)", "batch and a channel axis"),
    ),
    "dim": (lambda: t(2, 3).sum(2), IndexError, ("dim 2", "2 axes", "-2 … 1")),
    "dim twice": (lambda: t(2, 3).sum((0, -2)), ValueError, ("names an axis twice",)),
    "permute": (lambda: t(2, 3).permute(0, 0), ValueError, ("(0, 0)", "2 axes")),
    # convolution and pooling
    "negative padding": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(1, 1, 3, 3), padding=-1),
        ValueError,
        ("conv2d", "padding is -1", "at least 0"),
    ),
    "negative padding of a pool": (
        lambda: F.max_pool2d(t(1, 1, 5, 5), 2, padding=-1),
        ValueError,
        ("max_pool2d", "padding is -1", "at least 0"),
    ),
    "zero stride": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(1, 1, 3, 3), stride=0),
        ValueError,
        ("conv2d", "stride is 0", "at least 1"),
    ),
    "zero stride of a pool": (
        lambda: F.avg_pool2d(t(1, 1, 5, 5), 2, stride=(1, 0)),
        ValueError,
        ("avg_pool2d", "stride is (1, 0)", "at least 1"),
    ),
    "zero dilation": (
        lambda: F.conv1d(t(1, 1, 5), t(1, 1, 3), dilation=0),
        ValueError,
        ("dilation is 0", "at least 1"),
    ),
    "zero kernel": (lambda: F.max_pool2d(t(1, 1, 5, 5), 0), ValueError, ("kernel_size is 0", "at least 1")),
    "fraction": (lambda: F.conv1d(t(1, 1, 5), t(1, 1, 3), stride=1.5), TypeError, ("stride is 1.5", "whole numbers")),
    "too many strides": (
        lambda: F.conv2d(t(1, 1, 5, 5), t(1, 1, 3, 3), stride=(1, 1, 1)),
        ValueError,
        ("stride is (1, 1, 1)", "one number or 2"),
    ),
    "groups": (
        lambda: F.conv2d(t(1, 3, 5, 5), t(4, 1, 3, 3), groups=2),
        ValueError,
        ("groups=2", "must divide", "input channels (3)", "output channels (4)"),
    ),
    "no groups": (lambda: F.conv2d(t(1, 3, 5, 5), t(4, 3, 3, 3), groups=0), ValueError, ("groups is 0", "at least 1")),
    "empty output": (
        lambda: F.conv2d(t(1, 1, 2, 5), t(1, 1, 3, 3)),
        ValueError,
        ("the output would be empty", "axis 0 of 2", "size 2", "spans 3"),
    ),
    "empty output of a transposed conv": (
        lambda: F.conv_transpose1d(t(1, 1, 1), t(1, 1, 2), padding=1),
        ValueError,
        ("the output would be empty", "size 1", "size 0"),
    ),
    "empty output of a pool": (
        lambda: F.max_pool2d(t(1, 1, 2, 2), 3),
        ValueError,
        ("the output would be empty", "size 2", "size 3"),
    ),
    "output_padding": (
        lambda: F.conv_transpose1d(t(1, 1, 3), t(1, 1, 2), stride=2, output_padding=2),
        ValueError,
        ("output_padding must be smaller", "it is 2", "stride 2"),
    ),
    "same with a stride": (
        lambda: F.conv1d(t(1, 1, 5), t(1, 1, 3), stride=2, padding="same"),
        ValueError,
        ('padding="same"', "stride 1", "stride is (2,)"),
    ),
    "unknown padding": (
        lambda: F.conv1d(t(1, 1, 5), t(1, 1, 3), padding="full"),
        ValueError,
        ("'full'", '"same" or "valid"'),
    ),
    "padding of half a window": (
        lambda: F.max_pool1d(t(1, 1, 5), 2, padding=2),
        ValueError,
        ("at most half", "it is 2 of 2"),
    ),
    "divisor": (
        lambda: F.avg_pool2d(t(1, 1, 4, 4), 2, divisor_override=0),
        ValueError,
        ("divisor_override must not be 0",),
    ),
    "fold": (lambda: F.fold(t(1, 5, 4), (3, 3), 2), ValueError, ("5 rows", "4 elements")),
    # empty, out of range, not a choice
    "amax of nothing": (lambda: t(0, 3).amax(0), ValueError, ("amax", "axis 0", "(0, 3)", "empty")),
    "mean of nothing": (lambda: t(0, 3).mean(0), ValueError, ("mean", "(0, 3)", "nothing to average")),
    "var of one": (lambda: t(1).var(), ValueError, ("var", "1 elements", "correction=1")),
    "batch_norm of one": (
        lambda: F.batch_norm(t(1, 3), None, None, training=True),
        ValueError,
        ("(1, 3)", "1 value", "at least 2"),
    ),
    "dropout": (lambda: F.dropout(t(3), 1.5), ValueError, ("dropout", "p is 1.5", "0 to 1")),
    "reduction": (lambda: F.mse_loss(t(3), t(3), reduction="avg"), ValueError, ("mse_loss", "'avg'", '"mean"')),
    "probabilities": (
        lambda: F.binary_cross_entropy(t(3) * 2, t(3)),
        ValueError,
        ("probabilities", "binary_cross_entropy_with_logits"),
    ),
    "label_smoothing": (
        lambda: F.cross_entropy(t(2, 3), t(2, dtype="int64"), label_smoothing=2),
        ValueError,
        ("label_smoothing is 2", "0 to 1"),
    ),
    "gelu": (lambda: F.gelu(t(3), "erf"), ValueError, ("approximate is 'erf'", '"tanh"')),
    "clamp": (lambda: minidl.clamp(t(3)), ValueError, ("min, max or both",)),
    "pad": (lambda: F.pad(t(3), (4, 0), mode="reflect"), ValueError, ("(4, 0)", "axis 0 of size 3", "'reflect'")),
    "roll": (lambda: minidl.roll(t(3), (1, 2), 0), ValueError, ("2 shifts for 1 dims",)),
    # gradients
    "integer leaf": (lambda: t(3, dtype="int64", requires_grad=True), TypeError, ("floating-point tensors", "int64")),
    "integer leaf, later": (lambda: t(3, dtype="bool").requires_grad_(), TypeError, ("floating-point tensors", "bool")),
    "integer tensor": (
        lambda: minidl.tensor([1, 2], requires_grad=True),
        TypeError,
        ("floating-point tensors", "int64"),
    ),
    "no graph": (
        lambda: t(3).sum().backward(),
        RuntimeError,
        ("does not depend on anything that requires a gradient",),
    ),
    "no implicit gradient": (lambda: t(3, requires_grad=True).backward(), RuntimeError, ("one element", "(3,)")),
    "unused": (
        lambda: minidl.grad(t(2, requires_grad=True).sum(), t(3, requires_grad=True)),
        RuntimeError,
        ("inputs[0]", "(3,)", "allow_unused"),
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str):
    call, kind, words = BAD[name]
    with pytest.raises(kind) as raised:
        call()
    message = "\n".join([str(raised.value), *getattr(raised.value, "__notes__", ())])
    flat = re.sub(r"\s+", " ", message)
    for word in words:
        assert word in flat or word in message, f"{word!r} is not in {message!r}"


def test_kernel_errors_name_the_operation_and_its_arguments():
    with pytest.raises(IndexError) as raised:
        t(3, requires_grad=True)[5]
    assert any("getitem(x: float32[3])" in note for note in raised.value.__notes__)


def test_errors_come_from_recorded_and_unrecorded_calls_alike():
    for requires_grad in (False, True):
        with pytest.raises(ValueError) as raised:
            t(2, 3, requires_grad=requires_grad) + t(4, requires_grad=requires_grad)
        assert any("add(a: float32[2, 3], b: float32[4])" in note for note in raised.value.__notes__)


def test_backward_twice():
    x = t(3, requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"already used this graph.*retain_graph=True"):
        y.backward()


def test_changed_between_forward_and_backward():
    w = t(2, 3, requires_grad=True)
    y = F.linear(t(1, 3, requires_grad=True), w)
    w.data = np.zeros((2, 3), "float32")
    with pytest.raises(RuntimeError, match=r"linear: argument w \(float32\[2, 3\]\) was changed in place"):
        y.sum().backward()


def test_a_fraction_is_refused_whatever_was_computed_before():
    """2.0 and 2 are equal as keys of a cache."""
    F.conv1d(t(1, 1, 5), t(1, 1, 2), stride=2, padding=(2,))
    F.max_pool1d(t(1, 1, 6), 2, stride=(2,))
    for stride, padding in ((2.0, 2), ((2.0,), 2), (2, (2.0,))):
        with pytest.raises(TypeError, match=r"conv1d: (stride|padding) is .*2.0.*whole numbers"):
            F.conv1d(t(1, 1, 5), t(1, 1, 2), stride=stride, padding=padding)
    with pytest.raises(TypeError, match=r"max_pool1d: stride is \(2.0,\)"):
        F.max_pool1d(t(1, 1, 6), 2, stride=(2.0,))
