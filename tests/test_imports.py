"""What importing minidl loads, and what it refuses."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import minidl

ROOT = Path(__file__).parents[1]
HEAVY = [
    "cupy", "matplotlib", "numba", "PIL", "rich", "safetensors", "scipy", "sklearn", "tensorboardX", "torch", "tyro",
]  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, in the root of the checkout."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "statement", ["import minidl", "import minidl.functional as F", "from minidl import nn, optim"]
)
def test_import_loads_no_heavy_library(statement):
    done = python(f"{statement}; import sys; print(*[m for m in {HEAVY} if m in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_import_loads_little_of_the_standard_library():
    # together these take as long as the engine; without site, which may have loaded them before
    slow = ["email", "json", "logging", "multiprocessing", "pathlib", "shutil", "string", "subprocess", "urllib"]
    paths = [path for path in sys.path if path]
    code = (
        f"import sys; sys.path[:0] = {paths}; import numpy; before = set(sys.modules); import minidl;"
        f"print(*[m for m in {slow} if m in sys.modules.keys() - before])"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_elementwise_work_loads_no_heavy_library():
    done = python(
        "import minidl, sys; x = minidl.ones(2, requires_grad=True); (x.exp() @ x).backward();"
        f"print(*[m for m in {HEAVY} if m in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["kernels", "models"])
def test_generic_names_are_refused(name):
    done = python(f"import {name}")
    assert done.returncode != 0
    assert f"ImportError: import minidl.{name}, not {name}" in done.stderr


@pytest.mark.parametrize("name", dir(minidl))
def test_every_public_name_can_be_had(name):
    assert getattr(minidl, name) is not None


def test_type_checkers_see_the_names_that_load_later():
    module = ast.parse(Path(minidl.__file__).read_text())
    (block,) = [n for n in module.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    seen = [alias.name for n in block.body if isinstance(n, ast.ImportFrom) for alias in n.names]
    assert sorted(seen) == sorted(minidl._LATER)


def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="module 'minidl' has no attribute 'conv9d'"):
        minidl.conv9d  # noqa: B018
