"""The graph and the sweep: orders of derivatives, memory, freeing, errors."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn, optim
from minidl.core import Primitive
from minidl.core.graph import Item, Leaf
from minidl.ops.elementwise import mul, tanh


def leaf(*shape: int, seed: int = 0) -> minidl.Tensor:
    return minidl.tensor(np.random.default_rng(seed).normal(size=shape), requires_grad=True)


def derivatives(f, x: minidl.Tensor, order: int) -> list[np.ndarray]:
    """f', f'', … of an elementwise function."""
    out, y = [], f(x)
    for _ in range(order):
        (y,) = minidl.grad(y.sum(), x, create_graph=True)
        out.append(y.numpy().copy())
    return out


def test_derivatives_of_known_functions_up_to_fourth_order():
    x = leaf(5)
    a = x.numpy()
    for got, want in zip(derivatives(lambda x: x**4, x, 4), (4 * a**3, 12 * a**2, 24 * a, 24 + 0 * a), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    sin, cos = np.sin(a), np.cos(a)
    for got, want in zip(derivatives(minidl.sin, x, 4), (cos, -sin, -cos, sin), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)
    t = np.tanh(a)
    first, second = 1 - t * t, -2 * t * (1 - t * t)
    for got, want in zip(
        derivatives(minidl.tanh, x, 3), (first, second, -2 * first**2 + 4 * t * t * first), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_powers_at_zero_stay_finite_to_third_order():
    x = minidl.tensor(np.array([0.0, 2.0]), requires_grad=True)
    for got, want in zip(derivatives(lambda x: x**2, x, 3), ([0, 4], [2, 2], [0, 0]), strict=True):
        np.testing.assert_array_equal(got, want)
    for got, want in zip(derivatives(lambda x: x**0 + x**1, x, 2), ([1, 1], [0, 0]), strict=True):
        np.testing.assert_array_equal(got, want)
    exponent = minidl.tensor(np.array([2.0, 0.0]), requires_grad=True)
    gx, gb = minidl.grad((x**exponent).sum(), [x, exponent])
    np.testing.assert_allclose(gx.numpy(), [0, 0])
    np.testing.assert_allclose(gb.numpy(), [0, np.log(2)])


def test_a_tensor_used_twice_gets_both_gradients():
    x = leaf(4)
    y = x * x
    (y * x + y).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * x.numpy() ** 2 + 2 * x.numpy(), rtol=1e-12)


def test_gradients_add_up_over_backward_passes():
    x = leaf(3)
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 5.0))
    x.grad = None
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 3.0))


def test_broadcast_arguments_get_gradients_of_their_own_shape():
    x, y, z = leaf(3, 1), leaf(4), leaf()
    (x * y + z).sum().backward()
    assert (x.grad.shape, y.grad.shape, z.grad.shape) == ((3, 1), (4,), ())
    np.testing.assert_allclose(x.grad.numpy()[:, 0], np.full(3, y.numpy().sum()))
    np.testing.assert_allclose(z.grad.numpy(), 12)


def test_third_order_gradients_of_a_small_conv_net():
    """Each order is the directional central difference of the one below."""
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=s) for s in ((1, 2, 6, 5), (3, 2, 3, 3), (3,), (2, 3, 2, 2))]
    directions = [[rng.normal(size=a.shape) for a in arrays] for _ in range(3)]

    def derivative(arrays, order):
        """The order-fold directional derivative of the net's loss."""
        xs = [minidl.tensor(a, requires_grad=True) for a in arrays]
        x, w, b, v = xs
        h = F.avg_pool2d(F.conv2d(x, w, b, stride=(1, 2), padding=1).tanh(), 2, ceil_mode=True)
        y = (F.conv2d(h, v).sigmoid() ** 2).sum()
        for direction in directions[:order]:
            gs = minidl.grad(y, xs, create_graph=True)
            y = sum((g * minidl.tensor(d)).sum() for g, d in zip(gs, direction, strict=True))
        return float(y)

    step = 2e-5
    for order in (1, 2, 3):
        along = directions[order - 1]
        forward, back = (
            derivative([a + s * d for a, d in zip(arrays, along, strict=True)], order - 1) for s in (step, -step)
        )
        assert derivative(arrays, order) == pytest.approx((forward - back) / (2 * step), rel=1e-5, abs=1e-6)


