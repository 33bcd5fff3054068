"""DMC Remastered: the Control suite in a look that changes with every episode, for camera 0.

Seven factors (`envs.looks`) are written into the compiled model: nothing is compiled again, and a
frame is the one that a model compiled in this look would give. Rewards and dynamics stay those of
the Control suite.
"""

import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from envs import dmc
from envs.dmc import ControlSuite
from envs.errors import EnvError, unknown
from envs.looks import DOMAINS, FACTORS, Look, draw
from envs.pictures import KINDS, files, painted
from envs.rendering import load

_LEFT_OUT = {"two_poles", "three_poles", "run_pure_state"}
TASKS = [
    name
    for name, (domain, task) in dmc.TASKS.items()
    if domain in DOMAINS and task not in _LEFT_OUT
]

SEEDS = range(1, 1_000_001)  # the paper's visual seeds
HELDOUT = range(1_000_001, 2_000_001)

# The factor that shows a picture, its kind, and the texture of the model that it replaces.
TEXTURES = {"bg": ("skies", "skybox"), "floor": ("floors", "grid")}


class Remastered(ControlSuite):
    """One task, such as `walker-run`; PixelEnv explains the arguments that are not named here.

    Args:
        vary: the factors that vary, all seven by default; the others stay the suite's.
        textures: a folder with the original `skies/` and `floors/`; none: procedural pictures.
        heldout: draw visual seeds, and procedural pictures, that no other environment draws.

    Raises:
        EnvError: an unknown factor, or a folder without pictures that fit.
    """

    def __init__(
        self,
        task: str,
        vary: Iterable[str] = FACTORS,
        textures: str | None = None,
        heldout: bool = False,
        render: str = "fast",
        action_repeat: int = 1,
        render_mode: str | None = None,
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
        super().__init__(task, render, action_repeat, render_mode)

    def attach(self, model: Any, data: Any, camera: str | int, inverted: bool = False) -> None:
        """Draw this model, having given it what is fixed once it has been drawn."""
        model.material("grid").texrepeat = 3  # tiles in a metre
        if self.domain == "cheetah":
            model.geom("ground").size = (100, 15, 0.5)  # the camera might look beyond its edge
        for factor in self.vary & TEXTURES.keys():
            kind, name = TEXTURES[factor]
            slot, size = model.texture(name), len(self.pictures[kind][0]())
            largest = math.isqrt(slot.width[0] * slot.height[0])
            if size > largest:
                room = f"the model has room for {largest}x{largest}"
                raise EnvError(f"{kind} are {size}x{size}; {room}")
            slot.width = slot.height = size  # of a cube with one face, all six look like it
        super().attach(model, data, camera, inverted)
        self._mujoco = load("mujoco")
        self._scratch = self._mujoco.MjData(model)

    def begin(self, seed: int) -> None:
        """Start the episode that the seed stands for, in the look that it stands for."""
        self.visual_seed = random.Random(seed).choice(self._seeds)
        self.wear(self.look(self.visual_seed))
        super().begin(seed)

    def look(self, visual_seed: int) -> Look:
        """The look that a visual seed stands for here."""
        return draw(self.domain, visual_seed, *(len(self.pictures[kind]) for kind in KINDS))

    def wear(self, look: Look) -> None:
        """Show the factors that vary as this look has them."""
        model, vary = self.model, self.vary
        if "bg" in vary:
            self._renderer.paint("skybox", self.pictures["skies"][look.sky]())
        if "floor" in vary:
            self._renderer.paint("grid", self.pictures["floors"][look.floor]())
        if "reflectance" in vary:
            model.material("grid").reflectance = look.reflectance
        if "body" in vary:
            model.material("self").rgba = look.body
            model.material("effector").rgba = look.effector
        if "target" in vary:
            model.material("target").rgba = look.target
        if "light" in vary:
            for name, colour in look.headlight.items():
                setattr(model.vis.headlight, name, colour)
            for name, value in look.lamp.items():
                setattr(model.light(0), name, value)
        if "camera" in vary:
            model.camera(0).pos = look.camera
            if look.angles:
                radians = np.radians(look.angles)
                self._mujoco.mju_euler2Quat(model.camera(0).quat, radians, "xyz")
        self._settle()

    def _settle(self) -> None:
        """Let what follows a body's mass follow it from its new place."""
        stat = self.model.stat
        kept = stat.extent, stat.meansize, stat.center.copy()
        self._mujoco.mj_setConst(self.model, self._scratch)
        stat.extent, stat.meansize, stat.center = kept  # of the scene, which decide what is clipped
        self._mujoco.mj_camlight(self.model, self.data)
