"""The command line: help, near misses, wrong options, messages without tracebacks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import minidl
from minidl import cli


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
        (("xyz",), "no command 'xyz'. Known: train, gradcheck, version."),
        (("train",), "which model? For example: minidl train ae"),
        (("train", "aae"), "no model 'aae'; did you mean 'ae'?"),
        (("train", "--epochs", "3", "ae"), "the model comes before the options"),
        (("train", "ae", "--epochs", "0"), "--epochs is 0: it must be at least 1"),
        (("train", "ae", "--batch-size", "-1"), "--batch-size is -1"),
        (("train", "ae", "--batch-size", "1168"), "--batch-size is 1168: it must be at most 1167"),
        (("train", "ae", "--lr", "nan"), "--lr is nan: it must be a positive number"),
        (("train", "ae", "--code", "65"), "--code is 65: it must be between 1 and 64"),
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
    ],
)
def test_wrong_options_are_pointed_at(capsys, tmp_path, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *args)
    assert status == 2
    assert words in out + err and "Traceback" not in out + err


@pytest.mark.parametrize(("args", "count"), [(("train", "ae"), 10), (("gradcheck",), 6)])
def test_every_option_has_help(capsys, args, count):
    status, out, _ = run(capsys, *args, "--help")
    assert status == 0
    text = " ".join(line.strip("│╭╰─ ") for line in out.splitlines())
    options = re.split(r" (?=--[a-z])", text.partition("options")[2])[2:]  # what precedes the first is --help's
    assert len(options) == count
    for option in options:
        # the name, what it takes, words, (default: …)
        assert re.match(r"--[a-z-]+ ([A-Z]+ |\{[a-z0-9,]+\} )? *\S+( \S+){2,}.*\(default: ", option), option
    assert "{None}" not in text


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
    assert "training needs " in err
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
