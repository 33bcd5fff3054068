"""The clip store: decoded frames on disk, and random windows of them by offset.

Axes: B batch, T time; frames are uint8 (64, 64, 3).

`store.json`                  counts, geometry, checksums; written last, it vouches for the rest
`index.npy`                   one INDEX entry per clip, sorted by name of the source
`part-NNN/frames-NNNNN.npy`   shards (N, 64, 64, 3), read by offset
`manifest.parquet`            every source and what became of it; for people, not read here

A store may also be made of others: its `store.json` then has `members` in the place of shards.
"""

import os
import resource
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import numpy as np
import torch
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import sha256
from cwm.infra.parallel import parallel_map
from cwm.videos.datasets import Split, Text
from cwm.videos.ffmpeg import SIZE

HEADER = 128  # bytes of a shard before its first frame
SPLITS: tuple[Split, ...] = ("train", "heldout")
UNUSED = -1  # the split of clips that a store made of others leaves out
INDEX = np.dtype(
    [("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("label", "<i4"), ("split", "i1")]
)  # label -1: none
# At a time; systems allow 1024 open files (`ulimit -n`), and each store takes a quarter of them.
OPEN_SHARDS = max(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
AGAIN = "run `cwm clips` again"


class _Checksums(TypedDict):
    index: str
    manifest: str
    content: NotRequired[str]


class _Store(TypedDict):
    """What must be in a `store.json`."""

    __pydantic_config__ = ConfigDict(extra="allow")
    dataset: str
    labels: list[Text]
    frame_shape: tuple[Literal[64], Literal[64], Literal[3]]
    frame_bytes: Literal[12288]
    shards: dict[str, NonNegativeInt]  # frames
    sha256: _Checksums


class _Member(TypedDict):
    dataset: str
    weight: PositiveFloat
    clips: PositiveInt | None
    heldout: PositiveInt | None
    store: str
    content: str


class _Mixed(TypedDict):
    """The same of a store made of others."""

    __pydantic_config__ = ConfigDict(extra="allow")
    dataset: str
    seed: NonNegativeInt
    members: Annotated[list[_Member], Field(min_length=1)]
    clips: dict[Split, NonNegativeInt]
    sha256: dict[str, str]


class Shard:
    """An open file of frames. Reads do not disturb each other, whichever thread they are in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)

    def read(self, offset: int, out: np.ndarray) -> None:
        """Fill `out` (T, 64, 64, 3) with the frames from number `offset` on."""
        start = HEADER + offset * out[0].nbytes
        if os.preadv(self._file.fileno(), [out], start) != out.nbytes:
            raise UserError(f"{self.path} ends before frame {offset + len(out)}; {AGAIN}")


class ClipStore:
    """Random access to the clips of one dataset."""

    def __init__(self, folder: Path, info: dict[str, Any], index: np.ndarray) -> None:
        self.info = info
        self.labels: list[str] = info["labels"]
        self.index = index
        self.split = index["split"]
        paths = [folder / name for name in info["shards"]]
        self._shard = lru_cache(OPEN_SHARDS)(lambda number: Shard(paths[number]))
        self.eligible = cache(self._eligible)  # of (length, split)

    @staticmethod
    def open(path: Path) -> "ClipStore | Mixture":
        """Open a store by its `store.json`; UserError where a file is missing, short or another."""
        remedy = "`cwm clips` writes it"
        if "members" in json_file.read(path, remedy=remedy):
            info = json_file.read(path, _Mixed, remedy)
            return Mixture(info, [_open_member(path, m, info["seed"]) for m in info["members"]])
        info = json_file.read(path, _Store, remedy)
        bytes_of = {name: HEADER + n * info["frame_bytes"] for name, n in info["shards"].items()}
        for name, size in {"index.npy": 1, **bytes_of}.items():
            file = path.parent / name
            if not file.is_file():
                raise UserError(f"{file} is missing; {AGAIN}")
            if file.stat().st_size < size:
                raise UserError(f"{file} is too short ({file.stat().st_size} bytes); {AGAIN}")
        index = path.with_name("index.npy")
        if sha256(index) != info["sha256"]["index"]:
            raise UserError(f"{index} is not the one {path} was written for; {AGAIN}")
        return ClipStore(path.parent, info, _read_index(index, info))

    def __len__(self) -> int:
        return len(self.index)

    def restrict(self, clips: int | None, heldout: int | None, seed: int) -> None:
        """Train on `clips` clips only, and hold out at most `heldout`; the others are trained on.

        Clips are drawn at random, the fewer among the more. UserError when there are not as many
        to train on.
        """
        rng = np.random.default_rng(seed)
        self.split = np.array(self.split)
        for split, kept, others in ((1, heldout, SPLITS.index("train")), (0, clips, UNUSED)):
            rows = rng.permutation(np.flatnonzero(self.split == split))
            if kept is None:
                continue
            if split == 0 and kept > len(rows):
                what = f"train clips of dataset {self.info['dataset']}"
                raise UserError(f"{kept} {what} were asked for, there are {len(rows)}")
            self.split[rows[kept:]] = others

    def _eligible(self, length: int, split: Split) -> np.ndarray:
        """Rows of the clips of a split that have at least `length` frames; UserError when none."""
        of_split = self.split == SPLITS.index(split)
        rows = np.flatnonzero(of_split & (self.index["length"] >= length))
        if len(rows):
            return rows
        raise UserError(
            f"no clip of {length} frames is {split} in dataset {self.info['dataset']} "
            f"({np.count_nonzero(of_split)} {split} clips in all); "
            "add videos, or change dataset.heldout or the length of the sequences"
        )

    def read(self, clip: int, start: int, length: int) -> np.ndarray:
        """Frames (T, 64, 64, 3) of one clip."""
        return self.windows_of(np.array([clip]), np.array([start]), length)[0]

    def different(self, length: int, split: Split = "heldout") -> int:
        """How many windows come from different clips, at most."""
        return len(self.eligible(length, split))

    def sample(
        self, seed: int, i: int, batch: int, length: int, split: Split = "train"
    ) -> np.ndarray:
        """Batch number i of the endless stream of a seed: uint8 (B, T, 64, 64, 3).

        Clips are uniform whatever their length, starts uniform over the valid ones, as in the
        reference. Nothing depends on earlier calls: resuming needs only i.
        """
        rng = np.random.default_rng([seed, i])
        clips = rng.choice(self.eligible(length, split), batch)
        return self.windows_of(clips, self.starts(rng, clips, length), length)

    def starts(self, rng: np.random.Generator, clips: np.ndarray, length: int) -> np.ndarray:
        """Random first frames of windows of these clips.

        With `prioritize_ends`, as for recorded episodes, a start past the last valid one becomes
        that one.
        """
        last = self.index["length"][clips] - length
        extra = length if self.info.get("prioritize_ends") else 0
        return np.minimum(rng.integers(last + 1 + extra), last)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation: uint8 (N, T, 64, 64, 3).

        From as many different clips as there are; always the same ones for the same arguments.
        """
        rng = np.random.default_rng(seed)
        clips = np.resize(rng.permutation(self.eligible(length, split)), n)
        starts = rng.integers(self.index["length"][clips] - length + 1)
        return self.windows_of(clips, starts, length)

    def windows_of(self, clips: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        """The windows (N, T, 64, 64, 3) that begin at these frames of these clips."""
        frames = np.empty((len(clips), length, *self.info["frame_shape"]), np.uint8)
        for row, entry, start in zip(frames, self.index[clips], starts, strict=True):
            self._shard(int(entry["shard"])).read(int(entry["offset"]) + int(start), row)
        return frames


class Mixture:
    """Several stores read as one: for every row of a batch one is drawn, then a clip of it.

    Reference: `wmlib/datasets/video/utils.py`, whose clip number is drawn below the sum of the
    stores' lengths and taken modulo the length of the store.
    """

    def __init__(self, info: dict[str, Any], members: Sequence[ClipStore]) -> None:
        self.info = info
        self.members = members
        weights = np.array([member["weight"] for member in info["members"]])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return sum(self.info["clips"].values())

    def sample(
        self, seed: int, i: int, batch: int, length: int, split: Split = "train"
    ) -> np.ndarray:
        """Batch number i of the endless stream of a seed: uint8 (B, T, 64, 64, 3)."""
        rng = np.random.default_rng([seed, i])
        rows = [member.eligible(length, split) for member in self.members]
        of = rng.choice(len(rows), batch, p=self.weights)
        number = rng.integers(sum(map(len, rows)), size=batch)
        frames = np.empty((batch, length, SIZE, SIZE, 3), np.uint8)
        for m, member in enumerate(self.members):
            here = np.flatnonzero(of == m)
            clips = rows[m][number[here] % len(rows[m])]
            frames[here] = member.windows_of(clips, member.starts(rng, clips, length), length)
        return frames

    def different(self, length: int, split: Split = "heldout") -> int:
        """How many windows come from different clips, at most, in turn from each store."""
        return len(self.members) * min(m.different(length, split) for m in self.members)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation, in turn from each store: uint8 (N, T, 64, 64, 3)."""
        each = -(-n // len(self.members))
        windows = [member.windows(each, length, split, seed) for member in self.members]
        return np.stack(windows, 1).reshape(-1, *windows[0].shape[1:])[:n]


def _read_index(path: Path, info: "_Store") -> np.ndarray:
    """The clips of a store, each of which lies in one of its shards."""
    try:
        index = np.load(path, mmap_mode="r")
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path} is damaged ({error}); {AGAIN}") from error
    if index.dtype != INDEX or index.ndim != 1:
        raise UserError(f"{path} is {index.dtype} {index.shape}, not a list of clips; {AGAIN}")
    ends = np.array([0, *info["shards"].values()])  # the last one for index -1
    for begin in range(0, len(index), 2**20):  # not all at once, they may be many
        clips = index[begin : begin + 2**20]
        good = (clips["shard"] >= 0) & (clips["shard"] < len(ends) - 1)
        good &= (clips["offset"] >= 0) & (clips["length"] > 0)
        good &= clips["offset"] <= ends[np.where(good, clips["shard"] + 1, 0)] - clips["length"]
        good &= (clips["label"] >= -1) & (clips["label"] < len(info["labels"]))
        if not good.all():
            number = begin + np.argmin(good)
            raise UserError(f"{path}: clip {number} lies in no shard of the store; {AGAIN}")
    return index


def _open_member(path: Path, member: "_Member", seed: int) -> ClipStore:
    store = ClipStore.open(where := path.parent / member["store"])
    if isinstance(store, Mixture):
        raise UserError(f"{where} is a mixture, of which none is made")
    if store.info["sha256"].get("content") != member["content"]:
        raise UserError(f"{where} has changed since {path}; `cwm mix` again")
    store.restrict(member["clips"], member["heldout"], seed)
    return store


def prefetch(
    store: ClipStore | Mixture, seed: int, start: int, batch: int, length: int, device: str = "cpu"
) -> Iterator[tuple[int, torch.Tensor]]:
    """Endless (i, batch i of the seed's training clips) from i = start, on the device.

    One thread reads two ahead. For a GPU it pins the memory, so that the host does not wait for
    the copy; the host may be three copies ahead of the GPU, so that few pinned batches exist.
    """
    cuda = device == "cuda"

    def read(i: int) -> torch.Tensor:
        frames = torch.from_numpy(store.sample(seed, i, batch, length))
        return frames.pin_memory() if cuda else frames

    copies = deque()
    for i, frames in zip(count(start), parallel_map(read, count(start), 1), strict=True):
        on_device = frames.to(device, non_blocking=True)
        if cuda:
            copies.append(torch.cuda.current_stream().record_event())
            if len(copies) > 3:
                copies.popleft().synchronize()
        yield i, on_device
