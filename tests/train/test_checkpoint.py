"""Checkpoints: everything comes back, nothing else goes in."""

import json

import numpy as np
import pytest
import safetensors.numpy

import minidl
import minidl.functional as F
from minidl import nn, optim
from minidl.train import CheckpointError, Minimize, load_checkpoint, read_checkpoint, save_checkpoint


class Net(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.hidden = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.out = nn.Linear(width, 2)

    def forward(self, x):
        return self.out(self.norm(self.hidden(x)).tanh())


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)


def task(seed):
    minidl.manual_seed(seed)
    net = Net()
    optimizer = optim.Adam(net.parameters(), lr=0.1, betas=(0.8, 0.99))
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    return Minimize(net, optimizer, lambda model, batch: F.mse_loss(model(batch[0]), batch[1]), schedule)


def batches(count):
    rng = np.random.default_rng(0)
    return [tuple(minidl.tensor(rng.standard_normal((4, n)).astype(np.float32)) for n in (3, 2)) for _ in range(count)]


def test_training_goes_on_bit_for_bit(tmp_path):
    data = batches(10)
    whole = task(1)
    expected = [whole.train_step(batch)["loss"] for batch in data]
    first = task(1)
    for batch in data[:4]:
        first.train_step(batch)
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, first.model, first.parts, epoch=3, note="ä")
    second = task(2)  # other weights, to be replaced
    facts = load_checkpoint(path, second.model, second.parts)
    assert (facts["epoch"], facts["note"], facts["model"]) == (3, "ä", "Net")
    assert [second.train_step(batch)["loss"] for batch in data[4:]] == expected[4:]
    for name, value in whole.model.state_dict().items():
        np.testing.assert_array_equal(np.asarray(second.model.state_dict()[name]), np.asarray(value))


def test_the_file_is_open_to_other_programs(tmp_path):
    run = task(1)
    run.train_step(batches(1)[0])
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, run.model, run.parts, epoch=3)
    arrays = safetensors.numpy.load_file(path)
    weights = {name: array for name, array in arrays.items() if "/" not in name}
    assert weights.keys() == run.model.state_dict().keys()
    assert {"optimizer/0/exp_avg", "optimizer/0/exp_avg_sq"} <= arrays.keys()
    header, _ = read_checkpoint(path)
    assert json.loads((tmp_path / "last.json").read_text()) == header  # the copy for people
    assert header["epoch"] == 3 and header["parts"]["optimizer"]["param_groups"][0]["betas"] == [0.8, 0.99]


def test_weights_alone_can_be_used_but_not_trained_on(tmp_path):
    run = task(1)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, run.model)
    load_checkpoint(path, task(2).model)
    with pytest.raises(CheckpointError, match="holds weights but no state of the optimizer, schedule"):
        load_checkpoint(path, run.model, run.parts)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Other, "it holds Net, this is Other"),
        (lambda: Net(6), r"hidden.weight has shape \(5, 3\), here \(6, 3\).* and 4 more"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_changes_nothing(tmp_path, model, words):
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, Net())
    other = model()
    before = {name: np.array(np.asarray(value)) for name, value in other.state_dict().items()}
    with pytest.raises(CheckpointError, match=f"another model: {words}"):
        load_checkpoint(path, other)
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(np.asarray(value), before[name])


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        read_checkpoint(tmp_path / "last.safetensors")
    path = tmp_path / "half.safetensors"
    save_checkpoint(path, Net())
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match=r"half\.safetensors is damaged"):
        read_checkpoint(path)
    safetensors.numpy.save_file({"a": np.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="was not written by minidl"):
        read_checkpoint(tmp_path / "foreign.safetensors")
