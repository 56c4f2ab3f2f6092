"""RNN, LSTM, GRU and their cells against torch and against formulas written out here."""

import copy
import itertools
import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.checking.cuda_host import stand_in
from minidl.inspect.tracing import tracing

T, N, INPUTS, HIDDEN = 4, 3, 2, 5
PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def flat(value):
    """Tensors in nested tuples, in order."""
    return [x for part in value for x in flat(part)] if isinstance(value, tuple) else [value]


def like_torch(ours, theirs, shape, states=()):
    """Values and gradients of input, initial states and parameters to 1e-10."""
    torch = pytest.importorskip("torch")
    assert repr(ours) == repr(theirs)
    expected = theirs.state_dict()
    assert list(ours.state_dict()) == list(expected)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: tuple(v.shape) for k, v in expected.items()}
    ours.load_state_dict({k: v.numpy() for k, v in expected.items()})
    arrays = [random(*s, seed=i) for i, s in enumerate((shape, *states))]
    a = [minidl.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    pair = lambda hx: tuple(hx) if len(hx) > 1 else hx[0] if hx else None
    y, w = flat(ours(a[0], pair(a[1:]))), flat(theirs(b[0] * 1, pair([x * 1 for x in b[1:]])))
    assert len(y) == len(w)
    for one, two in zip(y, w, strict=True):
        np.testing.assert_allclose(one.numpy(), two.detach().numpy(), rtol=1e-10, atol=1e-12)
    flowing = [random(*one.shape, seed=9) for one in y]
    sum((one * minidl.tensor(g)).sum() for one, g in zip(y, flowing, strict=True)).backward()
    sum((two * torch.from_numpy(g)).sum() for two, g in zip(w, flowing, strict=True)).backward()
    for one, two in zip([*a, *ours.parameters()], [*b, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-10, atol=1e-10)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy()) for k, v in ours.state_dict().items()})
    for model in (ours, theirs):
        model.zero_grad()


