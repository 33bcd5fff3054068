"""Build the clip store that training reads from decoded parts, or from other stores.

The rows of a store may exceed the memory, so they are read one by one and written in groups.
"""

import hashlib
import itertools
import json
import logging
import os
import re
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from cwm.infra.errors import UserError
from cwm.infra.files import TEMPORARY, atomic_write, locked_folder, relative, sha256, write_json
from cwm.infra.store_json import ExperienceInfo, MixtureInfo, StoreInfo
from cwm.videos.codec import open_shard, shard_name
from cwm.videos.datasets import ClipRecord, DatasetConfig
from cwm.videos.decode import key, part_folder
from cwm.videos.ffmpeg import SIZE
from cwm.videos.gather import Parts, merge
from cwm.videos.index import INDEX, SPLITS, describe_blocks, read_entries
from cwm.videos.lists import Row, list_name, outcome_of, read_part, text_of
from cwm.videos.shards import Stored
from cwm.videos.store import ClipStore, Mixture

log = logging.getLogger(__name__)
WORDS = ("file", "sha256", "status", "reason", "split", "label")
NUMBERS = ("bytes", "width", "height", "frames")
COLUMNS = dict.fromkeys(WORDS, pa.string()) | dict.fromkeys(NUMBERS, pa.int64())
MANIFEST = pa.schema(COLUMNS | {"seconds": pa.float64()})
GROUP = 1024  # rows in memory at once, and in a row group of the manifest
SHEET = (6, 10)  # rows and columns of the contact sheet


def make_clips(
    name: str,
    cfg: DatasetConfig,
    videos: Path,
    out: Path,
    decoded: Path | None = None,
    finished: bool = False,
) -> None:
    """Build a store from decoded parts; see `write_store`.

    Args:
        name: name of the dataset.
        cfg: its settings; `only_parts` selects parts.
        videos: the `videos.json` beside the lists that the parts were decoded from.
        out: folder of the store.
        decoded: folder of the parts; none: `out`.
        finished: leave out the parts that are not decoded yet. UserError if there are no others.
    """
    decoded = decoded or out
    folders = {n: decoded / part_folder(n) for n in sorted(cfg.only_parts) or range(cfg.parts)}
    parts = {number: folder / "part.parquet" for number, folder in folders.items()}
    if finished:
        parts = {number: path for number, path in parts.items() if path.is_file()}
        if not parts:
            raise UserError(f"no part of dataset {name} is decoded yet in {decoded}")
        log.info("%s: parts %s of %d", name, ", ".join(map(str, parts)), cfg.parts)
    geometry = _check_parts(cfg, videos, parts)
    places = {number: relative(folders[number], out) for number in parts}
    some = [*parts] if len(parts) < cfg.parts else None
    with (
        locked_folder(out, "building a store in"),
        tempfile.TemporaryDirectory(dir=out, prefix=TEMPORARY) as scratch,
    ):
        merged = merge(parts, Path(scratch), cfg.duplicates == "drop")

        def rows() -> Iterator[Row]:
            return (_row(row, places[row["part"]], cfg) for row in merged())

        write_store(name, cfg, rows, geometry, out, cfg.max_failures, parts=some)


def _check_parts(cfg: DatasetConfig, videos: Path, parts: Parts) -> dict[str, Any]:
    """What the frames of all parts depend on; UserError unless they agree with their lists."""
    expected = json.loads(json.dumps(key(cfg)))
    for number, path in parts.items():
        about, listed = read_part(path, number, cfg.parts), videos.with_name(list_name(number))
        if not listed.is_file():
            raise UserError(f"{listed} is missing; run `cwm collect` again")
        if about["list"] != sha256(listed):
            other = f"was decoded from another list than {listed}"
            raise UserError(f"{path} {other}; run `cwm decode` again")
        for name in sorted({*expected, *about["key"]}):
            had, value = about["key"].get(name), expected.get(name)
            if had != value:
                made = f"was decoded with {name} {had}, expected {value}"
                raise UserError(f"{path} {made}; run `cwm decode` again")
    return expected


