"""Pre-training in several processes equals pre-training in one; ends and resumes like it."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from float64_runs import RUNS
from safetensors.torch import load_file
from squares import settings, store

DOUBLE = "import torch; torch.set_default_dtype(torch.float64); from cwm.cli import main; main()"
CWM = [sys.executable, "-c", DOUBLE]
LONG = ("pretrain.devices=2", "pretrain.updates=16", "pretrain.checkpoint_seconds=0")
SAME = ("weights.safetensors", "metrics.jsonl")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return store(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def float64(clips, tmp_path_factory):
    """The folder of runs in float64: MODEL/PROCESSES."""
    folder = tmp_path_factory.mktemp("float64")
    script = Path(__file__).with_name("float64_runs.py")
    argv = [sys.executable, script, clips, folder]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize(("model", "processes"), [run for run in RUNS if run[1] > 1])
def test_weights_equal_those_of_one_process(float64, model, processes):
    folders = (float64 / model / str(n) for n in (1, processes))
    one, several = (load_file(folder / "weights.safetensors") for folder in folders)
    assert one.keys() == several.keys()
    for name, expected in one.items():
        torch.testing.assert_close(several[name], expected, rtol=0, atol=1e-10)


class Command:
    """`cwm pretrain` in float64, in a folder."""

    def __init__(self, clips, folder, *sets, **environment):
        folder.mkdir(exist_ok=True)
        words = [word for each in sets for word in ("--set", each)]
        argv = [*CWM, "pretrain", "squares", *settings(), *words, "--clips", clips, "--out", "out"]
        self.folder = folder
        self.process = subprocess.Popen(
            argv, cwd=folder, stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )

    def end(self):
        """The exit status, and the lines that are not about progress."""
        lines = self.process.communicate()[1].splitlines()
        said = [line for line in lines if not line.startswith("pretrain squares contextwm/0 |")]
        return self.process.returncode, said

    def checkpoints(self):
        return sorted(self.folder.glob("results/smoke/work/*/checkpoint/*/done"))

    def child(self, rank):
        """Id of the process of a rank."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        for child in children.split():
            if f"RANK={rank}" in Path(f"/proc/{child}/environ").read_text().split("\0"):
                return int(child)
        raise ProcessLookupError(rank)


def content(folder):
    return {name: (folder / "out" / name).read_bytes() for name in SAME}


def test_killed_process_ends_the_run_which_resumes_with_any_number(clips, tmp_path):
    straight = Command(clips, tmp_path / "straight", *LONG)
    assert straight.end() == (0, [])
    killed = Command(clips, tmp_path / "killed", *LONG)
    while not killed.checkpoints():
        assert killed.process.poll() is None
        time.sleep(0.02)
    os.kill(killed.child(1), signal.SIGKILL)
    line = "cwm: process 1 was killed (SIGKILL); the same command resumes"
    assert killed.end() == (2, [line])
    step = int(killed.checkpoints()[0].parent.name)
    assert 0 < step < 16
    shutil.copytree(killed.folder, tmp_path / "alone")

    assert Command(clips, killed.folder, *LONG).end() == (0, [])
    assert content(killed.folder) == content(straight.folder)
    alone = Command(clips, tmp_path / "alone", *LONG, "pretrain.devices=1")
    assert alone.end() == (0, [])
    two, one = (load_file(x.folder / "out/weights.safetensors") for x in (straight, alone))
    for name, expected in two.items():
        torch.testing.assert_close(one[name], expected, rtol=0, atol=1e-10)


def test_machines_with_different_settings_are_an_error(clips, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        meeting = f"127.0.0.1:{probe.getsockname()[1]}"
    commands = [
        Command(clips, tmp_path, "pretrain.nodes=2", f"pretrain.batch={n}", CWM_RENDEZVOUS=meeting)
        for n in (4, 8)
    ]
    for command in commands:
        status, said = command.end()
        assert status == 2
        # torch may warn in several lines that the other machine has left.
        (line,) = (line for line in said if line.startswith("cwm: "))
        assert re.match(r"cwm: rank 1 has pretrain.batch [48], but rank 0 has [48]; give", line)
