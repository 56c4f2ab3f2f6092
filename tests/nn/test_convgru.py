"""ConvGRU2d against the equations of its paper, written out in NumPy, and against the paper's sizes."""

import copy

import numpy as np
import pytest
from scipy.signal import correlate2d

import minidl
from minidl import nn
from minidl.checking import gradcheck
from minidl.checking.cuda_host import stand_in


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def convolve(w, x):
    """(K, C, kH, kW) * (N, C, H, W) -> (N, K, H, W), the size kept."""
    return np.array([[sum(correlate2d(a, b, "same") for a, b in zip(image, f, strict=True)) for f in w] for image in x])


def recurrence(x, h, w, u, b, product, lower=None, v=None):
    """The paper's equations: (T, N, inputs, …) -> (T, N, hidden, …). product(w, x): a convolution, or a matrix's."""
    (wz, wr, wc), (uz, ur, uc) = np.split(w, 3), np.split(u, 3)
    bz, br, bc = (a.reshape(-1, *(1,) * (h.ndim - 2)) for a in np.split(b, 3))
    vz, vr = np.split(v, 2) if v is not None else (None, None)
    outputs = []
    for t, frame in enumerate(x):
        extra = [product(m, lower[t]) if v is not None else 0 for m in (vz, vr)]
        z = sigmoid(product(wz, frame) + extra[0] + product(uz, h) + bz)
        r = sigmoid(product(wr, frame) + extra[1] + product(ur, h) + br)
        c = np.tanh(product(wc, frame) + product(uc, r * h) + bc)
        h = (1 - z) * h + z * c
        outputs.append(h)
    return np.stack(outputs)


def weights(layer, suffix="_l0"):
    state = {k: v.numpy() for k, v in layer.state_dict().items()}
    bias = state.get(f"bias_ih{suffix}", np.zeros(3 * layer.hidden_channels))
    return state[f"weight_ih{suffix}"], state[f"weight_hh{suffix}"], bias, state.get(f"weight_lh{suffix}")


@pytest.mark.parametrize("bias", [False, True])
def test_on_single_pixels_it_is_a_dense_gru(bias):
    layer = nn.ConvGRU2d(3, 4, 1, bias=bias).double()
    x, h_0 = random(5, 2, 3), random(2, 4)
    w, u, b, _ = (None if a is None else a.reshape(a.shape[:2]) if a.ndim == 4 else a for a in weights(layer))
    expected = recurrence(x, h_0, w, u, b, lambda m, a: a @ m.T)
    output, h_n = layer(minidl.tensor(x[..., None, None]), minidl.tensor(h_0[None, ..., None, None]))
    assert output.shape == (5, 2, 4, 1, 1) and h_n.shape == (1, 2, 4, 1, 1)
    np.testing.assert_allclose(output.numpy()[..., 0, 0], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_array_equal(h_n.numpy()[0], output.numpy()[-1])


@pytest.mark.parametrize("kernel", [3, (1, 5)])
def test_on_images(kernel):
    layer = nn.ConvGRU2d(2, 3, kernel, bias=True).double()
    x = random(4, 2, 2, 5, 6)
    w, u, b, _ = weights(layer)
    expected = recurrence(x, np.zeros((2, 3, 5, 6)), w, u, b, convolve)
    np.testing.assert_allclose(layer(minidl.tensor(x))[0].numpy(), expected, rtol=1e-11, atol=1e-13)


def test_the_first_state_is_gate_times_candidate():
    layer = nn.ConvGRU2d(2, 3, 3).double()
    x = random(1, 2, 2, 5, 6)
    z, _, c = np.split(convolve(weights(layer)[0], x[0]), 3, axis=1)
    np.testing.assert_allclose(layer(minidl.tensor(x))[0].numpy()[0], sigmoid(z) * np.tanh(c), rtol=1e-12, atol=1e-14)
    zero = minidl.zeros(1, 2, 3, 5, 6, dtype="float64")
    np.testing.assert_array_equal(layer(minidl.tensor(x), zero)[0].numpy(), layer(minidl.tensor(x))[0].numpy())


def test_conventions_differ_from_those_of_the_dense_gru():
    """The same weights in nn.GRU, rows in its order: equal only with the update gate turned round and no reset."""
    conv, dense = nn.ConvGRU2d(2, 3, 1).double(), nn.GRU(2, 3, bias=False).double()
    for kind in ("weight_ih_l0", "weight_hh_l0"):
        z, r, c = np.split(conv.get_parameter(kind).numpy()[..., 0, 0], 3)
        dense.get_parameter(kind).data[...] = np.concatenate([r, -z, c])  # 1 - sigmoid(a) = sigmoid(-a)
    x = minidl.tensor(random(3, 2, 2))
    ours, theirs = conv(x.reshape(3, 2, 2, 1, 1))[0].numpy()[..., 0, 0], dense(x)[0].numpy()
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-12)  # from zeros there is nothing to reset
    assert np.abs(ours[1:] - theirs[1:]).max() > 1e-4  # r before U is not r after U


