"""The clip store: random windows of decoded frames, read by offset.

Axes: B batch, T time, N windows; frames are uint8 (64, 64, 3).

`store.json`                  counts, geometry, checksums; written last
`index.npy`                   one INDEX entry per clip, sorted by name of the source file; index.py
`part-NNN/frames-NNNNN.npy`   shards of frames (`raw.py`), or `.h264` and `.packets` (`h264.py`)
`manifest.parquet`            every source file with its status; not read here
`actions.npy`, `rewards.npy`  of recorded episodes: a row for each frame of each clip, in order

The `store.json` of a mixture names other stores, its `members`, instead of shards.
"""

import re
import resource
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cwm.infra.errors import UserError
from cwm.infra.files import sha256
from cwm.infra.store_json import MixtureInfo, Split, StoreInfo, StoreMember, read_store
from cwm.videos.codec import open_shard
from cwm.videos.ffmpeg import SIZE
from cwm.videos.index import REMEDY, SPLITS, UNUSED, Index, read_entries

ALL = slice(None)
# A store keeps a quarter of the files open that the system allows (`ulimit -n`, often 1024), at
# most two of a shard.
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
OPEN_SHARDS = 128 if LIMIT == resource.RLIM_INFINITY else LIMIT // 8
IMPORT = "run `cwm import` again"


class Steps(NamedTuple):
    """The steps of recorded episodes, one for each frame; the first of an episode are zero."""

    action: np.ndarray  # (..., A) float32, in -1..1 in a store; action[t] led to frame t
    reward: np.ndarray | None  # (...) float32, received with frame t; None: not recorded


