"""The DeepMind Control suite from pixels, with the suite's rewards and time limits.

An episode has 1,000 control steps. The lqr domain is excluded: its actions and episodes are
unbounded.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.pixels import MujocoEnv
from envs.rendering import load

SUITE = {
    "acrobot": "swingup swingup_sparse",
    "ball_in_cup": "catch",
    "cartpole": "balance balance_sparse swingup swingup_sparse two_poles three_poles",
    "cheetah": "run",
    "dog": "stand walk trot run fetch",
    "finger": "spin turn_easy turn_hard",
    "fish": "upright swim",
    "hopper": "stand hop",
    "humanoid": "stand walk run run_pure_state",
    "humanoid_CMU": "stand walk run",
    "manipulator": "bring_ball bring_peg insert_ball insert_peg",
    "pendulum": "swingup",
    "point_mass": "easy hard",
    "quadruped": "walk run escape fetch",
    "reacher": "easy hard",
    "stacker": "stack_2 stack_4",
    "swimmer": "swimmer6 swimmer15",
    "walker": "stand walk run",
}
TASKS = {
    f"{domain}-{task}".replace("_", "-").lower(): (domain, task)
    for domain, tasks in SUITE.items()
    for task in tasks.split()
}
CAMERAS = {"quadruped": 2}  # as in the official code; other domains use camera 0


class ControlSuite(MujocoEnv):
    """One task of the suite, such as `walker-walk`; for the other arguments see PixelEnv."""

    def __init__(self, task: str, **options: Any) -> None:
        load("dm_control")
        self._env = load("dm_control.suite").load(*TASKS[task])
        spec = self._env.action_spec()
        super().__init__(spec.shape[0], **options)
        self.metadata = self.metadata | {"render_fps": round(1 / self._env.control_timestep())}
        # Actions are scaled to the suite's bounds, which for the quadruped are not [-1, 1].
        self._centre = (spec.maximum + spec.minimum) / 2
        self._half = (spec.maximum - spec.minimum) / 2
        camera = CAMERAS.get(TASKS[task][0], 0)
        self.attach(self._env.physics.model.ptr, self._env.physics.data.ptr, camera=camera)

    def begin(self, seed: int) -> None:
        """Start an episode; the seed determines its initial state and terrain."""
        self._env.task.random.seed(seed)
        self._env.reset()
        self._renderer.upload_terrain()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One control step: reward in [0, 1], terminated, truncated, empty info."""
        step = self._env.step(self._centre + self._half * action)
        return float(step.reward), step.discount == 0, step.last() and step.discount > 0, {}

    def close(self) -> None:
        """Free the OpenGL context and the physics."""
        super().close()
        self._env.physics.free()
