"""What the commands say of kernels that were measured: warmup --tune, doctor and explain, on the stand-in for CuPy."""

from __future__ import annotations

import re

import pytest

import minidl
from minidl import cli, doctor, nn, warmup
from minidl.checking import cuda_host
from minidl.kernels.cuda import plan, tuner
from minidl.kernels.geometry import ConvGeometry
from minidl.kernels.precision import get_float32_matmul_precision

REASON = cuda_host.unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))
CONV = (nn.Conv2d(4, 8, 3, padding=1), (2, 4, 6, 6))


@pytest.fixture
def cupy(tmp_path, monkeypatch):
    monkeypatch.setattr(tuner, "cache_home", lambda: tmp_path)
    monkeypatch.setattr(tuner, "_mode", None)
    tuner.forget()
    with minidl.backend(None), cuda_host.installed() as library:
        yield library
    tuner.forget()


@pytest.fixture
def measured(monkeypatch):
    """Instead of measuring: the last candidate is fastest. The problems that were measured."""
    seen = []

    def measure(problem, found, operands, out):
        seen.append(problem)
        names = [candidate.name for candidate in found]
        return tuner.Entry(names[-1], {name: 10.0 + i for i, name in enumerate(reversed(names))}, {})

    monkeypatch.setattr(tuner, "measure", measure)
    monkeypatch.setattr(plan, "TINY", 0)
    plan.gather.cache_clear(), plan.weight.cache_clear()
    yield seen
    plan.gather.cache_clear(), plan.weight.cache_clear()


def test_warmup_tunes_a_model(cupy, measured, capsys, monkeypatch):
    steps = []

    def first_step(model, device, types):
        steps.append((model, device, get_float32_matmul_precision(), types))
        minidl.functional.conv2d(minidl.ones(2, 4, 6, 6, device=device), minidl.ones(8, 4, 3, 3, device=device))
        return 1.25

    monkeypatch.setattr(warmup, "first_step", first_step)
    # the candidates of a product of tiles would have to be compiled
    monkeypatch.setattr("minidl.kernels.cuda.conv._run", lambda task, option, *operands: operands[-1].fill(0))
    assert cli.main(["warmup", "ae", "--device", "cuda:1", "--tune", "--precision", "high", "bf16"]) == 0
    assert steps == [("ae", "cuda:1", "high", "float32"), ("ae", "cuda:1", "highest", "bf16")]
    assert [problem.precision for problem in measured] == ["high", "highest"]
    out = capsys.readouterr().out
    for word in ("high", "bf16"):
        assert re.search(rf"^ae +first step 1\.25 s with {word} precision, 1 products measured$", out, re.MULTILINE)
    assert str(tuner.folder(1)) in out
    assert get_float32_matmul_precision() == "highest" and minidl.get_autotune() == "remembered"
    assert len(list(tuner.folder(1).iterdir())) == 2


def test_warmup_on_a_device_takes_a_real_step(cupy):
    pytest.importorskip("sklearn", reason="the autoencoder's recipe trains on scikit-learn's digits")
    assert warmup.first_step("ae", "cuda:1", "fp16") > 0
    assert minidl.cuda.current_device() == 0


@pytest.mark.parametrize(("options", "words"), [
    (["--tune"], "--tune is for CUDA devices"),
    (["--precision", "high"], "--precision is for CUDA devices"),
    (["--device", "cuda:7"], "--device cuda:7: device 'cuda:7' cannot be used"),
    (["--device", "gpu"], "a CUDA device is 'cuda' or 'cuda:N'"),
])  # fmt: skip
def test_calls_of_warmup_that_make_no_sense(cupy, capsys, options, words):
    assert cli.main(["warmup", "ae", *options]) == 2
    assert words in capsys.readouterr().err


def test_doctor_counts_the_choices(cupy, measured, monkeypatch):
    def found():
        return {f.name: f for f in doctor._choices("GPU")}

    assert found()["choices of kernels"].value.startswith("by a model")
    tuner._remember(tuner.Problem("conv", _geometry(), "float32", "high", False, False, plan.Device()), 0,
                    tuner.Entry("a", {"a": 1.0}, {}))  # fmt: skip
    assert found()["choices of kernels"].value == f"1 measured, in {tuner.folder(0)}"
    assert found()["autotune"].value == "remembered"
    monkeypatch.setattr(tuner, "_mode", None)
    monkeypatch.setenv("MINIDL_AUTOTUNE", "perhaps")
    assert found()["autotune"].level == "problem"


def test_clean_removes_choices_of_other_versions(cupy, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "cache_home", lambda: tmp_path)
    old = tmp_path / "cuda-0123456789abcdef"
    for folder in (old, tuner.home()):
        folder.mkdir()
    assert doctor.remove_old_caches() == [old] and tuner.home().is_dir()


def _geometry():
    return ConvGeometry.of((2, 4, 6, 6), (8, 4, 3, 3), 1, 1)


def test_explain_shows_what_is_expected_and_what_was_measured(cupy, measured):
    before = minidl.explain(*CONV, device="cuda")
    g = _geometry()
    (first, *_) = plan.options("conv", g, "float32", "highest", plan.Device())
    assert before["output"].name == first.name and before["output"].measured == {}
    assert before["output"].expected == 1e6 * first.cycles / plan.CLOCK
    problem = tuner.Problem("conv", g, "float32", "highest", True, False, plan.Device())
    tuner._remember(problem, 0, tuner.Entry("direct", {"direct": 12.5, first.name: 40.0}, {}))
    after = minidl.explain(*CONV, device="cuda")
    assert after["output"].name == "direct" and after["output"].measured[first.name] == 40.0
    text = str(after)
    assert re.search(r"^output +direct +12\.5 us +0\.0", text, re.MULTILINE) and f"  {first.name}" in text
    assert text.startswith("(2, 4, 6, 6) * (8, 4, 3, 3) -> (2, 8, 6, 6), float32, highest precision, cuda")
    minidl.set_autotune(False)
    assert minidl.explain(*CONV, device="cuda")["output"].name == first.name
    layer = nn.ConvTranspose2d(4, 8, 3, padding=1).to("cuda")
    assert minidl.explain(layer, (2, 4, 6, 6)).transposed
    with pytest.raises(RuntimeError, match="cuda:9"):
        minidl.explain(*CONV, device="cuda:9")
