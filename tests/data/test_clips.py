import json
import threading
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from cwm.data.clips import INDEX, ClipStore, prefetch, shard_name
from cwm.data.corpora import sha256
from cwm.errors import UserError

LENGTHS = (3, 5, 9, 2, 6)  # the last is held out; 2 is too short for windows of three


@pytest.fixture
def path(tmp_path):
    """A store in two shards whose pixels say clip and time: pixel = 16 * clip + t."""
    index, shards = [], [[], []]
    for clip, length in enumerate(LENGTHS):
        shard = shards[clip % 2]
        index.append((clip % 2, len(shard), length, clip % 3 - 1, clip == 4))
        shard += [np.full((64, 64, 3), 16 * clip + t, np.uint8) for t in range(length)]
    for number, frames in enumerate(shards):
        np.save(tmp_path / shard_name(number), np.stack(frames))
    np.save(tmp_path / "index.npy", np.array(index, INDEX))
    info = {"dataset": "tiny", "labels": ["left", "right"], "frame_shape": [64, 64, 3]}
    info |= {"frame_bytes": 12288, "shards": [len(shard) for shard in shards]}
    info["sha256"] = {"index": sha256(tmp_path / "index.npy")}
    (tmp_path / "store.json").write_text(json.dumps(info))
    return tmp_path / "store.json"


@pytest.fixture
def store(path):
    return ClipStore.open(path)


def where(frames):
    """Clip and start of windows (N, T, 64, 64, 3), after checking that they are consecutive."""
    values = frames[..., 0, 0, 0].astype(int)
    assert (frames == frames[..., :1, :1, :1]).all()
    assert (np.diff(values, axis=1) == 1).all()
    return [divmod(value, 16) for value in values[:, 0]]


def test_a_batch_is_a_pure_function_of_seed_and_number(store, path):
    first = [store.sample(7, i, 4, 3) for i in range(5)]
    again = ClipStore.open(path)
    for i in (3, 0, 4):
        np.testing.assert_array_equal(again.sample(7, i, 4, 3), first[i])
    assert first[0].shape == (4, 3, 64, 64, 3)
    assert len({batch.tobytes() for batch in first}) == 5
    assert store.sample(8, 0, 4, 3).tobytes() != first[0].tobytes()


def test_clips_are_uniform_and_so_are_starts_within_them(store):
    drawn = Counter(w for i in range(1500) for w in where(store.sample(0, i, 4, 3)))
    expected = {
        (clip, start): 6000 / 3 / (LENGTHS[clip] - 2)
        for clip in (0, 1, 2)
        for start in range(LENGTHS[clip] - 2)
    }
    assert drawn.keys() == expected.keys()
    assert chisquare([drawn[w] for w in expected], list(expected.values())).pvalue > 1e-3


def test_held_out_clips_are_read_only_when_asked_for(store):
    assert {clip for clip, _ in where(store.sample(0, 0, 64, 3, "heldout"))} == {4}
    np.testing.assert_array_equal(store.eligible(3, "train"), [0, 1, 2])
    assert [store.labels[i] if i >= 0 else None for i in store.index["label"]] == [
        None,
        "left",
        "right",
        None,
        "left",
    ]


def test_windows_are_the_same_each_time_and_from_different_clips(store):
    windows = store.windows(3, 3, "train", seed=1)
    np.testing.assert_array_equal(windows, store.windows(3, 3, "train", seed=1))
    assert sorted(clip for clip, _ in where(windows)) == [0, 1, 2]
    assert sorted(clip for clip, _ in where(store.windows(6, 3, "train"))) == [0, 0, 1, 1, 2, 2]


def test_no_clip_long_enough_is_an_error(store):
    with pytest.raises(UserError, match=r"no clip of 7 frames is heldout in dataset tiny \(1 "):
        store.sample(0, 0, 1, 7, "heldout")


def test_prefetch_changes_nothing_and_ends_its_thread(store):
    threads = threading.active_count()
    batches = prefetch(store, seed=3, start=5, batch=2, length=3)
    for expected in range(5, 12):
        i, frames = next(batches)
        assert i == expected
        np.testing.assert_array_equal(frames, store.sample(3, i, 2, 3))
    batches.close()
    assert threading.active_count() == threads


def test_prefetch_passes_errors_on(store):
    with pytest.raises(UserError):
        next(prefetch(store, seed=0, start=0, batch=1, length=50))


def test_a_store_with_a_missing_or_foreign_part_does_not_open(path):
    shard, index = path.with_name(shard_name(1)), path.with_name("index.npy")
    whole, right = shard.read_bytes(), index.read_bytes()
    shard.write_bytes(whole[:-5000])
    with pytest.raises(UserError, match=r"frames-00001\.npy is too short"):
        ClipStore.open(path)
    shard.unlink()
    with pytest.raises(UserError, match=r"frames-00001\.npy is missing"):
        ClipStore.open(path)
    shard.write_bytes(whole)
    index.write_bytes(right[:-1] + b"\0")
    with pytest.raises(UserError, match=r"index\.npy is not the one"):
        ClipStore.open(path)
    with pytest.raises(UserError, match="no clip store"):
        ClipStore.open(path.with_name("nothing.json"))
