"""Environments from outside this package: a Gymnasium id, or a factory in any module.

    env = envs.make("mine", "walk", make="my_package.envs:make_walk", kwargs={"speed": 2.0})
    env = envs.make("mine", "pole", make="InvertedPendulum-v5", time_limit=100)

A frame is the observation if that is an image, else what `render` returns. It is resized to the
square that the agent sees, whatever its aspect ratio, by averaging over areas. Of `info` only
`success`, or else `is_success`, is kept.
"""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.wrappers import RescaleAction, TransformAction
from numpy.typing import NDArray

from envs.errors import EnvError
from envs.factories import create, failing, one_line
from envs.pixels import SIZE, PixelEnv

LONGEST = 10_000  # control steps of an episode without a known limit


class External(PixelEnv):
    """One environment from outside; `render` has no effect. For the other arguments see PixelEnv.

    Args:
        make: as for `factories.create`.
        limited: the caller limits the length of episodes.
        kwargs: as for `factories.create`.

    Raises:
        EnvError: there is no such environment, it fails, its actions are not a bounded Box of
            floats, or it has no pixels. `reset` and `step` raise it for frames that change their
            size, rewards that are not finite, a `success` in some steps only, and an episode that
            nothing limits and that does not end within LONGEST control steps.
    """

    def __init__(
        self, make: str, limited: bool, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        self._name = make
        self.original = env = create(make, kwargs or {})
        self.limited = limited or bool(env.spec and env.spec.max_episode_steps)
        space = _bounded(make, env.action_space)
        self.observed = _is_image(env.observation_space)
        if not self.observed and env.render_mode != "rgb_array":
            raise EnvError(
                f"{make}: observations are {one_line(env.observation_space)}, not a Box of uint8"
                f" (H, W, 3), and render_mode is {env.render_mode!r}; give one of the two, the"
                " latter by --set env.kwargs.render_mode=rgb_array"
            )
        super().__init__(space.low.size, **options)
        self.metadata = self.metadata | {"render_fps": env.metadata.get("render_fps") or 20}
        # RescaleAction rounds, so it can miss the bounds by a little.
        clipped = TransformAction(env, partial(np.clip, a_min=space.low, a_max=space.high), space)
        self._env = RescaleAction(clipped, np.float32(-1), np.float32(1))
        self.size: tuple[int, int] | None = None  # height and width of the environment's frames
        self._success: bool | None = None  # whether `info` has it
        self._closed = False

    def begin(self, seed: int) -> None:
        """Start an episode."""
        with failing(self._name, "reset"):
            self._observation, _ = self._env.reset(seed=seed)
        self._elapsed = 0

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step: reward, terminated, truncated, success if the environment reports it."""
        self._elapsed += 1
        with failing(self._name, "step"):
            action = action.reshape(self._env.action_space.shape)
            self._observation, reward, terminated, truncated, info = self._env.step(action)
            reward, success = float(reward), info.get("success", info.get("is_success"))
            kept = {} if success is None else {"success": float(success)}
        if not math.isfinite(reward):
            raise EnvError(
                f"{self._name}: the reward of step {self._elapsed} is {reward}; rewards must be"
                " finite numbers"
            )
        if self._success not in (None, bool(kept)):
            raise EnvError(
                f"{self._name}: info has success in some steps only (step {self._elapsed}); give it"
                " in every step, or never"
            )
        self._success = bool(kept)
        over = bool(terminated or truncated)
        if not over and not self.limited and self._elapsed >= LONGEST:
            raise EnvError(
                f"{self._name}: an episode did not end within {LONGEST} control steps; set"
                " env.time_limit, in agent steps"
            )
        return reward, bool(terminated), bool(truncated), kept

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The frame as a square, centred, black at the sides: uint8 (height, width, 3)."""
        image: Any = self._observation
        if not self.observed:
            with failing(self._name, "render"):
                _make_opengl_current(self.original.unwrapped)
                image = self._env.render()
        if not (_is_array(image) and image.dtype == np.uint8 and image.shape[2:] == (3,)):
            kind = f"{image.dtype} {image.shape}" if _is_array(image) else type(image).__name__
            raise EnvError(f"{self._name}: a frame is {kind}; it must be uint8 (H, W, 3)")
        self.size = self.size or image.shape[:2]
        if self.size != image.shape[:2]:
            sizes = ["x".join(map(str, size)) for size in (image.shape[:2], self.size)]
            raise EnvError(
                f"{self._name}: a frame has {sizes[0]} pixels after one of {sizes[1]}; all frames"
                " must have one size"
            )
        return resize(image, height, width)

    def close(self) -> None:
        """Close the environment."""
        if not self._closed:
            self._closed = True
            self._env.close()


def resize(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to a square by area averaging; centre it, black at the sides or cut.

    Returns uint8 (height, width, 3); the square's sides are `height`.
    """
    rows = _overlaps(image.shape[0], height, height)
    columns = _overlaps(image.shape[1], height, width)
    flat = rows @ image.reshape(len(image), -1).astype(np.float32)
    pixels = columns @ flat.reshape(height, *image.shape[1:])
    return np.rint(pixels).astype(np.uint8)


def _overlaps(size: int, scaled: int, length: int) -> NDArray[np.float32]:
    """Share of each of `size` pixels in each of the middle `length` of `scaled` ones: matrix."""
    edges = (np.arange(length + 1) - (length - scaled) / 2) * size / scaled
    left = np.maximum(edges[:-1, None], np.arange(size))
    right = np.minimum(edges[1:, None], np.arange(1, size + 1))
    return (np.maximum(right - left, 0) * scaled / size).astype(np.float32)


def _bounded(make: str, space: gymnasium.Space) -> Box:
    """The action space, if it is continuous and has bounds."""
    if isinstance(space, Box) and space.low.size and np.issubdtype(space.dtype, np.floating):
        bounds = np.stack([space.low, space.high])
        if np.isfinite(bounds).all() and (bounds[0] < bounds[1]).all():
            return space
    raise EnvError(
        f"{make}: actions are {one_line(space)}; they must be a Box of floats with finite bounds,"
        " each low < high"
    )


def _make_opengl_current(env: gymnasium.Env) -> None:
    """Gymnasium's MuJoCo environments draw into the context of the last one that was made."""
    viewer = getattr(getattr(env, "mujoco_renderer", None), "viewer", None)
    if viewer is not None:
        viewer.make_context_current()


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.size > 0


def _is_image(space: gymnasium.Space) -> bool:
    return isinstance(space, Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)
