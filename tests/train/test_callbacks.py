"""What happens beside training: metrics, event files, early stopping, the health of a GAN, checkpoints."""

import errno
import io
import json
import os
import struct

import numpy as np
import pytest
from rich.console import Console
from train_runs import lines, rows, timeless

import minidl
import minidl.functional as F
from minidl import Tensor, nn, optim
from minidl.data import ArrayDataset, DataLoader
from minidl.train import (
    Callback,
    CheckpointError,
    Checkpoints,
    EarlyStopping,
    HealthMonitor,
    LossHistory,
    Metrics,
    Minimize,
    RunFolder,
    RunFolderError,
    TensorBoard,
    Trainer,
    files,
    read_checkpoint,
    restore,
)


def task(seed=0, average=None):
    minidl.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.05)

    def loss(model, batch):
        return F.mse_loss(model(Tensor(batch[0])), Tensor(batch[1]))

    ema = None if average is None else optim.ExponentialMovingAverage(model, average)
    return Minimize(model, optimizer, loss, average=ema)


def data(count=12, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 2)).astype(np.float32)
    return ArrayDataset(x, x.sum(1, keepdims=True))


def trainer(*callbacks, average=None, count=12):
    """4 steps an epoch."""
    train = DataLoader(data(count), 3, shuffle=True, seed=7)
    return Trainer(task(average=average), train, DataLoader(data(5, 1), 3), list(callbacks))


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create("ae", tmp_path / "run")


class Dies(Exception):
    pass


class At(Callback):
    """Does something at a moment: after a step, or after an epoch."""

    def __init__(self, action, step=0, epoch=0):
        self.action, self.step, self.epoch = action, step, epoch

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            self.action()

    def on_epoch_end(self, trainer):
        if trainer.epoch == self.epoch:
            self.action()


def die():
    raise Dies


# ---- metrics


def test_metrics_of_steps_and_epochs(folder):
    run = trainer(Metrics(folder, steps=True))
    run.fit(2)
    assert [line["step"] for line in lines(folder.path, "step")] == list(range(1, 9))
    assert lines(folder.path) == run.records
    assert rows(folder.path) == run.records
    assert np.mean([line["train_loss"] for line in lines(folder.path, "step")[:4]]) == pytest.approx(
        run.records[0]["train_loss"]
    )


def test_after_a_crash_no_step_is_there_twice_and_a_line_cut_off_is_dropped(folder):
    def parts():
        return Metrics(folder, steps=True), Checkpoints(folder, {}, every=2)

    whole = trainer()
    whole.fit(2)
    with pytest.raises(Dies):
        trainer(At(die, step=7), *parts()).fit(2)  # the checkpoint is of step 6, line 7 was not yet written
    assert [line["step"] for line in lines(folder.path, "step")] == [1, 2, 3, 4, 5, 6]
    with open(folder.jsonl, "a") as file:
        file.write(
            '{"kind": "step", "step": 7, "train_loss": 1}\n{"kind": "epoch", "epoch": 2, "step": 8}\n{"kind": "st'
        )
    again = trainer(*parts())
    restore(folder.checkpoints / "last.safetensors", again)
    assert again.step == 6
    again.fit(2)
    assert [line["step"] for line in lines(folder.path, "step")] == list(range(1, 9))
    assert timeless(lines(folder.path)) == timeless(whole.records) == timeless(rows(folder.path))


