"""DMC Remastered: the Control suite with visual factors that change in every episode (camera 0).

The seven factors (`envs.visual_factors`) are written into the compiled model. A frame equals that
of a model compiled with these factors; rewards and dynamics are those of the Control suite.
"""

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from envs import dmc
from envs.backgrounds import KINDS, files, painted
from envs.dmc import ControlSuite
from envs.errors import EnvError, unknown
from envs.rendering import load
from envs.visual_factors import DOMAINS, FACTORS, VisualFactors, sample

_LEFT_OUT = {"two_poles", "three_poles", "run_pure_state"}
TASKS = [
    name
    for name, (domain, task) in dmc.TASKS.items()
    if domain in DOMAINS and task not in _LEFT_OUT
]

SEEDS = range(1, 1_000_001)  # the paper's visual seeds
HELDOUT = range(1_000_001, 2_000_001)

# factor -> kind of its picture, and the texture of the model that the picture replaces
TEXTURES = {"bg": ("skies", "skybox"), "floor": ("floors", "grid")}


class Remastered(ControlSuite):
    """One task, such as `walker-run`; for the other arguments see PixelEnv.

    Args:
        vary: the factors that vary, all seven by default; the others keep the suite's values.
        textures: a folder with the original `skies/` and `floors/`; None: procedural pictures.
        heldout: use visual seeds and procedural pictures disjoint from the usual ones.

    Raises:
        EnvError: an unknown factor, or a folder without suitable pictures.
    """

    def __init__(
        self,
        task: str,
        vary: Iterable[str] = FACTORS,
        textures: str | None = None,
        heldout: bool = False,
        **options: Any,
    ) -> None:
        self.vary = frozenset(vary)
        for factor in sorted(self.vary.difference(FACTORS)):
            raise unknown("factor", factor, FACTORS)
        self.domain, _ = dmc.TASKS[task]
        self._seeds = HELDOUT if heldout else SEEDS
        self.pictures = {
            kind: files(Path(textures) / kind) if textures else painted(kind, heldout)
            for kind in KINDS
        }
        super().__init__(task, **options)

    def attach(self, model: Any, data: Any, camera: str | int, inverted: bool = False) -> None:
        """Create the renderer, after setting what cannot change once it exists."""
        model.material("grid").texrepeat = 3  # tiles per metre
        if self.domain == "cheetah":
            model.geom("ground").size = (100, 15, 0.5)  # so that the camera never sees its edge
        for factor in self.vary & TEXTURES.keys():
            kind, name = TEXTURES[factor]
            slot, size = model.texture(name), len(self.pictures[kind][0]())
            largest = math.isqrt(slot.width[0] * slot.height[0])
            if size > largest:
                room = f"the model has room for {largest}x{largest}"
                raise EnvError(f"{kind} are {size}x{size}; {room}")
            slot.width = slot.height = size  # MuJoCo uses a single face for all six of a cube map
        super().attach(model, data, camera, inverted)
        self._mujoco = load("mujoco")
        self._scratch = self._mujoco.MjData(model)

    def begin(self, seed: int) -> None:
        """Start an episode; the seed also determines its visual factors."""
        self.visual_seed = random.Random(seed).choice(self._seeds)
        self.apply(self.visual_factors(self.visual_seed))
        super().begin(seed)

    def visual_factors(self, visual_seed: int) -> VisualFactors:
        """The factors of a visual seed."""
        return sample(self.domain, visual_seed, *(len(self.pictures[kind]) for kind in KINDS))

    def apply(self, factors: VisualFactors) -> None:
        """Write the factors that vary into the model."""
        model, vary = self.model, self.vary
        if "bg" in vary:
            self._renderer.paint("skybox", self.pictures["skies"][factors.sky]())
        if "floor" in vary:
            self._renderer.paint("grid", self.pictures["floors"][factors.floor]())
        if "reflectance" in vary:
            model.material("grid").reflectance = factors.reflectance
        if "body" in vary:
            model.material("self").rgba = factors.body
            model.material("effector").rgba = factors.effector
        if "target" in vary:
            model.material("target").rgba = factors.target
        if "light" in vary:
            for name, colour in factors.headlight.items():
                setattr(model.vis.headlight, name, colour)
            for name, value in factors.lamp.items():
                setattr(model.light(0), name, value)
        if "camera" in vary:
            model.camera(0).pos = factors.camera
            if factors.angles:
                radians = np.radians(factors.angles)
                self._mujoco.mju_euler2Quat(model.camera(0).quat, radians, "xyz")
        self._settle()

    def _settle(self) -> None:
        """Recompute the constants that MuJoCo derives from the changed model."""
        stat = self.model.stat
        kept = stat.extent, stat.meansize, stat.center.copy()
        self._mujoco.mj_setConst(self.model, self._scratch)
        stat.extent, stat.meansize, stat.center = kept  # unchanged, as they set the clipping planes
        self._mujoco.mj_camlight(self.model, self.data)
