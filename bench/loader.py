"""Speed of reading clips, and how it scales: python bench/loader.py [STORE.JSON]

Without an argument: a synthetic store of 400 clips of 44 frames (216 MB), against the same frames
as JPEG files that worker processes read as the official code does. Then stores of 10 thousand and
10 million clips, both sparse files: the same number of batches from each, alternately, for the
first time (cold) and once more (warm). Each store but the sparse ones is also compressed by H.264;
only a given store, of real motion, tells what that saves.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.inputs import clip_store, compressed, jpeg_clips, write_store
from bench.record import Record, in_new_process, peak_memory
from cwm.train.prefetch import prefetch
from cwm.videos.codec import shard_name
from cwm.videos.ffmpeg import FRAME_BYTES
from cwm.videos.index import INDEX
from cwm.videos.raw import HEADER, RawShard
from cwm.videos.store import ClipStore

BATCH, LENGTH, BATCHES = 16, 25, 300  # the paper's batch of clips
CLIPS, FRAMES = 400, 44
JPEG_BATCHES, WORKERS = 20, 2
SIZES = (10_000, 10_000_000)  # clips, in 6 and 5,038 shards
COSTS = [("open", "s"), ("first batch", "s"), ("peak memory", "MB")]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    record = Record("loader", store=options.store and str(options.store))
    if options.store:
        with tempfile.TemporaryDirectory() as name:
            store = ClipStore.open(options.store)
            measure(store, record)
            compress(store, Path(name), record)
    else:
        with tempfile.TemporaryDirectory() as name:
            store = clip_store(Path(name), CLIPS, FRAMES)
            measure(store, record)
            (Path(name) / "h264").mkdir()
            compress(store, Path(name) / "h264", record)
            jpeg = jpeg_folder(Path(name) / "jpeg", store)
            record.add("JPEG files", BATCH * LENGTH / jpeg, "frames/s")
        with sparse_store(SIZES[0]) as small, sparse_store(SIZES[1]) as large:
            compare_sizes({SIZES[0]: small, SIZES[1]: large}, record)
    record.save()


def compress(store: ClipStore, folder: Path, record: Record) -> None:
    """Record the size, the error and the speed of the store's clips in H.264."""
    frames = int(store.index["length"].sum())
    start = time.process_time()
    copy = compressed(store, folder)
    record.add("H.264/encoding, verified", frames / (time.process_time() - start), "frames/CPU s")
    size = sum(path.stat().st_size for path in folder.glob("frames-*"))
    record.add("H.264/size", size / frames, "bytes/frame")
    record.add("H.264/compression", FRAME_BYTES * frames / size, "")
    psnr = np.concatenate([*map(partial(clip_psnr, store, copy), range(len(store)))])
    record.add("H.264/PSNR, mean of frames", float(psnr.mean()), "dB")
    record.add("H.264/PSNR, worst frame", float(psnr.min()), "dB")
    start, batches = time.process_time(), BATCHES // 2
    for i in range(batches):
        copy.sample(0, i, BATCH, LENGTH)
    windows = batches * BATCH / (time.process_time() - start)
    record.add(f"H.264/windows of {LENGTH} frames", windows, "per CPU s")


def clip_psnr(store: ClipStore, copy: ClipStore, clip: int) -> np.ndarray:
    """Peak signal-to-noise ratio in dB of the frames (T,) of a clip; identical frames have 99."""
    length = int(store.index["length"][clip])
    error = store.read(clip, 0, length).astype(np.float32) - copy.read(clip, 0, length)
    mean = np.square(error).mean((1, 2, 3))
    return np.minimum(10 * np.log10(255**2 / np.maximum(mean, 1e-9)), 99)


def measure(store: ClipStore, record: Record) -> None:
    """Record the speed of `sample` and `prefetch` with a warm page cache."""
    ahead = prefetch(store, 0, 0, BATCH, LENGTH)
    sample = median_seconds(lambda i: store.sample(0, i, BATCH, LENGTH))
    record.add("sample", BATCH * LENGTH / sample, "frames/s")
    prefetched = median_seconds(lambda i: next(ahead))
    record.add("prefetch", BATCH * LENGTH / prefetched, "frames/s")
    ahead.close()


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
    """Seconds per batch of the same frames as JPEG files."""
    jpeg_clips(folder, store)
    batches = iter(DataLoader(JpegFolder(folder), BATCH, num_workers=WORKERS))
    return median_seconds(lambda i: next(batches), JPEG_BATCHES)


@contextmanager
def sparse_store(clips: int) -> Iterator[Path]:
    """The `store.json` of a store whose shards are sparse files."""
    with tempfile.TemporaryDirectory() as name:
        folder, per_shard = Path(name), RawShard.capacity // FRAMES
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
    """Record what sparse stores cost: opening each in its own process, and every batch."""
    for clips, path in paths.items():
        costs = in_new_process(open_and_read, path)
        for (what, unit), value in zip(COSTS, costs, strict=True):
            record.add(f"{clips:,} clips/{what}", value, unit)
    stores = {clips: ClipStore.open(path) for clips, path in paths.items()}
    for store in stores.values():
        store.eligible(LENGTH, "train")
    for pages in ("cold", "warm"):
        times: dict[int, list[float]] = {clips: [] for clips in stores}
        for i in range(BATCHES):
            for clips, store in stores.items():
                start = time.perf_counter()
                store.sample(0, i, BATCH, LENGTH)
                times[clips].append(1000 * (time.perf_counter() - start))
        for clips, taken in times.items():
            record.add(f"{clips:,} clips/{pages} batch", float(np.median(taken)), "ms")


def open_and_read(path: Path) -> tuple[float, float, float]:
    """Seconds to open a store, seconds for the first batch of each split, and peak memory in MB."""
    start = time.perf_counter()
    store = ClipStore.open(path)
    opened = time.perf_counter() - start
    store.sample(0, 0, BATCH, LENGTH)
    store.sample(0, 0, BATCH, LENGTH, "heldout")
    return opened, time.perf_counter() - start - opened, peak_memory()


if __name__ == "__main__":
    main()
