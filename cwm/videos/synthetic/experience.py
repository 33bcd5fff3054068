"""Synthetic recorded experience: random actions in the task `toy/sphere`, as .npz episodes.

An action is kept for one to four steps, so that its effect is visible. The files are those that
`cwm import` reads: docs/recorded-data.md.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import gymnasium
import numpy as np

import envs
from cwm.infra.files import atomic_write

VERSION = 1
Step = tuple[np.ndarray, np.ndarray, float]  # a frame, and the action and reward that led to it


def label(clip: int) -> str:
    """The task, which all episodes share."""
    return "sphere"


def file_name(clip: int) -> str:
    """Path of an episode's file below the dataset's folder."""
    return f"{label(clip)}/{clip:06d}.npz"


def traits(seed: int, clip: int) -> dict[str, str]:
    """Nothing: an episode is its frames and actions."""
    return {}


def render(seed: int, clip: int) -> Iterator[Step]:
    """The steps of an episode of 20 actions; the first one has a zero action and no reward."""
    rng, env = np.random.default_rng([seed, clip]), _environment()
    image, _ = env.reset(seed=int(rng.integers(2**31)))
    action, left, ended = np.zeros(env.action_space.shape or (), np.float32), 0, False
    yield image, action, 0.0
    while not ended:
        if not left:
            action = rng.uniform(-1, 1, action.shape).astype(np.float32)
            left = int(rng.integers(1, 5))
        left -= 1
        image, reward, terminated, truncated, _ = env.step(action)
        ended = terminated or truncated
        yield image, action, float(reward)


def write(path: Path, steps: Iterator[Step]) -> None:
    """Write an episode, atomically."""
    image, action, reward = zip(*steps, strict=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as part:
        np.savez_compressed(part, image=image, action=action, reward=np.array(reward, np.float32))


@lru_cache(maxsize=1)
def _environment() -> gymnasium.Env:
    return envs.make("toy", "sphere", render="fast")
