"""`toy/blob`: bring a blurred dot to the centre; no simulator, for tests that learn in a minute.

Large, smooth, first order, a wide dense reward and a short episode: what a small world model learns
on two cores. Of 15, the best policy gets 14.3, a random one 3.0 and one that does nothing 2.9.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.pixels import SIZE, PixelEnv

STEPS = 15
SPEED = 0.25  # of the way from the centre to the border, per step
SIGMA = 7 / 24  # of the blob; the border is 24 of 64 pixels from the centre
BACKGROUND = np.array([110.0, 110.0, 110.0])
COLOUR = np.array([240.0, 200.0, 60.0])


class Blob(PixelEnv):
    """Move the blob by its velocity; reward exp(-(d/0.5)^2), d its distance from the centre.

    The position (x to the right, y upwards) lies in [-1, 1]^2 and starts anywhere in it. Both
    qualities of `render` give the same picture; the arguments are explained in PixelEnv.
    """

    def __init__(
        self, render: str = "fast", action_repeat: int = 1, render_mode: str | None = None
    ) -> None:
        super().__init__(2, render, action_repeat, render_mode)
        self.position = np.zeros(2)

    def begin(self, seed: int) -> None:
        """Start the episode that the seed stands for."""
        self.position = np.random.default_rng(seed).uniform(-1, 1, 2)
        self._elapsed = 0

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step: reward in (0, 1], False, whether 15 steps are done, nothing more."""
        self.position = np.clip(self.position + SPEED * action, -1, 1)
        self._elapsed += 1
        reward = np.exp(-(self.position @ self.position) / 0.5**2)
        return float(reward), False, self._elapsed >= STEPS, {}

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The present state at any size: uint8 (height, width, 3)."""
        border = 24 / 64
        x, y = ((np.arange(n) + 0.5) / n - 0.5 for n in (width, height))
        right = np.exp(-(((x / border - self.position[0]) / SIGMA) ** 2) / 2)
        up = np.exp(-(((-y / border - self.position[1]) / SIGMA) ** 2) / 2)
        blob = (up[:, None] * right[None])[..., None]  # (height, width, 1)
        return (BACKGROUND + blob * (COLOUR - BACKGROUND)).round().astype(np.uint8)
