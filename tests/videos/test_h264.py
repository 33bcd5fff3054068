import subprocess
import threading

import numpy as np
import pytest

from cwm.infra.errors import UserError
from cwm.videos import h264
from cwm.videos.ffmpeg import DecodeError, ffmpeg_exe
from cwm.videos.h264 import GOP, PACKET, H264Shard

LENGTHS = (30, 1, 40)


def clip(length, seed):
    """A smooth texture that moves, with noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64] / 64
    frames = np.empty((length, 64, 64, 3))
    for t, colour in np.ndindex(length, 3):
        frames[t, ..., colour] = 128 + 60 * np.sin(9 * x + t / 9 + colour) * np.cos(7 * y + seed)
    return (frames + rng.normal(0, 2, frames.shape)).clip(0, 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def clips():
    return [clip(length, seed) for seed, length in enumerate(LENGTHS)]


@pytest.fixture
def shard(tmp_path, clips):
    shard, end = H264Shard(tmp_path / "frames-00000.h264"), 0
    for frames in clips:
        shard.append(end, shard.encode(frames))
        end += len(frames)
    shard.sync(end)
    return H264Shard(shard.path)


def read(shard, offset, length):
    frames = np.zeros((length, 64, 64, 3), np.uint8)
    shard.read(offset, frames)
    return frames


def test_every_window_equals_the_frames_of_the_whole_shard(shard):
    whole = read(shard, 0, sum(LENGTHS))
    for length in (1, GOP, 25):
        for offset in range(sum(LENGTHS) - length + 1):
            np.testing.assert_array_equal(
                read(shard, offset, length), whole[offset : offset + length]
            )


def test_frames_are_close_to_the_original_and_take_a_twentieth_of_its_size(shard, clips):
    right = np.concatenate(clips)
    error = read(shard, 0, len(right)).astype(float) - right
    assert 10 * np.log10(255**2 / np.square(error).mean((1, 2, 3)).max()) > 36
    size = sum(path.stat().st_size for path in shard.path.parent.iterdir())
    assert size < right.nbytes / 20


def test_ffmpeg_plays_the_stream_and_gives_the_same_frames(shard):
    words = [ffmpeg_exe(), "-v", "error", "-i", shard.path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    played = subprocess.run([*words, "-"], check=True, capture_output=True).stdout
    assert played == read(shard, 0, sum(LENGTHS)).tobytes()


def test_equal_frames_give_equal_bytes(clips):
    first, again = H264Shard.encode(clips[0]), H264Shard.encode(clips[0])
    assert (first.content, first.data) == (again.content, again.data)
    np.testing.assert_array_equal(first.packets, again.packets)


def test_threads_read_the_same_frames(shard):
    expected = [read(shard, offset, 25) for offset in range(40)]
    wrong = []

    def check(begin):
        for offset in [*range(begin, 40), *range(begin)]:
            if not np.array_equal(read(shard, offset, 25), expected[offset]):
                wrong.append(offset)

    threads = [threading.Thread(target=check, args=(10 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["frames-00000.h264", "frames-00000.packets"])
def test_any_damaged_byte_is_reported_with_the_name_of_the_shard(shard, name):
    path, begin, length = shard.path.with_name(name), LENGTHS[0] + 1, 14
    table = np.fromfile(shard.path.with_suffix(".packets"), PACKET)
    size = PACKET.itemsize
    used = range(int(table["end"][begin - 1]), int(table["end"][begin + length - 1]), 7)
    if name.endswith("packets"):
        used = range((begin - 1) * size, (begin + length) * size)
    right = path.read_bytes()
    checksum = range(begin * size - 5, begin * size)  # of the clip before
    for place in used:
        path.write_bytes(right[:place] + bytes([right[place] ^ 0x81]) + right[place + 1 :])
        if name.endswith("packets") and place in checksum:
            read(shard, begin, length)
            continue
        with pytest.raises(UserError, match=r"frames-00000\.(h264|packets) is (damaged|truncated)"):
            read(shard, begin, length)
    path.write_bytes(right)
    read(shard, begin, length)


def test_shard_of_another_clip_is_damaged(shard, tmp_path, clips):
    other = H264Shard(tmp_path / "frames-00001.h264")
    other.append(0, other.encode(np.concatenate(clips[::-1])))
    other.path.replace(shard.path)
    with pytest.raises(UserError, match=r"h264 is damaged \(a checksum differs\); delete it, and"):
        read(shard, 0, 25)


def test_clip_whose_frames_change_too_much_is_not_stored(monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (13, 64, 64, 3), np.uint8)
    H264Shard.encode(noise)
    monkeypatch.setitem(h264.OPTIONS, "crf", "51")
    with pytest.raises(DecodeError, match=r"H\.264 changes frame 0 too much \(\d+\.\d dB\)"):
        H264Shard.encode(noise)
