"""Frames per second of each suite, fast and reference: python bench/environment.py

A frame is one `step` with a random action, that is, physics and rendering; means over a few tens of
frames after a warm-up. Then, in `fast`: the speed of our environments relative to the bare
simulator, stepped and rendered alternately with them; and of one and two environments, each in its
own process.
"""

import statistics
import sys
import time
from pathlib import Path

import gymnasium

sys.path.insert(0, str(Path(__file__).parents[1]))
import envs
from bench.record import Record
from envs import vector

TASKS = {
    "toy": ["blob", "sphere"],
    "dmc": ["cartpole-swingup", "walker-walk", "cheetah-run"],
    "dmc-remastered": ["walker-run", "cheetah-run", "hopper-stand"],
    "driving": ["clear-noon", "dynamic"],
    "metaworld": ["reach", "drawer-open", "lever-pull"],
}
SIMULATORS = {"dmc": "_env", "metaworld": "_sim"}  # attributes of our environments
SHARES = [("dmc", "walker-walk"), ("metaworld", "reach")]
TOGETHER = [("driving", "clear-noon"), ("metaworld", "reach")]
FRAMES = {"fast": 60, "reference": 20}


def frames_per_second(env: gymnasium.Env, frames: int) -> float:
    env.action_space.seed(0)
    env.reset(seed=0)
    seconds = 0.0
    for frame in range(-3, frames):  # 3 of warm-up
        action, start = env.action_space.sample(), time.perf_counter()
        _, _, terminated, truncated, _ = env.step(action)
        seconds += (time.perf_counter() - start) * (frame >= 0)
        if terminated or truncated:
            env.reset()
    return frames / seconds


def share_of_bare(suite: str, task: str, rounds: int = 150) -> float:
    """Steps per second of our environment relative to the bare simulator, by CPU time."""
    ours, bare = envs.make(suite, task), envs.make(suite, task).unwrapped
    simulator, times = getattr(bare, SIMULATORS[suite]), []
    ours.reset(seed=0)
    bare.reset(seed=0)
    for _ in range(rounds):
        action, start = ours.action_space.sample(), time.process_time()
        ours.step(action)
        middle = time.process_time()
        simulator.step(action)
        bare._renderer.frame(bare.data, 64, 64)
        times.append((middle - start, time.process_time() - middle))
    ours.close()
    bare.close()
    taken, bare_taken = map(statistics.median, zip(*times, strict=True))
    return bare_taken / taken


def together(suite: str, task: str, count: int, rounds: int = 100) -> float:
    """Total steps per second of `count` environments in processes; median over rounds."""
    environments = vector.make(suite, task, count, processes=True)
    environments.reset(seed=list(range(count)))
    environments.action_space.seed(0)
    seconds = []
    for _ in range(rounds):
        actions, start = environments.action_space.sample(), time.perf_counter()
        environments.step(actions)
        seconds.append(time.perf_counter() - start)
    environments.close()
    return count / statistics.median(seconds)


def main() -> None:
    record = Record("environment")
    for suite, tasks in TASKS.items():
        for task in tasks:
            for render, frames in FRAMES.items():
                env = envs.make(suite, task, render=render)
                record.add(f"{suite}/{task}/{render}", frames_per_second(env, frames), "frames/s")
                env.close()
    for suite, task in SHARES:
        record.add(f"{suite}/{task}/share of bare", share_of_bare(suite, task), "")
    for suite, task in TOGETHER:
        for count in (1, 2):
            record.add(f"{suite}/{task}/{count} process", together(suite, task, count), "steps/s")
    record.save()


if __name__ == "__main__":
    main()
