import json

import pytest
from pydantic import ValidationError

from cwm.data.corpora import DatasetConfig, Video, describe, find, is_heldout, read_videos, sha256
from cwm.errors import UserError


def test_the_defaults_are_the_papers():
    cfg = DatasetConfig()
    assert (cfg.source, cfg.min_frames, cfg.geometry.aspect) == ("folder", 25, "stretch")


@pytest.mark.parametrize("bad", [{"heldout": 1.5}, {"sorce": "folder"}, {"geometry": {"size": 32}}])
def test_a_wrong_setting_is_refused(bad):
    with pytest.raises(ValidationError):
        DatasetConfig(**bad)


def test_a_tenth_is_held_out():
    held = sum(is_heldout(f"clips/{i}.webm", 0.1) for i in range(10_000))
    assert 900 < held < 1100
    assert not any(is_heldout(f"{i}", 0) for i in range(100))
    assert all(is_heldout(f"{i}", 1) for i in range(100))


def test_files_are_found_by_name_and_labelled_by_folder(tmp_path):
    for name in ["b.MP4", "push/a.webm", "push/.hidden.webm", "notes.txt", "x/y/c.gif"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    files = find(tmp_path)
    assert files == ["b.MP4", "push/a.webm", "x/y/c.gif"]
    assert [describe(tmp_path, file).label for file in files] == [None, "push", "y"]
    video = describe(tmp_path, "push/a.webm")
    assert (video.bytes, video.sha256) == (11, sha256(tmp_path / "push/a.webm"))


def test_what_cannot_be_read_is_listed_all_the_same(tmp_path):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    assert find(tmp_path) == ["gone.mp4"]
    assert describe(tmp_path, "gone.mp4") == Video("gone.mp4", 0, None, None)


def test_a_folder_without_videos_says_what_is_expected(tmp_path):
    with pytest.raises(UserError, match=r"no video in .*expected: a folder of videos .*\.webm"):
        find(tmp_path)
    with pytest.raises(UserError, match=r"no folder .*missing"):
        find(tmp_path / "missing")


@pytest.mark.parametrize("text", [None, "{", "[]", '{"root": "."}', '{"videos": [{"name": 1}]}'])
def test_a_list_that_is_none_is_refused(tmp_path, text):
    path = tmp_path / "videos.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match="cwm videos"):
        read_videos(path)


def test_a_list_names_its_root_relative_to_itself(tmp_path):
    entry = {"file": "a.mp4", "bytes": 1, "sha256": "0", "label": None}
    (tmp_path / "videos.json").write_text(json.dumps({"root": "sub", "videos": [entry]}))
    assert read_videos(tmp_path / "videos.json") == (tmp_path / "sub", [Video(**entry)])
