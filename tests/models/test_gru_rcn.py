"""GRU-RCN: the paper's sizes, how levels are joined, and what the averaged classifiers give."""

import copy

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.models.gru_rcn import GRURCN, VGG16GRURCN, clip_percepts, lower_of_size
from minidl.models.vgg import VGG16
from minidl.train import CheckpointError, save_checkpoint

LEVELS = [(128, 56), (256, 28), (512, 14), (512, 7), (4096, 1)]  # channels and size of VGG-16's percepts
HIDDEN = [64, 128, 256, 256, 512]
TINY = {"classes": 4, "inputs": (2, 3, 4), "hidden": (3, 2, 4), "kernel_sizes": (3, 3, 1)}
SIZES = (8, 4, 1)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def tiny_percepts(n=2, frames=5, **options):
    return [minidl.randn(n, frames, c, s, s, **options) for c, s in zip(TINY["inputs"], SIZES, strict=True)]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 19_476_921),
        ({"stacked": True}, 19_476_921 + 2_179_072),
        ({"bidirectional": True}, 38_953_337),
    ],
)
def test_published_number_of_parameters(options, count):
    with nn.init.skip():
        model = GRURCN(**options)
    assert parameters(model) == count
    assert all(not name.startswith("gru") or "weight" in name for name, _ in model.named_parameters())  # no biases
    if not options:
        assert parameters(model.gru) == 19_353_600


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_shapes_of_the_full_net(stacked, bidirectional):
    with nn.init.skip():
        model = GRURCN(stacked=stacked, bidirectional=bidirectional)
    percepts = [minidl.zeros(1, 3, c, s, s) for c, s in LEVELS]
    rows = minidl.summary(model, [percepts])
    ways = 2 if bidirectional else 1
    for i, (h, (_, s)) in enumerate(zip(HIDDEN, LEVELS, strict=True)):
        assert rows[f"gru.{i}"].output == ((1, 3, ways * h, s, s), (ways, 1, h, s, s))
        assert rows[f"classifier.{i}"].output == (1, 101)
    assert rows[""].output == (1, 101)


def test_shapes_from_the_pixels_on():
    with nn.init.skip():
        model = VGG16GRURCN(VGG16(101), GRURCN(stacked=True))
    rows = minidl.summary(model, (1, 3, 2, 224, 224))
    assert rows["vgg.pool2"].output == (2, 128, 56, 56)  # all frames in one batch
    assert rows["vgg.fc7"].output == (2, 4096)
    assert rows["vgg.fc8"].calls == 0
    assert rows["rcn.gru.0"].output == ((1, 2, 64, 56, 56), (1, 1, 64, 56, 56))
    assert rows["rcn.gru.4"].output == ((1, 2, 512, 1, 1), (1, 1, 512, 1, 1))
    assert rows[""].output == (1, 101)


def test_percepts_of_a_clip_are_those_of_its_frames():
    vgg = VGG16(4, (3, 32, 32), width=2, units=8).eval()
    clip = minidl.randn(2, 3, 4, 32, 32)
    percepts = clip_percepts(vgg, clip)
    for t in range(4):
        for level, alone in zip(percepts, vgg.percepts(clip[:, :, t]), strict=True):
            np.testing.assert_allclose(level.numpy()[:, t], alone.numpy(), rtol=1e-4, atol=1e-6)
    rcn = GRURCN(4, inputs=(4, 8, 16, 16, 8), hidden=(2, 2, 2, 2, 2), dropout=0.0)
    np.testing.assert_array_equal(VGG16GRURCN(vgg, rcn)(clip).numpy(), rcn(percepts).numpy())


# ---- what comes out
def test_probabilities_are_the_mean_of_the_levels():
    model = GRURCN(**TINY).eval()
    for fc in model.classifier:
        nn.init.normal_(fc.bias, std=3.0)  # levels that disagree
    percepts = tiny_percepts(3)
    logits, log_p = model.logits(percepts).numpy().astype(np.float64), model(percepts)
    assert logits.shape == (3, 3, 4)
    softmax = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    np.testing.assert_allclose(np.exp(log_p.numpy()), softmax.mean(1), rtol=1e-5)
    target = Tensor(np.array([0, 3, 1]))
    by_hand = -np.log(softmax.mean(1))[np.arange(3), target.numpy()].mean()
    np.testing.assert_allclose(F.nll_loss(log_p, target).item(), by_hand, rtol=1e-5)
    np.testing.assert_allclose(F.cross_entropy(log_p, target).item(), by_hand, rtol=1e-5)


