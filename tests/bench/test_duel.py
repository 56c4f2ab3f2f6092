"""The harness: alternating processes, checks before timings, and what is made of the results."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minidl.bench import BenchError, Disagreement, Result, command, duel, memory, plot, show
from minidl.bench.duel import Side, workers
from minidl.bench.show import Ceiling

PLACE = "trivial:cases"
TRIVIAL = """
import os, sys, time
import numpy as np
from minidl.bench.case import Case, Work

LOG = os.environ["BENCH_LOG"]

def cases(library, value=1, crash=0):
    def prepare(name, seconds):
        def step():
            print("a library prints this")
            with open(LOG, "a") as file:
                file.write(f"{library} {name} {os.getpid()}\\n")
            time.sleep(seconds * (1 if library == "minidl" else 2))
            if crash:
                os._exit(3)
            return None if name == "silent" else Number(value if library == "minidl" else 1)
        return Work(step, flops=2e6, bytes=1e6)
    return {name: Case(lambda n=name: prepare(n, 0.06)) for name in ("sleep", "silent")}

class Number:
    def __init__(self, value): self.value = value
    def detach(self): return self
    def numpy(self): return np.array(float(self.value))
"""


@pytest.fixture
def trivial(tmp_path, monkeypatch):
    """A workload whose peer takes twice as long; the log of its runs. The peer is any library that is there."""
    package = tmp_path / "path"
    package.mkdir()
    # sitecustomize: the module appears below minidl.bench.workloads in the worker processes
    (package / "sitecustomize.py").write_text(
        "import sys, types, importlib.abc, importlib.util, pathlib\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'minidl.bench.workloads.trivial':\n"
        "            file = pathlib.Path(__file__).with_name('trivial.py')\n"
        "            return importlib.util.spec_from_file_location(name, file)\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    (package / "trivial.py").write_text(TRIVIAL)
    peer = package / "peer"  # a library with what a worker wakes it by
    peer.mkdir()
    (peer / "__init__.py").write_text("from minidl import ones\n")
    (peer / "optim.py").write_text("from minidl.optim import Adam\n")
    log = tmp_path / "log"
    monkeypatch.setenv("BENCH_LOG", str(log))
    root = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(package), str(root)]))
    return log


def test_the_two_sides_take_turns(trivial):
    first, second = duel(PLACE, name="trivial", peer="peer", seconds=0.1)
    runs = [line.split() for line in trivial.read_text().splitlines()]
    for result in (first, second):
        own = [library for library, case, _ in runs if case == result.case]
        # a turn is one run here, as each is longer than a turn
        assert own == ["minidl", "peer"] * (2 + result.pairs) and result.pairs >= 3
        assert result.low <= result.ratio <= result.high and 0.2 < result.ratio < 0.9
        assert 0.055 < result.ours.seconds < result.theirs.seconds
        assert (result.flops, result.bytes) == (2e6, 1e6)
    assert (first.name, second.name) == ("trivial: sleep", "trivial: silent")
    processes = {(library, case, number) for library, case, number in runs}
    assert len({number for *_, number in processes}) == 4  # new ones for each case


def test_alone(trivial):
    result = next(iter(duel(PLACE, peer=None, seconds=0.1, sizes={"value": 7})))
    assert result.theirs is None and result.ratio is None and result.ours.seconds > 0.055
    assert {line.split()[0] for line in trivial.read_text().splitlines()} == {"minidl"}
    assert result.name == f"{PLACE}: sleep, value 7"


def test_libraries_that_compute_something_else_are_not_timed(trivial):
    with pytest.raises(Disagreement, match=r"sleep: the libraries do not compute the same; .* 2 and 1$"):
        list(duel(PLACE, name="trivial", peer="peer", sizes={"value": 2}))
    assert len(trivial.read_text().splitlines()) == 2  # a run on each side


def test_a_process_that_dies_is_named(trivial):
    with pytest.raises(BenchError, match="the process that runs minidl has stopped \\(exit status 3\\)"):
        list(duel(PLACE, peer=None, sizes={"crash": 1}))


def test_processes_get_their_threads_and_cores(trivial, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with workers(["minidl"], PLACE, {}, 1) as (side,):
        assert side.answer() == {"cases": ["sleep", "silent"]}
        if hasattr(os, "sched_getaffinity"):
            assert len(os.sched_getaffinity(side.process.pid)) == 1
        environment = Path(f"/proc/{side.process.pid}/environ")
        if environment.exists():
            assert b"OMP_NUM_THREADS=1\0" in environment.read_bytes()
    assert side.process.poll() == 0


def test_memory_of_a_step_is_seen():
    before = memory.in_use()
    if before is None:
        pytest.skip("this system does not tell how much memory a process has")
    memory.forget_peak()
    start = memory.peak()
    np.ones(2**23).sum()
    assert memory.peak() - start > 0.9 * 2**26


# ---- what is made of results


def result(workload="a", case="step", sizes=None, ours=0.5, theirs=1.0, flops=1e10, moved=1e8):
    alone = theirs is None
    return Result(
        workload, case, sizes or {}, Side(ours, 0.7, 2**20, 3.0), None if alone else Side(theirs, 0.2, 2**21),
        None if alone else ours / theirs, None if alone else 0.4, None if alone else 0.6, 5, flops, moved,
    )  # fmt: skip


def text_of(table):
    from rich.console import Console

    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_table_says_it_all():
    ceiling = Ceiling(4e10, 2e9)
    shown = text_of(show.table([result(sizes={"batch": 4}), result("b", flops=0)], ceiling, "torch"))
    words = ("a: step, batch 4", "500 ms", "1 s", "0.50", "0.40-0.60", "20 GFLOP/s, 50%", "1 MiB / 2 MiB")
    assert all(word in shown for word in (*words, "700 ms (+ 3 s to compile) / 200 ms", "0.2 GB/s, 10%"))
    alone = text_of(show.table([result(theirs=None)], ceiling, None))
    assert "ratio" not in alone and "torch" not in alone and "500 ms" in alone


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.234e-6, "1.23 us"), (0.0123, "12.3 ms"), (0.9999, "1 s"), (0.999, "999 ms"), (12.34, "12.3 s")],
)
def test_durations(seconds, words):
    assert show.duration(seconds) == words


def test_the_roof_is_the_lower_of_two():
    ceiling = Ceiling(100.0, 10.0)
    assert [ceiling.roof(i) for i in (1, 10, 100)] == [10, 100, 100]


def test_growth_finds_the_exponents():
    rows = [result(sizes={"frames": 8, "batch": n}, ours=0.1 * n, theirs=0.1 * n**2) for n in (4, 1, 2)]
    rows += [result(sizes={"frames": n}, ours=1.0) for n in (8, 16)] + [result(sizes={"other": 1})]
    by_batch, by_frames = show.growth(rows)
    assert (by_batch.size, by_batch.values) == ("batch", [1, 2, 4])
    assert np.allclose(by_batch.exponents(), [1, 2]) and np.allclose(by_frames.exponents(), [0, 0])
    line = show.growth_line(by_batch, "torch")
    assert line == (
        "a, step: time grows as minidl batch^1.00, torch batch^2.00 (1: 100 ms, 2: 200 ms, 4: 400 ms)"
    )  # fmt: skip


def panels(results, peer="torch"):
    figure = plot.draw(results, Ceiling(4e10, 2e9), peer, "title", "below")
    figure.canvas.draw()
    return figure.axes


def test_the_picture_has_a_panel_for_what_there_is():
    pytest.importorskip("matplotlib")
    bars, roofline = panels([result(), result("b", ours=2.0)])
    assert [bar.get_width() for bar in bars.patches] == [0.5, 2.0]
    colors = [bar.get_facecolor() for bar in bars.patches]
    assert colors[0] != colors[1]  # faster and slower
    (roof, *points) = roofline.lines
    assert max(roof.get_ydata()) == 40  # GFLOP/s
    assert [line.get_xydata().tolist() for line in points[:2]] == [[[100.0, 20.0]], [[100.0, 10.0]]]
    sweep = [result(sizes={"batch": n}, ours=n) for n in (1, 2)]
    assert [axes.get_xlabel()[:4] for axes in panels(sweep)] == ["time", "oper", "size"]
    assert len(panels([result(theirs=None, flops=0)], None)) == 1
    with pytest.raises(ValueError, match="nothing to draw"):
        panels([])


# ---- the command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"workloads": ["c4d"]}, "there is no workload 'c4d'; did you mean 'c3d'? Known: c3d, convgru"),
        ({"workloads": ["c3d"], "sizes": ["batch"]}, "--set batch: expected a size as name=value"),
        ({"workloads": ["c3d"], "sizes": ["batch=0"]}, "--set batch=0: expected a size"),
        ({"workloads": ["c3d"], "sizes": ["bach=2"]}, "--set bach: no such size. There are c3d: batch, frames"),
        ({"workloads": ["conv"], "sizes": ["batch=2"]}, "--set batch: no such size. There are none"),
        ({"threads": 100_000}, "--threads is 100000: it must be between 1 and "),
        ({"seconds": 0}, "--seconds is 0: it must be a positive number"),
        ({"against": "jax"}, "--against is jax: it must be one of torch, none"),
        ({"json": Path("/nowhere/x.json")}, "/nowhere/x.json cannot be written"),
        ({"plot": Path("/")}, "/ is a folder; give the name of a file"),
    ],
)
def test_wrong_calls_are_refused_before_anything_runs(capsys, monkeypatch, options, words):
    monkeypatch.setattr(command, "duel", None)
    assert command.run(**options) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minidl bench: ") and words in err and err.count("\n") == 1


def test_without_torch_minidl_is_measured_alone(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "measure_ceiling", lambda *_: Ceiling(1e12, 1e11))
    assert command.run(["elementwise"], against="torch") == 2
    assert "--against torch: PyTorch is not installed: pip install 'minidl[torch]'" in capsys.readouterr().err
    asked = []
    monkeypatch.setattr(
        command, "duel", lambda place, **options: asked.append(options["peer"]) or [result(theirs=None)]
    )
    assert command.run(["elementwise"]) == 0
    assert asked == [None] and "PyTorch is not installed, so minidl is measured alone" in capsys.readouterr().out


def test_a_disagreement_is_the_exit_status(capsys, monkeypatch):
    def refuse(place, **options):
        raise Disagreement("a: step: the libraries do not compute the same")

    monkeypatch.setattr(command, "measure_ceiling", lambda *_: Ceiling(1e12, 1e11))
    monkeypatch.setattr(command, "duel", refuse)
    assert command.run(["c3d"], against="none") == 1
    assert "do not compute the same" in capsys.readouterr().err


def test_ctrl_c_keeps_what_was_measured(capsys, monkeypatch):
    def stopped(place, *, name, **options):
        yield result(name, theirs=None)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "measure_ceiling", lambda *_: Ceiling(1e12, 1e11))
    monkeypatch.setattr(command, "duel", stopped)
    assert command.run(["c3d"], against="none") == 130
    out = capsys.readouterr().out
    assert "measured so far" in out and "c3d: step" in out


def test_a_sweep_measures_every_size_and_keeps_the_others(capsys, monkeypatch, tmp_path):
    def measured(place, *, name, sizes, **options):
        yield result(name, sizes=sizes, ours=0.01 * sizes.get("batch", 1), theirs=None)

    monkeypatch.setattr(command, "measure_ceiling", lambda *_: Ceiling(1e12, 1e11))
    monkeypatch.setattr(command, "duel", measured)
    file = tmp_path / "x.json"
    assert command.run(["c3d"], against="none", sweep=True, sizes=["width=8", "batch=5"], json=file) == 0
    sizes = [row["sizes"] for row in json.loads(file.read_text())["results"]]
    assert {"width": 8, "batch": 4} in sizes and {"width": 8, "batch": 5, "frames": 32} in sizes and len(sizes) == 9
    assert "c3d, step: time grows as minidl batch^1.00" in capsys.readouterr().out


def test_the_whole_command_alone(tmp_path):
    """As a user would: processes, table, JSON and picture; tiny sizes, no peer."""
    pytest.importorskip("matplotlib")
    words = ["bench", "mlp-vae", "--against", "none", "--threads", "1", "--seconds", "0.1"]
    words += ["--set", "batch=4", "size=8", "hidden=8", "--json", "x.json", "--plot", "x.png"]
    done = subprocess.run(
        [sys.executable, "-m", "minidl", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mlp-vae: training step, batch 4, size 8, hidden 8" in done.stdout and "GFLOP/s" in done.stdout
    record = json.loads((tmp_path / "x.json").read_text())
    assert record["threads"] == 1 and record["peer"] is None and record["machine"]["processor"]
    (row,) = record["results"]
    assert row["sizes"] == {"batch": 4, "size": 8, "hidden": 8} and row["pairs"] >= 3 and row["ratio"] is None
    assert 0 < row["ours"]["seconds"] < 1 and math.isfinite(record["ceiling"]["flops"])
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_list_names_workloads_and_sizes(capsys):
    command.print_list()
    out = capsys.readouterr().out
    assert "* c3d" in out and "--set batch=2 frames=16 size=112 width=64 units=4096" in out and "    overhead" in out


@pytest.mark.slow
def test_a_duel_with_torch():
    pytest.importorskip("torch", reason="PyTorch, the peer, is not installed")
    sizes = {"batch": 8, "size": 8, "hidden": 16}
    (found,) = duel("vae:mlp", sizes=sizes, seconds=0.2)
    assert found.ratio is not None and found.low <= found.ratio <= found.high and found.theirs.seconds > 0
