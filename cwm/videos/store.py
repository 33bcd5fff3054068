"""The clip store: random windows of decoded frames, read by offset.

Axes: B batch, T time, N windows; frames are uint8 (64, 64, 3).

`store.json`                  counts, geometry, checksums; written last
`index.npy`                   one INDEX entry per clip, sorted by name of the source file
`part-NNN/frames-NNNNN.npy`   shards of frames (`raw.py`), or `.h264` and `.packets` (`h264.py`)
`manifest.parquet`            every source file with its status; not read here
`actions.npy`, `rewards.npy`  of recorded episodes: a row for each frame of each clip, in order

The `store.json` of a mixture names other stores, its `members`, instead of shards.
"""

import resource
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property, lru_cache
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import sha256
from cwm.infra.parallel import parallel_map
from cwm.infra.store_json import MixtureInfo, Split, StoreInfo, StoreMember, read_store
from cwm.videos.codec import open_shard
from cwm.videos.ffmpeg import SIZE

SPLITS: tuple[Split, ...] = ("train", "heldout")
ALL = slice(None)
UNUSED = -1  # split of the clips that a mixture leaves out
INDEX = np.dtype(
    [("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("label", "<i4"), ("split", "i1")]
)  # label -1: none
# A store keeps a quarter of the files open that the system allows (`ulimit -n`, often 1024), at
# most two of a shard.
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
OPEN_SHARDS = 128 if LIMIT == resource.RLIM_INFINITY else LIMIT // 8
REMEDY = "run `cwm clips` again"
IMPORT = "run `cwm import` again"


class Steps(NamedTuple):
    """The steps of recorded episodes, one for each frame; the first of an episode are zero."""

    action: np.ndarray  # (..., A) float32, in -1..1 in a store; action[t] led to frame t
    reward: np.ndarray | None  # (...) float32, received with frame t; None: not recorded


class ClipStore:
    """Random access to the clips of one dataset."""

    def __init__(self, folder: Path, info: StoreInfo, index: np.ndarray) -> None:
        self.info = info
        self.labels = info["labels"]
        self.index = index
        self.split = index["split"]
        paths = [folder / name for name in info["shards"]]
        self._shard = lru_cache(OPEN_SHARDS)(lambda number: open_shard(paths[number]))
        self.eligible = cache(self._eligible)  # of (length, split)
        self._folder = folder

    @staticmethod
    def open(path: Path) -> "ClipStore | Mixture":
        """Open a `store.json`; UserError if one of its files is missing, truncated or replaced."""
        info = read_store(path)
        if "members" in info:
            return Mixture(info, [_open_member(path, m, info["seed"]) for m in info["members"]])
        for name, frames in info["shards"].items():
            open_shard(path.parent / name).check(frames)
        index = path.with_name("index.npy")
        if not index.is_file():
            raise UserError(f"{index} is missing; {REMEDY}")
        if sha256(index) != info["sha256"]["index"]:
            raise UserError(f"{index} does not match the sha256 in {path}; {REMEDY}")
        return ClipStore(path.parent, info, _read_index(index, info))

    def __len__(self) -> int:
        return len(self.index)

    def restrict(self, clips: int | None, heldout: int | None, seed: int) -> None:
        """Hold out `heldout` random clips, train on the others, and of these on `clips` only.

        None keeps all. A smaller choice is a subset of a larger one. UserError if there are fewer
        clips to train on.
        """
        rng = np.random.default_rng(seed)
        self.split = np.array(self.split)
        for split, kept, others in ((1, heldout, SPLITS.index("train")), (0, clips, UNUSED)):
            rows = rng.permutation(np.flatnonzero(self.split == split))
            if kept is None:
                continue
            if split == 0 and kept > len(rows):
                have = f"has {len(rows)} train clips, fewer than the {kept} of dataset.members"
                raise UserError(f"dataset {self.info['dataset']} {have}")
            self.split[rows[kept:]] = others

    def _eligible(self, length: int, split: Split) -> np.ndarray:
        """Rows of a split's clips with at least `length` frames; UserError if there are none."""
        of_split = self.split == SPLITS.index(split)
        rows = np.flatnonzero(of_split & (self.index["length"] >= length))
        if len(rows):
            return rows
        raise UserError(
            f"dataset {self.info['dataset']} has no {split} clip of {length} frames "
            f"({np.count_nonzero(of_split)} {split} clips in all); "
            "add videos, or change dataset.heldout or the length of the sequences"
        )

    def read(self, clip: int, start: int, length: int) -> np.ndarray:
        """Frames (T, 64, 64, 3) of one clip."""
        return self.windows_of(np.array([clip]), np.array([start]), length)[0]

    def different(self, length: int, split: Split = "heldout") -> int:
        """The largest number of windows that all come from different clips."""
        return len(self.eligible(length, split))

    def sample(
        self,
        seed: int,
        i: int,
        batch: int,
        length: int,
        split: Split = "train",
        share: slice = ALL,
    ) -> np.ndarray:
        """Batch i of a seed's endless stream, or a share of its rows: uint8 (B, T, 64, 64, 3).

        A pure function of its arguments, so resuming needs only i. Clips are equally likely,
        whatever their length, and so are the valid starts, as in the reference.
        """
        clips, starts = self.draw(seed, i, batch, length, split)
        return self.windows_of(clips[share], starts[share], length)

    def draw(
        self, seed: int, i: int, batch: int, length: int, split: Split = "train"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clips and first frames (B,) of the windows of batch i; see `sample`."""
        rng = np.random.default_rng([seed, i])
        clips = rng.choice(self.eligible(length, split), batch)
        return clips, self.starts(rng, clips, length)

    def starts(self, rng: np.random.Generator, clips: np.ndarray, length: int) -> np.ndarray:
        """Random first frames of windows of these clips.

        With `prioritize_ends`, starts are drawn beyond the last valid one, and clipped to it.
        """
        last = self.index["length"][clips] - length
        extra = length if self.info.get("prioritize_ends") else 0
        return np.minimum(rng.integers(last + 1 + extra), last)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation, from as many clips as possible: uint8 (N, T, 64, 64, 3)."""
        return self.windows_of(*self.fixed(n, length, split, seed), length)

    def fixed(
        self, n: int, length: int, split: Split = "heldout", seed: int = 0
    ) -> tuple[np.ndarray, np.ndarray]:
        """Clips and first frames (N,) of `windows`."""
        rng = np.random.default_rng(seed)
        clips = np.resize(rng.permutation(self.eligible(length, split)), n)
        return clips, rng.integers(self.index["length"][clips] - length + 1)

    @cached_property
    def steps(self) -> Steps:
        """The steps of all clips, one after another; UserError if the store has no actions."""
        where = self._folder / "store.json"
        if "experience" not in self.info:
            raise UserError(f"{where} holds videos without actions; `cwm import` writes actions")
        experience, frames = self.info["experience"], int(self.index["length"].sum())
        shapes = {"actions.npy": (frames, len(experience["low"])), "rewards.npy": (frames,)}
        arrays = {}
        for name, checksum in experience["sha256"].items():
            path = self._folder / name
            if not path.is_file() or sha256(path) != checksum:
                raise UserError(f"{path} does not match the sha256 in {where}; {IMPORT}")
            array = np.load(path)
            if (array.dtype, array.shape) != (np.float32, shapes[name]):
                given = f"{array.dtype} {array.shape}"
                raise UserError(f"{path} is {given}, not float32 {shapes[name]}; {IMPORT}")
            arrays[name] = array
        if "actions.npy" not in arrays:
            raise UserError(f"{where} lacks the sha256 of actions.npy; {IMPORT}")
        return Steps(arrays["actions.npy"], arrays.get("rewards.npy"))

    def steps_of(self, clips: np.ndarray, starts: np.ndarray, length: int) -> Steps:
        """Steps (N, T, ...) of windows of these clips from these first frames."""
        before = np.cumsum(self.index["length"], dtype=np.int64) - self.index["length"]
        rows = (before[clips] + starts)[:, None] + np.arange(length)
        action, reward = self.steps
        return Steps(action[rows], None if reward is None else reward[rows])

    def windows_of(self, clips: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
        """Windows (N, T, 64, 64, 3) of these clips from these first frames."""
        frames = np.empty((len(clips), length, SIZE, SIZE, 3), np.uint8)
        for row, entry, start in zip(frames, self.index[clips], starts, strict=True):
            self._shard(int(entry["shard"])).read(int(entry["offset"]) + int(start), row)
        return frames


class Mixture:
    """Several stores read as one: each row of a batch draws a store, then a clip of it.

    As in the reference, `wmlib/datasets/video/utils.py`, the clip number is drawn below the total
    number of clips, then taken modulo the number of clips in that store.
    """

    def __init__(self, info: MixtureInfo, members: Sequence[ClipStore]) -> None:
        self.info = info
        self.members = members
        weights = np.array([member["weight"] for member in info["members"]])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return sum(self.info["clips"].values())

    def sample(
        self,
        seed: int,
        i: int,
        batch: int,
        length: int,
        split: Split = "train",
        share: slice = ALL,
    ) -> np.ndarray:
        """Batch i of a seed's endless stream, or a share of its rows: uint8 (B, T, 64, 64, 3)."""
        rng = np.random.default_rng([seed, i])
        rows = [member.eligible(length, split) for member in self.members]
        of = rng.choice(len(rows), batch, p=self.weights)
        number = rng.integers(sum(map(len, rows)), size=batch)
        wanted = np.arange(batch)[share]
        frames = np.empty((len(wanted), length, SIZE, SIZE, 3), np.uint8)
        for m, member in enumerate(self.members):
            here = np.flatnonzero(of == m)
            clips = rows[m][number[here] % len(rows[m])]
            starts = member.starts(rng, clips, length)
            _, into, read = np.intersect1d(wanted, here, assume_unique=True, return_indices=True)
            frames[into] = member.windows_of(clips[read], starts[read], length)
        return frames

    def different(self, length: int, split: Split = "heldout") -> int:
        """The largest number of `windows` that all come from different clips."""
        return len(self.members) * min(m.different(length, split) for m in self.members)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation, in turn from each store: uint8 (N, T, 64, 64, 3)."""
        each = -(-n // len(self.members))
        windows = [member.windows(each, length, split, seed) for member in self.members]
        return np.stack(windows, 1).reshape(-1, *windows[0].shape[1:])[:n]


def _read_index(path: Path, info: StoreInfo) -> np.ndarray:
    """Read the index of a store; UserError unless every clip lies in a shard."""
    try:
        index = np.load(path, mmap_mode="r")
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path} is damaged ({error}); {REMEDY}") from error
    if index.dtype != INDEX or index.ndim != 1:
        raise UserError(
            f"{path} is {index.dtype} {index.shape}, expected {INDEX} (clips,); {REMEDY}"
        )
    ends = np.array([0, *info["shards"].values()])
    for begin in range(0, len(index), 2**20):  # in blocks, to bound the memory
        clips = index[begin : begin + 2**20]
        good = (clips["shard"] >= 0) & (clips["shard"] < len(ends) - 1)
        good &= (clips["offset"] >= 0) & (clips["length"] > 0)
        good &= clips["offset"] <= ends[np.where(good, clips["shard"] + 1, 0)] - clips["length"]
        good &= (clips["label"] >= -1) & (clips["label"] < len(info["labels"]))
        if not good.all():
            number = begin + np.argmin(good)
            raise UserError(f"{path}: clip {number} is outside the shards of the store; {REMEDY}")
    return index


def _open_member(path: Path, member: StoreMember, seed: int) -> ClipStore:
    store = ClipStore.open(where := path.parent / member["store"])
    if isinstance(store, Mixture):
        raise UserError(f"{where} is a mixture, which cannot be a member of another one")
    if store.info["sha256"].get("content") != member["content"]:
        raise UserError(f"{where} has changed since {path} was written; run `cwm clips` again")
    store.restrict(member["clips"], member["heldout"], seed)
    return store


def prefetch(
    store: ClipStore | Mixture,
    seed: int,
    start: int,
    batch: int,
    length: int,
    device: str = "cpu",
    share: slice = ALL,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (i, a share of batch i of the seed's training clips, on the device); see `ahead`."""

    def read(i: int) -> dict[str, np.ndarray]:
        return {"image": store.sample(seed, i, batch, length, share=share)}

    return ((i, arrays["image"]) for i, arrays in ahead(read, start, device))


def ahead(
    read: Callable[[int], dict[str, np.ndarray]], start: int, device: str
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """Yield (i, the arrays `read(i)` on the device) for i = start, start + 1, ...

    One thread reads two batches ahead. For a GPU it pins their memory, so that copies are
    asynchronous; at most three are in flight, which bounds the pinned memory.
    """
    cuda = device == "cuda"

    def tensors(i: int) -> dict[str, torch.Tensor]:
        arrays = {name: torch.from_numpy(array) for name, array in read(i).items()}
        return {name: x.pin_memory() for name, x in arrays.items()} if cuda else arrays

    copies: deque[torch.cuda.Event] = deque()
    for i, batch in zip(count(start), parallel_map(tensors, count(start), 1), strict=True):
        on_device = {name: x.to(device, non_blocking=True) for name, x in batch.items()}
        if cuda:
            copies.append(torch.cuda.current_stream().record_event())
            if len(copies) > 3:
                copies.popleft().synchronize()
        yield i, on_device
