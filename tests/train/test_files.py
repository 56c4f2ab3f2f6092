"""Files that are whole or not there, and messages about disks."""

import errno
import os

import pytest

from minidl.train import RunFolderError, write_atomic
from minidl.train.files import append_line, to_csv
from minidl.train.folder import RunFolder


def test_write_atomic_writes_and_leaves_nothing_else(tmp_path):
    write_atomic(tmp_path / "a", "ä\n")
    write_atomic(tmp_path / "a", b"b")
    assert (tmp_path / "a").read_bytes() == b"b"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")],
)
def test_write_atomic_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch, number, words):
    write_atomic(tmp_path / "a", "old")

    def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(RunFolderError, match=f"a cannot be written: .*{words}"):
        write_atomic(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_write_atomic_cleans_up_after_ctrl_c(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a", "new")
    assert os.listdir(tmp_path) == []


def test_append_line_says_what_is_wrong(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be written"):
        append_line(tmp_path / "missing" / "log", "x")


def test_csv_keeps_every_digit_and_every_column():
    text = to_csv([{"a": 1, "b": 0.1}, {"a": 2, "c": 1 / 3}])
    assert text == "a,b,c\n1,0.1,\n2,,0.3333333333333333\n"


def test_run_folder_gets_a_name_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = {RunFolder.create("ae").path for _ in range(3)}
    assert len(folders) == 3
    assert all(str(path).startswith("runs/ae-2") and path.is_dir() for path in folders)


def test_run_folder_is_not_overwritten_unasked(tmp_path):
    RunFolder.create("ae", tmp_path).write_config("ae", {})
    pictures = [tmp_path / "pictures" / name for name in ("loss.png", "clips.gif")]
    for picture in pictures:
        picture.write_text("earlier")
    mine = [tmp_path / name for name in ("notes.md", "face.png", "checkpoints/mine.safetensors", "checkpoints/a.json")]
    for file in mine:
        file.write_text("mine")
    with pytest.raises(RunFolderError, match=r"is not empty.*--overwrite"):
        RunFolder.create("ae", tmp_path)
    RunFolder.create("ae", tmp_path, overwrite=True)
    assert not any(picture.exists() for picture in pictures) and not (tmp_path / "config.json").exists()
    assert [file.read_text() for file in mine] == ["mine"] * 4  # only a run's own files go


@pytest.mark.parametrize("config", [None, "", "{", "[]", '{"model": "bert", "hidden": 768}'])
def test_a_folder_without_a_run_is_never_overwritten(tmp_path, config):
    """Such as the home folder, a project or a virtual environment."""
    (tmp_path / "loss.png").write_text("mine")
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RunFolderError, match=r"is not empty: choose another folder$"):
        RunFolder.create("ae", tmp_path)
    with pytest.raises(RunFolderError, match="is not empty and holds no run of minidl"):
        RunFolder.create("ae", tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_folder_that_a_failed_start_left_is_as_good_as_empty(tmp_path):
    with pytest.raises(RunFolderError, match="the disk has"):
        RunFolder.create("ae", tmp_path / "run").require_space(1e15)
    assert RunFolder.create("ae", tmp_path / "run").pictures.is_dir()


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    folder = RunFolder.create("ae", tmp_path / "run")
    half = [folder.path / ".config.json.7.tmp", folder.checkpoints / ".last.safetensors.7.tmp"]
    mine = [folder.path / "mine.tmp", folder.checkpoints / ".mine"]
    for path in (*half, *mine):
        path.write_text("x")
    folder.clean()
    assert [path.exists() for path in (*half, *mine)] == [False, False, True, True]


def test_overwrite_takes_an_empty_folder(tmp_path):
    assert RunFolder.create("ae", tmp_path, overwrite=True).checkpoints.is_dir()


def test_run_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunFolderError, match="cannot be made the run folder"):
            RunFolder.create("ae", out)


def test_run_folder_on_a_full_disk_is_noticed_at_once(tmp_path):
    with pytest.raises(RunFolderError, match=r"the disk has .* MB left"):
        RunFolder.create("ae", tmp_path).require_space(1e15)


def test_a_folder_in_which_a_process_trains_is_not_for_another(tmp_path):
    folder = RunFolder.create("ae", tmp_path / "run")
    with folder.locked():
        folder.write_config("ae", {})
        for again in (folder.locked().__enter__, lambda: RunFolder.create("ae", folder.path, overwrite=True)):
            with pytest.raises(RunFolderError, match="another process is training into this folder"):
                again()
        assert folder.config.exists()
    with folder.locked():  # it was given back
        pass
    assert not (folder.path / ".lock").exists()
