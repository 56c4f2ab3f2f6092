"""`minidl gradcheck`: exit status, table, selection, report."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minidl.checking import command, samples
from minidl.checking.command import run, select
from minidl.checking.html import page
from minidl.checking.rows import Result, check_row, own_kernel
from minidl.checking.sample import Case, Sample


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


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
        ("conv", {"conv"}), (["conv?d"], {f"functional.conv{n}d" for n in (1, 2, 3)}), ("Conv2d", {"nn.Conv2d"}),
        (["nn.Conv2*", "tanh"], {"nn.Conv2d", "tanh"}), ("tanh, relu", {"tanh", "relu"}),
    ],
)  # fmt: skip
def test_selection(only: Any, names: set[str]):
    assert {row.name for row in select(only)} == names


def test_selection_of_kinds():
    assert {row.kind for row in select(["layer"])} == {"layer"}
    assert len(select(None)) == len(samples.table()) == sum(len(samples.of_kind(kind)) for kind in samples.KINDS)


@pytest.mark.parametrize(
    ("wrong", "near"), [("cov2d", "conv2d"), ("Relu", "relu"), ("nn.conv2d", "nn.Conv2d"), ("softmx", "softmax")]
)
def test_unknown_names_get_a_suggestion(wrong: str, near: str, capsys: pytest.CaptureFixture):
    assert run([wrong]) == 2
    out = capsys.readouterr().out
    assert f"nothing is called {wrong!r}; did you mean" in out and near in out


def test_wrong_calls(capsys: pytest.CaptureFixture):
    assert run(["zzzzzzzzzzzzz"]) == 2
    assert "such as conv or nn.Linear" in capsys.readouterr().out
    assert run(["tanh"], order=3) == 2
    assert run(["tanh"], backend="opencl") == 2
    assert run(["tanh"], backend="numba_cuda") == 2
    assert "has a kernel of its own in the column 'numba_cuda'" in capsys.readouterr().out


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
    assert "skipped 1 rows (tanh): no kernel of its own in the column 'cuda'" in out


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
    reader = read(target.read_text())
    text = "".join(reader.text)
    assert "b" not in reader.seen and "<b>&amp;</b>" in text  # escaped
    assert "a wrong factor" in text and "1st order" in text and "2nd order" in text
    assert reader.seen.count("tr") == 4
    assert "script" not in reader.seen


def test_report_without_failures():
    results = [
        Result("a<b", "function", 2, {1: 1e-12}, 0.5),
        Result("c", "primitive", verdict="skipped", reason='"no" kernel'),
    ]
    reader = read(page(results, 1, "order 1"))
    assert "Failures" not in "".join(reader.text) and "a<b" in "".join(reader.text)


def test_everything_in_reasonable_time():
    """All primitives, functions and layers, second order, along random directions."""
    results = [check_row(row, order=2, fast=True) for row in samples.table().values()]
    assert not [r.failures for r in results if r.failures]
    assert sum(r.seconds for r in results) < 60
