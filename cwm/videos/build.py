"""Build the clip store that training reads from decoded parts, or from other stores.

The rows of a store may exceed the memory, so they are read twice, a group at a time.
"""

import hashlib
import itertools
import json
import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write, read_lines, relative, sha256, write_json
from cwm.infra.store_json import MixtureInfo, StoreInfo, Text
from cwm.videos.datasets import DatasetConfig, read_videos
from cwm.videos.decode import key, part_folder, part_of
from cwm.videos.ffmpeg import SIZE
from cwm.videos.shards import CheckedStored, Stored, shard_name
from cwm.videos.store import INDEX, SPLITS, UNUSED, ClipStore, Mixture

log = logging.getLogger(__name__)
WORDS = ("file", "sha256", "status", "reason", "split", "label")
NUMBERS = ("bytes", "width", "height", "frames")
COLUMNS = dict.fromkeys(WORDS, pa.string()) | dict.fromkeys(NUMBERS, pa.int64())
MANIFEST = pa.schema(COLUMNS | {"seconds": pa.float64()})
GROUP = 1024  # rows in memory at once, and in a row group of the manifest
SHEET = (6, 10)  # rows and columns of the contact sheet
Row = dict[str, Any]


def make_clips(name: str, cfg: DatasetConfig, videos: Path, out: Path) -> None:
    """Build a store from the decoded parts of `videos`, a `videos.jsonl`; `store.json` comes last.

    `manifest.parquet` lists every file: ok, too short, a duplicate, or failed with its reason.
    Raises UserError if more files fail than `cfg.max_failures` allows, or no clip is left.
    """
    labels, shards, moved = _survey(cfg, _rows(cfg, videos, out))
    tally = _Tally(labels, shards)
    rows = (row | moved.get(row["file"], {}) for row in _rows(cfg, videos, out))
    with atomic_write(out / "manifest.parquet") as part, ParquetWriter(part, MANIFEST) as manifest:
        while group := list(itertools.islice(rows, GROUP)):
            tally.add(group)
            for row in group:
                row |= {word: _printable(row[word]) for word in WORDS if row[word] is not None}
            manifest.write_table(pa.Table.from_pylist(group, MANIFEST))
    tally.check(name, cfg, out)
    index = np.concatenate(tally.index)
    with atomic_write(out / "index.npy") as part, part.open("wb") as file:
        np.save(file, index)
    info: StoreInfo = {
        "dataset": name,
        "geometry": key(cfg),
        "min_frames": cfg.min_frames,
        "prioritize_ends": cfg.prioritize_ends,
        "heldout": cfg.heldout,
        "frame_shape": (64, 64, 3),
        "frame_bytes": 12288,
        "videos": dict(sorted(tally.statuses.items())),
        "reasons": dict(tally.reasons),
        "clips": {split: int((index["split"] == i).sum()) for i, split in enumerate(SPLITS)},
        "frames": int(index["length"].sum()),
        "seconds": tally.seconds,
        "bytes": tally.bytes,
        "sizes": dict(tally.sizes.most_common(5)),
        "labels": [_printable(label) for label in labels],
        "variety": {name: len(values) for name, values in sorted(tally.variety.items())},
        "shards": shards,
        "sha256": {
            "content": tally.content.hexdigest(),
            "index": sha256(out / "index.npy"),
            "manifest": sha256(out / "manifest.parquet"),
        },
    }
    write_contact_sheet(ClipStore(out, info, index), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips, %d frames", name, len(index), info["frames"])


def _rows(cfg: DatasetConfig, videos: Path, out: Path) -> Iterator[Row]:
    """The manifest row of each file, and where its frames are."""
    folders = [part_folder(number) for number in range(cfg.parts)]
    parts = [_outcomes(out / folder / "part.jsonl", cfg.parts) for folder in folders]
    first: dict[str, str] = {}  # sha256 of frames -> the first file with them
    for video in read_videos(videos)[1]:
        part = part_of(video, cfg.parts)
        found = next((x for identity, x in parts[part] if identity == video.identity), None)
        if found is None:
            raise UserError(f"{video.file} is not in {out / folders[part]}; run `cwm decode` again")
        row = video._asdict() | {"status": "failed", "reason": found}
        if isinstance(found, Stored):
            row |= found._asdict() | {"status": "ok", "reason": None}
            row["frames in"] = f"{folders[part]}/{shard_name(found.shard)}"
            row["shots"] = _shots(found, cfg.min_frames)
            drop = cfg.duplicates == "drop"
            twin = first.setdefault(found.content, video.file) if drop else video.file
            if not row["shots"]:
                count = f"{found.frames} frames, fewer than {cfg.min_frames}"
                reason = f"no shot has {cfg.min_frames} frames" if found.cuts else count
                row |= {"status": "too-short", "reason": reason}
            elif twin != video.file:
                row |= {"status": "duplicate", "reason": f"the same frames as {twin}"}
        yield row


def _printable(text: str) -> str:
    """Valid UTF-8 of a text that may hold a file name, which need not be."""
    return os.fsencode(text).decode(errors="replace")


def _outcomes(path: Path, parts: int) -> Iterator[tuple[str, Stored | str]]:
    """Identity of each clip of a part, with its frames or the reason why it failed."""
    count, lines = read_lines(path, int, tuple[Text, CheckedStored | Text], "cwm decode")
    if count != parts:
        raise UserError(f"{path} is one of {count} parts, expected {parts}; decode again")
    return lines


def _shots(stored: Stored, min_frames: int) -> list[tuple[int, int]]:
    """First frame and length of every shot of at least `min_frames` frames."""
    ends = [0, *stored.cuts, stored.frames]
    shots = [(start, end - start) for start, end in itertools.pairwise(ends)]
    return [shot for shot in shots if shot[1] >= min_frames]


def _survey(
    cfg: DatasetConfig, rows: Iterable[Row]
) -> tuple[list[str], dict[str, int], dict[str, Row]]:
    """Labels; frames of each shard; and changes to rows, by file.

    The change moves one clip to the other split if by chance all clips are in the same one.
    """
    labels: set[str | None] = set()
    splits: set[str] = set()
    shards: dict[str, int] = {}
    files, chosen = 0, ""
    for row in rows:
        if row["status"] != "failed":
            end = row["offset"] + row["frames"]
            shards[row["frames in"]] = max(end, shards.get(row["frames in"], 0))
        if row["status"] == "ok":
            labels.add(row["label"])
            splits.add(row["split"])
            files += 1
            chosen = min(chosen or row["file"], row["file"], key=_sha256)
    other = {"train": "heldout", "heldout": "train"}
    one_split = 0 < cfg.heldout < 1 and files > 1 and len(splits) == 1
    moved = {chosen: {"split": other[splits.pop()]}} if one_split else {}
    return sorted(x for x in labels if x is not None), dict(sorted(shards.items())), moved


class _Tally:
    """Totals over all files, and the index of the clips."""

    def __init__(self, labels: list[str], shards: Iterable[str]) -> None:
        self._labels: dict[str | None, int] = {label: i for i, label in enumerate(labels)}
        self._labels[None] = -1
        self._shards = {shard: number for number, shard in enumerate(shards)}
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.variety: dict[str, set[str]] = defaultdict(set)  # values of each attribute
        self.failed: list[str] = []  # the first three
        self.seconds = self.bytes = 0
        self.content = hashlib.sha256()  # of names, labels, splits, shots and frames; not of places
        self.index = [np.zeros(0, INDEX)]

    def add(self, rows: list[Row]) -> None:
        self.statuses.update(row["status"] for row in rows)
        self.reasons.update(_kind(_printable(row["reason"])) for row in rows if row["reason"])
        self.bytes += sum(row["bytes"] for row in rows)
        failed = (f"{x['file']}: {x['reason']}" for x in rows if x["status"] == "failed")
        self.failed = [*self.failed, *failed][:3]
        clips = [row for row in rows if row["status"] == "ok"]
        self.sizes.update(f"{row['width']} x {row['height']}" for row in clips)
        self.seconds += sum(row["seconds"] or 0 for row in clips)
        index = []
        for row in clips:
            for name, value in row["attributes"].items():
                self.variety[name].add(value)
            facts = [row[name] for name in ("file", "label", "split", "shots", "content")]
            self.content.update(json.dumps(facts).encode())
            shard, label = self._shards[row["frames in"]], self._labels[row["label"]]
            split = SPLITS.index(row["split"])
            index += [(shard, row["offset"] + at, n, label, split) for at, n in row["shots"]]
        self.index.append(np.array(index, INDEX))

    def check(self, name: str, cfg: DatasetConfig, out: Path) -> None:
        """Raise UserError unless enough files became clips."""
        failed, total = self.statuses["failed"], self.statuses.total()
        if failed > cfg.max_failures * total:
            raise UserError(
                f"{failed} of {total} clips of dataset {name} cannot be decoded, more than "
                f"dataset.max_failures = {cfg.max_failures:g} allows ({'; '.join(self.failed)}); "
                f"all are listed in {out / 'manifest.parquet'}"
            )
        if not self.statuses["ok"]:
            raise UserError(
                f"none of the {total} clips of dataset {name} has "
                f"dataset.min_frames = {cfg.min_frames} frames"
            )


def _kind(reason: str) -> str:
    """A reason without numbers, names and addresses, to count equal ones."""
    return re.sub(r"\d+", "N", re.sub(r"0x[0-9a-f]+|[^ ]*[./][^ ]*", "...", reason))[:80]


def mix_clips(name: str, cfg: DatasetConfig, stores: Sequence[Path], out: Path) -> None:
    """Write `out/store.json` of a mixture of other stores, whose frames stay where they are.

    stores: the `store.json` of each of `cfg.members`, in their order; UserError if they are not.
    """
    out.mkdir(parents=True, exist_ok=True)
    opened: list[ClipStore] = []
    members: list[Any] = []
    for member, path in zip(cfg.members, stores, strict=True):
        store = ClipStore.open(path)
        if isinstance(store, Mixture) or store.info["dataset"] != member.dataset:
            raise UserError(f"{path} is not the store of {member.dataset}'s own clips")
        store.restrict(member.clips, member.heldout, cfg.seed)
        opened.append(store)
        members.append(asdict(member) | {"content": store.info["sha256"]["content"]})
    info: MixtureInfo = {
        "dataset": name,
        "seed": cfg.seed,
        "members": [
            member | {"store": relative(path, out)}
            for member, path in zip(members, stores, strict=True)
        ],
        "clips": {x: sum(int((s.split == i).sum()) for s in opened) for i, x in enumerate(SPLITS)},
        "frames": sum(int(s.index["length"][s.split != UNUSED].sum()) for s in opened),
        "sha256": {
            "content": _sha256([cfg.seed, members]),
            "manifest": _sha256([store.info["sha256"]["manifest"] for store in opened]),
        },
    }
    write_contact_sheet(Mixture(info, opened), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips of %d datasets", name, sum(info["clips"].values()), len(opened))


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def write_contact_sheet(store: ClipStore | Mixture, path: Path) -> None:
    """Draw the middle frames of up to 60 random training clips."""
    from PIL import Image

    rows, columns = SHEET
    members = store.members if isinstance(store, Mixture) else [store]
    frames = np.concatenate([_middles(x, rows * columns // len(members)) for x in members])
    rows = -(-len(frames) // columns)
    sheet = np.full((rows * columns, SIZE, SIZE, 3), 255, np.uint8)
    sheet[: len(frames)] = frames
    grid = sheet.reshape(rows, columns, SIZE, SIZE, 3).swapaxes(1, 2)
    Image.fromarray(grid.reshape(rows * SIZE, columns * SIZE, 3)).save(path)


def _middles(store: ClipStore, n: int) -> np.ndarray:
    clips = np.random.default_rng(0).permutation(store.eligible(1, "train"))[:n]
    return store.windows_of(clips, store.index["length"][clips] // 2, 1)[:, 0]
