import json
import os
import resource
import threading
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.train.prefetch import prefetch
from cwm.videos.build import mix_clips
from cwm.videos.codec import open_shard, shard_name
from cwm.videos.datasets import DatasetConfig
from cwm.videos.index import INDEX
from cwm.videos.store import ClipStore, Mixture

LENGTHS = (3, 5, 9, 2, 6)  # the last is held out; 2 is too short for windows of three
either_codec = pytest.mark.parametrize("path", ["raw", "h264"], indirect=True)


@pytest.fixture
def path(tmp_path, request):
    """A store in two shards with pixel = 3 * (16 * clip + t)."""
    codec = getattr(request, "param", "raw")
    names = [shard_name(number, codec) for number in range(2)]
    shards, ends, index = [open_shard(tmp_path / name) for name in names], [0, 0], []
    for clip, length in enumerate(LENGTHS):
        number = clip % 2
        index.append((number, ends[number], length, clip % 3 - 1, clip == 4))
        values = 3 * (16 * clip + np.arange(length, dtype=np.uint8))
        frames = np.tile(values[:, None, None, None], (1, 64, 64, 3))
        shards[number].append(ends[number], shards[number].encode(frames))
        ends[number] += length
    for shard, end in zip(shards, ends, strict=True):
        shard.sync(end)
    np.save(tmp_path / "index.npy", np.array(index, INDEX))
    info = {"dataset": "tiny", "labels": ["left", "right"], "frame_shape": [64, 64, 3]}
    info |= {"frame_bytes": 12288, "clips": {"train": 4, "heldout": 1}, "frames": sum(LENGTHS)}
    info["shards"] = dict(zip(names, ends, strict=True))
    info["sha256"] = {"index": sha256(tmp_path / "index.npy"), "content": "c", "manifest": "m"}
    (tmp_path / "store.json").write_text(json.dumps(info))
    return tmp_path / "store.json"


@pytest.fixture
def store(path):
    return ClipStore.open(path)


def where(frames):
    """Clip and start of windows (N, T, 64, 64, 3); asserts consecutive frames."""
    values = (frames[..., 0, 0, 0].astype(int) + 1) // 3
    assert np.abs(frames - 3.0 * values[..., None, None, None]).max() <= 1  # compression
    assert (np.diff(values, axis=1) == 1).all()
    return [divmod(value, 16) for value in values[:, 0]]


@either_codec
def test_batch_is_a_pure_function_of_seed_and_number(store, path):
    first = [store.sample(7, i, 4, 3) for i in range(5)]
    again = ClipStore.open(path)
    for i in (3, 0, 4):
        np.testing.assert_array_equal(again.sample(7, i, 4, 3), first[i])
    assert first[0].shape == (4, 3, 64, 64, 3)
    assert len({batch.tobytes() for batch in first}) == 5
    assert store.sample(8, 0, 4, 3).tobytes() != first[0].tobytes()


def test_clips_and_starts_are_uniform(store):
    drawn = Counter(w for i in range(1500) for w in where(store.sample(0, i, 4, 3)))
    expected = {
        (clip, start): 6000 / 3 / (LENGTHS[clip] - 2)
        for clip in (0, 1, 2)
        for start in range(LENGTHS[clip] - 2)
    }
    assert drawn.keys() == expected.keys()
    assert chisquare([drawn[w] for w in expected], list(expected.values())).pvalue > 1e-3


def test_held_out_clips_are_not_sampled_for_training(store):
    assert {clip for clip, _ in where(store.sample(0, 0, 64, 3, "heldout"))} == {4}
    np.testing.assert_array_equal(store.eligible(3, "train"), [0, 1, 2])
    assert [store.labels[i] if i >= 0 else None for i in store.index["label"]] == [
        None,
        "left",
        "right",
        None,
        "left",
    ]


@either_codec
def test_windows_are_deterministic_and_from_different_clips(store):
    windows = store.windows(3, 3, "train", seed=1)
    np.testing.assert_array_equal(windows, store.windows(3, 3, "train", seed=1))
    assert sorted(clip for clip, _ in where(windows)) == [0, 1, 2]
    assert sorted(clip for clip, _ in where(store.windows(6, 3, "train"))) == [0, 0, 1, 1, 2, 2]


