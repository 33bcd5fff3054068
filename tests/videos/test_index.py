"""A large index in blocks: the same draws as one array, and less to read."""

import json

import numpy as np
import pytest

from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.videos import index
from cwm.videos.build import mix_clips
from cwm.videos.codec import shard_name
from cwm.videos.datasets import DatasetConfig
from cwm.videos.index import INDEX, SPLITS, describe_blocks
from cwm.videos.store import ClipStore

CLIPS, FRAMES, BLOCK = 1000, 40, 64


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A store of clips of many lengths in 16 blocks; all of them show the same few frames."""
    monkeypatch.setattr(index, "BLOCK", BLOCK)
    rng = np.random.default_rng(0)
    entries = np.zeros(CLIPS, INDEX)
    entries["length"] = rng.integers(1, FRAMES + 1, CLIPS)
    entries["offset"] = rng.integers(FRAMES + 1 - entries["length"])
    entries["split"] = rng.random(CLIPS) < 0.1
    entries["length"][3 * BLOCK : 4 * BLOCK] = 2  # a block with no clip of three frames
    np.save(tmp_path / shard_name(0), rng.integers(0, 256, (FRAMES, 64, 64, 3), np.uint8))
    np.save(tmp_path / "index.npy", entries)
    clips = {split: int((entries["split"] == i).sum()) for i, split in enumerate(SPLITS)}
    info = {"dataset": "many", "labels": ["x"], "frame_shape": [64, 64, 3], "frame_bytes": 12288}
    info |= {"clips": clips, "frames": int(entries["length"].sum())}
    info |= {"shards": {shard_name(0): FRAMES}, "blocks": describe_blocks(entries)}
    info["sha256"] = {"index": sha256(tmp_path / "index.npy"), "content": "c", "manifest": "m"}
    (tmp_path / "store.json").write_text(json.dumps(info))
    return tmp_path


def edit(folder, change):
    info = json.loads((folder / "store.json").read_text())
    change(info)
    (folder / "store.json").write_text(json.dumps(info))
    return folder / "store.json"


@pytest.mark.parametrize("length", [1, 3, FRAMES])
def test_two_step_draw_equals_a_choice_among_all_eligible_clips(folder, length):
    entries, store = np.load(folder / "index.npy"), ClipStore.open(folder / "store.json")
    for split, number in (("train", 0), ("heldout", 1)):
        where = (entries["split"] == number) & (entries["length"] >= length)
        eligible = np.flatnonzero(where)
        np.testing.assert_array_equal(store.eligible(length, split), eligible)
        for i in range(20):
            rng = np.random.default_rng([7, i])
            clips = rng.choice(eligible, 16)
            starts = rng.integers(entries["length"][clips] - length + 1)
            for drawn, expected in zip(
                store.draw(7, i, 16, length, split), (clips, starts), strict=True
            ):
                np.testing.assert_array_equal(drawn, expected)
        rng = np.random.default_rng(5)
        expected = np.resize(rng.permutation(eligible), 90)
        np.testing.assert_array_equal(store.fixed(90, length, split, 5)[0], expected)


@pytest.mark.parametrize("limits", [{}, {"clips": 300}, {"heldout": 20}])
def test_blocks_change_no_batch(folder, limits):
    """The same batches from a store and a mixture, with and without blocks in `store.json`."""
    batches = []
    for blocks in (True, False):
        path = edit(folder, (lambda info: info) if blocks else (lambda info: info.pop("blocks")))
        cfg = DatasetConfig(members=[{"dataset": "many", **limits}, {"dataset": "many"}])
        mix_clips("mixed", cfg, [path, path], folder / "mixed")
        mixed = ClipStore.open(folder / "mixed/store.json")
        stores = (ClipStore.open(path), mixed)
        batches.append([s.sample(1, i, 8, 5).tobytes() for s in stores for i in range(5)])
        batches[-1] += [s.windows(40, 5).tobytes() for s in stores]
    assert batches[0] == batches[1]


def test_opening_reads_no_block_and_a_batch_verifies_those_it_reads(folder):
    entries = np.load(folder / "index.npy")
    entries["label"][710] = -1
    np.save(folder / "index.npy", entries)
    store = ClipStore.open(folder / "store.json")
    store.read(0, 0, 1)
    message = r"index\.npy: clips 704 to 767 do not match the sha256 in .*; run `cwm clips`"
    with pytest.raises(UserError, match=message):
        store.read(704, 0, 1)
    with pytest.raises(UserError, match=message):
        len(store.index)


def test_index_with_other_clips_than_its_description_is_an_error(folder):
    path = edit(folder, lambda info: info["blocks"].pop())
    with pytest.raises(UserError, match=r"index\.npy does not have the clips of .*store\.json"):
        ClipStore.open(path)


def test_wrong_counts_of_a_block_are_an_error(folder):
    def change(info):
        lengths = info["blocks"][2]["lengths"]["train"]
        lengths["1"], lengths["40"] = lengths["1"] + 1, lengths["40"] - 1

    store = ClipStore.open(edit(folder, change))
    with pytest.raises(UserError, match=r"store\.json counts other clips than .*index\.npy has"):
        store.eligible(10, "train")


def test_small_index_has_no_blocks():
    assert describe_blocks(np.zeros(index.BLOCK, INDEX)) == []
    assert len(describe_blocks(np.zeros(index.BLOCK + 1, INDEX))) == 2
