"""Frames per second of each suite, fast and reference: python bench/environment.py

A frame is one `step` with a random action, that is, physics and rendering; means over a few tens of
frames after a warm-up. Then, in `fast`: the speed of our environments relative to the bare
simulator, stepped and rendered alternately with them; and the speed of two environments relative to
one, each in its own process.
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
BARE = {  # a step of the simulator itself
    "dmc": lambda env, action: env._env.step(action),
    "dmc-remastered": lambda env, action: env._env.step(action),
    "metaworld": lambda env, action: env._sim.step(action),
}
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
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    ours.reset(seed=0)
    bare.reset(seed=0)
    for _ in range(rounds):
        action, start = ours.action_space.sample(), time.process_time()
        ours.step(action)
        seconds["ours"].append(time.process_time() - start)
        start = time.process_time()
        BARE[suite](bare, action)
        bare._renderer.frame(bare.data, 64, 64)
        seconds["bare"].append(time.process_time() - start)
    ours.close()
    bare.close()
    return statistics.median(seconds["bare"]) / statistics.median(seconds["ours"])


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
    print(f"{'task':28}{'fast':>10}{'reference':>12}{'ratio':>8}   frames/s")
    for suite, tasks in TASKS.items():
        for task in tasks:
            speed = {}
            for render, frames in FRAMES.items():
                env = envs.make(suite, task, render=render)
                speed[render] = frames_per_second(env, frames)
                env.close()
                record.add(f"{suite}/{task}/{render}", speed[render], "frames/s")
            ratio = speed["fast"] / speed["reference"]
            name = f"{suite}/{task}"
            print(f"{name:28}{speed['fast']:10.1f}{speed['reference']:12.1f}{ratio:8.1f}")
    print(f"\n{'relative to bare simulator':28}{'share':>10}   of its steps/s")
    for suite, task in SHARES:
        share = share_of_bare(suite, task)
        record.add(f"{suite}/{task}/share of bare", share, "")
        print(f"{f'{suite}/{task}':28}{share:10.2f}")
    print(f"\n{'in separate processes':28}{'one':>10}{'two':>12}{'ratio':>8}   steps/s")
    for suite, task in TOGETHER:
        one, two = (together(suite, task, count) for count in (1, 2))
        record.add(f"{suite}/{task}/one process", one, "steps/s")
        record.add(f"{suite}/{task}/two processes", two, "steps/s")
        print(f"{f'{suite}/{task}':28}{one:10.1f}{two:12.1f}{two / one:8.2f}")
    record.save()


if __name__ == "__main__":
    main()
