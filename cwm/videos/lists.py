"""Parquet files with a row for each clip of a part, so that a job reads those of its own part.

`list-NNN.parquet`   the clips of a part, sorted by name; `cwm collect` writes it
`part.parquet`       the same clips with checksums, and their frames or why they have none

File names need not be UTF-8, but Parquet strings must be. Therefore texts are stored as bytes,
which sort like the texts. Page checksums detect damage, and a truncated file has no footer.
"""

import json
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pyarrow as pa
from pyarrow.parquet import ParquetFile, ParquetWriter
from typing_extensions import TypedDict

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write, sha256
from cwm.infra.store_json import Text
from cwm.videos import images
from cwm.videos.datasets import Candidate, ClipRecord, hash_uniform
from cwm.videos.images import Stills
from cwm.videos.shards import Stored

GROUP = 2**16  # rows that are written, or read, at once
TEXT, HASH, NUMBER = pa.binary(), pa.binary(32), pa.int64()
LIST = pa.schema(
    {
        "file": TEXT,
        "stills": pa.struct({"step": NUMBER, "length": NUMBER}),  # null: one file
        "label": TEXT,  # of an annotation
        "split": pa.string(),
        "attributes": pa.map_(TEXT, TEXT),  # of a stand-in
        "bytes": NUMBER,  # so that the list changes when a file does
    }
)
OUTCOMES = pa.schema(
    {
        "file": TEXT,
        "bytes": NUMBER,
        "sha256": HASH,
        "label": TEXT,
        "split": pa.string(),
        "attributes": pa.map_(TEXT, TEXT),
        "reason": TEXT,  # of a failure; null: the clip has frames, and the other columns are set
        "content": HASH,
        "width": NUMBER,
        "height": NUMBER,
        "seconds": pa.float64(),
        "cuts": pa.list_(NUMBER),
        "frames": NUMBER,
        "shard": NUMBER,
        "offset": NUMBER,
    }
)
Row = dict[str, Any]
A = TypeVar("A")


class AboutList(TypedDict):
    """The part that a list describes; root: the folder of the files, relative to the list's."""

    root: Text
    part: int
    parts: int


class AboutPart(TypedDict):
    """The part, the sha256 of its list, and what the frames depend on."""

    part: int
    parts: int
    list: str
    key: dict[str, Any]


class PartList(NamedTuple):
    """The clips of a part, as `cwm collect` lists them."""

    root: Path
    clips: list[Candidate]
    sha256: str


def part_of(file: str, parts: int) -> int:
    """The part that decodes a clip: a function of its name alone, so new clips move no other."""
    return hash_uniform("part", file) * parts >> 64


def list_name(part: int) -> str:
    """File name of the list of a part."""
    return f"list-{part:03d}.parquet"


def write_list(path: Path, clips: Iterable[Candidate], about: AboutList) -> None:
    """Write the list of a part."""
    _write(path, LIST, map(_list_row, clips), about)


def read_list(videos: Path, part: int, parts: int) -> PartList:
    """The list of a part, beside `videos`; UserError if it is missing, damaged or of another."""
    path, remedy = videos.with_name(list_name(part)), "run `cwm collect` again"
    about = read_about(path, AboutList, remedy)
    _check_part(path, about, part, parts, remedy)
    clips = [_candidate(x) for batch in read(path, LIST, remedy) for x in batch.to_pylist()]
    for clip in clips:
        if "\0" in clip.file or (clip.stills and not images.NUMBERED.fullmatch(clip.file)):
            raise UserError(f"{path}: {clip.file!r} is not the name of a clip; {remedy}")
    return PartList(path.parent / about["root"], clips, sha256(path))


def write_outcomes(
    path: Path, outcomes: Iterable[tuple[ClipRecord, Stored | str]], about: AboutPart
) -> None:
    """Write what became of the clips of a part: their frames, or why they have none."""
    _write(path, OUTCOMES, (_outcome_row(*outcome) for outcome in outcomes), about)


