"""C3D: the sizes of the authors' files, their initial values, and weights from a file."""

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.models.c3d import C3D, SmallC3D
from minidl.models.weights import load_weights
from minidl.train import CheckpointError, save_checkpoint

TINY = {"classes": 4, "shape": (3, 8, 32, 32), "width": 4, "units": 16}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def trace(model, *shape):
    """(name, shape of its output without the batch) of every child, in the order in which they run."""
    seen = []
    for name, layer in model.named_children():
        layer.register_forward_hook(lambda layer, args, y, name=name: seen.append((name, tuple(y.shape[1:]))))
    with minidl.no_grad():
        model(minidl.zeros(1, *shape))
    return seen


@pytest.mark.parametrize(
    ("net", "classes", "count"),
    [(C3D, 487, 79_991_015), (C3D, 101, 78_409_573), (SmallC3D, 101, 17_444_965)],
)
def test_published_number_of_parameters(net, classes, count):
    with nn.init.skip():
        assert parameters(net(classes)) == count


def test_shapes_of_the_full_net():
    with nn.init.skip():
        model = C3D().eval()
    assert trace(model, 3, 16, 112, 112) == [
        ("conv1a", (64, 16, 112, 112)),
        ("pool1", (64, 16, 56, 56)),
        ("conv2a", (128, 16, 56, 56)),
        ("pool2", (128, 8, 28, 28)),
        ("conv3a", (256, 8, 28, 28)),
        ("conv3b", (256, 8, 28, 28)),
        ("pool3", (256, 4, 14, 14)),
        ("conv4a", (512, 4, 14, 14)),
        ("conv4b", (512, 4, 14, 14)),
        ("pool4", (512, 2, 7, 7)),
        ("conv5a", (512, 2, 7, 7)),
        ("conv5b", (512, 2, 7, 7)),
        ("pool5", (512, 1, 4, 4)),
        ("fc6", (4096,)),
        ("drop6", (4096,)),
        ("fc7", (4096,)),
        ("drop7", (4096,)),
        ("fc8", (487,)),
    ]
    by_layer = {name: parameters(layer) for name, layer in model.named_children() if parameters(layer)}
    assert by_layer == {
        "conv1a": 5_248, "conv2a": 221_312, "conv3a": 884_992, "conv3b": 1_769_728, "conv4a": 3_539_456,
        "conv4b": 7_078_400, "conv5a": 7_078_400, "conv5b": 7_078_400, "fc6": 33_558_528, "fc7": 16_781_312,
        "fc8": 1_995_239,
    }  # fmt: skip


def test_shapes_of_the_small_net():
    # an eighth of the width, the sizes in space and time are the real ones
    assert trace(SmallC3D(width=8, units=32).eval(), 3, 16, 112, 112) == [
        ("conv1a", (8, 16, 112, 112)),
        ("pool1", (8, 16, 56, 56)),
        ("conv2a", (16, 16, 56, 56)),
        ("pool2", (16, 8, 28, 28)),
        ("conv3a", (32, 8, 28, 28)),
        ("pool3", (32, 4, 14, 14)),
        ("conv4a", (32, 4, 14, 14)),
        ("pool4", (32, 2, 7, 7)),
        ("conv5a", (32, 2, 7, 7)),
        ("pool5", (32, 1, 4, 4)),
        ("fc6", (32,)),
        ("drop6", (32,)),
        ("fc7", (32,)),
        ("drop7", (32,)),
        ("fc8", (101,)),
    ]


def test_pool5_has_the_windows_of_caffe():
    """Rows {0,1} {2,3} {4,5} {6}, not those that padding gives."""
    rows = np.broadcast_to(np.arange(7.0)[:, None], (1, 1, 2, 7, 7))
    columns = np.broadcast_to(np.arange(7.0), (1, 1, 2, 7, 7))
    with nn.init.skip():
        pool5 = C3D(**TINY).pool5
    np.testing.assert_array_equal(pool5(Tensor(rows)).numpy()[0, 0, 0, :, 0], [1, 3, 5, 6])
    np.testing.assert_array_equal(pool5(Tensor(columns)).numpy()[0, 0, 0, 0], [1, 3, 5, 6])


