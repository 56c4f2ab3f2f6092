"""Where options come from: defaults, a file, --set, flags; and what is said of those that make no sense."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from minidl.cli.training import _settled
from minidl.cli.words import UsageError, options_of
from minidl.train import TrainingError
from minidl.train.config import TrainConfig, as_flags, check_values, read_assignments, read_config


@dataclass(frozen=True, kw_only=True)
class Options(TrainConfig):
    """As a recipe has them."""

    model = "ae"
    arch: Literal["mlp", "conv"] = "mlp"
    """The network."""
    sizes: tuple[int, ...] = (1,)
    """Several."""

    def experiment(self):
        raise NotImplementedError


def parsed(*words):
    """The options that a command line gives."""
    return options_of(Options, _settled(list(map(str, words)), Options), "minidl train ae")


@pytest.fixture
def file(tmp_path):
    def write(text, name="run.toml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


# ---- which wins


def test_flags_win_over_set_and_set_over_the_file(file):
    path = file('epochs = 1\nbatch_size = 2\nseed = 3\ndata = "order"\n')
    options = parsed("--config", path, "--set", "batch_size=20", "seed=30", "--seed", "300")
    assert (options.epochs, options.batch_size, options.seed, options.data) == (1, 20, 300, "order")
    assert options.lr is None and options.keep == 1  # defaults


def test_wherever_they_stand(file):
    path = file("epochs = 1\nseed = 1\n")
    words = ["--seed", "9", "--set", "epochs=5", "--config", path, "--set", "keep=4", "--log-steps"]
    options = parsed(*words)
    assert (options.seed, options.epochs, options.keep, options.log_steps) == (9, 5, 4, True)
    assert parsed("--set=epochs=7", f"--config={path}").epochs == 7


def test_of_several_files_the_last_wins(file):
    first, second = file("epochs = 1\nseed = 1\n", "a.toml"), file("epochs = 2\n", "b.toml")
    options = parsed("--config", first, "--config", second)
    assert (options.epochs, options.seed) == (2, 1)


def test_a_switch_can_be_turned_off_again_and_a_number_left_out(file):
    path = file("log_steps = true\noverwrite = true\nema = 0.9\n")
    options = parsed("--config", path)
    assert options.log_steps and options.overwrite and options.ema == 0.9
    options = parsed("--config", path, "--set", "log_steps=false", "ema=none")
    assert not options.log_steps and options.overwrite and options.ema is None
    assert parsed("--config", path, "--set", "ema=None").ema is None


def test_names_may_have_hyphens_and_values_are_those_of_toml(file):
    path = file('batch-size = 5\nlr = 1\nout = "a b"\nsizes = [3, 4]\narch = "conv"\nclip_norm = 1e-3\n')
    options = parsed("--config", path, "--set", "checkpoint-every=7", 'data="torus"')
    assert options.batch_size == 5 and options.lr == 1.0 and isinstance(options.lr, float)
    assert options.out == Path("a b") and options.sizes == (3, 4) and options.arch == "conv"
    assert options.clip_norm == 1e-3 and options.checkpoint_every == 7 and options.data == "torus"
    assert parsed("--set", "data=folder:/a=b").data == "folder:/a=b"  # only the first = counts
    assert parsed("--set", "data=2024").data == "2024"  # text where text is wanted
    assert parsed("--set", "lr=1e-05").lr == 1e-5


def test_the_config_of_a_run_is_a_config_file(file):
    options = Options(epochs=3, lr=0.5, out=Path("x"), overwrite=True, sizes=(2, 3), ema=0.9, log_steps=True)
    path = file(json.dumps({"model": "ae", "config": options.as_json(), "minidl": "0"}), "config.json")
    again = parsed("--config", path)
    assert again.out is None and not again.overwrite  # the folder is taken
    assert again == Options(epochs=3, lr=0.5, sizes=(2, 3), ema=0.9, log_steps=True)


def test_options_survive_json():
    options = Options(out=Path("/x"), sizes=(2, 3), lr=0.1)
    assert Options.from_json(json.loads(json.dumps(options.as_json())), "config.json") == options


def test_paths_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    values = Options(out=Path("x"), data="mnist:here/it").as_json()
    assert (values["out"], values["data"]) == (f"{tmp_path}/x", f"mnist:{tmp_path}/here/it")
    assert Options().as_json()["data"] == Options.data


def test_flags_for_everything_but_defaults():
    assert as_flags({"epochs": 3, "log_steps": True, "overwrite": False, "lr": None, "sizes": [1, 2]}) == [
        "--epochs", "3", "--log-steps", "--sizes", "1", "2",
    ]  # fmt: skip


# ---- what makes no sense


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epohcs = 3", "there is no option 'epohcs'; did you mean 'epochs'?"),
        ("zzz = 3", "there is no option 'zzz'. Known: "),
        ('epochs = "many"', "epochs is 'many'; it must be a whole number"),
        ("epochs = 3.0", "epochs is 3.0; it must be a whole number"),
        ("epochs = true", "epochs is True; it must be a whole number"),
        ("epochs = [1, 2]", r"epochs is \[1, 2\]; it must be a whole number"),
        ("[epochs]\na = 1", r"epochs is {'a': 1}; it must be a whole number"),
        ('lr = "x"', "lr is 'x'; it must be a number or none"),
        ("log_steps = 1", "log_steps is 1; it must be true or false"),
        ('log_steps = "yes"', "log_steps is 'yes'; it must be true or false"),
        ("data = 3", "data is 3; it must be text"),
        ('arch = "cnn"', "arch is 'cnn'; it must be 'mlp' or 'conv'"),
        ('sizes = [1, "x"]', r"sizes is \[1, 'x'\]; it must be a list, each a whole number"),
        ("sizes = 1", "sizes is 1; it must be a list, each a whole number"),
        ("when = 2024-01-01", "there is no option 'when'"),
    ],
)
def test_what_a_file_gets_wrong_is_said_with_its_name(file, text, words):
    path = file(text)
    with pytest.raises(TrainingError, match=rf"^--config {path}: {words}"):
        read_config(path, Options)


def test_files_that_cannot_be_read(file, tmp_path):
    for content, name, words in (
        ("epochs =", "run.toml", "is not valid TOML"),
        ("{", "config.json", "is not valid JSON"),
        ("[1]", "config.json", "holds no table of options"),
        ('{"config": 3}', "config.json", "holds no table of options"),
    ):
        with pytest.raises(TrainingError, match=f"--config .*{name} {words}"):
            read_config(file(content, name), Options)
    (tmp_path / "latin.toml").write_bytes(b'data = "\xe4"')
    with pytest.raises(TrainingError, match="is not valid TOML"):
        read_config(tmp_path / "latin.toml", Options)
    with pytest.raises(TrainingError, match="cannot be read: No such file"):
        read_config(tmp_path / "none.toml", Options)
    with pytest.raises(TrainingError, match="cannot be read: Is a directory"):
        read_config(tmp_path, Options)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("epochs", "--set epochs: expected key=value, such as --set epochs=3"),
        ("=3", "--set =3: expected key=value"),
        ("epohcs=3", "--set epohcs=3: there is no option 'epohcs'; did you mean 'epochs'?"),
        ("epochs=", "epochs is ''; it must be a whole number"),
        ("epochs=many", "epochs is 'many'; it must be a whole number"),
        ("epochs=none", "epochs is None; it must be a whole number"),
        ("log_steps=maybe", "log_steps is 'maybe'; it must be true or false"),
        ("lr=abc", "lr is 'abc'; it must be a number or none"),
    ],
)
def test_what_set_gets_wrong(pair, words):
    with pytest.raises(TrainingError) as caught:
        read_assignments([pair], Options)
    assert words in str(caught.value)


def test_flags_without_values(capsys):
    for flag in ("--config", "--set"):
        with pytest.raises(UsageError, match=f"argument {flag}: expected"):
            parsed(flag)


def test_a_value_that_fits_is_let_through():
    check_values({"lr": 1, "out": None, "sizes": [], "arch": "conv"}, Options, "here")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epochs": 0}, "--epochs is 0: it must be at least 1"),
        ({"batch_size": 0}, "--batch-size is 0: it must be at least 1"),
        ({"lr": 0.0}, "--lr is 0.0: it must be a positive number"),
        ({"lr": float("inf")}, "--lr is inf: it must be a positive number"),
        ({"workers": -1}, "--workers is -1: it must be 0 or more"),
        ({"accumulate": 0}, "--accumulate is 0: it must be between 1 and --batch-size"),
        ({"accumulate": 9, "batch_size": 8}, "--accumulate is 9: it must be between 1 and --batch-size"),
        ({"clip_norm": 0.0}, "--clip-norm is 0.0: it must be a positive number"),
        ({"clip_norm": float("nan")}, "--clip-norm is nan: it must be a positive number"),
        ({"ema": 1.0}, "--ema is 1.0: it must be at least 0 and less than 1"),
        ({"patience": 0}, "--patience is 0: it must be at least 1"),
        ({"keep": 0}, "--keep is 0: it must be at least 1"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0: it must be at least 1"),
        ({"overfit_batches": -1}, "--overfit-batches is -1: it must be 0 or more"),
    ],
)
def test_values_that_no_run_can_have(values, words):
    with pytest.raises(TrainingError) as caught:
        Options(**values).check()
    assert str(caught.value) == words
