"""A folder of one's own videos, in one command."""

import json
import logging
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cwm.commands.own import pretrain_on
from cwm.infra.errors import UserError
from cwm.videos.encode import H264, encode
from cwm.videos.store import ClipStore

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six videos of a square that moves, one file that is none; a project to run in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(ROOT / "config")
    for number in range(6):
        movie(tmp_path / f"my videos/{number}.mp4", number)
    (tmp_path / "my videos/notes.mp4").write_text("no video")
    return tmp_path / "my videos"


def movie(path, number):
    frames = np.full((30, 96, 54, 3), 30 * number, np.uint8)
    for t in range(30):
        frames[t, 2 * t : 2 * t + 20, 10:30] = (200, 250, 100)
    encode(path, frames, 12, H264)


def test_from_a_folder_to_a_model_and_a_page(folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    pretrain_on(folder, "smoke", out, 2)
    store = ClipStore.open(out / "clips/store.json")
    assert store.info["videos"] == {"failed": 1, "ok": 6}
    weights = json.loads((out / "weights.json").read_text())
    assert weights["dataset"] == "videos"
    about = json.loads((out / "run.json").read_text())
    assert about["inputs"]["manifest"] == store.info["sha256"]["manifest"]
    page = (out / "report.html").read_text()
    assert "moov atom not found" in page or "Invalid data" in page
    assert page.count("data:image/png") == 2  # the strip and the contact sheet

    written = (out / "weights.safetensors").stat().st_mtime_ns
    pretrain_on(folder, "smoke", out, 2)
    assert (out / "weights.safetensors").stat().st_mtime_ns == written

    movie(folder / "new.mp4", 7)
    caplog.clear()
    pretrain_on(folder, "smoke", out, 2)
    decoded = [r for r in caplog.messages if "new.mp4" in r or " clips to decode" in r]
    assert sum(int(line.split()[1]) for line in decoded) == 2  # the new one and the broken one
    assert (out / "weights.safetensors").stat().st_mtime_ns > written
    assert not list((tmp_path / "results/smoke/work").iterdir())


def test_a_folder_without_videos_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match="no clip in"):
        pretrain_on(tmp_path, "smoke", tmp_path / "out", 1)
    with pytest.raises(UserError, match=r"smoke\.yaml|smoek"):
        pretrain_on(tmp_path, "smoek", tmp_path / "out", 1)


def test_a_folder_whose_name_is_not_utf8_is_refused_before_training(folder, tmp_path):
    folder = folder.rename(os.fsdecode(os.fsencode(tmp_path) + b"/my \xe9"))
    command = ["cwm", "videos", folder, "--scale", "smoke", "--out", "out"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    said = rf"cwm: {tmp_path}/my \udce9 is not valid UTF-8; rename the file or folder"
    assert done.stderr.strip() == said
    assert not Path("out").exists()


def test_a_project_in_a_folder_whose_name_is_not_utf8_trains(folder, tmp_path, monkeypatch):
    project = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xe9"))
    project.mkdir()
    monkeypatch.chdir(project)
    Path("config").symlink_to(ROOT / "config")
    pretrain_on(folder, "smoke", Path("out"), 2)
    assert Path("out/report.html").exists()