def write_store(
    name: str,
    cfg: DatasetConfig,
    rows: Callable[[], Iterator[Row]],
    geometry: dict[str, Any],
    out: Path,
    max_failures: float,
    experience: ExperienceInfo | None = None,
    parts: list[int] | None = None,
) -> None:
    """Write the manifest, the index and the contact sheet of a store; `store.json` comes last.

    `manifest.parquet` lists every file: ok, too short, a duplicate, or failed with its reason.
    `rows()` yields these rows from the start at each call. geometry: what the frames depend on.
    parts: the decoded parts with these files; none: all.
    Raises UserError if a larger share of files fails than `max_failures`, or no clip is left.
    """
    total = _write_manifest(rows(), out / "manifest.parquet")
    if 0 < cfg.heldout < 1 and total.statuses["ok"] > 1 and len(total.splits) == 1:
        # By chance all clips are in one split: write again, with one of them in the other.
        total = _write_manifest(rows(), out / "manifest.parquet", total.chosen)
    failed, files = total.statuses["failed"], total.statuses.total()
    if failed > max_failures * files:
        raise UserError(
            f"{failed} of {files} clips of dataset {name} cannot be decoded, more than "
            f"dataset.max_failures = {max_failures:g} allows ({'; '.join(total.failed)}); "
            f"all are listed in {out / 'manifest.parquet'}"
        )
    if not total.statuses["ok"]:
        raise UserError(
            f"none of the {files} clips of dataset {name} has "
            f"dataset.min_frames = {cfg.min_frames} frames"
        )
    labels = [label for label in total.labels if label is not None]
    with atomic_write(out / "index.npy") as part:
        _write_index(part, total.index, _ranks(total.shards), _ranks(labels))
    index = read_entries(out / "index.npy")
    info: StoreInfo = {
        "dataset": name,
        "geometry": geometry,
        "min_frames": cfg.min_frames,
        "prioritize_ends": cfg.prioritize_ends,
        "heldout": cfg.heldout,
        "frame_shape": (64, 64, 3),
        "frame_bytes": 12288,
        "videos": dict(total.statuses),
        "reasons": dict(total.reasons),
        "clips": {split: int((index["split"] == i).sum()) for i, split in enumerate(SPLITS)},
        "frames": int(index["length"].sum()),
        "seconds": total.seconds,
        "bytes": total.bytes,
        "sizes": dict(total.sizes.most_common(5)),
        "labels": [_printable(label) for label in sorted(labels)],
        "variety": {name: len(values) for name, values in total.variety.items()},
        "shards": dict(sorted(total.shards.items())),
        "sha256": {
            "content": total.content.hexdigest(),
            "index": sha256(out / "index.npy"),
            "manifest": sha256(out / "manifest.parquet"),
        },
    }
    if parts is not None:
        info["parts"] = parts
    if blocks := describe_blocks(index):
        info["blocks"] = blocks
    if experience is not None:
        info["experience"] = experience
    for shard, frames in info["shards"].items():
        open_shard(out / shard).check(frames)
    write_contact_sheet(ClipStore(out, info, index), out / "contact.png")
    write_json(out / "store.json", info)
    log.info("%s: %d clips, %d frames", name, len(index), info["frames"])


def _row(row: Row, folder: str, cfg: DatasetConfig) -> Row:
    record, found = outcome_of(row)
    return row_of(record, found, folder, cfg, text_of(row["twin"]))


def row_of(
    record: ClipRecord,
    found: Stored | str,
    folder: str,
    cfg: DatasetConfig,
    twin: str | None = None,
) -> Row:
    """The manifest row of a file: its frames in `folder`, or the reason why it has none.

    twin: the first file with equal frames, if duplicates are dropped; it may be this one.
    """
    row = record._asdict() | {"status": "failed", "reason": found}
    if isinstance(found, Stored):
        row |= found._asdict() | {"status": "ok", "reason": None}
        row["frames in"] = f"{folder}/{shard_name(found.shard, cfg.codec)}"
        shots = itertools.pairwise([0, *found.cuts, found.frames])
        row["shots"] = [(a, b - a) for a, b in shots if b - a >= cfg.min_frames]
        if not row["shots"]:
            count = f"{found.frames} frames, fewer than {cfg.min_frames}"
            reason = f"no shot has {cfg.min_frames} frames" if found.cuts else count
            row |= {"status": "too-short", "reason": reason}
        elif twin not in (None, record.file):
            row |= {"status": "duplicate", "reason": f"the same frames as {twin}"}
    return row


def _printable(text: str) -> str:
    """Valid UTF-8 of a text that may hold a file name, which need not be."""
    return os.fsencode(text).decode(errors="replace")