def test_the_input_gradient_of_the_first_layer_is_never_computed(monkeypatch):
    called = []
    kernel = minidl.kernels.table.find
    monkeypatch.setattr("minidl.kernels.table.find", lambda op, column: called.append(op) or kernel(op, column))
    for name in ("conv", "conv_input", "conv_weight"):
        monkeypatch.setattr(Primitive.names[name], "kernels", {})
    x, w = minidl.randn(2, 3, 8, 8), minidl.randn(4, 3, 3, 3, requires_grad=True)
    y = F.conv2d(x, w)
    assert y.node.saved[0] is None
    y.sum().backward()
    assert "conv_weight" in called
    assert "conv_input" not in called


def test_grad_computes_only_what_leads_to_the_inputs():
    x, w = leaf(3), leaf(3)
    h = x * x
    y = (h * w).sum()
    gh, gx = minidl.grad(y, [h, x], retain_graph=True)
    np.testing.assert_allclose(gh.numpy(), w.numpy())
    np.testing.assert_allclose(gx.numpy(), 2 * x.numpy() * w.numpy())
    assert x.grad is None
    assert w.grad is None


def test_unused_inputs():
    x, z = leaf(3), leaf(2)
    with pytest.raises(RuntimeError, match=r"inputs\[1\] \(shape \(2,\)\) is not used"):
        minidl.grad((x * 1).sum(), [x, z], retain_graph=True)
    assert minidl.grad((x * 1).sum(), [x, z], allow_unused=True)[1] is None
    with pytest.raises(RuntimeError, match=r"inputs\[0\] does not require"):
        minidl.grad((x * 1).sum(), [minidl.ones(2)])


def test_several_outputs_with_weights():
    x = leaf(3)
    (g,) = minidl.grad([x * 2, (x * x).sum()], x, [minidl.tensor(np.array([1.0, 2, 3])), None])
    np.testing.assert_allclose(g.numpy(), 2 * np.array([1.0, 2, 3]) + 2 * x.numpy())


def test_ten_thousand_chained_operations_do_not_recurse():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    h = x
    for _ in range(10_000):
        h = h * 1.0001
    h.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full(2, 1.0001**10_000), rtol=1e-3)
    top = weakref.ref(h.node)
    del h
    assert top() is None


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize(
    "build",
    [
        lambda x: tanh(x * x),
        lambda x: minidl.softmax(x, 1),
        lambda x: F.cross_entropy(x, minidl.tensor([0, 2, 1])),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: minidl.cat(minidl.unbind(x), 0) * 2,
        lambda x: minidl.checkpoint(lambda q: tanh(q) * q, x),
        lambda x: F.max_pool1d(x.reshape(1, 3, 4), 2).tanh(),
        lambda x: x.max(1)[0],
    ],
)
def test_graphs_free_themselves_without_the_collector(build, twice):
    x = leaf(3, 4)
    y = build(x)
    nodes = [weakref.ref(y.node)]
    if twice:
        (g,) = minidl.grad(y.sum(), x, create_graph=True)
        if g.node is not None:
            nodes.append(weakref.ref(g.node))
        del g
    del y
    assert [n() for n in nodes] == [None] * len(nodes)


def kept(build, *shapes: tuple[int, ...]) -> int:
    """Bytes that stay allocated for the graph once its result is dropped, beside the leaves."""
    xs = [minidl.tensor(np.ones(s, "float32"), requires_grad=True) for s in shapes]
    build(*xs)  # compile and cache what is to be
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    y = build(*xs)
    node = y.node  # noqa: F841 (holds the graph)
    del y
    used = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return used