def test_metrics_that_could_not_be_written_are_added_by_a_resume(folder, monkeypatch):
    """The disk is full for the line of epoch 2: the checkpoint is saved all the same, and the line follows later."""
    append = files.append_line

    def full(path, line):
        if '"epoch": 2,' in line:
            raise RunFolderError(f"{path} cannot be written: the disk is full")
        append(path, line)

    monkeypatch.setattr("minidl.train.callbacks.append_line", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        trainer(Metrics(folder), Checkpoints(folder, {})).fit(3)
    assert [line["epoch"] for line in lines(folder.path)] == [1]
    assert read_checkpoint(folder.checkpoints / "last.safetensors")[0]["epoch"] == 2
    monkeypatch.undo()
    again = trainer(Metrics(folder), Checkpoints(folder, {}))
    restore(folder.checkpoints / "last.safetensors", again)
    again.fit(3)
    assert lines(folder.path) == again.records == rows(folder.path)
    assert [record["epoch"] for record in again.records] == [1, 2, 3]


def test_a_resume_takes_the_table_back_to_the_checkpoint(folder):
    trainer(Metrics(folder), Checkpoints(folder, {})).fit(1)
    saved = (folder.checkpoints / "last.safetensors").read_bytes()
    again = trainer(Metrics(folder))
    restore(folder.checkpoints / "last.safetensors", again)
    again.fit(3)
    assert len(rows(folder.path)) == 3
    (folder.checkpoints / "last.safetensors").write_bytes(saved)
    third = trainer(Metrics(folder))
    restore(folder.checkpoints / "last.safetensors", third)
    third.fit(1)  # complete already
    assert len(rows(folder.path)) == len(lines(folder.path)) == 1


# ---- event files


def events(folder):
    """(step, tag, value) and ("purge", step) of all event files. A record: length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.tensorboard.iterdir(), key=lambda p: p.stat().st_mtime_ns):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + size]), content[16 + size :]
            if event.HasField("session_log"):
                found.append(("purge", event.step))
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_tensorboard_has_every_number(folder):
    board = TensorBoard(folder)
    run = trainer(LossHistory(), board)
    run.fit(2)
    found = events(folder)
    assert found[0] == ("purge", 1)
    values = {(step, tag): value for step, tag, value in found[1:]}
    losses = run.callbacks[0].losses
    assert len(values) == len(found) - 1 == 8 + 2 * 3
    for step, loss in enumerate(losses, 1):
        assert values[step, "step/loss"] == pytest.approx(loss, rel=1e-6)
    for record in run.records:
        for name in ("train_loss", "val_loss", "seconds"):
            assert values[record["step"], f"epoch/{name}"] == pytest.approx(record[name], rel=1e-5, abs=1e-6)


def test_a_resume_purges_the_steps_that_are_taken_again(folder):
    checkpoints = lambda: Checkpoints(folder, {}, every=2)
    with pytest.raises(Dies):
        trainer(TensorBoard(folder), At(die, step=7), checkpoints()).fit(2)
    again = trainer(TensorBoard(folder), checkpoints())
    restore(folder.checkpoints / "last.safetensors", again)
    again.fit(2)
    marks = [event[1] for event in events(folder) if event[0] == "purge"]
    assert marks == [1, 7]  # readers forget what the first file says of step 7


def test_event_files_have_an_epochs_numbers_when_it_is_over(folder):
    """Not only when the writer's patience is over: a run may be killed."""
    seen = []
    run = trainer(TensorBoard(folder), At(lambda: seen.append(events(folder)), epoch=1))
    run.fit(1)
    assert [event[1] for event in seen[0] if event[1] == "epoch/val_loss"] == ["epoch/val_loss"]


def test_event_files_that_cannot_be_written(folder):
    folder.tensorboard.write_text("a file is in the way")
    with pytest.raises(RunFolderError, match="tensorboard cannot be written: "):
        trainer(TensorBoard(folder)).fit(1)


def test_event_files_on_a_full_disk_stop_training_and_lose_no_step(folder, monkeypatch):
    """Nothing hangs, and the checkpoint, which comes after them, is saved all the same."""
    from tensorboardX.event_file_writer import EventsWriter

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(EventsWriter, "flush", full)
    run = trainer(TensorBoard(folder), Checkpoints(folder, {}))
    with pytest.raises(RunFolderError, match="tensorboard cannot be written: the disk is full"):
        run.fit(2)
    monkeypatch.undo()
    run.callbacks[0].writer.close()
    assert run.failed
    assert read_checkpoint(folder.checkpoints / "last.safetensors")[0]["step"] == run.step >= 1


# ---- early stopping


class Record(Callback):
    """Puts numbers of our own into the records."""

    def __init__(self, values):
        self.values = values

    def on_epoch_end(self, trainer):
        trainer.records[-1]["val_loss"] = self.values[trainer.epoch - 1]


@pytest.mark.parametrize(
    ("patience", "values", "epochs"),
    [
        (1, [3, 2, 2, 1], 3),  # as low as before is no progress
        (2, [3, 2, 4, 1, 5, 5, 0], 6),
        (2, [1, 2, 3, 0], 3),
        (3, [4, 3, 2, 1, 0], 5),
        (2, [float("nan"), 5, 4, 3, 2], 5),
        (2, [3, float("nan"), float("nan"), 1], 3),
    ],
)
def test_training_stops_when_nothing_has_improved_for_so_long(patience, values, epochs):
    run = trainer(Record(values), EarlyStopping(patience))
    run.fit(len(values))
    assert run.epoch == epochs
    assert bool(run.stop) == (epochs < len(values))
    if run.stop:
        assert run.stop == f"val_loss has not fallen for {patience} epochs (--patience {patience})"


def test_a_run_that_has_stopped_early_stays_stopped(folder):
    def parts():
        return Record([1, 2, 3, 4, 5]), EarlyStopping(2), Checkpoints(folder, {})

    trainer(*parts()).fit(5)
    again = trainer(*parts())
    restore(folder.checkpoints / "last.safetensors", again)
    assert again.epoch == 3 and again.stop
    again.fit(5)
    assert again.epoch == 3


def test_patience_counts_across_a_resume(folder):
    parts = lambda: (Record([1, 2, 3, 4, 5]), EarlyStopping(2), Checkpoints(folder, {}))
    with pytest.raises(Dies):
        trainer(*parts(), At(die, step=6)).fit(5)
    again = trainer(*parts())
    restore(folder.checkpoints / "last.safetensors", again)
    assert again.epoch == 1
    again.fit(5)
    assert again.epoch == 3


# ---- the health of a GAN


def health(**changes):
    record = {"train_d_real": 0.6, "train_d_fake": 0.4, "train_g_grad": 1.0, "val_classes": 10.0}
    return record | {f"{'val' if name == 'classes' else 'train'}_{name}": value for name, value in changes.items()}


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (health(), "the players are in balance"),
        (health(d_real=0.99, d_fake=0.01), "the discriminator wins: D(x) 0.99, D(G(z)) 0.01"),
        (health(d_real=0.99, d_fake=0.06), "the players are in balance"),
        (
            health(d_real=0.3, d_fake=0.7),
            "the discriminator is fooled more often than not: D(x) 0.30, D(G(z)) 0.70",
        ),
        (
            health(g_grad=1e-6),
            "the generator's gradient has a norm of 1e-06: it cannot learn (D(x) 0.60, D(G(z)) 0.40)",
        ),
        (health(g_grad=1e5), "the generator's gradient has a norm of 1e+05: it cannot learn (D(x) 0.60, D(G(z)) 0.40)"),
        (health(classes=4.0), "the generator draws 4 of 10 classes: D(x) 0.60, D(G(z)) 0.40"),
        ({k: v for k, v in health().items() if k != "val_classes"}, "the players are in balance"),
    ],
)
def test_verdicts(record, verdict):
    assert HealthMonitor(Console(file=io.StringIO()), 10).judge(record) == verdict


