"""One video file -> uint8 frames, through an ffmpeg child process that is not trusted.

Axes: T time, H height, W width; frames are RGB, upright, 64 x 64.
"""

import errno
import mmap
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

SIZE = 64  # every model of the paper sees 64 x 64 frames
FRAME_BYTES = SIZE * SIZE * 3
POLL = 0.25  # seconds between two looks at the clock and at `stop`

# ffmpeg's exit status says little: of a damaged file it decodes what it can and ends with 0.
COMPLAINT = re.compile(r"\[(?:error|fatal)\] (.*)|\[warning\] (.*corrupt.*)")
SOURCE_SIZE = re.compile(r"Stream #0:.* Video: (?!.*attached pic).*?, ([1-9]\d*)x(\d+)\b")
FRAME_COUNT = re.compile(r"\[info\] frame= *(\d+)")
SECONDS = re.compile(r"\[info\] frame=.* time=(\d+):(\d+):([\d.]+)")
ANEW = re.compile(r"\[info\] Reconfiguring filter graph because (.*)")
SIGNAL = re.compile(r"\[info\] Exiting normally, received signal (\d+)")
CUT = re.compile(r"\[info\] frame:(\d+) .*\n.*lavfi\.scd\.time=")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
# Of what ffmpeg complains though the file is sound: of where frames go, or of the machine.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNFIT = (errno.EIO, errno.ENOMEM, errno.EAGAIN)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Geometry:
    """How a source frame becomes 64 x 64, and which frames are kept."""

    aspect: Literal["stretch", "center-crop", "person"] = "stretch"  # person: of stills with joints
    filter: Literal["bicubic", "area"] = "bicubic"  # of ffmpeg's scaler; stills have their own
    stride: PositiveInt = 1  # keep every n-th frame of a video
    cuts: PositiveFloat | None = None  # score of ffmpeg's scdet, 0..100, at which a shot ends


class Clip(NamedTuple):
    """All kept frames of one file, and what is known of it."""

    frames: np.ndarray  # (T, 64, 64, 3) uint8
    width: int  # of the source, in pixels
    height: int
    seconds: float | None = None  # none: the source has no clock
    cuts: tuple[int, ...] = ()  # frames at which another shot begins


class DecodeError(Exception):
    """A file that did not give all its frames; the message is the reason, without the path."""


def ffmpeg_exe() -> str:
    """The static ffmpeg of imageio-ffmpeg: the same decoder on every machine."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()


def ffmpeg_version() -> str:
    """Version of the decoder, which decoded frames depend on."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_version()


def decode(
    path: Path,
    geometry: Geometry,
    limit: float = 600.0,
    stop: threading.Event | None = None,
    scratch: Path | None = None,
) -> Clip:
    """Decode the first real video stream of a file, all of it or nothing.

    limit: seconds before the child is killed. stop: when set, the child is killed at once. The
    frames lie in a nameless file in `scratch`, not in memory, so that a film may be of any length.
    Raises DecodeError for whatever is not a whole, readable video: missing, empty, a folder,
    another kind of file, sound only, truncated or damaged, or slower than the limit; OSError where
    the machine is at fault, as when it ends the child.
    """
    check_readable(path)
    with tempfile.TemporaryFile(dir=scratch) as file:
        status, log = _run(_arguments(path, geometry), file, limit, stop or threading.Event())
        if signals := [-status] if status < 0 else SIGNAL.findall(log):
            raise _ended(int(signals[0]), path)
        if found := COMPLAINT.search(log):
            text = (found[1] or found[2]).strip()
            for code in FULL + UNFIT:
                if os.strerror(code) in text:
                    place = (scratch or tempfile.gettempdir()) if code in FULL else path
                    raise OSError(code, os.strerror(code), str(place))
            said = "no video stream" if "matches no streams" in text else f"ffmpeg: {text}"
            raise DecodeError(said)
        if status != 0:
            raise DecodeError(f"ffmpeg ended with status {status}")
        if (anew := ANEW.search(log)) and (geometry.cuts is not None or geometry.stride > 1):
            raise DecodeError(
                f"its picture size or format changes, and the count with it: {anew[1]}"
            )
        written, counted = file.seek(0, 2), FRAME_COUNT.findall(log)
        if not counted or written != int(counted[-1]) * FRAME_BYTES:
            said = counted[-1] if counted else "no"
            raise DecodeError(f"ffmpeg reported {said} frames, {written} bytes arrived")
        if not written:
            raise DecodeError("no frames")
        pixels = as_frames(file)
    size = SOURCE_SIZE.search(log.partition("Stream mapping:")[0])
    if size is None:
        raise DecodeError("ffmpeg did not say the size of the video")
    seconds = None
    for hours, minutes, rest in SECONDS.findall(log)[-1:]:
        seconds = 3600 * int(hours) + 60 * int(minutes) + float(rest)
    cuts = tuple(int(frame) for frame in CUT.findall(log))
    return Clip(pixels, int(size[1]), int(size[2]), seconds, cuts)


