"""DCGAN: published sizes, shapes and initial values, and the rules of the game."""

import math

import numpy as np
import pytest

import minidl
from minidl import Tensor, nn, optim
from minidl.models.dcgan import (
    DCGAN,
    CIFARDiscriminator,
    Discriminator,
    Generator,
    discriminator_loss,
    generator_loss,
    interpolate,
    vector_arithmetic,
)
from minidl.train import CheckpointError, save_checkpoint

TINY = {"size": 16, "channels": 1, "latent": 6, "width": 4}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def array(x):
    return x.detach().numpy()


def trace(model, x):
    """(name, shape of its output without the batch) of every child, in the order in which they run."""
    seen = []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda layer, args, y, name=name: seen.append((name, tuple(y.shape[1:]))))
    with minidl.no_grad():
        y = model(x)
    return seen, y.shape


def gradients(model):
    return {name: None if p.grad is None else array(p.grad).copy() for name, p in model.named_parameters()}


# ---- sizes
@pytest.mark.parametrize(
    ("options", "g", "d"),
    [
        ({}, 3_576_704, 2_765_568),
        ({"channels": 1}, 3_574_656, 2_763_520),
        ({"width": 128, "kernel_size": 5}, 18_885_760, 17_232_768),
    ],
    ids=["64 pixels", "64 pixels, grey", "the authors' net"],
)
def test_published_number_of_parameters(options, g, d):
    with nn.init.skip():
        assert parameters(Generator(**options)) == g
        assert parameters(Discriminator(**options)) == d
        assert parameters(DCGAN(**options)) == g + d


@pytest.mark.parametrize(("width", "kernel_size"), [(64, 4), (128, 5)])
def test_shapes_for_64_pixels(width, kernel_size):
    with nn.init.skip():
        g, d = (net(width=width, kernel_size=kernel_size).eval() for net in (Generator, Discriminator))
    w = width
    assert trace(g, minidl.zeros(1, 100)) == (
        [
            ("project", (8 * w, 4, 4)),
            ("conv1", (4 * w, 8, 8)),
            ("conv2", (2 * w, 16, 16)),
            ("conv3", (w, 32, 32)),
            ("conv4", (3, 64, 64)),
        ],
        (1, 3, 64, 64),
    )
    assert trace(d, minidl.zeros(1, 3, 64, 64)) == (
        [
            ("conv1", (w, 32, 32)),
            ("conv2", (2 * w, 16, 16)),
            ("conv3", (4 * w, 8, 8)),
            ("conv4", (8 * w, 4, 4)),
            ("score", (1, 1, 1) if kernel_size == 4 else (1,)),
        ],
        (1,),
    )


def kinds(model):
    return {name: [type(part).__name__ for part in box] for name, box in model.named_children() if len(list(box)) > 1}


