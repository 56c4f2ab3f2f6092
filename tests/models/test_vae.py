"""Variational autoencoders: published sizes, the bound and its traps, and densities against SciPy's."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

import minidl
from minidl import Tensor, nn, optim
from minidl.data import digits
from minidl.models.vae import MLPVAE, ConvVAE, kl_divergence
from minidl.train import CheckpointError, save_checkpoint

SMALL = {
    "mlp": lambda **options: MLPVAE((1, 8, 8), hidden=32, latent=3, **options),
    "conv": lambda **options: ConvVAE((1, 8, 8), channels=(4, 8), latent=3, **options),
}
every_net = pytest.mark.parametrize("net", SMALL.values(), ids=SMALL)
every_likelihood = pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def array(x):
    return x.detach().numpy()


def images(n, shape=(1, 8, 8)):
    return minidl.rand(n, *shape)


def spread_out(model):
    """Weights large enough for means, variances and pixels to differ from each other."""
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model


# ---- sizes
@pytest.mark.parametrize(("latent", "count"), [(2, 788_788), (20, 815_824), (200, 1_086_184)])
def test_published_number_of_parameters(latent, count):
    with nn.init.skip():
        assert parameters(MLPVAE(latent=latent)) == count


def test_number_of_parameters_of_pytorchs_example():
    model = MLPVAE(hidden=400, latent=20, activation=nn.ReLU)
    assert parameters(model) == 652_824
    assert model.encoder[1].activation == model.decoder[0].activation == "relu"
    odd = MLPVAE(hidden=400, latent=20, activation=nn.SiLU)
    assert isinstance(odd.encoder[2], nn.SiLU) and isinstance(odd.decoder[1], nn.SiLU)
    assert odd.state_dict().keys() == model.state_dict().keys()


def test_number_of_parameters_of_the_convolutional_net():
    down, heads = (32 * 16 + 32) + (32 * 64 * 16 + 64), 2 * (64 * 49 * 20 + 20)
    up = (20 * 64 * 49 + 64 * 49) + (64 * 32 * 16 + 32) + (32 * 16 + 1)
    assert parameters(ConvVAE((1, 28, 28))) == down + heads + up
    assert parameters(ConvVAE((1, 28, 28), likelihood="gaussian")) == down + heads + up + (32 * 16 + 1)


def trace(model, image):
    """Shapes without the batch, of what layers with parameters give, in the order in which they run."""
    seen = []
    for layer in model.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda layer, args, y: seen.append(tuple(y.shape[1:])))
    model.elbo(image)
    return seen


def test_shapes_of_the_paper():
    assert trace(MLPVAE(latent=20), images(2, (1, 28, 28))) == [(500,), (20,), (20,), (500,), (784,)]
    frey = MLPVAE((1, 28, 20), hidden=200, latent=5, likelihood="gaussian")
    assert trace(frey, images(2, (1, 28, 20))) == [(200,), (5,), (5,), (200,), (560,), (560,)]


@pytest.mark.parametrize("side", [28, 8])
def test_shapes_of_the_convolutional_net(side):
    half, quarter = (32, side // 2, side // 2), (64, side // 4, side // 4)
    expected = [half, quarter, (20,), (20,), (math.prod(quarter),), half, (1, side, side)]
    assert trace(ConvVAE((1, side, side)), images(2, (1, side, side))) == expected
    with pytest.raises(ValueError, match="10 x 8 pixels cannot be halved 2 times: both must be divisible by 4"):
        ConvVAE((1, 10, 8))


@every_net
@every_likelihood
def test_what_goes_in_and_out(net, likelihood):
    model, x = net(likelihood=likelihood), images(5)
    assert [part.shape for part in model.encode(x)] == [(5, 3), (5, 3)]
    for picture, n in ((model(x), 5), (model.reconstruct(x), 5), (model.sample(7), 7)):
        assert picture.shape == (n, 1, 8, 8)
        assert (array(picture) > 0).all() and (array(picture) < 1).all()
    assert model.log_likelihood(x, minidl.randn(5, 3)).shape == (5,)
    assert model.importance_bound(x, 4).shape == (5,)
    with pytest.raises(ValueError, match='likelihood is \'normal\'; it must be "bernoulli" or "gaussian"'):
        net(likelihood="normal")


def test_interpolation_goes_from_one_reconstruction_to_the_other():
    model, a, b = spread_out(SMALL["mlp"]()), images(4), images(4)
    path = array(model.interpolate(a, b, steps=5))
    assert path.shape == (5, 4, 1, 8, 8)
    np.testing.assert_allclose(path[0], array(model.reconstruct(a)), rtol=1e-5)
    np.testing.assert_allclose(path[4], array(model.reconstruct(b)), rtol=1e-5)
    middle = (model.encode(a)[0] + model.encode(b)[0]) / 2
    np.testing.assert_allclose(path[2], array(model.decode(middle)), rtol=1e-5)
    with pytest.raises(ValueError, match="at least the two ends"):
        model.interpolate(a, b, steps=1)


def test_manifold_lies_on_the_quantiles_of_the_prior(monkeypatch):
    """A decoder that returns its code shows where the grid is: equal shares of N(0, 1) between its lines."""
    model = MLPVAE((1, 8, 8), hidden=32, latent=2)
    monkeypatch.setattr(MLPVAE, "decode", lambda self, codes: codes)
    codes, (columns, rows) = model.manifold(5)
    shares = np.arange(0.1, 1, 0.2)
    np.testing.assert_allclose(stats.norm.cdf(columns), shares, rtol=1e-9)
    np.testing.assert_allclose(stats.norm.cdf(rows), shares[::-1], rtol=1e-9)
    assert codes.shape == (5, 5, 2)
    for i, j in np.ndindex(5, 5):
        np.testing.assert_allclose(array(codes)[i, j], (columns[j], rows[i]), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("net", [MLPVAE, ConvVAE])
def test_manifold_is_made_of_images_and_wants_codes_of_two_numbers(net):
    model = spread_out(net((1, 8, 8), latent=2))
    images, (columns, rows) = model.manifold(3)
    assert images.shape == (3, 3, 1, 8, 8)
    corner = array(model.decode(Tensor(np.array([[columns[2], rows[0]]], np.float32))))
    np.testing.assert_allclose(array(images)[0, 2], corner[0], rtol=1e-5)
    with pytest.raises(ValueError, match="latent is 3; only codes of 2 numbers fill a grid"):
        net((1, 8, 8), latent=3).manifold()
    with pytest.raises(ValueError, match="size is 0; it must be at least 1"):
        model.manifold(0)


# ---- the initial values
def test_initial_values():
    minidl.manual_seed(0)
    model = MLPVAE(latent=20, likelihood="gaussian")
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not array(p).any(), name
        else:
            assert abs(array(p).std() / 0.01 - 1) < max(0.01, 4 / math.sqrt(2 * p.numel())), name
            assert abs(array(p).mean()) < 4 * 0.01 / math.sqrt(p.numel()), name


def test_the_layers_own_initial_values():
    """Uniform up to 1 / sqrt(fan-in), as a layer by itself has them; the convolutional net starts from them."""
    model = MLPVAE(hidden=50, latent=2)
    minidl.manual_seed(1)
    model.reset_layers()
    minidl.manual_seed(1)
    expected = [nn.Linear(784, 50), nn.Linear(50, 2), nn.Linear(50, 2), nn.Linear(2, 50), nn.Linear(50, 784)]
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    for layer, alone in zip(layers, expected, strict=True):
        np.testing.assert_array_equal(array(layer.weight), array(alone.weight))
        np.testing.assert_array_equal(array(layer.bias), array(alone.bias))
    assert abs(array(layers[0].weight)).max() == pytest.approx(1 / 28, rel=1e-3)


# ---- the two terms
def test_kl_divergence_is_that_of_a_monte_carlo_estimate():
    minidl.manual_seed(0)
    mean, logvar = minidl.randn(4, 3, dtype="float64"), minidl.randn(4, 3, dtype="float64")
    std = np.exp(array(logvar) / 2)
    z = np.random.default_rng(0).normal(array(mean), std, (100_000, 4, 3))
    ratios = (stats.norm.logpdf(z, array(mean), std) - stats.norm.logpdf(z)).sum(2)
    error = ratios.std(0) / math.sqrt(len(ratios))
    assert (abs(array(kl_divergence(mean, logvar)) - ratios.mean(0)) < 4 * error).all()
    assert (error < 0.02).all()
    assert not array(kl_divergence(minidl.zeros(2, 3), minidl.zeros(2, 3))).any()


def outputs(model, code):
    """What the decoder's heads give, as float64."""
    h = model.decoder(code)
    heads = [model.pixels, model.pixels_logvar] if model.pixels_logvar is not None else [model.pixels]
    return [array(head(h)).astype(np.float64) for head in heads]


