"""A run that was stopped and goes on is, bit for bit, the run that was not stopped."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from train_runs import (
    STEPS,
    TINY,
    Crash,
    assert_same_run,
    at_step,
    checkpoint,
    contents,
    crash,
    ctrl_c,
    in_validation,
    lines,
    rows,
    train,
)

import minidl
from minidl.cli import main
from minidl.train import read_checkpoint

EXTRAS = ["--ema", "0.9", "--clip-norm", "1", "--log-steps", "--checkpoint-every", "1", "--keep", "2", "--tensorboard"]


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves out the pictures of a run that is stopped: the last one draws them."""
    monkeypatch.setattr("minidl.train.run.finish", lambda *_: None)


def stands(folder):
    facts, _ = read_checkpoint(folder / "checkpoints" / "last.safetensors")
    return facts["epoch"], facts["step"]


@pytest.mark.parametrize("model", TINY)
def test_stopped_three_times_and_still_the_same(model, tmp_path, capsys, monkeypatch):
    """Ctrl-C inside the first epoch, a crash inside the second, a crash in its validation."""
    command = [model, *TINY[model], *EXTRAS, "--epochs", "2"]
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert train(*command, "--out", whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr("minidl.train.run.finish", lambda *_: None)
        at_step(patch, 2, ctrl_c)
        assert train(*command, "--out", out) == 130
    assert stands(out) == (0, 2)
    with monkeypatch.context() as patch:
        at_step(patch, STEPS, crash)  # of the two left in this epoch and those of the next
        with pytest.raises(Crash):
            main(["resume", str(out)])
    assert stands(out) == (1, STEPS + 1)
    with monkeypatch.context() as patch:
        in_validation(patch, crash)
        with pytest.raises(Crash):
            main(["resume", str(out)])
    assert stands(out) == (1, 2 * STEPS - 1)
    assert "going on after step 5 (1 of 2 epochs)" in capsys.readouterr().out
    assert main(["resume", str(out)]) == 0
    assert stands(out) == (2, 2 * STEPS)
    for path in (out / "tensorboard", whole / "tensorboard"):  # their names are times
        for file in path.iterdir():
            file.unlink()
    assert_same_run(out, whole)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 8, 9])
