"""Every layer against torch (names, shapes, text, values, gradients), and the essential ones against plain formulas."""

import math

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import nn

# a layer, made by the same expression from minidl.nn and torch.nn, and the shape of its input
LAYERS = [
    (lambda nn: nn.Identity(7, option=1), (2, 3)),
    (lambda nn: nn.Linear(3, 4), (2, 3)),
    (lambda nn: nn.Linear(3, 4, bias=False), (2, 5, 3)),
    (lambda nn: nn.Flatten(), (2, 3, 4)),
    (lambda nn: nn.Flatten(0, 1), (2, 3, 4)),
    (lambda nn: nn.Unflatten(1, (2, 3)), (2, 6)),
    (lambda nn: nn.Conv1d(3, 4, 3), (2, 3, 8)),
    (lambda nn: nn.Conv1d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, bias=False), (2, 4, 9)),
    (lambda nn: nn.Conv2d(3, 4, (3, 2)), (2, 3, 5, 6)),
    (lambda nn: nn.Conv2d(3, 4, 3, padding="same", dilation=(2, 1)), (3, 5, 6)),
    (lambda nn: nn.Conv2d(3, 4, 4, padding="same"), (1, 3, 5, 6)),
    (lambda nn: nn.Conv2d(3, 4, 3, padding="valid"), (1, 3, 5, 6)),
    (lambda nn: nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 2, 5, 6)),
    (lambda nn: nn.Conv2d(2, 4, 3, padding=(1, 2), padding_mode="replicate"), (2, 2, 5, 6)),
    (lambda nn: nn.Conv2d(2, 4, (3, 4), padding="same", padding_mode="circular"), (2, 2, 5, 6)),
    (lambda nn: nn.Conv2d(2, 4, 3, padding="valid", padding_mode="circular"), (2, 2, 5, 6)),
    (lambda nn: nn.Conv3d(2, 3, (1, 2, 3), stride=(1, 2, 1), padding=(0, 1, 2)), (1, 2, 3, 4, 5)),
    (lambda nn: nn.ConvTranspose1d(3, 4, 3), (2, 3, 5)),
    (lambda nn: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False, 2), (2, 4, 3, 4)),
    (lambda nn: nn.ConvTranspose2d(3, 4, (4, 2), stride=(2, 1), padding=(1, 0)), (2, 3, 3, 4)),
    (lambda nn: nn.ConvTranspose3d(2, 3, 2, stride=2, output_padding=(0, 1, 0)), (1, 2, 2, 2, 3)),
    (lambda nn: nn.MaxPool1d(2), (2, 3, 7)),
    (lambda nn: nn.MaxPool2d(3, stride=2, padding=1, dilation=1, ceil_mode=True), (2, 3, 6, 7)),
    (lambda nn: nn.MaxPool3d((1, 2, 2)), (1, 2, 3, 4, 5)),
    (lambda nn: nn.AvgPool2d(2, stride=1), (2, 3, 4, 5)),
    (lambda nn: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (2, 3, 6, 7)),
    (lambda nn: nn.AvgPool3d(2, divisor_override=5), (1, 2, 3, 4, 5)),
    (lambda nn: nn.AdaptiveAvgPool1d(3), (2, 3, 7)),
    (lambda nn: nn.AdaptiveAvgPool2d(1), (2, 3, 4, 5)),
    (lambda nn: nn.AdaptiveAvgPool2d((3, None)), (2, 3, 4, 5)),
    (lambda nn: nn.AdaptiveAvgPool3d((2, 1, 4)), (2, 3, 4, 5, 6)),
    (lambda nn: nn.Dropout(0.0), (2, 3)),
    (lambda nn: nn.ReLU(), (4, 5)),
    (lambda nn: nn.ReLU(inplace=True), (4, 5)),
    (lambda nn: nn.LeakyReLU(0.2), (4, 5)),
    (lambda nn: nn.ELU(0.5), (4, 5)),
    (lambda nn: nn.SELU(), (4, 5)),
    (lambda nn: nn.SiLU(), (4, 5)),
    (lambda nn: nn.GELU(), (4, 5)),
    (lambda nn: nn.GELU("tanh"), (4, 5)),
    (lambda nn: nn.Hardtanh(-0.5, 0.5), (4, 5)),
    (lambda nn: nn.Sigmoid(), (4, 5)),
    (lambda nn: nn.LogSigmoid(), (4, 5)),
    (lambda nn: nn.Tanh(), (4, 5)),
    (lambda nn: nn.Softmax(dim=1), (4, 5)),
    (lambda nn: nn.LogSoftmax(dim=0), (4, 5)),
]  # fmt: skip