KINDS = [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("LSTM", {}), ("GRU", {})]
OPTIONS = [
    dict(zip(("num_layers", "bidirectional", "bias", "batch_first"), values, strict=True))
    for values in itertools.product((1, 3), (False, True), (True, False), (False, True))
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: ", ".join(f"{k}={v}" for k, v in o.items()))
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_like_torch(kind, own, options):
    torch = pytest.importorskip("torch")
    given = (INPUTS, HIDDEN)
    ours, theirs = (getattr(lib, kind)(*given, **own, **options).double() for lib in (nn, torch.nn))
    shape = (N, T, INPUTS) if options["batch_first"] else (T, N, INPUTS)
    count = options["num_layers"] * (1 + options["bidirectional"])
    like_torch(ours, theirs, shape)
    like_torch(ours, theirs, shape, [(count, N, HIDDEN)] * (1 + (kind == "LSTM")))
    like_torch(ours, theirs, (T, INPUTS), [(count, HIDDEN)] * (1 + (kind == "LSTM")))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_like_torch_by_position_and_at_the_limits(kind):
    torch = pytest.importorskip("torch")
    args = (2, 3, 2, *(["relu"] if kind == "RNN" else []), True, True, 1.0, True)  # dropout of everything
    ours, theirs = (getattr(lib, kind)(*args).double() for lib in (nn, torch.nn))
    like_torch(ours, theirs, (2, 1, 2))
    y, w = ours.eval()(minidl.ones(1, 4, 2, dtype="float64")), theirs.eval()(torch.ones(1, 4, 2, dtype=torch.float64))
    np.testing.assert_allclose(y[0].numpy(), w[0].detach().numpy(), rtol=1e-10, atol=1e-12)
    output, end = ours(minidl.zeros(0, 4, 2, dtype="float64"))
    assert output.shape == (0, 4, 6) and flat(end)[0].shape == (4, 0, 3)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_cells_like_torch(kind, own, bias):
    torch = pytest.importorskip("torch")
    for batch in ((N,), ()):
        for states in ((), ((*batch, HIDDEN),) * (1 + (kind == "LSTM"))):
            ours, theirs = (
                getattr(lib, f"{kind}Cell")(INPUTS, HIDDEN, bias=bias, **own).double() for lib in (nn, torch.nn)
            )
            like_torch(ours, theirs, (*batch, INPUTS), states)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dense_steps(kind, x, p):
    """One layer in one direction, written out: (T, N, inputs) -> (T, N, hidden)."""
    h = c = np.zeros((x.shape[1], HIDDEN))
    outputs = []
    for frame in x:
        a, u = frame @ p["weight_ih_l0"].T + p["bias_ih_l0"], h @ p["weight_hh_l0"].T + p["bias_hh_l0"]
        if kind == "RNN":
            h = np.tanh(a + u)
        elif kind == "LSTM":
            i, f, g, o = np.split(a + u, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        else:
            (ar, az, an), (ur, uz, un) = np.split(a, 3, axis=1), np.split(u, 3, axis=1)
            r, z = sigmoid(ar + ur), sigmoid(az + uz)
            h = (1 - z) * np.tanh(an + r * un) + z * h
        outputs.append(h)
    return np.stack(outputs)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_formulas(kind):
    layer = getattr(nn, kind)(INPUTS, HIDDEN).double()
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    x = random(T, N, INPUTS)
    expected = dense_steps(kind, x, state)
    output, end = layer(minidl.tensor(x))
    np.testing.assert_allclose(output.numpy(), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(flat(end)[0].numpy()[0], output.numpy()[-1])
    cell = getattr(nn, f"{kind}Cell")(INPUTS, HIDDEN).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in state.items()})
    hx = None
    for frame, wanted in zip(x, expected, strict=True):
        hx = cell(minidl.tensor(frame), hx)
        np.testing.assert_allclose(flat(hx)[0].numpy(), wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_directions_and_layers_are_single_recurrences(kind):
    both = getattr(nn, kind)(INPUTS, HIDDEN, 2, bidirectional=True).double()
    x = minidl.tensor(random(T, N, INPUTS))
    state, y, ends = both.state_dict(), x, []
    for layer in range(2):
        parts = []
        for suffix in ("", "_reverse"):
            one = getattr(nn, kind)(y.shape[-1], HIDDEN).double()
            one.load_state_dict({f"{name}_l0": state[f"{name}_l{layer}{suffix}"] for name in PARAMETERS})
            out, end = one(y.flip(0) if suffix else y)
            parts.append(out.flip(0) if suffix else out)
            ends.append(flat(end)[0])
        y = minidl.cat(parts, -1)
    output, end = both(x)
    np.testing.assert_allclose(output.numpy(), y.numpy(), rtol=1e-12)
    np.testing.assert_allclose(flat(end)[0].numpy(), minidl.cat(ends).numpy(), rtol=1e-12)


def test_dropout_between_layers_only():
    one = nn.GRU(3, 400, 2, dropout=0.25)
    x = minidl.randn(2, 1, 3)
    two = nn.GRU(3, 400)
    two.load_state_dict({k: v for k, v in one.state_dict().items() if "l0" in k})
    assert np.abs(one(x)[0].numpy() - one(x)[0].numpy()).max() > 0
    np.testing.assert_array_equal(one(x)[1].numpy()[0], two(x)[1].numpy()[0])  # the states are not dropped
    assert one.eval()(x)[0].numpy().tolist() == one(x)[0].numpy().tolist()
    with pytest.warns(UserWarning, match=r"GRU: dropout=0.5 has no effect: it comes after each layer but the last"):
        nn.GRU(3, 4, dropout=0.5)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
def test_initial_values(kind):
    layer = getattr(nn, kind)(30, 64)
    for name, p in layer.named_parameters():
        values = p.numpy()
        assert values.shape[0] == 64 * {"R": 1, "L": 4, "G": 3}[kind[0]] and values.dtype == np.float32
        assert np.abs(values).max() <= 1 / 8 and abs(values.std() * math.sqrt(3) * 8 - 1) < 0.25, name
    with nn.init.skip():
        assert not any(p.numpy().any() for p in getattr(nn, kind)(3, 4).parameters())
    assert all(p.dtype == "float64" for p in getattr(nn, kind)(3, 4, dtype="float64").parameters())


def test_input_products_are_hoisted():
    calls = []
    with tracing(calls.append):
        nn.LSTM(2, 3, 2, bidirectional=True)(minidl.zeros(6, 1, 2))
    assert len(calls) == 4 * (1 + 6)  # for each layer and direction one product of all inputs, and one for each step


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_on_another_device(kind):
    with minidl.backend(None), stand_in.installed() as cupy:
        host = getattr(nn, kind)(2, 3, 2, bidirectional=True).double()
        device = copy.deepcopy(host).to("cuda")
        x = minidl.tensor(random(3, 2, 2))
        expected, got = flat(host(x)), flat(device(x.to("cuda")))
        for a, b in zip(expected, got, strict=True):
            assert isinstance(b.data, cupy.ndarray)
            np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-9)


