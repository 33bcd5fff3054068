"""The index of a clip store: where each clip's frames are, and which clips may be drawn.

A large index is divided into blocks of rows. `store.json` has the sha256 of each block, and its
number of clips of every length. So opening a store reads none of them, and a clip is drawn in two
steps: a block, by its number of eligible clips, then one of them. Clips are equally likely, and the
number of a clip among all eligible ones is the same as in an index without blocks.
"""

import hashlib
from functools import cache, cached_property, lru_cache
from pathlib import Path

import numpy as np

from cwm.infra.errors import DAMAGED_ARRAYS, UserError
from cwm.infra.files import sha256
from cwm.infra.store_json import IndexBlock, Split, StoreInfo

SPLITS: tuple[Split, ...] = ("train", "heldout")
UNUSED = -1  # split of the clips that a mixture leaves out
INDEX = np.dtype(
    [("shard", "<i4"), ("offset", "<i8"), ("length", "<i4"), ("label", "<i4"), ("split", "i1")]
)  # label -1: none
BLOCK = 2**16  # rows
KEPT = 1024  # blocks whose eligible rows stay in memory, 2 bytes for each clip
REMEDY = "run `cwm clips` again"


def read_entries(path: Path) -> np.ndarray:
    """Map an `index.npy` into memory; UserError if it is none."""
    try:
        entries = np.load(path, mmap_mode="r")
    except DAMAGED_ARRAYS as error:
        raise UserError(f"{path} is damaged ({error}); {REMEDY}") from error
    if entries.dtype != INDEX or entries.ndim != 1:
        shape = f"{entries.dtype} {entries.shape}"
        raise UserError(f"{path} is {shape}, expected {INDEX} (clips,); {REMEDY}")
    return entries


def describe_blocks(entries: np.ndarray) -> list[IndexBlock]:
    """The blocks of an index; none if it has one block only, which is read as a whole."""
    if len(entries) <= BLOCK:
        return []
    blocks = (entries[begin : begin + BLOCK] for begin in range(0, len(entries), BLOCK))
    return [{"sha256": _sha256(block), "lengths": _lengths(block)} for block in blocks]


