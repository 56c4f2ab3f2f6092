"""Small nets for moving digits: their sizes, what they can see at all, and that they learn."""

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.data import order_task, torus_motion
from minidl.models.motion import CNNLSTM, C3DMini, ConvGRUClassifier, EarlyFusion, LateFusion, SingleFrame
from minidl.train import save_checkpoint

NETS = [SingleFrame, EarlyFusion, LateFusion, C3DMini, ConvGRUClassifier]  # for the torus
ORDER = {"classes": 2, "maps": (12, 16), "hidden": 24}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("net", "count"),
    [
        (SingleFrame, 6_852),
        (EarlyFusion, 7_860),
        (LateFusion, 70_660),
        (C3DMini, 24_484),
        (lambda: C3DMini(2, (1, 8, 12, 12), (12, 24)), 9_866),
        (ConvGRUClassifier, 14_052),
        (lambda: ConvGRUClassifier(**ORDER), 27_834),
        (lambda: ConvGRUClassifier(bias=True), 14_052 + 48),
        (CNNLSTM, 15_018),
    ],
)
def test_number_of_parameters(net, count):
    assert parameters(net()) == count


@pytest.mark.parametrize(
    ("net", "shape", "expected"),
    [
        (SingleFrame, (1, 8, 16, 16), [
            ("tower.conv1", (40, 16, 16, 16)), ("tower.pool1", (40, 16, 8, 8)), ("tower.conv2", (40, 32, 8, 8)),
            ("tower.pool2", (40, 32, 4, 4)), ("fc", (40, 4)), ("", (5, 4)),
        ]),
        (EarlyFusion, (1, 8, 16, 16), [("tower.conv1", (5, 16, 16, 16)), ("tower", (5, 512)), ("", (5, 4))]),
        (LateFusion, (1, 8, 16, 16), [("tower", (5, 512)), ("fc1", (5, 64)), ("fc2", (5, 4))]),
        (C3DMini, (1, 8, 16, 16), [
            ("pool1", (5, 12, 8, 8, 8)), ("pool2", (5, 24, 4, 4, 4)), ("pool3", (5, 24, 2, 2, 2)), ("fc", (5, 4)),
        ]),
        (lambda: C3DMini(2, (1, 8, 12, 12), (12, 24)), (1, 8, 12, 12), [("pool2", (5, 24, 4, 3, 3)), ("", (5, 2))]),
        (ConvGRUClassifier, (1, 8, 16, 16), [
            ("conv", (40, 16, 8, 8)), ("gru", ((5, 8, 16, 8, 8), (1, 5, 16, 8, 8))), ("fc", (5, 4)),
        ]),
        (lambda: ConvGRUClassifier(**ORDER), (1, 24, 12, 12), [
            ("conv", (120, 16, 3, 3)), ("gru", ((5, 24, 24, 3, 3), (1, 5, 24, 3, 3))), ("fc", (5, 2)),
        ]),
        (CNNLSTM, (1, 24, 12, 12), [
            ("conv", (120, 16, 3, 3)), ("fc1", (120, 32)), ("fc2", (5, 2)),
        ]),
    ],
)  # fmt: skip
def test_shapes(net, shape, expected):
    rows = minidl.summary(net(), (5, *shape))
    for name, output in expected:
        assert rows[name].output == output, name


# ---- what the nets can see
def clips(n=3, frames=8, size=16):
    return minidl.randn(n, 1, frames, size, size)


