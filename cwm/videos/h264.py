"""A shard of compressed frames: an H.264 stream, and a table of its packets.

`frames-NNNNN.h264`     one packet per frame; every clip begins with a key frame
`frames-NNNNN.packets`  one PACKET entry per frame

Players can play the stream. docs/data.md has what its settings cost.
"""

import hashlib
import os
import threading
import zlib
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

from cwm.infra.errors import UserError
from cwm.videos.ffmpeg import SIZE, DecodeError
from cwm.videos.raw import REMEDY, Encoded, check_size, flush

GOP = 12  # frames from a key frame to the next, at most
# end: first byte behind the packet. since: frames since the key frame. crc: crc32(packet, since).
PACKET = np.dtype([("end", "<i8"), ("crc", "<u4"), ("since", "u1")])
# Without B-frames a packet gives its frame at once, so no packet after the window is read.
OPTIONS = {"preset": "slow", "tune": "psnr", "crf": "20", "g": str(GOP), "bf": "0"}
FIXED = {"keyint_min": OPTIONS["g"], "sc_threshold": "0", "flags": "+global_header"}
MIN_PSNR = 25.0  # dB of a frame
SEI = b"\0\0\1\6"  # begins x264's description of itself
EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.BITEXACT


def description() -> str:
    """Settings and version that the frames depend on."""
    options = " ".join(f"{name} {value}" for name, value in OPTIONS.items())
    return f"h264, {options}, PyAV {av.__version__}"


class H264Shard:
    """Frames of many clips, one after another, of which a window is read and decoded."""

    capacity = 2**21  # frames: about 1 GB

    def __init__(self, path: Path) -> None:
        self.path, self._packets_path = path, path.with_suffix(".packets")

    @staticmethod
    def encode(frames: np.ndarray) -> Encoded:
        """Compress the frames (T, 64, 64, 3) of a clip, and decode each group again to compare.

        Raises DecodeError if a frame is lost or differs too much.
        """
        packets, table = _compress(frames), np.zeros(len(frames), PACKET)
        if len(packets) != len(frames):
            raise DecodeError(f"{len(frames)} frames became {len(packets)} packets of H.264")
        table["end"] = np.cumsum([len(packet) for packet in packets])
        table["since"] = np.arange(len(packets)) % GOP
        table["crc"] = [zlib.crc32(*x) for x in zip(packets, table["since"].tolist(), strict=True)]
        decoded = np.empty(frames.shape, np.uint8)
        for t in range(0, len(packets), GOP):
            _decompress(packets[t : t + GOP], 0, decoded[t : t + GOP])
        for t, (frame, right) in enumerate(zip(decoded, frames, strict=True)):
            if (psnr := _psnr(frame, right)) < MIN_PSNR:
                raise DecodeError(f"H.264 changes frame {t} too much ({psnr:.1f} dB)")
        return Encoded(hashlib.sha256(decoded.data).hexdigest(), b"".join(packets), table)

    def append(self, offset: int, clip: Encoded) -> None:
        """Write a clip as frames `offset` and following, and discard what was there."""
        table, begin = np.array(clip.packets), self._end(offset)
        table["end"] += begin
        places = {self.path: begin, self._packets_path: offset * PACKET.itemsize}
        for (path, place), data in zip(places.items(), (clip.data, table.data), strict=True):
            with path.open("r+b" if offset else "wb") as file:
                file.seek(place)
                file.truncate()
                file.write(data)

    def sync(self, frames: int) -> None:
        """Flush to disk."""
        for path in (self.path, self._packets_path):
            with path.open("r+b") as file:
                flush(file)

    def check(self, frames: int) -> None:
        """Raise UserError unless the shard is large enough for this many frames."""
        check_size(self._packets_path, frames * PACKET.itemsize)
        check_size(self.path, self._end(frames))

    def _end(self, frames: int) -> int:
        """Bytes of the first `frames` packets."""
        if not frames:
            return 0
        with self._packets_path.open("rb", buffering=0) as file:
            return int(_read_table(file, frames - 1, 1)["end"][0])

    @cached_property
    def _stream(self) -> BinaryIO:
        return self.path.open("rb", buffering=0)

    @cached_property
    def _packets(self) -> BinaryIO:
        return self._packets_path.open("rb", buffering=0)

    def read(self, offset: int, frames: np.ndarray) -> None:
        """Fill `frames` (T, 64, 64, 3) with those from `offset` on. Threads may share a shard."""
        begin = max(0, offset - GOP)  # the packet before the key frame tells where that begins
        table = _read_table(self._packets, begin, offset - begin + len(frames))
        skipped = int(table["since"][offset - begin])
        key = offset - begin - skipped
        places = np.concatenate([[0], table["end"]])[max(0, key) :]
        if key < min(begin, 1) or places[0] < 0 or not (np.diff(places) > 0).all():
            raise self._damaged("its table of packets is wrong")
        data = _read(self._stream, int(places[0]), int(places[-1] - places[0]))
        packets = [data[a:b] for a, b in pairwise(places - places[0])]
        for entry, packet in zip(table[key:], packets, strict=True):
            if zlib.crc32(packet, int(entry["since"])) != entry["crc"]:
                raise self._damaged("a checksum differs")
        try:
            _decompress(packets, skipped, frames)
        except (av.InvalidDataError, DecodeError) as error:
            raise self._damaged(str(error)) from error

    def _damaged(self, why: str) -> UserError:
        return UserError(f"{self.path} is damaged ({why}); delete it, and {REMEDY}")


