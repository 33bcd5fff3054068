"""Listed videos -> the clip store that training reads."""

import hashlib
import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from cwm.data.clips import INDEX, SPLITS
from cwm.data.corpora import DatasetConfig, Video, is_heldout, read_videos, sha256, write_json
from cwm.data.shards import Shards, Stored
from cwm.data.video import (
    FRAME_BYTES,
    SIZE,
    Clip,
    DecodeError,
    check_readable,
    decode,
    ffmpeg_version,
)
from cwm.errors import UserError

log = logging.getLogger(__name__)
NEWS = 10.0  # seconds between two lines of progress


def make_clips(name: str, cfg: DatasetConfig, videos: Path, out: Path, workers: int) -> None:
    """Decode the files that `videos` (a `videos.json`) lists, and write `out/store.json` last.

    Every file is named in `manifest.parquet`: decoded, too short, or failed with its reason. No
    file ever stands in for another.
    Raises UserError when more files fail than `cfg.max_failures` allows, or no clip is left.
    """
    root, listed = read_videos(videos)
    shards = Shards(out, asdict(cfg.geometry) | {"size": SIZE, "ffmpeg": ffmpeg_version()})
    try:
        failures = _decode_all(name, cfg, root, listed, shards, workers)
    finally:
        shards.sync()  # also what was decoded before a failure or Ctrl-C
    rows = [_row(video, cfg, shards.clips, failures) for video in listed]
    _write_manifest(out / "manifest.parquet", rows)
    _judge(name, cfg, rows, out)
    _write_store(name, cfg, rows, shards, out)


def _decode_all(
    name: str, cfg: DatasetConfig, root: Path, listed: list[Video], shards: Shards, workers: int
) -> dict[str, str]:
    """Decode what is not stored yet, in the order of the list; returns the reasons of failures."""
    # Files of equal content are decoded once; unreadable ones have no checksum to compare.
    todo = list({v.sha256 or v.file: v for v in listed if v.sha256 not in shards.clips}.values())
    log.info("%s: %d of %d videos to decode", name, len(todo), len(listed))
    failures: dict[str, str] = {}
    start = news = time.monotonic()
    with closing(_in_threads(todo, cfg, root, workers)) as results:
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
                message = "%s: %d of %d videos, %d failed, %.1f a second, %.0f s left"
                log.info(message, name, done, len(todo), len(failures), rate, left)
    return failures


def _in_threads(
    todo: list[Video], cfg: DatasetConfig, root: Path, workers: int
) -> Iterator[tuple[Video, tuple[Clip, str] | DecodeError]]:
    """Results in the order of `todo`, a bounded number ahead; an interrupt kills the children."""
    stop = threading.Event()
    ahead: deque[tuple[Video, Future]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for video in todo:
                ahead.append((video, pool.submit(_decode_one, root, video, cfg, stop)))
                if len(ahead) > 2 * workers:
                    first, future = ahead.popleft()
                    yield first, future.result()
            for last, future in ahead:
                yield last, future.result()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _decode_one(
    root: Path, video: Video, cfg: DatasetConfig, stop: threading.Event
) -> tuple[Clip, str] | DecodeError:
    """Frames of a file and their checksum, or why not; the file must be the one that was listed."""
    path = root / video.file
    try:
        check_readable(path)
        if sha256(path) != video.sha256:
            raise DecodeError("changed since it was listed; run `cwm videos` again")
        clip = decode(path, cfg.geometry, cfg.time_limit, stop)
    except DecodeError as error:
        return error
    except OSError as error:
        return DecodeError(f"cannot be read: {error.strerror}")
    return clip, hashlib.sha256(clip.frames).hexdigest()


def _row(
    video: Video, cfg: DatasetConfig, clips: dict[str, Stored], failures: dict[str, str]
) -> dict[str, Any]:
    """What is known of one source file: a row of the manifest, and where its frames lie."""
    stored = clips.get(video.sha256)
    row = video._asdict() | {"split": SPLITS[is_heldout(video.file, cfg.heldout)]}
    if stored is None:
        return row | {"status": "failed", "reason": failures[video.sha256 or video.file]}
    short = stored.frames < cfg.min_frames
    reason = f"{stored.frames} frames, fewer than {cfg.min_frames}" if short else None
    status = "too-short" if short else "ok"
    return row | stored._asdict() | {"status": status, "reason": reason}


def _write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    words = ("file", "sha256", "status", "reason", "split", "label")
    numbers = ("bytes", "width", "height", "frames")
    columns = [(name, pa.string()) for name in words] + [(name, pa.int64()) for name in numbers]
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
            f"{len(failed)} of {len(rows)} videos of dataset {name} cannot be decoded, more than "
            f"dataset.max_failures = {cfg.max_failures:g} allows ({first}); "
            f"all are listed in {out / 'manifest.parquet'}"
        )
    if not any(row["status"] == "ok" for row in rows):
        raise UserError(
            f"none of the {len(rows)} videos of dataset {name} has "
            f"dataset.min_frames = {cfg.min_frames} frames"
        )


def _write_store(
    name: str, cfg: DatasetConfig, rows: list[dict[str, Any]], shards: Shards, out: Path
) -> None:
    """Write the index, then the small file that vouches for everything."""
    clips = [row for row in rows if row["status"] == "ok"]
    labels = sorted({row["label"] for row in clips if row["label"] is not None})
    index = np.array([_entry(row, labels) for row in clips], INDEX)
    part = out / "index.part"
    with part.open("wb") as file:
        np.save(file, index)
    part.replace(out / "index.npy")
    info = {
        "dataset": name,
        "geometry": shards.key,
        "min_frames": cfg.min_frames,
        "heldout": cfg.heldout,
        "frame_shape": [SIZE, SIZE, 3],
        "frame_bytes": FRAME_BYTES,
        "videos": dict(sorted(Counter(row["status"] for row in rows).items())),
        "clips": {split: sum(row["split"] == split for row in clips) for split in SPLITS},
        "frames": int(index["length"].sum()),
        "labels": labels,
        "shards": shards.ends,
        "sha256": {
            "content": _content(clips),
            "index": sha256(out / "index.npy"),
            "manifest": sha256(out / "manifest.parquet"),
        },
    }
    write_json(out / "store.json", info)
    log.info("%s: %d clips, %d frames", name, len(clips), info["frames"])


def _entry(row: dict[str, Any], labels: list[str]) -> tuple[int, int, int, int, int]:
    label = -1 if row["label"] is None else labels.index(row["label"])
    return row["shard"], row["offset"], row["frames"], label, SPLITS.index(row["split"])


def _content(clips: Iterable[dict[str, Any]]) -> str:
    """Checksum of names, labels, splits and frames, wherever in the shards they lie."""
    digest = hashlib.sha256()
    for row in clips:
        facts = [row[name] for name in ("file", "label", "split", "frames", "content")]
        digest.update(json.dumps(facts).encode())
    return digest.hexdigest()