def test_fc6_reads_channels_then_time_then_rows_then_columns():
    # 32 frames of 64 x 96 pixels leave 2 x 2 x 3 cells
    model = C3D(4, (3, 32, 64, 96), width=2, units=8).eval()
    clip = minidl.randn(2, 3, 32, 64, 96)
    pool5, fc6 = model.features(clip, "pool5").detach().numpy(), model.features(clip, "fc6").detach().numpy()
    assert pool5.shape == (2, 16, 2, 2, 3)
    w, b = model.fc6.weight.detach().numpy(), model.fc6.bias.detach().numpy()
    by_hand = np.einsum("ncthw,ucthw->nu", pool5, w.reshape(8, 16, 2, 2, 3)) + b
    np.testing.assert_allclose(fc6, np.maximum(by_hand, 0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("net", [C3D, SmallC3D])
def test_initial_values(net):
    minidl.manual_seed(0)
    model = net(classes=50, shape=(3, 16, 112, 112), width=16, units=128)
    for name, layer in model.named_children():
        if not list(layer.parameters()):
            continue
        std = 0.005 if name in ("fc6", "fc7") else 0.01
        w = layer.weight.detach().numpy()
        assert abs(w.std() / std - 1) < max(0.02, 4 / np.sqrt(2 * w.size)), name
        assert abs(w.mean()) < 4 * std / np.sqrt(w.size), name
        np.testing.assert_array_equal(layer.bias.detach().numpy(), 0 if name in ("conv1a", "fc8") else 1, name)


@pytest.mark.parametrize("net", [C3D, SmallC3D])
def test_answers_are_those_of_the_same_net_in_pytorch(net):
    torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")
    minidl.manual_seed(0)
    model = net(5, (3, 16, 50, 70), width=4, units=12).eval()
    scale_up(model)
    clip = minidl.randn(2, 3, 16, 50, 70).numpy()
    p = {name: torch.tensor(value.numpy()) for name, value in model.state_dict().items()}
    names = ["1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b"] if net is C3D else ["1a", "2a", "3a", "4a", "5a"]
    x = torch.tensor(clip)
    for name, following in zip(names, [*names[1:], None], strict=True):
        x = torch.nn.functional.conv3d(x, p[f"conv{name}.weight"], p[f"conv{name}.bias"], padding=1).relu()
        if following is None or following[0] != name[0]:
            x = torch.nn.functional.max_pool3d(x, (1 if name == "1a" else 2, 2, 2), ceil_mode=True)
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = torch.nn.functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]).relu()
    x = torch.nn.functional.linear(x, p["fc8.weight"], p["fc8.bias"])
    np.testing.assert_allclose(model(Tensor(clip)).detach().numpy(), x.numpy(), rtol=1e-3, atol=1e-4)


def test_features_are_the_answers_after_relu_and_before_dropout():
    model = C3D(**TINY)
    model.fc6.weight.data[...] *= 1000  # so that some units are off
    clip = minidl.randn(2, *TINY["shape"])
    fc6 = model.features(clip)  # in training mode
    np.testing.assert_array_equal(fc6.detach().numpy(), model.features(clip, "fc6").detach().numpy())
    assert fc6.shape == (2, 16) and (fc6.numpy() >= 0).all() and (fc6.numpy() == 0).any()
    model.eval()
    np.testing.assert_array_equal(model(clip).detach().numpy(), model.features(clip, "fc8").detach().numpy())
    assert (model(clip).detach().numpy() < 0).any()  # logits have no ReLU
    with pytest.raises(ValueError, match=r"layer is 'fc9'; C3D has conv1a, pool1, .*, fc8"):
        model.features(clip, "fc9")


def test_biases_learn_twice_as_fast_and_do_not_decay():
    model = SmallC3D(**TINY)
    optimizer = optim.SGD(model.parameter_groups(0.01, 0.1), momentum=0.9)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    before = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = minidl.ones_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        step = 0.02 if name.endswith("bias") else 0.01 * (1 + 0.1 * before[name])
        np.testing.assert_allclose(p.detach().numpy(), before[name] - step, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("net", [C3D, SmallC3D])
def test_learns_one_batch_by_heart(net):
    """Clips that differ only in the direction in which a spot moves."""
    minidl.manual_seed(1)
    clips = np.zeros((4, 3, 8, 32, 32), np.float32)
    for i, (dy, dx) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)]):
        for t in range(8):
            y, x = 16 + 3 * dy * (t - 4), 16 + 3 * dx * (t - 4)
            clips[i, :, t, y - 3 : y + 3, x - 3 : x + 3] = 1
    model = net(**TINY, dropout=0.0)
    # the paper's weights are meant for 64 channels and a week of training: in a net this narrow the signal fades
    scale_up(model)
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    x, target = Tensor(clips), Tensor(np.arange(4))
    for _ in range(60):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    np.testing.assert_array_equal(model(x).detach().numpy().argmax(1), np.arange(4))


