"""Decode a video file to uint8 frames with an ffmpeg child process that is not trusted.

Axes: T time, H height, W width; frames are RGB, upright, 64 x 64.
"""

import errno
import mmap
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import numpy as np
from pydantic import ConfigDict, PositiveFloat
from pydantic.dataclasses import dataclass

from cwm.infra.errors import UserError
from cwm.infra.files import TEMPORARY

SIZE = 64  # every model of the paper sees 64 x 64 frames
FRAME_BYTES = SIZE * SIZE * 3
POLL = 0.25  # seconds between two checks of the time limit and of `stop`

# The exit status is not enough: ffmpeg decodes what it can of a damaged file and exits with 0. So
# its log is read. A message begins a line with its component and its level. Names and titles cannot
# do so: the file gets a neutral name, and metadata is printed after "[info]" and spaces.
LINE = r"(?m)^(?:\[([^\]\n]+) @ 0x\w+\] )?(?:\[[^\]\n]+ @ 0x\w+\] )*"
MESSAGE = re.compile(LINE + r"\[(warning|error|fatal)\] (.*)")
STARTED = r"@ 0x\w+\] \[verbose\] Starting thread"
DEMUXER = re.compile(rf"(?m)^\[in#0/(\S+) {STARTED}")
DECODER = re.compile(rf"(?m)^\[(vist#0:\d+/(\S+)) @ 0x\w+\] \[dec:(\S+) {STARTED}")
SOURCE_SIZE = re.compile(
    r"(?m)^\[graph -?\d+ input from stream \S+ @ 0x\w+\] \[verbose\] w:(\d+) h:(\d+) "
)
RECONFIGURED = re.compile(r"(?m)^\[fc#0 @ 0x\w+\] \[info\] Reconfiguring filter graph because (.*)")
SIGNAL = re.compile(r"(?m)^\[info\] Exiting normally, received signal (\d+)")
# Names of the files that ffmpeg writes besides its log.
PROGRESS, CUTS = "progress", "cuts"
PAIR = re.compile(r"(?m)^(frame|out_time_us)=(\d+)$")  # the last ones count
CUT = re.compile(r"(?m)^frame:(\d+) .*\nlavfi\.scd\.time=")
# A stream copy may begin with pictures whose references were cut off. The decoder reports that at
# the first packets, and delivers no frame that needs them. Later on, it means a lost picture.
NO_REFERENCE = re.compile(
    "mmco: unref short failure|co located POCs unavailable|reference picture missing during reorder"
    "|Missing reference picture|number of reference frames .* exceeds max"
)
HEAD = r"noise=drop=gte(n\,6)"  # keep the first 6 packets; x264's open groups need 2 or 3
TEST_IMAGE = b"GIF89a\1\0\1\0\x80\0\0\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;"  # 1 x 1
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
# Errors that are not the file's fault: of the disk that frames are written to, of the machine.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
MACHINE = (errno.EIO, errno.ENOMEM, errno.EAGAIN)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Geometry:
    """How a source frame becomes 64 x 64, and where a clip is cut."""

    aspect: Literal["stretch", "center-crop", "person"] = "stretch"  # person: stills with joints
    cuts: PositiveFloat | None = None  # score of ffmpeg's scdet, 0..100, at which a shot ends


class Clip(NamedTuple):
    """The decoded frames of one clip."""

    frames: np.ndarray  # (T, 64, 64, 3) uint8
    width: int  # pixels of the source
    height: int
    seconds: float | None = None  # none: the source has no clock
    cuts: tuple[int, ...] = ()  # first frames of further shots


class DecodeError(Exception):
    """A file that cannot be decoded as a whole; the message is the reason, without the path."""


def ffmpeg_exe() -> str:
    """Path of imageio-ffmpeg's static ffmpeg, the same decoder on every machine."""
    import imageio_ffmpeg

    exe = imageio_ffmpeg.get_ffmpeg_exe()
    return str(Path(shutil.which(exe) or exe).absolute())  # children run in other folders


