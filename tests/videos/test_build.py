import errno
import json
import logging
import os
import shutil
import threading
from functools import partial

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from cwm.analysis.data import data_page
from cwm.infra.errors import UserError
from cwm.infra.files import file_lock
from cwm.videos import ffmpeg
from cwm.videos.build import make_clips
from cwm.videos.codec import open_shard, shard_name
from cwm.videos.collect import collect
from cwm.videos.datasets import Candidate, DatasetConfig, describe
from cwm.videos.decode import _decode_one, decode_part, part_folder
from cwm.videos.encode import H264, VP9, encode
from cwm.videos.ffmpeg import Geometry, decode
from cwm.videos.lists import read_list, write_list
from cwm.videos.shards import Shards
from cwm.videos.store import ClipStore

FRAMES = "part-000/frames-00000.npy"
CODECS = ("raw", "h264")
either_codec = pytest.mark.parametrize("codec", CODECS)
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
    """A private copy of the corpus, made of links."""
    for name in LENGTHS:
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / name).symlink_to(corpus / name)
    return tmp_path / "videos"


def build(folder, out=None, **settings):
    """List, decode and build as the three rules do; returns the store's folder."""
    cfg = DatasetConfig(folder=folder, **{"parts": 1, **settings})
    out = out or folder.with_name("out")
    collect("own", cfg, out, workers=2)
    gather(cfg, out)
    return out


def gather(cfg, out):
    for part in range(cfg.parts):
        decode_part("own", cfg, out / "videos.json", part, out / part_folder(part), 2)
    make_clips("own", cfg, out / "videos.json", out)


def manifest(out):
    rows = parquet.read_table(out / "manifest.parquet").to_pylist()
    return {row["file"]: row for row in rows}


def contents(out):
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "videos.json")
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def assert_same_clips(store, other):
    assert store.info["sha256"]["content"] == other.info["sha256"]["content"]
    for row, name in enumerate(sorted(LENGTHS)):
        frames = [x.read(row, 0, LENGTHS[name]) for x in (store, other)]
        np.testing.assert_array_equal(*frames)


def test_broken_ffmpeg_is_an_error_before_any_clip_fails(folder, monkeypatch):
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/true")
    with pytest.raises(UserError, match=r"cannot decode clips: .*; unset IMAGEIO_F"):
        build(folder)
    assert not (folder.with_name("out") / "part-000/part.parquet").exists()


def test_store_holds_every_frame_of_every_clip(folder):
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
    np.testing.assert_array_equal(np.load(out / FRAMES)[:28], store.read(0, 0, 28))


def test_manifest_lists_every_file_with_status_and_reason(folder):
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


def test_too_many_failures_are_an_error(folder):
    (folder / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match=r"1 of 5 clips .*0.1 allows \(broken.mp4: ffmpeg: .*"):
        build(folder, max_failures=0.1)
    out = folder.with_name("out")
    assert not (out / "store.json").exists()
    assert manifest(out)["broken.mp4"]["status"] == "failed"
    build(folder, max_failures=0.2)


def test_file_changed_after_it_was_listed_is_decoded_as_it_is(folder, tmp_path):
    cfg = DatasetConfig(folder=folder, parts=1)
    collect("own", cfg, tmp_path, workers=1)
    (folder / "c.webm").unlink()
    movie(folder / "c.webm", 28, 77)
    gather(cfg, tmp_path)
    store = ClipStore.open(tmp_path / "store.json")
    expected = decode(folder / "c.webm", Geometry()).frames
    np.testing.assert_array_equal(store.read(0, 0, 28), expected)


def test_file_changed_between_hashing_and_decoding_fails(folder, tmp_path):
    record = describe(folder, Candidate("c.webm"), DatasetConfig())._replace(sha256="0" * 64)
    shards = Shards(tmp_path / "part", {})
    error = _decode_one(folder, DatasetConfig(), threading.Event(), tmp_path, shards, record)
    assert str(error) == "changed while its part was decoded; run `cwm decode` again"


def test_only_short_clips_are_an_error(folder):
    with pytest.raises(UserError, match=r"none of the 4 clips .* dataset.min_frames = 31 frames"):
        build(folder, min_frames=31)


