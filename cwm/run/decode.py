"""Listed clips -> frames on disk: one of the jobs among which a dataset is divided."""

import errno
import hashlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cwm.data import episodes, stills
from cwm.data.corpora import DatasetConfig, Video, digest, read_videos
from cwm.data.files import write_json
from cwm.data.shards import Shards
from cwm.data.video import SIZE, Clip, DecodeError, check_readable, decode, ffmpeg_version
from cwm.errors import UserError

log = logging.getLogger(__name__)
NEWS = 10.0  # seconds between two lines of progress


def part_of(video: Video, parts: int) -> int:
    """The part that decodes a clip: decided by its name, so that new ones move none."""
    name = hashlib.sha256(b"part " + os.fsencode(video.file)).digest()
    return int.from_bytes(name[:8], "big") * parts >> 64


def part_folder(number: int) -> str:
    """The folder of a part, below that of the store."""
    return f"part-{number:03d}"


def key(cfg: DatasetConfig) -> dict[str, Any]:
    """What frames depend on besides the files."""
    return asdict(cfg.geometry) | {"size": SIZE, "ffmpeg": ffmpeg_version()}


def decode_part(
    name: str, cfg: DatasetConfig, videos: Path, number: int, out: Path, n: int
) -> None:
    """Decode the clips of a part with `n` at once, and write `out/part.json` last.

    What is stored already is not decoded again. Clips that fail are named in `part.json`.
    """
    if not 0 <= number < cfg.parts:
        raise UserError(f"part {number} of dataset {name}; they are 0 to {cfg.parts - 1}")
    root, listed = read_videos(videos)
    mine = [video for video in listed if part_of(video, cfg.parts) == number]
    shards = Shards(out, key(cfg) | {"parts": cfg.parts})
    try:
        failures = _decode_all(name, cfg, root, mine, shards, out, n)
    finally:
        shards.sync()  # also what was decoded before a failure or Ctrl-C
    write_json(out / "part.json", {"parts": cfg.parts, "failures": failures})


def _decode_all(
    name: str, cfg: DatasetConfig, root: Path, mine: list[Video], shards: Shards, out: Path, n: int
) -> dict[str, str]:
    """Decode what is not stored yet, in the order of the list; returns the reasons of failures."""
    # Clips of equal content are decoded once; unreadable ones have no checksum to compare.
    todo = list({v.sha256 or v.file: v for v in mine if v.sha256 not in shards.clips}.values())
    log.info("%s: %d of %d clips to decode", name, len(todo), len(mine))
    failures: dict[str, str] = {}
    start = news = time.monotonic()
    with closing(_in_threads(todo, cfg, root, out, n)) as results:
        for done, (video, result) in enumerate(results, start=1):
            if isinstance(result, DecodeError):
                failures[video.sha256 or video.file] = str(result)
                log.warning("%s: %s: %s", name, video.file, result)
            else:
                shards.add(video.sha256, *result)
            now = time.monotonic()
            if now - news > NEWS or done == len(todo):
                news, rate = now, done / max(now - start, 1e-9)
                left = (len(todo) - done) / rate
                message = "%s: %d of %d clips, %d failed, %.1f a second, %.0f s left"
                log.info(message, name, done, len(todo), len(failures), rate, left)
    return failures


def _in_threads(
    todo: list[Video], cfg: DatasetConfig, root: Path, out: Path, n: int
) -> Iterator[tuple[Video, tuple[Clip, str] | DecodeError]]:
    """Results in the order of `todo`, a bounded number ahead; an interrupt kills the children."""
    stop = threading.Event()
    ahead: deque[tuple[Video, Future]] = deque()
    with ThreadPoolExecutor(n) as pool:
        try:
            for video in todo:
                ahead.append((video, pool.submit(_decode_one, root, video, cfg, stop, out)))
                if len(ahead) > 2 * n:
                    first, future = ahead.popleft()
                    yield first, future.result()
            while ahead:
                last, future = ahead.popleft()
                yield last, future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _decode_one(
    root: Path, video: Video, cfg: DatasetConfig, stop: threading.Event, scratch: Path
) -> tuple[Clip, str] | DecodeError:
    """Frames of a clip and their checksum, or why not; it must be the one that was listed."""
    path = root / video.file
    try:
        check_readable(path)
        if digest(root, video)[1] != video.sha256:
            raise DecodeError("changed since it was listed; run `cwm collect` again")
        if video.stills is not None:
            clip = stills.read(root, video.file, video.stills, cfg.geometry, stop, scratch)
        elif path.suffix.lower() in episodes.SUFFIXES:
            clip = episodes.read(path, cfg.geometry)
        else:
            clip = decode(path, cfg.geometry, cfg.time_limit, stop, scratch)
    except DecodeError as error:
        if os.strerror(errno.ENOSPC) in str(error):  # the disk's fault, not the clip's
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(scratch)) from error
        return error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return DecodeError(f"cannot be read: {error.strerror}")
    return clip, hashlib.sha256(clip.frames).hexdigest()