def _ended(by: int, path: Path) -> Exception:
    """The error for a child that a signal, not ours, ended while it decoded a file."""
    said = f"ffmpeg was ended ({signal.strsignal(by)})"
    if by in CRASHES:
        return DecodeError(said)
    return OSError(errno.EFBIG if by == signal.SIGXFSZ else errno.EINTR, said, str(path))


def as_frames(file: BinaryIO) -> np.ndarray:
    """The content of a file as frames (T, 64, 64, 3) uint8; it may be closed then."""
    content = mmap.mmap(file.fileno(), 0)
    return np.frombuffer(content, np.uint8).reshape(-1, SIZE, SIZE, 3)


def check_readable(path: Path) -> None:
    """Raise DecodeError unless the path is a file with bytes in it that we may read.

    Opening a pipe or a device could wait for ever, so only regular files are opened.
    """
    try:
        if not path.exists():
            raise DecodeError("no such file")
        if not path.is_file():
            raise DecodeError("a folder, not a file" if path.is_dir() else "not a regular file")
        with path.open("rb") as file:
            if not file.read(1):
                raise DecodeError("empty file")
    except OSError as error:
        raise DecodeError(f"cannot be read: {error.strerror}") from error


def _arguments(path: Path, geometry: Geometry) -> list[str]:
    """The command line, for the first stream that is a video and not a cover picture.

    Only files may be opened, so that a playlist cannot name addresses. One thread each:
    clips are decoded in parallel, which keeps cores busier than threads within a clip.
    """
    import ffmpeg

    if geometry.aspect == "person":
        raise DecodeError("dataset.geometry.aspect person is for stills with joints, not videos")
    source = ffmpeg.input("PATH", protocol_whitelist="file", threads=1)
    video = source["V:0"]
    if geometry.stride > 1:
        video = video.filter("select", f"not(mod(n,{geometry.stride}))")
    if geometry.aspect == "center-crop":
        video = video.filter("crop", "min(iw,ih)", "min(iw,ih)")
    video = video.filter("scale", SIZE, SIZE, flags=geometry.filter)
    if geometry.cuts is not None:
        video = video.filter("scdet", threshold=geometry.cuts)
        video = video.filter("metadata", mode="print", key="lavfi.scd.time")
    sink = video.output(
        "pipe:", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough", threads=1
    )
    quiet = ["-nostdin", "-hide_banner", "-loglevel", "level+info", "-filter_complex_threads", "1"]
    argv = ffmpeg.compile(sink.global_args(*quiet), cmd=ffmpeg_exe())
    # `file:` keeps a name such as "a:b.mp4" or "-i.mp4" from meaning something else. It is put in
    # here because ffmpeg-python refuses names that are not UTF-8.
    argv[argv.index("PATH")] = f"file:{path}"
    return argv


def _run(argv: list[str], out: BinaryIO, limit: float, stop: threading.Event) -> tuple[int, str]:
    """Run a child to its end: its status and log; kill it when time is up or on `stop`."""
    deadline = time.monotonic() + limit
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=nothing, stdout=out, stderr=pipe) as child:
        try:
            while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    _, log = child.communicate(timeout=min(left, POLL))
                    return child.returncode, log.decode(errors="replace")
            raise DecodeError("stopped" if stop.is_set() else f"not decoded within {limit:g} s")
        finally:
            child.kill()