def test_what_is_in_the_boxes():
    up, down = ["ConvTranspose2d", "BatchNorm2d", "ReLU"], ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    gan = DCGAN(**TINY)
    assert kinds(gan.generator) == {"project": ["Unflatten", *up], "conv1": up, "conv2": ["ConvTranspose2d", "Tanh"]}
    gan.discriminator.score = nn.Sequential(gan.discriminator.score)
    assert kinds(gan.discriminator) == {"conv1": ["Conv2d", "LeakyReLU"], "conv2": down}
    authors = DCGAN(**TINY, kernel_size=5)
    assert kinds(authors.generator)["project"] == ["Linear", "BatchNorm1d", "ReLU", "Unflatten"]
    assert kinds(authors.discriminator)["score"] == ["Flatten", "Linear"]
    for model in (gan, authors):
        slopes = [layer.negative_slope for layer in model.modules() if isinstance(layer, nn.LeakyReLU)]
        assert slopes == [0.2, 0.2]
        convs = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
        assert all(layer.bias is None for layer in convs)


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("size", [8, 16, 32, 64, 128])
def test_any_power_of_two(size, kernel_size):
    gan = DCGAN(size, channels=2, latent=5, width=2, kernel_size=kernel_size)
    images = gan.sample(2)
    assert images.shape == (2, 2, size, size) and gan.discriminator(images).shape == (2,)
    assert len(list(gan.generator.children())) == len(list(gan.discriminator.children())) == math.log2(size) - 1
    # one layer for each doubling, twice the channels on the way down
    assert gan.discriminator.features(images).shape == (2, 16 * 2 * (size // 4 - 1))


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("training", [True, False])
def test_images_and_scores_are_those_of_the_same_net_in_pytorch(kernel_size, training):
    torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")
    t = torch.nn
    minidl.manual_seed(0)
    gan = DCGAN(**TINY, kernel_size=kernel_size).train(training)
    for p in gan.parameters():
        nn.init.normal_(p, std=0.4)
    codes = gan.codes(4)
    if kernel_size == 4:
        sizes, up = (4, 2, 1), {}
        project = [t.Unflatten(1, (6, 1, 1)), t.ConvTranspose2d(6, 8, 4, bias=False), t.BatchNorm2d(8), t.ReLU()]
        score = [t.Conv2d(8, 1, 4, bias=False)]
    else:
        sizes, up = (5, 2, 2), {"output_padding": 1}
        project = [t.Linear(6, 128, bias=False), t.BatchNorm1d(128), t.ReLU(), t.Unflatten(1, (8, 4, 4))]
        score = [t.Flatten(), t.Linear(128, 1, bias=False)]
    conv1 = [t.ConvTranspose2d(8, 4, *sizes, **up, bias=False), t.BatchNorm2d(4), t.ReLU()]
    g = t.Sequential(*project, *conv1, t.ConvTranspose2d(4, 1, *sizes, **up, bias=False), t.Tanh())
    conv2 = [t.Conv2d(4, 8, *sizes, bias=False), t.BatchNorm2d(8), t.LeakyReLU(0.2)]
    d = t.Sequential(t.Conv2d(1, 4, *sizes, bias=False), t.LeakyReLU(0.2), *conv2, *score)
    for ours, theirs in ((gan.generator, g.train(training)), (gan.discriminator, d.train(training))):
        state = [torch.tensor(array(value)) for value in ours.state_dict().values()]
        theirs.load_state_dict(dict(zip(theirs.state_dict(), state, strict=True)))
    with torch.no_grad():
        images = g(torch.tensor(codes.numpy()))
        scores = d(images).flatten()
    np.testing.assert_allclose(array(gan(codes)), images.numpy(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(array(gan.discriminator(Tensor(images.numpy()))), scores.numpy(), rtol=1e-3, atol=1e-4)


def test_smaller_first_maps():
    """z - 64x2x2 - 32x4x4 - 1x8x8 for 8 x 8 digits."""
    gan = DCGAN(8, channels=1, latent=20, width=32, base=2)
    assert trace(gan.generator, minidl.zeros(2, 20))[0] == [
        ("project", (64, 2, 2)), ("conv1", (32, 4, 4)), ("conv2", (1, 8, 8)),
    ]  # fmt: skip
    assert trace(gan.discriminator, minidl.zeros(2, 1, 8, 8))[0] == [
        ("conv1", (32, 4, 4)), ("conv2", (64, 2, 2)), ("score", (1, 1, 1)),
    ]  # fmt: skip


@pytest.mark.parametrize("options", [{"size": 48}, {"size": 4}, {"size": 0}, {"size": 8, "base": 3}, {"base": 0}])
def test_sizes_that_cannot_be_are_refused(options):
    for net in (Generator, Discriminator):
        with pytest.raises(ValueError, match=r"size is \d+; it must be base=\d times a power of two"):
            net(**options)


def test_options_that_are_unknown_are_refused():
    with pytest.raises(ValueError, match="kernel_size is 3; 4 and 5 are known"):
        Generator(kernel_size=3)
    with pytest.raises(ValueError, match="noise is 'gauss'"):
        DCGAN(noise="gauss")


def test_features_of_the_cifar_net():
    with nn.init.skip():
        model = CIFARDiscriminator().eval()
    assert trace(model, minidl.zeros(1, 3, 32, 32)) == (
        [
            ("conv1", (128, 32, 32)),
            ("conv2", (128, 16, 16)),
            ("conv3", (256, 16, 16)),
            ("conv4", (256, 8, 8)),
            ("conv5", (512, 8, 8)),
            ("conv6", (512, 4, 4)),
            ("score", (1,)),
        ],
        (1,),
    )
    with minidl.no_grad():
        assert model.features(minidl.zeros(1, 3, 32, 32)).shape == (1, 28_672)


def test_features_are_the_largest_answers_of_every_layer():
    d, images = Discriminator(**{k: v for k, v in TINY.items() if k != "latent"}).eval(), minidl.randn(3, 1, 16, 16)
    first = d.conv1(images)
    second = d.conv2(first)
    assert first.shape == (3, 4, 8, 8) and second.shape == (3, 8, 4, 4)
    cells = array(first).reshape(3, 4, 4, 2, 4, 2).max((3, 5))
    expected = np.concatenate([cells.reshape(3, -1), array(second).reshape(3, -1)], 1)
    np.testing.assert_array_equal(array(d.features(images)), expected)


# ---- the initial values
@pytest.mark.parametrize("kernel_size", [4, 5])
def test_initial_values(kernel_size):
    minidl.manual_seed(0)
    models = [DCGAN(32, width=32, kernel_size=kernel_size), CIFARDiscriminator(width=16)]
    for layer in (layer for model in models for layer in model.modules()):
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            centre = 1.0
            assert not array(layer.bias).any()
            assert (array(layer.running_mean) == 0).all() and (array(layer.running_var) == 1).all()
        elif list(layer.parameters(recurse=False)):
            centre = 0.0
        else:
            continue
        w = array(layer.weight)
        assert abs(w.std() / 0.02 - 1) < max(0.02, 4 / math.sqrt(2 * w.size)), layer
        assert abs(w.mean() - centre) < 4 * 0.02 / math.sqrt(w.size), layer


def test_codes():
    minidl.manual_seed(0)
    normal = array(DCGAN(**TINY).codes(2000))
    uniform = array(DCGAN(**TINY, noise="uniform").codes(2000))
    assert normal.shape == uniform.shape == (2000, 6)
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05 and normal.max() > 2
    assert abs(uniform.mean()) < 0.05 and abs(uniform.std() - 3**-0.5) < 0.02 and abs(uniform).max() < 1


# ---- the losses
def test_losses_are_cross_entropies():
    real, fake = np.array([2.0, -1.0, 0.5]), np.array([-3.0, 1.5])
    p, q = 1 / (1 + np.exp(-real)), 1 / (1 + np.exp(-fake))
    d = discriminator_loss(Tensor(real), Tensor(fake)).item()
    np.testing.assert_allclose(d, -np.log(p).mean() - np.log(1 - q).mean())
    np.testing.assert_allclose(generator_loss(Tensor(fake)).item(), -np.log(q).mean())
    np.testing.assert_allclose(generator_loss(Tensor(fake), saturating=True).item(), np.log(1 - q).mean())
    undecided = minidl.zeros(4)
    np.testing.assert_allclose(discriminator_loss(undecided, undecided).item(), 2 * math.log(2), rtol=1e-6)
    sure = minidl.full((4,), 1e4)
    assert discriminator_loss(sure, -sure).item() == 0 and discriminator_loss(-sure, sure).item() == 2e4


def test_the_generators_loss_pulls_hardest_where_the_other_saturates():
    pulls = {}
    for saturating in (False, True):
        logits = minidl.full((1,), -20.0, requires_grad=True)
        generator_loss(logits, saturating).backward()
        pulls[saturating] = logits.grad.item()
    np.testing.assert_allclose(pulls[False], -1, rtol=1e-6)
    assert -1e-8 < pulls[True] < 0  # the same direction, and next to nothing


# ---- the game
def test_the_discriminators_step_leaves_the_generators_gradients_alone_and_vice_versa():
    gan, real = DCGAN(**TINY), minidl.rand(5, 1, 16, 16)
    gan.discriminator_loss(real).backward()
    assert all(g is None for g in gradients(gan.generator).values())
    assert all(g.any() for g in gradients(gan.discriminator).values())

    before = gradients(gan.discriminator)
    gan.generator_loss(5).backward()
    assert all(g.any() for g in gradients(gan.generator).values())
    for name, g in gradients(gan.discriminator).items():
        np.testing.assert_array_equal(g, before[name], name)
    assert all(p.requires_grad for p in gan.parameters())

    before = gradients(gan.generator)
    gan.discriminator_loss(real).backward()
    for name, g in gradients(gan.generator).items():
        np.testing.assert_array_equal(g, before[name], name)


def test_parameters_that_were_frozen_stay_frozen():
    gan = DCGAN(**TINY)
    gan.discriminator.conv1.requires_grad_(False)
    gan.generator_loss(3)
    frozen = [name for name, p in gan.named_parameters() if not p.requires_grad]
    assert frozen == ["discriminator.conv1.0.weight"]


def test_real_and_drawn_images_are_normalised_separately():
    gan, real, code = DCGAN(**TINY), 0.3 + 0.1 * minidl.randn(5, 1, 16, 16), minidl.randn(5, 6)
    sizes = []
    gan.discriminator.register_forward_hook(lambda layer, args, y: sizes.append(len(args[0])))
    loss = gan.discriminator_loss(real, code).item()
    assert sizes == [5, 5]
    fake = gan.generator(code)
    apart = discriminator_loss(gan.discriminator(real), gan.discriminator(fake)).item()
    np.testing.assert_allclose(loss, apart, rtol=1e-5)
    together = gan.discriminator(minidl.cat([real, fake]))
    assert abs(discriminator_loss(together[:5], together[5:]).item() - loss) > 1e-3


def test_samples_depend_on_their_code_alone_in_evaluation_mode():
    gan, codes = DCGAN(**TINY), minidl.randn(6, 6)
    gan.sample(50)  # gives batch norm something to remember
    assert abs(array(gan(codes))[:2] - array(gan(codes[:2]))).max() > 1e-4
    gan.eval()
    np.testing.assert_allclose(array(gan(codes))[:2], array(gan(codes[:2])), rtol=1e-4, atol=1e-6)
    assert gan.sample(3).shape == (3, 1, 16, 16)


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_each_player_beats_the_other_on_one_batch(kernel_size):
    minidl.manual_seed(0)
    gan = DCGAN(**TINY, kernel_size=kernel_size)
    real, code = 2 * minidl.rand(8, 1, 16, 16) - 1, minidl.randn(8, 6)
    for player, loss in (
        (gan.discriminator, lambda: gan.discriminator_loss(real, code)),
        (gan.generator, lambda: gan.generator_loss(8, code)),
    ):
        optimizer = optim.Adam(player.parameters(), lr=2e-3, betas=(0.5, 0.999))
        first = loss().item()
        for _ in range(100):
            optimizer.zero_grad()
            now = loss()
            now.backward()
            optimizer.step()
        assert first > 0.5 and now.item() < 0.05


@pytest.mark.parametrize("kernel_size", [4, 5])
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_gradients(kernel_size, player):
    minidl.manual_seed(0)
    gan = DCGAN(8, channels=2, latent=3, width=3, kernel_size=kernel_size).double()
    for p in gan.parameters():
        nn.init.normal_(p, std=0.4)
    real, code = minidl.randn(4, 2, 8, 8, dtype="float64"), minidl.randn(4, 3, dtype="float64")
    inputs = tuple(getattr(gan, player).parameters())
    if player == "generator":
        code.requires_grad = True
        inputs = (code, *inputs)
        loss = lambda *_: gan.generator_loss(4, code)
    else:
        real.requires_grad = True
        inputs = (real, *inputs)
        loss = lambda *_: gan.discriminator_loss(real, code)
    assert minidl.gradcheck(loss, inputs, fast=True, atol=1e-8, rtol=1e-5)
    assert all(abs(array(g)).max() > 1e-4 for g in minidl.grad(loss(), inputs))


# ---- walking among the codes
def test_spherical_interpolation_keeps_length_and_speed():
    minidl.manual_seed(0)
    a, b = (array(minidl.randn(4, 50, dtype="float64")) for _ in range(2))
    b *= np.linalg.norm(a, axis=1, keepdims=True) / np.linalg.norm(b, axis=1, keepdims=True)
    path = array(interpolate(Tensor(a), Tensor(b), 9))
    assert path.shape == (9, 4, 50)
    np.testing.assert_allclose(path[[0, 8]], [a, b], rtol=1e-9)
    lengths = np.linalg.norm(path, axis=2)
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], (9, 4)))
    chords = np.linalg.norm(np.diff(path, axis=0), axis=2)
    np.testing.assert_allclose(chords, np.broadcast_to(chords[0], (8, 4)))
    straight = array(interpolate(Tensor(a), Tensor(b), 9, spherical=False))
    np.testing.assert_allclose(straight[4], (a + b) / 2)
    assert (np.linalg.norm(straight[4], axis=1) < 0.9 * lengths[4]).all()


def test_interpolation_between_codes_of_the_same_or_opposite_direction_is_straight():
    a = minidl.randn(50)
    for b in (a, 2 * a, -a, 0 * a):
        path = interpolate(a, b, 3)
        assert path.dtype == np.float32
        np.testing.assert_allclose(array(path), [array(a), array(a + b) / 2, array(b)], atol=1e-5)
    with pytest.raises(ValueError, match="at least the two ends"):
        interpolate(a, a, 1)


def test_vector_arithmetic_takes_means():
    smiling_women, neutral_women, neutral_men = (minidl.randn(3, 6) for _ in range(3))
    result = vector_arithmetic(smiling_women.mean(0), neutral_women, neutral_men)
    expected = array(smiling_women).mean(0) - array(neutral_women).mean(0) + array(neutral_men).mean(0)
    np.testing.assert_allclose(array(result), expected, rtol=1e-4, atol=1e-6)
    each = vector_arithmetic(smiling_women, neutral_women, neutral_men)
    assert each.shape == (3, 6)
    np.testing.assert_allclose(array(each).mean(0), expected, rtol=1e-4, atol=1e-6)


def test_weights_come_from_a_file(tmp_path):
    file = tmp_path / "gan.safetensors"
    gan = DCGAN(**TINY)
    gan.sample(5)  # running statistics belong to the weights
    save_checkpoint(file, gan)
    again = DCGAN(**TINY, weights=file)
    state, other = gan.state_dict(), again.state_dict()
    assert state.keys() == other.keys() and all(np.array_equal(array(state[k]), array(other[k])) for k in state)
    with pytest.raises(CheckpointError, match=r"another model than Generator: project.1.weight \(.*\) is missing"):
        Generator(16, 1, 6, 4, weights=file)
