"""Decoded parts -> the clip store that training reads; stores -> a store made of them."""

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

from cwm.data.clips import INDEX, SPLITS, UNUSED, ClipStore, Mixture
from cwm.data.contact import write_contact_sheet
from cwm.data.corpora import DatasetConfig, Video, read_videos
from cwm.data.files import sha256, write_json
from cwm.data.shards import Stored, read_journal, shard_name
from cwm.data.video import FRAME_BYTES, SIZE
from cwm.errors import UserError
from cwm.run.decode import key, part_folder, part_of

log = logging.getLogger(__name__)


def make_clips(name: str, cfg: DatasetConfig, videos: Path, out: Path) -> None:
    """Gather the decoded parts of `videos` (a `videos.json`), and write `out/store.json` last.

    Every file is named in `manifest.parquet`: decoded, too short, a duplicate, or failed with its
    reason. No file ever stands in for another.
    Raises UserError when more files fail than `cfg.max_failures` allows, or no clip is left.
    """
    _, listed = read_videos(videos)
    rows = _rows(cfg, listed, out)
    _write_manifest(out / "manifest.parquet", rows)
    _judge(name, cfg, rows, out)
    _write_store(name, cfg, rows, out)


def _rows(cfg: DatasetConfig, listed: list[Video], out: Path) -> list[dict[str, Any]]:
    """What is known of each source: a row of the manifest, and where its frames lie."""
    folders = [out / part_folder(number) for number in range(cfg.parts)]
    failures = [_failures(folder, cfg) for folder in folders]
    journals = [read_journal(folder) for folder in folders]
    first: dict[str, str] = {}  # content -> the file that had it first
    rows = []
    for video in listed:
        part = part_of(video, cfg.parts)
        row = video._asdict() | {"part": part, "status": "failed", "reason": None}
        if stored := journals[part].get(video.sha256):
            row |= stored._asdict() | {"status": "ok", "shots": _shots(stored, cfg.min_frames)}
            twin = first.setdefault(stored.content, video.file)
            if not row["shots"]:
                what = "a shot of frames" if stored.cuts else f"{stored.frames} frames"
                row |= {"status": "too-short", "reason": f"{what}, fewer than {cfg.min_frames}"}
            elif cfg.duplicates == "drop" and twin != video.file:
                row |= {"status": "duplicate", "reason": f"the same frames as {twin}"}
        else:
            row["reason"] = failures[part].get(video.sha256 or video.file)
            if row["reason"] is None:
                raise UserError(f"{video.file} is not in {folders[part]}; run `cwm decode` again")
        rows.append(row)
    _hold_out_one(cfg, [row for row in rows if row["status"] == "ok"])
    return rows


def _failures(folder: Path, cfg: DatasetConfig) -> dict[str, str]:
    path = folder / "part.json"
    try:
        part = json.loads(path.read_text())
        if part["parts"] == cfg.parts:
            return part["failures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}; run `cwm decode` again") from error
    raise UserError(f"{path} is one of {part['parts']} parts, not of {cfg.parts}; decode again")


def _shots(stored: Stored, min_frames: int) -> list[tuple[int, int]]:
    """First frame and length of every shot that is long enough."""
    ends = [0, *stored.cuts, stored.frames]
    shots = [(start, end - start) for start, end in itertools.pairwise(ends)]
    return [shot for shot in shots if shot[1] >= min_frames]


def _hold_out_one(cfg: DatasetConfig, clips: list[dict[str, Any]]) -> None:
    """In a set so small that by chance none would be held out, or all, move one."""
    splits = {row["split"] for row in clips}
    if 0 < cfg.heldout < 1 and len(clips) > 1 and len(splits) == 1:
        chosen = min(clips, key=lambda row: _sha256(row["file"]))
        chosen["split"] = "train" if splits == {"heldout"} else "heldout"


def _write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    words = ("file", "sha256", "status", "reason", "split", "label")
    numbers = ("bytes", "width", "height", "frames")
    columns = [(name, pa.string()) for name in words] + [(name, pa.int64()) for name in numbers]
    columns.append(("seconds", pa.float64()))
    printable = [row | {"file": os.fsencode(row["file"]).decode(errors="replace")} for row in rows]
    part = path.with_suffix(".part")
    parquet.write_table(pa.Table.from_pylist(printable, pa.schema(columns)), part)
    part.replace(path)


def _judge(name: str, cfg: DatasetConfig, rows: list[dict[str, Any]], out: Path) -> None:
    """UserError unless enough of the files became clips."""
    failed = [row for row in rows if row["status"] == "failed"]
    if len(failed) > cfg.max_failures * len(rows):
        first = "; ".join(f"{row['file']}: {row['reason']}" for row in failed[:3])
        raise UserError(
            f"{len(failed)} of {len(rows)} clips of dataset {name} cannot be decoded, more than "
            f"dataset.max_failures = {cfg.max_failures:g} allows ({first}); "
            f"all are listed in {out / 'manifest.parquet'}"
        )
    if not any(row["status"] == "ok" for row in rows):
        raise UserError(
            f"none of the {len(rows)} clips of dataset {name} has "
            f"dataset.min_frames = {cfg.min_frames} frames"
        )


