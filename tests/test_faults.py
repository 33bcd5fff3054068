"""Machines that refuse (disks, memory) and two who want the same: one line, and work is kept."""

import os
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from squares import settings, store

from cwm import doctor
from cwm.infra import machine
from cwm.videos.encode import H264, VP9, encode

CWM = [sys.executable, "-c", "from cwm.cli import main; main()"]
MADE = ("weights.safetensors", "metrics.jsonl", "config.yaml")


def cwm(folder, *words, limit=None):
    """A command in a folder: its status, and what it said last. limit: of a resource, in bytes."""
    preexec = limit and partial(resource.setrlimit, limit[0], (limit[1], limit[1]))
    argv = [*CWM, *map(str, words)]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, preexec_fn=preexec)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stderr.strip().split("\n")[-1]


def content(folder, *names):
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    """The words of a pre-training with a checkpoint after each of its 8 updates."""
    clips = store(tmp_path_factory.mktemp("clips"))
    sets = ["--set", "pretrain.checkpoint_seconds=0", "--set", "pretrain.log_every=1"]
    return ["pretrain", "squares", *settings(), *sets, "--clips", clips, "--out", "out"]


@pytest.fixture
def disk(tmp_path):
    """A file system of its own: `disk("size=1m")` mounts it, or changes it."""
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
def straight(tmp_path_factory, watch):
    """What a run that nothing refuses ends with."""
    folder = tmp_path_factory.mktemp("straight")
    assert cwm(folder, *watch)[0] == 0
    return content(folder / "out", *MADE)


def test_a_disk_that_fills_and_is_then_read_only_costs_nothing(disk, watch, straight):
    for size, complete in ((400, 0), (1000, 1)):  # kB; a checkpoint has 700, and two meet
        folder = disk(f"size={size}k")
        status, said = cwm(folder, *watch)
        assert (status, said) == (
            2,
            f"cwm: No space left on device: {folder}; make room: what is there is kept, and the"
            " same command goes on from it",
        )
        assert len(list(folder.glob("results/smoke/work/*/checkpoint/*/done"))) == complete
    before = content(folder, *(path for path in folder.rglob("*") if path.is_file()))
    disk("ro,size=9m")
    status, said = cwm(folder, *watch)
    assert status == 2
    assert said.startswith("cwm: Read-only file system: results/smoke/work/")
    assert before == content(folder, *(path for path in folder.rglob("*") if path.is_file()))
    disk("rw,size=9m")
    assert cwm(folder, *watch)[0] == 0
    assert content(folder / "out", *MADE) == straight


@pytest.mark.parametrize("size", [2000, 200_000])  # bytes: of the log of metrics, of the weights
def test_files_that_may_not_grow_cost_nothing(size, watch, straight, tmp_path):
    watch = [*watch, "--set", "pretrain.checkpoint_seconds=900"] if size == 2000 else watch
    status, said = cwm(tmp_path, *watch, limit=(resource.RLIMIT_FSIZE, size))
    assert status == 2
    assert said.startswith(f"cwm: File too large: {tmp_path}; raise the limit on the size of files")
    (metrics,) = tmp_path.glob("results/smoke/work/*/metrics.jsonl")
    assert (metrics.stat().st_size == size) == (size == 2000)  # half a line is cut off again
    assert cwm(tmp_path, *watch)[0] == 0
    assert content(tmp_path / "out", *MADE[:2]) == {name: straight[name] for name in MADE[:2]}


def test_a_disk_that_fills_with_frames_costs_nothing(disk, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(3):  # whose frames take 490 kB each
        frames = rng.integers(0, 256, (40, 64, 64, 3), np.uint8)
        encode(tmp_path / f"videos/one/{number}.webm", frames, 12, VP9)
    words = ["videos", *settings()[:1], "--set", f"dataset.folder={tmp_path / 'videos'}"]
    words += ["--set", "dataset.source=folder", "--set", "dataset.parts=1"]
    assert cwm(tmp_path, "collect", *words, "--out", "listed")[0] == 0
    words = ["decode", *words, "--videos", tmp_path / "listed/videos.jsonl", "--out", "part"]
    folder = disk("size=1200k")
    status, said = cwm(folder, *words)
    assert status == 2
    assert said.startswith("cwm: No space left on device: ")
    journal = (folder / "part/journal.jsonl").read_text()
    assert journal.count("\n") == 2  # its key, and the first video, which is not decoded again
    disk("size=9m")
    assert cwm(folder, *words)[0] == 0
    assert (folder / "part/journal.jsonl").read_text().startswith(journal)
    assert cwm(tmp_path, *words)[0] == 0
    names = ("frames-00000.npy", "journal.jsonl", "part.jsonl")
    assert content(folder / "part", *names) == content(tmp_path / "part", *names)


@pytest.mark.parametrize("codec", [VP9, H264])
def test_a_film_that_does_not_fit_is_not_there(disk, codec):
    folder = disk("size=16k")
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8)
    with pytest.raises(OSError, match="No space left on device"):
        encode(folder / "film.mp4", frames, 12, codec)
    assert not (folder / "film.mp4").exists()


def test_a_film_of_an_impossible_name_is_refused_in_the_systems_words(tmp_path):
    with pytest.raises(OSError, match="File name too long") as refused:
        encode(tmp_path / f"{'x' * 300}.mp4", np.zeros((4, 64, 64, 3), np.uint8), 12, H264)
    assert machine.limit(refused.value).startswith("File name too long")


def test_too_large_a_batch_is_named(watch, tmp_path):
    words = [*watch, "--set", "pretrain.batch=900"]
    status, said = cwm(tmp_path, *words, limit=(resource.RLIMIT_AS, 4 << 30))
    assert status == 2
    assert said.startswith("cwm: out of memory (")
    assert "Needed is a smaller batch" in said


def test_a_folder_where_weights_belong_is_named(watch, tmp_path, straight):
    out = tmp_path / "out"
    (out / "weights.json").mkdir(parents=True)
    status, said = cwm(tmp_path, *watch)
    assert status == 2
    assert "Is a directory: out/weights.json; this folder is in a file's place: move it" in said
    (out / "weights.json").rmdir()
    assert cwm(tmp_path, *watch)[0] == 0
    assert content(out, *MADE) == straight


def test_what_a_gpu_and_numpy_say_is_understood_and_other_errors_are_not():
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")
    assert machine.limit(full).startswith("out of memory (CUDA out of memory. Tried to allocate")
    with pytest.raises(MemoryError) as error:
        np.empty(1 << 50)
    assert "Unable to allocate 8.00 PiB" in machine.limit(error.value)
    assert machine.limit(RuntimeError("shapes differ")) is None
    assert machine.limit(FileNotFoundError(2, "No such file", "a")) is None


def test_a_second_snakemake_is_refused_and_the_first_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    wait = "touch begun; until [ -e go ]; do sleep 0.1; done; touch {output}"
    Path("Snakefile").write_text(f"rule work:\n  output: 'done.txt'\n  shell: '{wait}'\n")
    argv = [sys.executable, "-m", "snakemake", "--cores", "1"]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as first:
        while not Path("begun").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(argv, capture_output=True, text=True)
        assert second.returncode == 1
        assert "Directory cannot be locked" in second.stderr
        assert doctor.unlock() == 1  # with which `make all` begins
        assert f"locked by process {first.pid}" in capsys.readouterr().err
        Path("go").touch()
    assert first.returncode == 0
    assert Path("done.txt").exists()
