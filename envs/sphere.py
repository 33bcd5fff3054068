"""`toy/sphere`: roll a sphere onto the goal disc. A MuJoCo task that two cores learn from pixels.

The camera is above, x points to the right and y upwards. Damping is high, so an action is nearly a
velocity, at most 2 per second. The sphere starts uniformly in [-0.8, 0.8]^2; the goal is the
centre. The largest possible return is 20; the best policy gets 19.3, a random one 6.3, zero
actions 7.7.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.pixels import MujocoEnv
from envs.rendering import load

STEPS = 20
SUBSTEPS = 6  # physics steps of 0.02 s per control step


class Sphere(MujocoEnv):
    """Reward exp(-(d/0.6)^2), d the distance from the goal. For the arguments see PixelEnv."""

    metadata = MujocoEnv.metadata | {"render_fps": 8}

    def __init__(self, **options: Any) -> None:
        super().__init__(2, **options)
        self._mujoco = load("mujoco")
        path = Path(__file__).with_name("sphere.xml")
        model = self.build(self._mujoco.MjSpec.from_file(str(path)))
        self.attach(model, self._mujoco.MjData(model), "above")

    def build(self, spec: Any) -> Any:
        """Compile the scene; a subclass changes it first."""
        return spec.compile()

    def goal(self) -> NDArray[np.float64]:
        """Where the goal is, (2,)."""
        return np.zeros(2)

    def begin(self, seed: int) -> None:
        """Start an episode at a random position."""
        self._mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = np.random.default_rng(seed).uniform(-0.8, 0.8, 2)
        self._elapsed = 0
        self._place()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step of 0.12 s: reward in (0, 1]; truncated after 20 steps; empty info."""
        self.data.ctrl[:] = action
        self._mujoco.mj_step(self.model, self.data, SUBSTEPS)
        self._elapsed += 1
        self._place()
        error = self.data.qpos - self.goal()
        reward = np.exp(-(error @ error) / 0.6**2)
        return float(reward), False, self._elapsed >= STEPS, {}

    def _place(self) -> None:
        """Move the goal's disc and compute all positions."""
        self.model.geom("goal").pos[:2] = self.goal()
        self._mujoco.mj_forward(self.model, self.data)
