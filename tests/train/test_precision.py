"""--precision: products in 16 bits, scaled gradients with fp16, and what a checkpoint keeps of that."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from train_runs import STEPS, TINY, assert_same_run, at_step, ctrl_c, lines, train

import minidl
import minidl.functional as F
from minidl import nn, optim
from minidl.cli import main
from minidl.train import Minimize, load_checkpoint, read_checkpoint, save_checkpoint
from minidl.train.precision import Precision

pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("minidl.train.run.finish", lambda *_: None)


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        ("vae", "bf16"),
        ("vae", "fp16"),
        ("dcgan", "fp16"),
        pytest.param("c3d", "bf16", marks=pytest.mark.slow),
        pytest.param("gru-rcn", "fp16", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_and_resumed_is_the_same(model, precision, tmp_path, undrawn, monkeypatch):
    command = [model, *TINY[model], "--precision", precision, "--epochs", "2", "--log-steps", "--ema", "0.9"]
    assert train(*command, "--out", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        at_step(patch, 3, ctrl_c)
        assert train(*command, "--out", tmp_path / "run") == 130
    assert main(["resume", str(tmp_path / "run")]) == 0
    facts, arrays = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.safetensors")
    assert {a.dtype.name for name, a in arrays.items() if "/" not in name} <= {"float32", "int64"}
    assert ("scaler" in facts["parts"]) == (precision == "fp16")
    (tmp_path / "run" / "pictures").mkdir(exist_ok=True)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    steps = lines(tmp_path / "run", "step")
    assert len(steps) == 2 * STEPS and all(math.isfinite(line["train_loss"]) for line in steps)
    assert all(("train_scale" in line) == (precision == "fp16") for line in steps)


def test_a_run_is_evaluated_in_its_precision(tmp_path, undrawn):
    assert train("ae", *TINY["ae"], "--precision", "bf16", "--fast-dev-run", "--out", tmp_path / "run") == 0
    assert main(["eval", str(tmp_path / "run")]) == 0


@pytest.mark.slow
def test_a_report_of_a_run_in_bf16(tmp_path):
    assert train("ae", *TINY["ae"], "--precision", "bf16", "--fast-dev-run", "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "report.html").exists()


def test_other_names_are_refused(tmp_path):
    assert train("vae", "--precision", "fp8", "--out", tmp_path / "run") == 2
    with pytest.raises(ValueError, match="precision is 'fp8'; it must be one of float32, bf16, fp16"):
        Precision("fp8")


def test_bf16_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert train("vae", *TINY["vae"], "--precision", "bf16", "--out", tmp_path / "run") != 0
    assert "--precision bf16 needs ml_dtypes" in capsys.readouterr().err


def task(name: str, factor: float = 1.0, **options) -> tuple[Minimize, nn.Module]:
    minidl.manual_seed(0)
    net = nn.Linear(3, 1)
    loss = lambda model, batch: F.mse_loss(model(batch[0]), batch[1]) * factor
    return Minimize(net, optim.SGD(net.parameters(), lr=0.1), loss, precision=Precision(name), **options), net


def batch() -> tuple[minidl.Tensor, minidl.Tensor]:
    return minidl.ones(4, 3), minidl.zeros(4, 1)


def test_products_are_in_the_type():
    seen = []
    for name, dtype in (("float32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")):
        work, net = task(name)
        net.register_forward_hook(lambda module, args, output: seen.append(output.dtype.name))
        before = net.weight.numpy().copy()
        work.train_step(batch())
        work.validation_step(batch())
        assert seen == [dtype] * 2
        assert net.weight.dtype == net.weight.grad.dtype == np.float32
        assert not np.array_equal(net.weight.numpy(), before)
        seen.clear()


def test_a_step_that_overflows_changes_nothing_but_the_scale():
    work, net = task("fp16", factor=1e5, clip_norm=1.0, average=None)
    work.average = optim.ExponentialMovingAverage(net, 0.5)
    before = net.weight.numpy().copy()
    numbers = [work.train_step(batch()) for _ in range(3)]
    assert [n["scale"] for n in numbers] == [2.0**15, 2.0**14, 2.0**13]
    assert all("grad_norm" not in n and math.isfinite(n["loss"]) for n in numbers)
    np.testing.assert_array_equal(net.weight.numpy(), before)
    assert work.average.updates == 0
    for _ in range(20):
        last = work.train_step(batch())
    assert last["grad_norm"] > 0 and not np.array_equal(net.weight.numpy(), before) and work.average.updates > 0


def test_a_loss_that_is_no_number_still_stops_a_run():
    work, _ = task("fp16", factor=math.inf)
    with pytest.raises(minidl.train.NotFinite, match="the loss became"):
        work.train_step(batch())


def test_checkpoints_hold_bfloat16(tmp_path):
    net, other = (nn.Linear(3, 2).bfloat16() for _ in range(2))
    save_checkpoint(tmp_path / "net.safetensors", net)
    load_checkpoint(tmp_path / "net.safetensors", other)
    assert other.weight.dtype == minidl.bfloat16 and minidl.equal(net.weight, other.weight)
    wide = nn.Linear(3, 2)
    load_checkpoint(tmp_path / "net.safetensors", wide)
    assert wide.weight.dtype == np.float32 and minidl.equal(net.weight.float(), wide.weight)
