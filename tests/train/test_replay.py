"""The replay buffer: sampling, dropping, restoring, and damaged files."""

import itertools
import json
import struct
from contextlib import suppress

import numpy as np
import pytest
import torch

from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.settings import ReplayConfig
from cwm.train.replay import Episode, Replay


def episode(number, steps):
    """An episode whose frames, actions and rewards encode its number and the step."""
    t = np.arange(steps + 1)
    image = np.full((steps + 1, 64, 64, 3), number, np.uint8)
    image[:, 0, 0, 0] = t
    return Episode(
        image,
        np.tile(t[:, None], (1, 2)).astype(np.float32),
        (10.0 * number + t).astype(np.float32),
    )


def replay(folder, length=4, size=100, **settings):
    return Replay(ReplayConfig(**settings), folder, length, size)


def test_windows_are_consecutive_steps_of_one_episode(tmp_path):
    memory = replay(tmp_path)
    for number, steps in enumerate((9, 5)):
        memory.add(episode(number, steps))
    batch = memory.sample(seed=0, i=0, batch=64)
    start = batch.image[:, 0, 0, 0, 0]
    number = batch.image[:, :, 5, 5, 0]
    assert (number == number[:, :1]).all()
    steps = start[:, None] + torch.arange(4)
    assert (batch.image[:, :, 0, 0, 0] == steps).all()
    assert (batch.action[..., 0] == steps).all()
    assert (batch.reward == 10.0 * number + steps).all()
    assert (batch.is_first == torch.tensor([1.0, 0, 0, 0])).all()


def test_episodes_are_sampled_uniformly_regardless_of_length(tmp_path):
    memory = replay(tmp_path)
    memory.add(episode(0, 60))
    memory.add(episode(1, 5))
    drawn = memory.sample(0, 0, 4000).image[:, 0, 5, 5, 0].float().mean()
    assert abs(drawn - 0.5) < 0.04  # five standard deviations


@pytest.mark.parametrize(("prioritize", "share"), [(False, 1 / 7), (True, 5 / 11)])
def test_prioritize_ends_samples_last_window_more_often(tmp_path, prioritize, share):
    memory = replay(tmp_path, prioritize_ends=prioritize)
    memory.add(episode(0, 9))  # 10 entries: starts 0..6, and 4 more that become 6
    start = memory.sample(0, 0, 4000).image[:, 0, 0, 0, 0]
    assert start.max() == 6
    assert abs((start == 6).float().mean() - share) < 0.04


def test_batch_is_a_function_of_seed_and_index(tmp_path):
    memory = replay(tmp_path)
    memory.add(episode(0, 50))
    first, again, other = (memory.sample(7, i, 8).reward for i in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_oldest_episodes_are_dropped_and_restored_buffer_is_equal(tmp_path):
    memory = replay(tmp_path, capacity=20)
    for number in range(5):
        memory.add(episode(number, 5))  # 6 entries each: three fit
    assert [number for number, _, _ in memory.episodes] == [2, 3, 4]
    memory.prune()
    assert len(list(tmp_path.iterdir())) == 3
    remembered = dict(memory.remembered)

    memory.add(episode(5, 7))
    restored = replay(tmp_path, capacity=20)
    restored.restore(5, remembered)  # deletes episode 5, which is newer than the checkpoint
    assert not (tmp_path / "0000005.npz").exists()
    restored.add(episode(5, 7))
    for i in range(5):
        a, b = memory.sample(0, i, 16), restored.sample(0, i, 16)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.reward, b.reward)


def test_restore_ignores_files_of_dropped_episodes(tmp_path):
    memory = replay(tmp_path, capacity=100)
    for number, steps in enumerate((19, 29, 29, 74)):  # the long one replaces all others
        memory.add(episode(number, steps))
    for number in (1, 2):  # the first one would fit beside it
        (tmp_path / f"{number:07d}.npz").unlink()
    restored = replay(tmp_path, capacity=100)
    restored.restore(memory.count, memory.remembered)
    assert list(restored.remembered) == [3]
    assert [path.name for path in tmp_path.iterdir()] == ["0000003.npz"]


@pytest.mark.parametrize("harm", ["missing", "short", "empty", "changed"])
def test_damaged_episode_file_is_named(tmp_path, harm):
    memory = replay(tmp_path)
    memory.add(episode(0, 9))
    path = tmp_path / "0000000.npz"
    content = path.read_bytes()
    path.unlink()
    if harm != "missing":
        changed = content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
        path.write_bytes({"short": content[:-9], "empty": b"", "changed": changed}[harm])
    with pytest.raises(UserError, match=rf"cannot read {path}, which the checkpoint needs"):
        replay(tmp_path).restore(1, memory.remembered)


def test_swapped_episode_files_are_refused(tmp_path):
    memory = replay(tmp_path)
    for number in range(2):
        memory.add(episode(number, 9))
    state = json.loads(json.dumps(memory.remembered))
    replay(tmp_path).restore(2, state)
    first, second = (tmp_path / f"000000{number}.npz" for number in range(2))
    first.rename(tmp_path / "other")
    second.rename(first)
    (tmp_path / "other").rename(second)
    with pytest.raises(UserError, match=rf"cannot read {first}, .*: its checksum is wrong"):
        replay(tmp_path).restore(2, state)


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((8, 64, 64, 3))},
        {"reward": np.zeros(8)},
        {"reward": np.zeros(7, np.float32)},
        {"action": np.zeros((8, 1), np.float32)},
        {"action": np.zeros(8, np.float32)},
        {name: x[:4] for name, x in episode(1, 7)._asdict().items()},
        {"more": np.zeros(8)},
    ],
)
def test_episode_with_valid_checksum_but_wrong_arrays_is_refused(tmp_path, change):
    memory = replay(tmp_path)
    for number in range(2):
        memory.add(episode(number, 7))
    path = tmp_path / "0000001.npz"
    np.savez(path, **episode(1, 7)._asdict() | change)
    with pytest.raises(UserError, match=rf"cannot read {path}, which the checkpoint needs"):
        replay(tmp_path).restore(2, memory.remembered | {1: sha256(path)})


def test_flipped_bit_never_causes_a_traceback(tmp_path):
    replay(tmp_path).add(episode(0, 4))
    path = tmp_path / "0000000.npz"
    content = path.read_bytes()
    directory = content.rindex(b"PK\5\6")
    (begin,) = struct.unpack_from("<I", content, directory + 16)
    for place, bit in itertools.product(range(begin, begin + 46), range(8)):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        with suppress(UserError):
            replay(tmp_path).restore(1, {0: sha256(path)})


def test_short_episodes_are_counted_but_not_stored(tmp_path):
    """As in the reference, an episode needs as many steps as a window has entries."""
    memory = replay(tmp_path)
    assert not memory.add(episode(0, 3))
    assert memory.count == 1
    with pytest.raises(UserError, match="has the 4 steps of a training window"):
        memory.sample(0, 0, 1)
    assert memory.add(episode(1, 4))
    assert memory.sample(0, 0, 1).reward.shape == (1, 4)
