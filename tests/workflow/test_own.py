"""`cwm videos DIR`: own videos -> a pre-trained model and a page, by Snakemake."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from viewer.running import asked, viewer

from cwm.commands.own import train_on_videos
from cwm.infra.errors import UserError
from cwm.videos.encode import H264, encode

ROOT = Path(__file__).parents[2]
NAME = "it's {my} videos, 100% #1"


def write_video(path, number):
    """A square that moves, on a background of its own."""
    frames = np.full((30, 96, 54, 3), 30 * number, np.uint8)
    for t in range(30):
        frames[t, 2 * t : 2 * t + 20, 10:30] = (200, 250, 100)
    encode(path, frames, 12, H264)


def cwm_videos(folder):
    command = ["cwm", "videos", folder, "--scale", "smoke", "--cores", "2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_own_videos_become_a_model_and_a_page(project, snakemake, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere") / NAME
    for number in range(6):
        write_video(folder / f"{number}.mp4", number)
    (folder / "notes.mp4").write_text("no video")
    done = cwm_videos(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results: results/smoke/{videos.html," in done.stderr

    results = project / "results/smoke"
    manifest = pd.read_parquet(results / "clips/videos/manifest.parquet").set_index("file")
    assert manifest["status"].value_counts().to_dict() == {"ok": 6, "failed": 1}
    assert manifest.loc["notes.mp4", "reason"]
    run = json.loads((results / "pretrain/videos/contextwm/0/run.json").read_text())
    store = json.loads((results / "clips/videos/store.json").read_text())
    assert run["dataset"] == "videos"
    assert run["inputs"]["manifest"] == store["sha256"]["manifest"]
    page = (results / "videos.html").read_text()
    assert "1 failed" in page
    assert page.count("data:image/png") == 2  # predictions and the contact sheet

    model = results / "pretrain/videos/contextwm/0"
    with viewer(model, "--clips", results / "clips/videos/store.json") as address:
        show = {"do": "clip", "clip": 0, "observed": 5, "context": {"kind": "own"}}
        hello, facts, _ = asked(address, **show)
    assert (list(hello["models"]), facts["do"]) == (["contextwm, videos"], "clip")

    (folder / "0.mp4").touch()
    assert "Nothing to be done" in cwm_videos(folder).stderr

    write_video(folder / "more/new.mp4", 7)
    words = ("--config", "scale=smoke", f"videos={folder}", "--")
    planned = snakemake(project, "--dry-run", *words, "pretrain_videos").stdout
    for rule in ("collect", "decode", "clips", "pretrain", "predict", "pretrain_videos"):
        assert f"rule {rule}:" in planned
    done = snakemake(project, *words, "results/smoke/clips/videos/store.json")
    said = (done.stdout + done.stderr).splitlines()
    decoded = [line for line in said if line.endswith(" clips to decode")]
    assert sum(int(line.split()[1]) for line in decoded) == 2  # the new one and the broken one


def test_mistakes_are_found_before_snakemake_starts(project):
    with pytest.raises(UserError, match="none is not a folder"):
        train_on_videos(project / "none", "smoke", 1)
    folder = project / os.fsdecode(b"my \xe9")
    folder.mkdir()
    done = cwm_videos(folder)
    assert (done.returncode, done.stdout) == (2, "")
    said = rf"cwm: {project}/my \udce9 is not valid UTF-8; rename the file or folder"
    assert done.stderr.strip() == said
    (project / "Snakefile").unlink()
    with pytest.raises(UserError, match="no Snakefile in"):
        train_on_videos(project, "smoke", 1)
