"""A wheel, a wheel built from the source distribution, an editable install and the checkout itself hold the same files
and import the same."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOMES = {"minidl": "minidl", "minidl.kernels": "kernels", "minidl.models": "models"}  # package -> its folder
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "runs", "venv", "*.egg-info", "*.py[cod]")


def packaged_files(root: Path) -> set[str]:
    """Every file of the three source folders, by its path in an installed copy: minidl/kernels/cpu/conv.py."""
    found = set()
    for package, folder in HOMES.items():
        for file in (root / folder).rglob("*"):  # does not enter links
            inside = file.relative_to(root / folder)
            if file.is_file() and "__pycache__" not in inside.parts:
                found.add(Path(*package.split("."), inside).as_posix())
    return found


def contents(wheel: Path) -> set[str]:
    """The files of a wheel apart from its metadata. Fails if one is in it twice."""
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert len(names) == len(set(names))
    return set(names)


def run(*command: object, cwd: Path, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PIP_", "COV_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(hook: str, source: Path, out: Path) -> Path:
    """Call one of the build backend's hooks, as pip and build do, with what is installed here."""
    out.mkdir(exist_ok=True)
    code = f"import setuptools.build_meta as backend; backend.{hook}({str(out)!r})"
    run(sys.executable, "-c", code, cwd=source)
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without what git ignores: builds leave their traces there."""
    copy = tmp_path_factory.mktemp("tree") / "minidl"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_OUT)
    return copy


@pytest.fixture(scope="module")
def wheel(tree: Path) -> Path:
    out = tree.parent / "wheel"
    run(sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index", "-w", out, tree,
        cwd=tree.parent)  # fmt: skip
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tree: Path) -> Path:
    return build("build_sdist", tree, tree.parent / "sdist")


@pytest.fixture(scope="module")
def wheel_of_sdist(sdist: Path) -> Path:
    unpacked = sdist.parent.parent / "unpacked"
    shutil.unpack_archive(sdist, unpacked, filter="data")
    (source,) = unpacked.iterdir()
    return build("build_wheel", source, unpacked / "out")


def install(wheel: Path | None, folder: Path) -> Path:
    """The interpreter of a new environment in `folder` with this wheel and a view of the libraries installed here."""
    venv.create(folder, with_pip=False)
    places = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    python = Path(places["scripts"], "python")
    if wheel is not None:
        run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=folder)
    # Folders named in a .pth file are searched, but .pth files in them (that of an editable minidl) are not obeyed.
    libraries = dict.fromkeys(sysconfig.get_path(which) for which in ("purelib", "platlib"))
    Path(places["purelib"], "libraries.pth").write_text("\n".join(libraries) + "\n")
    return python


PROBE = """
import importlib.util, sys
import minidl, minidl.kernels.table, minidl.models, minidl.kernels.cuda
from pathlib import Path
for name in ("kernels", "models"):
    try:
        __import__(name)
    except ImportError as error:  # the file may be found, and then says what to write
        assert f"import minidl.{name}, not {name}" in str(error) or error.name == name, error
        continue
    raise SystemExit(f"{name} can be imported")
cuda = Path(minidl.kernels.cuda.__file__).parent
assert list(cuda.glob("*.cu")) and list(cuda.glob("*.cuh")), cuda
assert Path(minidl.__file__).with_name("py.typed").exists()
x = minidl.tensor([[1.0, 2.0]], requires_grad=True)
(x @ x.T).sum().backward()
assert x.grad.tolist() == [[2.0, 4.0]]
print(Path(minidl.__file__).resolve().parent, Path(minidl.kernels.__file__).resolve().parent)
"""


def test_package_list_equals_the_tree():
    listed = SETUP["tool"]["setuptools"]["packages"]
    found = {Path(f).parent.as_posix().replace("/", ".") for f in packaged_files(ROOT) if f.endswith("/__init__.py")}
    assert sorted(listed) == sorted(found)
    assert SETUP["tool"]["setuptools"]["package-dir"] == HOMES


def test_every_folder_with_modules_is_a_package():
    folders = {str(Path(f).parent) for f in packaged_files(ROOT) if f.endswith(".py")}
    assert [d for d in sorted(folders) if f"{d}/__init__.py" not in packaged_files(ROOT)] == []


@pytest.mark.parametrize("name", ["kernels", "models"])
def test_links_are_relative_and_packaged_once(name):
    link = ROOT / "minidl" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"


def test_version_is_the_same_everywhere():
    import minidl

    assert minidl.__version__ == SETUP["project"]["version"]


def test_python_has_no_upper_bound():
    assert SETUP["project"]["requires-python"] == ">=3.11"


def test_wheel_holds_exactly_the_tree(wheel, tree):
    assert contents(wheel) == packaged_files(tree)


def test_wheel_of_sdist_is_the_wheel_of_the_tree(wheel, wheel_of_sdist):
    assert wheel_of_sdist.name == wheel.name
    with zipfile.ZipFile(wheel) as a, zipfile.ZipFile(wheel_of_sdist) as b:
        assert contents(wheel) == contents(wheel_of_sdist)
        different = [n for n in a.namelist() if not n.endswith("/RECORD") and a.read(n) != b.read(n)]
    assert different == []


def test_sdist_has_what_contributors_need(sdist, tree):
    unpacked = tree.parent / "looked-at"
    shutil.unpack_archive(sdist, unpacked, filter="data")
    (root,) = unpacked.iterdir()
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "pyproject.toml", "tests/conftest.py"):
        assert (root / name).is_file(), name
    assert not (root / "minidl" / "kernels").exists()  # the sources are in it once, in kernels/


@pytest.mark.parametrize("way", ["wheel", "wheel of sdist", "editable", "checkout"])
def test_imports_from_another_folder(way, tree, tmp_path, request):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    if way == "checkout":
        python = install(None, tmp_path / "env")
        out = run(python, "-c", PROBE, cwd=elsewhere, PYTHONPATH=str(tree))
    else:
        if way == "editable":
            source = tmp_path / "clones" / "minidl"  # apart: this leaves an .egg-info folder
            shutil.copytree(tree, source, symlinks=True, ignore=LEFT_OUT)
            made = build("build_editable", source, tmp_path / "editable")
        else:
            made = request.getfixturevalue(way.replace(" ", "_"))
        python = install(made, tmp_path / "env")
        out = run(python, "-c", PROBE, cwd=elsewhere)
        if way == "editable":  # a clone in the current folder must not be taken for a package of its name
            assert run(python, "-c", PROBE, cwd=source.parent) == out
        version = run(python.with_name("minidl"), "--version", cwd=elsewhere)
        assert SETUP["project"]["version"] in version
    engine, kernels = out.split()
    if "wheel" in way:
        assert kernels == f"{engine}/kernels"
        assert engine.startswith(str(tmp_path / "env"))
    else:
        root = tree if way == "checkout" else source
        assert (engine, kernels) == (f"{root}/minidl", f"{root}/kernels")