# the same, where our text is not that of every torch: one way of writing sizes, no threshold
OTHER_TEXT = [
    (lambda nn: nn.BatchNorm1d(3), (5, 3)),
    (lambda nn: nn.BatchNorm1d(3, affine=False), (5, 3, 4)),
    (lambda nn: nn.BatchNorm2d(3, eps=1e-3, momentum=None), (5, 3, 2, 2)),
    (lambda nn: nn.BatchNorm2d(3, track_running_stats=False), (5, 3, 2, 2)),
    (lambda nn: nn.BatchNorm3d(3, momentum=0.3), (2, 3, 2, 2, 2)),
    (lambda nn: nn.AvgPool1d(3, 2, 1), (2, 3, 7)),
    (lambda nn: nn.ReLU6(), (4, 5)),
    (lambda nn: nn.Softplus(beta=2), (4, 5)),
    (lambda nn: nn.Upsample(scale_factor=2), (2, 3, 4)),
    (lambda nn: nn.Upsample(scale_factor=(2, 3)), (2, 3, 4, 5)),
]


def title(layer):
    return repr(layer(nn)).replace(" ", "")


def random(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch says what it costs there
@pytest.mark.parametrize(("layer", "shape", "same_text"),
                         [(*row, True) for row in LAYERS] + [(*row, False) for row in OTHER_TEXT],
                         ids=[title(row[0]) for row in LAYERS + OTHER_TEXT])  # fmt: skip
def test_like_torch(layer, shape, same_text):
    torch = pytest.importorskip("torch")
    ours, theirs = layer(nn).double(), layer(torch.nn).double()
    if same_text:
        assert repr(ours) == repr(theirs)
    expected = theirs.state_dict()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: tuple(v.shape) for k, v in expected.items()}
    assert list(ours.state_dict()) == list(expected)
    ours.load_state_dict({k: v.numpy() for k, v in expected.items()})
    for epoch in range(2):  # twice, for the sake of running statistics
        a = random(shape, epoch)
        x, z = minidl.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        y, w = ours(x), theirs(z * 1)
        np.testing.assert_allclose(y.numpy(), w.detach().numpy(), rtol=1e-10, atol=1e-12)
        g = random(y.shape, 9)
        y.backward(minidl.tensor(g))
        w.backward(torch.from_numpy(g))
        np.testing.assert_allclose(x.grad.numpy(), z.grad.numpy(), rtol=1e-9, atol=1e-11)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)
    for name, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[name].numpy(), value.numpy(), rtol=1e-10, err_msg=name)
    y, w = ours.eval()(x), theirs.eval()(z * 1)
    np.testing.assert_allclose(y.numpy(), w.detach().numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("layer", "shape"), LAYERS + OTHER_TEXT, ids=[title(row[0]) for row in LAYERS + OTHER_TEXT])
def test_state_round_trip_and_precision(layer, shape):
    one, two = layer(nn), layer(nn)
    two.load_state_dict(one.state_dict())
    x = minidl.tensor(random(shape).astype(np.float32))
    a, b = one(x), two(x)
    assert a.dtype == "float32" and all(p.dtype == "float32" for p in one.parameters())
    np.testing.assert_array_equal(a.numpy(), b.numpy())
    for key, value in one.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), two.state_dict()[key].numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool_indices(rank):
    torch = pytest.importorskip("torch")
    shape = (2, 3, 6, 5, 4)[: 2 + rank]
    make = lambda nn: getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)
    y, indices = make(nn)(minidl.tensor(random(shape)))
    expected = make(torch.nn)(torch.from_numpy(random(shape)))
    assert indices.dtype == "int64"
    np.testing.assert_array_equal(indices.numpy(), expected[1].numpy())
    np.testing.assert_array_equal(y.numpy(), expected[0].numpy())


@pytest.mark.parametrize("size", [(7, 9), (8, 10), (2, 4, 8, 9)])
def test_output_size_of_a_transposed_convolution(size):
    torch = pytest.importorskip("torch")
    make = lambda nn: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1).double()
    ours, theirs = make(nn), make(torch.nn)
    ours.load_state_dict(theirs.state_dict())
    a = random((2, 3, 4, 5))
    y = ours(minidl.tensor(a), output_size=size)
    assert y.shape == (2, 4, *size[-2:])
    expected = theirs(torch.from_numpy(a), output_size=size).detach().numpy()
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_an_output_size_out_of_reach():
    layer = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1)
    with pytest.raises(ValueError, match=r"output_size is \(7, 11\); .* must lie between \(7, 9\) and \(8, 10\)"):
        layer(minidl.ones(2, 3, 4, 5), output_size=(7, 11))


