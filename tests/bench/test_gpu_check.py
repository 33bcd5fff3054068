"""`make gpu-check` works where there is no GPU to check, and one step that fails costs no other."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bench import gpu_check

ROOT = Path(__file__).parents[2]


def test_dry_run_ends_every_step(tmp_path):
    """REFERENCE=DIR, the official code, is beside ours if it is there."""
    reference = os.environ.get("REFERENCE", "")
    command = ["make", "gpu-check", "--dry", f"OUT={tmp_path}", f"REFERENCE={reference}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "gpu-check.json").read_text())
    status = {each["step"]: each["status"] for each in found["steps"]}
    race = "measured" if reference else "skipped: REFERENCE=DIR, a checkout of the official code, "
    race += "" if reference else "was not given"
    assert status == {
        "machine": "measured",
        "equal": "passed",
        "runs": "passed",
        "pretrain": race,
        "metaworld": race,
        "dmcr": race,
        "deterministic": "passed",
        "acting": "measured",
        "components": "measured",
    }
    table = (tmp_path / "gpu-check.md").read_text()
    assert "A dry run on a CPU at tiny sizes: the numbers mean nothing" in table
    assert all(f"| **{step.title}** |" in table for step in gpu_check.STEPS.values())
    assert "| | fine-tuning, stopped | same bytes |" in table


def test_hanging_step_is_killed(tmp_path):
    log = tmp_path / "log"
    found = gpu_check.in_process("equal", ["--dry"], 0.3, log)
    assert found["status"] == "stopped after 0 s" and found["seconds"] < 5


def test_crashed_step_reports_its_last_line(tmp_path):
    words = ["--dry", "--reference", str(tmp_path)]
    found = gpu_check.in_process("pretrain", words, 60, tmp_path / "log")
    assert found["status"] == "crashed with exit code 1"
    ((what, said, _),) = found["rows"]
    assert what == "its last line" and "a contender died" in said
    assert "not a checkout of the official code" in (tmp_path / "log").read_text()


def test_time_limit_skips_and_reports_remaining_steps(tmp_path):
    words = ["--dry", "--minutes", "0", "--only", "machine", "--out", str(tmp_path)]
    assert gpu_check.main(words) == 1
    (step,) = json.loads((tmp_path / "gpu-check.json").read_text())["steps"]
    assert step == {"step": "machine", "status": "no time left", "seconds": 0, "rows": []}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_the_error_names_the_dry_run(tmp_path):
    command = [sys.executable, ROOT / "bench/gpu_check.py", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "gpu-check: torch finds no CUDA device; --dry tries every step on a CPU\n"
    )


def test_difference_matches_hand_computed_values():
    one, other = {"a": 2.0, "b": -10.0}, {"a": 2.5, "b": -9.0}
    assert gpu_check.difference(one, other) == 0.25
    assert gpu_check.difference(one, other | {"b": math.nan}) == math.inf
    assert gpu_check.difference(one, {"a": 2.0}) == math.inf


@pytest.mark.parametrize("broken", [math.nan, 0.5])
def test_wrong_captured_actions_fail(monkeypatch, broken):
    def make(options, graphs):
        actions = np.full((3, 2, 4), broken if graphs else 0.0)
        state = {"weight": torch.ones(1)}
        return gpu_check.Learner(lambda i: {"x": torch.ones(())}, lambda: state, lambda: actions)

    monkeypatch.setattr(gpu_check, "LEARNERS", {"one": make})
    assert not gpu_check.equal(gpu_check.Options(True, None))[1]


@pytest.mark.parametrize("broken", [math.nan, 0.0])
def test_wrong_captured_weights_fail(monkeypatch, broken):
    """Also where every metric is right, as after the last update."""

    def make(options, graphs):
        weight = torch.full((3,), broken if graphs else 1.0)
        return gpu_check.Learner(lambda i: {"x": torch.ones(())}, lambda: {"weight": weight})

    monkeypatch.setattr(gpu_check, "LEARNERS", {"one": make})
    rows, good = gpu_check.equal(gpu_check.Options(True, None))
    assert not good
    assert ("one: weights, captured and eager", "differ", "") in rows