def test_a_level_that_is_sure_and_wrong_costs_no_more_than_its_share():
    model = GRURCN(**TINY).eval()
    for i, fc in enumerate(model.classifier):
        nn.init.zeros_(fc.weight)
        fc.bias.data[...] = 0.0
        if i == 0:
            fc.bias.data[0] = 1000.0  # probability 0 for the others, even in logarithms of float64
        fc.bias.mutated()
    log_p = model(tiny_percepts(1)).numpy()[0]
    np.testing.assert_allclose(np.exp(log_p), [0.5, 1 / 6, 1 / 6, 1 / 6], rtol=1e-5)


def test_each_level_has_its_own_net():
    """Not stacked, a level's logits depend on its own percept alone."""
    model = GRURCN(**TINY).eval()
    percepts = tiny_percepts()
    logits = model.logits(percepts).numpy()
    for i in range(3):
        changed = [x + 1.0 if j == i else x for j, x in enumerate(percepts)]
        different = abs(model.logits(changed).numpy() - logits).max((0, 2)) > 1e-6
        np.testing.assert_array_equal(different, np.arange(3) == i)


# ---- stacked
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_stacked_levels_read_the_state_below_of_the_same_step():
    """1 x 1 kernels, a single pixel above: the equations in NumPy, with the lower state of step t, or of another."""
    model = GRURCN(2, inputs=(2, 3), hidden=(2, 4), kernel_sizes=(1, 1), stacked=True).double().eval()
    x1, x2 = minidl.randn(1, 6, 2, 2, 2, dtype="float64"), minidl.randn(1, 6, 3, 1, 1, dtype="float64")
    w1, u1 = (model.gru[0].get_parameter(f"weight_{k}_l0").numpy()[..., 0, 0] for k in ("ih", "hh"))
    w2, u2, v2 = (model.gru[1].get_parameter(f"weight_{k}_l0").numpy()[..., 0, 0] for k in ("ih", "hh", "lh"))

    def step(w, u, v, x, h, s):  # x (inputs, pixels), h (hidden, pixels), s: the state below, or None
        (wz, wr, wc), (uz, ur, uc) = np.split(w, 3), np.split(u, 3)
        vz, vr = (m @ s for m in np.split(v, 2)) if v is not None else (0, 0)
        z, r = sigmoid(wz @ x + vz + uz @ h), sigmoid(wr @ x + vr + ur @ h)
        return (1 - z) * h + z * np.tanh(wc @ x + uc @ (r * h))

    low = [np.zeros((2, 4))]
    for t in range(6):
        low.append(step(w1, u1, None, x1.numpy()[0, t].reshape(2, 4), low[-1], None))
    pooled = [h.max(1, keepdims=True) for h in low]  # 2 x 2 to 1 x 1

    def above(below):
        h = np.zeros((4, 1))
        for t in range(6):
            h = step(w2, u2, v2, x2.numpy()[0, t].reshape(3, 1), h, below(t))
        return h

    first, second = model.states([x1, x2])
    np.testing.assert_allclose(first.numpy()[0].reshape(2, 4), low[-1], rtol=1e-10)
    got = second.numpy()[0, :, 0]
    np.testing.assert_allclose(got, above(lambda t: pooled[t + 1]), rtol=1e-10)
    assert abs(got - above(lambda t: pooled[t])).max() > 1e-4  # the step before
    assert abs(got - above(lambda t: pooled[-1])).max() > 1e-4  # the final state, as some programs have it


def test_the_sizes_of_a_stack():
    x = lambda *sizes: minidl.zeros(2, 3, 4, *sizes)
    for below, above in (((56, 56), (28, 28)), ((15, 31), (7, 15)), ((7, 5), (1, 1)), ((6, 6), (6, 6))):
        assert lower_of_size(x(*below), x(*above)).shape == (2, 3, 4, *above)
    with pytest.raises(ValueError, match=r"states of 5 x 4 cannot be pooled to the 3 x 2 of the percept above"):
        lower_of_size(x(5, 4), x(3, 2))


# ---- bidirectional
def test_reversed_in_time_the_two_directions_change_places():
    model = GRURCN(**TINY, bidirectional=True).eval()
    mirrored = copy.deepcopy(model)
    for gru in mirrored.gru:
        for kind in ("weight_ih_l0", "weight_hh_l0"):
            forth, back = gru.get_parameter(kind), gru.get_parameter(f"{kind}_reverse")
            forth.data, back.data = back.data.copy(), forth.data.copy()
    percepts = tiny_percepts()
    back = [minidl.flip(x, (1,)) for x in percepts]
    for h, mirror, size in zip(model.states(percepts), mirrored.states(back), TINY["hidden"], strict=True):
        assert h.shape[1] == 2 * size
        np.testing.assert_array_equal(np.roll(mirror.numpy(), size, 1), h.numpy())
        assert abs(h.numpy() - np.roll(h.numpy(), size, 1)).max() > 1e-4  # they do differ


