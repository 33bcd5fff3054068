"""Full or read-only disks, file size limits, lack of memory: a one-line error, and work is kept."""

import os
import resource
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from squares import settings, store

from cwm.infra.errors import explain_system_error
from cwm.videos.encode import H264, VP9, encode

CWM = [sys.executable, "-c", "from cwm.cli import main; main()"]
OUTPUTS = ("weights.safetensors", "metrics.jsonl", "config.yaml")


def cwm(folder, *words, limit=None):
    """Run a command in a folder: its exit status and last line. limit: a resource, and bytes."""
    preexec = limit and partial(resource.setrlimit, limit[0], (limit[1], limit[1]))
    argv = [*CWM, *map(str, words)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, preexec_fn=preexec)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().split("\n")[-1]


def content(folder, *names):
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def pretrain(tmp_path_factory):
    """The command of a pre-training run with a checkpoint after each of its 8 updates."""
    clips = store(tmp_path_factory.mktemp("clips"))
    sets = ["--set", "pretrain.checkpoint_seconds=0", "--set", "pretrain.log_every=1"]
    return ["pretrain", "squares", *settings(), *sets, "--clips", clips, "--out", "out"]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own: `disk("size=1m")` mounts or remounts it."""
    folder = tmp_path / "disk"

    def mount(options):
        again = "remount," if os.path.ismount(folder) else ""
        folder.mkdir(exist_ok=True)
        argv = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        done = subprocess.run(argv, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def expected(tmp_path_factory, pretrain):
    """Outputs of an undisturbed run."""
    folder = tmp_path_factory.mktemp("expected")
    assert cwm(folder, *pretrain)[0] == 0
    return content(folder / "out", *OUTPUTS)


def test_run_resumes_after_a_full_and_a_read_only_disk(disk, pretrain, expected):
    for size, complete in (
        (400, 0),
        (1000, 1),
    ):  # kB; a checkpoint takes 700
        folder = disk(f"size={size}k")
        status, said = cwm(folder, *pretrain)
        assert (status, said) == (
            2,
            f"cwm: No space left on device: {folder}; free some space, then run the same command"
            " again to resume",
        )
        assert len(list(folder.glob("results/smoke/work/*/checkpoint/*/done"))) == complete
    before = content(folder, *(path for path in folder.rglob("*") if path.is_file()))
    disk("ro,size=9m")
    status, said = cwm(folder, *pretrain)
    assert status == 2
    assert said.startswith("cwm: Read-only file system: results/smoke/work/")
    assert before == content(folder, *(path for path in folder.rglob("*") if path.is_file()))
    disk("rw,size=9m")
    assert cwm(folder, *pretrain)[0] == 0
    assert content(folder / "out", *OUTPUTS) == expected


@pytest.mark.parametrize("size", [2000, 200_000])  # bytes: in the metrics log, in the weights
def test_run_resumes_after_a_file_size_limit(size, pretrain, expected, tmp_path):
    pretrain = [*pretrain, "--set", "pretrain.checkpoint_seconds=900"] if size == 2000 else pretrain
    status, said = cwm(tmp_path, *pretrain, limit=(resource.RLIMIT_FSIZE, size))
    assert status == 2
    assert said.startswith(f"cwm: File too large: {tmp_path}; raise the file size limit")
    (metrics,) = tmp_path.glob("results/smoke/work/*/metrics.jsonl")
    assert (metrics.stat().st_size == size) == (size == 2000)  # ends in half a line
    assert cwm(tmp_path, *pretrain)[0] == 0
    assert content(tmp_path / "out", *OUTPUTS[:2]) == {name: expected[name] for name in OUTPUTS[:2]}


@pytest.mark.parametrize(
    ("codec", "size", "shard"),
    [
        ("raw", 1200, ["frames-00000.npy"]),
        ("h264", 700, ["frames-00000.h264", "frames-00000.packets"]),
    ],
)
def test_decoding_resumes_after_a_full_disk(codec, size, shard, disk, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):  # 490 kB of raw frames each
        frames = rng.integers(0, 256, (40, 64, 64, 3), np.uint8)
        encode(tmp_path / f"videos/one/{number}.webm", frames, 12, VP9)
    words = ["videos", *settings()[:1], "--set", f"dataset.folder={tmp_path / 'videos'}"]
    words += ["--set", "dataset.source=folder", "--set", "dataset.parts=1"]
    words += ["--set", f"dataset.codec={codec}"]
    assert cwm(tmp_path, "collect", *words, "--out", "listed")[0] == 0
    words = ["decode", *words, "--videos", tmp_path / "listed/videos.json", "--out", "part"]
    folder = disk(f"size={size}k")
    status, said = cwm(folder, *words)
    assert status == 2
    assert said.startswith("cwm: No space left on device: ")
    journal = (folder / "part/journal.jsonl").read_text()
    assert journal.count("\n") == 2  # the key and the first video, which is not decoded again
    disk("size=9m")
    assert cwm(folder, *words)[0] == 0
    assert (folder / "part/journal.jsonl").read_text().startswith(journal)
    assert cwm(tmp_path, *words)[0] == 0
    names = (*shard, "journal.jsonl", "part.parquet")
    assert content(folder / "part", *names) == content(tmp_path / "part", *names)


@pytest.mark.parametrize("codec", [VP9, H264])
def test_video_is_not_written_to_a_full_disk(disk, codec):
    folder = disk("size=16k")
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    with pytest.raises(OSError, match="No space left on device"):
        encode(folder / "film.mp4", frames, 12, codec)
    assert not (folder / "film.mp4").exists()


def test_video_with_a_too_long_name_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="File name too long") as refused:
        encode(tmp_path / f"{'x' * 300}.mp4", np.zeros((4, 64, 64, 3), np.uint8), 12, H264)
    assert explain_system_error(refused.value).startswith("File name too long")


def test_too_large_batch_is_an_out_of_memory_error(pretrain, tmp_path):
    words = [*pretrain, "--set", "pretrain.batch=900"]
    status, said = cwm(tmp_path, *words, limit=(resource.RLIMIT_AS, 4 << 30))
    assert status == 2
    assert said.startswith("cwm: out of memory (")
    assert "use a smaller batch" in said


def test_folder_in_place_of_weights_is_an_error(pretrain, tmp_path, expected):
    out = tmp_path / "out"
    (out / "weights.json").mkdir(parents=True)
    status, said = cwm(tmp_path, *pretrain)
    assert status == 2
    assert "Is a directory: out/weights.json; move away this folder" in said
    (out / "weights.json").rmdir()
    assert cwm(tmp_path, *pretrain)[0] == 0
    assert content(out, *OUTPUTS) == expected
