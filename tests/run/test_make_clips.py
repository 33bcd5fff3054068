import logging

import numpy as np
import pytest
from pyarrow import parquet

from cwm.data import shards
from cwm.data.clips import ClipStore
from cwm.data.corpora import DatasetConfig
from cwm.data.encode import VP9, encode
from cwm.data.shards import Shards
from cwm.data.video import Geometry, decode
from cwm.errors import UserError
from cwm.run.clips import make_clips
from cwm.run.videos import make_videos

LENGTHS = {"wave/a.webm": 26, "wave/b.webm": 30, "c.webm": 28, "push/d.webm": 25}


def movie(path, length, seed):
    rng = np.random.default_rng(seed)
    frames = np.broadcast_to(rng.integers(0, 256, (1, 1, 1, 3), np.uint8), (length, 32, 48, 3))
    encode(path, frames + np.arange(length, dtype=np.uint8)[:, None, None, None], 12, VP9)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    for seed, (name, length) in enumerate(LENGTHS.items()):
        movie(folder / name, length, seed)
    return folder


@pytest.fixture
def folder(corpus, tmp_path):
    """One's own copy of the corpus: links, so that it may be added to."""
    for name in LENGTHS:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).symlink_to(corpus / name)
    return tmp_path / "videos"


def build(folder, out=None, **settings):
    """List the videos and make the store, as the two rules do; returns the store's folder."""
    cfg = DatasetConfig(folder=folder, **settings)
    out = out or folder.with_name("out")
    make_videos("own", cfg, out, workers=2)
    make_clips("own", cfg, out / "videos.json", out, workers=2)
    return out


def manifest(out):
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    return {row["file"]: row for row in rows}


def contents(out):
    return {path.name: path.read_bytes() for path in out.iterdir() if path.name != "videos.json"}


def test_the_store_holds_every_frame_of_every_clip(folder):
    out = build(folder)
    store = ClipStore.open(out / "store.json")
    assert store.info["frames"] == sum(LENGTHS.values())
    assert store.info["videos"] == {"ok": 4}
    assert sum(store.info["clips"].values()) == 4
    for row, name in enumerate(sorted(LENGTHS)):
        expected = decode(folder / name, Geometry()).frames
        assert store.index[row]["length"] == LENGTHS[name]
        np.testing.assert_array_equal(store.read(row, 0, len(expected)), expected)
    labels = [store.labels[i] if i >= 0 else None for i in store.index["label"]]
    assert labels == [None, "push", "wave", "wave"]
    np.testing.assert_array_equal(np.load(out / "frames-00000.npy")[:28], store.read(0, 0, 28))


def test_every_file_is_accounted_for(folder):
    (folder / "broken.mp4").write_bytes(b"not a video")
    (folder / "empty.webm").touch()
    (folder / "gone.avi").symlink_to(folder / "nowhere")
    movie(folder / "short.webm", 24, 9)
    out = build(folder, max_failures=0.5)
    rows = manifest(out)
    assert {name: row["status"] for name, row in rows.items() if row["status"] != "ok"} == {
        "broken.mp4": "failed",
        "empty.webm": "failed",
        "gone.avi": "failed",
        "short.webm": "too-short",
    }
    assert rows["empty.webm"]["reason"] == "empty file"
    assert rows["gone.avi"]["reason"] == "no such file"
    assert rows["broken.mp4"]["reason"].startswith("ffmpeg: ")
    assert rows["short.webm"]["reason"] == "24 frames, fewer than 25"
    good = rows["push/d.webm"]
    assert (good["width"], good["height"], good["frames"]) == (48, 32, 25)
    store = ClipStore.open(out / "store.json")
    assert store.info["videos"] == {"failed": 3, "ok": 4, "too-short": 1}
    assert sorted(store.index["length"]) == sorted(LENGTHS.values())


def test_more_failures_than_allowed_stop_the_job(folder):
    (folder / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"1 of 5 videos .*0.1 allows \(broken.mp4: ffmpeg: .*"):
        build(folder, max_failures=0.1)
    out = folder.with_name("out")
    assert not (out / "store.json").exists()
    assert manifest(out)["broken.mp4"]["status"] == "failed"
    build(folder, max_failures=0.2)


