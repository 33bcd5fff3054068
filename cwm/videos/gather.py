"""Merge the outcomes of all parts in the order of file names, in bounded memory.

External merge sort: runs of rows are sorted in memory and written to disk, then merged. Files with
equal frames are found by 64 bits of their checksums first, 8 bytes a clip; few are left to compare.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.ipc import IpcWriteOptions, new_stream, open_stream
from pyarrow.parquet import read_metadata

from cwm.infra.errors import UserError
from cwm.videos.lists import OUTCOMES, TEXT, Row, read, text_of

RUN = 2**18  # rows sorted in memory at once
BATCH = 256  # rows of each run in memory while runs are merged
REMEDY = "run `cwm decode` again"
Parts = dict[int, Path]  # number of a part -> its part.parquet


def merge(parts: Parts, scratch: Path, twins: bool) -> Callable[[], Iterator[Row]]:
    """Sort the rows of all parts by file, in files in `scratch`; returns what yields them.

    A row has the columns of OUTCOMES, the number of its `part`, and `twin`: the first file with
    the same frames if there are several and `twins` is true. UserError if a file is listed twice.
    """
    repeated = _first_of_equal(parts) if twins else None
    runs = []
    for number, table in enumerate(_tables(parts)):
        first = pa.nulls(len(table), TEXT)
        if repeated is not None:
            first = repeated["file"].take(pc.index_in(table["content"], repeated["content"]))
        runs.append(scratch / f"run-{number}.arrow")
        sorted_rows = table.append_column("twin", first).sort_by("file")
        options = IpcWriteOptions(compression="lz4")
        with new_stream(runs[-1], sorted_rows.schema, options=options) as writer:
            writer.write_table(sorted_rows, BATCH)
        del table, first, sorted_rows
        pa.default_memory_pool().release_unused()  # which would grow with every run
    return partial(_merge_runs, runs)


def _tables(parts: Parts) -> Iterator[pa.Table]:
    """The rows of all parts in tables of about RUN rows."""
    batches: list[pa.RecordBatch] = []
    for part, path in parts.items():
        for batch in read(path, OUTCOMES, REMEDY):
            batches.append(batch.append_column("part", pa.repeat(part, len(batch))))
            if sum(map(len, batches)) >= RUN:
                yield pa.Table.from_batches(batches)
                batches = []
    if batches:
        yield pa.Table.from_batches(batches)


def _merge_runs(runs: Sequence[Path]) -> Iterator[Row]:
    last: Row = {"file": None}
    for row in heapq.merge(*map(_rows, runs), key=lambda row: row["file"]):
        if row["file"] == last["file"]:
            name, where = text_of(row["file"]), f"parts {last['part']} and {row['part']}"
            raise UserError(f"{name} is listed twice, in {where}; run `cwm collect` again")
        yield row
        last = row


def _rows(run: Path) -> Iterator[Row]:
    with pa.OSFile(str(run)) as file, open_stream(file) as batches:
        for batch in batches:
            yield from batch.to_pylist()


def _first_of_equal(parts: Parts) -> pa.Table | None:
    """Checksum of frames -> first file with them, of frames that several files have."""
    every, count = np.empty(_count_rows(parts), np.uint64), 0
    for batch in _columns(parts, ["content"]):
        keys = _prefixes(batch["content"])
        every[count : count + len(keys)] = keys
        count += len(keys)
    every = every[:count]
    every.sort()
    repeated = np.unique(every[1:][every[1:] == every[:-1]])
    if not len(repeated):
        return None
    found = []
    for batch in _columns(parts, ["file", "content"]):
        decoded = batch.filter(pc.is_valid(batch["content"]))
        found.append(decoded.filter(pa.array(np.isin(_prefixes(decoded["content"]), repeated))))
    table = pa.Table.from_batches(found).sort_by([("content", "ascending"), ("file", "ascending")])
    content = table["content"]
    same = pc.equal(content[1:], content[: len(content) - 1]).to_numpy()
    first = np.flatnonzero(np.r_[same, False] & ~np.r_[False, same])
    return table.take(first)


def _count_rows(parts: Parts) -> int:
    return sum(read_metadata(path).num_rows for path in parts.values())


def _columns(parts: Parts, names: list[str]) -> Iterator[pa.RecordBatch]:
    for path in parts.values():
        yield from read(path, OUTCOMES, REMEDY, names)


def _prefixes(content: pa.Array) -> np.ndarray:
    """The first 64 bits of every checksum that is not null."""
    valid = content.drop_null()
    width = valid.type.byte_width
    data = np.frombuffer(valid.buffers()[1], np.uint8, len(valid) * width, valid.offset * width)
    return data.reshape(-1, width)[:, :8].copy().view(np.uint64)[:, 0]
