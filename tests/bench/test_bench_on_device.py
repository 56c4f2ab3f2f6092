"""The one command that measures a device: parts in processes of their own, limits, and what is written."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import pytest

from minidl.bench import BenchError, duel, on_device
from minidl.bench.on_device import Report, Request
from minidl.bench.workloads import WORKLOADS

ABOUT = {"machine": {"GPU": "Fast GPU", "minidl": "0.1"}, "versions": {"torch": "2.11"}, "date": "now", "command": "it"}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Parts that are made up: good, broken, endless. Each process runs this text instead of the real module."""
    text = tmp_path / "parts.py"
    text.write_text(
        textwrap.dedent("""
        import json, pathlib, subprocess, sys, time
        part, device, options = sys.argv[1:]
        print(json.dumps({"case": f"{part} on {device}", "us": {"minidl": 10.0, "torch": 20.0}, "ratio": 0.5,
                          "flops": 1e9, "options": json.loads(options)}), flush=True)
        if part == "layers":
            sys.exit("the device is gone")
        if part == "steps":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            pathlib.Path(__file__).with_name("child").write_text(str(child.pid))
            print('{"case": "half a ', end="", flush=True)
            time.sleep(60)
        """)
    )
    popen = on_device.subprocess.Popen

    def instead(command, **rest):
        assert command[:3] == [sys.executable, "-m", "minidl.bench.device_parts"]
        return popen([sys.executable, str(text), *command[3:]], **rest)

    monkeypatch.setattr(on_device.subprocess, "Popen", instead)
    monkeypatch.setattr(on_device, "about", lambda request: dict(ABOUT))


def test_a_part_that_fails_or_hangs_costs_the_others_nothing(parts, tmp_path, monkeypatch):
    monkeypatch.setitem(on_device.LIMITS, "steps", 1.0)
    said: list[str] = []
    request = Request(out=tmp_path, device="cuda:1", divide=4, against="none")
    assert on_device.run(["ceilings", "layers", "steps", "numba"], request, said.append) == 1
    written = json.loads((tmp_path / "rows.json").read_text())
    assert {name: len(rows) for name, rows in written["parts"].items()} == {
        "ceilings": 1, "layers": 1, "steps": 1, "numba": 1,
    }  # fmt: skip
    assert written["parts"]["numba"][0]["case"] == "numba on cuda:1"
    assert written["parts"]["numba"][0]["options"] == {"divide": 4, "peer": False, "seconds": 2.0}
    assert "exit status 1" in written["failures"]["layers"] and written["failures"]["steps"] == "cut off after 1 s"
    report = (tmp_path / "report.md").read_text()
    assert "**steps: cut off after 1 s.**" in report and said[-2] == report
    state = Path("/proc", (tmp_path / "child").read_text(), "stat")  # what a part has started ends with it
    assert not state.exists() or ") Z " in state.read_text()
    assert "layers: 1 rows in" in said[1] and "see above" in said[1]


def test_all_is_well(parts, tmp_path):
    assert on_device.run(["ceilings", "numba"], Request(out=tmp_path), lambda text: None) == 0


def test_what_no_time_is_left_for_is_named(parts, tmp_path):
    assert on_device.run(["ceilings"], Request(out=tmp_path, minutes=0.01), lambda text: None) == 1
    assert "not begun: no time was left" in (tmp_path / "report.md").read_text()


def test_results_are_on_disk_after_every_row(tmp_path):
    report = Report(ABOUT, tmp_path)
    for i in range(2):
        report.add("pooling", {"case": f"row {i}", "us": {"minidl": 2e3}, "bytes": 4e9})
        assert len(json.loads((tmp_path / "rows.json").read_text())["parts"]["pooling"]) == i + 1
        assert f"| row {i} | 2 ms |  | 2000 GB/s |" in (tmp_path / "report.md").read_text()


def test_rates_stand_below_the_roofline(tmp_path):
    report = Report(ABOUT, tmp_path)
    row = {
        "case": "conv", "us": {"minidl": 10.0, "cuDNN": 20.0}, "ratio": 0.5, "flops": 2e9, "bytes": 1e6,
        "precision": "bfloat16", "kernel": "128x128", "their kernels": {"names": ["sm90_xmma", "nchwToNhwc"]},
    }  # fmt: skip
    report.add("layers", row)
    assert "| 200.00 TFLOP/s |  | 128x128 | sm90_xmma, nchwToNhwc |" in report.markdown()  # no ceiling is known
    for precision, us in (("bf16", 2.5), ("high", 5.0)):
        product = {"case": "product", "us": {"torch": us}, "flops": 1e9, "precision": precision}
        report.add("ceilings", product)
    report.add("ceilings", {"case": "copy", "us": {"minidl": 1e3}, "bytes": 3e9})
    report.add("ceilings", {"case": "broken", "error": "RuntimeError: no | memory"})
    assert report.ceiling("bfloat16") == pytest.approx((4e14, 3e12))
    assert report.ceiling("tf32x3") == pytest.approx((2e14, 3e12))
    text = report.markdown()
    assert "| conv | 10 us | 20 us | 0.50 | 200.00 TFLOP/s | 50% | 128x128 |" in text
    assert "| broken **RuntimeError: no \\| memory** |" in text
    row = row | {"bytes": 2e8}  # the roof of so few operations a byte is the memory's
    assert on_device._achieved(row, report.ceiling) == ["200.00 TFLOP/s", "667%"]


def test_calls_that_make_no_sense(capsys, tmp_path, monkeypatch):
    place = lambda device: (_ for _ in ()).throw(RuntimeError("no device"))
    for words, expected in (
        (["--parts", "layer"], "there is no part 'layer'; did you mean 'layers'?"),
        (["--skip", "speed"], "there is no part 'speed'"),
        (["--against", "jax"], "--against is jax"),
        ([], "no device"),
    ):
        if not words:
            monkeypatch.setattr(on_device.cuda, "place", place)
        assert on_device.main([*words, "--out", str(tmp_path)]) == 2
        assert expected in capsys.readouterr().err


def test_parts_are_chosen(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(on_device, "run", lambda names, request: asked.append(names) or 0)
    monkeypatch.setattr(on_device.cuda, "place", lambda device: None)
    out = ["--out", str(tmp_path)]
    assert on_device.main([*out, "--parts", "steps", "layers"]) == 0
    assert on_device.main([*out, "--skip", "numba", "steps"]) == 0
    assert asked == [["layers", "steps"], ["kernels", "ceilings", "pooling", "overhead", "layers"]]


def test_every_part_has_a_limit_and_all_fit():
    assert set(on_device.LIMITS) == set(on_device.known([]))
    heavy = [on_device.LIMITS[name] for name in ("ceilings", "layers", "steps")]
    assert sum(heavy) < 60 * Request().minutes


def test_a_duel_of_chosen_cases(monkeypatch):
    with pytest.raises(BenchError, match=r"mlp-vae has none of the cases backwards"):
        list(duel(WORKLOADS["mlp-vae"].place, name="mlp-vae", peer=None, only=["backwards"]))


def test_the_script_is_thin():
    text = (Path(__file__).parents[2] / "benchmarks" / "device.py").read_text()
    assert "from minidl.bench.on_device import main" in text and len(text.splitlines()) < 15