def _write_store(name: str, cfg: DatasetConfig, rows: list[dict[str, Any]], out: Path) -> None:
    """Write index and contact sheet, then the small file that vouches for everything."""
    sources = [row for row in rows if row["status"] == "ok"]
    labels = sorted({row["label"] for row in sources if row["label"] is not None})
    shards: dict[str, int] = {}  # file of each shard -> frames in it that are known of
    for row in rows:
        if row["status"] != "failed":
            row["file of frames"] = f"{part_folder(row['part'])}/{shard_name(row['shard'])}"
            end = row["offset"] + row["frames"]
            shards[row["file of frames"]] = max(end, shards.get(row["file of frames"], 0))
    shards = dict(sorted(shards.items()))
    numbers = {file: number for number, file in enumerate(shards)}
    index = np.array([e for row in sources for e in _entries(row, numbers, labels)], INDEX)
    part = out / "index.part"
    with part.open("wb") as file:
        np.save(file, index)
    part.replace(out / "index.npy")
    info = {
        "dataset": name,
        "geometry": key(cfg),
        "min_frames": cfg.min_frames,
        "prioritize_ends": cfg.prioritize_ends,
        "heldout": cfg.heldout,
        "frame_shape": [SIZE, SIZE, 3],
        "frame_bytes": FRAME_BYTES,
        "videos": dict(sorted(Counter(row["status"] for row in rows).items())),
        "reasons": dict(Counter(_kind(row["reason"]) for row in rows if row["reason"])),
        "clips": {split: int((index["split"] == i).sum()) for i, split in enumerate(SPLITS)},
        "frames": int(index["length"].sum()),
        "seconds": sum(row["seconds"] or 0 for row in sources),
        "bytes": sum(row["bytes"] for row in rows),
        "sizes": _commonest(f"{row['width']} x {row['height']}" for row in sources),
        "labels": labels,
        "variety": _variety(sources),
        "shards": shards,
        "sha256": {
            "content": _content(sources),
            "index": sha256(out / "index.npy"),
            "manifest": sha256(out / "manifest.parquet"),
        },
    }
    write_contact_sheet(ClipStore(out, info, index), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips, %d frames", name, len(index), info["frames"])


def _entries(
    row: dict[str, Any], numbers: dict[str, int], labels: list[str]
) -> Iterator[tuple[int, int, int, int, int]]:
    """Entries of the index: one for each shot of a source."""
    label = -1 if row["label"] is None else labels.index(row["label"])
    for start, length in row["shots"]:
        split = SPLITS.index(row["split"])
        yield numbers[row["file of frames"]], row["offset"] + start, length, label, split


def _kind(reason: str) -> str:
    """A reason without what is particular to the file."""
    return re.sub(r"\d+", "N", re.sub(r"0x[0-9a-f]+|[^ ]*[./][^ ]*", "...", reason))[:80]


def _commonest(words: Iterable[str], n: int = 5) -> dict[str, int]:
    return dict(Counter(words).most_common(n))


def _variety(rows: list[dict[str, Any]]) -> dict[str, int]:
    """How many different values each trait has."""
    values = defaultdict(set)
    for row in rows:
        for trait, value in row["traits"].items():
            values[trait].add(value)
    return {trait: len(found) for trait, found in sorted(values.items())}


def _content(sources: Iterable[dict[str, Any]]) -> str:
    """Checksum of names, labels, splits, shots and frames, wherever in the shards they lie."""
    digest = hashlib.sha256()
    for row in sources:
        facts = [row[name] for name in ("file", "label", "split", "shots", "content")]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()


def mix_clips(name: str, cfg: DatasetConfig, stores: Sequence[Path], out: Path) -> None:
    """A store made of others, whose frames stay where they are: write `out/store.json`.

    stores: the `store.json` of each of `cfg.members`, in their order. UserError when they are not.
    """
    out.mkdir(parents=True, exist_ok=True)
    members = []
    for member, path in zip(cfg.members, stores, strict=True):
        store = ClipStore.open(path)
        if isinstance(store, Mixture) or store.info["dataset"] != member.dataset:
            raise UserError(f"{path} is not the store of {member.dataset}'s own clips")
        store.restrict(member.clips, member.heldout, cfg.seed)
        members.append((member, path, store))
    parts = [asdict(m) | {"content": s.info["sha256"]["content"]} for m, _, s in members]
    manifests = [store.info["sha256"]["manifest"] for _, _, store in members]
    info = {
        "dataset": name,
        "seed": cfg.seed,
        "members": [
            part | {"store": os.path.relpath(path, out)}
            for part, (_, path, _) in zip(parts, members, strict=True)
        ],
        "clips": {
            split: sum(int((store.split == i).sum()) for _, _, store in members)
            for i, split in enumerate(SPLITS)
        },
        "frames": sum(int(s.index["length"][s.split != UNUSED].sum()) for _, _, s in members),
        "sha256": {"content": _sha256([cfg.seed, parts]), "manifest": _sha256(manifests)},
    }
    write_contact_sheet(Mixture(info, [store for _, _, store in members]), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips of %d datasets", name, sum(info["clips"].values()), len(members))


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