def _read(file: BinaryIO, place: int, size: int) -> bytes:
    """Bytes of a file; UserError if it ends before."""
    if place + size <= os.fstat(file.fileno()).st_size:  # a wrong size could exceed the memory
        data = os.pread(file.fileno(), size, place)
        if len(data) == size:
            return data
    raise UserError(f"{file.name} is truncated; {REMEDY}")


def _read_table(file: BinaryIO, offset: int, count: int) -> np.ndarray:
    """PACKET entries from `offset` on."""
    data = _read(file, offset * PACKET.itemsize, count * PACKET.itemsize)
    return np.frombuffer(data, PACKET)


def _compress(frames: np.ndarray) -> list[bytes]:
    """One packet for each frame. Equal frames give equal packets."""
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = SIZE
    context.pix_fmt, context.time_base, context.thread_count = "yuv444p", Fraction(1, 25), 1
    context.colorspace, context.color_range = Colorspace.ITU601, ColorRange.JPEG
    context.options = OPTIONS | FIXED
    packets = []
    for t, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(_yuv(pixels), format="yuv444p")
        frame.pts = t
        packets += context.encode(frame)
    packets += context.encode(None)
    # A decoder needs no other bytes than those from a key frame on.
    parameters = (context.extradata or b"").partition(SEI)[0]
    return [parameters * packet.is_keyframe + bytes(packet) for packet in packets]


def _yuv(pixels: np.ndarray) -> np.ndarray:
    """YUV planes (3, 64, 64) of a frame, BT.601 in full range.

    PyAV's conversion, read back, lowers red and blue by 0.8 on average.
    """
    red, green, blue = np.moveaxis(pixels.astype(np.float32), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = [luma, (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128]
    return np.stack(planes).round().clip(0, 255).astype(np.uint8)


class _Decoder(threading.local):
    """A decoder for each thread."""

    def __init__(self) -> None:
        self.context = av.CodecContext.create("h264", "r")
        self.context.thread_count = 1
        self._reformatter = VideoReformatter()

    def pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """RGB (64, 64, 3) of a decoded frame."""
        rgb = self._reformatter.reformat(
            frame,
            format="rgb24",
            src_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
            threads=1,
        )
        return rgb.to_ndarray()


_DECODER = _Decoder()


def _decompress(packets: Sequence[bytes], skipped: int, frames: np.ndarray) -> None:
    """Decode packets from a key frame on into `frames`, but the first `skipped`."""
    context = _DECODER.context
    if context.is_open:
        context.flush_buffers()
    number = -skipped
    for packet in (*map(av.Packet, packets), None):
        for frame in context.decode(packet):
            if 0 <= number < len(frames):
                frames[number] = _DECODER.pixels(frame)
            number += 1
    if number != len(frames):
        raise DecodeError(f"{len(packets)} packets of H.264 gave {number + skipped} frames")


def _psnr(frame: np.ndarray, right: np.ndarray) -> float:
    """Peak signal-to-noise ratio of a frame in dB."""
    error = np.square(frame.astype(np.float32) - right).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))
