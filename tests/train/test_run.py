"""`minidl train ae` as a whole: the run folder, its numbers, its pictures, and what interrupts it."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from train_runs import at_step, contents, ctrl_c, lines, rows, timeless

import minidl
from minidl import Tensor
from minidl.cli import main
from minidl.data import digits
from minidl.models.autoencoder import AutoencoderConfig, build
from minidl.train import CheckpointError, files, load_checkpoint, read_checkpoint
from minidl.train.folder import PRODUCTS
from minidl.train.recipes.autoencoder import PCA, TrainAutoencoder
from minidl.train.run import train

PICTURES = ["code.png", "filters.png", "loss.png", "reconstructions.png"]
FILES = {
    "config.json", "metrics.csv", "metrics.jsonl", "summary.txt", "report.html",
    "checkpoints/last.safetensors", "checkpoints/last.json", "checkpoints/best.safetensors", "checkpoints/best.json",
    *(f"pictures/{name}" for name in PICTURES),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    status = train(TrainAutoencoder(epochs=8, out=folder, seed=5))
    assert status == 0
    return folder


def test_the_folder_is_complete_and_holds_nothing_else(run):
    assert contents(run) == FILES
    assert all(any(fnmatch(name, pattern) for pattern in PRODUCTS) for name in FILES)
    assert json.loads((run / "config.json").read_text())["config"]["epochs"] == 8


def test_csv_and_jsonl_agree(run):
    table = rows(run)
    assert table == lines(run)
    assert [row["epoch"] for row in table] == list(range(1, 9))
    assert table[-1]["step"] == 8 * 18  # 1297 - 130 images make 18 batches of 64
    assert table[-1]["train_loss"] < 0.7 * table[0]["train_loss"]


def test_the_checkpoint_is_what_was_measured(run):
    """Reloaded weights reconstruct with the validation error of the last line, and better than they began."""
    model = build(AutoencoderConfig())
    facts = load_checkpoint(run / "checkpoints" / "last.safetensors", model)
    best, _ = read_checkpoint(run / "checkpoints" / "best.safetensors")
    records = lines(run)
    assert (facts["epoch"], facts["step"]) == (8, 144)
    assert facts["trainer"]["records"] == records
    assert best["best"]["loss"] == min(record["val_loss"] for record in records)

    from minidl.data import random_split
    from minidl.data.dataset import gather

    held_back = random_split(digits("train"), [1167, 130], seed=5)[1]
    images = gather(held_back, np.arange(130))[0]
    with minidl.no_grad():
        error = float(((model(Tensor(images)).numpy() - images) ** 2).sum() / 130)
    assert error == pytest.approx(records[-1]["val_loss"], rel=1e-5)


def test_the_same_seed_repeats_the_run_and_another_does_not(run, tmp_path):
    train(TrainAutoencoder(epochs=3, out=tmp_path / "again", seed=5))
    train(TrainAutoencoder(epochs=3, out=tmp_path / "twice", seed=5))
    train(TrainAutoencoder(epochs=3, out=tmp_path / "other", seed=6))
    assert timeless(lines(tmp_path / "again")) == timeless(lines(tmp_path / "twice"))
    assert timeless(lines(tmp_path / "again")) != timeless(lines(tmp_path / "other"))


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_decode_and_show_something(run, name):
    picture = np.asarray(Image.open(run / "pictures" / name).convert("RGB"))
    height, width, _ = picture.shape
    assert 300 < height < 2000 and 600 < width < 2500
    shades = np.unique(picture.reshape(-1, 3), axis=0)
    ink = (picture < 250).any(2).mean()
    assert len(shades) > 60 and 0.02 < ink < 0.9


def test_reconstructions_show_the_inputs_pixel_by_pixel(run):
    """The first test 0 stands in the first column: somewhere its 8 x 8 grey values lie on a regular grid."""
    picture = np.asarray(Image.open(run / "pictures" / "reconstructions.png").convert("L")).astype(int)
    images, labels = digits("test").arrays
    zero = np.round(255 * (1 - images[np.flatnonzero(labels == 0)[0], 0]))
    tile = next(
        (y, x, size)
        for size in range(9, 14)
        for y in range(40, 140)
        for x in range(100, 200)
        if np.abs(picture[y : y + 8 * size : size, x : x + 8 * size : size] - zero).max() <= 3
    )
    assert tile


def test_colours_of_all_ten_digits_are_on_the_map(run):
    from minidl.train.pictures import CLASSES

    shown = {
        tuple(c) for c in np.asarray(Image.open(run / "pictures" / "code.png").convert("RGB")).reshape(-1, 3).tolist()
    }
    for colour in CLASSES:
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in shown  # the class's number is drawn opaque


@pytest.mark.parametrize("options", [["--arch", "conv"], ["--arch", "linear", "--code", "1"], ["--code", "5"]])
def test_other_networks_and_code_sizes(options, tmp_path, capsys):
    assert main(["train", "ae", *options, "--epochs", "1", "--log-steps", "--out", str(tmp_path / "run")]) == 0
    assert contents(tmp_path / "run") == FILES
    assert [line["step"] for line in lines(tmp_path / "run", "step")] == list(range(1, 19))
    printed = capsys.readouterr().out
    assert "\n1 epoch, 18 steps, " in printed and "warning" not in printed
    assert "test" in printed and "PCA" in printed and f"report      {tmp_path / 'run' / 'report.html'}" in printed


def test_a_diverged_run_gets_a_warning(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["train", "ae", "--epochs", "2", "--lr", "1e6", "--out", str(out)]) == 0
    assert "warning     The autoencoder is no better than drawing the mean of all images" in capsys.readouterr().out
    assert "it diverged (try a smaller --lr)" in (out / "summary.txt").read_text()


def test_a_closed_pipe_does_not_stop_the_run(tmp_path):
    """As in `minidl train ae | head -2`."""
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "minidl", "train", "ae", "--epochs", "20", "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(Path(minidl.__file__).parents[1])},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(60), errors) == (0, "")
    process.stderr.close()
    assert contents(out) == FILES and len(lines(out)) == 20


def test_ctrl_c_while_drawing_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("minidl.train.pictures.png", stop)
    out = tmp_path / "run"
    assert main(["train", "ae", "--epochs", "1", "--out", str(out)]) == 130
    wanted = f"minidl: stopped: while drawing, so pictures may be missing; minidl resume {out} goes on\n"
    assert capsys.readouterr().err == wanted
    assert (out / "checkpoints" / "last.safetensors").exists()


def test_linear_autoencoder_reaches_pca_from_the_command(tmp_path):
    train(TrainAutoencoder(arch="linear", code=2, out=tmp_path / "run", epochs=60))
    text = (tmp_path / "run" / "summary.txt").read_text()
    error, pca = map(float, re.findall(r"training: \D+([\d.]+)", text))
    assert 1.0 <= error / pca <= 1.01


def test_pca_baseline_agrees_with_scikit_learn():
    from sklearn.decomposition import PCA as Reference

    images = digits("train").arrays[0]
    flat = images.reshape(len(images), 64).astype(np.float64)
    reference = Reference(5, svd_solver="full").fit(flat)
    ours = PCA(images, 5)
    expected = reference.inverse_transform(reference.transform(flat))
    np.testing.assert_allclose(ours.reconstruct(images).reshape(-1, 64), expected, atol=1e-6)
    assert ours.error(images) == pytest.approx(((expected - flat) ** 2).sum(1).mean(), rel=1e-6)


def test_a_checkpoint_of_another_network_is_refused(run):
    with pytest.raises(CheckpointError, match="it holds MLPAutoencoder, this is ConvAutoencoder"):
        load_checkpoint(run / "checkpoints" / "last.safetensors", build(AutoencoderConfig(arch="conv")))
    with pytest.raises(CheckpointError, match=r"here \(8, 128\)"):
        load_checkpoint(run / "checkpoints" / "last.safetensors", build(AutoencoderConfig(code=8)))


def test_a_run_is_not_overwritten_unasked(run, capsys):
    before = (run / "metrics.csv").read_bytes()
    assert main(["train", "ae", "--epochs", "1", "--out", str(run)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == before


def test_too_little_room_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda path: usage._replace(free=2**20))
        assert main(["train", "ae", "--epochs", "1", "--out", str(tmp_path / "run")]) == 2
    assert "the disk has 1 MB left, the run needs about 12 MB" in capsys.readouterr().err
    assert contents(tmp_path) == set()
    assert main(["train", "ae", "--epochs", "1", "--out", str(tmp_path / "run")]) == 0


def test_overwriting_leaves_nothing_of_the_old_run(tmp_path):
    train(TrainAutoencoder(epochs=2, out=tmp_path))
    train(TrainAutoencoder(epochs=1, out=tmp_path, overwrite=True))
    assert contents(tmp_path) == FILES
    assert len(lines(tmp_path)) == 1


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path, monkeypatch, capsys):
    """The second epoch's checkpoint does not fit: it is rescued elsewhere, the first epoch's stays whole."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = tmp_path / "run"
    replace, count = os.replace, 0

    def fail_late(source, target):
        nonlocal count
        if str(target) == str(out / "checkpoints" / "last.safetensors"):
            count += 1
            if count == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(files.os, "replace", fail_late)
    assert main(["train", "ae", "--epochs", "3", "--out", str(out)]) == 2
    message = capsys.readouterr().err
    assert "the disk is full. Training stopped after step 36" in message
    rescued = re.search(r"its checkpoint is (\S+last\.safetensors)", message)
    assert rescued is not None
    assert load_checkpoint(rescued[1], build(AutoencoderConfig()))["epoch"] == 2
    assert load_checkpoint(out / "checkpoints" / "last.safetensors", build(AutoencoderConfig()))["epoch"] == 1


