"""A shard of raw frames: an .npy file of uint8 (N, 64, 64, 3)."""

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cwm.infra.errors import UserError
from cwm.videos.ffmpeg import FRAME_BYTES, SIZE

HEADER = 128  # bytes of a shard before its first frame
REMEDY = "run `cwm decode` and `cwm clips`, or `cwm import`, again"


class Encoded(NamedTuple):
    """The frames of a clip as a shard stores them."""

    content: str  # sha256 of the frames that will be read
    data: bytes | memoryview
    packets: np.ndarray | None = None  # of compressed frames


class RawShard:
    """Frames of many clips, one after another."""

    capacity = 2**30 // FRAME_BYTES  # frames: about 1 GiB

    def __init__(self, path: Path) -> None:
        self.path = path

    @staticmethod
    def encode(frames: np.ndarray) -> Encoded:
        """The frames (T, 64, 64, 3) of a clip, to append."""
        return Encoded(hashlib.sha256(frames.data).hexdigest(), frames.data)

    def append(self, offset: int, clip: Encoded) -> None:
        """Write a clip as frames `offset` and following, and discard what was there."""
        with self.path.open("r+b" if offset else "wb") as file:
            file.seek(HEADER + offset * FRAME_BYTES)
            file.truncate()
            file.write(clip.data)

    def sync(self, frames: int) -> None:
        """Flush to disk, as a shard of this many frames."""
        with self.path.open("r+b") as file:
            file.write(_header(frames))
            flush(file)

    def check(self, frames: int) -> None:
        """Raise UserError unless the shard is large enough for this many frames."""
        check_size(self.path, HEADER + frames * FRAME_BYTES)

    @cached_property
    def _file(self) -> BinaryIO:
        return self.path.open("rb", buffering=0)

    def read(self, offset: int, frames: np.ndarray) -> None:
        """Fill `frames` (T, 64, 64, 3) with those from `offset` on. Threads may share a shard."""
        place = HEADER + offset * FRAME_BYTES
        if os.preadv(self._file.fileno(), [frames.data], place) != frames.nbytes:
            raise UserError(f"{self.path} is truncated; {REMEDY}")


def flush(file: BinaryIO) -> None:
    """Write a file to disk."""
    file.flush()
    os.fsync(file.fileno())


def check_size(path: Path, size: int) -> None:
    """Raise UserError unless a file exists and has at least `size` bytes."""
    if not path.is_file():
        raise UserError(f"{path} is missing; {REMEDY}")
    if (found := path.stat().st_size) < size:
        raise UserError(f"{path} is too short ({found} bytes); {REMEDY}")


def _header(frames: int) -> bytes:
    """Header of an .npy file of `frames` frames, HEADER bytes long."""
    fields = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({frames}, {SIZE}, {SIZE}, 3)}}"
    begin = np.lib.format.magic(1, 0)
    length = HEADER - len(begin) - 2
    return begin + length.to_bytes(2, "little") + (fields.ljust(length - 1) + "\n").encode()
