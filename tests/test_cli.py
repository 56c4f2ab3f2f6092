"""The command line: help, near misses, wrong options, messages without tracebacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minidl
from minidl import cli
from minidl.demos import DEMOS
from minidl.models import MODELS, NETWORKS
from minidl.train.sources import IMAGES, VIDEOS


def run(capsys, *args):
    status = cli.main(args)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("help",)])
def test_help_lists_the_commands(capsys, args):
    status, out, err = run(capsys, *args)
    assert (status, err) == (0, "")
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize("args", [("version",), ("--version",)])
def test_version(capsys, args):
    status, out, _ = run(capsys, *args)
    assert status == 0
    assert out.startswith(f"minidl {minidl.__version__}\n") and "numpy" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("trian",), "no command 'trian'; did you mean 'train'?"),
        (("xyz",), "no command 'xyz'. Known: list, train, resume, eval, sample, demo, summary, draw, data, "),
        (("resmue", "x"), "did you mean 'resume'?"),
        (("train",), "which model? It comes first: minidl train ae …"),
        (("train", "aae"), "no model 'aae'; did you mean 'ae'? Known: ae, vae, dcgan, c3d, gru-rcn."),
        (("train", "gru_rcn"), "no model 'gru_rcn'; did you mean 'gru-rcn'?"),
        (("train", "--epochs", "3", "ae"), "which model? It comes first"),
        (("summary",), "which network? It comes first: minidl summary c3d …"),
        (("summary", "c4d"), "no network 'c4d'; did you mean 'c3d'?"),
        (("draw", "c4d"), "no network 'c4d'; did you mean 'c3d'?"),
        (("summary", "c3d-mini", "--set", "clases=3"), "no argument 'clases'; did you mean 'classes'?"),
        (("summary", "c3d-mini", "--set", "classes=many"), "--set classes=many: expected a value like 4"),
        (("summary", "dcgan", "--set", "size=48"), "dcgan cannot be built so: size is 48"),
        (("summary", "c3d-mini", "--shape", "1", "1", "8"), "conv3d: input has shape (1, 1, 8); it must have 5 axes"),
        (("demo",), "which demo? Known: motion, order, labels, vae, dcgan, all"),
        (("demo", "lables"), "no demo 'lables'; did you mean 'labels'?"),
        (("data",), "expected: minidl data make moving-digits DIR"),
        (("data", "mkae"), "no data 'mkae'; did you mean 'make'?"),
        (("data", "make", "moving-digit", "x"), "no data 'moving-digit'; did you mean 'moving-digits'?"),
        (("data", "make", "moving-digits", "x", "--train", "0"), "train is 0: it must be at least 1"),
        (("resume", "nowhere"), "nowhere is no folder"),
        (("eval", "nowhere"), "nowhere is no folder"),
        (("sample", "nowhere"), "nowhere is no folder"),
        (("sample", "nowhere", "--count", "0"), "--count must be at least 1"),
        (("train", "ae", "--config", "none.toml"), "--config none.toml cannot be read: No such file"),
        (("train", "ae", "--set", "epohcs=3"), "no option 'epohcs'; did you mean 'epochs'?"),
        (("train", "ae", "--data", "mnits:x"), "no source 'mnits'; did you mean 'mnist'?"),
        (("train", "ae", "--data", "mnist:x"), "x: expected a file train-images-idx3-ubyte"),
        (("train", "dcgan", "--size", "20"), "--size is 20: it must be 8, 16, 32, 64 or 128"),
        (("train", "dcgan", "--accumulate", "2"), "--accumulate is 2: it must be 1"),
        (("train", "vae", "--latent", "0"), "--latent is 0: it must be at least 1"),
        (
            ("train", "c3d", "--clips", "20", "--batch-size", "8", "--frames", "1"),
            "the network does not fit --data torus: ",
        ),
        (("train", "c3d", "--weights", "none.safetensors"), "none.safetensors: there is no such file"),
        (("train", "gru-rcn", "--stacked"), "--stacked is True: it must be left out with --net small"),
        (("train", "ae", "--epochs", "0"), "--epochs is 0: it must be at least 1"),
        (("train", "ae", "--batch-size", "-1"), "--batch-size is -1"),
        (("train", "ae", "--batch-size", "1168"), "--batch-size is 1168: it must be at most 1167"),
        (("train", "ae", "--lr", "nan"), "--lr is nan: it must be a positive number"),
        (("train", "ae", "--code", "65"), "--code is 65: it must be at most 64"),
        (("train", "ae", "--seed", "-1"), "--seed is -1"),
        (("gradcheck", "--seed", "-1"), "the seed is -1; it must be 0 or more"),
        (("gradcheck", "--only", ""), "--only is empty: give names or patterns"),
        (("gradcheck", "--only", "nosuch"), "nothing is called 'nosuch'; there are "),
        (("gradcheck", "--report", "."), "the report . is a folder; give the name of a file, such as report.html"),
        (("gradcheck", "--report", "/proc/x.html"), "the report /proc/x.html cannot be written: "),
        (("gradcheck", "--report", "/dev/null/x.html"), "the report /dev/null/x.html cannot be written: "),
        (("train", "ae", "--threads", "100000"), "--threads is 100000: it must be between 1 and"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_line(capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *args)
    assert status == 2
    assert words in err and err.startswith(("minidl: ", "minidl gradcheck: ")) and "Traceback" not in err
    assert err.count("\n") == 1 and (args[:1] != ("gradcheck",) or out == "")
    assert os.listdir(tmp_path) == []  # nothing was begun


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("train", "ae", "--epohcs", "3"), "--epochs"),
        (("train", "ae", "--epochs", "many"), "many"),
        (("train", "ae", "--arch", "cnn"), "conv"),
        (("gradcheck", "--order", "3"), "order"),
        (("version", "--loud"), "--loud"),
        (("list", "models"), "models"),
        (("resume",), "Run folder"),
        (("eval", "run", "--checkpoint", "lst"), "best"),
        (("sample", "run", "--cuont", "3"), "--count"),
        (("summary", "c3d", "--shpae", "3"), "--shape"),
        (("train", "vae", "--epohcs", "3"), "--epochs"),
        (("data", "make", "moving-digits"), "PATH"),
    ],
)
def test_wrong_options_are_pointed_at(capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *args)
    assert status == 2
    assert words in out + err and "Traceback" not in out + err


COMMANDS = [
    *(("train", model) for model in MODELS), ("list",), ("resume",), ("eval",), ("sample",), ("demo", "motion"),
    ("summary", "c3d"), ("draw", "c3d"), ("data", "make", "moving-digits"), ("gradcheck",), ("version",),
]  # fmt: skip


@pytest.mark.parametrize("args", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_option_has_help(capsys, args, flag):
    status, out, err = run(capsys, *args, flag)
    assert (status, err) == (0, "")
    assert re.match(rf"usage: minidl {' '.join(args)}", out.replace("NAME", args[-1]))
    options: list[str] = []  # their help, each in one line
    for line in out.partition(" options ")[2].splitlines()[1:]:
        if line[1:].startswith(" --"):
            options.append(line.strip("│| "))
        elif options:
            options[-1] += f" {line.strip('│| ')}"
    if args[0] == "train":
        names = {word.partition(" ")[0] for word in options}
        assert {"--epochs", "--data", "--seed", "--out", "--ema", "--overfit-batches"} <= names and len(names) > 20
        assert "--config run.toml" in out and "--set key=value" in " ".join(out.split())
    else:
        assert options or args[0] in ("list", "resume", "version")
    for option in options:
        # the name, what it takes, words, (default: …)
        assert re.match(r"--[a-z-]+ (\S+ |\[\S+ \[\S+ \.\.\.\]\] )? *\S+( \S+){1,}.*\(default: ", option), option
        assert "{None}" not in option


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(capsys, command):
    status, out, err = run(capsys, command, "--help")
    assert (status, err) == (0, "") and out.startswith(f"usage: minidl {command}")
    assert len(out.splitlines()) > 2
    if command in ("train", "summary", "draw", "demo"):  # a name comes first; they say how to go on
        assert re.search(rf"minidl {command} [A-Z]+ --help shows the options", out)


def test_list_names_everything_that_other_commands_take(capsys):
    status, out, err = run(capsys, "list")
    assert (status, err) == (0, "")
    for name in [*MODELS, *NETWORKS, *DEMOS, *IMAGES, *VIDEOS]:
        assert re.search(rf"^  {name}(:FOLDER)? ", out, re.M), name


def test_summary_takes_arguments_in_either_way(capsys):
    """One --set with several, or several with one each."""
    one = run(capsys, "summary", "c3d-mini", "--set", "classes=3", "maps=[4,5,6]")
    two = run(capsys, "summary", "c3d-mini", "--set", "classes=3", "--set", "maps=[4,5,6]")
    assert one == two and one[0] == 0
    assert one != run(capsys, "summary", "c3d-mini", "--set", "classes=3")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_has_a_summary(capsys, name):
    status, out, err = run(capsys, "summary", name)
    assert (status, err) == (0, "") and re.search(r"^total +[\d,]{3,}", out, re.M)


def test_made_videos_are_not_written_over_anything(capsys, tmp_path):
    (tmp_path / "mine").write_text("")
    status, _, err = run(capsys, "data", "make", "moving-digits", str(tmp_path))
    assert (status, err) == (2, f"minidl: {tmp_path} exists and is not an empty folder: name another, or remove it\n")


def test_gradcheck_passes_its_options_on(capsys, monkeypatch):
    import types

    seen = {}

    def fake(**options):
        seen.update(options)
        return 1

    monkeypatch.setitem(sys.modules, "minidl.checking.command", types.SimpleNamespace(run=fake))
    status, _, _ = run(capsys, "gradcheck", "--only", "conv", "--order", "1", "--report", "r.html", "--fast")
    assert status == 1
    assert seen == {
        "only": "conv", "order": 1, "backend": None, "report": Path("r.html"), "fast": True, "seed": 0,
    }  # fmt: skip


@pytest.mark.parametrize("library", ["sklearn", "matplotlib", "safetensors"])
def test_a_missing_extra_is_named_before_anything_is_done(capsys, tmp_path, monkeypatch, library):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    status, _, err = run(capsys, "train", "ae", "--epochs", "1")
    assert status == 2
    assert ("the handwritten digits needs" if library == "sklearn" else "training needs ") in err
    assert "is not installed: pip install 'minidl[train]', or from a checkout pip install -e '.[train]'" in err
    assert os.listdir(tmp_path) == []


def test_a_read_only_folder_is_named_before_training(capsys, tmp_path, monkeypatch):
    """Root may write anywhere, so the operating system's answer is simulated."""
    import errno

    def refuse(self, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    status, _, err = run(capsys, "train", "ae", "--epochs", "1", "--out", str(tmp_path / "run"))
    assert status == 2
    assert err == f"minidl: {tmp_path / 'run'} cannot be made the run folder: the file system is read-only\n"


def test_a_bug_keeps_its_traceback(monkeypatch):
    def broken(_):
        raise ValueError("a bug")

    monkeypatch.setitem(cli.COMMANDS, "version", cli.Command("", broken))
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["version"])


def test_ctrl_c_outside_the_loop_is_quiet(capsys, monkeypatch):
    def stopped(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli.COMMANDS, "version", cli.Command("", stopped))
    status, _, err = run(capsys, "version")
    assert (status, err) == (130, "minidl: stopped\n")

    def stopped_with_words(_):
        raise KeyboardInterrupt("the folder is here")

    monkeypatch.setitem(cli.COMMANDS, "version", cli.Command("", stopped_with_words))
    assert run(capsys, "version")[2] == "minidl: stopped: the folder is here\n"


def test_python_m_minidl_and_a_light_start():
    """`python -m minidl` is the command, and listing commands loads nothing heavy."""
    root = str(Path(minidl.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "COLUMNS": "80"}
    heavy = ["matplotlib", "numba", "rich", "safetensors", "scipy", "sklearn", "tyro"]
    code = f"import sys; from minidl.cli import main; main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    done = subprocess.run([sys.executable, "-m", "minidl", "trian"], env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("minidl: there is no command 'trian'") and done.stdout == ""
