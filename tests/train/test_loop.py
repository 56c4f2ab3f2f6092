"""The loop: order of moments, means, interruption, resumption, errors."""

import os
import signal
import threading

import numpy as np
import pytest

from minidl.data import ArrayDataset, DataLoader
from minidl.train import Callback, Trainer, TrainingError


class Model:
    def __init__(self):
        self.training = None

    def train(self):
        self.training = True

    def eval(self):
        self.training = False


class Echo:
    """A task whose loss is the mean of the batch, so everything about a run can be told from its numbers."""

    def __init__(self):
        self.model = Model()
        self.parts = {}
        self.seen = []

    def train_step(self, batch):
        assert self.model.training
        self.seen.append(batch[0].tolist())
        return {"loss": float(batch[0].mean())}

    def validation_step(self, batch):
        assert not self.model.training
        return {"loss": float(batch[0].mean())}


def loader(count=5, batch=2, **options):
    return DataLoader(ArrayDataset(np.arange(count, dtype=np.float64)), batch, **options)


class Moments(Callback):
    def __init__(self):
        self.log = []

    def on_train_start(self, trainer):
        self.log.append("start")

    def on_step_end(self, trainer):
        self.log.append(trainer.step)

    def on_epoch_end(self, trainer):
        self.log.append(f"epoch {trainer.epoch}")

    def on_train_end(self, trainer):
        self.log.append("end")


class At(Callback):
    """Does something after one step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            self.action()


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_moments_come_in_order():
    moments = Moments()
    Trainer(Echo(), loader(), callbacks=[moments]).fit(2)
    assert moments.log == ["start", 1, 2, 3, "epoch 1", 4, 5, 6, "epoch 2", "end"]


def test_records_hold_means_over_examples_not_over_batches():
    trainer = Trainer(Echo(), loader(), loader(3))
    trainer.fit(1)
    record = trainer.records[0]
    assert record.pop("seconds") >= 0
    assert record == {"epoch": 1, "step": 3, "train_loss": 2.0, "val_loss": 1.0}  # (0 + 1 + 2 + 3 + 4) / 5


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_ctrl_c_finishes_the_step_and_stops(step):
    moments = Moments()
    trainer = Trainer(Echo(), loader(), callbacks=[At(step, ctrl_c), moments])
    before = signal.getsignal(signal.SIGINT)
    trainer.fit(5)
    assert signal.getsignal(signal.SIGINT) is before
    assert trainer.interrupted and not trainer.failed
    # a step that ends an epoch ends it properly
    assert moments.log[-2:] == (["epoch 1", "end"] if step == 3 else [step, "end"])
    assert trainer.step == step


def test_a_second_ctrl_c_stops_at_once():
    def twice():
        ctrl_c()
        ctrl_c()

    moments = Moments()
    trainer = Trainer(Echo(), loader(), callbacks=[At(1, twice), moments])
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(5)
    assert trainer.failed
    assert moments.log == ["start", "end"]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6])
def test_a_run_goes_on_as_if_it_had_not_been_stopped(step):
    def make(*callbacks):
        return Trainer(Echo(), loader(shuffle=True, seed=4), loader(3), callbacks)

    whole = make()
    whole.fit(3)
    first = make(At(step, ctrl_c))
    first.fit(3)
    second = make()
    second.load_state_dict(first.state_dict())
    second.fit(3)
    assert first.task.seen + second.task.seen == whole.task.seen

    def timeless(records):
        return [{k: v for k, v in record.items() if k != "seconds"} for record in records]

    assert timeless(second.records) == timeless(whole.records)


def test_a_loss_that_is_no_number_stops_training():
    task = Echo()
    task.train_step = lambda batch: {"loss": float("nan")}
    moments = Moments()
    with pytest.raises(TrainingError, match=r"became nan in step 1 \(epoch 1\): try a smaller --lr"):
        Trainer(task, loader(), callbacks=[moments]).fit(1)
    assert moments.log == ["start", "end"]


def test_no_complete_batch_is_an_error():
    with pytest.raises(TrainingError, match="no complete batch"):
        Trainer(Echo(), loader(3, 4, drop_last=True))


def test_training_works_outside_the_main_thread():
    trainer = Trainer(Echo(), loader())
    thread = threading.Thread(target=trainer.fit, args=(1,))
    thread.start()
    thread.join()
    assert trainer.epoch == 1
