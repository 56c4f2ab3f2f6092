"""The switch MINIDL_REQUIRE_GPU_TIERS of conftest.py, tried on a small tree of tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUNS = "def test_runs(): pass\n"
SKIPS = "import pytest\n@pytest.mark.skip(reason='no compiler')\ndef test_skips(): pass\n"
SKIPS_ALL = "import pytest\npytest.skip('no library', allow_module_level=True)\n"
MAY_SKIP = "import pytest\n@pytest.mark.gpu\ndef test_device(): pytest.skip('no device')\n"


@pytest.mark.parametrize(
    ("changed", "required", "fails_with"),
    [
        ({}, "1", None),
        ({"test_cuda_host.py": RUNS + MAY_SKIP}, "1", None),
        ({"test_cpu.py": SKIPS}, "1", None),
        ({"test_cuda_host.py": RUNS + SKIPS}, "1", "must run (CUDA C++ on the CPU). Skipped: no compiler"),
        ({"test_cuda_nvrtc.py": SKIPS_ALL}, "1", "must run (CUDA C++ compiled by NVRTC). Skipped: no library"),
        ({"test_numba_cuda.py": None}, "1", "no test passed in: numba.cuda in its simulator"),
        ({"test_cuda_host.py": SKIPS, "test_cuda_nvrtc.py": SKIPS_ALL, "test_numba_cuda.py": None}, "", None),
    ],
)
def test_required_tiers(tmp_path, changed, required, fails_with):
    kernels = tmp_path / "tests" / "kernels"
    kernels.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("conftest.py"), kernels.parent)
    (tmp_path / "tests" / "cuda_engine").mkdir()
    (tmp_path / "tests" / "cuda_engine" / "test_engine_steps.py").write_text(RUNS)
    files = dict.fromkeys(["test_cuda_host.py", "test_cuda_nvrtc.py", "test_numba_cuda.py"], RUNS) | changed
    for name, text in files.items():
        if text:
            (kernels / name).write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a CUDA device\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env={**os.environ, "MINIDL_REQUIRE_GPU_TIERS": required},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == (0 if fails_with is None else done.returncode or 1), done.stdout
    assert (done.returncode == 0) == (fails_with is None), done.stdout
    assert (fails_with or "") in done.stdout
