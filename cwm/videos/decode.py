"""Listed clips -> frames on disk: one of the jobs among which a dataset is divided."""

import errno
import hashlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cwm.infra.errors import UserError
from cwm.infra.files import file_lock, write_lines
from cwm.infra.parallel import parallel_map
from cwm.videos import episodes, images
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
NEWS = 10.0  # seconds between two lines of progress
OF_A_FILE = (
    None,  # what a decoder says in its own words
    errno.ENOENT,
    errno.EACCES,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.EINVAL,  # of seeking in a damaged archive
)
Result = tuple[Clip, str] | DecodeError  # frames and their checksum, or why there are none


def part_of(video: ClipRecord, parts: int) -> int:
    """The part that decodes a clip: decided by its name, so that new ones move none."""
    return hash_uniform("part", video.file) * parts >> 64


def part_folder(number: int) -> str:
    """The folder of a part, below that of the store."""
    return f"part-{number:03d}"


def key(cfg: DatasetConfig) -> dict[str, Any]:
    """What frames depend on besides the files."""
    return asdict(cfg.geometry) | {"size": SIZE, "ffmpeg": ffmpeg_version()}


def decode_part(
    name: str, cfg: DatasetConfig, videos: Path, number: int, out: Path, n: int
) -> None:
    """Decode the clips of a part with `n` at once, and write `out/part.jsonl` last.

    What is stored already is not decoded again. That file says of every clip, in the order of the
    list, where its frames lie or why it failed. UserError where ffmpeg is missing or too old.
    """
    if not 0 <= number < cfg.parts:
        raise UserError(f"part {number} of dataset {name}; they are 0 to {cfg.parts - 1}")

    def mine() -> Iterator[ClipRecord]:  # read anew each time: they may be too many for the memory
        _, listed = read_videos(videos)
        return (video for video in listed if part_of(video, cfg.parts) == number)

    out.mkdir(parents=True, exist_ok=True)
    with file_lock(out / ".lock", f"decoding into {out}"):
        check_ffmpeg(out)
        shards = Shards(out, key(cfg) | {"parts": cfg.parts})
        todo = {video.identity for video in mine()}
        total = len(todo)
        todo -= shards.clips.keys()
        log.info("%s: %d of %d clips to decode", name, len(todo), total)
        stop = threading.Event()
        work = partial(_decode_one, read_videos(videos)[0], cfg, stop, out)
        try:
            with closing(parallel_map(work, _once(mine(), todo), n, stop)) as results:
                failures = _store(name, results, len(todo), shards)
        finally:
            shards.sync()  # also what was decoded before a failure or Ctrl-C
        found = ((clip.identity, shards.clips.get(clip.sha256)) for clip in mine())
        write_lines(out / "part.jsonl", cfg.parts, ([x, at or failures[x]] for x, at in found))


def _once(videos: Iterable[ClipRecord], todo: set[str]) -> Iterator[ClipRecord]:
    """One clip of each identity."""
    for video in videos:
        if video.identity in todo:
            todo.remove(video.identity)
            yield video


def _store(
    name: str, results: Iterable[tuple[ClipRecord, Result]], total: int, shards: Shards
) -> dict[str, str]:
    """Store what was decoded; returns why other clips failed, by identity."""
    failures: dict[str, str] = {}
    start = news = time.monotonic()
    for done, (video, result) in enumerate(results, start=1):
        if isinstance(result, DecodeError):
            failures[video.identity] = str(result)
            log.warning("%s: %s: %s", name, video.file, result)
        else:
            shards.add(video.sha256, *result)
        now = time.monotonic()
        if now - news > NEWS or done == total:
            news, rate = now, done / max(now - start, 1e-9)
            left = (total - done) / rate
            message = "%s: %d of %d clips, %d failed, %.1f a second, %.0f s left"
            log.info(message, name, done, total, len(failures), rate, left)
    return failures


def _decode_one(
    root: Path, cfg: DatasetConfig, stop: threading.Event, scratch: Path, video: ClipRecord
) -> tuple[ClipRecord, Result]:
    """A clip with its frames and their checksum, or why not; it must be the one that was listed.

    Raises OSError or MemoryError where not the clip but the machine is at fault.
    """
    path = root / video.file
    try:
        check_readable(path)
        if _digest(root, video) != video.sha256:
            raise DecodeError("changed since it was listed; run `cwm collect` again")
        if video.stills is not None:
            clip = images.read(root, video.file, video.stills, cfg.geometry, stop, scratch)
        elif path.suffix.lower() in episodes.SUFFIXES:
            clip = episodes.read(path, cfg.geometry)
        else:
            clip = decode(path, cfg.geometry, cfg.time_limit, stop, scratch)
    except DecodeError as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError) or getattr(cause, "errno", None) not in OF_A_FILE:
            raise cause from None
        return video, error
    return video, (clip, hashlib.sha256(clip.frames).hexdigest())


def _digest(root: Path, video: ClipRecord) -> str:
    """Checksum of a clip's files as they are now."""
    try:
        return digest(root, video)[1]
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error