def test_only_new_videos_are_decoded(folder, caplog):
    caplog.set_level(logging.INFO)
    build_halves = partial(build, heldout=0.5)
    out = build_halves(folder)
    before = (out / FRAMES).read_bytes()
    split = {name: row["split"] for name, row in manifest(out).items()}
    (out / "store.json").unlink()  # as Snakemake does before it runs a rule again
    movie(folder / "a-new.webm", 27, 50)
    build_halves(folder)
    assert "1 of 5 clips to decode" in caplog.text
    assert (out / FRAMES).read_bytes()[128:].startswith(before[128:])
    assert {n: r["split"] for n, r in manifest(out).items() if n in split} == split
    store = ClipStore.open(out / "store.json")
    new = decode(folder / "a-new.webm", Geometry()).frames
    np.testing.assert_array_equal(store.read(0, 0, 27), new)
    fresh = ClipStore.open(build_halves(folder, folder.with_name("fresh")) / "store.json")
    assert fresh.info["sha256"]["content"] == store.info["sha256"]["content"]


@either_codec
def test_interrupted_job_resumes_to_the_same_store(folder, monkeypatch, caplog, codec):
    fresh = contents(build(folder, folder.with_name("fresh"), codec=codec))
    real, calls = Shards.add, []

    def add(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(Shards, "add", add)
    with pytest.raises(KeyboardInterrupt):
        build(folder, codec=codec)
    monkeypatch.undo()
    out = folder.with_name("out")
    for path in (out / "part-000").glob("frames-*"):
        with path.open("ab") as shard:
            shard.write(b"frames that are not in the journal")
    with (out / "part-000/journal.jsonl").open("a") as journal:
        journal.write('["a line that was cut')
    caplog.set_level(logging.INFO)
    for missing in (2, 0):
        assert contents(build(folder, codec=codec)) == fresh
        assert f"{missing} of 4 clips to decode" in caplog.text


@either_codec
def test_truncated_shard_is_decoded_again(folder, codec):
    out = build(folder, codec=codec)
    before = contents(out)
    for shard in sorted((out / "part-000").glob("frames-*")):
        os.truncate(shard, shard.stat().st_size * 2 // 3)
        with pytest.raises(UserError, match=rf"{shard.name} is too short .* run `cwm decode`"):
            ClipStore.open(out / "store.json")
        build(folder, codec=codec)
        assert contents(out) == before


def test_compressed_store_differs_little_and_has_the_same_clips(folder):
    raw = ClipStore.open(build(folder, folder.with_name("raw")) / "store.json")
    out = build(folder, codec="h264")
    store = ClipStore.open(out / "store.json")
    assert store.info["sha256"]["content"] != raw.info["sha256"]["content"]
    assert store.info["clips"] == raw.info["clips"]
    for row, length in enumerate(store.index["length"]):
        frames, right = (x.read(row, 0, int(length)).astype(int) for x in (store, raw))
        assert np.square(frames - right).mean() < 2
    assert "codec h264, preset slow" in data_page(out / "store.json")["geometry"]


def test_another_codec_decodes_from_scratch(folder):
    fresh = {x: contents(build(folder, folder.with_name(x), codec=x)) for x in CODECS}
    for codec in (*CODECS, "raw"):
        assert contents(build(folder, codec=codec)) == fresh[codec]


def test_parts_of_another_codec_are_an_error(folder):
    out = build(folder)
    cfg = DatasetConfig(folder=folder, parts=1, codec="h264")
    with pytest.raises(UserError, match=r"was decoded with codec None, expected h264, pre"):
        make_clips("own", cfg, out / "videos.json", out)


def test_another_geometry_decodes_from_scratch(folder):
    build(folder)
    out = build(folder, geometry={"aspect": "center-crop"})
    fresh = build(folder, folder.with_name("fresh"), geometry={"aspect": "center-crop"})
    assert contents(out) == contents(fresh)


def test_equal_files_are_stored_once(folder, corpus):
    (folder / "twin.webm").symlink_to(corpus / "c.webm")
    out = build(folder)
    store = ClipStore.open(out / "store.json")
    assert len(store) == 5
    assert store.info["shards"] == {FRAMES: sum(LENGTHS.values())}
    np.testing.assert_array_equal(store.read(2, 0, 28), store.read(0, 0, 28))


@either_codec
def test_shards_are_bounded(folder, monkeypatch, codec):
    whole = ClipStore.open(build(folder, folder.with_name("whole"), codec=codec) / "store.json")
    monkeypatch.setattr(type(open_shard(folder / shard_name(0, codec))), "capacity", 60)
    store = ClipStore.open(build(folder, codec=codec) / "store.json")
    assert list(store.info["shards"].values()) == [28 + 25, 26 + 30]
    assert_same_clips(store, whole)


def shots(path, *lengths):
    """A video of shots with these numbers of frames."""
    rng = np.random.default_rng(0)
    frames = [np.tile(rng.integers(0, 256, (1, 4, 6, 3), np.uint8), (n, 1, 1, 1)) for n in lengths]
    large = np.concatenate(frames).repeat(16, 1).repeat(16, 2)
    encode(path, large, 12, H264)


def test_clips_end_at_cuts(tmp_path):
    shots(tmp_path / "videos/film.mp4", 30, 10, 26)
    shots(tmp_path / "videos/flicker.mp4", 12, 12, 12)
    shots(tmp_path / "videos/one.mp4", 40)
    out = build(tmp_path / "videos", geometry={"cuts": 10})
    store = ClipStore.open(out / "store.json")
    assert store.index["length"].tolist() == [30, 26, 40]
    whole = decode(tmp_path / "videos/film.mp4", Geometry()).frames
    np.testing.assert_array_equal(store.read(0, 0, 30), whole[:30])
    np.testing.assert_array_equal(store.read(1, 0, 26), whole[40:])
    assert len({*store.index["split"][:2]}) == 1  # shots of a video are in the same split
    flicker = manifest(out)["flicker.mp4"]
    assert (flicker["status"], flicker["frames"]) == ("too-short", 36)
    assert flicker["reason"] == "no shot has 25 frames"
    uncut = ClipStore.open(build(tmp_path / "videos", tmp_path / "uncut") / "store.json")
    assert uncut.index["length"].tolist() == [66, 36, 40]


def test_duplicates_are_dropped_and_listed(folder):
    (folder / "twin.webm").symlink_to(folder / "c.webm")
    out = build(folder, duplicates="drop")
    assert ClipStore.open(out / "store.json").info["videos"] == {"duplicate": 1, "ok": 4}
    assert manifest(out)["twin.webm"]["reason"] == "the same frames as c.webm"
    assert manifest(out)["c.webm"]["status"] == "ok"


def test_stills_and_episodes_are_decoded(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (32, 64, 64, 3), np.uint8)
    (tmp_path / "videos").mkdir()
    for i, frame in enumerate(pixels[:30]):
        Image.fromarray(frame).save(tmp_path / f"videos/walk_{i:04d}.png")
    np.savez_compressed(tmp_path / "videos/episode.npz", image=pixels, action=np.zeros((32, 4)))
    np.savez(tmp_path / "videos/odd.npz", image=pixels[:, :32])
    np.savez(tmp_path / "videos/code.npz", image=np.array([{}], object))
    kinds = ["stills", "episode"]
    out = build(tmp_path / "videos", kinds=kinds, max_failures=0.5, parts=3)
    store = ClipStore.open(out / "store.json")
    assert store.info["videos"] == {"failed": 2, "ok": 2}
    np.testing.assert_array_equal(store.read(0, 0, 32), pixels)
    np.testing.assert_array_equal(store.read(1, 0, 30), pixels[:30])
    rows = manifest(out)
    assert rows["odd.npz"]["reason"] == "image is uint8 (32, 32, 64, 3), not uint8 (T, 64, 64, 3)"
    assert rows["code.npz"]["reason"].startswith("not an episode: Object arrays cannot be loaded")
    assert rows["walk_0000.png"]["frames"] == 30


def test_number_of_parts_changes_no_clip(folder):
    stores = [
        ClipStore.open(build(folder, folder.with_name(f"in{parts}"), parts=parts) / "store.json")
        for parts in (1, 5)
    ]
    assert len(stores[1].info["shards"]) > 1
    assert_same_clips(*stores)


def test_group_size_changes_no_row(folder, monkeypatch):
    (folder / "empty.webm").touch()
    at_once = build(folder, folder.with_name("at_once"), max_failures=0.5)
    monkeypatch.setattr("cwm.videos.build.GROUP", 2)
    out = build(folder, max_failures=0.5)
    assert parquet.read_metadata(out / "manifest.parquet").num_row_groups == 3
    assert manifest(out) == manifest(at_once)
    made, whole = (ClipStore.open(path / "store.json").info for path in (out, at_once))
    made["sha256"].pop("manifest"), whole["sha256"].pop("manifest")
    assert made == whole


def test_missing_or_foreign_parts_are_errors(folder):
    out = build(folder, parts=2)
    cfg, videos = DatasetConfig(folder=folder, parts=2), out / "videos.json"
    with pytest.raises(UserError, match=r"dataset own has no part 2; valid are 0 to 1"):
        decode_part("own", cfg, videos, 2, out / "part-002", 1)
    with pytest.raises(UserError, match=r"part\.parquet is part 0 of 2, expected part 0 of 1; run"):
        make_clips("own", DatasetConfig(folder=folder, parts=1), videos, out)
    other = DatasetConfig(folder=folder, parts=2, geometry={"aspect": "center-crop"})
    message = r"part-000/part\.parquet was decoded with aspect stretch, expected center-crop; run"
    with pytest.raises(UserError, match=message):
        make_clips("own", other, videos, out)
    movie(folder / "new.webm", 27, 50)
    collect("own", cfg, out, workers=1)
    message = r"part-00\d/part\.parquet was decoded from another list than .*list-00\d\.parquet"
    message += "; run `cwm decode`"
    with pytest.raises(UserError, match=message):
        make_clips("own", cfg, videos, out)
    shutil.copy(out / "part-000/part.parquet", out / "part-001/part.parquet")
    with pytest.raises(UserError, match=r"part-001/part\.parquet is part 0 of 2, expected part 1"):
        make_clips("own", cfg, videos, out)


@pytest.mark.parametrize("name", ["list-001.parquet", "part-001/part.parquet"])
def test_truncated_or_missing_lists_are_errors(folder, name):
    cfg, out = DatasetConfig(folder=folder, parts=2), build(folder, parts=2)
    whole = (out / name).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 5] ^= 1  # inside a page
    for content in (whole[:-30], bytes(damaged), b"", None):
        (out / name).unlink()
        if content is not None:
            (out / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}.*; run `cwm (collect|decode)` again"):
            if name.startswith("list") and content is not None:
                decode_part("own", cfg, out / "videos.json", 1, out / "part-001", 1)
            else:
                make_clips("own", cfg, out / "videos.json", out)


def test_clip_listed_in_two_parts_is_an_error(folder):
    out, cfg = build(folder, parts=2), DatasetConfig(folder=folder, parts=2)
    clips = read_list(out / "videos.json", 0, 2).clips
    clips += read_list(out / "videos.json", 1, 2).clips
    for part in range(2):
        about = {"root": str(folder), "part": part, "parts": 2}
        write_list(out / f"list-00{part}.parquet", clips, about)
    with pytest.raises(UserError, match=r"c\.webm is listed twice, in parts . and .; run"):
        gather(cfg, out)


def test_small_runs_and_spills_change_no_byte(folder, corpus, monkeypatch):
    """More clips than fit the memory are sorted on disk, and duplicates are found across parts."""
    for number in range(20):
        (folder / f"{number}.webm").symlink_to(corpus / list(LENGTHS)[number % 4])
    cfg = {"duplicates": "drop", "parts": 7}
    expected = contents(build(folder, folder.with_name("at_once"), **cfg))
    monkeypatch.setattr("cwm.videos.collect.SPILL", 5)
    monkeypatch.setattr("cwm.videos.lists.GROUP", 2)
    monkeypatch.setattr("cwm.videos.gather.RUN", 3)
    monkeypatch.setattr("cwm.videos.gather.BATCH", 1)
    found = contents(build(folder, **cfg))
    names = ("store.json", "manifest.parquet", "index.npy", "contact.png")
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}
    out = folder.with_name("out")
    assert ClipStore.open(out / "store.json").info["videos"] == {"duplicate": 20, "ok": 4}
    assert manifest(out)["wave/b.webm"]["reason"] == "the same frames as 1.webm"


