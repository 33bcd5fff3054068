"""Append-only shards of decoded frames, with a journal of where the frames of each file are.

Snakemake does not know these files, so it keeps them: a killed job resumes, and new videos cost
only their own decoding.
"""

import itertools
import json
import logging
import os
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import AfterValidator, NonNegativeInt, PositiveInt

from cwm.infra import json_file
from cwm.infra.errors import UserError
from cwm.infra.files import atomic_write
from cwm.videos.ffmpeg import FRAME_BYTES, SIZE, Clip
from cwm.videos.store import HEADER

log = logging.getLogger(__name__)

SHARD_FRAMES = 2**30 // FRAME_BYTES  # about 1 GiB
SYNC_FRAMES = SHARD_FRAMES // 16  # frames that a kill may lose


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"frames-{number:05d}.npy"


class Stored(NamedTuple):
    """Where the frames of a source file are; a line of the journal."""

    sha256: str  # of the source file
    content: str  # sha256 of the frames
    width: int
    height: int
    seconds: float | None
    cuts: tuple[int, ...]
    frames: PositiveInt
    shard: NonNegativeInt
    offset: NonNegativeInt


def _check_cuts(clip: Stored) -> Stored:
    if any(a >= b for a, b in itertools.pairwise([0, *clip.cuts, clip.frames])):
        raise ValueError("cuts out of order")
    return clip


CheckedStored = Annotated[Stored, AfterValidator(_check_cuts)]


class Shards:
    """The decoded frames of one folder; frames once written never move.

    key: settings and versions that the frames depend on; another key discards them all.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._journal = folder, folder / "journal.jsonl"
        self.clips: dict[str, Stored] = {}  # by sha256 of the source file
        self.ends = [0]  # frames in each shard
        self._unsynced: list[Stored] = []  # not in the journal yet
        self._journal.touch()
        if not self._journal.is_file():
            raise UserError(f"{self._journal} is not a file; move it away, and decode again")
        with (
            self._journal.open(errors="replace") as old,
            atomic_write(self._journal) as part,
            part.open("w") as new,
        ):
            new.write(head := json.dumps(key, sort_keys=True) + "\n")
            if old.readline() != head:
                for frames in folder.glob("frames-*.npy"):
                    frames.unlink()
                return
            for line in old:
                if line.endswith("\n") and self._load(line):  # a kill may cut the last line off
                    new.write(line)

    def _load(self, line: str) -> bool:
        """Register the clip of a journal line; false if it is damaged or its frames are missing."""
        try:
            clip = json_file.parse(line, CheckedStored, f"a line of {self._journal}")
        except UserError as error:
            log.warning("%s: the clip is decoded again", error)
            return False
        path, end = self._path(clip.shard), HEADER + (clip.offset + clip.frames) * FRAME_BYTES
        if whole := path.exists() and path.stat().st_size >= end:
            self._register(clip)
        return whole

    def _path(self, shard: int) -> Path:
        return self._folder / shard_name(shard)

    def _register(self, clip: Stored) -> None:
        self.clips[clip.sha256] = clip
        self.ends += [0] * (clip.shard + 1 - len(self.ends))
        self.ends[clip.shard] = clip.offset + clip.frames

    def add(self, digest: str, clip: Clip, content: str) -> None:
        """Append a file's frames. digest: sha256 of the file. content: sha256 of the frames."""
        if self.ends[-1] and self.ends[-1] + len(clip.frames) > SHARD_FRAMES:
            self.sync()
            self.ends.append(0)
        shard, offset = len(self.ends) - 1, self.ends[-1]
        facts = clip._asdict() | {"frames": len(clip.frames)}
        stored = _check_cuts(Stored(digest, content, shard=shard, offset=offset, **facts))
        with self._path(shard).open("r+b" if offset else "wb") as file:
            file.seek(HEADER + offset * FRAME_BYTES)
            file.truncate()  # frames that are not in the journal
            file.write(clip.frames.data)
        self._register(stored)
        self._unsynced.append(stored)
        if sum(clip.frames for clip in self._unsynced) >= SYNC_FRAMES:
            self.sync()

    def sync(self) -> None:
        """Flush the frames to disk, then append them to the journal. Call it at the end."""
        if not self._unsynced:
            return
        with self._path(len(self.ends) - 1).open("r+b") as file:
            file.write(_header(self.ends[-1]))
            file.flush()
            os.fsync(file.fileno())
        with self._journal.open("a") as journal:
            journal.writelines(json.dumps(stored) + "\n" for stored in self._unsynced)
            journal.flush()
            os.fsync(journal.fileno())
        self._unsynced.clear()


def _header(frames: int) -> bytes:
    """Header of an .npy file of `frames` frames, HEADER bytes long."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, {SIZE}, {SIZE}, 3)}}"
    begin = np.lib.format.magic(1, 0)
    length = HEADER - len(begin) - 2
    return begin + length.to_bytes(2, "little") + (fields.ljust(length - 1) + "\n").encode()
