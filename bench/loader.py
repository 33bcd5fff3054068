"""Speed of reading clips, and how it scales: python bench/loader.py [STORE.JSON]

Without an argument: a synthetic store of 400 clips of 44 frames (216 MB), against the same frames
as JPEG files that worker processes read as the official code does. Then a store of 10 million clips
against one of 10 thousand, both sparse files: the same number of batches from each, alternately,
for the first time (cold) and once more (warm).
"""

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
from bench.record import Record, peak_memory
from cwm.videos.ffmpeg import FRAME_BYTES
from cwm.videos.shards import SHARD_FRAMES, shard_name
from cwm.videos.store import HEADER, INDEX, ClipStore, prefetch

BATCH, LENGTH, BATCHES = 16, 25, 300  # the paper's batch of clips
CLIPS, FRAMES = 400, 44
JPEG_BATCHES, WORKERS = 20, 2
SIZES = (10_000, 10_000_000)  # clips, 6 and 5,038 shards
COSTS = [("open", "s"), ("first batch", "s"), ("peak memory", "MB")]


def main() -> None:
    if sys.argv[1:2] == ["--open"]:
        print(*open_and_read(Path(sys.argv[2])))
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
    with sparse_store(SIZES[0]) as small, sparse_store(SIZES[1]) as large:
        compare_sizes({SIZES[0]: small, SIZES[1]: large}, record)
    record.save()


def measure(store: ClipStore, record: Record) -> float:
    """Print the speed of `sample` and `prefetch`; returns batches/s of the slower one."""
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
    """Median seconds per batch, after a first round that warms the page cache."""
    times, numbers = [], count()
    for _ in range(2 * batches):
        start = time.perf_counter()
        read(next(numbers))
        times.append(time.perf_counter() - start)
    return float(np.median(times[batches:]))


class JpegFolder(IterableDataset):
    """Clips as folders of JPEG frames, read one by one as in the official code."""

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
    """Batches/s of the same frames as JPEG files."""
    jpeg_clips(folder, store)
    batches = iter(DataLoader(JpegFolder(folder), BATCH, num_workers=WORKERS))
    return 1 / median_seconds(lambda i: next(batches), JPEG_BATCHES)


@contextmanager
def sparse_store(clips: int) -> Iterator[Path]:
    """The `store.json` of a store whose shards are sparse files."""
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


def compare_sizes(paths: dict[int, Path], record: Record) -> None:
    """Print what sparse stores cost: opening each in its own process, and every batch."""
    for clips, path in paths.items():
        command = [sys.executable, __file__, "--open", str(path)]
        row = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
        costs = list(zip(COSTS, map(float, row), strict=True))
        said = ", ".join(f"{what} {x:.2f} {unit}" for (what, unit), x in costs)
        print(f"{clips:,} clips: {said}")
        for (what, unit), value in costs:
            record.add(f"{clips:,} clips/{what}", value, unit)
    stores = {clips: ClipStore.open(path) for clips, path in paths.items()}
    for store in stores.values():
        store.eligible(LENGTH, "train")
    print(f"{'clips':>12}{'':6}{'ms/batch':>10}{'CPU ms':>8}   ({BATCHES} batches, in turn)")
    for pages in ("cold", "warm"):
        times: dict[int, list[tuple[float, float]]] = {clips: [] for clips in stores}
        for i in range(BATCHES):
            for clips, store in stores.items():
                start = time.perf_counter(), time.process_time()
                store.sample(0, i, BATCH, LENGTH)
                end = time.perf_counter(), time.process_time()
                times[clips].append((end[0] - start[0], end[1] - start[1]))
        for clips in stores:
            wall, cpu = 1000 * np.median(times[clips], axis=0)
            print(f"{clips:12,} {pages:5}{wall:10.2f}{cpu:8.2f}")
            record.add(f"{clips:,} clips/{pages} batch", wall, "ms")


def open_and_read(path: Path) -> tuple[float, float, float]:
    """Seconds to open a store, seconds for the first batch of each split, and peak memory in MB."""
    start = time.perf_counter()
    store = ClipStore.open(path)
    opened = time.perf_counter() - start
    store.sample(0, 0, BATCH, LENGTH)
    store.sample(0, 0, BATCH, LENGTH, "heldout")
    first = time.perf_counter() - start - opened
    return opened, first, peak_memory()


if __name__ == "__main__":
    main()