@every_net
def test_bernoulli_likelihood_is_scipys(net):
    minidl.manual_seed(0)
    model, code = spread_out(net()), minidl.randn(5, 3)
    x = minidl.bernoulli(minidl.full((5, 1, 8, 8), 0.5))
    (logits,) = outputs(model, code)
    expected = stats.bernoulli.logpmf(array(x), 1 / (1 + np.exp(-logits))).sum((1, 2, 3))
    np.testing.assert_allclose(array(model.log_likelihood(x, code)), expected, rtol=1e-4)


@every_net
def test_gaussian_likelihood_is_scipys(net):
    minidl.manual_seed(0)
    model, code, x = spread_out(net(likelihood="gaussian")), minidl.randn(5, 3), images(5)
    means, logvars = outputs(model, code)
    assert logvars.std() > 0.1  # every pixel has a variance of its own
    expected = stats.norm.logpdf(array(x), 1 / (1 + np.exp(-means)), np.exp(logvars / 2)).sum((1, 2, 3))
    np.testing.assert_allclose(array(model.log_likelihood(x, code)), expected, rtol=1e-4)
    np.testing.assert_allclose(array(model.decode(code)), 1 / (1 + np.exp(-means)), rtol=1e-4)


# ---- traps
@every_net
@every_likelihood
def test_elbo_sums_over_pixels_and_averages_over_the_batch(net, likelihood):
    model, x = spread_out(net(likelihood=likelihood)), images(6)
    state = minidl.get_rng_state()
    loss, reconstruction, kl = (part.item() for part in model.elbo(x))
    minidl.set_rng_state(state)
    noise = minidl.randn(6, 3)
    mean, logvar = (array(part) for part in model.encode(x))
    code = Tensor(mean + np.exp(logvar / 2) * noise.numpy())
    each = -array(model.log_likelihood(x, code))
    np.testing.assert_allclose(reconstruction, each.mean(), rtol=1e-5)
    np.testing.assert_allclose(kl, (0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum(1)).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, reconstruction + kl, rtol=1e-6)
    minidl.set_rng_state(state)
    np.testing.assert_allclose(model.elbo(x, kl_weight=0.25)[0].item(), reconstruction + 0.25 * kl, rtol=1e-6)


