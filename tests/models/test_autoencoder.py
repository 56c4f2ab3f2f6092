"""Autoencoders: sizes as in the figures, and the linear one against principal components."""

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, optim
from minidl.data import digits
from minidl.models.autoencoder import (
    AutoencoderConfig,
    Classifier,
    ConvAutoencoder,
    LinearAutoencoder,
    MLPAutoencoder,
    build,
    corrupt,
)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_conv_autoencoder_for_32_pixels_has_the_published_size():
    model = ConvAutoencoder((3, 32, 32), (32, 64, 128, 256), code=None)
    assert parameters(model) == 1_380_035
    x = minidl.zeros(2, 3, 32, 32)
    shapes = []
    for layer in [*model.down, *model.up]:
        x = layer(x)
        if parameters(layer):
            shapes.append(x.shape[1:])
    assert shapes == [
        (32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2), (128, 4, 4), (64, 8, 8), (32, 16, 16), (3, 32, 32),
    ]  # fmt: skip
    assert model.encode(minidl.zeros(2, 3, 32, 32)).shape == (2, 256, 2, 2)


def test_deep_autoencoder_for_mnist_has_the_published_size():
    assert parameters(MLPAutoencoder((1, 28, 28), (1000, 500, 250), 30)) == 2_837_314


@pytest.mark.parametrize("arch", ["mlp", "conv", "linear"])
@pytest.mark.parametrize("code", [1, 2, 8])
def test_shapes_on_digits(arch, code):
    model = build(AutoencoderConfig(arch=arch, code=code))
    images = minidl.rand(3, 1, 8, 8)
    assert model.encode(images).shape == (3, code)
    assert model.decode(minidl.zeros(3, code)).shape == (3, 1, 8, 8)
    np.testing.assert_array_equal(model(images).numpy(), model.decode(model.encode(images)).numpy())
    units = {"mlp": (256, 1, 8, 8), "conv": (32, 1, 4, 4), "linear": (code, 1, 8, 8)}
    assert model.first_weights().shape == units[arch]


@pytest.mark.parametrize("arch", ["mlp", "conv", "linear"])
def test_every_parameter_gets_a_gradient(arch):
    model = build(AutoencoderConfig(arch=arch))
    F.mse_loss(model(minidl.rand(4, 1, 8, 8)), minidl.rand(4, 1, 8, 8)).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.numpy().any()] == []


def test_conv_autoencoder_refuses_images_that_cannot_be_halved():
    with pytest.raises(ValueError, match="10 x 8 pixels cannot be halved 2 times: both must be divisible by 4"):
        ConvAutoencoder((1, 10, 8))


def test_tied_weights_are_one_parameter():
    model = LinearAutoencoder(code=5, tied=True, sigmoid=True)
    assert sorted(model.state_dict()) == ["bias", "down.bias", "down.weight"]
    assert parameters(model) == 64 * 5 + 5 + 64
    x = minidl.rand(2, 1, 8, 8)
    w, b, c = (model.state_dict()[name] for name in ("down.weight", "down.bias", "bias"))
    w, b, c = (np.asarray(a.numpy() if isinstance(a, Tensor) else a) for a in (w, b, c))
    code = 1 / (1 + np.exp(-(x.numpy().reshape(2, 64) @ w.T + b)))
    image = 1 / (1 + np.exp(-(code @ w + c)))
    np.testing.assert_allclose(model(x).numpy().reshape(2, 64), image, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_linear_autoencoder_finds_the_principal_subspace(tied):
    """Baldi and Hornik 1989: with squared error the optimum is PCA, up to the choice of axes in its subspace."""
    minidl.manual_seed(0)
    images = digits("train").arrays[0].astype(np.float64)
    flat = images.reshape(len(images), 64)
    centred = flat - flat.mean(0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    code = 4
    least = (singular[code:] ** 2).sum() / len(images)

    model = LinearAutoencoder(code=code, tied=tied).double()
    x = Tensor(images)
    steps = 1000
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), x, reduction="sum") / len(x)
        loss.backward()
        optimizer.step()
        schedule.step()
    assert least * (1 - 1e-9) < loss.item() < 1.0005 * least

    # the decoder's columns span the principal axes: cosines of the angles between the two subspaces are 1
    columns = (model.down.weight.T if tied else model.up.weight).detach().numpy()
    cosines = np.linalg.svd(np.linalg.qr(columns)[0].T @ axes[:code].T, compute_uv=False)
    assert cosines.min() > 0.999


@pytest.mark.parametrize("frozen", [False, True])
def test_classifier_trains_the_encoder_it_was_given_unless_frozen(frozen):
    encoder = ConvAutoencoder(channels=(4, 8), code=None).down
    model = Classifier(encoder, features=8 * 2 * 2, freeze_encoder=frozen)
    assert parameters(model) == parameters(encoder) + 10 * (8 * 2 * 2 + 1)  # no decoder
    images, labels = minidl.rand(6, 1, 8, 8), np.arange(6)
    codes = encoder(images).detach().numpy().reshape(6, -1)
    logits = codes @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()
    np.testing.assert_allclose(model(images).detach().numpy(), logits, rtol=1e-5, atol=1e-6)

    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not np.array_equal(value.numpy(), before[name])}
    assert changed == {"head.weight", "head.bias"} if frozen else changed == set(before)
    assert model.encoder is encoder


def test_corruption_is_normal_noise_of_the_given_deviation():
    minidl.manual_seed(0)
    images = minidl.rand(500, 1, 8, 8)
    noise = corrupt(images, 0.3).numpy() - images.numpy()
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01 and noise.std() == pytest.approx(0.3, rel=0.02)
    assert abs((noise**4).mean() / 0.3**4 - 3) < 0.25  # the normal distribution's
    np.testing.assert_array_equal(corrupt(images, 0).numpy(), images.numpy())
    with pytest.raises(ValueError, match="noise is -1; it is a standard deviation and must be at least 0"):
        corrupt(images, -1)