def test_the_screen_hears_of_changes_only():
    text = io.StringIO()
    monitor = HealthMonitor(Console(file=text, width=40), 10)
    run = trainer()
    for epoch, real in enumerate([0.6, 0.6, 0.99, 0.99, 0.6], 1):
        run.epoch = epoch
        run.records = [health(d_real=real, d_fake=0.4 if real < 0.9 else 0.01)]
        monitor.on_epoch_end(run)
    assert text.getvalue().splitlines() == [
        "epoch 1: the players are in balance",
        "epoch 3: the discriminator wins: D(x) 0.99, D(G(z)) 0.01",
        "epoch 5: the players are in balance",
    ]
    assert len(monitor.verdicts) == 5


# ---- checkpoints


def saved(folder):
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_the_last_k_stay_and_the_oldest_go(folder):
    trainer(Checkpoints(folder, {}, keep=2)).fit(4)
    names = [
        f"{stem}.{end}" for stem in ("best", "epoch-00003", "epoch-00004", "last") for end in ("json", "safetensors")
    ]
    assert saved(folder) == names
    assert (folder.checkpoints / "epoch-00004.safetensors").read_bytes() == (
        folder.checkpoints / "last.safetensors"
    ).read_bytes()
    older = trainer()
    restore(folder.checkpoints / "epoch-00003.safetensors", older)  # whole checkpoints: one may go on from them
    assert older.epoch == 3