def test_a_direction_is_a_net_of_its_own():
    """The first half of each last state is that of the one-way net with the same weights."""
    both, one = GRURCN(**TINY, bidirectional=True).eval(), GRURCN(**TINY).eval()
    one.gru.load_state_dict({k: v for k, v in both.gru.state_dict().items() if not k.endswith("_reverse")})
    percepts = tiny_percepts()
    for h, alone in zip(both.states(percepts), one.states(percepts), strict=True):
        np.testing.assert_array_equal(h.numpy()[:, : alone.shape[1]], alone.numpy())


# ---- training
@pytest.mark.parametrize("options", [{}, {"stacked": True}, {"bidirectional": True}])
def test_learns_the_order_of_frames_by_heart(options):
    """Two videos of the same frames, and the same backwards: no mean over frames tells them apart."""
    minidl.manual_seed(0)
    model = GRURCN(**TINY, **options, dropout=0.0)
    forth = tiny_percepts()
    percepts = [minidl.cat([x, minidl.flip(x, (1,))]) for x in forth]
    target = Tensor(np.arange(4))
    optimizer = optim.Adam(model.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        loss = F.nll_loss(model(percepts), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    np.testing.assert_array_equal(model(percepts).numpy().argmax(1), np.arange(4))


@pytest.mark.parametrize("options", [{}, {"stacked": True, "bidirectional": True}])
def test_gradients(options):
    minidl.manual_seed(1)
    model = GRURCN(3, (2, 3), (2, 2), (3, 1), 0.0, **options).double()
    percepts = [minidl.randn(2, 3, c, s, s, dtype="float64", requires_grad=True) for c, s in ((2, 4), (3, 2))]
    target = Tensor(np.array([2, 0]))
    inputs = (*percepts, *model.parameters())
    assert minidl.gradcheck(lambda *_: F.nll_loss(model(percepts), target), inputs, fast=True)


def test_initial_values():
    minidl.manual_seed(0)
    model = GRURCN(10, (8, 16), (16, 32), (3, 1), stacked=True)
    for gru, k in zip(model.gru, (3, 1), strict=True):
        bound = 1 / np.sqrt(gru.hidden_channels * k * k)
        for p in gru.parameters():
            assert 0.9 * bound < abs(p.numpy()).max() <= bound
    for fc in model.classifier:
        for p in fc.parameters():
            assert 0.5 / np.sqrt(fc.in_features) < abs(p.numpy()).max() <= 1 / np.sqrt(fc.in_features)


def test_weights_come_from_a_file(tmp_path):
    file = tmp_path / "rcn.safetensors"
    model = GRURCN(**TINY, stacked=True)
    save_checkpoint(file, model)
    state = minidl.get_rng_state()
    again = GRURCN(**TINY, stacked=True, weights=file)
    assert minidl.get_rng_state() == state  # nothing was drawn in vain
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy(), name)
    with pytest.raises(CheckpointError, match=r"another model than GRURCN: gru.1.weight_lh_l0 is unknown here"):
        GRURCN(**TINY, weights=file)


def test_errors():
    with pytest.raises(ValueError, match="one entry for each level, and at least one: there are 2, 3 and 3"):
        GRURCN(inputs=(1, 2), hidden=(1, 2, 3), kernel_sizes=(3, 3, 1))
    with pytest.raises(ValueError, match="there are 0, 0 and 0"):
        GRURCN(inputs=(), hidden=(), kernel_sizes=())
    with pytest.raises(ValueError, match="percepts has 2 levels, the net 3"):
        GRURCN(**TINY)(tiny_percepts()[:2])
    with pytest.raises(ValueError, match=r"input has shape \(2, 5, 4, 1, 1\); it must be \(N, T, 2, H, W\)"):
        GRURCN(**TINY)(tiny_percepts()[::-1])


def test_a_frozen_vgg_sees_the_same_in_training():
    vgg = VGG16(classes=3, shape=(3, 32, 32), width=2, units=8)
    model = VGG16GRURCN(vgg, GRURCN(3, (4, 8, 16, 16, 8), (2, 2, 2, 2, 2)))
    assert model.train().vgg.training
    vgg.requires_grad_(False)
    assert not model.train().vgg.training and model.rcn.training
    clip = minidl.rand(1, 3, 2, 32, 32)
    first, second = (clip_percepts(model.vgg, clip)[-1].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