def test_elbo_draws_its_codes_in_evaluation_mode_too():
    model, x = spread_out(SMALL["mlp"]()).eval(), images(4)
    assert model.elbo(x)[1].item() != model.elbo(x)[1].item()
    assert model.elbo(x)[2].item() == model.elbo(x)[2].item()
    np.testing.assert_array_equal(array(model.reconstruct(x)), array(model.reconstruct(x)))


@every_likelihood
def test_extreme_outputs_give_finite_losses_and_gradients(likelihood):
    model = SMALL["mlp"](likelihood=likelihood)
    for p in model.parameters():
        nn.init.normal_(p, std=300.0)
    loss, _, _ = model.elbo(images(4))
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters())
    _, logvar = model.encode(images(4))
    assert (abs(array(logvar)) <= 10).all()


def test_a_constant_pixel_has_a_limited_density():
    model, x = SMALL["mlp"](likelihood="gaussian"), minidl.full((2, 1, 8, 8), 0.5)
    for p in model.parameters():
        nn.init.zeros_(p)
    nn.init.constant_(model.pixels_logvar[0].bias, -50.0)
    expected = 64 * stats.norm.logpdf(0, scale=math.exp(-3))  # every pixel hit exactly
    np.testing.assert_allclose(array(model.log_likelihood(x, minidl.zeros(2, 3))), expected, rtol=1e-5)


