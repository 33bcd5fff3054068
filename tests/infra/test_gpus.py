"""GPUs are handed out one place at a time, whoever asks, and come back however a holder ends.

The cards are what a script in the place of nvidia-smi says; locks, processes and kills are real.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cwm import doctor
from cwm.infra import gpus, runtime
from cwm.infra.errors import UserError

ROOT = Path(__file__).parents[2]
UUIDS = ["GPU-aaaa1111", "GPU-bbbb2222"]
HOLD = """
import json, logging, os, sys, time
from cwm.infra import gpus
logging.basicConfig(level=logging.INFO)
gpus.POLL = 0.02
card = gpus.claim()
line = {"card": card.uuid, "begin": time.monotonic()}
line |= {name: os.environ[name] for name in os.environ if name.startswith(("CUDA_", "MUJOCO_"))}
print(json.dumps(line), flush=True)
time.sleep(float(sys.argv[1]))
print(time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def box(tmp_path, monkeypatch):
    """Two cards, and nothing of this machine's."""
    for name in (
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MUJOCO_EGL_DEVICE_ID", "CWM_JOBS_PER_GPU"),
    ):
        monkeypatch.delenv(name, raising=False)
    for name in gpus.SCHEDULERS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CWM_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(gpus, "LOCKS", tmp_path / "locks")
    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    say(tmp_path, "\n".join(f"{i}, {uuid}, {100 * i}, 81559" for i, uuid in enumerate(UUIDS)))
    return tmp_path


def say(folder, text, status=0):
    """Let nvidia-smi answer so."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin/nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
    script.chmod(0o755)


def hold(seconds):
    command = [sys.executable, "-c", HOLD, str(seconds)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_no_place_is_ever_held_twice(monkeypatch):
    """Thirty processes race for two places on each of two cards."""
    monkeypatch.setenv("CWM_JOBS_PER_GPU", "2")
    spans = []
    for process in [hold(0.1) for _ in range(30)]:
        out = process.communicate(timeout=60)[0].splitlines()
        line = json.loads(out[0])
        assert line["CUDA_VISIBLE_DEVICES"] == line["card"]
        assert line["MUJOCO_EGL_DEVICE_ID"] == str(UUIDS.index(line["card"]))
        assert line["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"  # as nvidia-smi counts
        spans.append((line["card"], line["begin"], float(out[1])))
    assert len(spans) == 30
    most = {}
    for uuid in UUIDS:
        own = [(begin, end) for card, begin, end in spans if card == uuid]
        most[uuid] = max(sum(b <= at < e for b, e in own) for at, _ in own)
    assert all(count <= 2 for count in most.values()), most
    assert max(most.values()) == 2  # they did share


def test_a_holder_that_is_killed_frees_its_card():
    holders = [hold(600), hold(600)]
    taken = {json.loads(process.stdout.readline())["card"] for process in holders}
    assert taken == set(UUIDS)
    third = hold(0)
    time.sleep(1)
    assert third.poll() is None  # it waits
    holders[1].send_signal(signal.SIGKILL)
    out, said = third.communicate(timeout=60)
    assert json.loads(out.splitlines()[0])["card"] in UUIDS
    assert "all 2 places on the 2 GPUs are taken: waiting" in said
    holders[0].kill()


def test_the_emptiest_card_is_taken_and_a_full_one_is_told(box):
    say(box, f"0, {UUIDS[0]}, 70000, 81559\n1, {UUIDS[1]}, [N/A], [N/A]")
    assert [card.used for card in gpus.cards()] == [70000, 0]
    first = hold(600)
    assert json.loads(first.stdout.readline())["card"] == UUIDS[1]
    second = hold(0)
    assert "GPU 0: 70000 of 81559 MiB are in use already" in second.communicate(timeout=60)[1]
    first.kill()


@pytest.mark.parametrize("visible", ["1", "GPU-bbbb", "1,7"])
def test_only_visible_cards_are_taken(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.index for card in gpus.cards()] == [1]


def test_a_process_keeps_its_place_and_takes_no_second():
    assert gpus.claim() == gpus.claim()
    assert len(list(gpus.LOCKS.iterdir())) == 1


def test_a_scheduler_is_believed(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert gpus.claim() is None


def test_without_cards_nothing_is_claimed(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.claim() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert gpus.cards() == []


def test_a_driver_that_fails_is_an_error(box):
    say(box, "Failed to initialize NVML: Driver/library version mismatch", status=18)
    with pytest.raises(
        UserError, match=r"Driver/library version mismatch; mend it, or set runtime"
    ):
        gpus.claim()
    found = doctor.gpu()
    assert not found.ok and "version mismatch" in found.detail


@pytest.mark.parametrize(
    ("cuda", "seen", "message"),
    [
        (None, True, "is built without CUDA: install a build with it; or set runtime.device=cpu"),
        ("13.0", False, "there is no NVIDIA driver or no visible card"),
        ("13.0", True, "is the driver too old for CUDA 13.0"),
    ],
)
def test_cuda_that_is_asked_for_and_not_there_is_an_error(monkeypatch, cuda, seen, message):
    if not seen:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        runtime.set_up(runtime.RuntimeConfig(device="cuda"))
    assert runtime.set_up(runtime.RuntimeConfig(device="cpu")) == "cpu"


def test_a_card_that_torch_cannot_use_is_told(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert runtime.set_up(runtime.RuntimeConfig()) == "cpu"
    assert "computing on the CPU, since torch" in caplog.text


@pytest.mark.parametrize("said", ["0", "-1", "two", ""])
def test_a_wrong_number_of_places_is_an_error(monkeypatch, said):
    monkeypatch.setenv("CWM_JOBS_PER_GPU", said)
    with pytest.raises(UserError, match="must be 1 or more"):
        gpus.claim()