def test_damaged_lines_are_reported(folder, caplog):
    out = build(folder)
    right = ClipStore.open(out / "store.json").info["sha256"]["content"]
    journal = out / "part-000/journal.jsonl"
    key, first, second, *rest = journal.read_text().splitlines(keepends=True)
    shuffled = [*json.loads(first)[:5], [9, 3], *json.loads(first)[6:]]
    journal.write_text("".join([key, json.dumps(shuffled) + "\n", second[1:], *rest]))
    cfg = DatasetConfig(folder=folder, parts=1)
    gather(cfg, out)
    assert "cuts out of order: the clip is decoded again" in caplog.text
    assert "is not JSON" in caplog.text
    assert ClipStore.open(out / "store.json").info["sha256"]["content"] == right


def test_small_dataset_has_both_splits(folder):
    (folder / "push/d.webm").unlink()
    for share in (1e-9, 1 - 1e-9):
        store = ClipStore.open(build(folder, heldout=share) / "store.json")
        assert min(store.info["clips"].values()) == 1
    assert ClipStore.open(build(folder, heldout=0) / "store.json").info["clips"]["heldout"] == 0


def test_every_step_deletes_temporary_files_of_a_killed_process(folder):
    out = build(folder)
    cfg = DatasetConfig(folder=folder, parts=1)
    videos, part = out / "videos.json", out / part_folder(0)
    steps = {
        out: lambda: collect("own", cfg, out, workers=1),
        part: lambda: decode_part("own", cfg, videos, 0, part, 1),
        out / "store": lambda: make_clips("own", cfg, videos, out / "store", out),
    }
    for place, step in steps.items():
        (place / ".tmp-left").mkdir(parents=True)
        (place / ".tmp-left/0").touch()
        step()
        assert not list(place.glob(".tmp-*"))