# ---- formulas written out
def test_linear_by_hand():
    layer = nn.Linear(3, 2)
    a = random((4, 3)).astype(np.float32)
    units = list(zip(layer.weight.numpy(), layer.bias.numpy(), strict=True))
    expected = np.array([[sum(x * v for x, v in zip(row, w, strict=True)) + b for w, b in units] for row in a])
    np.testing.assert_allclose(layer(minidl.tensor(a)).numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_convolution_by_hand(mode):
    layer = nn.Conv1d(2, 3, 3, stride=2, padding=1, padding_mode=mode).double()
    a = random((2, 2, 6))
    kind = {"zeros": "constant", "replicate": "edge", "circular": "wrap"}.get(mode, mode)
    padded = np.pad(a, ((0, 0), (0, 0), (1, 1)), mode=kind)
    w, b = layer.weight.numpy(), layer.bias.numpy()
    expected = np.zeros((2, 3, 3))
    for n, k, o in np.ndindex(expected.shape):
        expected[n, k, o] = (padded[n, :, 2 * o : 2 * o + 3] * w[k]).sum() + b[k]
    np.testing.assert_allclose(layer(minidl.tensor(a)).numpy(), expected, rtol=1e-12)


def test_a_transposed_convolution_is_the_adjoint():
    down, up = (
        nn.Conv2d(3, 4, 3, stride=2, bias=False).double(),
        nn.ConvTranspose2d(4, 3, 3, stride=2, bias=False).double(),
    )
    up.load_state_dict(down.state_dict())
    x, y = minidl.tensor(random((2, 3, 7, 9))), minidl.tensor(random((2, 4, 3, 4), 1))
    left, right = (down(x) * y).sum().item(), (x * up(y)).sum().item()
    assert math.isclose(left, right, rel_tol=1e-12)


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d,
                                  nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])  # fmt: skip
def test_activation_of_a_convolution(kind):
    with_relu, without = kind(2, 3, 2, activation="relu").double(), kind(2, 3, 2).double()
    assert repr(with_relu) == repr(without)[:-1] + ", activation=relu)"
    assert list(with_relu.state_dict()) == list(without.state_dict()) == ["weight", "bias"]
    with_relu.load_state_dict(without.state_dict())
    a = random((2, 2, 4, 5, 3)[: 2 + kind.num_spatial_dims])
    x, z = (minidl.tensor(a, requires_grad=True) for _ in range(2))
    y, expected = with_relu(x), F.relu(without(z))
    np.testing.assert_array_equal(y.numpy(), expected.numpy())
    y.backward(minidl.tensor(random(y.shape, 1)))
    expected.backward(minidl.tensor(random(y.shape, 1)))
    for one, two in ((x, z), *zip(with_relu.parameters(), without.parameters(), strict=True)):
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_adaptive_pooling_by_hand():
    a = random((2, 3, 7))
    y = nn.AdaptiveAvgPool1d(3)(minidl.tensor(a)).numpy()
    expected = np.stack([a[..., 0:3].mean(-1), a[..., 2:5].mean(-1), a[..., 4:7].mean(-1)], -1)
    np.testing.assert_allclose(y, expected, rtol=1e-12)


@pytest.mark.parametrize(("kind", "shape", "mask"), [
    (nn.Dropout, (50, 40), (50, 40)),
    (nn.Dropout1d, (50, 40, 3), (50, 40, 1)),
    (nn.Dropout2d, (50, 40, 3, 2), (50, 40, 1, 1)),
    (nn.Dropout3d, (50, 40, 1, 3, 2), (50, 40, 1, 1, 1)),
])  # fmt: skip
def test_dropout(kind, shape, mask):
    layer = kind(0.25)
    x = minidl.ones(*shape, requires_grad=True)
    y = layer(x)
    assert set(np.unique(y.numpy())) == {np.float32(0), np.float32(1 / 0.75)}
    kept = y.numpy()[tuple(slice(0, m) for m in mask)] > 0
    assert (np.broadcast_to(kept, shape) == (y.numpy() > 0)).all()
    assert abs(kept.mean() - 0.75) < 0.04
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert layer.eval()(x) is x
    assert repr(layer) == f"{kind.__name__}(p=0.25, inplace=False)"
    minidl.manual_seed(0)
    first = layer.train()(x).numpy()
    minidl.manual_seed(0)
    np.testing.assert_array_equal(layer(x).numpy(), first)


