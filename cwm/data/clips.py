"""The clip store: decoded frames on disk, and random windows of them by offset.

Axes: B batch, T time; frames are uint8 (64, 64, 3).

`store.json`        geometry, counts, labels, checksums; written last, it vouches for the rest
`index.npy`         one INDEX entry per clip, sorted by name of the file
`frames-*.npy`      shards (N, 64, 64, 3), memory-mapped
`manifest.parquet`  every source file and what became of it; for people, not read here
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cwm.errors import UserError

HEADER = 128  # bytes of a shard before its first frame
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")
INDEX = np.dtype(
    [("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("label", "<i4"), ("split", "i1")]
)  # label -1: none


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"frames-{number:05d}.npy"


class ClipStore:
    """Random access to the clips of one dataset."""

    def __init__(self, folder: Path, info: dict[str, Any], index: np.ndarray) -> None:
        self.info = info
        self.labels: list[str] = info["labels"]
        self.index = index
        self._shard = cache(lambda number: np.load(folder / shard_name(number), mmap_mode="r"))
        self._eligible = cache(self._find_eligible)

    @classmethod
    def open(cls, path: Path) -> "ClipStore":
        """Open a store by its `store.json`; UserError where a file is missing, short or another."""
        try:
            info = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UserError(f"no clip store {path}; `cwm clips` writes it") from error
        index_path = path.with_name("index.npy")
        _require(index_path, 1)
        with index_path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != info["sha256"]["index"]:
                raise UserError(f"{index_path} is not the one {path} was written for; {AGAIN}")
        for number, frames in enumerate(info["shards"]):
            if frames:
                _require(path.with_name(shard_name(number)), HEADER + frames * info["frame_bytes"])
        return cls(path.parent, info, np.load(index_path, mmap_mode="r"))

    def __len__(self) -> int:
        return len(self.index)

    def eligible(self, length: int, split: Split) -> np.ndarray:
        """Rows of the clips of a split that have at least `length` frames; UserError when none."""
        return self._eligible(length, split)

    def _find_eligible(self, length: int, split: Split) -> np.ndarray:
        of_split = self.index["split"] == SPLITS.index(split)
        rows = np.flatnonzero(of_split & (self.index["length"] >= length))
        if not len(rows):
            raise UserError(
                f"no clip of {length} frames is {split} in dataset {self.info['dataset']} "
                f"({np.count_nonzero(of_split)} {split} clips in all); "
                "add videos, or change dataset.heldout or the length of the sequences"
            )
        return rows

    def read(self, clip: int, start: int, length: int) -> np.ndarray:
        """Frames (T, 64, 64, 3) of one clip, as a view of the file."""
        entry = self.index[clip]
        first = int(entry["offset"]) + start
        return self._shard(int(entry["shard"]))[first : first + length]

    def sample(
        self, seed: int, i: int, batch: int, length: int, split: Split = "train"
    ) -> np.ndarray:
        """Batch number i of the endless stream of a seed: uint8 (B, T, 64, 64, 3).

        Clips are uniform whatever their length, starts uniform over the valid ones, as in the
        reference. Nothing depends on earlier calls: resuming needs only i.
        """
        rng = np.random.default_rng([seed, i])
        clips = rng.choice(self.eligible(length, split), batch)
        starts = rng.integers(self.index["length"][clips] - length + 1)
        return self._gather(clips, starts, length)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation: uint8 (N, T, 64, 64, 3).

        From as many different clips as there are; always the same ones for the same arguments.
        """
        rng = np.random.default_rng(seed)
        clips = np.resize(rng.permutation(self.eligible(length, split)), n)
        starts = rng.integers(self.index["length"][clips] - length + 1)
        return self._gather(clips, starts, length)

    def _gather(self, clips: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        frames = np.empty((len(clips), length, *self.info["frame_shape"]), np.uint8)
        for row, clip, start in zip(frames, clips, starts, strict=True):
            row[:] = self.read(clip, start, length)
        return frames


def prefetch(
    store: ClipStore, seed: int, start: int, batch: int, length: int, split: Split = "train"
) -> Iterator[tuple[int, np.ndarray]]:
    """Endless (i, `store.sample(seed, i, ...)`) from i = start, read two ahead by one thread."""
    with ThreadPoolExecutor(1) as reader:
        ahead = deque()
        for i in count(start):
            ahead.append(reader.submit(store.sample, seed, i, batch, length, split))
            if len(ahead) > 2:
                yield i - 2, ahead.popleft().result()


AGAIN = "run `cwm clips` again"


def _require(path: Path, size: int) -> None:
    """UserError unless a file exists and has at least so many bytes."""
    if not path.exists():
        raise UserError(f"{path} is missing; {AGAIN}")
    if path.stat().st_size < size:
        raise UserError(f"{path} is too short ({path.stat().st_size} bytes); {AGAIN}")
