"""`minidl gradcheck`: exit status, table, selection, report."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minidl
from minidl.checking import command, samples
from minidl.checking.command import run, select
from minidl.checking.html import page
from minidl.checking.rows import Result, check_row, own_kernel
from minidl.checking.sample import Case, Sample


def _wrong(x: Any, *, note: str) -> Any:
    return x * x.detach()


BROKEN = Sample(
    "planted", "function", _wrong, lambda rng: [Case((rng.standard_normal(3),), {"note": "<b>&amp;</b>"})]
)  # fmt: skip


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table with one more row, whose gradient is wrong."""
    rows = {**samples.table(), "planted": BROKEN}
    monkeypatch.setattr(command, "table", lambda: rows)


def test_all_well(capsys: pytest.CaptureFixture):
    assert run(["tanh", "nn.Linear", "floor"], order=2) == 0
    out = capsys.readouterr().out
    assert "tanh" in out and "nn.Linear" in out and "2nd order" in out
    assert "3 rows: 2 ok, 1 constant" in out


def test_first_order_only(capsys: pytest.CaptureFixture):
    assert run(["tanh"], order=1) == 0
    assert "2nd order" not in capsys.readouterr().out


def test_failures(broken: None, capsys: pytest.CaptureFixture):
    assert run(["planted", "tanh"]) == 1
    out = capsys.readouterr().out
    assert "2 rows: 1 ok, 1 failed" in out
    assert "planted (float64[3], note='<b>&amp;</b>')" in out  # shown as it is, not read as markup
    assert "analytic" in out and "a wrong factor: the whole analytic Jacobian is 0.5 times the numeric one" in out


def test_exceptions_are_failures():
    def build(rng: np.random.Generator) -> list[Case]:
        raise KeyError("no such sample")

    assert check_row(Sample("a", "function", _wrong, build)).verdict == "failed"
    result = check_row(Sample("b", "function", lambda x: x @ x, lambda rng: [Case((np.ones((2, 3)),))]))
    assert result.verdict == "failed" and "must be equal" in result.failures[0][1]
    steps = Sample("c", "function", lambda x: (x * 0.5).detach(), lambda rng: [Case((np.ones(3),))], gradient="zero")
    assert "changes with input 0" in check_row(steps).failures[0][1]
    steps = Sample("d", "function", lambda x: x * 0.5, lambda rng: [Case((np.ones(3),))], gradient="zero")
    assert "carries a gradient" in check_row(steps).failures[0][1]


@pytest.mark.parametrize(
    ("only", "names"),
    [
        ("conv", {"conv"}), ("conv2d", {"functional.conv2d"}), ("Conv2d", {"nn.Conv2d"}), ("nn.conv2d", {"nn.Conv2d"}),
        (["conv?d"], {f"{where}onv{n}d" for n in (1, 2, 3) for where in ("functional.c", "nn.C")}),
        (["NN.Conv2*", "conv"], {"nn.Conv2d", "conv"}), ("conv_input, max_pool,", {"conv_input", "max_pool"}),
        ("nn.RELU", {"nn.ReLU"}), ("Conv_INPUT", {"conv_input"}),
    ],
)  # fmt: skip
def test_selection(only: Any, names: set[str]):
    assert {row.name for row in select(only)} == names


def test_selection_of_kinds():
    assert {row.kind for row in select(["layer"])} == {"layer"}
    assert len(select(None)) == len(samples.table()) == sum(len(samples.of_kind(kind)) for kind in samples.KINDS)


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("cov2d", "conv2d"),
        ("functional.cov2d", "conv2d"),
        ("nn.Linaer", "nn.Linear?"),
        ("softmx", "softmax"),
        ("Layr", "layer"),
    ],
)
def test_unknown_names_get_a_suggestion(wrong: str, near: str, capsys: pytest.CaptureFixture):
    assert run([wrong]) == 2
    out, err = capsys.readouterr()
    assert f"nothing is called {wrong!r}; did you mean" in err and near in err and out == ""


def test_wrong_calls(capsys: pytest.CaptureFixture):
    for name in ("zzzzzzzzzzzzz", "nosuch"):
        assert run([name]) == 2
        assert "rows, such as conv or nn.Linear" in capsys.readouterr().err
    assert run(["tanh"], order=3) == 2
    assert run(["tanh"], backend="opencl") == 2
    assert run(["tanh"], seed=-1) == 2
    assert run(["tanh"], backend="numba_cuda") == 2
    out, err = capsys.readouterr()
    assert "has a kernel of its own in the column 'numba_cuda'" in err and out == ""
    nothing: list[Any] = ["", " , ", []]
    for only in nothing:
        assert run(only) == 2
        assert "--only is empty" in capsys.readouterr().err


