"""Policies in environments: the steps of one training episode after another, and evaluation.

Every episode is a function of its seed, and every seed of the run's, so that an interrupted run
goes on at an episode's beginning without any state of the simulator.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv
from pydantic import ConfigDict, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

import envs
from cwm.infra.runtime import seed_from
from cwm.train.replay import Episode
from envs import vector
from envs.looks import Factor


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EnvConfig:
    """How a suite is seen and stepped."""

    render: Literal["reference", "fast"] = "reference"  # fast: no shadows, reflections, smoothing
    action_repeat: PositiveInt = 1
    time_limit: NonNegativeInt = 0  # agent steps; 0: the suite's own
    processes: bool = False  # each evaluation environment in a process of its own
    server: envs.ServerConfig | None = None  # CARLA's; no part of what identifies a run
    # DMC Remastered alone
    vary: tuple[Factor, ...] | None = None  # what differs from episode to episode; null: all seven
    textures: str | None = None  # folder of the original skies/ and floors/; null: procedural ones
    heldout: bool = False  # evaluate in looks that training never has


# (images (B, 64, 64, 3), is_first (B,)) -> actions (B, A)
Policy = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Outcome(NamedTuple):
    """How an episode ended."""

    return_: float
    success: float | None  # 1 if it succeeded at any step; none: the suite does not say
    length: int  # agent steps
    costs: dict[str, float]  # the suite's own, summed over the episode
    frames: list[np.ndarray]  # only where they were asked for


def make(what: str, cfg: EnvConfig) -> gymnasium.Env:
    """The environment `suite/task`, to learn in."""
    return envs.make(*what.split("/"), **_options(cfg))


def make_vector(what: str, cfg: EnvConfig, count: int) -> VectorEnv:
    """Several of them, to be evaluated in."""
    options = _options(cfg) | ({"heldout": True} if cfg.heldout else {})
    return vector.make(*what.split("/"), count, cfg.processes, **options)


def _options(cfg: EnvConfig) -> dict[str, Any]:
    options = {name: getattr(cfg, name) for name in ("render", "action_repeat", "time_limit")}
    # Held-out looks are for evaluation alone: `make_vector` asks for them.
    names = {name for suite in envs.OPTIONS.values() for name in suite} - {"heldout"}
    own = {name: getattr(cfg, name) for name in sorted(names)}
    return options | {name: value for name, value in own.items() if value is not None}


class Collector:
    """Steps one environment, episode after episode, and hands over each finished one."""

    def __init__(self, env: gymnasium.Env, seed: int, episodes: int) -> None:
        """Begin with episode number `episodes`."""
        self.env = env
        self.seed = seed
        self.episodes = episodes
        self._begin()

    def _begin(self) -> None:
        # The first 31 bits: gymnasium hands seeds to generators that take no more.
        seed = seed_from(self.seed, "episode", self.episodes) >> 32
        self.image, _ = self.env.reset(seed=seed)
        self.is_first, self.infos = True, []
        zero = np.zeros(self.env.action_space.shape, np.float32)
        self.steps = [(self.image, zero, 0.0)]

    def step(self, action: np.ndarray) -> tuple[Episode, Outcome] | None:
        """Take one action (A,); returns the episode if it ended, and begins the next.

        An episode that the simulator breaks off is forgotten, and begun again.
        """
        try:
            self.image, reward, terminated, truncated, info = self.env.step(action)
        except envs.Interrupted as error:
            logging.warning("%s; episode %d begins again", error, self.episodes)
            self._begin()
            return None
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
    """The outcome of an episode, from every step's reward and info."""
    # Added one after another, since Python 3.12 rounds a `sum` of floats otherwise than 3.11.
    names = infos[0].keys() - {"success"}
    success = max(float(each["success"]) for each in infos) if "success" in infos[0] else None
    costs = {name: float(reduce(add, (each[name] for each in infos))) for name in sorted(names)}
    return Outcome(reduce(add, rewards), success, len(rewards), costs, frames)


def evaluate(
    environments: VectorEnv,
    policy: Callable[[], Policy],
    seeds: Sequence[int],
    film: bool = False,
) -> Iterator[Outcome]:
    """One episode for each seed, as many together as there are environments.

    `policy()` gives a policy that has seen nothing yet. `film` keeps the first episode's frames.
    If the simulator breaks off one, it and those stepped with it begin again.
    """
    for i in range(0, len(seeds), environments.num_envs):
        wave = seeds[i : i + environments.num_envs]
        outcomes = None
        while outcomes is None:
            try:
                outcomes = _wave(environments, policy(), wave, film and i == 0)
            except envs.Interrupted as error:
                logging.warning("%s; evaluation %d to %d begin again", error, i, i + len(wave) - 1)
        yield from outcomes


def _wave(
    environments: VectorEnv, policy: Policy, seeds: Sequence[int], film: bool
) -> list[Outcome]:
    n = len(seeds)  # the first n environments; the others rest
    own = [seed >> 32 for seed in seeds] + [None] * (environments.num_envs - n)
    image, _ = environments.reset(seed=own)
    actions = np.zeros(environments.action_space.shape, np.float32)
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
