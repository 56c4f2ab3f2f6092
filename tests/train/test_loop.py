"""The loop: order of moments, means, interruption, resumption, errors."""

import math
import os
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from minidl.data import ArrayDataset, DataLoader
from minidl.train import Callback, Task, Trainer, TrainingError
from minidl.train.errors import NotFinite


class Model:
    def __init__(self):
        self.training = None

    def train(self):
        self.training = True

    def eval(self):
        self.training = False


class Echo(Task):
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


@pytest.mark.parametrize(("diagnosis", "words"), [(None, ""), (lambda: "it began there", "; it began there")])
def test_a_loss_that_is_no_number_stops_training(diagnosis, words):
    class Breaks(Echo):
        def train_step(self, batch):
            if len(self.seen) == 4:
                raise NotFinite("the loss became nan", diagnosis)
            return super().train_step(batch)

    moments = Moments()
    trainer = Trainer(Breaks(), loader(), callbacks=[moments])
    with pytest.raises(TrainingError, match=rf"became nan in step 5 \(epoch 2\){words}\. Try a smaller --lr"):
        trainer.fit(2)
    assert moments.log == ["start", 1, 2, 3, "epoch 1", 4, "end"]
    assert trainer.failed and isinstance(trainer.failure, NotFinite)


def test_a_reason_to_stop_ends_training_after_the_epoch():
    class Enough(Callback):
        def on_epoch_end(self, trainer):
            trainer.stop = "enough"

    trainer = Trainer(Echo(), loader(), callbacks=[Enough()])
    trainer.fit(5)
    assert (trainer.epoch, trainer.step, trainer.failed, trainer.interrupted) == (1, 3, False, False)
    trainer.fit(5)
    assert trainer.epoch == 1  # also when it is asked again


def test_ctrl_c_in_validation_finishes_the_epoch():
    task, moments = Echo(), Moments()
    task.validation_step = lambda batch: (ctrl_c(), {"loss": 0.0})[1]
    Trainer(task, loader(), loader(2), [moments]).fit(3)
    assert moments.log == ["start", 1, 2, 3, "epoch 1", "end"]


def test_validation_is_judged_by_the_average_and_may_add_numbers():
    class Averaged(Echo):
        inside = False

        @contextmanager
        def averaged(self):
            self.inside = True
            yield
            self.inside = False

        def validation_step(self, batch):
            return {"loss": float(self.inside)}

        def after_validation(self):
            return {"judged": float(self.inside)}

    trainer = Trainer(Averaged(), loader(), loader(3))
    trainer.fit(1)
    assert (trainer.records[0]["val_loss"], trainer.records[0]["val_judged"]) == (1, 1)


def test_scores_are_the_monitored_numbers_and_nan_is_the_worst():
    trainer = Trainer(Echo(), loader())
    trainer.records = [{"train_loss": 1.0, "val_loss": v} for v in (3.0, math.nan, 2.0)]
    assert (trainer.monitor, trainer.scores()) == ("val_loss", [3, math.inf, 2])
    trainer.task.monitor = "val_other"
    assert (trainer.monitor, trainer.scores()) == ("train_loss", [1, 1, 1])


def test_no_complete_batch_is_an_error():
    with pytest.raises(TrainingError, match="no complete batch"):
        Trainer(Echo(), loader(3, 4, drop_last=True))


def test_training_works_outside_the_main_thread():
    trainer = Trainer(Echo(), loader())
    thread = threading.Thread(target=trainer.fit, args=(1,))
    thread.start()
    thread.join()
    assert trainer.epoch == 1
