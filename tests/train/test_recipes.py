"""Each model from its options to its report: tried out, learned by heart, measured again, sampled."""

import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from train_runs import TINY, at_step, contents, ctrl_c, lines, rows, train

from minidl import nn
from minidl.cli import main
from minidl.data.moving import write_video
from minidl.models import MODELS
from minidl.train import CheckpointError, NotFinite, read_checkpoint
from minidl.train.experiment import TRIED
from minidl.train.recipes.dcgan import Film, TrainDCGAN
from minidl.train.recipes.vae import TrainVAE
from minidl.train.run import evaluate, sample

PICTURES = {
    "ae": {"reconstructions.png", "code.png", "filters.png"},
    "vae": {"samples.png", "manifold.png", "reconstructions.png", "interpolations.png", "code.png", "terms.png"},
    "dcgan": {"samples.png", "learning.gif", "interpolations.png", "health.png"},
    "c3d": {"clips.gif", "frames.png", "confusion.png", "filters.png", "accuracy.png"},
    "gru-rcn": {"clips.gif", "frames.png", "confusion.png", "filters.png", "accuracy.png"},
}


def test_there_are_settings_for_every_model():
    assert TINY.keys() == PICTURES.keys() == MODELS.keys()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of two epochs for each model, made when it is first asked for."""
    made = {}

    def run(model):
        if model not in made:
            made[model] = tmp_path_factory.mktemp("runs") / model
            words = [*TINY[model], "--epochs", "2", "--ema", "0.5", "--out", made[model]]
            assert train(model, *words) == 0
        return made[model]

    return run


def table(text):
    """The rows of the table in summary.txt."""
    found = re.findall(r"^│ (.+?) *│ *(\S+) │$", text, re.M)
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize("model", MODELS)
def test_pictures_and_report_of_every_model(model, runs):
    folder = runs(model)
    names = {path.name for path in (folder / "pictures").iterdir()}
    assert names - {"arithmetic.png"} == PICTURES[model] | {"loss.png"}  # arithmetic: where there are sure samples
    for path in (folder / "pictures").iterdir():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 16 and getattr(image, "n_frames", 1) >= (2 if path.suffix == ".gif" else 1)
    report = (folder / "report.html").read_text()
    assert report.count("data:image/") >= len(names) and "minidl" in report


@pytest.mark.parametrize("model", MODELS)
def test_eval_gives_the_numbers_of_the_report(model, runs, capsys):
    """Both are of the weights with the lowest monitored number."""
    folder = runs(model)
    capsys.readouterr()
    assert main(["eval", str(folder), "--json"]) == 0
    printed, errors = capsys.readouterr()
    numbers = json.loads(printed)
    assert errors == "" and all(np.isfinite(value) for value in numbers.values())
    assert {name: float(f"{value:.4g}") for name, value in numbers.items()} == table(
        (folder / "summary.txt").read_text()
    )
    assert main(["eval", str(folder)]) == 0
    assert table(capsys.readouterr().out) == {n: float(f"{v:.4g}") for n, v in numbers.items()}
    best = read_checkpoint(folder / "checkpoints" / "best.safetensors")[0]
    if best["epoch"] == 2:
        assert evaluate(folder, "best") == numbers


def test_eval_measures_the_averaged_weights(runs):
    """An autoencoder's validation error of the last epoch was that of the average."""
    numbers = evaluate(runs("ae"), "last")
    assert numbers["validation: squared error per image"] == pytest.approx(rows(runs("ae"))[-1]["val_loss"], rel=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_samples_depend_on_the_seed_alone(model, runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kind = "gif" if model in ("c3d", "gru-rcn") else "png"
    command = ["sample", str(runs(model)), "--count", "5"]
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    name = {"png": "samples.png", "gif": "clips.gif"}[kind]
    assert re.match(rf"{name}: \w.+", printed) and contents(tmp_path) == {name}
    first = (tmp_path / name).read_bytes()
    with Image.open(io.BytesIO(first)) as image:
        assert image.format == kind.upper()
    assert main([*command, "--seed", "0", "--out", f"again.{kind}"]) == 0
    assert main([*command, "--seed", "1", "--out", "other"]) == 0  # gets its ending
    assert (tmp_path / f"again.{kind}").read_bytes() == first
    if kind == "png":
        assert (tmp_path / "other.png").read_bytes() != first
    wrong = {"png": "gif", "gif": "png"}[kind]
    capsys.readouterr()
    assert main([*command, "--out", f"x.{wrong}"]) == 2
    assert capsys.readouterr().err == f"minidl: --out is x.{wrong}: what comes out is a .{kind} file\n"
    assert not (tmp_path / f"x.{wrong}").exists()


def test_sample_where_it_cannot_be_written(runs, tmp_path, capsys):
    assert main(["sample", str(runs("vae")), "--out", str(tmp_path / "no" / "x.png")]) == 2
    assert "x.png cannot be written: No such file" in capsys.readouterr().err
    assert main(["sample", str(runs("vae")), "--count", "0"]) == 2
    assert "--count must be at least 1" in capsys.readouterr().err


def test_a_single_sample(runs, tmp_path):
    for model in ("ae", "vae", "dcgan"):
        assert sample(runs(model), 1, 0, tmp_path / f"{model}.png")[0].exists()
    assert sample(runs("c3d"), 1, 0, tmp_path / "c3d.gif")[0].exists()


@pytest.mark.parametrize("model", MODELS)
def test_a_quick_try(model, tmp_path, capsys):
    """One epoch of three batches; everything that follows a real run; the options are kept for a resume."""
    words = ["--epochs", "50", "--batch-size", "8", *TINY[model][2:], "--fast-dev-run", "--out", tmp_path / "run"]
    assert train(model, *words) == 0
    (record,) = lines(tmp_path / "run")
    assert (record["epoch"], record["step"]) == (1, TRIED)
    assert f"{3 * 8} examples to train on" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()
    assert main(["resume", str(tmp_path / "run")]) == 0
    assert "complete already after step 3 (1 of 1 epoch)" in capsys.readouterr().out


@pytest.mark.parametrize("model", MODELS)
def test_stopped_in_the_first_epoch_there_are_pictures_all_the_same(model, tmp_path, monkeypatch, capsys):
    at_step(monkeypatch, 1, ctrl_c)
    out = tmp_path / "run"
    assert train(model, *TINY[model], "--epochs", "2", "--out", out) == 130
    assert f"Ctrl-C: stopped after step 1, 0 of 2 epochs; minidl resume {out} goes on" in capsys.readouterr().out
    assert (out / "report.html").exists() and list((out / "pictures").iterdir())
    assert main(["eval", str(out)]) == 2
    assert "best.safetensors: there is no such checkpoint yet" in capsys.readouterr().err
    assert main(["eval", str(out), "--checkpoint", "last"]) == 0


# ---- a few batches by heart


@pytest.mark.parametrize(
    ("model", "words", "most"),
    [
        # --noise and --warmup would hide it
        ("ae", ["--batch-size", "8", "--epochs", "150", "--code", "20"], 0.15),
        ("c3d", ["--batch-size", "8", "--epochs", "60", "--clips", "16", "--size", "8"], 0.05),
    ],
)
def test_a_few_batches_are_learned_by_heart(model, words, most, tmp_path, monkeypatch):
    monkeypatch.setattr("minidl.train.run.finish", lambda *_: None)
    assert train(model, *words, "--overfit-batches", "1", "--out", tmp_path / "run") == 0
    first, *_, last = lines(tmp_path / "run")
    assert last["train_loss"] < most * min(1, first["train_loss"])
    assert last["val_loss"] == pytest.approx(last["train_loss"], rel=0.5)  # the same examples, one step later


def test_validation_is_on_the_very_same_examples():
    """With a learning rate of nearly nothing, both losses are one."""
    config = TrainVAE(batch_size=16, overfit_batches=2)
    experiment = config.experiment()
    train_batches, val_batches = list(experiment.train), list(experiment.validation)
    assert len(train_batches) == len(val_batches) == 2
    for one, other in zip(train_batches, val_batches, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert len(next(iter(experiment.train))[0]) == 16  # in every epoch
    np.testing.assert_array_equal(list(experiment.train)[1][0], train_batches[1][0])


@pytest.mark.parametrize("model", ["ae", "dcgan", "c3d"])
def test_more_batches_than_there_are(model, tmp_path, capsys):
    assert train(model, *TINY[model], "--overfit-batches", "1000", "--out", tmp_path / "run") == 2
    assert re.search(r"--overfit-batches is 1000: it must be at most \d", capsys.readouterr().err)
    assert (
        train(model, *TINY[model][2:], "--batch-size", "5000", "--overfit-batches", "1", "--out", tmp_path / "run") == 2
    )
    assert re.search(r"--batch-size is 5000: it must be at most \d+, the examples", capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


def test_one_class_is_enough_for_a_quick_look(tmp_path, capsys):
    """The judge of a GAN's samples may have seen one class only, or not all."""
    folder = tmp_path / "one" / "class"
    folder.mkdir(parents=True)
    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    words = ["--data", f"folder:{tmp_path / 'one'}", "--batch-size", "4", "--fast-dev-run"]
    for model in ("dcgan", "vae", "ae"):
        assert train(model, *words, "--out", tmp_path / model) == 0
    assert "classes drawn, of 1" in capsys.readouterr().out


# ---- what becomes no number


def test_a_loss_that_is_no_number_names_layer_step_and_checkpoint(tmp_path, monkeypatch, capsys):
    forward, calls = nn.Linear.forward, 0

    def breaks(self, x):
        nonlocal calls
        y = forward(self, x)
        if self.out_features == 2:  # the code
            calls += 1
            if calls > 6:
                y = y * float("inf")
        return y

    monkeypatch.setattr(nn.Linear, "forward", breaks)
    out = tmp_path / "run"
    with np.errstate(all="ignore"):
        status = train(
            "ae", "--code", "2", "--batch-size", "256", "--epochs", "3", "--checkpoint-every", "1", "--out", out
        )
    assert status == 2
    message = capsys.readouterr().err
    assert re.search(
        r"the loss became (nan|inf) in step 6 \(epoch 2\); the output of \S+ \(Linear\) is the first", message
    )
    last = out / "checkpoints" / "last.safetensors"
    assert message.endswith(f". Try a smaller --lr or --clip-norm 1. The last checkpoint is {last}\n")
    facts, arrays = read_checkpoint(last)
    assert facts["step"] == 5 and all(np.isfinite(array).all() for array in arrays.values())
    assert message.count("\n") == 1 and NotFinite.__name__ not in message


# ---- a GAN


def test_the_film_of_a_gan_survives_and_has_no_more_frames_than_it_may(runs):
    _, arrays = read_checkpoint(runs("dcgan") / "checkpoints" / "last.safetensors")
    frames = arrays["callbacks/Film/frames"]
    assert frames.shape == (2, 16, 1, 8, 8)

    class Trainer:
        epochs, epoch = 100, 0
        task = TrainDCGAN(width=2, latent=4, batch_size=256).experiment().task

    film = Film(TrainDCGAN(width=2, latent=4, batch_size=256).experiment())
    for Trainer.epoch in range(1, 101):
        film.on_epoch_end(Trainer)
    assert len(film.frames) == 51 <= film.MOST  # the first, and every second
    again = Film(film.experiment)
    again.load_state_dict(film.state_dict())
    np.testing.assert_array_equal(again.frames, film.frames)


def test_what_a_gan_remembers_of_its_health(runs):
    facts, _ = read_checkpoint(runs("dcgan") / "checkpoints" / "last.safetensors")
    verdicts = facts["parts"]["callbacks"]["HealthMonitor"]["verdicts"]
    assert len(verdicts) == 2 and all(isinstance(verdict, str) for verdict in verdicts)
    assert {"train_g_grad", "train_d_grad", "val_parzen_loss", "val_classes"} <= rows(runs("dcgan"))[0].keys()


def test_the_best_gan_is_the_one_with_the_highest_likelihood(runs):
    best = read_checkpoint(runs("dcgan") / "checkpoints" / "best.safetensors")[0]["best"]
    assert best["loss"] == min(row["val_parzen_loss"] for row in rows(runs("dcgan")))


# ---- a VAE


def test_the_weight_of_the_kl_term_grows_with_the_steps():
    experiment = TrainVAE(batch_size=256, warmup=2.0, kl_weight=3.0).experiment()
    task, found = experiment.task, []
    task.model.train()
    for _ in range(3):
        for batch in experiment.train:
            found.append(experiment._grown())
            task.train_step(batch)
    assert found == [min(1.0, i / 8) for i in range(12)]
    assert TrainVAE(batch_size=256).experiment()._grown() == 1.0


# ---- checkpoints of other networks


def test_a_checkpoint_of_another_model(runs, tmp_path, capsys):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(runs("ae"), folder)
    shutil.copy(runs("vae") / "checkpoints" / "best.safetensors", folder / "checkpoints" / "best.safetensors")
    for command in ("eval", "sample"):
        assert main([command, str(folder)]) == 2
        assert "another model: it holds MLPVAE, this is MLPAutoencoder" in capsys.readouterr().err
    with pytest.raises(CheckpointError):
        evaluate(folder)


# ---- real videos


@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """Real .avi files, as the command makes them; among them one that is damaged and one that is empty."""
    pytest.importorskip("av", reason="videos need PyAV")
    folder = tmp_path_factory.mktemp("data") / "moving"
    options = ["--train", "40", "--test", "6", "--frames", "12", "--scale", "1"]
    assert main(["data", "make", "moving-digits", str(folder), *options]) == 0
    (first, second, *_) = sorted((folder / "videos").rglob("*_g1*.avi"))
    first.write_bytes(first.read_bytes()[:200])
    second.write_bytes(b"")
    return folder


def test_c3d_on_video_files(moving, tmp_path, capsys):
    """From files to the report; the damaged ones are left out with a word about them."""
    words = ["--data", f"ucf101:{moving}", "--size", "8", "--frames", "8", "--batch-size", "8", "--epochs", "1"]
    out = tmp_path / "run"
    with pytest.warns(UserWarning, match=r"\d of \d+ videos in .* cannot be used"):
        assert train("c3d", *words, "--out", out) == 0
    trained, held_back = map(int, re.search(r"(\d+) examples to train on, (\d+) to", capsys.readouterr().out).groups())
    assert trained + held_back == 38
    assert (out / "pictures" / "clips.gif").exists() and (out / "report.html").exists()
    with pytest.warns(UserWarning, match="videos in"):
        assert main(["eval", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy of guessing"] == 0.25


def test_videos_all_too_short(tmp_path, capsys):
    pytest.importorskip("av", reason="videos need PyAV")
    (tmp_path / "videos" / "Run").mkdir(parents=True)
    (tmp_path / "lists").mkdir()
    names = [f"Run/v_Run_g{g:02d}_c01.avi" for g in range(1, 5)]
    for name in names:
        write_video(tmp_path / "videos" / name, np.zeros((2, 16, 16), np.uint8))
    (tmp_path / "lists" / "classInd.txt").write_text("1 Run\n")
    (tmp_path / "lists" / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in names[:3]))
    (tmp_path / "lists" / "testlist01.txt").write_text(f"{names[3]}\n")
    status = train("c3d", "--data", f"ucf101:{tmp_path}", "--frames", "8", "--size", "8", "--out", tmp_path / "run")
    errors = capsys.readouterr().err
    assert status == 2 and errors.startswith("minidl: ") and "Traceback" not in errors
