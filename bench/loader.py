"""How fast training can read clips, and how that grows: python bench/loader.py [STORE.JSON]

Without an argument: a made-up store of 400 clips of 44 frames (216 MB), and beside it the same
frames as JPEG files read in the style of the official code, by worker processes. Then, without
frames on disk (sparse files), what a store of 10 million clips costs against one of 10 thousand.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.inputs import clip_store, jpeg_clips, write_store
from bench.record import Record
from cwm.data.clips import HEADER, INDEX, ClipStore, prefetch
from cwm.data.shards import SHARD_FRAMES, shard_name
from cwm.data.video import FRAME_BYTES

BATCH, LENGTH, BATCHES = 16, 25, 300  # the paper's batch of clips
CLIPS, FRAMES = 400, 44
JPEG_BATCHES, WORKERS = 20, 2
SCALES = [("open", "s"), ("first batch", "s"), ("batch", "ms"), ("peak memory", "MB")]


def main() -> None:
    if sys.argv[1:2] == ["--scale"]:
        measure_scale(int(sys.argv[2]))
        return
    record = Record("loader", store=sys.argv[1] if len(sys.argv) > 1 else None)
    if len(sys.argv) > 1:
        measure(ClipStore.open(Path(sys.argv[1])), record)
        record.save()
        return
    with tempfile.TemporaryDirectory() as name:
        store = clip_store(Path(name), CLIPS, FRAMES)
        per_second = measure(store, record)
        jpeg = jpeg_folder(Path(name) / "jpeg", store)
        ratio = f"{jpeg:.1f} batches/s; ours {per_second / jpeg:.0f} times as many"
        print(f"JPEG files, {WORKERS} workers: {ratio}")
        record.add("JPEG files", jpeg * BATCH * LENGTH, "frames/s")
    print(
        f"{'clips':>12}{'open s':>8}{'first s':>9}{'ms/batch':>10}{'peak MB':>9}   (sparse files)"
    )
    for clips in (10_000, 10_000_000):
        command = [sys.executable, __file__, "--scale", str(clips)]
        row = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(row, end="")
        for value, (what, unit) in zip(row.split()[1:], SCALES, strict=True):
            record.add(f"{clips:,} clips/{what}", float(value), unit)
    record.save()


def measure(store: ClipStore, record: Record) -> float:
    """Print the speed of every way to read; returns the batches a second of the slowest."""
    ahead = prefetch(store, 0, 0, BATCH, LENGTH)
    ways: dict[str, Callable[[int], object]] = {
        "sample": lambda i: store.sample(0, i, BATCH, LENGTH),
        "prefetch": lambda i: next(ahead),
    }
    print(f"{store.info['dataset']}: {len(store)} clips, batch {BATCH} x {LENGTH}, warm page cache")
    print(f"{'':10}{'ms/batch':>10}{'clips/s':>10}{'frames/s':>12}")
    slowest = np.inf
    for name, read in ways.items():
        seconds = median_seconds(read)
        slowest = min(slowest, 1 / seconds)
        clips = BATCH / seconds
        record.add(name, clips * LENGTH, "frames/s")
        print(f"{name:10}{1000 * seconds:10.2f}{clips:10.0f}{clips * LENGTH:12.0f}")
    ahead.close()
    return slowest


def median_seconds(read: Callable[[int], object], batches: int = BATCHES) -> float:
    """Median over batches, after a first round that warms the page cache."""
    times, numbers = [], count()
    for _ in range(2 * batches):
        start = time.perf_counter()
        read(next(numbers))
        times.append(time.perf_counter() - start)
    return float(np.median(times[batches:]))


class JpegFolder(IterableDataset):
    """A folder of frames per clip, opened one by one: how the official code reads its clips."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng()
        while True:
            clip, start = rng.integers(CLIPS), rng.integers(1, FRAMES - LENGTH + 2)
            files = [self.folder / f"{clip}/{start + t:06d}.jpg" for t in range(LENGTH)]
            frames = np.array([np.array(Image.open(file).convert("RGB")) for file in files])
            yield frames.transpose(0, 3, 1, 2)


def jpeg_folder(folder: Path, store: ClipStore) -> float:
    """Batches a second of the same frames as JPEG files."""
    jpeg_clips(folder, store)
    batches = iter(DataLoader(JpegFolder(folder), BATCH, num_workers=WORKERS))
    return 1 / median_seconds(lambda i: next(batches), JPEG_BATCHES)


@contextmanager
def sparse_store(clips: int) -> Iterator[Path]:
    """A store whose shards are files of holes."""
    with tempfile.TemporaryDirectory() as name:
        folder, per_shard = Path(name), SHARD_FRAMES // FRAMES
        index = np.zeros(clips, INDEX)
        index["shard"], index["offset"] = np.divmod(np.arange(clips), per_shard)
        index["offset"] *= FRAMES
        index["length"] = FRAMES
        index["split"] = np.arange(clips) % 10 == 0
        shards = {shard_name(n): per_shard * FRAMES for n in range(-(-clips // per_shard))}
        for shard, frames in shards.items():
            with (folder / shard).open("wb") as file:
                file.truncate(HEADER + frames * FRAME_BYTES)
        write_store(folder, index, shards)
        yield folder / "store.json"


def measure_scale(clips: int) -> None:
    """Print a row: opening, the first batch, further batches, and the peak of memory.

    The reader is another process than the one that made the files.
    """
    if len(sys.argv) == 3:
        with sparse_store(clips) as path:
            subprocess.run([*[sys.executable, *sys.argv], str(path)], check=True)
        return
    start = time.perf_counter()
    store = ClipStore.open(Path(sys.argv[3]))
    opened = time.perf_counter() - start
    store.sample(0, 0, BATCH, LENGTH)
    store.sample(0, 0, BATCH, LENGTH, "heldout")
    first = time.perf_counter() - start - opened
    each = median_seconds(lambda i: store.sample(0, i, BATCH, LENGTH))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{clips:12,}{opened:8.2f}{first:9.2f}{1000 * each:10.2f}{peak:9.0f}")


if __name__ == "__main__":
    main()
