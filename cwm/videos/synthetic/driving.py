"""Synthetic YouTube Driving: the windscreen view of `envs.driving`, driven by its script.

Every clip has a road, traffic and a camera of its own; the weathers recur. The fine-tuning suite
`driving` is the same simulator, so these videos are closer to its tasks than real ones would be.
"""

from collections.abc import Iterator
from functools import lru_cache, partial
from typing import cast

import numpy as np

import envs
from cwm.videos.encode import H264, encode
from cwm.videos.synthetic import nth_file, nth_label
from envs.driving import TASKS as WEATHERS

VERSION = 2
WIDTH, HEIGHT = 128, 72
RATE = 20  # frames per second, one control step each

label = partial(nth_label, WEATHERS)
file_name = partial(nth_file, WEATHERS, ".mp4")
write = partial(encode, rate=RATE, codec=H264)


def traits(seed: int, clip: int) -> dict[str, str]:
    """The road, which no other clip has, and the weather."""
    return {"road": f"{seed}-{clip}", "weather": label(clip)}


def render(seed: int, clip: int) -> Iterator[np.ndarray]:
    """Frames (72, 128, 3) uint8 of a drive of 40 to 60 frames, by the script with some swerving."""
    rng = np.random.default_rng([seed, clip])
    env = _environment(label(clip))
    camera = env.model.camera("windscreen")
    camera.pos[2], camera.fovy[:] = rng.uniform(1.2, 2.2), rng.uniform(48, 64)
    env.reset(seed=int(rng.integers(2**31)))
    env.ego[3] = rng.uniform(8, 20)  # m/s; an episode begins at rest
    swerve, pace, phase = rng.uniform(0, 0.15), rng.uniform(1, 4), rng.uniform(0, 2 * np.pi)
    for step in range(int(rng.integers(40, 61))):
        yield env.frame(HEIGHT, WIDTH)
        steer = swerve * np.sin(pace * step / RATE + phase)
        env.control(np.clip(env.expert() + np.array([steer, 0]), -1, 1).astype(np.float32))


@lru_cache(maxsize=1)
def _environment(weather: str) -> envs.driving.Driving:
    return cast(envs.driving.Driving, envs.make("driving", weather).unwrapped)
