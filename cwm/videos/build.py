"""Decoded parts -> the clip store that training reads; stores -> a store made of them.

The rows of a store may be too many for the memory: they are read twice, a group at a time.
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
from cwm.videos.contact import write_contact_sheet
from cwm.videos.datasets import DatasetConfig, Text, read_videos
from cwm.videos.decode import key, part_folder, part_of
from cwm.videos.ffmpeg import FRAME_BYTES, SIZE
from cwm.videos.shards import Line, Stored, shard_name
from cwm.videos.store import INDEX, SPLITS, UNUSED, ClipStore, Mixture

log = logging.getLogger(__name__)
WORDS = ("file", "sha256", "status", "reason", "split", "label")
NUMBERS = ("bytes", "width", "height", "frames")
COLUMNS = dict.fromkeys(WORDS, pa.string()) | dict.fromkeys(NUMBERS, pa.int64())
MANIFEST = pa.schema(COLUMNS | {"seconds": pa.float64()})
GROUP = 1024  # rows in memory at once, and in a row group of the manifest
Row = dict[str, Any]


def make_clips(name: str, cfg: DatasetConfig, videos: Path, out: Path) -> None:
    """Gather the decoded parts of `videos` (a `videos.jsonl`), and write `out/store.json` last.

    Every file is named in `manifest.parquet`: decoded, too short, a duplicate, or failed with its
    reason. No file ever stands in for another.
    Raises UserError when more files fail than `cfg.max_failures` allows, or no clip is left.
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
    tally.judge(name, cfg, out)
    index = np.concatenate(tally.index)
    with atomic_write(out / "index.npy") as part, part.open("wb") as file:
        np.save(file, index)
    info = {
        "dataset": name,
        "geometry": key(cfg),
        "min_frames": cfg.min_frames,
        "prioritize_ends": cfg.prioritize_ends,
        "heldout": cfg.heldout,
        "frame_shape": [SIZE, SIZE, 3],
        "frame_bytes": FRAME_BYTES,
        "videos": dict(sorted(tally.statuses.items())),
        "reasons": dict(tally.reasons),
        "clips": {split: int((index["split"] == i).sum()) for i, split in enumerate(SPLITS)},
        "frames": int(index["length"].sum()),
        "seconds": tally.seconds,
        "bytes": tally.bytes,
        "sizes": dict(tally.sizes.most_common(5)),
        "labels": [_printable(label) for label in labels],
        "variety": {trait: len(values) for trait, values in sorted(tally.variety.items())},
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
    """What is known of each source: a row of the manifest, and where its frames lie."""
    folders = [part_folder(number) for number in range(cfg.parts)]
    parts = [_outcomes(out / folder / "part.jsonl", cfg.parts) for folder in folders]
    first: dict[str, str] = {}  # content -> the file that had it first
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
                what = "a shot of frames" if found.cuts else f"{found.frames} frames"
                row |= {"status": "too-short", "reason": f"{what}, fewer than {cfg.min_frames}"}
            elif twin != video.file:
                row |= {"status": "duplicate", "reason": f"the same frames as {twin}"}
        yield row


def _printable(text: str) -> str:
    """A text that may quote the name of a file, which need not be UTF-8."""
    return os.fsencode(text).decode(errors="replace")


def _outcomes(path: Path, parts: int) -> Iterator[tuple[str, Stored | str]]:
    """What became of the clips of a part, by identity, in the order of the list."""
    lines = read_lines(path, int, tuple[Text, Line | Text], "cwm decode")
    if (of := next(lines)) != parts:
        raise UserError(f"{path} is one of {of} parts, not of {parts}; decode again")
    return lines


def _shots(stored: Stored, min_frames: int) -> list[tuple[int, int]]:
    """First frame and length of every shot that is long enough."""
    ends = [0, *stored.cuts, stored.frames]
    shots = [(start, end - start) for start, end in itertools.pairwise(ends)]
    return [shot for shot in shots if shot[1] >= min_frames]


def _survey(
    cfg: DatasetConfig, rows: Iterable[Row]
) -> tuple[list[str], dict[str, int], dict[str, Row]]:
    """Labels; how many frames of each shard are known of; what is to be changed in which file.

    In a set so small that by chance no clip would be held out, or all, one of them is moved.
    """
    labels, splits, shards, files = set(), set(), {}, 0
    chosen = None
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
    alike = 0 < cfg.heldout < 1 and files > 1 and len(splits) == 1
    moved = {chosen: {"split": other[splits.pop()]}} if alike else {}
    return sorted(labels - {None}), dict(sorted(shards.items())), moved


class _Tally:
    """What there is to say of all clips together, and their index."""

    def __init__(self, labels: list[str], shards: Iterable[str]) -> None:
        self._labels = {None: -1} | {label: number for number, label in enumerate(labels)}
        self._shards = {shard: number for number, shard in enumerate(shards)}
        self.statuses, self.reasons, self.sizes = Counter(), Counter(), Counter()
        self.variety: dict[str, set[str]] = defaultdict(set)  # values of each trait
        self.failed: list[str] = []  # the first ones
        self.seconds = self.bytes = 0
        self.content = hashlib.sha256()  # of names, labels, splits, shots and frames, not places
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
            for trait, value in row["attributes"].items():
                self.variety[trait].add(value)
            facts = [row[name] for name in ("file", "label", "split", "shots", "content")]
            self.content.update(json.dumps(facts).encode())
            shard, label = self._shards[row["frames in"]], self._labels[row["label"]]
            split = SPLITS.index(row["split"])
            index += [(shard, row["offset"] + at, n, label, split) for at, n in row["shots"]]
        self.index.append(np.array(index, INDEX))

    def judge(self, name: str, cfg: DatasetConfig, out: Path) -> None:
        """UserError unless enough of the files became clips."""
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
    """A reason without what is particular to the file."""
    return re.sub(r"\d+", "N", re.sub(r"0x[0-9a-f]+|[^ ]*[./][^ ]*", "...", reason))[:80]


def mix_clips(name: str, cfg: DatasetConfig, stores: Sequence[Path], out: Path) -> None:
    """A store made of others, whose frames stay where they are: write `out/store.json`.

    stores: the `store.json` of each of `cfg.members`, in their order. UserError when they are not.
    """
    out.mkdir(parents=True, exist_ok=True)
    opened, parts = [], []
    for member, path in zip(cfg.members, stores, strict=True):
        store = ClipStore.open(path)
        if isinstance(store, Mixture) or store.info["dataset"] != member.dataset:
            raise UserError(f"{path} is not the store of {member.dataset}'s own clips")
        store.restrict(member.clips, member.heldout, cfg.seed)
        opened.append(store)
        parts.append(asdict(member) | {"content": store.info["sha256"]["content"]})
    places = [{"store": relative(path, out)} for path in stores]
    info = {
        "dataset": name,
        "seed": cfg.seed,
        "members": [part | place for part, place in zip(parts, places, strict=True)],
        "clips": {x: sum(int((s.split == i).sum()) for s in opened) for i, x in enumerate(SPLITS)},
        "frames": sum(int(s.index["length"][s.split != UNUSED].sum()) for s in opened),
        "sha256": {
            "content": _sha256([cfg.seed, parts]),
            "manifest": _sha256([store.info["sha256"]["manifest"] for store in opened]),
        },
    }
    write_contact_sheet(Mixture(info, opened), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips of %d datasets", name, sum(info["clips"].values()), len(opened))


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