def scale_up(model):
    for p in model.parameters():
        if p.ndim > 1:
            nn.init.kaiming_normal_(p, nonlinearity="relu")
        else:
            nn.init.uniform_(p, 0.0, 0.2)  # hardly a unit is off for all clips


@pytest.mark.parametrize("net", [C3D, SmallC3D])
def test_gradients(net):
    minidl.manual_seed(1)
    shape = (2, 4, 8, 8)
    model = net(4, shape, width=4, units=16, dropout=0.0).double()
    scale_up(model)  # the paper's weights would leave gradients below any tolerance
    clip, target = minidl.randn(3, *shape, dtype="float64", requires_grad=True), Tensor(np.array([1, 3, 0]))
    loss = lambda *_: F.cross_entropy(model(clip), target)
    inputs = (clip, *model.parameters())
    assert minidl.gradcheck(loss, inputs, fast=True, atol=1e-8, rtol=1e-5)
    assert all(abs(g.numpy()).max() > 1e-4 for g in minidl.grad(loss(), inputs))


# ---- weights=PATH
def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(np.array_equal(a[key].numpy(), b[key].numpy()) for key in a)


def test_weights_come_from_a_checkpoint_or_a_foreign_file(tmp_path):
    from safetensors.numpy import save_file

    model = SmallC3D(**TINY)
    optimizer = optim.Adam(model.parameters())
    optimizer.step()
    save_checkpoint(tmp_path / "own.safetensors", model, {"optimizer": optimizer}, epoch=3)
    save_file({k: v.numpy().astype(np.float64) for k, v in model.state_dict().items()}, tmp_path / "other.safetensors")
    state = minidl.get_rng_state()
    for file in ("own.safetensors", "other.safetensors"):
        assert same(SmallC3D(**TINY, weights=tmp_path / file), model)
    assert minidl.get_rng_state() == state  # nothing was drawn in vain


def test_weights_for_other_classes_keep_a_new_last_layer(tmp_path):
    trained = C3D(**TINY)
    save_checkpoint(tmp_path / "sports.safetensors", trained)
    model = C3D(**{**TINY, "classes": 7})
    fresh = model.fc8.weight.detach().numpy().copy()
    load_weights(model, tmp_path / "sports.safetensors", keep=["fc8"])
    np.testing.assert_array_equal(model.fc8.weight.detach().numpy(), fresh)
    np.testing.assert_array_equal(model.fc7.weight.detach().numpy(), trained.fc7.weight.detach().numpy())
    with pytest.raises(AttributeError, match="fc9"):
        load_weights(model, tmp_path / "sports.safetensors", keep=["fc9"])


def test_weights_that_do_not_fit_are_refused_and_change_nothing(tmp_path):
    file = tmp_path / "sports.safetensors"
    save_checkpoint(file, C3D(**TINY))
    model = C3D(**{**TINY, "classes": 7})
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"another model than C3D: fc8.weight has shape \(4, 16\), here \(7, 16\)"
    ):
        load_weights(model, file)
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in model.state_dict().items())
    with pytest.raises(
        CheckpointError, match=r"another model than SmallC3D: .*conv3b.weight is unknown here, .* and 8 more"
    ):
        SmallC3D(**TINY, weights=file)
    save_checkpoint(file, SmallC3D(**TINY))
    with pytest.raises(CheckpointError, match=r"conv3b.weight \(16, 16, 3, 3, 3\) is missing"):
        C3D(**TINY, weights=file)


def test_weights_that_cannot_be_read_are_named(tmp_path):
    missing, broken, cut = (tmp_path / name for name in ("none.safetensors", "text.safetensors", "cut.safetensors"))
    with pytest.raises(CheckpointError, match=r"none.safetensors: there is no such file of weights"):
        C3D(**TINY, weights=missing)
    broken.write_text("these are no weights")
    save_checkpoint(cut, C3D(**TINY))
    cut.write_bytes(cut.read_bytes()[:-10])
    for file in (broken, cut):
        with pytest.raises(CheckpointError, match=f"{file.name} is damaged, no safetensors file"):
            C3D(**TINY, weights=file)
    with pytest.raises(CheckpointError, match="is a folder; give the safetensors file"):
        C3D(**TINY, weights=tmp_path)
