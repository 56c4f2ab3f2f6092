"""The harness of the demos: seeds in processes of their own, claims that fail are shown, and nothing stays behind."""

import io
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from rich.console import Console

from minidl.data import ArrayDataset
from minidl.demos import DEMOS, claims, command, fit
from minidl.demos.claims import Check, Demo, DemoError, run_demo, spread
from minidl.nn import Linear
from minidl.train.errors import NotFinite, RunFolderError


@pytest.fixture(autouse=True)
def _nothing_stays():
    """No process of this test lives on, and the environment is as it was."""
    before = {name: os.environ.get(name) for name in claims.THREADS}
    yield
    assert not multiprocessing.active_children()
    assert {name: os.environ.get(name) for name in claims.THREADS} == before


class Coin(Demo):
    """Numbers that depend on the seed alone."""

    name = "coin"
    title = "A coin [not markup]"
    lecture = "Heads or tails."
    caveat = "No coin was thrown."

    def __init__(self, fails=False):
        self.fails = fails

    def run(self, seed, quick):
        import numba
        from threadpoolctl import threadpool_info

        np.ones((2, 2)) @ np.ones((2, 2))
        blas = [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
        return {
            "heads": np.float32(np.random.default_rng(seed).random()),
            "threads": max(blas),
            "numba": numba.get_num_threads(),
            "of": numba.config.NUMBA_NUM_THREADS,
            "process": os.getpid(),
            "quick": quick,
        }

    def check(self, runs):
        return [
            Check("more than none", spread(runs, "heads"), all(run["heads"] > 0 for run in runs) and not self.fails)
        ]


class Bad(Coin):
    """Seed 1 does what `what` says; the others take long."""

    name = "bad"

    def __init__(self, what):
        super().__init__()
        self.what = what

    def run(self, seed, quick):
        if seed != 1:
            time.sleep(60)
        if self.what == "raise":
            raise KeyError("no such coin")
        if self.what == "exit":
            os._exit(5)
        os.kill(os.getpid(), signal.SIGKILL)


def without_process(result):
    return [{name: value for name, value in run.items() if name != "process"} for run in result.runs]


def test_seeds_run_in_processes_of_one_thread_and_parallel_equals_sequential():
    told = []
    parallel = run_demo(Coin(), seeds=3, jobs=3, first_seed=4, done=lambda seed, run: told.append((seed, run)))
    sequential = run_demo(Coin(), seeds=3, jobs=1, first_seed=4)
    assert without_process(parallel) == without_process(sequential)
    assert parallel.seeds == [4, 5, 6]
    expected = [float(np.float32(np.random.default_rng(seed).random())) for seed in parallel.seeds]
    assert [run["heads"] for run in parallel.runs] == expected
    assert sorted(told) == list(zip(parallel.seeds, parallel.runs, strict=True))
    assert len({run["process"] for run in parallel.runs} | {os.getpid()}) == 4
    assert all(run["threads"] == run["numba"] == run["of"] == 1 and run["quick"] == 0 for run in parallel.runs)
    assert parallel.holds and not parallel.quick
    assert 0 < max(parallel.run_seconds) < parallel.seconds


def test_json_and_table_show_a_claim_that_fails():
    result = run_demo(Coin(fails=True), seeds=1)
    assert result.holds is False
    assert json.loads(json.dumps(result.as_json(), allow_nan=False)) == result.as_json()
    saved = result.as_json()
    assert saved["demo"] == "coin" and saved["quick"] is saved["holds"] is False
    assert saved["checks"] == [{"claim": "more than none", "measured": "0.637", "holds": False}]
    (run,) = saved["runs"]
    assert run["seed"] == 0 and run["seconds"] > 0 and run["measured"]["heads"] == result.runs[0]["heads"]
    text = shown(result.table())
    assert "A coin [not markup] (1 seed" in text and "scaled down" not in text
    assert "0.637" in text and "NO" in text and "yes" not in text


def test_quick_runs_are_measured_and_not_judged():
    result = run_demo(Coin(fails=True), seeds=1, quick=True)
    assert result.holds is None and result.runs[0]["quick"]
    saved = json.loads(json.dumps(result.as_json(), allow_nan=False))
    assert saved["quick"] and saved["holds"] is None
    assert saved["checks"] == [{"claim": "more than none", "measured": "0.637", "holds": None}]
    text = shown(result.table())
    assert "scaled down" in text and "0.637" in text and "not judged (quick)" in text and "NO" not in text


def shown(renderable):
    console = Console(width=120, file=io.StringIO())
    console.print(renderable)
    return console.file.getvalue()


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("raise", "bad: seed 1 failed: KeyError: 'no such coin'"),
        ("exit", "bad: the process of seed 1 died: exit code 5"),
        ("kill", "bad: the process of seed 1 died: SIGKILL; often that means that memory ran out"),
    ],
)
def test_a_worker_that_fails_says_so_and_ends_the_others(what, says):
    began = time.perf_counter()
    with pytest.raises(DemoError) as caught:
        run_demo(Bad(what), seeds=2, jobs=2)
    assert says in str(caught.value)
    assert ("Traceback" in str(caught.value)) == (what == "raise")
    assert time.perf_counter() - began < 30  # seed 0 sleeps for a minute