def ffmpeg_version() -> str:
    """Version of the decoder."""
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_version()


def check_ffmpeg(scratch: Path | None = None) -> str:
    """Version of ffmpeg; raises UserError unless it can decode a test image."""
    remedy = "unset IMAGEIO_FFMPEG_EXE, or set it to ffmpeg 7.0 or later"
    try:
        version = ffmpeg_version()
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        raise UserError(f"ffmpeg does not run: {error}; {remedy}") from error
    with tempfile.NamedTemporaryFile(prefix=TEMPORARY, suffix=".gif", dir=scratch) as file:
        file.write(TEST_IMAGE)
        file.flush()
        try:
            decode(Path(file.name), Geometry(), scratch=scratch)
        except DecodeError as error:
            what = f"ffmpeg {version} ({ffmpeg_exe()}) cannot decode clips"
            raise UserError(f"{what}: {error}; {remedy}") from error
    return version


def decode(
    path: Path,
    geometry: Geometry,
    limit: float = 600.0,
    stop: threading.Event | None = None,
    scratch: Path | None = None,
) -> Clip:
    """Decode the first video stream of a file that is not a cover image, as a whole or not at all.

    limit: seconds before the child is killed. stop: kills the child when set. The frames are
    mapped from an unnamed file in `scratch`, so a video may exceed the memory.
    Raises DecodeError for anything but a whole, readable video; OSError if the machine is at fault.
    """
    check_readable(path)
    stop = stop or threading.Event()
    with (
        tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=scratch) as folder,
        tempfile.TemporaryFile(dir=scratch) as file,
    ):
        # ffmpeg recognises some formats by the suffix.
        name = f"clip.{re.sub(r'[^A-Za-z0-9]', '', path.suffix)}"
        Path(folder, name).symlink_to(path.absolute())
        argv = _arguments(name, geometry)
        status, log = _run(argv, file, limit, stop, folder)
        if status != 0 and (signals := [-status] if status < 0 else SIGNAL.findall(log)):
            number = int(signals[0])
            message = f"ffmpeg was ended by a signal ({signal.strsignal(number)})"
            if number in CRASHES:
                raise DecodeError(message)
            code = errno.EFBIG if number == signal.SIGXFSZ else errno.EINTR
            raise OSError(code, message, str(path))
        complaints = _complaints(log)
        if status != 0:
            complaints += [text for _, level, text in MESSAGE.findall(log) if level != "warning"]
            complaints.append(f"exit status {status}")
        # The first message is the cause: for a file that ends early, later ones name an I/O error.
        cause = next((text for text in complaints if not NO_REFERENCE.match(text)), "")
        for code in FULL + MACHINE:
            if os.strerror(code) in cause:
                place = (scratch or tempfile.gettempdir()) if code in FULL else path
                raise OSError(code, os.strerror(code), str(place))
        if any("matches no streams" in text for text in complaints):
            raise DecodeError("no video stream")
        if cause:
            raise DecodeError(f"ffmpeg: {cause}")
        if DECODER.search(log) is None:
            raise DecodeError("ffmpeg did not report which stream it decoded")
        changed = RECONFIGURED.search(log)
        if changed and geometry.cuts is not None:  # scdet restarts its count of frames
            raise DecodeError(f"the picture size or format changes: {changed[1]}")
        progress = dict(PAIR.findall(Path(folder, PROGRESS).read_text()))
        written, frames = file.seek(0, 2), progress.get("frame", "no")
        if frames == "no" or written != int(frames) * FRAME_BYTES:
            raise DecodeError(f"ffmpeg reported {frames} frames and wrote {written} bytes")
        if not written:
            raise DecodeError("no frames")
        duration = progress.get("out_time_us")
        shots = Path(folder, CUTS).read_text() if geometry.cuts is not None else ""
        if complaints:
            at = argv.index("-i")
            head = [*argv[:at], "-bsf:v", HEAD, *argv[at:]]
            if _complaints(_run(head, subprocess.DEVNULL, limit, stop, folder)[1]) != complaints:
                raise DecodeError(f"ffmpeg: {complaints[0]}")
        if (size := SOURCE_SIZE.search(log)) is None:
            raise DecodeError("ffmpeg did not report the size of the video")
        seconds = int(duration) / 1e6 if duration else None
        cuts = tuple(int(frame) for frame in CUT.findall(shots))
        return Clip(as_frames(file), int(size[1]), int(size[2]), seconds, cuts)