def test_names_are_whole_where_nobody_looks(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    """In a pipe or a file, whatever the width of the terminal."""
    monkeypatch.setenv("COLUMNS", "30")
    assert run("functional.softmax,softmax_cross_entropy_backward", fast=True) == 0
    lines = capsys.readouterr().out.splitlines()
    (one,) = [line.split() for line in lines if "functional.softmax" in line]
    (other,) = [line.split() for line in lines if line.startswith(" softmax_cross_entropy_backward ")]
    assert [one[i] for i in (0, 1, -1)] == ["functional.softmax", "function", "ok"] and len(one) == 8
    assert other[1] == "primitive" and other[-2:] == ["not", "checked"]


@pytest.mark.parametrize(("width", "dropped"), [(120, 0), (93, 1), (80, 2), (60, 4), (50, 5)])
def test_narrow_terminals_lose_columns_not_names(width: int, dropped: int, monkeypatch: pytest.MonkeyPatch):
    from rich.console import Console

    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    results = [
        Result("softmax_cross_entropy_backward", "primitive", 4, {}, 0.1, "not checked"),
        Result("functional.conv2d", "function", 4, {1: 1e-12, 2: 1e-9}, 0.1),
    ]
    command._print(console, results, 2, "here", "")
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    heads = ["name", "kind", "cases", "1st order", "2nd order", "time", "verdict"]
    (head,) = [line for line in lines if line.split()[:1] == ["name"]]
    gone = ["kind", "time", "cases", "2nd order", "1st order"][:dropped]
    assert [h for h in heads if h not in head] == sorted(gone, key=heads.index)
    for result in results:
        (row,) = [line for line in lines if line.startswith(f" {result.name} ")]
        assert row.rstrip().endswith(result.verdict)


def test_rows_without_a_gradient_are_not_called_constant(capsys: pytest.CaptureFixture):
    assert run("batch_norm_backward,invert,extreme_share") == 0
    out = capsys.readouterr().out
    assert "3 rows: 1 constant, 2 not checked;" in out
    assert "not checked: has no gradient to compare" in out
    assert "batch_norm_backward: checked through batch_norm" in out and "invert: takes integers only" in out


def test_reasons_are_true():
    """What is not checked is the backward kernel of a primitive that is, or takes no floating-point array."""
    rows = samples.table()
    for row in rows.values():
        if row.gradient == "none":
            reason = check_row(row).reason
            if reason == "takes integers only":
                assert all(x.dtype.kind in "biu" for c in row.cases() for x in c.inputs if isinstance(x, np.ndarray))
            else:
                assert rows[reason.removeprefix("checked through ")].gradient == "checked"


def test_reference_backend(capsys: pytest.CaptureFixture):
    assert run(["conv", "max_pool", "nn.Conv1d"], backend="reference", fast=True, seed=3) == 0
    assert "order 2, reference kernels, random directions, seed 3" in capsys.readouterr().out


def test_numba_cuda_needs_a_device_or_the_simulator():
    code = "import sys; from minidl.checking.command import run; sys.exit(run('max_pool', 1, 'numba_cuda', fast=True))"
    from os import environ

    env = {**environ, "NUMBA_ENABLE_CUDASIM": "1", "COLUMNS": "160"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Numba's simulator" in done.stdout and "max_pool" in done.stdout


def test_own_kernels():
    assert own_kernel("conv", "cuda") and own_kernel("conv", "numba_cuda") and own_kernel("max_pool", "cuda")
    assert not own_kernel("tanh", "cuda") and not own_kernel("checkpoint", "cuda")


def test_skipped_rows_say_why(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    import contextlib

    monkeypatch.setattr(command, "_column", lambda backend: contextlib.nullcontext(("cpu", "here")))
    assert run(["conv", "tanh"], order=1, backend="cuda", fast=True) == 0
    out = capsys.readouterr().out
    assert "skipped 1 row (tanh): no kernel of its own in the column 'cuda'" in out


# ---- the report
class Reader(HTMLParser):
    """Collects the text and checks that tags close in order."""

    VOID = {"meta"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.append(tag)
        assert not {"src", "href"} & {name for name, _ in attrs}, "the report must stand alone"
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert not reader.open
    return reader


def test_report(broken: None, tmp_path: Path, capsys: pytest.CaptureFixture):
    target = tmp_path / "deep" / "out.html"
    assert run(["planted", "tanh", "floor"], report=target) == 1
    assert str(target) in capsys.readouterr().out
    assert [p.name for p in target.parent.iterdir()] == ["out.html"]
    call = f"minidl gradcheck --only planted,tanh,floor --order 2 --backend cpu --report {target} --seed 0"
    assert call in "".join(read(target.read_text()).text)
    reader = read(target.read_text())
    text = "".join(reader.text)
    assert "b" not in reader.seen and "<b>&amp;</b>" in text  # escaped
    assert "constant: a step or a test" in text
    version = re.escape(minidl.__version__)
    assert re.search(rf"minidl {version}, \d{{4}}-\d\d-\d\d \d\d:\d\d \S+: minidl gradcheck", text)
    assert "a wrong factor" in text and "1st order" in text and "2nd order" in text
    assert reader.seen.count("tr") == 4
    assert "script" not in reader.seen


def test_a_report_that_cannot_be_written_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(command, "_check_all", None)  # nothing is checked
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "report.html", Path("/proc/report.html")):
        assert run("tanh", report=target) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith(f"minidl gradcheck: the report {target} ") and err.count("\n") == 1


def test_a_disk_that_fills_up_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):  # fmt: skip
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write_whole", full)
    assert run("tanh", report=tmp_path / "r.html") == 2
    assert "r.html cannot be written: No space left on device" in capsys.readouterr().err


def test_report_without_failures():
    results = [
        Result("a<b", "function", 2, {1: 1e-12}, 0.5),
        Result("c", "primitive", verdict="skipped", reason='"no" kernel'),
        Result("d_backward", "primitive", verdict="not checked", reason="checked through d"),
    ]
    reader = read(page(results, 1, "order 1"))
    text = "".join(reader.text)
    assert "Failures" not in text and "a<b" in text
    assert "not checked: has no gradient to compare; d_backward: checked through d" in text


def test_everything_in_reasonable_time():
    """All primitives, functions and layers, second order, along random directions."""
    results = [check_row(row, order=2, fast=True) for row in samples.table().values()]
    assert not [r.failures for r in results if r.failures]
    assert sum(r.seconds for r in results) < 60