def test_without_keep_there_are_only_two(folder):
    trainer(Checkpoints(folder, {})).fit(3)
    assert saved(folder) == ["best.json", "best.safetensors", "last.json", "last.safetensors"]


def test_every_so_many_steps(folder, monkeypatch):
    steps = []
    monkeypatch.setattr("minidl.train.callbacks.write_last", lambda where, trainer, config: steps.append(trainer.step))
    trainer(Checkpoints(folder, {}, every=3)).fit(3)
    assert steps == [3, 4, 6, 8, 9, 12]  # 4, 8, 12 are the ends of epochs


def test_and_when_patience_is_over(folder, monkeypatch):
    steps, now = [], 0.0
    monkeypatch.setattr("minidl.train.callbacks.write_last", lambda where, trainer, config: steps.append(trainer.step))
    monkeypatch.setattr("minidl.train.callbacks.time.monotonic", lambda: now)

    class Clock(Callback):
        def on_step_end(self, trainer):
            nonlocal now
            now += 50

    trainer(Clock(), Checkpoints(folder, {})).fit(2)
    assert steps == [3, 4, 7, 8]


def test_best_is_the_lowest_and_never_a_nan(folder):
    kept = []

    class Look(Callback):
        def on_epoch_end(self, trainer):
            kept.append(read_checkpoint(folder.checkpoints / "best.safetensors")[0]["epoch"])

    trainer(Record([float("nan"), 3, 5, 2, float("nan"), 2]), Checkpoints(folder, {}), Look()).fit(6)
    assert kept == [1, 2, 2, 4, 4, 4]


def test_best_holds_the_average_and_last_both(folder):
    run = trainer(Checkpoints(folder, {}), average=0.9)
    run.fit(1)
    best = read_checkpoint(folder.checkpoints / "best.safetensors")[1]
    last = read_checkpoint(folder.checkpoints / "last.safetensors")[1]
    for name, mean in run.task.average.average.items():
        np.testing.assert_array_equal(best[name], mean)
        np.testing.assert_array_equal(last[f"average/average/{name}"], mean)
        np.testing.assert_array_equal(last[name], dict(run.task.model.named_parameters())[name].numpy())
        assert not np.array_equal(last[name], mean)