class _Totals:
    """Totals over all files, and the index of the clips."""

    def __init__(self, scratch: Path) -> None:
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()
        self.variety: dict[str, set[str]] = defaultdict(set)  # values of each attribute
        self.failed: list[str] = []
        self.splits: set[str] = set()
        self.chosen = ""  # the clip that moves if all are in one split
        self.seconds = self.bytes = 0
        self.content = hashlib.sha256()  # of names, labels, splits, shots and frames; not of places
        # Number shards and labels in order of appearance at first.
        self.shards: dict[str, int] = {}  # frames
        self.numbers: dict[str, int] = {}  # of shards
        self.labels: dict[str | None, int] = {None: -1}  # number
        self.index = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115  # entries of the clips

    def add(self, rows: list[Row]) -> None:
        self.statuses.update(row["status"] for row in rows)
        self.reasons.update(_kind(_printable(row["reason"])) for row in rows if row["reason"])
        self.bytes += sum(row["bytes"] for row in rows)
        failed = (f"{x['file']}: {x['reason']}" for x in rows if x["status"] == "failed")
        self.failed = [*self.failed, *failed][:3]
        for row in rows:
            if row["status"] != "failed":
                end = row["offset"] + row["frames"]
                self.shards[row["frames in"]] = max(end, self.shards.get(row["frames in"], 0))
                self.numbers.setdefault(row["frames in"], len(self.numbers))
        clips = [row for row in rows if row["status"] == "ok"]
        self.sizes.update(f"{row['width']} x {row['height']}" for row in clips)
        self.seconds += sum(row["seconds"] or 0 for row in clips)
        index = []
        for row in clips:
            for name, value in row["attributes"].items():
                self.variety[name].add(value)
            facts = [row[name] for name in ("file", "label", "split", "shots", "content")]
            self.content.update(json.dumps(facts).encode())
            self.splits.add(row["split"])
            if len(self.splits) == 1:
                self.chosen = min(self.chosen or row["file"], row["file"], key=_sha256)
            label = self.labels.setdefault(row["label"], len(self.labels) - 1)
            shard, split = self.numbers[row["frames in"]], SPLITS.index(row["split"])
            index += [(shard, row["offset"] + at, n, label, split) for at, n in row["shots"]]
        self.index.write(np.array(index, INDEX).tobytes())


def _write_manifest(rows: Iterator[Row], path: Path, moved: str = "") -> _Totals:
    """Write the rows to a Parquet file. moved: the clip that goes to the other split."""
    total = _Totals(path.parent)
    with atomic_write(path) as part, ParquetWriter(part, MANIFEST) as manifest:
        while group := list(itertools.islice(rows, GROUP)):
            for row in group:
                if row["file"] == moved:
                    row["split"] = SPLITS[1 - SPLITS.index(row["split"])]
            total.add(group)
            for row in group:
                row |= {word: _printable(row[word]) for word in WORDS if row[word] is not None}
            manifest.write_table(pa.Table.from_pylist(group, MANIFEST))
    return total


def _write_index(path: Path, entries: IO[bytes], shard: np.ndarray, label: np.ndarray) -> None:
    """Write index.npy from entries with the first numbers of their shards and labels."""
    count = entries.tell() // INDEX.itemsize
    entries.seek(0)
    header = {"descr": np.lib.format.dtype_to_descr(INDEX), "fortran_order": False}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header | {"shape": (count,)})
        while len(group := np.frombuffer(bytearray(entries.read(GROUP * INDEX.itemsize)), INDEX)):
            group["shard"], group["label"] = shard[group["shard"]], label[group["label"]]
            file.write(group.tobytes())


def _ranks(names: Collection[str]) -> np.ndarray:
    """Position of each name among the sorted names; then -1, for index -1: no name."""
    position = {name: i for i, name in enumerate(sorted(names))}
    return np.array([*map(position.get, names), -1])


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
        first = list(range(member.first_parts)) if member.first_parts else None
        if first and store.info.get("parts", first) != first:
            what = f"the first {len(first)} parts of {member.dataset}"
            raise UserError(f"{path} was not built from {what}")
        store.restrict(member.clips, member.heldout, cfg.seed)
        opened.append(store)
        facts = asdict(member) | {"content": store.info["sha256"]["content"]}
        if not first:
            del facts["first_parts"]  # the checksums of mixtures of whole datasets stay the same
        members.append(facts)
    info: MixtureInfo = {
        "dataset": name,
        "seed": cfg.seed,
        "members": [m | {"store": relative(p, out)} for m, p in zip(members, stores, strict=True)],
        "clips": {split: sum(s.totals()[0][split] for s in opened) for split in SPLITS},
        "frames": sum(s.totals()[1] for s in opened),
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

    frames = []
    members = store.members if isinstance(store, Mixture) else [store]
    for member in members[: SHEET[0] * SHEET[1]]:
        numbers = np.random.default_rng(0).permutation(member.different(1, "train"))
        share = max(1, SHEET[0] * SHEET[1] // len(members))
        clips = member.pick(numbers[:share], 1, "train")
        frames += [*member.windows_of(clips, member.entries(clips)["length"] // 2, 1)[:, 0]]
    rows, columns = -(-len(frames) // SHEET[1]), SHEET[1]
    sheet = np.full((rows * columns, SIZE, SIZE, 3), 255, np.uint8)
    sheet[: len(frames)] = frames
    grid = sheet.reshape(rows, columns, SIZE, SIZE, 3).swapaxes(1, 2)
    Image.fromarray(grid.reshape(rows * SIZE, columns * SIZE, 3)).save(path)