def test_ctrl_c_at_any_step(step, tmp_path, undrawn, monkeypatch):
    command = ["ae", *TINY["ae"], "--epochs", "3"]
    assert train(*command, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        at_step(patch, step, ctrl_c)
        assert train(*command, "--out", tmp_path / "run") == 130
    assert stands(tmp_path / "run") == (step // STEPS, step)
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


KILLER = """
import os, signal, sys
from pathlib import Path
from minidl.cli import main
from minidl.train import Callback, Checkpoints, Minimize, files

moment, folder = sys.argv[1:3]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
steps = 0

def step(self, batch, original=Minimize.train_step):
    global steps
    steps += 1
    numbers = original(self, batch)
    if moment == "in an epoch" and steps == 7:
        die()
    return numbers

def validate(self, batch, original=Minimize.validation_step):
    if moment == "in validation" and steps == 8:
        die()
    return original(self, batch)

def write(path, content, original=files.write_atomic):
    if steps == 8 and moment == "before " + Path(path).name:
        Path(path).with_name(f".{Path(path).name}.123.tmp").write_bytes(b"half")
        die()
    original(path, content)
    if steps == 8 and moment == "after " + Path(path).name:
        die()

Minimize.train_step, Minimize.validation_step = step, validate
import minidl.train.callbacks, minidl.train.checkpoint
for module in (files, minidl.train.callbacks, minidl.train.checkpoint):
    module.write_atomic = write
sys.exit(main(["train", *sys.argv[3:], "--out", folder]))
"""


@pytest.mark.parametrize(
    ("moment", "stands_at"),
    [
        ("in an epoch", (1, 6)),
        ("in validation", (1, 7)),
        ("after best.safetensors", (1, 7)),
        ("before last.safetensors", (1, 7)),
        ("after last.safetensors", (2, 8)),
    ],
)
def test_kill_9_costs_at_most_the_steps_since_the_last_checkpoint(moment, stands_at, tmp_path, undrawn, capsys):
    command = ["ae", *TINY["ae"], "--epochs", "3", "--checkpoint-every", "1", "--log-steps", "--ema", "0.9"]
    environment = {**os.environ, "PYTHONPATH": str(Path(minidl.__file__).parents[1])}
    out = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, moment, str(out), *command], env=environment, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert stands(out) == stands_at
    assert main(["resume", str(out)]) == 0
    assert train(*command, "--out", tmp_path / "whole") == 0
    assert_same_run(out, tmp_path / "whole")


def test_random_clips_from_a_worker_process(tmp_path, undrawn, monkeypatch, capsys):
    """Video files, random clips and crops: stopped and gone on with, and made by another process, the same run."""
    pytest.importorskip("av", reason="videos need PyAV")
    videos = tmp_path / "moving"
    options = ["--train", "40", "--test", "4", "--frames", "12", "--scale", "1"]
    assert main(["data", "make", "moving-digits", str(videos), *options]) == 0
    command = [
        "c3d",
        "--data",
        f"ucf101:{videos}",
        "--size",
        "8",
        "--frames",
        "8",
        "--batch-size",
        "8",
        "--epochs",
        "2",
    ]
    assert train(*command, "--log-steps", "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        at_step(patch, 6, ctrl_c)
        assert train(*command, "--log-steps", "--workers", "1", "--out", tmp_path / "run") == 130
    assert stands(tmp_path / "run") == (1, 6)
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_early_stopping_across_a_resume(tmp_path, undrawn, capsys, monkeypatch):
    """A learning rate at which validation gets worse at once."""
    command = ["ae", *TINY["ae"], "--epochs", "9", "--patience", "2", "--lr", "1"]
    assert train(*command, "--out", tmp_path / "whole") == 0
    epochs = len(lines(tmp_path / "whole"))
    assert 3 <= epochs < 9
    with monkeypatch.context() as patch:
        at_step(patch, STEPS + 2, ctrl_c)
        assert train(*command, "--out", tmp_path / "run") == 130
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    capsys.readouterr()
    assert main(["resume", str(tmp_path / "run")]) == 0  # it stays stopped
    assert f"complete already after step {epochs * STEPS}" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_resuming_a_complete_run_draws_again_and_changes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert train("vae", *TINY["vae"], "--epochs", "1", "--out", out) == 0
    (facts, arrays), table, pictures = checkpoint(out, "last"), rows(out), contents(out)
    summary = (out / "summary.txt").read_text()
    (out / "report.html").unlink()
    (out / "pictures" / "manifold.png").unlink()
    assert main(["resume", str(out)]) == 0
    assert "complete already after step 4 (1 of 1 epoch)" in capsys.readouterr().out
    again, again_arrays = checkpoint(out, "last")
    assert again == facts and rows(out) == table and contents(out) == pictures
    for name, array in arrays.items():
        np.testing.assert_array_equal(again_arrays[name], array)
    assert (out / "summary.txt").read_text() == summary


def test_a_resume_that_may_not_write_has_nothing_to_rescue(tmp_path, monkeypatch, undrawn, capsys):
    """Root may write anywhere, so the operating system's answer is simulated."""
    out = tmp_path / "run"
    assert train("ae", *TINY["ae"], "--epochs", "1", "--out", out) == 0
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def refuse(*_):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("minidl.train.files.os.replace", refuse)
    assert main(["resume", str(out)]) == 2
    assert re.match(
        r"minidl: \S+metrics.jsonl cannot be written: the file system is read-only. The last checkpoint is "
        rf"{out}/checkpoints/last.safetensors; minidl resume {out} goes on from it\n$",
        capsys.readouterr().err,
    )
    assert not list(tmp_path.glob("minidl-rescue-*"))


# ---- what cannot be gone on with


def refused(capsys, *words):
    capsys.readouterr()
    assert main(["resume", *map(str, words)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("minidl: ") and message.count("\n") == 1
    return message


def test_folders_that_are_no_runs(tmp_path, capsys):
    assert "nowhere is no folder" in refused(capsys, tmp_path / "nowhere")
    assert "holds no run of minidl: no config.json" in refused(capsys, tmp_path)
    for text, words in (("{", "config.json is damaged"), ("[]", "was not written by minidl")):
        (tmp_path / "config.json").write_text(text)
        assert words in refused(capsys, tmp_path)
    (tmp_path / "config.json").write_text('{"model": "bert", "minidl": "0", "config": {}}')
    assert "is of the model 'bert', which this minidl does not have" in refused(capsys, tmp_path)
    (tmp_path / "config.json").write_text('{"model": "ae", "minidl": "0", "config": {"epohcs": 3}}')
    assert "there is no option 'epohcs'; did you mean 'epochs'?" in refused(capsys, tmp_path)
    (tmp_path / "config.json").write_text('{"model": "ae", "minidl": "0", "config": {"epochs": "3"}}')
    assert "epochs is '3'; it must be a whole number" in refused(capsys, tmp_path)


def test_checkpoints_that_cannot_be_used(tmp_path, undrawn, capsys):
    out, other = tmp_path / "run", tmp_path / "other"
    assert train("ae", *TINY["ae"], "--epochs", "1", "--out", out) == 0
    assert train("ae", *TINY["ae"], "--arch", "linear", "--epochs", "1", "--out", other) == 0
    last = out / "checkpoints" / "last.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    assert "last.safetensors is damaged or no safetensors file" in refused(capsys, out)
    last.write_bytes((other / "checkpoints" / "last.safetensors").read_bytes())
    assert "another model: it holds LinearAutoencoder, this is MLPAutoencoder" in refused(capsys, out)
    last.write_bytes((out / "checkpoints" / "best.safetensors").read_bytes())
    assert "holds weights but no state of the callbacks, optimizer, schedule" in refused(capsys, out)
    last.unlink()
    assert "has no checkpoint yet. It was made by: " in refused(capsys, out)
    last.write_bytes(whole)
    assert main(["resume", str(out)]) == 0
