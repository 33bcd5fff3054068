"""Decode one part of the listed clips to frames on disk."""

import errno
import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cwm.infra.errors import UserError
from cwm.infra.files import TEMPORARY, file_lock, write_lines
from cwm.infra.parallel import parallel_map
from cwm.videos import images
from cwm.videos.datasets import ClipRecord, DatasetConfig, digest, hash_uniform, read_videos
from cwm.videos.ffmpeg import (
    SIZE,
    Clip,
    DecodeError,
    check_ffmpeg,
    check_readable,
    decode,
    ffmpeg_version,
)
from cwm.videos.shards import Shards

log = logging.getLogger(__name__)
LOG_EVERY = 10.0  # seconds between two log lines
FILE_ERRORS = (  # errno of an OSError that is the file's fault; all others are the machine's
    None,  # a decoder's own message
    errno.ENOENT,
    errno.EACCES,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,  # a seek in a damaged archive
)
Result = tuple[Clip, str] | DecodeError  # the frames and their sha256, or why there are none


def part_of(record: ClipRecord, parts: int) -> int:
    """The part that decodes a clip: a function of its name alone, so new clips move no other."""
    return hash_uniform("part", record.file) * parts >> 64


def part_folder(number: int) -> str:
    """Folder of a part, inside the folder of the store."""
    return f"part-{number:03d}"


def key(cfg: DatasetConfig) -> dict[str, Any]:
    """What decoded frames depend on besides the files."""
    constant = {"filter": "bicubic", "stride": 1, "size": SIZE}
    return asdict(cfg.geometry) | constant | {"ffmpeg": ffmpeg_version()}


def decode_part(
    name: str, cfg: DatasetConfig, videos: Path, number: int, out: Path, n: int
) -> None:
    """Decode the clips of a part, `n` at once, and write `out/part.jsonl` last.

    Stored clips are not decoded again. The file says for every clip, in the order of the list,
    where its frames are or why it failed. Raises UserError if ffmpeg is missing or too old.
    """
    if not 0 <= number < cfg.parts:
        raise UserError(f"dataset {name} has no part {number}; valid are 0 to {cfg.parts - 1}")

    def records() -> Iterator[ClipRecord]:  # read again each time: the list may exceed the memory
        _, listed = read_videos(videos)
        return (record for record in listed if part_of(record, cfg.parts) == number)

    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / ".lock", f"decoding into {out}"):
        for leftover in out.glob(f"{TEMPORARY}*/"):  # of a killed process
            shutil.rmtree(leftover)
        check_ffmpeg(out)
        shards = Shards(out, key(cfg) | {"parts": cfg.parts})
        todo = {record.identity for record in records()}
        total = len(todo)
        todo -= shards.clips.keys()
        log.info("%s: %d of %d clips to decode", name, len(todo), total)
        stop = threading.Event()
        work = partial(_decode_one, read_videos(videos)[0], cfg, stop, out)
        try:
            with closing(parallel_map(work, _once(records(), todo), n, stop)) as results:
                failures = _store(name, results, len(todo), shards)
        finally:
            shards.sync()  # also after an error or Ctrl-C
        rows = ((r.identity, shards.clips.get(r.identity)) for r in records())
        lines = ([identity, stored or failures[identity]] for identity, stored in rows)
        write_lines(out / "part.jsonl", cfg.parts, lines)


def _once(records: Iterable[ClipRecord], todo: set[str]) -> Iterator[ClipRecord]:
    """The first clip of each identity in `todo`, which is emptied."""
    for record in records:
        if record.identity in todo:
            todo.remove(record.identity)
            yield record


def _store(
    name: str, results: Iterable[tuple[ClipRecord, Result]], total: int, shards: Shards
) -> dict[str, str]:
    """Store decoded clips; returns the reasons of the failed ones, by identity."""
    failures: dict[str, str] = {}
    start = logged = time.monotonic()
    for done, (record, result) in enumerate(results, start=1):
        if isinstance(result, DecodeError):
            failures[record.identity] = str(result)
            log.warning("%s: %s: %s", name, record.file, result)
        else:
            shards.add(record.identity, *result)
        now = time.monotonic()
        if now - logged > LOG_EVERY or done == total:
            logged, rate = now, done / max(now - start, 1e-9)
            message = "%s: %d of %d clips, %d failed, %.1f clips/s, %.0f s left"
            log.info(message, name, done, total, len(failures), rate, (total - done) / rate)
    return failures


def _decode_one(
    root: Path, cfg: DatasetConfig, stop: threading.Event, scratch: Path, record: ClipRecord
) -> tuple[ClipRecord, Result]:
    """Decode a clip, which must be unchanged since it was listed.

    Raises OSError or MemoryError if the machine is at fault and not the file.
    """
    path = root / record.file
    try:
        check_readable(path)
        if _checksum(root, record) != record.sha256:
            raise DecodeError("changed since it was listed; run `cwm collect` again")
        if record.stills is not None:
            clip = images.read_stills(root, record.file, record.stills, cfg.geometry, stop, scratch)
        elif path.suffix.lower() in images.EPISODES:
            clip = images.read_episode(path)
        else:
            clip = decode(path, cfg.geometry, cfg.time_limit, stop, scratch)
    except DecodeError as error:
        cause = error.__cause__
        machine = isinstance(cause, MemoryError) or getattr(cause, "errno", None) not in FILE_ERRORS
        if cause is not None and machine:
            raise cause from None
        return record, error
    return record, (clip, hashlib.sha256(clip.frames.data).hexdigest())


def _checksum(root: Path, record: ClipRecord) -> str:
    try:
        return digest(root, record)[1]
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error
