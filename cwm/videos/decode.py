"""Decode one part of the listed clips to frames on disk."""

import errno
import logging
import threading
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from cwm.infra.errors import UserError
from cwm.infra.files import locked_folder
from cwm.infra.parallel import parallel_map
from cwm.infra.progress import Progress
from cwm.videos import images
from cwm.videos.datasets import ClipRecord, DatasetConfig, describe, digest
from cwm.videos.ffmpeg import (
    SIZE,
    Clip,
    DecodeError,
    check_ffmpeg,
    check_readable,
    decode,
    ffmpeg_version,
)
from cwm.videos.lists import AboutPart, read_list, write_outcomes
from cwm.videos.raw import Encoded
from cwm.videos.shards import Shards

log = logging.getLogger(__name__)
# errno of errors that a file causes; the machine causes all others. None: a decoder's own message.
# EINVAL: a seek in a damaged archive.
FILE_ERRORS = {None, errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ELOOP}
FILE_ERRORS |= {errno.ENAMETOOLONG, errno.EINVAL}


def part_folder(number: int) -> str:
    """Folder of a part, inside the folder of the store."""
    return f"part-{number:03d}"


def key(cfg: DatasetConfig) -> dict[str, Any]:
    """Settings and versions that decoded frames depend on."""
    constant = {"filter": "bicubic", "stride": 1, "size": SIZE}
    facts = asdict(cfg.geometry) | constant | {"ffmpeg": ffmpeg_version()}
    if cfg.codec == "raw":
        return facts
    from cwm.videos import h264  # PyAV is an extra

    return facts | {"codec": h264.description()}


def decode_part(
    name: str, cfg: DatasetConfig, videos: Path, number: int, out: Path, n: int
) -> None:
    """Hash and decode the clips of a part, `n` at once, and write `out/part.parquet` last.

    videos: the `videos.json` beside the lists; only the list of this part is read. Stored clips are
    not decoded again. Raises UserError if ffmpeg is missing or too old.
    """
    if not 0 <= number < cfg.parts:
        raise UserError(f"dataset {name} has no part {number}; valid are 0 to {cfg.parts - 1}")
    root, clips, checksum = read_list(videos, number, cfg.parts)
    with locked_folder(out, "decoding into"):
        check_ffmpeg(out)
        records = list(parallel_map(partial(describe, root, cfg=cfg), clips, n))
        first: dict[str, ClipRecord] = {}  # of equal files
        for record in records:
            first.setdefault(record.identity, record)
        shards = Shards(out, key(cfg) | {"parts": cfg.parts}, cfg.codec)
        todo = [record for identity, record in first.items() if identity not in shards.clips]
        log.info("%s: %d of %d clips to decode", name, len(todo), len(first))
        stop = threading.Event()
        one = partial(_decode_one, root, cfg, stop, out, shards)
        decoded = parallel_map(one, todo, n, stop)
        failures: dict[str, str] = {}
        try:
            with closing(decoded), Progress(len(todo), label=name) as bar:
                for done, (record, result) in enumerate(zip(todo, decoded, strict=True), start=1):
                    if isinstance(result, DecodeError):
                        failures[record.identity] = str(result)
                        log.warning("%s: %s: %s", name, record.file, result)
                    else:
                        shards.add(record.identity, *result)
                    bar.update(done, {"failed": len(failures)})
        finally:
            shards.sync()  # also after an error or Ctrl-C
        found = (shards.clips.get(x.identity) or failures[x.identity] for x in records)
        about: AboutPart = {"part": number, "parts": cfg.parts, "list": checksum, "key": key(cfg)}
        write_outcomes(out / "part.parquet", zip(records, found, strict=True), about)


def _decode_one(
    root: Path,
    cfg: DatasetConfig,
    stop: threading.Event,
    scratch: Path,
    shards: Shards,
    record: ClipRecord,
) -> tuple[Clip, Encoded] | DecodeError:
    """Frames of a clip, also encoded, or why it cannot be decoded or has changed.

    Raises OSError or MemoryError if the machine is at fault and not the file.
    """
    path = root / record.file
    try:
        check_readable(path)
        try:
            checksum = digest(root, record)[1]
        except OSError as error:
            raise DecodeError(f"cannot be read: {error.strerror}") from error
        if checksum != record.sha256:
            raise DecodeError("changed while its part was decoded; run `cwm decode` again")
        if record.stills is not None:
            clip = images.read_stills(root, record.file, record.stills, cfg.geometry, stop, scratch)
        elif path.suffix.lower() in images.EPISODES:
            clip = images.read_episode(path)
        else:
            clip = decode(path, cfg.geometry, cfg.time_limit, stop, scratch)
        return clip, shards.encode(clip.frames)
    except DecodeError as error:
        return caused_by_file(error)


def caused_by_file(error: DecodeError) -> DecodeError:
    """The error itself; raises its cause, an OSError or MemoryError, if the machine is at fault."""
    cause = error.__cause__
    machine = isinstance(cause, MemoryError) or getattr(cause, "errno", None) not in FILE_ERRORS
    if cause is not None and machine:
        raise cause from None
    return error