def test_the_state_can_be_carried_on():
    layer = nn.LSTM(2, 3, 2).double()
    x = minidl.tensor(random(6, 1, 2))
    whole, end = layer(x)
    first, state = layer(x[:4])
    second, last = layer(x[4:], state)
    np.testing.assert_allclose(minidl.cat([first, second]).numpy(), whole.numpy(), rtol=1e-12)
    np.testing.assert_allclose(last[1].numpy(), end[1].numpy(), rtol=1e-12)
    layer.flatten_parameters()


ERRORS = [
    (lambda: nn.GRU(0, 3), ValueError, "GRU: input_size is 0; it must be at least 1"),
    (lambda: nn.GRU(2, 3.5), TypeError, "GRU: hidden_size is 3.5; it must be a whole number"),
    (lambda: nn.LSTM(2, 3, 0), ValueError, "LSTM: num_layers is 0; it must be at least 1"),
    (lambda: nn.GRU(2, 3, 1, 0.5), TypeError, "GRU: bias is 0.5; it must be True or False"),
    (lambda: nn.GRU(2, 3, 2, dropout=2), ValueError, "GRU: dropout is 2; it is a probability, from 0 to 1"),
    (lambda: nn.LSTM(2, 3, proj_size=2), NotImplementedError, "LSTM: proj_size is 2; projections are not supported"),
    (lambda: nn.RNN(2, 3, nonlinearity="elu"), ValueError, "RNN: nonlinearity is 'elu'; it must be \"tanh\" or"),
    (lambda: nn.RNNCell(2, 3, nonlinearity="elu"), ValueError, "RNNCell: nonlinearity is 'elu'"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(4, 1, 5)), ValueError,
     r"GRU: input has shape \(4, 1, 5\); it must be \(T, N, 2\), or \(T, 2\) without the batch"),
    (lambda: nn.GRU(2, 3, batch_first=True)(minidl.zeros(2)), ValueError, r"it must be \(N, T, 2\)"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(0, 1, 2)), ValueError, "must have at least one step"),
    (lambda: nn.GRU(2, 3)([1.0]), TypeError, "input must be a tensor, not list; there are no packed sequences here"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(4, 1, 2), minidl.zeros(1, 2, 3)), ValueError,
     r"GRU: h_0 has shape \(1, 2, 3\), but an input of shape \(4, 1, 2\) needs \(1, 1, 3\)"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(4, 2), minidl.zeros(1, 1, 3)), ValueError, r"needs \(1, 3\)"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(4, 1, 2), (1, 2)), TypeError, "GRU: the initial state must be a tensor, not"),
    (lambda: nn.LSTM(2, 3)(minidl.zeros(4, 1, 2), minidl.zeros(1, 1, 3)), TypeError,
     r"LSTM: the initial states must be a pair of tensors \(h_0, c_0\), not Tensor"),
    (lambda: nn.LSTM(2, 3)(minidl.zeros(4, 1, 2), (minidl.zeros(1, 1, 3), minidl.zeros(1, 1, 4))), ValueError,
     r"LSTM: c_0 has shape \(1, 1, 4\)"),
    (lambda: nn.GRU(2, 3)(minidl.zeros(4, 1, 2, dtype="float64")), TypeError,
     "GRU: input is float64 but weight is float32"),
    (lambda: nn.GRUCell(2, 3)(minidl.zeros(4, 3)), ValueError,
     r"GRUCell: input has shape \(4, 3\); it must be \(N, 2\), or \(2,\) without the batch"),
    (lambda: nn.GRUCell(2, 3)(minidl.zeros(4, 2), minidl.zeros(3)), ValueError, r"h_0 has shape \(3,\), .* \(4, 3\)"),
    (lambda: nn.LSTMCell(2, 3)(5), TypeError, "LSTMCell: input must be a tensor, not int"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