def test_measurements_must_be_finite_numbers():
    numbers = claims.finite({"heads": np.float32(0.5), "tails": 2, "coins": np.int64(3), "edge": 0.0})
    assert json.dumps(numbers) == '{"heads": 0.5, "tails": 2, "coins": 3, "edge": 0.0}'  # counts stay integers
    with pytest.raises(ValueError, match="measured heads = nan, tails = -inf"):
        claims.finite({"heads": np.nan, "edge": 1, "tails": -np.inf})


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"jobs": 0}, {"first_seed": -1}])
def test_counts_that_make_no_sense(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"{name} is {wrong[name]}: it must be at least"):
        run_demo(Coin(), **wrong)


def test_spread_names_mean_and_extremes():
    assert spread([{"a": 0.5}], "a") == "0.500"
    assert spread([{"a": 0.5}, {"a": 1.0}, {"a": 0.0}], "a", 1) == "0.5 (0.0 to 1.0)"


# ---- Ctrl-C, and a main process that is killed
SCRIPT = """
import os
import time
from minidl.demos.claims import Demo, run_demo

class Slow(Demo):
    name = title = lecture = caveat = "slow"

    def run(self, seed, quick):
        os.write(1, b"working\\n")  # at once: two processes write
        time.sleep(60)

    def check(self, runs):
        return []

if __name__ == "__main__":
    run_demo(Slow(), seeds=2, jobs=2)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_main_process(tmp_path, how):
    script = tmp_path / "slow.py"
    script.write_text(textwrap.dedent(SCRIPT))
    main = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert [main.stdout.readline() for _ in range(2)] == ["working\n"] * 2
    if how == signal.SIGINT:
        os.killpg(main.pid, how)  # what Ctrl-C does: all of them get it
    else:
        main.kill()
    _, errors = main.communicate(timeout=30)  # the pipes close when the last of them has ended; they sleep for 60 s
    assert main.returncode == -how
    assert errors.count("KeyboardInterrupt") == (how == signal.SIGINT)  # of the main process alone


# ---- minidl demo
@pytest.fixture
def coins(monkeypatch):
    """Two demos: one that holds, one that does not."""
    table = {name: DEMOS["motion"]._replace(demo=f"here:{name}") for name in ("coin", "forged")}
    made = {"coin": Coin(), "forged": Coin(fails=True)}
    monkeypatch.setattr(command, "DEMOS", table)
    monkeypatch.setattr(command, "load", made.__getitem__)


@pytest.mark.parametrize(("names", "status"), [("coin", 0), (["forged"], 1), (["all"], 1)])
def test_exit_status_says_whether_all_claims_hold(coins, capsys, tmp_path, names, status):
    assert command.run(names, seeds=2, out=tmp_path / "new" / "folder") == status
    saved = json.loads((tmp_path / "new" / "folder" / "results.json").read_text())
    assert all(demo["holds"] for demo in saved["demos"]) == (status == 0)
    text = capsys.readouterr().out
    assert "Heads or tails." in text and "No coin was thrown." in text
    assert ("NO" in text) == (status == 1)
    assert ("2 demos: 1 of 2 claims hold" in text) == (names == ["all"])
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {"results.json", "report.html"}


def test_quick_runs_do_not_fail(coins, capsys, tmp_path):
    assert command.run("all", seeds=1, quick=True, out=tmp_path) == 0
    saved = json.loads((tmp_path / "results.json").read_text())["demos"]
    assert [demo["holds"] for demo in saved] == [None, None]
    text, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "2 demos: 2 claims, not judged (quick)" in text and "NO" not in text
    assert page.count("<td>not judged (quick)</td>") == 2 and "✗" not in page and "✓" not in page
    assert re.search(r'<td>process</td><td class="number">[\d,]+</td>', page)  # a whole number, without decimals


def test_results_of_finished_demos_stay_when_a_later_one_fails(monkeypatch, tmp_path, capsys):
    demos = {"coin": Coin(), "bad": Bad("exit")}
    monkeypatch.setattr(command, "DEMOS", dict.fromkeys(demos, DEMOS["motion"]))
    monkeypatch.setattr(command, "load", demos.__getitem__)
    with pytest.raises(DemoError, match="exit code 5"):
        command.run("all", seeds=1, first_seed=1, out=tmp_path)
    (saved,) = json.loads((tmp_path / "results.json").read_text())["demos"]
    assert saved["demo"] == "coin"


def test_wrong_calls_are_told_before_any_work(tmp_path):
    with pytest.raises(DemoError, match=r"there is no demo 'moton'; did you mean 'motion'\? Known: motion, order"):
        command.run("moton")
    with pytest.raises(DemoError, match=r"which demo\? Known: motion"):
        command.run([])
    with pytest.raises(DemoError, match="--seeds is 0: it must be at least 1"):
        command.run("motion", seeds=0)
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"--out .*file cannot be written"):
        command.run("motion", out=tmp_path / "file")


def test_every_demo_of_the_table_can_be_loaded_and_speaks_for_itself():
    assert command.select(["order", "motion", "order"]) == ["motion", "order"]
    assert command.select(["all"]) == list(DEMOS)
    for name in DEMOS:
        demo = command.load(name)
        assert isinstance(demo, Demo) and demo.name == name
        assert demo.title and demo.lecture.endswith((".", ".)")) and demo.caveat.endswith(".")


def test_the_table_imports_nothing():
    code = "import sys, minidl.demos; print([m for m in sys.modules if m.startswith('minidl.demos.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- the loop
def line(n=64):
    x = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return ArrayDataset(x, (x @ np.array([1.0, -2.0, 0.5]) > 0).astype(np.int64))


def test_fit_trains_for_so_many_steps_whatever_the_length_of_an_epoch():
    model, data = Linear(3, 2), line()
    losses = fit.fit(model, fit.cross_entropy, data, steps=150, lr=0.05, batch_size=16)
    assert len(losses) == 150 and np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])
    assert fit.accuracy(model, data) > 0.95
    assert fit.accuracy(model, data, batch_size=5) == fit.accuracy(model, data)


def test_fit_is_a_function_of_the_seed():
    def weights(**options):
        from minidl import manual_seed

        manual_seed(0)
        model = Linear(3, 2)
        fit.fit(model, fit.cross_entropy, line(), steps=5, lr=0.05, batch_size=16, **options)
        return model.weight.numpy().copy()

    assert np.array_equal(weights(seed=3), weights(seed=3))
    assert not np.array_equal(weights(seed=3), weights(seed=4))
    assert not np.array_equal(weights(), weights(clip_norm=1e-6))
    assert not np.array_equal(weights(), weights(decay=True))


def test_fit_refuses_too_few_items_and_a_loss_that_is_no_number():
    with pytest.raises(ValueError, match="the 8 items are fewer than one batch of 16"):
        fit.fit(Linear(3, 2), fit.cross_entropy, line(8), steps=1, lr=0.1, batch_size=16)
    with pytest.raises(NotFinite):
        fit.fit(Linear(3, 2), lambda model, batch: fit.cross_entropy(model, batch) * np.inf, line(), steps=1, lr=0.1)


def test_predict_leaves_the_mode_as_it_was():
    model = Linear(3, 2)
    for training in (True, False):
        model.train(training)
        assert fit.predict(model, line(), batch_size=10).shape == (64, 2)
        assert model.training is training
