"""Meta-world: a robot arm, a table and 50 things to do, as the paper sees them.

The protocol is that of the paper's code (`wmlib/envs/metaworld.py`) on today's package: the
dense v2 reward (0 to 10 a step), an episode of 500 control steps that no success ends, goal and
objects drawn anew in each episode, camera `corner`. `info["success"]` is 1.0 in a step that finds
the task done, else 0.0; an episode succeeded if any of its steps did.

The camera `corner` hangs upside down. The paper's renderer (mujoco-py) handed out the lowest row
first and so showed the scene upright; the frames here do the same, which mirrors left and right.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.pixels import MujocoEnv
from envs.rendering import load

_NAMES = """
    assembly basketball bin-picking box-close button-press button-press-topdown
    button-press-topdown-wall button-press-wall coffee-button coffee-pull coffee-push dial-turn
    disassemble door-close door-lock door-open door-unlock drawer-close drawer-open faucet-close
    faucet-open hammer hand-insert handle-press handle-press-side handle-pull handle-pull-side
    lever-pull peg-insert-side peg-unplug-side pick-out-of-hole pick-place pick-place-wall
    plate-slide plate-slide-back plate-slide-back-side plate-slide-side push push-back push-wall
    reach reach-wall shelf-place soccer stick-pull stick-push sweep sweep-into window-close
    window-open
"""
TASKS = _NAMES.split()


class MetaWorld(MujocoEnv):
    """One task of Meta-world; the arguments are explained in PixelEnv."""

    metadata = MujocoEnv.metadata | {"render_fps": 80}

    def __init__(
        self,
        task: str,
        render: str = "fast",
        action_repeat: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(4, render, action_repeat, render_mode)
        load("metaworld")
        simulators = load("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        self._sim = sim = simulators[f"{task}-v3-goal-observable"](seed=0)
        self._policy = load("metaworld.policies").ENV_POLICY_MAP[f"{task}-v3"]()
        sim._freeze_rand_vec = False  # goals vary
        sim.seeded_rand_vec = True  # and follow the seed
        self.attach(sim.model, sim.data, "corner", inverted=True)

    def begin(self, seed: int) -> None:
        """Start the episode that the seed stands for."""
        self._sim.seed(seed)  # `reset` ignores its own
        self._state, _ = self._sim.reset()
        # Tasks place their objects last and in the model only: without this the first frame, unlike
        # the second, shows them where they were before.
        load("mujoco").mj_forward(self.model, self.data)

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One control step of 12.5 ms: reward, False, whether 500 steps are done, success."""
        self._state, reward, _, truncated, info = self._sim.step(action)
        return float(reward), False, truncated, {"success": float(info["success"])}

    def expert(self) -> NDArray[np.float32]:
        """What the package's scripted policy does in the present state: float32 (4,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that large actions will be clipped
            action = self._policy.get_action(self._state)
        return np.clip(action, -1, 1).astype(np.float32)
