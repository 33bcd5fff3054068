import errno
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from cwm.infra import errors
from cwm.videos import ffmpeg
from cwm.videos.encode import H264, VP9, encode
from cwm.videos.ffmpeg import DecodeError, Geometry, decode


def movie(count=30, height=96, width=128):
    """Quarters red, green, blue and a grey that rises by 5 a frame."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[:, : height // 2, : width // 2] = (200, 30, 30)
    frames[:, : height // 2, width // 2 :] = (30, 200, 30)
    frames[:, height // 2 :, : width // 2] = (30, 30, 200)
    frames[:, height // 2 :, width // 2 :] = 20 + 5 * np.arange(count)[:, None, None, None]
    return frames


@pytest.fixture(scope="module")
def webm(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "movie.webm"
    encode(path, movie(), 12, VP9)
    return path


def test_frames_are_upright_in_order_and_rgb(webm):
    frames, width, height, seconds, cuts = decode(webm, Geometry())
    assert (seconds, cuts) == (pytest.approx(2.5, abs=0.1), ())
    assert frames.shape == (30, 64, 64, 3)
    assert frames.dtype == np.uint8
    assert (width, height) == (128, 96)
    for (y, x), rgb in {
        (16, 16): (200, 30, 30),
        (16, 48): (30, 200, 30),
        (48, 16): (30, 30, 200),
    }.items():
        assert np.abs(frames[:, y, x].astype(int) - rgb).max() < 12
    grey = frames[:, 40:60, 40:60].mean((1, 2, 3))
    assert np.abs(grey - (20 + 5 * np.arange(30))).max() < 4


def test_center_crop_cuts_the_sides_and_stretch_does_not(tmp_path):
    wide = np.full((3, 64, 192, 3), 255, np.uint8)
    wide[:, :, 64:128] = 0
    encode(tmp_path / "wide.mp4", wide, 10, H264)
    cropped = decode(tmp_path / "wide.mp4", Geometry(aspect="center-crop")).frames
    stretched = decode(tmp_path / "wide.mp4", Geometry()).frames
    assert cropped[:, :, 4:60].mean() < 10
    assert 120 < stretched.mean() < 220


@pytest.mark.parametrize("name", ["a:b.webm", "-i.webm", "it's [1], ü;.webm", "http:x.webm"])
def test_special_characters_in_names_are_harmless(webm, tmp_path, monkeypatch, name):
    (tmp_path / name).write_bytes(webm.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(decode(Path(name), Geometry()).frames) == 30


ODD = {
    "plain.webm": ("testsrc2=size=96x64:rate=10", "-c:v libvpx-vp9 -cpu-used 8"),
    "portrait.mp4": ("testsrc2=size=54x96:rate=10", "-c:v libx264"),
    "odd size.mp4": ("testsrc2=size=57x33:rate=10", "-c:v libx264 -pix_fmt yuv444p"),
    "ten bits.mp4": ("testsrc2=size=96x64:rate=10", "-c:v libx264 -pix_fmt yuv420p10le"),
    "alpha.webm": ("testsrc2=size=96x64:rate=10", "-c:v libvpx-vp9 -pix_fmt yuva420p -cpu-used 8"),
    "mpeg.mp4": ("testsrc2=size=96x64:rate=10", "-c:v mpeg4"),
    "picture.gif": ("testsrc2=size=96x64:rate=10", ""),
    "motion.avi": ("testsrc2=size=96x64:rate=10", "-c:v mjpeg"),
    "with sound.mkv": ("testsrc2=size=96x64:rate=10", "-f lavfi -i sine -shortest -c:v libx264"),
    "uneven.mkv": (
        "testsrc2=size=96x64:rate=10,select='not(eq(mod(n,7),3))'",
        "-c:v libx264 -fps_mode passthrough",
    ),
    "one frame.mp4": ("testsrc2=size=96x64:rate=10", "-c:v libx264 -frames:v 1"),
    "camera.mts": ("testsrc2=size=96x64:rate=25,trim=end_frame=30", "-c:v libx264"),
    "disc.vob": ("testsrc2=size=96x64:rate=25,trim=end_frame=30", "-c:v mpeg2video"),
    "tape.mxf": ("testsrc2=size=96x64:rate=25,trim=end_frame=30", "-c:v mpeg2video"),
    "interlaced.ts": ("testsrc2=size=96x64:rate=10", "-c:v mpeg2video -flags +ildct"),
}


def run_ffmpeg(*words):
    done = subprocess.run([ffmpeg.ffmpeg_exe(), "-v", "error", *words], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.mark.parametrize("name", ODD)
def test_unusual_videos_equal_those_of_plain_ffmpeg(name, tmp_path):
    source, options = ODD[name]
    path = tmp_path / name
    run_ffmpeg("-f", "lavfi", "-t", "3", "-i", source, *options.split(), path)
    raw = ["-vf", "scale=64:64", "-f", "rawvideo", "-pix_fmt", "rgb24", "-fps_mode", "passthrough"]
    alone = run_ffmpeg("-i", path, "-map", "0:V:0", *raw, "-")
    frames = decode(path, Geometry()).frames
    assert frames.tobytes() == alone
    assert len(frames) == {"one frame.mp4": 1, "uneven.mkv": 26}.get(name, 30)


UNEVEN = {
    "in pairs": "(N+0.9*mod(N\\,2))/30/TB",
    "the same for two frames": "trunc(N/2)*2/30/TB",
    "going back": "(N-3*eq(mod(N\\,5)\\,4))/30/TB",
    "ever faster": "N*N/900/TB",
}


@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
@pytest.mark.parametrize("times", UNEVEN)
def test_clip_with_irregular_timestamps_is_decoded(times, suffix, tmp_path):
    even, uneven = tmp_path / "even.mp4", tmp_path / f"uneven{suffix}"
    source = "testsrc2=size=96x64:rate=30:duration=2"
    run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-bf", "0", even)
    run_ffmpeg("-i", even, "-c", "copy", "-bsf:v", f"setts=ts={UNEVEN[times]}", uneven)
    expected = decode(even, Geometry()).frames
    assert len(expected) == 60
    np.testing.assert_array_equal(decode(uneven, Geometry()).frames, expected)


def open_gop(folder):
    """120 frames, and a stream copy that begins at the second open group, frame 30."""
    whole, cut = folder / "whole.mp4", folder / "cut.mkv"
    source = "testsrc2=size=96x64:rate=30:duration=4"
    x264 = "keyint=30:min-keyint=30:scenecut=0:open-gop=1:bframes=3"
    run_ffmpeg("-f", "lavfi", "-i", source, "-c:v", "libx264", "-x264-params", x264, whole)
    run_ffmpeg("-ss", "1.5", "-i", whole, "-c", "copy", cut)
    return whole, cut


def test_stream_copy_that_begins_at_an_open_group_is_decoded(tmp_path):
    whole, cut = open_gop(tmp_path)
    log = subprocess.run(
        [ffmpeg.ffmpeg_exe(), "-i", cut, "-f", "null", "-"], capture_output=True, text=True
    )
    assert "mmco: unref short failure" in log.stderr
    frames = decode(cut, Geometry()).frames
    assert len(frames) == 90
    np.testing.assert_array_equal(frames, decode(whole, Geometry()).frames[30:])


def test_picture_lost_in_the_middle_is_damage(tmp_path):
    """The decoder reports the same as for an open group, but later."""
    whole, _ = open_gop(tmp_path)
    run_ffmpeg("-i", whole, "-c", "copy", "-bsf:v", "noise=drop=eq(n\\,31)", tmp_path / "lost.mkv")
    with pytest.raises(DecodeError, match="reference picture missing during reorder"):
        decode(tmp_path / "lost.mkv", Geometry())


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_clip_with_damaged_sound_is_decoded(suffix, tmp_path):
    whole, noisy = tmp_path / f"whole{suffix}", tmp_path / f"noisy{suffix}"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=30:duration=2", "-f", "lavfi", "-i",
           "sine=duration=2", "-c:v", "libx264", whole)  # fmt: skip
    noise = ["-c", "copy", "-bsf:a", "noise=amount=3:drop='eq(mod(n,9),5)'"]
    subprocess.run([ffmpeg.ffmpeg_exe(), "-v", "fatal", "-i", whole, *noise, noisy], check=True)
    frames = decode(noisy, Geometry()).frames
    assert len(frames) == 60
    np.testing.assert_array_equal(frames, decode(whole, Geometry()).frames)


WORDS = [
    "[error] No space left on device",
    "[info] Exiting normally, received signal 15.",
    "x\n[error] Input/output error",
    "[warning] corrupt",
    "Stream #0:0: Video: h264, 640x480",
    "[info] frame= 7 time=00:00:09.00",
]


@pytest.mark.parametrize("words", WORDS)
def test_names_and_metadata_are_not_taken_for_messages(words, webm, tmp_path):
    expected = decode(webm, Geometry())
    path = tmp_path / words.replace("/", " ") / f"{words.replace('/', ' ')}.mkv"
    path.parent.mkdir()
    tags = ["-metadata", f"title={words}", "-metadata:s:v:0", f"language=und): {words} ("]
    run_ffmpeg("-i", webm, "-c", "copy", *tags, f"file:{path}")
    frames, *rest = decode(path, Geometry())
    assert rest == [128, 96, expected.seconds, ()]
    np.testing.assert_array_equal(frames, expected.frames)


def test_name_is_not_taken_for_a_cut(tmp_path):
    """Ten frames each of black and white: the second shot begins at frame 10."""
    frames = np.zeros((20, 64, 64, 3), np.uint8)
    frames[10:] = 255
    encode(tmp_path / "frame:3 lavfi.scd.time=.mp4", frames, 10, H264)
    assert decode(tmp_path / "frame:3 lavfi.scd.time=.mp4", Geometry(cuts=10)).cuts == (10,)


def test_log_colours_change_nothing(tmp_path, webm, monkeypatch):
    monkeypatch.setenv("AV_LOG_FORCE_COLOR", "1")
    assert decode(webm, Geometry())[1:3] == (128, 96)
    with pytest.raises(DecodeError, match="ended prematurely"):
        decode(broken("truncated webm", tmp_path, webm), Geometry())


def test_display_rotation_is_applied(webm, tmp_path):
    """As phones record: stored frames are rotated, and metadata gives the rotation."""
    lying, noted = tmp_path / "lying.mp4", tmp_path / "noted.mp4"
    run_ffmpeg("-i", webm, "-vf", "transpose=1", "-c:v", "libx264", "-crf", "1", lying)
    run_ffmpeg("-display_rotation", "90", "-i", lying, "-c", "copy", noted)
    upright = decode(noted, Geometry()).frames.astype(int)
    assert np.abs(upright - decode(webm, Geometry()).frames).mean() < 4
    assert decode(noted, Geometry())[1:3] == (96, 128)  # as it is stored


def broken(kind, folder, webm):
    path = folder / "file.webm"
    match kind:
        case "missing":
            return path
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "noise":
            path.write_bytes(np.random.default_rng(0).bytes(5000))
        case "text":
            path.write_text("<html>404</html>\n" * 50)
        case "playlist":
            path = folder / "file.mp4"
            path.write_text(f"#EXTM3U\n#EXTINF:3,\nfile://{webm}\n")
        case "sound only":
            path = folder / "file.mp4"
            sine = [ffmpeg.ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i", "sine=duration=1"]
            subprocess.run([*sine, str(path)], check=True)
        case "truncated webm":
            path.write_bytes(webm.read_bytes()[: webm.stat().st_size // 2])
        case "truncated mp4":
            whole = folder / "whole.mp4"
            encode(whole, movie(), 12, H264)
            path = folder / "file.mp4"
            path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    {
        "missing": "no such file",
        "empty": "empty file",
        "folder": "a folder",
        "pipe": "not a regular file",
        "noise": "ffmpeg: ",
        "text": "ffmpeg: ",
        "playlist": "ffmpeg: ",
        "sound only": "no video stream",
        "truncated webm": "ended prematurely",
        "truncated mp4": "ffmpeg: ",
    }.items(),
)
def test_broken_file_fails_with_a_reason(kind, reason, tmp_path, webm):
    with pytest.raises(DecodeError, match=reason):
        decode(broken(kind, tmp_path, webm), Geometry(), limit=20)


@pytest.mark.parametrize("suffix", [".webm", ".mkv", ".mp4", ".avi", ".gif", ".ts"])
@pytest.mark.parametrize("size", [1, 40, 400, 1000])
def test_truncated_file_is_not_a_disk_error(suffix, size, tmp_path):
    """ffmpeg reports an input/output error for a truncated WebM header."""
    whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
    run_ffmpeg("-f", "lavfi", "-i", "testsrc2=size=96x64:rate=10:duration=2", whole)
    cut.write_bytes(whole.read_bytes()[:size])
    with pytest.raises(DecodeError):
        decode(cut, Geometry())


def test_time_limit_and_stop_kill_the_child(webm):
    with pytest.raises(DecodeError, match=r"not decoded within 0.001 s"):
        decode(webm, Geometry(), limit=0.001)
    forever, stop = [sys.executable, "-c", "while True: pass"], threading.Event()
    with pytest.raises(DecodeError, match="not decoded within"):
        ffmpeg._run(forever, subprocess.DEVNULL, 0.1, stop)
    stop.set()
    with pytest.raises(DecodeError, match="stopped"):
        ffmpeg._run(forever, subprocess.DEVNULL, 600, stop)


ENDS = {
    "kill -KILL $$": errno.EINTR,
    "kill -XFSZ $$": errno.EFBIG,
    "echo '[info] Exiting normally, received signal 15.' >&2; exit 255": errno.EINTR,
    "echo '[error] Error writing trailer: Disk quota exceeded' >&2; exit 1": errno.EDQUOT,
    "echo '[error] pipe:: Input/output error' >&2; exit 1": errno.EIO,
    "echo '[fatal] Cannot allocate memory' >&2; exit 1": errno.ENOMEM,
}


def decode_with(script, path, folder, monkeypatch):
    program = folder / "ffmpeg"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "ffmpeg_exe", lambda: str(program))
    return decode(path, Geometry())


@pytest.mark.parametrize("end", ENDS)
def test_machine_errors_are_not_failures_of_the_file(end, webm, tmp_path, monkeypatch):
    with pytest.raises(OSError) as error:
        decode_with(end, webm, tmp_path, monkeypatch)
    assert error.value.errno == ENDS[end]
    assert errors.explain_system_error(error.value)


def test_crash_of_ffmpeg_is_a_failure_of_the_file(webm, tmp_path, monkeypatch):
    with pytest.raises(DecodeError, match="Segmentation fault"):
        decode_with("kill -SEGV $$", webm, tmp_path, monkeypatch)


def test_file_size_limit_is_not_a_failure_of_the_file(webm):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File size limit exceeded") as error:
            decode(webm, Geometry())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "ulimit -f" in errors.explain_system_error(error.value)


def test_cuts_are_refused_across_a_change_of_size(tmp_path):
    listed, both = tmp_path / "list", tmp_path / "both.webm"
    for size in ("96x64", "64x48"):
        source = f"testsrc2=size={size}:rate=10"
        run_ffmpeg(
            "-f", "lavfi", "-t", "2", "-i", source, "-c:v", "libvpx", tmp_path / f"{size}.webm"
        )
    listed.write_text("file 96x64.webm\nfile 64x48.webm\n")
    run_ffmpeg("-f", "concat", "-i", listed, "-c", "copy", both)
    assert len(decode(both, Geometry()).frames) == 40
    with pytest.raises(DecodeError, match="the picture size or format changes"):
        decode(both, Geometry(cuts=10))
