"""Vectorised environments: the same episodes as alone, and errors for failed processes."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cwm.train.environment import EnvConfig, make, make_vector
from cwm.train.rollout import evaluate, sum_up
from envs import vector
from envs.vector import WorkerError

SEEDS = [seed << 32 for seed in (3, 1, 4)]


def policy(image, is_first):
    """Actions (B, 4) that depend on all pixels of the member's frame."""
    sums = image.reshape(len(image), 4, -1).sum(-1, dtype=int)
    return np.sin(sums).astype(np.float32)


def throttle(image, is_first):
    """Actions (B, 2): full throttle, and steering that depends on all pixels."""
    return np.stack([policy(image, is_first)[:, 0] / 2, np.ones(len(image))], 1, dtype=np.float32)


def alone(what, cfg, policy):
    """The episodes one after another in a single environment."""
    env = make(what, cfg)
    for seed in SEEDS:
        image, _ = env.reset(seed=seed >> 32)
        frames, rewards, infos, over = [image], [], [], False
        while not over:
            action = policy(image[None], None)[0]
            image, reward, terminated, truncated, info = env.step(action)
            frames.append(image)
            rewards.append(reward)
            infos.append(info)
            over = terminated or truncated
        yield sum_up(rewards, infos, frames)
    env.close()


@pytest.mark.parametrize(
    ("what", "policy", "limit", "repeat"),
    [("driving/clear-noon", throttle, 0, 6), ("metaworld/reach", policy, 8, 1)],
)
def test_vector_episodes_equal_single_ones(what, policy, limit, repeat):
    cfg = {"render": "fast", "action_repeat": repeat, "time_limit": limit}
    expected = list(alone(what, EnvConfig(**cfg), policy))
    if what.startswith("driving"):
        assert len({outcome.length for outcome in expected}) > 1  # episodes end at different steps
    for processes in (False, True):
        environments = make_vector(what, EnvConfig(**cfg, processes=processes), 2)
        found = list(evaluate(environments, lambda: policy, SEEDS, film=True))
        environments.close()
        assert [outcome[:4] for outcome in found] == [outcome[:4] for outcome in expected]
        assert np.array_equal(found[0].frames, expected[0].frames)
        assert not any(outcome.frames for outcome in found[1:])


@pytest.fixture
def pair():
    pair = vector.make("toy", "sphere", 2, processes=True)
    pair.reset(seed=[0, 1])
    yield pair
    assert pair.closed and not any(process.is_alive() for process in pair.processes)


@pytest.mark.parametrize("ask", ["reset", "step"])
def test_killed_process_raises(pair, ask):
    os.kill(pair.processes[1].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match="process 2 of 2 of toy/sphere died with exit status -9"):
        pair.reset(seed=[0, 1]) if ask == "reset" else pair.step(np.zeros((2, 2)))


@pytest.mark.parametrize("ask", ["reset", "step"])
def test_hanging_process_raises_and_is_killed(pair, ask, monkeypatch):
    monkeypatch.setattr(vector, "SECONDS", 1.0)
    os.kill(pair.processes[1].pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match="2 of 2 of toy/sphere did not answer within 1 s"):
        pair.reset(seed=[0, 1]) if ask == "reset" else pair.step(np.zeros((2, 2)))


def test_error_in_a_process_logs_its_traceback(pair, caplog):
    with pytest.raises(WorkerError) as error:
        pair.step(np.array([[0, 0], [0, np.nan]]))
    message = "action array([ 0., nan]) is not 2 finite numbers within [-1, 1]"
    cause = f"envs.errors.EnvError: {message}"
    assert str(error.value) == f"process 2 of 2 of toy/sphere failed: {cause}"
    lines = caplog.messages[-1].strip().splitlines()
    assert (lines[0], lines[-1]) == ("Traceback (most recent call last):", cause)


def test_processes_render_without_extra_threads(pair):
    for process in pair.processes:
        threads = Path(f"/proc/{process.pid}/task").glob("*/comm")
        assert not any(name.read_text().startswith("llvmpipe") for name in threads)
    pair.close()


def test_processes_end_with_their_parent():
    code = """
from envs import vector
if __name__ == "__main__":
    pair = vector.make("toy", "blob", 2, processes=True)
    print(*(process.pid for process in pair.processes), flush=True)
    input()
"""
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdin=-1, stdout=-1, stderr=-3, text=True) as parent:
        pids = parent.stdout.readline().split()
        parent.kill()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline and len(pids) == 2
        time.sleep(0.1)
    assert not multiprocessing.active_children()