def _complaints(log: str) -> list[str]:
    """Errors of the demuxer and of the selected stream's decoder.

    Errors from before the decoder starts are ignored: ffmpeg probes every stream, sound too.
    """
    demuxer, decoder = DEMUXER.search(log), DECODER.search(log)
    if not (demuxer and decoder):
        return []
    containers = ("in#0", f"in#0/{demuxer[1]}", demuxer[1])
    later = (None, *decoder.groups())  # None: ffmpeg itself
    return [
        message[3].strip()
        for message in MESSAGE.finditer(log)
        if message[1] in containers or (message[1] in later and message.start() > decoder.end())
        if message[2] != "warning" or "corrupt" in message[3]
    ]


def as_frames(file: BinaryIO) -> np.ndarray:
    """Map a file as frames (T, 64, 64, 3) uint8; it may be closed afterwards."""
    content = mmap.mmap(file.fileno(), 0)
    return np.frombuffer(content, np.uint8).reshape(-1, SIZE, SIZE, 3)


def check_readable(path: Path) -> None:
    """Raise DecodeError unless a file is regular (a pipe could block), readable and not empty."""
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


def _arguments(name: str, geometry: Geometry) -> list[str]:
    """Command line for the first video stream that is not a cover image.

    Only files may be opened, so a playlist cannot name addresses. One thread: clips are decoded in
    parallel, which keeps cores busier than threads within a clip.
    """
    import ffmpeg

    if geometry.aspect == "person":
        raise DecodeError("dataset.geometry.aspect person is for stills with joints, not videos")
    source = ffmpeg.input(f"file:{name}", protocol_whitelist="file", threads=1)
    video = source["V:0"]
    if geometry.aspect == "center-crop":
        video = video.filter("crop", "min(iw,ih)", "min(iw,ih)")
    video = video.filter("scale", SIZE, SIZE, flags="bicubic")
    if geometry.cuts is not None:
        video = video.filter("scdet", threshold=geometry.cuts)
        video = video.filter("metadata", mode="print", key="lavfi.scd.time", file=CUTS)
    sink = video.output(
        "pipe:",
        format="rawvideo",
        pix_fmt="rgb24",
        fps_mode="passthrough",
        enc_time_base="demux",  # rounded to the frame rate, two frames could get the same time
        map_metadata=-1,
        threads=1,
    )
    log = ["-nostdin", "-hide_banner", "-loglevel", "level+verbose", "-nostats"]
    options = [*log, "-progress", PROGRESS, "-filter_complex_threads", "1"]
    return ffmpeg.compile(sink.global_args(*options), cmd=ffmpeg_exe())


def _run(
    argv: list[str],
    out: BinaryIO | int,
    limit: float,
    stop: threading.Event,
    folder: str | None = None,
) -> tuple[int, str]:
    """Run a child in a folder; returns its status and log. Killed on `stop` or after `limit` s."""
    deadline = time.monotonic() + limit
    env = os.environ | {"AV_LOG_FORCE_NOCOLOR": "1"}
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.PIPE, cwd=folder, env=env
    ) as child:
        try:
            while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
                with suppress(subprocess.TimeoutExpired):
                    _, log = child.communicate(timeout=min(left, POLL))
                    return child.returncode, log.decode(errors="replace")
            raise DecodeError("stopped" if stop.is_set() else f"not decoded within {limit:g} s")
        finally:
            child.kill()
