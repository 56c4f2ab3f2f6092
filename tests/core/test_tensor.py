"""Tensor as data: making it, types, protocols, conversion, printing, errors."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl.core.random import generator


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (1.5, "float32"),
        ([1.0, 2], "float32"),
        (3, "int64"),
        ([[1, 2], [3, 4]], "int64"),
        (True, "bool"),
        ([True, False], "bool"),
        ([], "float32"),
        (np.arange(3.0), "float64"),
        (np.float64(2), "float64"),
        ([np.float64(2)], "float64"),
        (np.arange(3, dtype="uint8"), "uint8"),
        (np.ones(2, "float16"), "float16"),
    ],
)
def test_dtype_of_new_tensors(data, dtype):
    assert minidl.tensor(data).dtype == dtype


def test_tensor_copies_and_from_numpy_shares():
    a = np.zeros(3)
    copied, shared, wrapped = minidl.tensor(a), minidl.from_numpy(a), minidl.as_tensor(a)
    a[0] = 1
    assert copied[0].item() == 0
    assert shared[0].item() == wrapped[0].item() == 1
    assert minidl.as_tensor(shared) is shared
    assert minidl.as_tensor(a, dtype="float32").dtype == np.float32


@pytest.mark.parametrize("data", [np.array(["a"]), np.ones(2, complex), [1j], np.array([object()])])
def test_unsupported_types_are_named(data):
    with pytest.raises(TypeError, match="is not supported; the supported ones are bool, uint8"):
        minidl.tensor(data)


def test_ragged_lists():
    with pytest.raises(ValueError, match="data cannot become a tensor"):
        minidl.tensor([[1, 2], [3]])


def test_numpy_is_read_only_while_in_a_graph():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    for t in (x, x * 2):
        with pytest.raises(ValueError, match="read-only"):
            t.numpy()[0] = 5
    plain = minidl.tensor([1.0])
    plain.numpy()[0] = 5
    assert plain.item() == 5
    x.detach().numpy()[0] = 7
    assert x[0].item() == 7


def test_numpy_array_op_tensor_is_a_tensor():
    x = minidl.tensor(np.arange(3.0), requires_grad=True)
    a = np.ones(3)
    for y in (a + x, a * x, a - x, a / (x + 1), a @ x, a**x, np.float64(2) * x):
        assert isinstance(y, minidl.Tensor)
        assert y.requires_grad
    assert isinstance(a > x, minidl.Tensor)


def test_array_protocol():
    x = minidl.tensor([1.0, 2.0])
    np.testing.assert_array_equal(np.asarray(x), [1, 2])
    assert np.asarray(x, dtype="float64").dtype == np.float64
    x.requires_grad = True
    with pytest.raises(RuntimeError, match=r"use .numpy\(\) or .detach\(\)"):
        np.asarray(x)


def test_dlpack_round_trip():
    x = minidl.tensor(np.arange(6.0).reshape(2, 3))
    y = np.from_dlpack(x)
    assert np.shares_memory(x.data, y)
    z = minidl.from_dlpack(y)
    assert np.shares_memory(z.data, y)
    with pytest.raises(BufferError, match="detach"):
        (x.requires_grad_() * 2).__dlpack__()


def test_dlpack_from_torch():
    torch = pytest.importorskip("torch")
    t = torch.arange(6.0).reshape(2, 3)
    x = minidl.from_dlpack(t)
    t[0, 0] = 9
    assert x[0, 0].item() == 9
    np.testing.assert_array_equal(torch.from_dlpack(x).numpy(), x.numpy())


def test_in_place_changes_are_refused():
    x = minidl.tensor([1.0, 2.0])
    with pytest.raises(TypeError, match="not changed in place"):
        x[0] = 1
    y = x
    y += 1
    np.testing.assert_array_equal(x.numpy(), [1, 2])
    np.testing.assert_array_equal(y.numpy(), [2, 3])


def test_repr_reads_like_what_one_would_type():
    assert repr(minidl.tensor([1.0, 2.0])) == "tensor([1., 2.])"
    assert repr(minidl.tensor([1.0], requires_grad=True)) == "tensor([1.], requires_grad=True)"
    assert repr(minidl.tensor([1.0], requires_grad=True) * 2) == "tensor([2.], grad_fn=<mul>)"
    assert repr(minidl.tensor(np.array([1.0]))) == "tensor([1.], dtype=float64)"
    assert repr(minidl.tensor([1, 2])) == "tensor([1, 2])"
    assert "shape=(0, 3)" in repr(minidl.zeros(0, 3))
    assert (
        repr(minidl.tensor([[1.0, 2], [3, 4]], requires_grad=True).max(0)[0]) == "tensor([3., 4.], grad_fn=<reshape>)"
    )
    assert len(repr(minidl.zeros(1000, 1000))) < 2000
    assert f"{minidl.tensor(1.23456):.2f}" == "1.23"


def test_numbers_truth_and_length():
    x = minidl.tensor([[1.5]])
    assert (x.item(), float(x), int(x), bool(x), len(x)) == (1.5, 1.5, 1, True, 1)
    assert list(range(5))[minidl.tensor(2)] == 2
    with pytest.raises(TypeError, match="only an integer tensor of one element is an index"):
        list(range(5))[minidl.tensor(2.0)]
    with pytest.raises(ValueError, match="ambiguous"):
        bool(minidl.ones(2))
    with pytest.raises(ValueError, match=r"one element; this one has shape \(2,\)"):
        minidl.ones(2).item()
    with pytest.raises(TypeError, match="no length"):
        len(minidl.tensor(1.0))
    assert minidl.tensor([1, 2]).tolist() == [1, 2]
    assert (x == None) is False  # noqa: E711
    assert len({x, x}) == 1


def test_deepcopy_and_pickle():
    x = minidl.tensor(np.asfortranarray(np.ones((2, 3))), requires_grad=True)
    twin = copy.deepcopy(x)
    assert twin.requires_grad
    assert not np.shares_memory(twin.data, x.data)
    assert twin.data.strides == x.data.strides
    with pytest.raises(RuntimeError, match="detach"):
        copy.deepcopy(x * 2)
    with pytest.raises(TypeError, match="safetensors"):
        pickle.dumps(x)


def test_to_changes_type_and_gradients_come_back_in_the_old_one():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    y = x.double()
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4])
    assert x.to("float32") is x
    assert x.to(y).dtype == np.float64
    assert x.to("cpu") is x
    with pytest.raises(TypeError, match="complex128 is not supported"):
        x.to(complex)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:1", "cuda:-1"])
def test_unknown_devices(device):
    with pytest.raises((ValueError, TypeError), match=r"device is .* must be|data type"):
        minidl.tensor([1.0], device=device)


def test_without_cuda_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install 'minidl\[cuda\]'"):
        minidl.ones(2).to("cuda")


def test_seeds_repeat_and_states_go_back():
    minidl.manual_seed(3)
    a = minidl.rand(4)
    state = minidl.get_rng_state()
    b = minidl.randn(4)
    minidl.set_rng_state(state)
    np.testing.assert_array_equal(minidl.randn(4).numpy(), b.numpy())
    minidl.manual_seed(3)
    np.testing.assert_array_equal(minidl.rand(4).numpy(), a.numpy())
    assert generator() is generator()


def test_creation():
    assert minidl.zeros(2, 3).shape == minidl.zeros((2, 3)).shape == (2, 3)
    assert minidl.full((2,), 3).dtype == np.int64
    assert minidl.full((2,), 3.0).dtype == np.float32
    assert minidl.arange(3).dtype == np.int64
    assert minidl.arange(0, 1, 0.25).tolist() == [0, 0.25, 0.5, 0.75]
    assert minidl.eye(2).tolist() == [[1, 0], [0, 1]]
    assert minidl.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
    assert sorted(minidl.randperm(5).tolist()) == [0, 1, 2, 3, 4]
    assert minidl.ones_like(minidl.zeros(2, dtype="float64")).dtype == np.float64
    assert minidl.randint(3, size=(100,)).numpy().max() == 2
    assert minidl.bernoulli(minidl.tensor([0.0, 1.0])).tolist() == [0, 1]
    assert minidl.randn(1000).numpy().std() == pytest.approx(1, abs=0.1)


class TestTransforms:
    """vjp, jvp, hvp against written-out Jacobians."""

    a = np.random.default_rng(0).normal(size=(3, 4))
    x = np.random.default_rng(1).normal(size=4)
    v = np.random.default_rng(2).normal(size=4)
    u = np.random.default_rng(3).normal(size=3)

    def f(self, x):
        return minidl.tanh(minidl.tensor(self.a) @ x)

    @property
    def jacobian(self):
        return (1 - np.tanh(self.a @ self.x) ** 2)[:, None] * self.a

    def test_vjp(self):
        y, g = minidl.vjp(self.f, minidl.tensor(self.x), minidl.tensor(self.u))
        np.testing.assert_allclose(y.numpy(), np.tanh(self.a @ self.x))
        np.testing.assert_allclose(g.numpy(), self.u @ self.jacobian)
        assert not y.requires_grad

    def test_jvp(self):
        y, t = minidl.jvp(self.f, (minidl.tensor(self.x),), (minidl.tensor(self.v),))
        np.testing.assert_allclose(y.numpy(), np.tanh(self.a @ self.x))
        np.testing.assert_allclose(t.numpy(), self.jacobian @ self.v)

    def test_jvp_of_a_linear_and_of_a_constant_function(self):
        _, t = minidl.jvp(lambda x: x * 3, minidl.tensor(self.x), minidl.tensor(self.v))
        np.testing.assert_allclose(t.numpy(), 3 * self.v)
        _, t = minidl.jvp(lambda x: minidl.tensor(self.u), minidl.tensor(self.x), minidl.tensor(self.v))
        np.testing.assert_allclose(t.numpy(), np.zeros(3))

    def test_jvp_of_several_inputs_and_outputs(self):
        f = lambda x, y: (x * y, x + y)
        x, y, dx, dy = (minidl.tensor(a) for a in (self.x, self.v, self.v, self.x))
        _, (product, total) = minidl.jvp(f, (x, y), (dx, dy))
        np.testing.assert_allclose(product.numpy(), self.v**2 + self.x**2)
        np.testing.assert_allclose(total.numpy(), self.v + self.x)

    def test_hvp(self):
        y, h = minidl.hvp(lambda x: (x**3).sum(), minidl.tensor(self.x), minidl.tensor(self.v))
        assert y.item() == pytest.approx((self.x**3).sum())
        np.testing.assert_allclose(h.numpy(), 6 * self.x * self.v)
        _, h = minidl.hvp(lambda x: x.sum(), minidl.tensor(self.x), minidl.tensor(self.v))
        np.testing.assert_allclose(h.numpy(), np.zeros(4))

    def test_functions_that_ignore_their_inputs(self):
        one = lambda x: minidl.tensor(np.array(1.0))
        x, v = minidl.tensor(self.x), minidl.tensor(self.v)
        np.testing.assert_array_equal(minidl.vjp(one, x)[1].numpy(), np.zeros(4))
        np.testing.assert_array_equal(minidl.hvp(one, x, v)[1].numpy(), np.zeros(4))
        with pytest.raises(ValueError, match="v has 1 tensors for 2 inputs"):
            minidl.jvp(lambda x, y: x + y, (x, x), (v,))

    def test_results_can_be_differentiated(self):
        x = minidl.tensor(self.x)
        _, t = minidl.jvp(
            lambda x: minidl.jvp(lambda z: z**3, x, minidl.tensor(self.v), create_graph=True)[1],
            x,
            minidl.tensor(self.v),
        )
        np.testing.assert_allclose(t.numpy(), 6 * self.x * self.v**2)


class TestCheckpoint:
    def setup_method(self):
        rng = np.random.default_rng(0)
        self.x = minidl.tensor(rng.normal(size=(2, 3)), requires_grad=True)
        self.w = minidl.tensor(rng.normal(size=(3, 3)), requires_grad=True)

    def block(self, h):
        return (h @ self.w).tanh() * h

    @pytest.mark.parametrize("order", [1, 2, 3])
    def test_same_gradients_as_without(self, order):
        def run(f):
            y = f(self.x.tanh()).sum()
            for _ in range(order):
                gs = minidl.grad(y, [self.x, self.w], create_graph=True)
                y = sum((g * g).sum() for g in gs)
            return [g.numpy() for g in gs]

        nested = lambda h: minidl.checkpoint(lambda q: minidl.checkpoint(self.block, q) + q, h)
        plain = lambda h: self.block(h) + h
        for got, want in zip(run(nested), run(plain), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-12)

    def test_random_numbers_repeat_and_the_stream_goes_on(self):
        drawn = []

        def noisy(h):
            mask = minidl.rand(3)
            drawn.append(mask.numpy())
            return h * mask

        minidl.manual_seed(0)
        y = minidl.checkpoint(noisy, self.x)
        after = minidl.rand(1).item()
        y.sum().backward()
        np.testing.assert_array_equal(drawn[0], drawn[1])
        np.testing.assert_allclose(self.x.grad.numpy(), np.broadcast_to(drawn[0], (2, 3)))
        minidl.manual_seed(0)
        minidl.rand(3)
        assert minidl.rand(1).item() == after

    def test_keeps_arguments_only(self):
        import gc
        import tracemalloc

        x = minidl.tensor(np.ones((256, 1024), "float32"), requires_grad=True)
        deep = lambda h: h.tanh().tanh().tanh().tanh() * 1.0

        def bytes_kept(f):
            gc.collect()
            tracemalloc.start()
            y = f(x)
            node = y.node  # noqa: F841
            del y
            used = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
            return used

        minidl.checkpoint(deep, x)  # what is imported when it is first needed must not count
        assert bytes_kept(lambda x: minidl.checkpoint(deep, x)) < 20_000
        assert bytes_kept(deep) > 3 * x.nbytes

    def test_several_outputs_and_other_arguments(self):
        def f(x, scale, flag):
            assert flag is None
            return x * scale, (x @ self.w).sum(), minidl.argmax(x, 1)

        a, b, index = minidl.checkpoint(f, self.x, 2.0, None)
        assert not index.requires_grad
        (a.sum() * b).backward()
        got = self.x.grad.numpy(), self.w.grad.numpy()
        self.x.grad = self.w.grad = None
        a, b, _ = f(self.x, 2.0, None)
        (a.sum() * b).backward()
        np.testing.assert_allclose(got[0], self.x.grad.numpy())
        np.testing.assert_allclose(got[1], self.w.grad.numpy())

    def test_hooks_of_its_closure_run_once(self):
        self.w.register_hook(lambda g: g * 10)
        nested = lambda x: minidl.checkpoint(lambda q: minidl.checkpoint(lambda r: r @ self.w, q), x)
        nested(self.x).sum().backward()
        np.testing.assert_allclose(self.w.grad.numpy(), 10 * np.repeat(self.x.numpy().sum(0)[:, None], 3, 1))

    def test_it_may_return_what_it_did_not_make(self):
        a, b, c = minidl.checkpoint(lambda x: (x * 2, self.w, x), self.x)
        (a.sum() + (b * b).sum() + c.sum()).backward()
        np.testing.assert_allclose(self.x.grad.numpy(), np.full((2, 3), 3.0))
        np.testing.assert_allclose(self.w.grad.numpy(), 2 * self.w.numpy())

    def test_the_function_may_use_hooks_and_gradients(self):
        seen = []

        def penalty(x):
            y = (x @ self.w).tanh()
            y.register_hook(lambda g: seen.append(g.shape))
            (g,) = minidl.grad(y.sum(), x, create_graph=True)
            return (g * g).sum() + y.sum()

        minidl.checkpoint(penalty, self.x).backward()
        got = self.x.grad.numpy(), self.w.grad.numpy()
        assert seen
        self.x.grad = self.w.grad = None
        penalty(self.x).backward()
        np.testing.assert_allclose(got[0], self.x.grad.numpy())
        np.testing.assert_allclose(got[1], self.w.grad.numpy())

    def test_threads_do_not_disturb_each_others_random_numbers(self):
        import threading

        wrong = []

        def run():
            for _ in range(50):
                x = minidl.ones(16, requires_grad=True)
                y = minidl.checkpoint(lambda a: F.dropout(a, 0.5), x)
                y.sum().backward()
                if not np.array_equal(y.numpy(), x.grad.numpy()):
                    wrong.append(1)

        threads = [threading.Thread(target=run) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_without_gradients_it_is_just_the_call(self):
        with minidl.no_grad():
            assert not minidl.checkpoint(self.block, self.x).requires_grad
        assert not minidl.checkpoint(lambda h: h * 2, minidl.ones(2)).requires_grad
        with pytest.raises(TypeError, match="output 0 is a float"):
            minidl.checkpoint(lambda h: 1.0, self.x)


def test_parameters_refuse_to_be_changed_in_place():
    p = minidl.nn.Parameter(minidl.ones(2))
    with pytest.raises(TypeError, match=r"p.data -= x`, and call p.mutated\(\)"):
        p -= 0.5
    total = minidl.ones(2, requires_grad=True) * 1
    total += 1
    assert total.tolist() == [2, 2]


def test_a_gradient_that_is_set_must_fit():
    x = minidl.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"float64\[2\], its tensor float32\[2\]"):
        x.grad = minidl.ones(2, dtype="float64")
    with pytest.raises(TypeError, match="must be a tensor"):
        x.grad = 1.0
    x.grad = minidl.ones(2)
    np.testing.assert_array_equal(copy.deepcopy(x).grad.numpy(), [1, 1])


def test_float16_survives_arithmetic():
    x = minidl.tensor(np.ones(3, "float16"), requires_grad=True)
    y = (x * 2 + 1).tanh()
    assert y.dtype == np.float16
    y.sum().backward()
    assert x.grad.dtype == np.float16


def test_mixed_types_in_a_layer_are_an_error():
    with pytest.raises(TypeError, match="input is float32 but weight is float64; give both the same type"):
        F.linear(minidl.ones(2), minidl.ones(2, 2, dtype="float64"))


def test_type_checkers_know_exactly_what_tensors_can_do():
    import ast
    from pathlib import Path

    import minidl.core

    (declared,) = (
        node
        for node in ast.parse(Path(minidl.core.__file__).with_name("declared.pyi").read_text()).body
        if isinstance(node, ast.ClassDef)
    )
    names = {node.name for node in declared.body if isinstance(node, ast.FunctionDef)}
    written = set(vars(minidl.Tensor)) & names
    assert names == written, f"declared but not there: {sorted(names - written)}"
    source = ast.parse(Path(minidl.core.tensor.__code__.co_filename).read_text())
    (own,) = (node for node in source.body if isinstance(node, ast.ClassDef) and node.name == "Tensor")
    defined = {node.name for node in own.body if isinstance(node, ast.FunctionDef)}
    installed = {name for name, value in vars(minidl.Tensor).items() if callable(value) or isinstance(value, property)}
    assert installed - defined - names <= {"__hash__"}, "installed but not declared"