def test_no_clip_long_enough_is_an_error(store):
    with pytest.raises(UserError, match=r"dataset tiny has no heldout clip of 7 frames \(1 "):
        store.sample(0, 0, 1, 7, "heldout")


@either_codec
def test_prefetch_equals_sample_and_ends_its_thread(store):
    threads = threading.active_count()
    batches = prefetch(store, seed=3, start=5, batch=2, length=3)
    for expected in range(5, 12):
        i, frames = next(batches)
        assert i == expected
        np.testing.assert_array_equal(frames, store.sample(3, i, 2, 3))
    batches.close()
    assert threading.active_count() == threads


def test_prefetch_raises_errors_of_its_thread(store):
    with pytest.raises(UserError):
        next(prefetch(store, seed=0, start=0, batch=1, length=50))


@either_codec
def test_store_with_a_missing_or_truncated_shard_does_not_open(path):
    for shard in path.parent.glob("frames-00001.*"):
        whole = shard.read_bytes()
        shard.write_bytes(whole[:-1])
        with pytest.raises(UserError, match=rf"{shard.name} is too short"):
            ClipStore.open(path)
        shard.unlink()
        with pytest.raises(UserError, match=rf"{shard.name} is missing"):
            ClipStore.open(path)
        shard.write_bytes(whole)
    assert len(ClipStore.open(path)) == len(LENGTHS)


@either_codec
def test_shard_truncated_while_it_is_open_is_an_error(path):
    store = ClipStore.open(path)
    assert where(store.read(3, 0, 2)[None]) == [(3, 0)]
    for shard in path.parent.glob("frames-00001.*"):
        whole = shard.read_bytes()
        os.truncate(shard, len(whole) - 1)
        with pytest.raises(UserError, match=rf"{shard.name} is truncated"):
            store.read(3, 0, 2)
        shard.write_bytes(whole)
    assert where(store.read(3, 0, 2)[None]) == [(3, 0)]


def test_store_with_a_replaced_index_does_not_open(path):
    index = path.with_name("index.npy")
    right = index.read_bytes()
    index.write_bytes(right[:-1] + b"\0")
    with pytest.raises(UserError, match=r"index\.npy does not match the sha256"):
        ClipStore.open(path)
    with pytest.raises(UserError, match=r"nothing\.json: No such file.*`cwm clips` writes it"):
        ClipStore.open(path.with_name("nothing.json"))


def test_prioritize_ends_favours_the_last_window(store):
    """As the reference: a start up to a window past the last valid one is clipped to it."""
    store.info["prioritize_ends"] = True
    starts = Counter(store.starts(np.random.default_rng(0), np.full(9000, 2), 3).tolist())
    expected = {start: 900 if start < 6 else 3600 for start in range(7)}
    assert chisquare([starts[s] for s in range(7)], list(expected.values())).pvalue > 1e-3


def test_store_may_have_more_shards_than_open_files(tmp_path):
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    frames = np.arange(3 * 12288, dtype=np.uint64).astype(np.uint8).reshape(3, 64, 64, 3)
    np.save(tmp_path / shard_name(0), frames)
    count = min(limit, 4096) + 10
    for number in range(1, count):
        (tmp_path / shard_name(number)).hardlink_to(tmp_path / shard_name(0))
    index = np.zeros(count, INDEX)
    index["shard"], index["length"], index["label"] = np.arange(count), 3, -1
    np.save(tmp_path / "index.npy", index)
    info = {"dataset": "many", "labels": [], "frame_shape": [64, 64, 3], "frame_bytes": 12288}
    info |= {"clips": {"train": count}, "frames": 3 * count}
    info |= {"shards": {shard_name(number): 3 for number in range(count)}}
    info |= {"sha256": {"index": sha256(tmp_path / "index.npy"), "content": "", "manifest": ""}}
    (tmp_path / "store.json").write_text(json.dumps(info))
    store = ClipStore.open(tmp_path / "store.json")
    every = store.windows_of(np.arange(count), np.zeros(count, int), 3)
    assert (every == frames).all()


