import errno

import pytest

from verglas.core.errors import UserError
from verglas.core.files import atomic_folder, atomic_path, relative_path, write_text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_whole(tmp_path):
    with atomic_path(tmp_path / "new" / "a.mrc") as temporary:
        assert temporary.suffix == ".mrc"
        temporary.write_bytes(b"abc")
        assert not (tmp_path / "new" / "a.mrc").exists()
    assert (tmp_path / "new" / "a.mrc").read_bytes() == b"abc"
    assert names(tmp_path / "new") == ["a.mrc"]


def test_failed_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def write_half():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("ne")
            raise KeyError("x")

    with pytest.raises(KeyError):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_full_disk_is_explained_and_leaves_nothing(tmp_path):
    def write_on_full_disk():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(UserError, match="no space left on device; free some space"):
        write_on_full_disk()
    assert names(tmp_path) == []


def test_other_system_errors_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        pass  # nothing was written to the temporary name


def test_folder_appears_whole(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert (tmp_path / "a" / "b" / "inner" / "x").read_text() == "1"
    assert names(tmp_path / "a") == ["b"]


def test_failed_folder_leaves_nothing(tmp_path):
    def write_half():
        with atomic_folder(tmp_path / "b") as temporary:
            (temporary / "x").write_text("1")
            raise KeyError("x")

    with pytest.raises(KeyError):
        write_half()
    assert names(tmp_path) == []


def test_folder_is_not_overwritten(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("old")
    with pytest.raises(OSError, match="not empty"), atomic_folder(tmp_path / "b") as temporary:
        (temporary / "x").write_text("new")
    assert (tmp_path / "b" / "x").read_text() == "old"


def test_relative_paths_use_forward_slashes(tmp_path):
    assert relative_path(tmp_path / "jobs" / "a.mrc", tmp_path) == "jobs/a.mrc"
    assert relative_path(tmp_path / "a.mrc", tmp_path / "project") == "../a.mrc"