def test_ctrl_c_leaves_a_usable_run(tmp_path):
    """SIGINT after the first epoch, as a terminal sends it: status 130, checkpoint, pictures, and where they are."""
    out = tmp_path / "run"
    environment = {**os.environ, "PYTHONPATH": str(Path(minidl.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-m", "minidl", "train", "ae", "--epochs", "5000", "--threads", "1", "--out", str(out)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not ((out / "metrics.jsonl").exists() and lines(out)):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert errors == ""
    assert re.search(r"Ctrl-C: stopped after step \d+", printed) and str(out) in printed
    assert contents(out) == FILES
    facts = load_checkpoint(out / "checkpoints" / "last.safetensors", build(AutoencoderConfig()))
    assert f"stopped after step {facts['step']}," in printed
    assert facts["step"] // 18 == facts["epoch"] == len(lines(out))


def test_ctrl_c_before_the_first_epoch_ends_still_leaves_pictures(tmp_path, monkeypatch):
    at_step(monkeypatch, 1, ctrl_c)
    assert train(TrainAutoencoder(epochs=3, out=tmp_path / "run")) == 130
    missing = {"metrics.csv", "metrics.jsonl", "checkpoints/best.safetensors", "checkpoints/best.json"}
    assert contents(tmp_path / "run") == FILES - missing