def mixed(path, *members, **settings):
    """A mixture with the store at `path` as each member."""
    cfg = DatasetConfig(members=[{"dataset": "tiny", **member} for member in members], **settings)
    mix_clips("mixed", cfg, [path] * len(members), path.parent / "mixed")
    return ClipStore.open(path.parent / "mixed/store.json")


def test_mixture_in_a_linked_folder_finds_its_members(path, tmp_path):
    (tmp_path / "disk/far/away").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "disk/far/away")
    cfg = DatasetConfig(members=[{"dataset": "tiny"}])
    mix_clips("mixed", cfg, [path], tmp_path / "linked/mixed")
    store = ClipStore.open(tmp_path / "linked/mixed/store.json")
    assert len(store) == len(ClipStore.open(path))


@either_codec
def test_part_of_a_dataset_is_a_nested_random_subset(path):
    part = mixed(path, {"clips": 2})
    assert part.info["clips"] == {"train": 2, "heldout": 1}
    chosen = {clip for clip, _ in where(part.sample(0, 0, 64, 2))}
    assert len(chosen) == 2
    assert {clip for clip, _ in where(part.windows(3, 2))} == {4}
    assert {c for c, _ in where(mixed(path, {"clips": 2}).sample(0, 9, 64, 2))} == chosen
    more = {clip for clip, _ in where(mixed(path, {"clips": 3}).sample(0, 0, 64, 2))}
    assert chosen < more
    others = [mixed(path, {"clips": 2}, seed=seed).sample(0, 0, 64, 2) for seed in range(6)]
    assert len({frozenset(clip for clip, _ in where(other)) for other in others}) > 1
    with pytest.raises(UserError, match="dataset tiny has 4 train clips, fewer than the 9 of"):
        mixed(path, {"clips": 9})


def test_mixture_draws_the_store_and_then_the_clip(path):
    """As the reference: a number below the sum of all lengths, modulo the length of the store."""
    both = mixed(path, {"clips": 1}, {"weight": 3.0})
    assert isinstance(both, Mixture)
    assert len(both) == 1 + 4 + 2
    (only,) = {clip for clip, _ in where(both.members[0].sample(0, 0, 64, 2))}
    drawn = Counter(clip for i in range(500) for clip, _ in where(both.sample(1, i, 8, 2)))
    # A quarter is the first store's one clip; of the second, number % 4 for numbers 0..4.
    expected = {clip: 3000 * (2 if clip == 0 else 1) / 5 for clip in range(4)}
    expected[only] += 1000
    assert chisquare([drawn[c] for c in range(4)], list(expected.values())).pvalue > 1e-3
    np.testing.assert_array_equal(
        both.sample(1, 7, 8, 2), mixed(path, {"clips": 1}, {"weight": 3.0}).sample(1, 7, 8, 2)
    )
    assert both.windows(3, 2).shape == (3, 2, 64, 64, 3)
    assert both.different(2) == 2 * min(len(m.eligible(2, "heldout")) for m in both.members)


def test_mixture_may_have_a_hundred_members(path):
    mixture = mixed(path, *[{}] * 100)
    assert mixture.info["clips"] == {"train": 400, "heldout": 100}
    assert mixture.info["frames"] == 100 * sum(LENGTHS)
    assert {clip for clip, _ in where(mixture.sample(0, 0, 64, 2))} == {0, 1, 2, 3}


@pytest.mark.parametrize("members", [(), ({}, {"weight": 3.0})])
def test_shares_of_a_batch_are_its_rows(path, members):
    store = mixed(path, *members) if members else ClipStore.open(path)
    whole = store.sample(1, 7, 12, 2)
    shares = [store.sample(1, 7, 12, 2, share=slice(i, i + 4)) for i in (0, 4, 8)]
    np.testing.assert_array_equal(np.concatenate(shares), whole)


def test_mixture_with_a_changed_member_does_not_open(path):
    mixed(path, {})
    info = json.loads(path.read_text())
    info["sha256"]["content"] = "other"
    path.write_text(json.dumps(info))
    with pytest.raises(UserError, match=r"store\.json has changed"):
        ClipStore.open(path.parent / "mixed/store.json")
    cfg = DatasetConfig(members=[{"dataset": "other"}])
    with pytest.raises(UserError, match="not the store of other's own clips"):
        mix_clips("mixed", cfg, [path], path.parent / "mixed")
