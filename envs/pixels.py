"""Base classes of all environments: observations of 64x64 pixels, actions in [-1, 1]."""

import abc
from functools import reduce
from operator import add
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from numpy.typing import NDArray

from envs.errors import EnvError, unknown
from envs.rendering import QUALITIES, Renderer

SIZE = 64
VIDEO = 256


class PixelEnv(gymnasium.Env[NDArray[np.uint8], NDArray[np.float32]], abc.ABC):
    """An environment that is observed through a camera.

    A seed given to `reset` determines the episode completely, independent of earlier episodes and
    of the instance. Without a seed, the environment's generator draws one.

    Actions are repeated here because `gymnasium.wrappers.RepeatAction` would also render the
    skipped frames, which nothing uses.

    `info` holds `success` and costs, depending on the suite. When an action is repeated, `success`
    is the maximum and costs are summed.

    `control_steps` counts the control steps of all episodes since construction.

    Args:
        actions: the size of an action.
        render: `fast`, or `reference` with shadows, reflections and multisampling.
        action_repeat: control steps per `step`, at least 1. Rewards are summed. `step` returns
            early if the episode ends.
        render_mode: None or `rgb_array`, with the same effect: `render` returns a large frame.

    Raises:
        EnvError: an unknown `render` or `render_mode`, or `action_repeat` below 1.
    """

    metadata = gymnasium.Env.metadata | {"render_modes": ["rgb_array"], "render_fps": 20}
    action_space: Box[np.float32]
    observation_space = Box(0, 255, (SIZE, SIZE, 3), np.uint8)

    def __init__(
        self,
        actions: int,
        render: str = "fast",
        action_repeat: int = 1,
        render_mode: str | None = None,
    ) -> None:
        if render not in QUALITIES:
            raise unknown("render", render, QUALITIES)
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise unknown("render_mode", render_mode, self.metadata["render_modes"])
        if action_repeat < 1:
            raise EnvError(f"action_repeat is {action_repeat}; it must be 1 or more")
        self.action_space = Box(-1, 1, (actions,), np.float32)
        self.quality, self.action_repeat, self.render_mode = render, action_repeat, render_mode
        self.control_steps = 0
        self._over = True

    @abc.abstractmethod
    def begin(self, seed: int) -> None:
        """Start the episode that the seed determines."""

    @abc.abstractmethod
    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One control step: reward, terminated, truncated, info."""

    @abc.abstractmethod
    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The current state as the agent sees it: uint8 (height, width, 3), upright."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """Begin an episode; return its first frame, uint8 (64, 64, 3), and an empty info."""
        super().reset(seed=seed)
        self.begin(int(self.np_random.integers(2**31)))
        self._over = False
        return self.frame(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        """Repeat the action; return frame, reward, terminated, truncated and info.

        Raises:
            EnvError: the action has the wrong shape or is not within [-1, 1], or the episode is
                over or was never begun.
        """
        action = self._checked(action)
        total, infos = 0.0, []
        for _ in range(self.action_repeat):
            self.control_steps += 1
            reward, terminated, truncated, info = self.control(action)
            total += reward
            infos.append(info)
            self._over = terminated or truncated
            if self._over:
                break
        combine = {"success": max}
        info = {
            name: reduce(combine.get(name, add), (each[name] for each in infos)) for name in info
        }
        return self.frame(), total, terminated, truncated, info

    def render(self) -> NDArray[np.uint8]:
        """A large frame for videos: uint8 (256, 256, 3)."""
        return self.frame(VIDEO, VIDEO)

    def _checked(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._over:
            raise EnvError("the episode is over (or never began): call reset() before step()")
        values, shape = np.asarray(action), self.action_space.shape
        # NaN fails the comparison too.
        sound = values.dtype.kind in "fiu" and values.shape == shape and (abs(values) <= 1).all()
        if not sound:
            raise EnvError(f"action {action!r} is not {shape[0]} finite numbers within [-1, 1]")
        return values.astype(np.float32)


class MujocoEnv(PixelEnv):
    """A PixelEnv that MuJoCo renders; the constructor of a subclass calls `attach` last."""

    model: Any
    data: Any

    def attach(self, model: Any, data: Any, camera: str | int, inverted: bool = False) -> None:
        """Create the renderer of this model and data; `inverted`: the camera is upside down."""
        self.model, self.data = model, data
        self._renderer = Renderer(model, camera, self.quality, inverted)

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The current state as the agent sees it: uint8 (height, width, 3), upright."""
        return self._renderer.frame(self.data, height, width)

    def close(self) -> None:
        """Free the OpenGL context; no frame can be rendered afterwards."""
        self._renderer.close()