def read_part(path: Path, part: int, parts: int) -> AboutPart:
    """Description of a `part.parquet`; UserError if it is missing, damaged or of another part."""
    remedy = "run `cwm decode` again"
    about = read_about(path, AboutPart, remedy)
    _check_part(path, about, part, parts, remedy)
    return about


def outcome_of(row: Row) -> tuple[ClipRecord, Stored | str]:
    """A clip and its frames, or why it has none, from a row of `part.parquet`."""
    names = ("file", "bytes", "sha256", "label", "split", "attributes")
    record = ClipRecord(**{name: row[name] for name in names})
    record = record._replace(
        file=text_of(record.file),
        sha256=row["sha256"] and row["sha256"].hex(),
        label=text_of(record.label),
        attributes=_attributes(row),
    )
    if row["reason"] is not None:
        return record, text_of(row["reason"])
    facts = {name: row[name] for name in Stored._fields}
    facts |= {"sha256": record.sha256, "content": row["content"].hex(), "cuts": tuple(row["cuts"])}
    return record, Stored(**facts)


def read_about(path: Path, kind: type[A], remedy: str) -> A:
    """Description of a file."""
    with _open(path, remedy) as file:
        about = (file.schema_arrow.metadata or {}).get(b"contextwm", b"")
    return json_file.parse(about.decode(errors="replace"), kind, f"metadata of {path}", remedy)


def read(
    path: Path, schema: pa.Schema, remedy: str, columns: list[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a file in batches; UserError with the remedy if it is damaged."""
    with _open(path, remedy) as file:
        if not file.schema_arrow.equals(schema):
            raise UserError(f"{path} has other columns than expected; {remedy}")
        try:
            yield from file.iter_batches(GROUP, columns=columns, use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(f"{path} is damaged ({_reason(error)}); {remedy}") from error


def _open(path: Path, remedy: str) -> ParquetFile:
    try:
        return ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"cannot read {path}: {_reason(error)}; {remedy}") from error


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else " ".join(str(error).split()).rstrip(".")


def _check_part(
    path: Path, about: AboutList | AboutPart, part: int, parts: int, remedy: str
) -> None:
    if (about["part"], about["parts"]) != (part, parts):
        found = f"part {about['part']} of {about['parts']}"
        raise UserError(f"{path} is {found}, expected part {part} of {parts}; {remedy}")


def _write(
    path: Path, schema: pa.Schema, rows: Iterator[Row], about: AboutList | AboutPart
) -> None:
    schema = schema.with_metadata({"contextwm": json.dumps(about, sort_keys=True)})
    options: Row = {"compression": "zstd", "write_page_checksum": True}
    with atomic_write(path) as part, ParquetWriter(part, schema, **options) as writer:
        while group := list(islice(rows, GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))


def _list_row(clip: Candidate) -> Row:
    row = clip._asdict() | {"file": _bytes(clip.file), "label": _bytes(clip.label)}
    stills = clip.stills and clip.stills._asdict()
    return row | {"stills": stills, "attributes": _pairs(clip.attributes or {})}


def _candidate(row: Row) -> Candidate:
    stills = Stills(**row["stills"]) if row["stills"] else None
    texts = {"file": text_of(row["file"]), "label": text_of(row["label"])}
    return Candidate(**row | texts | {"stills": stills, "attributes": _attributes(row)})


def _outcome_row(record: ClipRecord, found: Stored | str) -> Row:
    row = found._asdict() if isinstance(found, Stored) else {"reason": _bytes(found)}
    row |= record._asdict() | {"attributes": _pairs(record.attributes)}
    row |= {name: _bytes(row[name]) for name in ("file", "label")}
    return row | {x: bytes.fromhex(row[x]) for x in ("sha256", "content") if row.get(x)}


def _pairs(attributes: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(_bytes(name), _bytes(value)) for name, value in attributes.items()]


def _attributes(row: Row) -> dict[str, str]:
    return {text_of(name): text_of(value) for name, value in row["attributes"] or ()}


def _bytes(text: Any) -> Any:
    return text if text is None else text.encode(errors="surrogatepass")


def text_of(data: Any) -> Any:
    """The text of a cell; null stays null."""
    return data if data is None else data.decode(errors="surrogatepass")
