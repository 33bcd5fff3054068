"""Stand-in for RLBench: a robot arm that does what scripted experts make it do.

The tasks are ones of Meta-world that no figure fine-tunes on.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np

import envs
from cwm.videos.encode import H264, encode

VERSION = 1  # a change of what is drawn makes new files
SIDE = 96  # of a frame, which is square as what the agent sees
TASKS = ("door-open", "plate-slide", "push", "window-open")
FRAMES, SKIP = 32, 4  # frames of a clip, control steps (12.5 ms) from one to the next


def label(clip: int) -> str:
    """Task of a clip; every task has the same share of any number of clips."""
    return TASKS[clip % len(TASKS)]


def place(clip: int) -> str:
    """File of a clip."""
    return f"{label(clip)}/{clip:06d}.mp4"


def traits(seed: int, clip: int) -> dict[str, str]:
    """Many episodes of few tasks, by one arm at one table."""
    return {"task": label(clip), "arm": "sawyer", "table": "metaworld"}


write = partial(encode, rate=20, codec=H264)


class Studio:
    """Keeps the environment of the task that was filmed last."""

    def __init__(self) -> None:
        self._task, self._env = "", None

    def film(self, seed: int, clip: int) -> Iterator[np.ndarray]:
        """Frames (96, 96, 3) uint8 of an episode's beginning, by a more or less steady hand."""
        rng = np.random.default_rng([seed, clip])
        env = self._environment(label(clip))
        tremor = rng.choice((0, 0.2, 0.5))
        env.reset(seed=int(rng.integers(2**31)))
        for _ in range(FRAMES):
            yield env.frame(SIDE, SIDE)
            for _ in range(SKIP):
                action = env.expert() + tremor * rng.normal(size=4)
                env.control(np.clip(action, -1, 1).astype(np.float32))

    def _environment(self, task: str) -> envs.metaworld.MetaWorld:
        if task != self._task:
            if self._env is not None:
                self._env.close()
            self._task, self._env = task, envs.make("metaworld", task).unwrapped
        return self._env