def test_two_jobs_cannot_decode_into_one_folder(folder):
    out = build(folder)
    message = "another process is decoding into"
    with file_lock(out / "part-000/.lock", ""), pytest.raises(UserError, match=message):
        gather(DatasetConfig(folder=folder, parts=1), out)


def test_full_disk_is_not_a_failure_of_the_clip(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ffmpeg.tempfile, "TemporaryFile", full)
    with pytest.raises(OSError, match="No space left"):
        build(folder)
    assert not (folder.with_name("out") / "part-000/part.parquet").exists()


def test_io_error_is_not_a_failure_of_the_clip(folder, tmp_path):
    cfg = DatasetConfig(folder=folder, parts=1, max_failures=0.5)
    collect("own", cfg, tmp_path, workers=1)
    (folder / "c.webm").unlink()
    (folder / "c.webm").symlink_to("/proc/self/mem")  # reading its first byte is an I/O error
    with pytest.raises(OSError, match="Input/output error"):
        gather(cfg, tmp_path)
    assert not (tmp_path / "part-000/part.parquet").exists()


def test_names_need_not_be_utf_8(folder, corpus):
    for name in (b"caf\xe9/a.webm", b"caf\xe9/b.webm"):
        path = folder / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(corpus / "c.webm")
    (folder / "c.webm").unlink()
    out = build(folder, duplicates="drop")
    twin = manifest(out)["caf\ufffd/b.webm"]
    assert twin["label"] == "caf\ufffd"
    assert twin["reason"] == "the same frames as caf\ufffd/a.webm"
    assert data_page(out / "store.json")["labels"] == "3: caf\ufffd, push, wave"


