"""Oracle for DMC Remastered: a model compiled from edited XML instead of edited in place."""

import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from envs.dmc_remastered import TEXTURES, Remastered
from envs.rendering import load
from envs.visual_factors import VisualFactors

TASKS = {
    "ball_in_cup": "ball-in-cup-catch",
    "cartpole": "cartpole-swingup",
    "cheetah": "cheetah-run",
    "finger": "finger-spin",
    "fish": "fish-swim",
    "hopper": "hopper-stand",
    "humanoid": "humanoid-stand",
    "pendulum": "pendulum-swingup",
    "reacher": "reacher-easy",
    "walker": "walker-run",
}


def png(pixels: np.ndarray, info: PngInfo | None = None) -> bytes:
    """Encode pixels (H, W, 3 or 4) as PNG."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1, pnginfo=info)
    return file.getvalue()


def files(env: Remastered, factors: VisualFactors) -> dict[str, bytes]:
    """PNG pictures for the factors, keyed by the file name of the texture that they replace."""
    numbers = {"skies": factors.sky, "floors": factors.floor}
    chosen = [TEXTURES[factor] for factor in TEXTURES if factor in env.vary]
    return {f"{name}.png": png(env.pictures[kind][numbers[kind]]()) for kind, name in chosen}


def recompiled(env: Remastered, factors: VisualFactors, pictures: dict[str, bytes]) -> Any:
    """The model compiled from the suite's XML after editing these factors into it."""
    mujoco, vary = load("mujoco"), env.vary
    suite = Path(find_spec("dm_control").origin).with_name("suite")
    spec = mujoco.MjSpec.from_file(str(suite / f"{env.domain}.xml"))
    spec.assets = pictures
    for name in pictures:
        texture = spec.texture(Path(name).stem)
        texture.builtin, texture.file = mujoco.mjtBuiltin.mjBUILTIN_NONE, name
    spec.material("grid").texrepeat = (3, 3)
    if env.domain == "cheetah":
        spec.geom("ground").size = (100, 15, 0.5)
    if "reflectance" in vary:
        spec.material("grid").reflectance = factors.reflectance
    for factor, names in {"body": ("self", "effector"), "target": ("target",)}.items():
        for name in names if factor in vary else ():
            spec.material(name).rgba = factors.body if name == "self" else getattr(factors, name)
    if "light" in vary:
        for name, colour in factors.headlight.items():
            setattr(spec.visual.headlight, name, colour)
        for name, value in factors.lamp.items():
            setattr(spec.lights[0], name, value)
    if "camera" in vary:
        spec.cameras[0].pos = factors.camera
        if factors.angles:
            spec.cameras[0].alt.type = mujoco.mjtOrientation.mjORIENTATION_EULER
            spec.cameras[0].alt.euler = factors.angles
    return spec.compile()
