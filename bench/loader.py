"""How fast training can read clips: `python bench/loader.py [results/.../store.json]`.

Without an argument it reads a made-up store of 400 clips of 44 frames (216 MB).
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import numpy as np

from cwm.data.clips import INDEX, ClipStore, prefetch, shard_name
from cwm.data.files import sha256

BATCH, LENGTH, BATCHES = 16, 25, 300  # the paper's batch of clips
CLIPS, FRAMES = 400, 44


def main() -> None:
    if len(sys.argv) > 1:
        measure(ClipStore.open(Path(sys.argv[1])))
        return
    with made_up_store() as store:
        measure(store)


@contextmanager
def made_up_store() -> Iterator[ClipStore]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = np.random.default_rng(0).integers(0, 256, (FRAMES, 64, 64, 3), np.uint8)
        np.save(folder / shard_name(0), np.tile(noise, (CLIPS, 1, 1, 1)))
        index = np.zeros(CLIPS, INDEX)
        index["offset"], index["length"] = np.arange(CLIPS) * FRAMES, FRAMES
        np.save(folder / "index.npy", index)
        info = {"dataset": "made up", "labels": [], "frame_shape": [64, 64, 3]}
        info |= {"frame_bytes": 64 * 64 * 3, "shards": [CLIPS * FRAMES]}
        info["sha256"] = {"index": sha256(folder / "index.npy")}
        (folder / "store.json").write_text(json.dumps(info))
        yield ClipStore.open(folder / "store.json")


def measure(store: ClipStore) -> None:
    ahead = prefetch(store, 0, 0, BATCH, LENGTH)
    ways: dict[str, Callable[[int], object]] = {
        "sample": lambda i: store.sample(0, i, BATCH, LENGTH),
        "prefetch": lambda i: next(ahead),
    }
    print(f"{store.info['dataset']}: {len(store)} clips, batch {BATCH} x {LENGTH}, warm page cache")
    print(f"{'':10}{'ms/batch':>10}{'clips/s':>10}{'frames/s':>12}")
    for name, read in ways.items():
        seconds = median_seconds(read)
        clips = BATCH / seconds
        print(f"{name:10}{1000 * seconds:10.2f}{clips:10.0f}{clips * LENGTH:12.0f}")
    ahead.close()


def median_seconds(read: Callable[[int], object]) -> float:
    """Median over batches, after a first round that warms the page cache."""
    times, numbers = [], count()
    for _ in range(2 * BATCHES):
        start = time.perf_counter()
        read(next(numbers))
        times.append(time.perf_counter() - start)
    return float(np.median(times[BATCHES:]))


if __name__ == "__main__":
    main()
