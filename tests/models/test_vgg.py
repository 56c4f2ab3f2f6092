"""VGG-16: the sizes of the paper's configuration D, its percepts, and weights from a file."""

import numpy as np
import pytest

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.models.vgg import PERCEPTS, VGG16
from minidl.train import CheckpointError, save_checkpoint

TINY = {"classes": 4, "shape": (3, 32, 32), "width": 4, "units": 16}
SHAPES = [  # table 1, column D, for 224 x 224 pixels
    ("conv1_1", (64, 224, 224)),
    ("conv1_2", (64, 224, 224)),
    ("pool1", (64, 112, 112)),
    ("conv2_1", (128, 112, 112)),
    ("conv2_2", (128, 112, 112)),
    ("pool2", (128, 56, 56)),
    ("conv3_1", (256, 56, 56)),
    ("conv3_2", (256, 56, 56)),
    ("conv3_3", (256, 56, 56)),
    ("pool3", (256, 28, 28)),
    ("conv4_1", (512, 28, 28)),
    ("conv4_2", (512, 28, 28)),
    ("conv4_3", (512, 28, 28)),
    ("pool4", (512, 14, 14)),
    ("conv5_1", (512, 14, 14)),
    ("conv5_2", (512, 14, 14)),
    ("conv5_3", (512, 14, 14)),
    ("pool5", (512, 7, 7)),
    ("fc6", (4096,)),
    ("drop6", (4096,)),
    ("fc7", (4096,)),
    ("drop7", (4096,)),
    ("fc8", (1000,)),
]


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("classes", "count"), [(1000, 138_357_544), (101, 134_674_341)])
def test_published_number_of_parameters(classes, count):
    with nn.init.skip():
        assert parameters(VGG16(classes)) == count


def test_shapes_of_the_full_net():
    with nn.init.skip():
        rows = minidl.summary(VGG16(), (2, 3, 224, 224))
    assert [(row.name, row.output[1:]) for row in rows if row.name] == SHAPES
    assert {row.name: row.parameters for row in rows if row.parameters} == {
        "conv1_1": 1_792, "conv1_2": 36_928, "conv2_1": 73_856, "conv2_2": 147_584, "conv3_1": 295_168,
        "conv3_2": 590_080, "conv3_3": 590_080, "conv4_1": 1_180_160, "conv4_2": 2_359_808, "conv4_3": 2_359_808,
        "conv5_1": 2_359_808, "conv5_2": 2_359_808, "conv5_3": 2_359_808, "fc6": 102_764_544, "fc7": 16_781_312,
        "fc8": 4_097_000,
    }  # fmt: skip


def test_percepts():
    model = VGG16(5, (2, 64, 96), width=2, units=8).eval()
    image = minidl.randn(3, 2, 64, 96)
    percepts = model.percepts(image)
    assert [x.shape for x in percepts] == [(3, 4, 16, 24), (3, 8, 8, 12), (3, 16, 4, 6), (3, 16, 2, 3), (3, 8, 1, 1)]
    for name, x in zip(PERCEPTS, percepts, strict=True):
        np.testing.assert_array_equal(x.numpy().squeeze(), model.features(image, name).numpy().squeeze(), name)


def test_features_are_the_answers_after_relu_and_before_dropout():
    model = VGG16(**TINY)
    image = minidl.randn(8, *TINY["shape"])
    model.eval()
    fc6 = model.features(image, "fc6").numpy()
    model.train()
    np.testing.assert_array_equal(model.features(image, "fc6").numpy(), fc6)  # drop6 comes later
    assert (fc6 >= 0).all() and (fc6 == 0).any()
    assert (model.features(image, "conv1_1").numpy() == 0).any()
    assert (model.features(image, "fc8").numpy() < 0).any()  # logits have no ReLU
    with pytest.raises(ValueError, match=r"layer is 'fc9'; VGG16 has conv1_1, conv1_2, pool1, .*, fc8"):
        model.features(image, "fc9")


def test_answers_are_those_of_the_same_net_in_pytorch():
    torch = pytest.importorskip("torch", reason="torch is an optional outside oracle")
    minidl.manual_seed(0)
    model = VGG16(5, (3, 33, 70), width=2, units=12).eval()
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            nn.init.uniform_(p, -0.1, 0.1)  # those of the paper are zeros, which a lost bias is too
    image = minidl.randn(2, 3, 33, 70).numpy()
    p = {name: torch.tensor(value.numpy()) for name, value in model.state_dict().items()}
    x = torch.tensor(image)
    for group, convs in enumerate((2, 2, 3, 3, 3), 1):
        for i in range(1, convs + 1):
            name = f"conv{group}_{i}"
            x = torch.nn.functional.conv2d(x, p[f"{name}.weight"], p[f"{name}.bias"], padding=1).relu()
        x = torch.nn.functional.max_pool2d(x, 2)
    x = x.flatten(1)
    for name in ("fc6", "fc7"):
        x = torch.nn.functional.linear(x, p[f"{name}.weight"], p[f"{name}.bias"]).relu()
    x = torch.nn.functional.linear(x, p["fc8.weight"], p["fc8.bias"])
    assert x.std() > 1e-3
    np.testing.assert_allclose(model(Tensor(image)).numpy(), x.numpy(), rtol=1e-3, atol=1e-5)


def test_initial_values():
    minidl.manual_seed(0)
    model = VGG16(50, (3, 64, 64), width=8, units=64)
    for name, layer in model.named_children():
        if list(layer.parameters()):
            w = layer.weight.numpy()
            outputs, inputs, *kernel = w.shape
            bound = np.sqrt(6 / ((inputs + outputs) * np.prod(kernel)))
            assert 0.9 * bound < abs(w).max() <= bound, name
            assert abs(w.std() / (bound / np.sqrt(3)) - 1) < 4 / np.sqrt(w.size), name
            assert not layer.bias.numpy().any(), name


def test_learns_one_batch_by_heart():
    minidl.manual_seed(0)
    model = VGG16(**{**TINY, "units": 64}, dropout=0.0)
    for p in model.parameters():
        if p.ndim > 1:  # by Glorot the signal loses half its variance at each ReLU: too much for layers this narrow
            nn.init.kaiming_normal_(p, nonlinearity="relu")
    x, target = minidl.randn(4, *TINY["shape"]), Tensor(np.arange(4))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    np.testing.assert_array_equal(model(x).numpy().argmax(1), target.numpy())


def test_weights_come_from_a_file(tmp_path):
    file = tmp_path / "vgg.safetensors"
    model = VGG16(**TINY)
    save_checkpoint(file, model)
    state = minidl.get_rng_state()
    copy = VGG16(**TINY, weights=file)
    assert minidl.get_rng_state() == state  # nothing was drawn in vain
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(copy.state_dict()[name].numpy(), value.numpy(), name)
    with pytest.raises(CheckpointError, match=r"another model than VGG16: fc8.weight has shape \(4, 16\), here \(7"):
        VGG16(**{**TINY, "classes": 7}, weights=file)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(ValueError, match=r"shape is \(3, 31, 64\); five poolings need images of at least 32 x 32"):
        VGG16(shape=(3, 31, 64))
