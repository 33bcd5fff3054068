"""Meta-world: 50 manipulation tasks with a robot arm, by the paper's protocol.

The protocol is that of the paper's code (`wmlib/envs/metaworld.py`) on the current package: dense
v2 rewards (0 to 10 per step), episodes of 500 control steps that success does not end, random goal
and object positions in each episode, camera `corner`. `info["success"]` is 1.0 in steps where the
task is solved, else 0.0; an episode succeeds if any of its steps does.

The camera `corner` is upside down. The paper's renderer (mujoco-py) returned the lowest row first,
so its frames were upright and mirrored. The frames here are the same.
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
    """One task, such as `drawer-open`; for the other arguments see PixelEnv."""

    metadata = MujocoEnv.metadata | {"render_fps": 80}

    def __init__(self, task: str, **options: Any) -> None:
        super().__init__(4, **options)
        load("metaworld")
        simulators = load("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        self._sim = sim = simulators[f"{task}-v3-goal-observable"](seed=0)
        self._policy = load("metaworld.policies").ENV_POLICY_MAP[f"{task}-v3"]()
        sim._freeze_rand_vec = False  # new goals in each episode
        sim.seeded_rand_vec = True  # drawn from the seed
        self.attach(sim.model, sim.data, "corner", inverted=True)

    def begin(self, seed: int) -> None:
        """Start an episode; the seed determines the goal and the object positions."""
        self._sim.seed(seed)  # `reset` ignores its seed argument
        self._state, _ = self._sim.reset()
        # `reset` places objects in the model only. Without mj_forward the first frame would show
        # their previous positions.
        load("mujoco").mj_forward(self.model, self.data)

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One control step of 12.5 ms: reward in [0, 10]; truncated after 500 steps; success."""
        self._state, reward, _, truncated, info = self._sim.step(action)
        return float(reward), False, truncated, {"success": float(info["success"])}

    def expert(self) -> NDArray[np.float32]:
        """The action of the package's scripted policy in the current state: float32 (4,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about actions that it clips
            action = self._policy.get_action(self._state)
        return np.clip(action, -1, 1).astype(np.float32)
