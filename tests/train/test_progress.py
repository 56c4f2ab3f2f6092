"""What a run prints, and where the picture of its loss puts things."""

import io

import pytest
from rich.console import Console

from minidl.train import ProgressBar
from minidl.train.pictures import loss_curve


class Trainer:
    """As much of one as the bar reads: 10 steps per epoch."""

    def __init__(self, epochs):
        self.epochs, self.epoch, self.step, self.seconds = epochs, 0, 0, 0.0
        self.train = range(10)
        self.records = []
        self.last = {"loss": 1.0}


def test_the_time_that_is_left_does_not_count_compilation(monkeypatch):
    """The first step takes a minute, the end of the first epoch another; all others 0.1 s."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    printed = io.StringIO()
    bar, trainer = ProgressBar(Console(file=printed, width=200)), Trainer(20)
    bar.on_train_start(trainer)
    for step in range(1, 201):
        now += 60 if step in (1, 11) else 0.1
        trainer.step, trainer.seconds = step, now
        bar.on_step_end(trainer)
        if step % 10 == 0:
            trainer.epoch += 1
            trainer.records.append({"train_loss": 1.0})
            bar.on_epoch_end(trainer)
    lines = printed.getvalue().splitlines()
    assert len(lines) == 20
    for epoch, line in enumerate(lines, 1):
        assert line.endswith(f"  10 steps/s  {20 - epoch} s left")


def test_one_epoch_of_one_step_has_a_pace_too():
    printed = io.StringIO()
    bar, trainer = ProgressBar(Console(file=printed, width=200)), Trainer(1)
    trainer.train = range(1)
    bar.on_train_start(trainer)
    bar.on_step_end(trainer)
    trainer.step = trainer.epoch = 1
    trainer.seconds = 0.5
    trainer.records.append({"train_loss": 1.0})
    bar.on_epoch_end(trainer)
    assert "epoch 1/1  loss 1.000  2 steps/s  0 s left" in printed.getvalue()


@pytest.mark.parametrize("losses", [[5.0, 4.0], [4.0, 44.0, 44.0, 44.0], [3.0]])
def test_the_legend_of_the_loss_covers_no_curve(losses):
    records = [{"step": i, "train_loss": v, "val_loss": v} for i, v in enumerate(losses, 1)]
    figure = loss_curve(records, range(1, len(losses) + 1), losses, "loss", {"PCA": 3.5})
    figure.canvas.draw()
    (axes,), (legend,) = figure.axes, figure.legends
    assert legend.get_window_extent().y1 < axes.get_window_extent().y0
    assert not axes.texts and axes.get_legend() is None
    assert f"best: {min(losses):.3g} at step {losses.index(min(losses)) + 1}" in [t.get_text() for t in legend.texts]