def same_answer(net, a, b):
    net.eval()
    return np.allclose(net(a).numpy(), net(b).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", NETS)
def test_only_the_single_frame_knows_no_order(net):
    clip = clips()
    assert same_answer(net(), clip, minidl.flip(clip, (2,))) == (net is SingleFrame)


@pytest.mark.parametrize("gap", [1, 4, 7])
def test_late_fusion_looks_at_two_frames(gap):
    net, clip = LateFusion(gap=gap), clips()
    for t in range(8):
        noise = np.zeros((1, 1, 8, 1, 1), np.float32)
        noise[:, :, t] = 1
        assert same_answer(net, clip, clip + noise * minidl.randn(3, 1, 8, 16, 16)) == (t not in (0, gap))


def test_late_fusion_has_one_tower():
    net, clip = LateFusion(gap=7), clips()
    first, last = net.tower(clip[:, :, 0]).numpy(), net.tower(clip[:, :, 7]).numpy()
    hidden = F.relu(net.fc1(Tensor(np.concatenate([first, last], 1))))
    np.testing.assert_allclose(net(clip).numpy(), net.fc2(hidden).numpy(), rtol=1e-4, atol=1e-6)


def test_nets_with_a_state_take_any_number_of_frames():
    for net in (ConvGRUClassifier(), CNNLSTM(shape=(1, 16, 16))):
        clip = clips(frames=5)
        assert same_answer(net, clip[:, :, :3], clip) is False
        assert net(clip[:, :, :1]).shape[0] == 3


def test_the_first_state_of_the_gru_is_gate_times_candidate():
    """What a clip of one frame is classified by."""
    net, clip = ConvGRUClassifier(), clips(frames=1)
    x = net.conv(clip[:, :, 0])
    z, _, c = np.split(F.conv2d(x, net.gru.weight_ih_l0, padding=1).numpy(), 3, 1)
    h = (np.tanh(c) / (1 + np.exp(-z))).mean((2, 3))
    np.testing.assert_allclose(net(clip).numpy(), net.fc(Tensor(h)).numpy(), rtol=1e-4, atol=1e-6)


# ---- beginning and learning
def test_initial_values():
    minidl.manual_seed(0)
    net = CNNLSTM(hidden=8)
    b = net.lstm.bias_ih_l0.numpy() + net.lstm.bias_hh_l0.numpy()
    np.testing.assert_array_equal(b.reshape(4, 8)[1], 1)  # i, f, g, o
    assert (abs(b.reshape(4, 8)[[0, 2, 3]]) < 1).all()
    for model in (net, *(kind() for kind in NETS)):
        for name, p in model.named_parameters():
            assert p.numpy().std() > 0, name
            if p.ndim > 1 and "lstm" not in name and "gru" not in name:
                assert abs(p.numpy()).max() <= 1 / np.sqrt(np.prod(p.shape[1:])), name


def train(net, data, steps, lr=3e-3):
    """Adam, batches of at most 32, the gradient's norm limited to 1."""
    optimizer = optim.Adam(net.parameters(), lr=lr)
    images, labels = data.arrays
    size = min(32, len(images))
    for i in range(steps):
        rows = np.arange(size * i, size * (i + 1)) % len(images)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(Tensor(images[rows])), Tensor(labels[rows]))
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return loss.item()


def accuracy(net, data):
    net.eval()
    with minidl.no_grad():
        return (net(Tensor(data.arrays[0])).numpy().argmax(1) == data.arrays[1]).mean()


@pytest.mark.parametrize(
    ("net", "data", "steps"),
    [
        (EarlyFusion, torus_motion, 40),
        (LateFusion, torus_motion, 40),
        (C3DMini, torus_motion, 40),
        (ConvGRUClassifier, torus_motion, 100),
        (CNNLSTM, order_task, 80),
        (lambda: ConvGRUClassifier(**ORDER), order_task, 80),
    ],
)
def test_learns_one_batch_by_heart(net, data, steps):
    minidl.manual_seed(0)
    assert train(net(), data(count=12), steps) < 0.1


def test_a_single_frame_cannot_tell_a_direction():
    """The single frame stays at the 25 % that are possible; early fusion, hardly larger, gets there."""
    minidl.manual_seed(0)
    data, test = torus_motion(count=4000), torus_motion("test", 400)
    single, early = SingleFrame(), EarlyFusion()
    train(single, data, 80)
    train(early, data, 125)
    assert accuracy(single, test) < 0.35
    assert accuracy(early, test) > 0.9


def test_weights_come_from_a_file(tmp_path):
    for net in (*NETS, CNNLSTM):
        file = tmp_path / f"{net.__name__}.safetensors"
        model = net()
        save_checkpoint(file, model)
        state = minidl.get_rng_state()
        again = net(weights=file)
        assert minidl.get_rng_state() == state  # nothing was drawn in vain
        for name, value in model.state_dict().items():
            np.testing.assert_array_equal(again.state_dict()[name].numpy(), value.numpy(), name)


def test_errors():
    with pytest.raises(ValueError, match="clip has 4 frames; with a gap of 4 it needs 5"):
        LateFusion(gap=4)(clips(frames=4))
    with pytest.raises(ValueError, match=r"shape is \(1, 3, 16, 16\); that is too small to be halved by 3 poolings"):
        C3DMini(shape=(1, 3, 16, 16))
