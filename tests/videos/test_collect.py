from pathlib import Path

import pytest

from cwm.infra.errors import UserError
from cwm.infra.files import file_lock
from cwm.videos.datasets import DatasetConfig, collect, read_videos
from cwm.videos.ffmpeg import Geometry, decode
from cwm.videos.synthetic import robot, something


def standin(name, clips):
    return DatasetConfig(source="standin", standin={"name": name, "clips": clips})


def files(out):
    return {
        str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()
    }


def test_standin_is_independent_of_workers_and_existing_files(tmp_path):
    collect("something", standin("something", 4), tmp_path / "all", workers=2)
    all_of_them = files(tmp_path / "all")
    _, listed = read_videos(tmp_path / "all/videos.jsonl")
    assert sorted(video.label for video in listed) == sorted(something.LABELS)

    part = tmp_path / "part"  # as a killed job leaves it, with one complete file
    (first, _, third, _) = sorted(name for name in all_of_them if name.endswith(".webm"))
    for name in (first, third):
        (part / name).parent.mkdir(parents=True)
    (part / first).write_bytes(all_of_them[first])
    (part / third).with_name(".tmp-000000.webm").write_bytes(b"half a clip")
    modified = (part / first).stat().st_mtime_ns
    collect("something", standin("something", 4), part, workers=1)
    assert {name: data for name, data in files(part).items() if ".tmp" not in name} == all_of_them
    assert (part / first).stat().st_mtime_ns == modified


def test_two_jobs_cannot_generate_one_standin(tmp_path):
    message = "another process is making clips in"
    with file_lock(tmp_path / ".lock", ""), pytest.raises(UserError, match=message):
        collect("something", standin("something", 4), tmp_path, workers=1)


def test_robot_clips_show_a_moving_arm(tmp_path):
    collect("rlbench", standin("robot", 1), tmp_path, workers=1)
    (path,) = tmp_path.rglob("*.mp4")
    assert path.parent.name == robot.label(0)
    frames, width, height, *_ = decode(path, Geometry())
    assert (len(frames), width, height) == (robot.FRAMES, 96, 96)
    assert (abs(frames[-1].astype(int) - frames[0]) > 40).any(-1).mean() > 0.02


def test_folder_is_listed_by_relative_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/own/wave").mkdir(parents=True)
    (tmp_path / "data/own/wave/a.mp4").write_text("x")
    for _ in range(2):
        collect("own", DatasetConfig(), tmp_path / "results/videos/own", workers=2)
    path = tmp_path / "results/videos/own/videos.jsonl"
    assert str(tmp_path) not in path.read_text()
    root, listed = read_videos(path)
    assert root == path.parent / "../../../data/own"
    assert [video.file for video in listed] == ["wave/a.mp4"]
    assert sorted(files(tmp_path)) == ["data/own/wave/a.mp4", "results/videos/own/videos.jsonl"]


def test_folder_is_found_from_linked_results(tmp_path, monkeypatch):
    (tmp_path / "project/data/own").mkdir(parents=True)
    (tmp_path / "project/data/own/a.mp4").write_text("x")
    (tmp_path / "disk/mine/results").mkdir(parents=True)
    (tmp_path / "project/results").symlink_to(tmp_path / "disk/mine/results")
    monkeypatch.chdir(tmp_path / "project")
    collect("own", DatasetConfig(), Path("results/videos/own"), workers=1)
    root, listed = read_videos(Path("results/videos/own/videos.jsonl"))
    assert [(root / video.file).read_text() for video in listed] == ["x"]


def test_missing_folder_and_unknown_standin_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"no folder .*elsewhere; expected: a folder of clips"):
        collect("own", DatasetConfig(folder=tmp_path / "elsewhere"), tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"unknown synthetic dataset 'somthing'.*something"):
        collect("somthing", standin("somthing", 1), tmp_path / "out", 1)
    assert not (tmp_path / "out/videos.jsonl").exists()
