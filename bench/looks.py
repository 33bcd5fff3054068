"""What a new look costs, in place and by compiling the model in it: python bench/looks.py [FOLDER]

FOLDER holds the original `skies/` and `floors/`; without it, pictures are procedural.
Milliseconds until a look can be drawn, medians of a few. In place, that includes painting or
decoding the pictures; the compiled model decodes them. Tests hold looks against `recompiled`.
"""

import io
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.record import Record
from envs.dmcr import TEXTURES, Remastered
from envs.looks import DOMAINS, Look
from envs.rendering import QUALITIES, Renderer, load

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
    """The pixels (H, W, 3 or 4) as a file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", compress_level=1, pnginfo=info)
    return file.getvalue()


def files(env: Remastered, look: Look) -> dict[str, bytes]:
    """The look's pictures, by the names of the textures that they replace."""
    numbers = {"skies": look.sky, "floors": look.floor}
    chosen = [TEXTURES[factor] for factor in TEXTURES if factor in env.vary]
    return {f"{name}.png": png(env.pictures[kind][numbers[kind]]()) for kind, name in chosen}


def recompiled(env: Remastered, look: Look, pictures: dict[str, bytes]) -> Any:
    """The model compiled anew from the suite's XML, edited to have this look."""
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
        spec.material("grid").reflectance = look.reflectance
    for factor, names in {"body": ("self", "effector"), "target": ("target",)}.items():
        for name in names if factor in vary else ():
            spec.material(name).rgba = look.body if name == "self" else getattr(look, name)
    if "light" in vary:
        for name, colour in look.headlight.items():
            setattr(spec.visual.headlight, name, colour)
        for name, value in look.lamp.items():
            setattr(spec.lights[0], name, value)
    if "camera" in vary:
        spec.cameras[0].pos = look.camera
        if look.angles:
            spec.cameras[0].alt.type = mujoco.mjtOrientation.mjORIENTATION_EULER
            spec.cameras[0].alt.euler = look.angles
    return spec.compile()


def milliseconds(
    task: str, render: str, textures: str | None, looks: int = 4
) -> tuple[float, float]:
    """Of a new look in place, and of compiling and uploading a model that has it."""
    env = Remastered(task, textures=textures, render=render)
    place, compiled = [], []
    for seed in range(looks + 1):  # one to warm up
        look = env.look(seed + 1)
        pictures = files(env, look)
        start = time.perf_counter()
        env.wear(look)
        middle = time.perf_counter()
        model = recompiled(env, look, pictures)
        renderer = Renderer(model, 0, render)
        end = time.perf_counter()
        renderer.close()
        place.append(middle - start)
        compiled.append(end - middle)
    env.close()
    return 1e3 * median(place[1:]), 1e3 * median(compiled[1:])


def main() -> None:
    record = Record("looks", pictures=sys.argv[1] if len(sys.argv) > 1 else None)
    print(f"{'task':20}{'render':>10}{'in place':>12}{'compiled':>12}{'ratio':>9}   ms")
    for domain in DOMAINS:
        for render in QUALITIES:
            place, compiled = milliseconds(TASKS[domain], render, *(sys.argv[1:2] or [None]))
            record.add(f"{TASKS[domain]}/{render}/in place", place, "ms")
            record.add(f"{TASKS[domain]}/{render}/compiled", compiled, "ms")
            row = f"{place:12.1f}{compiled:12.1f}{place / compiled:9.1%}"
            print(f"{TASKS[domain]:20}{render:>10}{row}")
    record.save()


if __name__ == "__main__":
    main()
