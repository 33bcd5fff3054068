"""Decoded frames on disk, append-only, with a journal of which file's frames lie where.

Journal and shards are no outputs of a rule, so they survive Snakemake: new videos cost their own
decoding only, and a killed job goes on where it was.
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
UNSAFE_FRAMES = SHARD_FRAMES // 16  # frames that a kill may cost


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"frames-{number:05d}.npy"


class Stored(NamedTuple):
    """Where the frames of a clip lie; a line of the journal."""

    sha256: str  # of the source
    content: str  # sha256 of the frames
    width: int
    height: int
    seconds: float | None
    cuts: tuple[int, ...]
    frames: PositiveInt
    shard: NonNegativeInt
    offset: NonNegativeInt


def _in_order(clip: Stored) -> Stored:
    if any(a >= b for a, b in itertools.pairwise([0, *clip.cuts, clip.frames])):
        raise ValueError("cuts out of order")
    return clip


Line = Annotated[Stored, AfterValidator(_in_order)]  # as it is read


class Shards:
    """The frames of a folder; what was once written there never moves.

    key: what the frames depend on besides the files; with another key all begins anew.
    """

    def __init__(self, folder: Path, key: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._journal = folder, folder / "journal.jsonl"
        self.clips: dict[str, Stored] = {}  # by checksum of the file
        self.ends = [0]  # frames in each shard
        self._unsafe: list[Stored] = []  # not in the journal yet
        self._journal.touch()
        self._read(json.dumps(key, sort_keys=True) + "\n")

    def _read(self, key: str) -> None:
        """Remember what the journal says and is true, and write it anew."""
        if not self._journal.is_file():
            raise UserError(f"{self._journal} is not a file; move it away, and decode again")
        with (
            self._journal.open(errors="replace") as old,
            atomic_write(self._journal) as part,
            part.open("w") as new,
        ):
            new.write(key)
            if old.readline() != key:
                for frames in self._folder.glob("frames-*.npy"):
                    frames.unlink()
                return
            for line in old:
                if not line.endswith("\n"):  # cut off by a kill
                    continue
                try:
                    clip = json_file.parse(line, Line, f"a line of {self._journal}")
                except UserError as error:
                    log.warning("%s: its clip is decoded anew", error)
                    continue
                if self._holds(clip):
                    self._remember(clip)
                    new.write(line)

    def _path(self, shard: int) -> Path:
        return self._folder / shard_name(shard)

    def _holds(self, clip: Stored) -> bool:
        """Whether the shard of a clip is still there, and long enough."""
        path, end = self._path(clip.shard), HEADER + (clip.offset + clip.frames) * FRAME_BYTES
        return path.exists() and path.stat().st_size >= end

    def _remember(self, clip: Stored) -> None:
        self.clips[clip.sha256] = clip
        self.ends += [0] * (clip.shard + 1 - len(self.ends))
        self.ends[clip.shard] = clip.offset + clip.frames

    def add(self, digest: str, clip: Clip, content: str) -> None:
        """Append the frames of the file with this checksum; `content` is theirs."""
        if self.ends[-1] and self.ends[-1] + len(clip.frames) > SHARD_FRAMES:
            self.sync()
            self.ends.append(0)
        shard, offset = len(self.ends) - 1, self.ends[-1]
        facts = clip._asdict() | {"frames": len(clip.frames)}
        stored = _in_order(Stored(digest, content, shard=shard, offset=offset, **facts))
        with self._path(shard).open("r+b" if offset else "wb") as file:
            file.seek(HEADER + offset * FRAME_BYTES)
            file.truncate()  # frames that no journal knows of
            file.write(clip.frames)
        self._remember(stored)
        self._unsafe.append(stored)
        if sum(clip.frames for clip in self._unsafe) >= UNSAFE_FRAMES:
            self.sync()

    def sync(self) -> None:
        """Make all frames safe on disk, then say so in the journal; to be called at the end."""
        if not self._unsafe:
            return
        with self._path(len(self.ends) - 1).open("r+b") as file:
            file.write(_header(self.ends[-1]))
            file.flush()
            os.fsync(file.fileno())
        with self._journal.open("a") as journal:
            journal.writelines(json.dumps(stored) + "\n" for stored in self._unsafe)
            journal.flush()
            os.fsync(journal.fileno())
        self._unsafe.clear()


def _header(frames: int) -> bytes:
    """The beginning of an .npy file of so many frames, of constant length."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, {SIZE}, {SIZE}, 3)}}"
    begin = np.lib.format.magic(1, 0)
    length = HEADER - len(begin) - 2
    return begin + length.to_bytes(2, "little") + (fields.ljust(length - 1) + "\n").encode()
