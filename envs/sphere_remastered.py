"""`toy/sphere-remastered`: the sphere task; each episode samples an appearance.

Dynamics, reward and episode length are those of `toy/sphere`. Two levels of difficulty: the texture
of the ground varies, or also the colours of sphere and goal and the brightness of the light. In
`toy/sphere-chase` the ground varies and the goal moves on a circle, so the state never comes to
rest.
"""

from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from envs.sphere import Sphere
from envs.textures import colour, tile

Level = Literal["ground", "everything"]
TRAINING, HELDOUT = 0, 1  # part of the seed of every appearance, so the two sets are disjoint
TEXELS = 64
RADIUS, SPEED = 0.5, 0.24  # of the goal's circle, and radians per control step


class RemasteredSphere(Sphere):
    """For the other arguments see PixelEnv.

    Args:
        level: `ground`: the texture of the ground varies; `everything`: also the colours of the
            sphere and the goal, and the light.
        chase: the goal moves on a circle, in a direction and from an angle that the episode draws.
        heldout: sample appearances disjoint from the usual ones.
    """

    def __init__(
        self, level: Level = "ground", chase: bool = False, heldout: bool = False, **options: Any
    ) -> None:
        self.level, self.chase = level, chase
        self._set = HELDOUT if heldout else TRAINING
        super().__init__(**options)

    def build(self, spec: Any) -> Any:
        """Compile the scene with a texture on the ground."""
        spec.add_texture(
            name="ground",
            type=self._mujoco.mjtTexture.mjTEXTURE_2D,
            builtin=self._mujoco.mjtBuiltin.mjBUILTIN_FLAT,
            width=TEXELS,
            height=TEXELS,
        )
        roles = [""] * self._mujoco.mjtTextureRole.mjNTEXROLE
        roles[self._mujoco.mjtTextureRole.mjTEXROLE_RGB] = "ground"
        # One tile covers what the camera sees.
        spec.add_material(name="ground", textures=roles, texuniform=True, texrepeat=[0.42, 0.42])
        ground = spec.geom("ground")
        ground.material, ground.rgba = "ground", [1, 1, 1, 1]
        return super().build(spec)

    def begin(self, seed: int) -> None:
        """Start an episode; the seed also determines its appearance."""
        rng = np.random.default_rng([seed, 1])
        self._angle, self._turn = rng.uniform(0, 2 * np.pi), rng.choice((-SPEED, SPEED))
        self.set_appearance(seed)
        super().begin(seed)

    def set_appearance(self, visual_seed: int) -> None:
        """Change the appearance, and nothing else, to that of a visual seed."""
        rng = np.random.default_rng([visual_seed, self._set, 2])
        self._renderer.paint("ground", tile(rng, TEXELS, vivid=0.5))
        if self.level == "everything":
            self.model.geom("sphere").rgba[:3] = _pale(rng)
            self.model.geom("goal").rgba[:3] = _saturated(rng)
            self.model.vis.headlight.ambient[:] = rng.uniform(0.35, 0.6)
            self.model.vis.headlight.diffuse[:] = rng.uniform(0.35, 0.6)

    def goal(self) -> NDArray[np.float64]:
        """Where the goal is, (2,)."""
        if not self.chase:
            return super().goal()
        angle = self._angle + self._elapsed * self._turn
        return RADIUS * np.array([np.cos(angle), np.sin(angle)])


def _pale(rng: Generator) -> NDArray[np.float64]:
    """A colour of the sphere: bright, of low saturation."""
    return 1 - 0.5 * (1 - colour(rng, 0.5))


def _saturated(rng: Generator) -> NDArray[np.float64]:
    """A colour of the goal: one or two channels are high, the others low."""
    drawn = colour(rng)
    low, high = drawn.min(), drawn.max()
    return 0.1 + 0.75 * (drawn - low) / (high - low)