# ---- the importance-sampled bound
def test_importance_bound_reaches_the_likelihood_of_a_model_that_can_be_integrated():
    """One latent component: p(x) is an integral over a line, computed here on a grid."""
    minidl.manual_seed(0)
    model = spread_out(MLPVAE((1, 2, 2), hidden=4, latent=1)).double()
    nn.init.constant_(model.logvar.bias, 0.5)  # q wider than the posterior: the ratios have a small variance
    x = minidl.bernoulli(minidl.full((3, 1, 2, 2), 0.5, dtype="float64"))
    grid = np.linspace(-8, 8, 2001)
    codes = Tensor(np.repeat(grid, 3)[:, None])
    given = array(model.log_likelihood(minidl.cat([x] * len(grid)), codes)).reshape(len(grid), 3)
    exact = np.log(np.trapezoid(np.exp(given) * stats.norm.pdf(grid)[:, None], grid, axis=0))
    runs = 2000
    many = minidl.cat([x] * runs)
    with minidl.no_grad():
        bounds = {k: array(model.importance_bound(many, k)).reshape(runs, 3).mean(0) for k in (1, 3, 10, 300)}
        elbo = -np.mean([model.elbo(many)[0].item() for _ in range(10)])
    assert abs(bounds[1].mean() - elbo) < 0.1  # the same quantity, estimated in two ways
    assert all((tighter > looser).all() for looser, tighter in pairwise(bounds.values()))
    np.testing.assert_allclose(bounds[300], exact, atol=0.01)
    assert elbo < exact.mean() - 0.1
    with pytest.raises(ValueError, match="at least one code"):
        model.importance_bound(x, 0)


# ---- learning
@every_net
@every_likelihood
def test_learns_one_batch_by_heart(net, likelihood):
    """Better than the best model that makes no use of the code, which knows each pixel's distribution by itself."""
    minidl.manual_seed(0)
    x = digits("train").arrays[0][:8]
    if likelihood == "bernoulli":
        x = (x > 0.5).astype(np.float32)
        entropy = stats.bernoulli.entropy(x.mean(0)).sum()
    else:
        logvar = np.log(np.maximum(x.var(0), math.exp(-6)))  # the net's limit
        entropy = 0.5 * (math.log(2 * math.pi) + logvar + x.var(0) / np.exp(logvar)).sum()
    model = net(likelihood=likelihood)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    for step in range(600):
        optimizer.zero_grad()
        # the KL term comes in gradually: at full weight from the start it may drive all codes into the prior for good
        loss, _, kl = model.elbo(Tensor(x), kl_weight=min(1.0, step / 300))
        loss.backward()
        optimizer.step()
    assert loss.item() < entropy - (10 if likelihood == "bernoulli" else 30)
    assert kl.item() > math.log(8)  # what it takes to say which of the eight images it is
    error = np.mean((array(model.reconstruct(Tensor(x))) - x) ** 2) / x.var(0).mean()
    # a Gaussian decoder gets some pixels exactly right before it looks at the others: densities reward that
    assert error < (0.2 if likelihood == "bernoulli" else 0.7)


@every_net
@every_likelihood
def test_gradients(net, likelihood):
    minidl.manual_seed(0)
    model = spread_out(net(likelihood=likelihood)).double()
    x = minidl.rand(3, 1, 8, 8, dtype="float64", requires_grad=True)
    state = minidl.get_rng_state()

    def loss(*_):
        minidl.set_rng_state(state)  # the same codes each time
        return model.elbo(x)

    inputs = (x, *model.parameters())
    assert minidl.gradcheck(loss, inputs, fast=True, atol=1e-7, rtol=1e-5)
    assert all(abs(g.numpy()).max() > 1e-3 for g in minidl.grad(loss()[0], inputs))


def test_weights_come_from_a_file(tmp_path):
    for name, net in SMALL.items():
        model = net(likelihood="gaussian")
        save_checkpoint(tmp_path / f"{name}.safetensors", model)
        again = net(likelihood="gaussian", weights=tmp_path / f"{name}.safetensors")
        assert all(
            np.array_equal(array(p), array(q)) for p, q in zip(model.parameters(), again.parameters(), strict=True)
        )
    with pytest.raises(CheckpointError, match="another model than MLPVAE"):
        SMALL["mlp"](weights=tmp_path / "conv.safetensors")