@pytest.mark.parametrize("moment", [{"step": 2}, {"step": 6}, {"epoch": 1}, {"epoch": 2}])
@pytest.mark.parametrize("average", [None, 0.9])
def test_what_callbacks_remember_survives(folder, moment, average):
    """Dropout, averages, losses of all steps: as if it had not been stopped."""

    def parts():
        return LossHistory(), Checkpoints(folder, {}, every=1)

    whole = trainer(LossHistory(), average=average)
    whole.fit(3)
    with pytest.raises(Dies):
        trainer(*parts(), At(die, **moment), average=average).fit(3)
    again = trainer(*parts(), average=average)
    restore(folder.checkpoints / "last.safetensors", again)
    assert again.step == moment.get("step", 4 * moment.get("epoch", 0))
    again.fit(3)
    assert again.callbacks[0].steps == list(range(1, 13))
    assert again.callbacks[0].losses == whole.callbacks[0].losses
    assert timeless(again.records) == timeless(whole.records)
    for p, q in zip(again.task.model.parameters(), whole.task.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_callback_that_is_new_begins_anew(folder):
    trainer(Checkpoints(folder, {})).fit(1)
    again = trainer(LossHistory(), Checkpoints(folder, {}))
    restore(folder.checkpoints / "last.safetensors", again)
    again.fit(2)
    assert again.callbacks[0].steps == [5, 6, 7, 8]


def test_other_data_are_refused(folder):
    trainer(Checkpoints(folder, {})).fit(1)
    with pytest.raises(CheckpointError, match=r"last\.safetensors was trained on other data: .* items = 12; .* has 15"):
        restore(folder.checkpoints / "last.safetensors", trainer(count=15))


def test_best_alone_cannot_be_trained_on(folder):
    trainer(Checkpoints(folder, {})).fit(1)
    with pytest.raises(CheckpointError, match="holds weights but no state of the callbacks, optimizer"):
        restore(folder.checkpoints / "best.safetensors", trainer())


@pytest.mark.parametrize("name", ["best.safetensors", "last.safetensors", "best.json", "last.json"])
def test_a_full_disk_loses_no_step(folder, tmp_path, monkeypatch, name):
    """Whichever file of the second epoch does not fit, a whole checkpoint of it is left, and the error says where."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    replace = os.replace

    def full(source, target):
        if target == folder.checkpoints / name and run.epoch == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    run = trainer(Record([3, 2, 1]), LossHistory(), Checkpoints(folder, {}))
    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(RunFolderError, match=rf"{name} cannot be written: the disk is full") as caught:
        run.fit(3)
    places = [folder.checkpoints, *tmp_path.glob("minidl-rescue-*")]
    whole = [place for place in places if read_checkpoint(place / "last.safetensors")[0]["step"] == 8]
    assert whole
    if "last" in name:
        assert str(places[1] / "last.safetensors") in str(caught.value)
    again = trainer(LossHistory())
    restore(whole[0] / "last.safetensors", again)
    assert again.epoch == 2 and len(again.callbacks[0].losses) == 8


def test_a_checkpoint_that_fits_nowhere_says_both_reasons(folder, monkeypatch):
    """The disk is full and so is the folder for temporary files: neither error hides the other."""

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    def nowhere(**names):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    run = trainer(LossHistory(), Checkpoints(folder, {}))
    monkeypatch.setattr(files.os, "replace", full)
    monkeypatch.setattr("tempfile.mkdtemp", nowhere)
    with pytest.raises(RunFolderError, match=r"the disk is full.* Nor can .* elsewhere: .*No usable temporary"):
        run.fit(1)


def test_killed_between_best_and_last_nothing_is_lost(folder, monkeypatch):
    """best.* is written first: were it last, a run that dies between the two would never write that best again."""
    order = []
    replace = os.replace
    monkeypatch.setattr(files.os, "replace", lambda a, b: (order.append(b.name), replace(a, b)))
    trainer(Record([1, 2]), Checkpoints(folder, {})).fit(2)
    assert order == ["best.safetensors", "best.json", "last.safetensors", "last.json", "last.safetensors", "last.json"]


def test_the_json_beside_a_checkpoint_is_strict(folder):
    trainer(Checkpoints(folder, {"lr": 0.1})).fit(1)

    def refuse(name):
        raise AssertionError(name)

    about = json.loads((folder.checkpoints / "last.json").read_text(), parse_constant=refuse)
    assert about["config"] == {"lr": 0.1} and about["step"] == 4
