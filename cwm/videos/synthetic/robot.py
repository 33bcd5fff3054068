"""Synthetic RLBench: Meta-world's robot arm, moved by the package's scripted policies.

No figure fine-tunes on the tasks shown here.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import cast

import numpy as np

import envs
from cwm.videos.encode import H264, encode
from cwm.videos.synthetic import nth_file, nth_label

VERSION = 1
SIDE = 96  # pixels; frames are square, as the agent's are
TASKS = ("door-open", "plate-slide", "push", "window-open")
FRAMES, SKIP = 32, 4  # frames per clip; control steps of 12.5 ms per frame

label = partial(nth_label, TASKS)
file_name = partial(nth_file, TASKS, ".mp4")
write = partial(encode, rate=20, codec=H264)


def traits(seed: int, clip: int) -> dict[str, str]:
    """The task; arm and table never change."""
    return {"task": label(clip), "arm": "sawyer", "table": "metaworld"}


def render(seed: int, clip: int) -> Iterator[np.ndarray]:
    """Frames (96, 96, 3) uint8 of the start of an episode; the policy's actions get some noise."""
    rng = np.random.default_rng([seed, clip])
    env = _environment(label(clip))
    noise = rng.choice((0, 0.2, 0.5))
    env.reset(seed=int(rng.integers(2**31)))
    for _ in range(FRAMES):
        yield env.frame(SIDE, SIDE)
        for _ in range(SKIP):
            action = env.expert() + noise * rng.normal(size=4)
            env.control(np.clip(action, -1, 1).astype(np.float32))


@lru_cache(maxsize=1)
def _environment(task: str) -> envs.metaworld.MetaWorld:
    return cast(envs.metaworld.MetaWorld, envs.make("metaworld", task).unwrapped)
