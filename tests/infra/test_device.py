"""GPU slots: never held twice, and freed however the holder ends.

A shell script in place of nvidia-smi lists the GPUs; the locks, processes and kills are real.
"""

import logging
import multiprocessing
import os
import platform
import sys
import time
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from cwm.infra import device
from cwm.infra.errors import UserError

UUIDS = ["GPU-aaaa0", "GPU-bbbb1"]  # the last digit is the index
VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "MUJOCO_EGL_DEVICE_ID")
FORK = multiprocessing.get_context("fork")  # a new interpreter would import torch for seconds


class Holder:
    """A process that claims a GPU and holds it for some seconds."""

    def __init__(self, seconds):
        self.pipe, end = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(end, seconds), daemon=True)
        self.process.start()
        end.close()

    def read(self):
        """The next message: a log line, what was claimed, or the time of the end."""
        assert self.pipe.poll(60)
        return self.pipe.recv()


def hold(pipe, seconds):
    handler = logging.Handler()
    handler.emit = lambda record: pipe.send(record.getMessage())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    device.POLL = 0.02
    uuid = device.claim_gpu().uuid
    pipe.send((uuid, time.monotonic(), {name: os.environ[name] for name in VARIABLES}))
    time.sleep(seconds)
    pipe.send(time.monotonic())


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Two GPUs, and nothing of the real machine."""
    for name in (*VARIABLES, *device.SCHEDULERS, "CWM_JOBS_PER_GPU"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CWM_GPU_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(device, "LOCKS", tmp_path / "locks")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    device.claim_gpu.cache_clear()
    fake_smi(tmp_path, "\n".join(f"{i}, {u}, {100 * i}, 81559" for i, u in enumerate(UUIDS)))
    yield tmp_path
    device.claim_gpu.cache_clear()
    for process in multiprocessing.active_children():
        process.kill()


def fake_smi(folder, text, status=0):
    """Let nvidia-smi print this text."""
    (folder / "bin").mkdir(exist_ok=True)
    script = folder / "bin/nvidia-smi"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
    script.chmod(0o755)


def test_no_slot_is_held_twice(monkeypatch):
    """Thirty processes compete for two slots on each of two GPUs."""
    monkeypatch.setenv("CWM_JOBS_PER_GPU", "2")
    spans = {uuid: [] for uuid in UUIDS}
    for holder in [Holder(0.1) for _ in range(30)]:
        while isinstance(claimed := holder.read(), str):
            assert "all GPUs are busy" in claimed
        uuid, begin, variables = claimed
        assert variables == dict(zip(VARIABLES, (uuid, "PCI_BUS_ID", uuid[-1]), strict=True))
        spans[uuid].append((begin, holder.read()))
    assert sum(map(len, spans.values())) == 30
    most = [max(sum(b <= at < e for b, e in own) for at, _ in own) for own in spans.values()]
    assert max(most) == 2, most  # slots are shared, and no third process gets in


def test_killed_holder_frees_its_gpu():
    holders = [Holder(600), Holder(600)]
    assert {holder.read()[0] for holder in holders} == set(UUIDS)
    third = Holder(0)
    assert "all GPUs are busy" in third.read()
    assert not third.pipe.poll(0.5)
    holders[1].process.kill()
    assert third.read()[0] in UUIDS


def test_emptiest_gpu_comes_first_and_a_full_one_is_reported(machine):
    fake_smi(machine, f"0, {UUIDS[0]}, 70000, 81559\n1, {UUIDS[1]}, [N/A], [N/A]")
    assert [gpu.used for gpu in device.visible_gpus()] == [70000, 0]
    first = Holder(600)
    assert first.read()[0] == UUIDS[1]
    assert Holder(0).read() == "GPU 0: 70000 of 81559 MiB are already in use"


@pytest.mark.parametrize("visible", ["1", UUIDS[1], "1,7"])
def test_only_visible_gpus_are_used(monkeypatch, visible):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.number for gpu in device.visible_gpus()] == [1]


def test_process_claims_one_slot_only():
    assert device.claim_gpu() == device.claim_gpu()
    assert len(list(device.LOCKS.iterdir())) == 1


def test_scheduler_assigns_the_gpu(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert device.claim_gpu() is None


def test_no_gpu_is_claimed_where_there_is_none(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.claim_gpu() is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert device.visible_gpus() == []


def test_failing_driver_is_an_error(machine):
    fake_smi(machine, "Failed to initialize NVML: Driver/library version mismatch", status=18)
    with pytest.raises(UserError, match=r"version mismatch; repair the driver, or set runtime"):
        device.claim_gpu()


def test_silent_driver_is_an_error(machine, monkeypatch):
    (machine / "bin/nvidia-smi").write_text("#!/bin/sh\nexec sleep 100\n")
    monkeypatch.setattr(device, "SMI_TIMEOUT", 0.2)
    with pytest.raises(UserError, match=r"nvidia-smi did not answer within 0\.2 s"):
        device.visible_gpus()


@pytest.mark.parametrize(
    ("cuda", "visible", "message"),
    [
        (None, True, "is built without CUDA: install a CUDA build; or set runtime.device=cpu"),
        ("13.0", False, "no GPU is visible"),
        ("13.0", True, "is the driver too old for CUDA 13.0"),
    ],
)
def test_missing_cuda_is_an_error_if_requested(monkeypatch, cuda, visible, message):
    if not visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        device.set_up(device.RuntimeConfig(device="cuda"))
    assert device.set_up(device.RuntimeConfig(device="cpu")) == "cpu"


def test_unusable_gpu_is_reported_before_computing_on_the_cpu(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.set_up(device.RuntimeConfig()) == "cpu"
    assert "computing on the CPU: torch" in caplog.text


@pytest.mark.parametrize("value", ["0", "-1", "two", ""])
def test_invalid_number_of_slots_is_an_error(monkeypatch, value):
    monkeypatch.setenv("CWM_JOBS_PER_GPU", value)
    with pytest.raises(UserError, match="must be 1 or more"):
        device.claim_gpu()


def test_processor_without_proc_is_its_architecture(monkeypatch):
    """As on macOS."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert device.processor_name() == platform.machine()


def test_triton_is_loaded_before_osmesa_can_be(tmp_path, monkeypatch):
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with patch.dict(sys.modules):  # put back afterwards
        sys.modules.pop("triton", None)
        device.set_up(device.RuntimeConfig(device="cpu"))
        assert sys.modules["triton"].__file__ == str(tmp_path / "triton.py")
