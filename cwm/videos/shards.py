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
from cwm.videos.codec import Codec, Shard, open_shard, shard_name
from cwm.videos.ffmpeg import FRAME_BYTES, Clip
from cwm.videos.raw import Encoded

log = logging.getLogger(__name__)

SYNC_FRAMES = 2**26 // FRAME_BYTES  # that a kill may lose: 64 MiB of raw frames


class Stored(NamedTuple):
    """Where the frames of a source file are; a line of the journal."""

    sha256: str  # of the source file
    content: str  # sha256 of the frames that are read
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

    def __init__(self, folder: Path, key: dict[str, Any], codec: Codec = "raw") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._journal = folder, folder / "journal.jsonl"
        self._codec = codec
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
                for frames in folder.glob("frames-*"):
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
        try:
            self._shard(clip.shard).check(clip.offset + clip.frames)
        except UserError:
            return False
        self._register(clip)
        return True

    def _shard(self, number: int) -> Shard:
        return open_shard(self._folder / shard_name(number, self._codec))

    def _register(self, clip: Stored) -> None:
        self.clips[clip.sha256] = clip
        self.ends += [0] * (clip.shard + 1 - len(self.ends))
        self.ends[clip.shard] = clip.offset + clip.frames

    def encode(self, frames: np.ndarray) -> Encoded:
        """The frames of a file, to add; any thread may call it. DecodeError if they are lost."""
        return self._shard(0).encode(frames)

    def add(self, digest: str, clip: Clip, encoded: Encoded) -> None:
        """Append a file's frames, which `encode` gave. digest: sha256 of the file."""
        shard = self._shard(len(self.ends) - 1)
        if self.ends[-1] and self.ends[-1] + len(clip.frames) > shard.capacity:
            self.sync()
            self.ends.append(0)
            shard = self._shard(len(self.ends) - 1)
        number, offset = len(self.ends) - 1, self.ends[-1]
        facts = clip._asdict() | {"frames": len(clip.frames)}
        stored = _check_cuts(Stored(digest, encoded.content, shard=number, offset=offset, **facts))
        shard.append(offset, encoded)
        self._register(stored)
        self._unsynced.append(stored)
        if sum(clip.frames for clip in self._unsynced) >= SYNC_FRAMES:
            self.sync()

    def sync(self) -> None:
        """Flush the frames to disk, then append them to the journal. Call it at the end."""
        if not self._unsynced:
            return
        self._shard(len(self.ends) - 1).sync(self.ends[-1])
        with self._journal.open("a") as journal:
            journal.writelines(json.dumps(stored) + "\n" for stored in self._unsynced)
            journal.flush()
            os.fsync(journal.fileno())
        self._unsynced.clear()
