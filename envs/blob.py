"""`toy/blob`: move a blurred dot to the centre. Without a simulator, for short training tests.

The dot is large, the dynamics are first order, the reward is dense and episodes are short, so a
small world model learns the task within a minute on two cores. The largest possible return is 15;
the best policy gets 14.3, a random one 3.0, zero actions 2.9.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.pixels import SIZE, PixelEnv

STEPS = 15
SPEED = 0.25  # position per step at full action
SIGMA = 7 / 24  # of the blob, in units of position: 24 of 64 pixels
BACKGROUND = np.array([110.0, 110.0, 110.0])
COLOUR = np.array([240.0, 200.0, 60.0])


class Blob(PixelEnv):
    """Actions are velocities; the reward is exp(-(d/0.5)^2), d the distance from the centre.

    The position (x to the right, y upwards) lies in [-1, 1]^2 and starts uniformly in it. Both
    values of `render` give the same frames. For the arguments see PixelEnv.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)
        self.position = np.zeros(2)

    def begin(self, seed: int) -> None:
        """Start an episode at a random position."""
        self.position = np.random.default_rng(seed).uniform(-1, 1, 2)
        self._elapsed = 0

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """Reward in (0, 1]; truncated after 15 steps; empty info."""
        self.position = np.clip(self.position + SPEED * action, -1, 1)
        self._elapsed += 1
        reward = np.exp(-(self.position @ self.position) / 0.5**2)
        return float(reward), False, self._elapsed >= STEPS, {}

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The current state: uint8 (height, width, 3)."""
        border = 24 / 64
        x, y = ((np.arange(n) + 0.5) / n - 0.5 for n in (width, height))
        right = np.exp(-(((x / border - self.position[0]) / SIGMA) ** 2) / 2)
        up = np.exp(-(((-y / border - self.position[1]) / SIGMA) ** 2) / 2)
        blob = (up[:, None] * right[None])[..., None]  # (height, width, 1)
        return (BACKGROUND + blob * (COLOUR - BACKGROUND)).round().astype(np.uint8)
