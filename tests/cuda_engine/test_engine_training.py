"""Whole runs on the stand-in for CuPy: each model trains, resumes, is measured and draws, and learns what it learns on
the CPU; the host waits for the device as rarely as promised."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import minidl
from minidl.checking import cuda_host
from minidl.cli import main
from minidl.models import MODELS
from minidl.train import read_checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
from train_runs import TINY

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
# digits with 8 x 8 pixels and clips of four frames go through the kernels' host twins in seconds
SMALL = {
    **TINY,
    "c3d": ["--batch-size", "8", "--clips", "32", "--size", "8", "--frames", "4", "--accumulate", "2"],
}


@pytest.fixture
def cupy():
    with minidl.backend(None), cuda_host.installed() as library:
        yield library


def train(model: str, out: Path, device: str, *words: str) -> Path:
    given = [*SMALL[model], "--fast-dev-run", "--threads", "1", "--log-steps", "--out", str(out), *words]
    assert main(["train", model, *given, "--device", device]) == 0
    return out


def numbers(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("model", MODELS)
def test_a_run_on_the_device_is_the_run_on_the_cpu(model, cupy, tmp_path, capfd):
    host = train(model, tmp_path / "host", "cpu", "--ema", "0.5", "--clip-norm", "1e3")
    device = train(model, tmp_path / "device", "cuda:1", "--ema", "0.5", "--clip-norm", "1e3")
    assert cupy.cuda.runtime.getDevice() == 0
    facts, arrays = read_checkpoint(device / "checkpoints" / "last.safetensors")
    assert facts["config"]["device"] == "cuda:1"
    expected = read_checkpoint(host / "checkpoints" / "last.safetensors")[1]
    for name, value in expected.items():
        if "/" not in name:
            # on the average: the first steps of Adam go by the sign of gradients, some of which are only rounding
            assert np.abs(arrays[name] - value).mean() <= 1e-2 * np.abs(value).mean() + 1e-4, name
    for a, b in zip(numbers(host), numbers(device), strict=True):
        for name in a.keys() - {"seconds", "val_classes"}:
            assert b[name] == (pytest.approx(a[name], rel=2e-2, abs=1e-3) if name != "kind" else a[name]), (name, a, b)
    # a run may go on elsewhere, and its weights fit every device
    assert main(["resume", str(device), "--device", "cpu"]) == 0
    assert main(["eval", str(device), "--json"]) == 0
    assert main(["sample", str(device), "--count", "4", "--out", str(tmp_path / "a"), "--device", "cuda"]) == 0