ONE = 64 * 16 * 32 * 32 * 4  # bytes of one activation below
FULL, WEIGHT, VECTOR = (64, 16, 32, 32), (16, 16, 3, 3), (16,)
CASES = {
    # name: (computation, shapes of its leaves, activations that PyTorch keeps beside the leaves)
    "add": (lambda x, y: x + y, (FULL, FULL), 0),
    "mul": (lambda x, y: x * y, (FULL, FULL), 0),
    "scale": (lambda x: x * 2.0, (FULL,), 0),
    "sum": (lambda x: x.sum(), (FULL,), 0),
    "relu": (lambda x: x.relu(), (FULL,), 1),
    "tanh": (lambda x: x.tanh(), (FULL,), 1),
    "relu of tanh": (lambda x: x.tanh().relu(), (FULL,), 2),
    "conv": (lambda x, w: F.conv2d(x, w, padding=1), (FULL, WEIGHT), 0),
    "conv of relu": (lambda x, w: F.conv2d(x.relu(), w, padding=1), (FULL, WEIGHT), 1),
    "conv-bn-relu": (
        lambda x, w, b, gamma, beta: F.batch_norm(
            F.conv2d(x, w, b, padding=1), None, None, gamma, beta, training=True
        ).relu(),
        (FULL, WEIGHT, VECTOR, VECTOR, VECTOR),
        2,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_graph_keeps_no_more_than_pytorchs(name):
    build, shapes, activations = CASES[name]
    assert kept(build, *shapes) <= activations * ONE + 20_000  # and a little for the nodes themselves


@pytest.mark.parametrize("name", CASES)
def test_the_figures_above_are_pytorchs(name):
    torch = pytest.importorskip("torch")
    builds = {
        "sum": lambda x: x.sum(),
        "scale": lambda x: x * 2.0,
        "conv": lambda x, w: torch.conv2d(x, w, padding=1),
        "conv of relu": lambda x, w: torch.conv2d(x.relu(), w, padding=1),
        "conv-bn-relu": lambda x, w, b, gamma, beta: torch.nn.functional.batch_norm(
            torch.conv2d(x, w, b, padding=1), None, None, gamma, beta, training=True
        ).relu(),
    }
    build, shapes, activations = CASES[name]
    leaves = [torch.ones(s, requires_grad=True) for s in shapes]
    own = {x.untyped_storage().data_ptr() for x in leaves}
    seen = {}

    def pack(t):
        storage = t.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = (storage, storage.nbytes())
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        builds.get(name, build)(*leaves)
    assert round(sum(n for _, n in seen.values()) / ONE) == activations


def test_backward_drops_arrays_as_it_goes():
    x = minidl.tensor(np.ones(1 << 18, "float32"), requires_grad=True)
    h = x
    for _ in range(20):
        h = h.tanh()
    y = h.sum()
    del h
    tracemalloc.start()
    y.backward()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * x.nbytes


def test_leaf_gradients_come_out_as_early_as_they_can():
    seen: list[str] = []
    ws = [leaf(2, 2, seed=i) for i in range(3)]
    h = minidl.tensor(np.ones((2, 2)))
    for i, w in enumerate(ws):
        h = (h @ w).tanh()
        w.register_hook(lambda g, i=i: seen.append(f"w{i}"))
        h.register_hook(lambda g, i=i: seen.append(f"h{i}"))
    h.sum().backward()
    assert seen == ["h2", "w2", "h1", "w1", "h0", "w0"]


def test_hooks_see_replace_and_leave():
    x = leaf(3)
    h = x.tanh()
    seen: list[np.ndarray] = []
    h.register_hook(lambda g: g * 2)
    handle = x.register_hook(lambda g: seen.append(g.numpy()))
    h.sum().backward(retain_graph=True)
    np.testing.assert_allclose(x.grad.numpy(), 2 * (1 - np.tanh(x.numpy()) ** 2))
    handle.remove()
    h.sum().backward()
    assert len(seen) == 1
    x.register_hook(lambda g: "nonsense")
    with pytest.raises(TypeError, match=r"must return None or a tensor float64\[3\], not 'nonsense'"):
        (x * 1).sum().backward()
    with pytest.raises(RuntimeError, match="requires gradients"):
        minidl.ones(2).register_hook(print)


def test_backward_twice_needs_retain_graph():
    x = leaf(3)
    y = x.tanh().sum()
    y.backward()
    with pytest.raises(RuntimeError, match=r"already used this graph and freed its arrays.*retain_graph=True"):
        y.backward()
    y = x.tanh().sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 3 * (1 - np.tanh(x.numpy()) ** 2))


@pytest.mark.parametrize(
    "use",
    [
        lambda w: w * w,
        lambda w: w.reshape(4) * w.reshape(4),
        lambda w: w[0] ** 3,
        lambda w: w.T.tanh() * w.T,
        lambda w: minidl.unbind(w)[0] * minidl.unbind(w)[1],
        lambda w: F.linear(minidl.tensor(np.ones((1, 2)), requires_grad=True), w),
        lambda w: minidl.checkpoint(lambda v: v * 2, w),
        lambda w: minidl.checkpoint(lambda v: v * w, minidl.tensor(np.ones((2, 2)))),
        lambda w: F.batch_norm(w, None, None, training=True),
    ],
)
def test_a_leaf_changed_in_place_after_its_use_is_noticed(use):
    w = leaf(2, 2)
    y = use(w).sum()
    w.data[...] += 1
    w.mutated()
    with pytest.raises(RuntimeError, match=r"changed in place .* Run the forward pass again"):
        y.backward()


def frozen_module():
    layer = nn.Linear(2, 1, bias=False).requires_grad_(False)
    y = layer(minidl.ones(1, 2, requires_grad=True)).sum()
    layer.load_state_dict({"weight": np.full((1, 2), 5.0)})
    return y


def view_of_a_leaf():
    w = leaf(2)
    y = (w * w).sum()
    nn.init.constant_(w[0:1], 5.0)
    return y


def detached_and_stepped():
    w = nn.Parameter(minidl.ones(2))
    x = minidl.ones(2, requires_grad=True)
    y = (x * w.detach()).sum()
    (w * 2).sum().backward()
    optim.SGD([w], lr=1.0).step()
    return y


def state_dict_written():
    layer = nn.Linear(2, 1)
    y = layer(minidl.ones(1, 2, requires_grad=True)).sum()
    weight = layer.state_dict()["weight"]
    weight.data[...] = 0
    weight.mutated()
    return y


def buffer_loaded():
    norm = nn.BatchNorm1d(2)
    y = (minidl.ones(3, 2, requires_grad=True) * norm.running_var).sum()
    norm.load_state_dict(norm.state_dict() | {"running_var": np.full(2, 7.0)})
    return y


def constant_of_a_checkpoint():
    w = minidl.tensor([3.0])
    y = minidl.checkpoint(lambda a: (a + w).tanh(), minidl.ones(1, requires_grad=True)).sum()
    w.data[...] = 9
    w.mutated()
    return y


@pytest.mark.parametrize(
    "build",
    [
        frozen_module,
        view_of_a_leaf,
        detached_and_stepped,
        state_dict_written,
        buffer_loaded,
        constant_of_a_checkpoint,
    ],
)
def test_a_write_is_noticed_through_whatever_tensor_it_goes(build):
    with pytest.raises(RuntimeError, match=r"changed in place .* Run the forward pass again"):
        build().backward()


def test_a_write_to_what_was_copied_is_no_trouble():
    w = leaf(3)
    y = (w[minidl.tensor([0, 1])] ** 2).sum()
    before = w.numpy().copy()
    w.data[...] = 5
    w.mutated()
    y.backward()
    np.testing.assert_allclose(w.grad.numpy(), [2 * before[0], 2 * before[1], 0])


def test_a_leaf_changed_while_frozen_is_noticed_too():
    w = leaf(2)
    y = (w * w).sum()
    w.requires_grad = False
    w.data[...] = 5
    w.mutated()
    w.requires_grad = True
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_a_leaf_changed_in_place_that_no_rule_needs_is_no_trouble():
    w = leaf(2, 2)
    y = (w + 1).sum()
    w.data[...] += 1
    w.mutated()
    y.backward()
    z = (w * w).sum()  # a new forward pass sees the new value
    z.backward()
    np.testing.assert_allclose(w.grad.numpy(), 1 + 2 * w.numpy())


def test_assigning_data_checks_shape_and_type():
    w = leaf(2, 2)
    y = (w * w).sum()
    w.data = np.zeros((2, 2))
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()
    with pytest.raises(ValueError, match=r"float64\[2\], this tensor float64\[2, 2\]"):
        w.data = np.zeros(2)


def test_gradients_at_rest_share_nothing_with_the_caller_and_keep_the_leafs_layout():
    x = minidl.tensor(np.asfortranarray(np.ones((3, 4))), requires_grad=True)
    assert x.data.flags.f_contiguous
    seed = minidl.tensor(np.ones((3, 4)))
    (x + 0).backward(seed)
    assert not np.shares_memory(x.grad.data, seed.data)
    assert x.grad.data.strides == x.data.strides
    y = leaf(5)
    y.sum().backward()
    assert y.grad.data.flags.writeable


def test_no_two_tensors_get_one_array_as_gradient():
    a, b = leaf(3), leaf(3, seed=1)
    ((a + b) ** 2).sum().backward()
    a.grad.data[...] = 0
    np.testing.assert_allclose(b.grad.numpy(), 2 * (a.numpy() + b.numpy()))
    first, second = minidl.grad((a + b).sum(), [a, b])
    first.data *= 2
    np.testing.assert_array_equal(second.numpy(), np.ones(3))


def test_parameters_may_be_given_as_an_iterator():
    layer = nn.Linear(2, 1)
    gw, gb = minidl.grad(layer(minidl.ones(1, 2)).sum(), layer.parameters())
    assert (gw.shape, gb.shape) == ((1, 2), (1,))


def test_threads_may_run_backward_into_the_same_leaf():
    w = minidl.zeros(200_000, requires_grad=True)

    def run():
        for _ in range(20):
            (w * 1.0).sum().backward()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(w.grad.numpy(), np.full(200_000, 80))


def test_a_gradient_must_fit():
    x = leaf(3)
    with pytest.raises(RuntimeError, match=r"one element has an implicit gradient .* shape \(3,\)"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gradient has shape \(2,\), its tensor \(3,\)"):
        (x * 2).backward(minidl.ones(2))
    with pytest.raises(RuntimeError, match="does not depend on anything that requires a gradient"):
        minidl.ones(1).backward()


def test_integers_ask_for_no_gradients():
    with pytest.raises(TypeError, match="only floating-point tensors can require gradients; this one is int64"):
        minidl.tensor([1, 2], requires_grad=True)
    x = leaf(4)
    values, indices = x.max(0)
    assert values.requires_grad
    assert not indices.requires_grad


def test_freezing_a_leaf_keeps_its_gradient():
    x = leaf(2)
    (x * 2).sum().backward()
    x.requires_grad = False
    assert not (x * 2).requires_grad
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2])
    x.requires_grad = True
    (x * 3).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [5, 5])
    with pytest.raises(RuntimeError, match="can only be set on leaves"):
        (x * 2).requires_grad = False


