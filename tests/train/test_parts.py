"""Training on some parts of a dataset while the others are decoded, and again when all are."""

import json

import numpy as np
import pytest
from squares import begin
from squares import watch as pretrain

from cwm.infra.errors import UserError
from cwm.videos.build import make_clips, mix_clips
from cwm.videos.collect import collect
from cwm.videos.datasets import DatasetConfig
from cwm.videos.decode import decode_part, part_folder
from cwm.videos.encode import H264, encode
from cwm.videos.store import ClipStore

PARTS = 4
SETS = [f"dataset.parts={PARTS}", "dataset.only_parts=[2,0]", "pretrain.updates=3"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Twenty videos of eight frames, each with a color of its own, and the list of their parts."""
    folder = tmp_path_factory.mktemp("corpus")
    for number in range(20):
        frames = np.full((8, 32, 32, 3), (12 * number, 0, 99), np.uint8)
        frames[:, :, :16] += np.arange(8, dtype=np.uint8)[:, None, None, None] * 10
        encode(folder / f"videos/{number:02d}.mp4", frames, 12, H264)
    collect("own", settings(folder), folder / "lists", workers=1)
    return folder


def settings(folder, **others):
    return DatasetConfig(folder=folder / "videos", min_frames=8, heldout=0.3, parts=PARTS, **others)


def decode(videos, out, *parts):
    for part in parts:
        place = out / part_folder(part)
        decode_part("own", settings(videos), videos / "lists/videos.json", part, place, 1)


def gather(videos, out, store, finished=False, **others):
    cfg = settings(videos, **others)
    make_clips("own", cfg, videos / "lists/videos.json", store, out, finished)
    return store / "store.json"


def test_weights_from_finished_parts_equal_those_from_these_parts_of_the_whole(
    videos, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "clips"
    decode(videos, out, 0, 2)
    early = gather(videos, out, tmp_path / "early", finished=True)
    assert ClipStore.open(early).info["parts"] == [0, 2]
    first = pretrain(early, tmp_path / "first", sets=["pretrain.updates=3"])

    decode(videos, out, 1, 3)
    whole = gather(videos, out, out)
    assert "parts" not in ClipStore.open(whole).info
    again = pretrain(whole, tmp_path / "again", sets=SETS)
    every = pretrain(whole, tmp_path / "every", sets=["pretrain.updates=3"])
    weights = [(x / "weights.safetensors").read_bytes() for x in (first, again, every)]
    assert weights[0] == weights[1] != weights[2]
    for run in (first, again):
        assert json.loads((run / "run.json").read_text())["parts"] == [0, 2]
        assert "of its parts only 0, 2" in (run / "card.md").read_text()
    assert "parts" not in json.loads((every / "run.json").read_text())
    chosen = gather(videos, out, tmp_path / "chosen", only_parts=(2, 0))
    content = [ClipStore.open(path).info["sha256"]["content"] for path in (early, chosen)]
    assert content[0] == content[1]


def test_missing_parts_are_an_error_unless_finished_ones_are_asked_for(videos, tmp_path):
    with pytest.raises(UserError, match=r"no part of dataset own is decoded yet in .*clips"):
        gather(videos, tmp_path / "clips", tmp_path / "early", finished=True)
    decode(videos, tmp_path / "clips", 3)
    with pytest.raises(
        UserError, match=r"cannot read .*part-000/part\.parquet: No such file or directory; "
    ):
        gather(videos, tmp_path / "clips", tmp_path / "early")
    path = gather(videos, tmp_path / "clips", tmp_path / "early", finished=True)
    with pytest.raises(UserError, match=r"store\.json has no clips of part 1; it has those"):
        ClipStore.open(path).use_parts([1, 3])


def test_parts_of_a_store_without_duplicates_are_an_error(videos, tmp_path):
    out = tmp_path / "clips"
    (videos / "videos/copy.mp4").hardlink_to(videos / "videos/07.mp4")
    try:
        collect("own", settings(videos), videos / "lists", workers=1)
        decode(videos, out, *range(PARTS))
        store = ClipStore.open(gather(videos, out, out, duplicates="drop"))
        with pytest.raises(UserError, match=r"lacks duplicates, .*; build a store with `cwm clips"):
            store.use_parts([0])
    finally:
        (videos / "videos/copy.mp4").unlink()
        collect("own", settings(videos), videos / "lists", workers=1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [([4], "names part 4; valid are parts 0 to 3"), ([1, 1], "names a part twice")],
)
def test_wrong_parts_are_an_error(tmp_path, monkeypatch, parts, message):
    monkeypatch.chdir(tmp_path)
    sets = [f"dataset.parts={PARTS}", f"dataset.only_parts={parts}"]
    with pytest.raises(UserError, match=message):
        begin("pretrain", tmp_path / "run", {}, sets=sets)


def test_first_parts_of_a_member_are_checked_and_recorded(videos, tmp_path):
    out = tmp_path / "clips"
    decode(videos, out, 0, 1, 2)
    path = gather(videos, out, out / "first-2", only_parts=(0, 1))
    cfg = DatasetConfig(members=({"dataset": "own", "first_parts": 2},))
    mix_clips("early", cfg, [path], tmp_path / "early")
    mixture = ClipStore.open(tmp_path / "early/store.json")
    assert mixture.info["members"][0]["first_parts"] == 2
    assert mixture.sample(0, 0, 2, 8).shape == (2, 8, 64, 64, 3)
    with pytest.raises(UserError, match="early is a mixture: set first_parts of its members"):
        mixture.use_parts([0])
    other = gather(videos, out, out / "other", only_parts=(0, 2))
    with pytest.raises(UserError, match=r"store\.json was not built from the first 2 parts of own"):
        mix_clips("early", cfg, [other], tmp_path / "early")