class Index:
    """The entries (clips,) of a store; a block is verified when it is first read."""

    def __init__(self, folder: Path, info: StoreInfo, entries: np.ndarray) -> None:
        self._path, self._info, self._entries = folder / "index.npy", info, entries
        self._blocks = info.get("blocks", [])
        size = BLOCK if self._blocks else max(len(entries), 1)
        self._begins = np.arange(0, max(len(entries), 1), size)
        self._size = size
        self._used: np.ndarray | None = None  # the splits, if a part of the clips is used
        self._frames = np.array([0, *info["shards"].values()])  # of shard i - 1
        self.count = cache(self._count)
        self._verify = cache(self._verify_block)
        self._cumulative = cache(self._count_blocks)
        self._rows = lru_cache(KEPT)(self._eligible)

    def __len__(self) -> int:
        return len(self._entries)

    def check(self) -> None:
        """UserError unless the file fits its description; a file without blocks is read."""
        store = self._path.with_name("store.json")
        if not self._blocks:
            if sha256(self._path) != self._info["sha256"]["index"]:
                raise UserError(f"{self._path} does not match the sha256 in {store}; {REMEDY}")
            self._check_entries(0)
            return
        counts = [sum(sum(x.values()) for x in block["lengths"].values()) for block in self._blocks]
        sizes = [len(self._entries[begin : begin + self._size]) for begin in self._begins]
        if counts != sizes:
            raise UserError(f"{self._path} does not have the clips of {store}; {REMEDY}")

    def use(self, split: np.ndarray) -> None:
        """Replace the splits (clips,) of the file; UNUSED leaves a clip out."""
        self._used = split
        for cached in (self.count, self._cumulative, self._rows):
            cached.cache_clear()

    @property
    def is_whole(self) -> bool:
        """Whether all clips are used, with the splits of the file."""
        return self._used is None

    @property
    def split(self) -> np.ndarray:
        """The split (clips,) of every clip, a number in SPLITS, or UNUSED."""
        return self.all["split"] if self._used is None else self._used

    @cached_property
    def all(self) -> np.ndarray:
        """The entries of all clips, verified."""
        for block in range(len(self._blocks)):
            self._verify(block)
        return self._entries

    def entries(self, rows: np.ndarray) -> np.ndarray:
        """The entries of these rows, verified."""
        if self._blocks:
            for block in np.unique(rows // self._size):
                self._verify(int(block))
        return self._entries[rows]

    def pick(self, numbers: np.ndarray, length: int, split: Split) -> np.ndarray:
        """Rows of the clips with these numbers among those of at least `length` frames."""
        ends = self._cumulative(length, split)
        of = np.searchsorted(ends, numbers, "right")
        rows = np.empty(len(numbers), np.int64)
        for block in np.unique(of):
            here = of == block
            eligible = self._rows(int(block), length, split)
            before = ends[block - 1] if block else 0
            if len(eligible) != ends[block] - before:
                store = self._path.with_name("store.json")
                raise UserError(f"{store} counts other clips than {self._path} has; {REMEDY}")
            rows[here] = eligible[numbers[here] - before]
            rows[here] += self._begins[block]
        return rows

    def _count(self, length: int, split: Split) -> int:
        """Number of a split's clips with at least `length` frames; UserError if there are none."""
        if count := int(self._cumulative(length, split)[-1]):
            return count
        raise UserError(
            f"dataset {self._info['dataset']} has no {split} clip of {length} frames "
            f"({self._cumulative(0, split)[-1]} {split} clips in all); "
            "add videos, or change dataset.heldout or the length of the sequences"
        )

    def _count_blocks(self, length: int, split: Split) -> np.ndarray:
        """Number of eligible clips in all blocks up to each block."""
        if self._blocks and self._used is None:
            of_split = (block["lengths"].get(split, {}) for block in self._blocks)
            counts = [sum(n for frames, n in x.items() if frames >= length) for x in of_split]
        else:
            blocks = range(len(self._begins))
            counts = [len(self._rows(block, length, split)) for block in blocks]
        return np.cumsum(counts)

    def _eligible(self, block: int, length: int, split: Split) -> np.ndarray:
        """Eligible rows of a block, counted from its begin."""
        if self._blocks:
            self._verify(block)
        rows = slice(self._begins[block], self._begins[block] + self._size)
        used = self._entries["split"] if self._used is None else self._used
        of_split = used[rows] == SPLITS.index(split)
        eligible = np.flatnonzero(of_split & (self._entries["length"][rows] >= length))
        return eligible.astype(np.min_scalar_type(self._size - 1))

    def _verify_block(self, block: int) -> None:
        begin = self._begins[block]
        if _sha256(self._entries[begin : begin + self._size]) != self._blocks[block]["sha256"]:
            raise UserError(
                f"{self._path}: clips {begin} to {begin + self._size - 1} do not match the sha256"
                f" in {self._path.with_name('store.json')}; {REMEDY}"
            )
        self._check_entries(block)

    def _check_entries(self, block: int) -> None:
        """UserError unless every clip of a block lies in a shard."""
        begin, end = self._begins[block], self._begins[block] + self._size
        for first in range(begin, min(end, len(self._entries)), 2**20):  # bounds the memory
            clips = self._entries[first : min(first + 2**20, end)]
            good = (clips["shard"] >= 0) & (clips["shard"] < len(self._frames) - 1)
            good &= (clips["offset"] >= 0) & (clips["length"] > 0)
            ends = self._frames[np.where(good, clips["shard"] + 1, 0)]
            good &= clips["offset"] <= ends - clips["length"]
            good &= (clips["label"] >= -1) & (clips["label"] < len(self._info["labels"]))
            if not good.all():
                number = first + np.argmin(good)
                place = "outside the shards of the store"
                raise UserError(f"{self._path}: clip {number} is {place}; {REMEDY}")


def _sha256(block: np.ndarray) -> str:
    return hashlib.sha256(block.tobytes()).hexdigest()


def _lengths(block: np.ndarray) -> dict[Split, dict[int, int]]:
    """Number of clips by split and by number of frames."""
    of_split = (block["length"][block["split"] == i] for i in range(len(SPLITS)))
    counts = (np.unique(lengths, return_counts=True) for lengths in of_split)
    pairs = (zip(frames.tolist(), clips.tolist(), strict=True) for frames, clips in counts)
    return dict(zip(SPLITS, map(dict, pairs), strict=True))
