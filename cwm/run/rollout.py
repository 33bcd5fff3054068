"""Policies in environments: the steps of one training episode after another, and evaluation.

Every episode is a function of its seed, and every seed of the run's, so that an interrupted run
goes on at an episode's beginning without any state of the simulator.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import gymnasium
import numpy as np
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

import envs
from cwm.data.replay import Episode
from cwm.runtime import seed_from
from envs.looks import Factor


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class EnvConfig:
    """How a suite is seen and stepped."""

    render: Literal["reference", "fast"] = "reference"  # fast: no shadows, reflections, smoothing
    action_repeat: int = 1
    time_limit: int = 0  # agent steps; 0: the suite's own
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


def make(what: str, cfg: EnvConfig, evaluation: bool = False) -> gymnasium.Env:
    """The environment `suite/task`, to learn in or to be evaluated in."""
    suite, _, task = what.partition("/")
    options = {name: getattr(cfg, name) for name in ("server", "vary", "textures", "heldout")}
    options["heldout"] &= evaluation
    return envs.make(
        suite,
        task,
        render=cfg.render,
        action_repeat=cfg.action_repeat,
        time_limit=cfg.time_limit,
        **{name: value for name, value in options.items() if value not in (None, False)},
    )


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
        outcome = _outcome(rewards[1:], self.infos, [])
        self.episodes += 1
        self._begin()
        return episode, outcome


def _outcome(rewards: Sequence[float], infos: Sequence[dict], frames: list) -> Outcome:
    names = infos[0].keys() - {"success"}
    success = max(float(each["success"]) for each in infos) if "success" in infos[0] else None
    costs = {name: float(sum(each[name] for each in infos)) for name in sorted(names)}
    return Outcome(sum(rewards), success, len(rewards), costs, frames)


def evaluate(
    environments: Sequence[gymnasium.Env],
    policy: Callable[[], Policy],
    seeds: Sequence[int],
    film: bool = False,
) -> Iterator[Outcome]:
    """One episode for each seed, as many together as there are environments.

    `policy()` gives a policy that has seen nothing yet. `film` keeps the first episode's frames.
    If the simulator breaks off one, it and those stepped with it begin again.
    """
    for i in range(0, len(seeds), len(environments)):
        wave = seeds[i : i + len(environments)]
        outcomes = None
        while outcomes is None:
            try:
                outcomes = _wave(environments[: len(wave)], policy(), wave, film and i == 0)
            except envs.Interrupted as error:
                logging.warning("%s; evaluation %d to %d begin again", error, i, i + len(wave) - 1)
        yield from outcomes


def _wave(
    environments: Sequence[gymnasium.Env], policy: Policy, seeds: Sequence[int], film: bool
) -> list[Outcome]:
    pairs = zip(environments, seeds, strict=True)
    image = np.stack([env.reset(seed=seed >> 32)[0] for env, seed in pairs])
    first = np.ones(len(image))
    rewards: list[list[float]] = [[] for _ in environments]
    infos: list[list[dict]] = [[] for _ in environments]
    running, frames = set(range(len(environments))), [image[0].copy()] if film else []
    while running:
        actions = policy(image, first)
        first[:] = 0
        for i in sorted(running):
            image[i], reward, terminated, truncated, info = environments[i].step(actions[i])
            rewards[i].append(float(reward))
            infos[i].append(info)
            if film and i == 0:
                frames.append(image[0].copy())
            if terminated or truncated:
                running.remove(i)
    films = [frames] + [[]] * (len(environments) - 1)
    return [_outcome(*each) for each in zip(rewards, infos, films, strict=True)]