def test_plain_stacking():
    layer = nn.ConvGRU2d(2, 3, 3, num_layers=2).double()
    x, h_0 = random(4, 1, 2, 3, 4), random(2, 1, 3, 3, 4)
    y, ends = x, []
    for i in range(2):
        w, u, b, v = weights(layer, f"_l{i}")
        assert v is None and w.shape[1] == (2, 3)[i]
        y = recurrence(y, h_0[i], w, u, b, convolve)
        ends.append(y[-1])
    output, h_n = layer(minidl.tensor(x), minidl.tensor(h_0))
    np.testing.assert_allclose(output.numpy(), y, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(h_n.numpy(), np.stack(ends), rtol=1e-11, atol=1e-13)


def test_stacking_through_the_gates():
    """The state below, of the same step, reaches the gates and not the candidate; every layer sees the input."""
    layer = nn.ConvGRU2d(2, 3, 3, num_layers=3, stacked="gates", lower_channels=1).double()
    x, lower, h_0 = random(4, 1, 2, 3, 4), random(4, 1, 1, 3, 4), random(3, 1, 3, 3, 4)
    below = lower
    for i in range(3):
        w, u, b, v = weights(layer, f"_l{i}")
        assert w.shape == (9, 2, 3, 3) and v.shape == (6, 1 if i == 0 else 3, 3, 3)
        below = recurrence(x, h_0[i], w, u, b, convolve, below, v)
    output, h_n = layer(*map(minidl.tensor, (x, h_0, lower)))
    np.testing.assert_allclose(output.numpy(), below, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(h_n.numpy()[-1], output.numpy()[-1])


def test_lower_joins_layers_of_their_own():
    """What one module does with its layers, two modules do with `lower`: how levels of different sizes are stacked."""
    whole = nn.ConvGRU2d(2, 3, 3, num_layers=2, stacked="gates").double()
    first, second = nn.ConvGRU2d(2, 3, 3).double(), nn.ConvGRU2d(2, 3, 3, lower_channels=3).double()
    state = whole.state_dict()
    for i, part in enumerate((first, second)):
        part.load_state_dict({k.replace(f"_l{i}", "_l0"): v for k, v in state.items() if f"_l{i}" in k})
    x = minidl.tensor(random(3, 2, 2, 4, 4))
    np.testing.assert_allclose(second(x, lower=first(x)[0])[0].numpy(), whole(x)[0].numpy(), rtol=1e-12)


def test_both_directions():
    both = nn.ConvGRU2d(2, 3, 3, bidirectional=True).double()
    x = random(4, 2, 2, 3, 4)
    zero = np.zeros((2, 3, 3, 4))
    forth = recurrence(x, zero, *weights(both)[:3], convolve)
    back = recurrence(x[::-1], zero, *weights(both, "_l0_reverse")[:3], convolve)
    output, h_n = both(minidl.tensor(x))
    np.testing.assert_allclose(output.numpy(), np.concatenate([forth, back[::-1]], axis=2), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(h_n.numpy(), np.stack([forth[-1], back[-1]]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("stacked", ["plain", "gates"])
def test_batch_first(stacked):
    options = {"num_layers": 2, "bidirectional": True, "stacked": stacked, "lower_channels": 1}
    one, two = (nn.ConvGRU2d(2, 3, 3, batch_first=b, **options).double() for b in (False, True))
    two.load_state_dict(one.state_dict())
    x, h_0 = minidl.tensor(random(4, 2, 2, 3, 5)), minidl.tensor(random(4, 2, 3, 3, 5))
    lower = minidl.tensor(random(4, 2, 1, 3, 5))
    expected, got = one(x, h_0, lower), two(x.transpose(0, 1), h_0, lower.transpose(0, 1))
    assert expected[0].shape == (4, 2, 6, 3, 5) and expected[1].shape == got[1].shape == (4, 2, 3, 3, 5)
    np.testing.assert_allclose(got[0].transpose(0, 1).numpy(), expected[0].numpy(), rtol=1e-12)
    np.testing.assert_allclose(got[1].numpy(), expected[1].numpy(), rtol=1e-12)


def test_gradients_to_second_order():
    layer = nn.ConvGRU2d(1, 1, 3, num_layers=2, bias=True, stacked="gates").double()
    x = minidl.tensor(random(2, 1, 1, 2, 1), requires_grad=True)
    h_0 = minidl.tensor(random(2, 1, 1, 2, 1), requires_grad=True)
    assert gradcheck(lambda x, h, *parameters: layer(x, h), (x, h_0, *layer.parameters()), order=2, fast=True)


# ---- the paper's network: five recurrences over what VGG-16 sees
LEVELS = {  # channels of x, channels of h, kernel, parameters without bias
    "pool2": (128, 64, 3, 331_776),
    "pool3": (256, 128, 3, 1_327_104),
    "pool4": (512, 256, 3, 5_308_416),
    "pool5": (512, 256, 3, 5_308_416),
    "fc7": (4096, 512, 1, 7_077_888),
}


def count(*layers):
    return sum(p.numel() for layer in layers for p in layer.parameters())


def test_parameters_of_the_paper():
    with nn.init.skip():
        for x, h, kernel, parameters in LEVELS.values():
            layer = nn.ConvGRU2d(x, h, kernel)
            assert count(layer) == parameters
            assert not any(name.startswith("bias") for name, _ in layer.named_parameters())
        assert sum(row[-1] for row in LEVELS.values()) == 19_353_600
        below = [0, *(h for _, h, _, _ in LEVELS.values())]
        stacked = [nn.ConvGRU2d(*row[:3], lower_channels=c) for row, c in zip(LEVELS.values(), below, strict=False)]
        assert count(*stacked) == 19_353_600 + 2_179_072
        assert count(nn.ConvGRU2d(*LEVELS["pool2"][:3], bidirectional=True)) == 2 * LEVELS["pool2"][-1]
        assert count(nn.ConvGRU2d(128, 64, 3, bias=True)) == 331_776 + 3 * 64


def test_initial_values_and_text():
    layer = nn.ConvGRU2d(3, 16, (3, 5), num_layers=2, bias=True, batch_first=True, bidirectional=True, stacked="gates")
    bound = 1 / np.sqrt(16 * 15)
    for name, p in layer.named_parameters():
        assert np.abs(p.numpy()).max() <= bound and np.abs(p.numpy()).max() > 0.9 * bound, name
    assert repr(layer) == (
        "ConvGRU2d(3, 16, kernel_size=(3, 5), num_layers=2, bias=True, batch_first=True, bidirectional=True, "
        'stacked="gates")'
    )
    assert repr(nn.ConvGRU2d(3, 4, 3, lower_channels=2)) == "ConvGRU2d(3, 4, kernel_size=(3, 3), lower_channels=2)"


def test_on_another_device_and_in_single_precision():
    layer = nn.ConvGRU2d(1, 2, 3, num_layers=2, stacked="gates")
    x = minidl.randn(3, 1, 1, 4, 4)
    output, h_n = layer(x)
    assert output.dtype == h_n.dtype == np.float32
    with minidl.backend(None), stand_in.installed() as cupy:
        got = copy.deepcopy(layer).to("cuda")(x.to("cuda"))
        assert isinstance(got[1].data, cupy.ndarray)
        np.testing.assert_allclose(got[0].numpy(), output.numpy(), rtol=1e-4, atol=1e-5)


X = (4, 1, 2, 3, 3)
ERRORS = [
    (lambda: nn.ConvGRU2d(2, 3, 4), ValueError, "kernel_size is 4; it must be odd, so that the state keeps its size"),
    (lambda: nn.ConvGRU2d(2, 3, (3, 2)), ValueError, r"kernel_size is \(3, 2\); it must be odd"),
    (lambda: nn.ConvGRU2d(2, 3, (3, 3, 3)), ValueError, "ConvGRU2d: kernel_size is"),
    (lambda: nn.ConvGRU2d(2, 3, "3"), TypeError, "ConvGRU2d: kernel_size is '3'"),
    (lambda: nn.ConvGRU2d(2, 0, 3), ValueError, "hidden_channels is 0; it must be at least 1"),
    (lambda: nn.ConvGRU2d(2, 3, 3, lower_channels=-1), ValueError, "lower_channels is -1; it must not be negative"),
    (lambda: nn.ConvGRU2d(2, 3, 3, stacked="all"), ValueError, "stacked is 'all'; it must be \"plain\" or \"gates\""),
    (lambda: nn.ConvGRU2d(2, 3, 3)(minidl.zeros(1, 2, 3, 3)), ValueError,
     r"input has shape \(1, 2, 3, 3\); it must be \(T, N, 2, H, W\)"),
    (lambda: nn.ConvGRU2d(2, 3, 3, batch_first=True)(minidl.zeros(1, 2, 3, 3, 3)), ValueError,
     r"must be \(N, T, 2, H, W\)"),
    (lambda: nn.ConvGRU2d(2, 3, 3)(minidl.zeros(0, *X[1:])), ValueError, "must have at least one frame"),
    (lambda: nn.ConvGRU2d(2, 3, 3)(None), TypeError, "input must be a tensor, not NoneType"),
    (lambda: nn.ConvGRU2d(2, 3, 3)(minidl.zeros(X), minidl.zeros(1, 1, 3, 3, 4)), ValueError,
     r"h_0 has shape \(1, 1, 3, 3, 4\), but an input of shape \(4, 1, 2, 3, 3\) needs \(1, 1, 3, 3, 3\)"),
    (lambda: nn.ConvGRU2d(2, 3, 3)(minidl.zeros(X, dtype="float64")), TypeError, "input is float64 but weight is"),
    (lambda: nn.ConvGRU2d(2, 3, 3)(minidl.zeros(X), lower=minidl.zeros(X)), ValueError,
     "with lower_channels=0 the call takes no `lower`"),
    (lambda: nn.ConvGRU2d(2, 3, 3, lower_channels=2)(minidl.zeros(X)), ValueError,
     "with lower_channels=2 the call needs a sequence `lower`"),
    (lambda: nn.ConvGRU2d(2, 3, 3, lower_channels=1)(minidl.zeros(X), lower=minidl.zeros(X)), ValueError,
     r"lower has shape \(4, 1, 2, 3, 3\), but must have shape \(4, 1, 1, 3, 3\)"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message[:40] for _, _, message in ERRORS])
def test_errors(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