def test_a_file_that_changed_since_it_was_listed_is_no_clip(folder, tmp_path):
    cfg = DatasetConfig(folder=folder)
    make_videos("own", cfg, tmp_path, workers=1)
    (folder / "c.webm").unlink()
    movie(folder / "c.webm", 28, 77)
    with pytest.raises(UserError, match=r"c\.webm: changed since it was listed"):
        make_clips("own", cfg, tmp_path / "videos.json", tmp_path / "out", workers=1)


def test_no_clip_that_is_long_enough_is_an_error(folder):
    with pytest.raises(UserError, match=r"none of the 4 videos .* dataset.min_frames = 31 frames"):
        build(folder, min_frames=31)


def test_new_videos_cost_their_own_decoding_only(folder, caplog):
    caplog.set_level(logging.INFO)
    out = build(folder)
    before = (out / "frames-00000.npy").read_bytes()
    split = {name: row["split"] for name, row in manifest(out).items()}
    (out / "store.json").unlink()  # as Snakemake does before it runs a rule again
    movie(folder / "a-new.webm", 27, 50)
    build(folder)
    assert "1 of 5 videos to decode" in caplog.text
    assert (out / "frames-00000.npy").read_bytes()[128:].startswith(before[128:])
    assert {n: r["split"] for n, r in manifest(out).items() if n in split} == split
    store = ClipStore.open(out / "store.json")
    new = decode(folder / "a-new.webm", Geometry()).frames
    np.testing.assert_array_equal(store.read(0, 0, 27), new)
    fresh = ClipStore.open(build(folder, folder.with_name("fresh")) / "store.json")
    assert fresh.info["sha256"]["content"] == store.info["sha256"]["content"]


def test_nothing_new_changes_nothing(folder, caplog):
    before = contents(build(folder))
    caplog.set_level(logging.INFO)
    assert contents(build(folder)) == before
    assert "0 of 4 videos to decode" in caplog.text


def test_a_killed_job_goes_on_to_the_same_store(folder, monkeypatch, caplog):
    fresh = contents(build(folder, folder.with_name("fresh")))
    real, calls = Shards.add, []

    def add(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(Shards, "add", add)
    with pytest.raises(KeyboardInterrupt):
        build(folder)
    monkeypatch.undo()
    out = folder.with_name("out")
    with (out / "frames-00000.npy").open("ab") as shard:
        shard.write(b"frames of which the journal does not know")
    with (out / "journal.jsonl").open("a") as journal:
        journal.write('["a line that was cut')
    caplog.set_level(logging.INFO)
    assert contents(build(folder)) == fresh
    assert "2 of 4 videos to decode" in caplog.text


def test_a_damaged_shard_is_decoded_again(folder):
    before = contents(build(folder))
    shard = folder.with_name("out") / "frames-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-100_000])
    build(folder)
    store = ClipStore.open(shard.with_name("store.json"))
    for row, name in enumerate(sorted(LENGTHS)):
        frames = decode(folder / name, Geometry()).frames
        np.testing.assert_array_equal(store.read(row, 0, len(frames)), frames)
    assert contents(shard.parent) == before


def test_another_geometry_begins_anew(folder):
    build(folder)
    out = build(folder, geometry={"aspect": "center-crop"})
    fresh = build(folder, folder.with_name("fresh"), geometry={"aspect": "center-crop"})
    assert contents(out) == contents(fresh)


def test_equal_files_are_stored_once(folder, corpus):
    (folder / "twin.webm").symlink_to(corpus / "c.webm")
    out = build(folder)
    store = ClipStore.open(out / "store.json")
    assert len(store) == 5
    assert store.info["shards"] == [sum(LENGTHS.values())]
    np.testing.assert_array_equal(store.read(2, 0, 28), store.read(0, 0, 28))


def test_shards_are_bounded(folder, monkeypatch):
    whole = ClipStore.open(build(folder, folder.with_name("whole")) / "store.json")
    monkeypatch.setattr(shards, "SHARD_FRAMES", 60)
    out = build(folder)
    store = ClipStore.open(out / "store.json")
    assert store.info["shards"] == [28 + 25, 26 + 30]
    assert store.info["sha256"]["content"] == whole.info["sha256"]["content"]
    for row, name in enumerate(sorted(LENGTHS)):
        np.testing.assert_array_equal(
            store.read(row, 0, LENGTHS[name]), whole.read(row, 0, LENGTHS[name])
        )
    assert build(folder) == out