def test_clip_with_unordered_cuts_is_not_stored(folder):
    store = Shards(folder, {})
    frames = np.zeros((30, 64, 64, 3), np.uint8)
    with pytest.raises(ValueError, match="cuts out of order"):
        store.add("a", ffmpeg.Clip(frames, 64, 64, cuts=(20, 10)), store.encode(frames))
    store.sync()
    assert (folder / "journal.jsonl").read_text() == "{}\n"


def test_data_page_shows_counts_sizes_and_labels(folder):
    (folder / "empty.webm").touch()
    page = data_page(build(folder, max_failures=0.5) / "store.json")
    assert page["files"] == "5 found, 1 failed, 4 ok"
    assert page["left out"] == "1 empty file"
    assert page["frame sizes"] == "4 48 x 32"
    assert page["labels"] == "2: push, wave"
    assert page["frames"].startswith("109, 0.2 minutes")
    sheet = Image.open(page["preview"])
    assert sheet.size == (640, 64)
    assert len(page["manifest"]) == 64


def test_decoding_removes_temporary_files_and_folders_of_a_killed_process(folder):
    part = build(folder) / "part-000"
    (part / ".tmp-killed").mkdir()
    (part / ".tmp-killed/clip.webm").write_bytes(b"part of a video")
    (part / ".tmp-check.gif").write_bytes(b"part of an image")
    build(folder)
    assert not list(part.glob(".tmp-*"))