# ---- batch normalisation
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
def test_batch_norm_by_hand(momentum):
    layer = nn.BatchNorm2d(3, eps=1e-3, momentum=momentum).double()
    layer.load_state_dict({**layer.state_dict(), "weight": np.array([1.0, 2, 3]), "bias": np.array([0.0, -1, 1])})
    mean, var = np.zeros(3), np.ones(3)
    per_channel = lambda v: v[:, None, None]
    for batch in range(1, 4):
        a = random((4, 3, 2, 5), batch) * batch + batch
        y = layer(minidl.tensor(a)).numpy()
        m, v = a.mean((0, 2, 3)), a.var((0, 2, 3))
        expected = (a - per_channel(m)) / np.sqrt(per_channel(v) + 1e-3)
        np.testing.assert_allclose(y, expected * [[[1]], [[2]], [[3]]] + [[[0]], [[-1]], [[1]]], rtol=1e-9, atol=1e-12)
        share = 1 / batch if momentum is None else momentum
        mean = (1 - share) * mean + share * m
        var = (1 - share) * var + share * v * 40 / 39
        np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
        np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-12)
        assert int(layer.num_batches_tracked) == batch
    y = layer.eval()(minidl.tensor(a)).numpy()
    expected = (a - per_channel(mean)) / np.sqrt(per_channel(var) + 1e-3)
    np.testing.assert_allclose(y, expected * [[[1]], [[2]], [[3]]] + [[[0]], [[-1]], [[1]]], rtol=1e-9, atol=1e-12)
    assert int(layer.num_batches_tracked) == 3
    layer.reset_running_stats()
    assert int(layer.num_batches_tracked) == 0 and layer.running_var.numpy().tolist() == [1, 1, 1]


def test_batch_norm_checks_the_rank():
    for layer, shape, wanted in (
        (nn.BatchNorm1d(3), (2, 3, 4, 5), r"\(N, C\) or \(N, C, L\)"),
        (nn.BatchNorm2d(3), (2, 3, 4), r"\(N, C, H, W\)"),
        (nn.BatchNorm3d(3), (2, 3, 4, 5), r"\(N, C, D, H, W\)"),
    ):
        with pytest.raises(ValueError, match=rf"{type(layer).__name__}: input has shape .*; it must be {wanted}"):
            layer(minidl.ones(*shape))
    layer = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="training needs at least 2"):
        layer(minidl.ones(1, 3))
    assert int(layer.num_batches_tracked) == 0


# ---- errors
@pytest.mark.parametrize(("make", "text"), [
    (lambda: nn.Linear(-1, 2), "Linear: in_features is -1"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), "Conv2d: groups=2 must divide in_channels=3 and out_channels=4"),
    (lambda: nn.Conv2d(3, 4, (3, 3, 3)), r"Conv2d: kernel_size is \(3, 3, 3\)"),
    (lambda: nn.Conv2d(3, 4, 3, stride=0), "Conv2d: stride is 0"),
    (lambda: nn.Conv2d(3, 4, 3, padding="some"), "Conv2d: padding is 'some'"),
    (lambda: nn.Conv2d(3, 4, 3, padding="same", stride=2), "with stride 1; stride is"),
    (lambda: nn.Conv2d(3, 4, 3, padding_mode="mirror"), "Conv2d: padding_mode is 'mirror'; it must be .zeros., .refl"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding_mode="reflect"), 'padding_mode .* it must be "zeros"$'),
    (lambda: nn.Conv2d(3, 4, 3, activation="gelu"), "Conv2d: activation is 'gelu'; it must be .relu. or None"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, padding="same"), "ConvTranspose2d: padding is 'same'"),
    (lambda: nn.Dropout(1.5), "Dropout: p is 1.5"),
    (lambda: nn.Hardtanh(2, 1), "Hardtanh: min_val is 2"),
    (lambda: nn.AdaptiveAvgPool2d((1, 2, 3)), "AdaptiveAvgPool2d: output_size"),
    (lambda: nn.AdaptiveAvgPool2d(2)(minidl.ones(3, 4)), "AdaptiveAvgPool2d: input has shape"),
    (lambda: nn.Upsample(scale_factor=1.5), "Upsample: scale_factor is 1.5"),
    (lambda: nn.Upsample(scale_factor=(2, 2))(minidl.ones(1, 2, 3)), "Upsample: input has shape"),
    (lambda: nn.MSELoss(reduction="avg"), "MSELoss: reduction is 'avg'"),
    (lambda: nn.CrossEntropyLoss(reduction="batchmean"), 'one of "mean", "sum", "none"'),
])  # fmt: skip
def test_errors(make, text):
    with pytest.raises(ValueError, match=text):
        make()
