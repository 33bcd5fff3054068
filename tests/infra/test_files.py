"""Atomic writes, locks, sizes and relative paths."""

import fcntl
import json

import pytest

from cwm.infra.errors import UserError
from cwm.infra.files import file_lock, human, is_locked, locked_folder, relative, write_json


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (19_400_000_000, "19.4 GB"),
        (2.5e12, "2.5 TB"),
        (4e15, "4000.0 TB"),
    ],
)
def test_size_has_a_readable_unit(size, text):
    assert human(size) == text


def test_failed_write_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_lock_is_exclusive_even_if_its_last_holder_deleted_the_file(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    first = file_lock(path, "filling it")
    with pytest.raises(UserError, match="another process is filling it"):
        file_lock(path, "filling it")
    assert is_locked(path)
    assert not is_locked(tmp_path / "none")

    flock = fcntl.flock

    def late(file, how):  # the holder ends after we opened its file, before we lock it
        if not first.closed:
            path.unlink()
            first.close()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with file_lock(path, "filling it"), pytest.raises(UserError, match="another process"):
        file_lock(path, "filling it")


def test_locked_folder_has_nothing_of_a_killed_process(tmp_path):
    folder = tmp_path / "new/folder"
    with locked_folder(folder, "filling"):
        (folder / ".tmp-a").mkdir()
        (folder / ".tmp-a/0").touch()
        (folder / ".tmp-b").touch()
        (folder / "kept").touch()
        with pytest.raises(UserError, match="another process is filling"):
            locked_folder(folder, "filling").__enter__()
        assert (folder / ".tmp-a/0").exists()
    with locked_folder(folder, "filling"):
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "kept"]


def test_relative_path_from_a_linked_folder_starts_at_the_target(tmp_path):
    for name in ("project/data/own", "project/plain", "disk/far/away/results/x"):
        (tmp_path / name).mkdir(parents=True)
    data, linked = tmp_path / "project/data/own", tmp_path / "project/results"
    linked.symlink_to(tmp_path / "disk/far/away/results")
    (tmp_path / "project/link").symlink_to(data)
    assert relative(data, tmp_path / "project/plain") == "../data/own"
    assert relative(tmp_path / "project/link", tmp_path / "project/plain") == "../link"
    assert relative(data, linked / "x") == "../../../../../project/data/own"
    assert relative(linked / "y/store.json", linked / "x") == "../y/store.json"
