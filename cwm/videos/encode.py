"""Encode frames to a video file with ffmpeg."""

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from cwm.infra.errors import OS_REMEDIES
from cwm.infra.files import atomic_write
from cwm.videos.ffmpeg import ffmpeg_exe

# One thread, and no dates or random identifiers: equal frames give equal bytes.
BITEXACT = {"threads": 1, "fflags": "+bitexact", "flags:v": "+bitexact"}
VP9 = {"vcodec": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8, "crf": 28, "b:v": 0}
H264 = {"vcodec": "libx264", "preset": "veryfast", "crf": 20, "movflags": "+faststart"}


def encode(path: Path, frames: Iterable[np.ndarray], rate: int, codec: dict[str, object]) -> None:
    """Write frames (H, W, 3) uint8 at `rate` per second as a video file, atomically."""
    import ffmpeg

    pixels = np.stack(list(frames))
    height, width = pixels.shape[1:3]
    path.parent.mkdir(parents=True, exist_ok=True)
    source = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=rate
    )
    with atomic_write(path) as temporary:
        sink = source.output(f"file:{temporary}", pix_fmt="yuv420p", **codec, **BITEXACT)
        argv = ffmpeg.compile(sink.global_args("-v", "error"), cmd=ffmpeg_exe())
        done = subprocess.run(argv, input=pixels.tobytes(), capture_output=True, check=False)
        if done.returncode != 0:
            message = done.stderr.decode(errors="replace").strip()
            for code in OS_REMEDIES:
                if os.strerror(code) in message:
                    raise OSError(code, os.strerror(code), str(path))
            raise RuntimeError(f"ffmpeg cannot write {path}: {message}")
