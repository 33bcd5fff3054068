"""An environment as a user could write it, and what can be wrong with one."""

import time

import gymnasium
import numpy as np
from gymnasium import spaces

SPACES = {
    "box": spaces.Box(0, 10, (1,), np.float32),
    "odd": spaces.Box(np.float32([0.1, -3]), np.float32([0.3, 2.6]), (2,), np.float32),
    "matrix": spaces.Box(-2, 2, (2, 3), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "empty": spaces.Box(0, 0, (2,), np.float32),
    "integers": spaces.Box(0, 255, (2,), np.uint8),
    "discrete": spaces.Discrete(3),
    "dict": spaces.Dict({"push": spaces.Box(-1, 1, (2,))}),
    "tuple": spaces.Tuple([spaces.Box(-1, 1, (2,))]),
}


class Line(gymnasium.Env):
    """A bar at a random place of a wide picture; reward is the first number of the action.

    `fault` names what is wrong, `pixels` is `render` or `observation`, and `success` the name of
    that entry of `info`, which is 1 in the second step.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    made = 0

    def __init__(
        self,
        actions="box",
        pixels="render",
        steps=6,
        height=48,
        success=None,
        fault=None,
        render_mode=None,
    ):
        self.action_space = SPACES[actions]
        self.render_mode, self.steps, self.success, self.fault = render_mode, steps, success, fault
        self.shape = (height, 96, 3)
        self.observation_space = spaces.Box(-1, 1, (1,))
        if pixels == "observation":
            self.observation_space = spaces.Box(0, 255, self.shape, np.uint8)
        Line.made += 1
        self.number, self.episodes = Line.made, 0
        if fault == "construct":
            raise KeyError("map")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        self.episodes += 1
        rng = np.random if self.fault == "global" else self.np_random
        self.place = int(rng.uniform(20, 70)) + (self.episodes if self.fault == "history" else 0)
        return self._see(), {}

    def step(self, action):
        if self.fault == "slow":
            time.sleep(10)
        if self.fault == "raise":
            raise ZeroDivisionError("no map")
        self.count += 1
        self.action = action
        self.place += 1
        reward = float(np.ravel(action)[0])
        if self.fault == "nan" and self.count == 3:
            reward = float("nan")
        info = {"energy": [1, 2]}
        if self.success and not (self.fault == "late" and self.count < 3):
            info[self.success] = self.count == 2
        over = self.fault == "at once" or self.count == self.steps
        return self._see(), reward, self.fault == "at once", over, info

    def picture(self):
        height = self.shape[0] + (self.fault == "size" and self.count == 2)
        pixels = np.full((height, 96, 3), 60, np.uint8)
        hidden = self.fault == "shared" and self.number != Line.made
        if self.fault != "blank" and not hidden:
            pixels[: height // 2, self.place % 90 :][:, :6] = 255, 128, 0
        return pixels

    def render(self):
        if self.fault == "list":
            return [self.picture()]
        return self.picture() / 255 if self.fault == "float" else self.picture()

    def _see(self):
        image = self.observation_space.shape == self.shape
        return self.picture() if image else np.zeros(1, np.float32)


def make_line(**kwargs):
    """A factory; unlike a class it declares no render mode."""
    return Line(**kwargs)


def make_nothing():
    """Not an environment."""


number = 3
gymnasium.register("own/Line-v0", Line, max_episode_steps=5)