class ClipStore:
    """Random access to the clips of one dataset."""

    def __init__(self, folder: Path, info: StoreInfo, entries: np.ndarray) -> None:
        self.info = info
        self.labels = info["labels"]
        self._index = Index(folder, info, entries)
        paths = [folder / name for name in info["shards"]]
        self._shard = lru_cache(OPEN_SHARDS)(lambda number: open_shard(paths[number]))
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
        store = ClipStore(path.parent, info, read_entries(index))
        store._index.check()
        return store

    def __len__(self) -> int:
        return len(self._index)

    @property
    def index(self) -> np.ndarray:
        """The entries of all clips, INDEX; of a few clips, `entries` reads less."""
        return self._index.all

    @property
    def split(self) -> np.ndarray:
        """The split of every clip, a number in SPLITS, or UNUSED."""
        return self._index.split

    def totals(self) -> tuple[dict[Split, int], int]:
        """Number of clips of each split, and number of frames, without those left out."""
        if self._index.is_whole:
            return {x: self.info["clips"].get(x, 0) for x in SPLITS}, self.info["frames"]
        clips = {split: int((self.split == i).sum()) for i, split in enumerate(SPLITS)}
        return clips, int(self.index["length"][self.split != UNUSED].sum())

    def entries(self, clips: np.ndarray) -> np.ndarray:
        """The entries of these clips, INDEX."""
        return self._index.entries(clips)

    def restrict(self, clips: int | None, heldout: int | None, seed: int) -> None:
        """Hold out `heldout` random clips, train on the others, and of these on `clips` only.

        None keeps all. A smaller choice is a subset of a larger one. UserError if there are fewer
        clips to train on.
        """
        if clips is None and heldout is None:
            return
        rng = np.random.default_rng(seed)
        chosen = np.array(self.split)
        for split, kept, others in ((1, heldout, SPLITS.index("train")), (0, clips, UNUSED)):
            rows = rng.permutation(np.flatnonzero(chosen == split))
            if kept is None:
                continue
            if split == 0 and kept > len(rows):
                have = f"has {len(rows)} train clips, fewer than the {kept} of dataset.members"
                raise UserError(f"dataset {self.info['dataset']} {have}")
            chosen[rows[kept:]] = others
        self._index.use(chosen)

    def eligible(self, length: int, split: Split) -> np.ndarray:
        """Rows of a split's clips with at least `length` frames; UserError if there are none."""
        return self._index.pick(np.arange(self.different(length, split)), length, split)

    def use_parts(self, parts: Sequence[int]) -> None:
        """Leave out the clips that other parts decoded, as in a store of these parts only.

        UserError if the store lacks one of the parts, or may lack clips of theirs.
        """
        where = self._folder / "store.json"
        stored = self.info.get("parts")
        if stored is not None and (lacking := {*parts} - {*stored}):
            raise UserError(
                f"{where} has no clips of part {min(lacking)}; it has those of {stored}"
            )
        if stored == sorted(parts):
            return
        if self.info.get("videos", {}).get("duplicate"):
            raise UserError(
                f"{where} lacks duplicates, whose first files may be in other parts; build a store "
                "with `cwm clips --set dataset.only_parts`"
            )
        of_shard = np.array([_part_of_shard(name) for name in self.info["shards"]])
        kept = np.isin(of_shard[self.index["shard"]], parts)
        self._index.use(np.where(kept, self.split, UNUSED))

    def read(self, clip: int, start: int, length: int) -> np.ndarray:
        """Frames (T, 64, 64, 3) of one clip."""
        return self.windows_of(np.array([clip]), np.array([start]), length)[0]

    def different(self, length: int, split: Split = "heldout") -> int:
        """The largest number of windows that all come from different clips."""
        return self._index.count(length, split)

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
        clips = self.pick(rng.integers(self.different(length, split), size=batch), length, split)
        return clips, self.starts(rng, clips, length)

    def pick(self, numbers: np.ndarray, length: int, split: Split) -> np.ndarray:
        """Rows of the clips with these numbers, among the eligible ones: `eligible()[numbers]`."""
        return self._index.pick(numbers, length, split)

    def starts(self, rng: np.random.Generator, clips: np.ndarray, length: int) -> np.ndarray:
        """Random first frames of windows of these clips.

        With `prioritize_ends`, starts are drawn beyond the last valid one, and clipped to it.
        """
        last = self.entries(clips)["length"] - length
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
        numbers = np.resize(rng.permutation(self.different(length, split)), n)
        clips = self.pick(numbers, length, split)
        return clips, rng.integers(self.entries(clips)["length"] - length + 1)

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
        for row, entry, start in zip(frames, self.entries(clips), starts, strict=True):
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
        counts = [member.different(length, split) for member in self.members]
        of = rng.choice(len(counts), batch, p=self.weights)
        number = rng.integers(sum(counts), size=batch)
        wanted = np.arange(batch)[share]
        frames = np.empty((len(wanted), length, SIZE, SIZE, 3), np.uint8)
        for m in np.unique(of):
            member, here = self.members[m], np.flatnonzero(of == m)
            clips = member.pick(number[here] % counts[m], length, split)
            starts = member.starts(rng, clips, length)
            _, into, read = np.intersect1d(wanted, here, assume_unique=True, return_indices=True)
            frames[into] = member.windows_of(clips[read], starts[read], length)
        return frames

    def use_parts(self, parts: Sequence[int]) -> None:
        """UserError: members have parts of their own."""
        name = self.info["dataset"]
        raise UserError(f"{name} is a mixture: set first_parts of its members, not only_parts")

    def different(self, length: int, split: Split = "heldout") -> int:
        """The largest number of `windows` that all come from different clips."""
        return len(self.members) * min(m.different(length, split) for m in self.members)

    def windows(self, n: int, length: int, split: Split = "heldout", seed: int = 0) -> np.ndarray:
        """Fixed windows for evaluation, in turn from each store: uint8 (N, T, 64, 64, 3)."""
        each = -(-n // len(self.members))
        windows = [member.windows(each, length, split, seed) for member in self.members]
        return np.stack(windows, 1).reshape(-1, *windows[0].shape[1:])[:n]


def _part_of_shard(name: str) -> int:
    part = re.fullmatch(r"part-(\d+)", Path(name).parent.name)
    return int(part[1]) if part else -1


def _open_member(path: Path, member: StoreMember, seed: int) -> ClipStore:
    store = ClipStore.open(where := path.parent / member["store"])
    if isinstance(store, Mixture):
        raise UserError(f"{where} is a mixture, which cannot be a member of another one")
    if store.info["sha256"].get("content") != member["content"]:
        raise UserError(f"{where} has changed since {path} was written; run `cwm clips` again")
    store.restrict(member["clips"], member["heldout"], seed)
    return store
