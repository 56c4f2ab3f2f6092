"""Warming up fills an empty cache with what a first step needs, and only once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minidl import cli, warmup

ROOT = Path(__file__).parents[1]
# large enough for compiled kernels
POOL = """
import minidl
import minidl.functional as F
from minidl.warmup import compiling
told = []
with compiling(told.append) as compiled:
    F.max_pool2d(minidl.ones(8, 16, 64, 64), 2)
assert [name for name, _ in compiled.kernels] == told and (compiled.seconds > 0) == bool(told)
print(len(told))
"""


def start(code: str, cache: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "MINIDL_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def test_compilation_is_seen_once(tmp_path):
    count = int(finish(start(POOL, tmp_path)))
    assert count > 0
    kept = [path.name for path in tmp_path.glob("*/*")]  # of each the part for one thread, and what calls it
    assert len(kept) == 2 * count and all(name.endswith(".bin") for name in kept)
    assert int(finish(start(POOL, tmp_path))) == 0  # read from disk


def test_several_processes_at_once(tmp_path):
    processes = [start(POOL, tmp_path) for _ in range(2)]
    most = max(int(finish(process)) for process in processes)
    assert most > 0 and len(list(tmp_path.glob("*/*"))) == 2 * most  # nothing twice, no part left behind
    assert int(finish(start(POOL, tmp_path))) == 0


def test_unknown_models_are_named(capsys):
    assert cli.main(["warmup", "aee"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("minidl warmup: there is no model 'aee'; did you mean 'ae'? Known: ae, vae")


def test_what_was_done_is_said(capsys, monkeypatch):
    pytest.importorskip("sklearn", reason="the autoencoder's recipe trains on scikit-learn's digits")
    asked = []
    step = warmup.first_step
    monkeypatch.setattr(warmup, "first_step", lambda name, device: asked.append(name) or step(name, device))
    assert warmup.run(["ae", "ae"]) == 0
    out = capsys.readouterr().out
    assert asked == ["ae"] and re.search(r"^ae +first step \d+\.\d\d s, ", out)
    assert "compiled kernels are kept in" in out


@pytest.mark.slow
def test_an_empty_folder_is_filled_with_what_training_needs(tmp_path):
    pytest.importorskip("sklearn", reason="the recipes train on scikit-learn's digits")
    code = """
from minidl import warmup
from minidl.warmup import compiling
with compiling() as compiled:
    {}
print(len(compiled.kernels))
"""
    assert int(finish(start(code.format("warmup.run(['gru-rcn'])"), tmp_path)).split()[-1]) > 2
    assert len(list(tmp_path.glob("*/*.bin"))) > 2
    train = (
        f"import minidl.cli as c; c.main(['train', 'gru-rcn', '--fast-dev-run', '--out', {str(tmp_path / 'run')!r}])"
    )
    assert int(finish(start(code.format(train), tmp_path)).split()[-1]) == 0
