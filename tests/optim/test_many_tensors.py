"""Steps over many parameters at once: those that a kernel takes together and those it does not, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
from minidl import optim
from minidl.kernels.cpu import optimizer as kernels

OPTIONS = [
    (optim.Adam, {}),
    (optim.Adam, {"weight_decay": 0.1, "amsgrad": True}),
    (optim.Adam, {"weight_decay": 0.1, "maximize": True}),
    (optim.AdamW, {"weight_decay": 0.3}),
    (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.RMSprop, {"momentum": 0.5}),
]


def drawn(step: int) -> list[np.ndarray]:
    """Arrays of several types, in several memory orders, one of them with gaps and one without elements."""
    rng = np.random.default_rng(step)
    draw = lambda *shape: np.asarray(rng.standard_normal(shape), np.float32)
    arrays = [draw(7, 5), draw(3), draw(), draw(4, 6).T, draw(2, 3, 4, 5).transpose(0, 3, 1, 2), draw(0, 4)]
    arrays += [draw(6, 8)[:, ::2], draw(5, 3).astype(np.float64), draw(9).astype(np.float64), draw(300, 11)]
    return [*arrays, draw(8).astype(np.float16)]


def trained(kind: Any, options: dict) -> tuple[list[minidl.Tensor], Any]:
    """After steps in which not every parameter has a gradient, so that they count different numbers of them."""
    params = [minidl.Tensor(a).requires_grad_() for a in drawn(0)]
    optimizer = kind(params, **options)
    for step in range(1, 5):
        for i, (p, g) in enumerate(zip(params, drawn(step), strict=True)):
            p.grad = None if (i + step) % 3 == 0 else minidl.Tensor(g)
        optimizer.step()
    return params, optimizer


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_together_they_have_the_bits_of_one_after_the_other(
    kind: Any, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "worth", lambda elements: False)
    expected, alone = trained(kind, options)
    monkeypatch.setattr(kernels, "worth", lambda elements: True)
    monkeypatch.setattr(kernels, "SHARE", 1)
    got, together = trained(kind, options)
    for p, q in zip(got, expected, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
        assert p.data.strides == q.data.strides
        mine, other = together.state[p], alone.state[q]
        assert mine.keys() == other.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name])


def test_nothing_beside_the_parameters_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "worth", lambda elements: True)
    fields: list[np.ndarray] = [np.full(n + 32, 7, np.float32) for n in (1, 15, 16, 17, 100)]
    params = [minidl.Tensor(field[16:-16]).requires_grad_() for field in fields]
    optimizer = optim.Adam(params, lr=0.5)
    for p in params:
        p.grad = minidl.ones(*p.shape)
    optimizer.step()
    for field in fields:
        assert (field[:16] == 7).all() and (field[-16:] == 7).all()
        np.testing.assert_allclose(field[16:-16], 6.5, 1e-6)


def test_all_parameters_go_in_one_call_and_are_stamped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "worth", lambda elements: True)
    calls = []
    original = kernels.adam

    def counted(tensors: Any, *given: Any, **options: Any) -> None:
        calls.append(len(tensors))
        original(tensors, *given, **options)

    monkeypatch.setattr(kernels, "adam", counted)
    w, b = minidl.ones(3, 4, requires_grad=True), minidl.ones(3, requires_grad=True)
    x = minidl.ones(2, 4, requires_grad=True)
    optimizer = optim.Adam([w, b])
    loss = minidl.functional.linear(x, w, b).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    assert calls == [2]
    with pytest.raises(RuntimeError, match="changed in place"):
        loss.backward()


def test_few_elements_wait_for_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(kernels.sys.modules, "numba", raising=False)
    assert not kernels.worth(kernels.LARGE - 1)
    assert kernels.worth(kernels.LARGE)


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam])
def test_a_read_only_parameter_is_not_written_to(kind):
    array = np.ones(kernels.LARGE, np.float32)
    array.flags.writeable = False
    p = minidl.Tensor(array).requires_grad_()
    (p * p).sum().backward()
    with pytest.raises(ValueError, match="read-only"):
        kind([p], lr=0.1).step()
    assert (array == 1).all()
