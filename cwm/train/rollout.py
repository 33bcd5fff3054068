"""Policies in environments: training episodes one after another, and evaluation.

An episode is a function of its seed and the actions, and its seed a function of the run's. A run
therefore resumes at the beginning of an episode without any state of the simulator.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from cwm.infra.device import seed_from
from cwm.train.environment import VectorEnvs
from cwm.train.replay import Episode

# (images (B, 64, 64, 3), is_first (B,)) -> actions (B, A)
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Outcome(NamedTuple):
    """Totals of a finished episode."""

    return_: float
    success: float | None  # 1 if any step succeeded; None: the suite has no success
    length: int  # agent steps
    costs: dict[str, float]  # the suite's own, summed over the episode
    frames: list[np.ndarray]  # uint8 (64, 64, 3) each; empty unless filmed


def action_shape(space: gymnasium.Space) -> tuple[int, ...]:
    """Shape of the actions of a space of arrays."""
    if space.shape is None:
        raise ValueError(f"actions of {space} are not arrays")
    return space.shape


class Collector:
    """Steps one environment, episode after episode, and returns each finished episode."""

    def __init__(self, env: gymnasium.Env, seed: int, episodes: int) -> None:
        """Start episode number `episodes` of the run with this seed."""
        self.env = env
        self.seed = seed
        self.episodes = episodes
        self._begin()

    def _begin(self) -> None:
        # The upper 32 bits: gymnasium passes seeds to generators that take no more.
        seed = seed_from(self.seed, "episode", self.episodes) >> 32
        self.image, _ = self.env.reset(seed=seed)
        self.is_first = True
        self.infos: list[dict[str, Any]] = []
        zero = np.zeros(action_shape(self.env.action_space), np.float32)
        self.steps = [(self.image, zero, 0.0)]

    def step(self, action: np.ndarray) -> tuple[Episode, Outcome] | None:
        """Take one action (A,); if that ends the episode, return it and start the next."""
        self.image, reward, terminated, truncated, info = self.env.step(action)
        self.steps.append((self.image, np.asarray(action, np.float32), float(reward)))
        self.is_first = False
        self.infos.append(info)
        if not (terminated or truncated):
            return None
        image, actions, rewards = zip(*self.steps, strict=True)
        episode = Episode(np.stack(image), np.stack(actions), np.array(rewards, np.float32))
        outcome = sum_up(rewards[1:], self.infos, [])
        self.episodes += 1
        self._begin()
        return episode, outcome


def sum_up(rewards: Sequence[float], infos: Sequence[dict], frames: list) -> Outcome:
    """The outcome of an episode, from the reward and info of every step."""
    # `reduce`, because `sum` of floats rounds differently in Python 3.12 and 3.11.
    names = infos[0].keys() - {"success"}
    success = max(float(each["success"]) for each in infos) if "success" in infos[0] else None
    costs = {name: float(reduce(add, (each[name] for each in infos))) for name in sorted(names)}
    return Outcome(reduce(add, rewards), success, len(rewards), costs, frames)


def evaluate(
    environments: VectorEnvs,
    policy: Callable[[], Policy],
    seeds: Sequence[int],
    film: bool = False,
) -> Iterator[Outcome]:
    """One episode for each seed, in batches of as many as there are environments.

    `policy()` makes a policy with a fresh belief state. `film` keeps the first episode's frames.
    """
    for i in range(0, len(seeds), environments.num_envs):
        batch = seeds[i : i + environments.num_envs]
        yield from _evaluate_batch(environments, policy(), batch, film and i == 0)


def _evaluate_batch(
    environments: VectorEnvs, policy: Policy, seeds: Sequence[int], film: bool
) -> list[Outcome]:
    n = len(seeds)  # uses the first n environments
    own = [seed >> 32 for seed in seeds] + [None] * (environments.num_envs - n)
    image, _ = environments.reset(seed=own)
    actions = np.zeros(action_shape(environments.action_space), np.float32)
    first, running = np.ones(n), np.ones(n, bool)
    rewards: list[list[float]] = [[] for _ in seeds]
    infos: list[list[dict]] = [[] for _ in seeds]
    frames = [image[0]] if film else []
    while running.any():
        actions[:n] = policy(image[:n], first)
        first[:] = 0
        image, reward, terminated, truncated, info = environments.step(actions)
        for i in np.flatnonzero(running):
            rewards[i].append(float(reward[i]))
            infos[i].append({name: x[i] for name, x in info.items() if name[0] != "_"})
        if film and running[0]:
            frames.append(image[0])
        running &= ~(terminated | truncated)[:n]
    films = [frames] + [[]] * (n - 1)
    return [sum_up(*each) for each in zip(rewards, infos, films, strict=True)]