def test_recording_is_switched_per_thread():
    x = leaf(2)
    inside: list[bool] = []
    with minidl.no_grad():
        assert not (x * 2).requires_grad
        thread = threading.Thread(target=lambda: inside.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        with minidl.enable_grad():
            assert (x * 2).requires_grad
    assert inside == [True]
    assert (x * 2).requires_grad

    @minidl.no_grad()
    def evaluate(x):
        return x * 2

    assert not evaluate(x).requires_grad
    assert minidl.is_grad_enabled()


def test_anomalies_are_reported_with_operation_and_line():
    x = minidl.tensor(np.array([0.0, 1.0]), requires_grad=True)
    with minidl.detect_anomaly(), np.errstate(divide="ignore", invalid="ignore"):
        y = minidl.sqrt(x).sum()  # this line
        with pytest.raises(ArithmeticError) as caught:
            y.backward()
    message = str(caught.value)
    assert "gradient of sqrt with respect to its argument x has 1 of 2 elements that are not finite (0 NaN)" in message
    assert "test_graph.py" in message
    assert "y = minidl.sqrt(x).sum()  # this line" in message


def test_anomalies_that_arise_by_adding_up_are_reported_too():
    x = minidl.tensor([1.0], requires_grad=True)
    with minidl.detect_anomaly(), np.errstate(over="ignore"):
        y = (x * 3e38 + x * 3e38).sum()
        with pytest.raises(ArithmeticError, match="the sum of all gradients that reach a tensor"):
            y.backward()


def test_primitives_say_what_is_wrong_with_their_definition():
    with pytest.raises(TypeError, match=r"names \['z'\]; it may name \['x', 'y'\]"):
        Primitive("broken(x) -> y", lambda g, z: g, kernel=lambda x: x)
    with pytest.raises(ValueError, match="has 2 inputs but 1 rules"):
        Primitive("broken(x, y) -> z", lambda g: g, kernel=lambda x, y: x)
    with pytest.raises(ValueError, match="should read"):
        Primitive("broken", kernel=lambda x: x)
    with pytest.raises(ValueError, match="no row in the kernel table"):
        Primitive("nowhere_to_be_found(x) -> y", lambda g: g)


def test_a_rule_that_gives_the_wrong_shape_is_caught():
    wrong = Primitive("wrong_shape(x) -> y", lambda g: g.sum(), kernel=lambda x: x * 2)
    x = leaf(3)
    with pytest.raises(
        RuntimeError, match=r"rule of wrong_shape gave a gradient float64\[\] for an argument float64\[3\]"
    ):
        wrong(x).sum().backward()
    minidl.kernels.table.TABLE.pop("wrong_shape")
    Primitive.names.pop("wrong_shape")


def test_errors_of_kernels_name_operation_and_arguments():
    x, y = leaf(2, 3), leaf(4)
    with pytest.raises(ValueError) as caught:
        x * y
    assert caught.value.__notes__ == ["in mul(a: float64[2, 3], b: float64[4])"]


def test_an_empty_cell_of_the_table_says_so(monkeypatch):
    row = minidl.kernels.table.Row(reference=np.tanh)
    monkeypatch.setitem(minidl.kernels.table.TABLE, "tanh", row)
    monkeypatch.setattr(Primitive.names["tanh"], "kernels", {})
    with pytest.raises(NotImplementedError, match="operation 'tanh' has no kernel in column 'cpu'"):
        minidl.core.Primitive.__call__(tanh, leaf(2))
    with (
        pytest.raises(ValueError, match="backend is 'gpu': it must be one of 'reference', 'cpu'"),
        minidl.backend("gpu"),
    ):
        pass


def test_unused_outputs_of_a_junction_count_as_zero():
    x = leaf(2, 3)
    a, _ = minidl.unbind(x)
    (a * a).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.stack([2 * x.numpy()[0], np.zeros(3)]))
    assert isinstance(a.node, Item)
    assert isinstance(x.node, Leaf)


def test_create_graph_inside_no_grad_still_records():
    x = leaf(3)
    y = (x**3).sum()
    with minidl.no_grad():
        (g,) = minidl.grad(y, x, create_graph=True)
    (h,) = minidl.grad(g.sum(), x)
    np.testing.assert_allclose(h.numpy(), 6 * x.numpy())


def test_bare_primitives_are_their_kernels():
    a = np.arange(3.0)
    assert type(mul(a, a)) is np.ndarray
    assert type(F.relu(a)) is np.ndarray
