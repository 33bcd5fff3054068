"""Synthetic Human3.6M, as the images of Pavlakos et al. (2017) that the official code reads.

Seven people perform 15 actions in one room before four fixed cameras, at 10 frames per second. A
frame is square; an annotation gives the positions of 32 joints in it, in thousandths of its side.
Each person performs an action once for all four cameras, then once more.

World axes: z up, the room about the origin. Body axes: x to the person's right, y forward, z up.
Metres, radians, seconds.
"""

import shutil
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numpy.random import Generator
from PIL import Image

from cwm.infra.files import TEMPORARY, atomic_write
from cwm.videos.synthetic import nth_label
from cwm.videos.synthetic.scene import CAMERA_MJCF, CAPSULE, Scene
from envs.textures import colour

VERSION = 1
SIDE, UNITS = 160, 1000  # side of a frame in pixels and in the units of the annotation
RATE, STEP = 10, 5  # frames per second; difference of the numbers in successive file names
SUBJECTS = ("S1", "S5", "S6", "S7", "S8", "S9", "S11")
CAMERAS = ("54138969", "55011271", "58860488", "60457274")
CORNERS = 3.4 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])  # positions of the cameras


class Action(NamedTuple):
    """Motion of a person; an arm has four angles: raised forward, spread, bent, swing."""

    right: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.05)
    left: tuple[float, float, float, float] = (0.1, 0.1, 0.2, 0.05)
    lean: tuple[float, float] = (0.05, 0.03)  # forward, and its swing
    seat: tuple[float, float] = (0, 0)  # 0 stands, 1 sits; and its swing
    walks: bool = False


SEATED = (1.0, 0.0)
ACTIONS = {
    "Directions": Action(right=(1.3, 0.3, 0.2, 0.35)),
    "Discussion": Action(right=(0.4, 0.3, 1.3, 0.5), left=(0.4, 0.3, 1.3, 0.4)),
    "Eating": Action(right=(0.6, 0.3, 1.5, 0.6), left=(0.4, 0.2, 1.1, 0.05), seat=SEATED),
    "Greeting": Action(right=(2.5, 0.4, 0.5, 0.5)),
    "Phoning": Action(right=(0.9, 0.3, 2.1, 0.1), walks=True),
    "Photo": Action(right=(1.1, 0.2, 1.1, 0.15), left=(1.1, 0.2, 1.1, 0.15), lean=(0.1, 0.15)),
    "Posing": Action(right=(-0.3, 0.8, 1.2, 0.1), left=(-0.3, 0.8, 1.2, 0.1), lean=(0, 0.1)),
    "Purchases": Action(right=(0.9, 0.1, 0.5, 0.4), left=(0.7, 0.1, 0.7, 0.3), lean=(0.6, 0.5)),
    "Sitting": Action(right=(0.5, 0.2, 0.9, 0.2), left=(0.5, 0.2, 0.9, 0.1), seat=SEATED),
    "SittingDown": Action(right=(0.5, 0.2, 0.5, 0.3), lean=(0.35, 0.2), seat=(0.5, 0.5)),
    "Smoking": Action(right=(0.6, 0.4, 1.7, 0.4), lean=(-0.1, 0.05), seat=SEATED),
    "Waiting": Action(right=(0.4, 0.2, 1.8, 0.1), left=(0.5, 0.2, 1.7, 0.1)),
    "WalkDog": Action(right=(0.7, 0.1, 0.5, 0.2), left=(0, 0.1, 0.2, 0.4), walks=True),
    "WalkTogether": Action(right=(0, 0.5, 0.5, 0.3), left=(0, 0.1, 0.2, 0.5), walks=True),
    "Walking": Action(right=(0, 0.1, 0.3, 0.5), left=(0, 0.1, 0.3, 0.5), walks=True),
}

# Capsules: two joints, radius, material. Points 32 and 33 are the ends of the hair.
LIMBS = (
    *((1, 6, 0.1, "trousers"), (0, 12, 0.13, "shirt"), (12, 13, 0.13, "shirt")),
    *((1, 2, 0.08, "trousers"), (2, 3, 0.055, "trousers"), (3, 5, 0.045, "shoe")),
    *((6, 7, 0.08, "trousers"), (7, 8, 0.055, "trousers"), (8, 10, 0.045, "shoe")),
    *((17, 25, 0.075, "shirt"), (13, 14, 0.05, "skin"), (14, 15, 0.08, "skin")),
    *((17, 18, 0.05, "shirt"), (18, 19, 0.037, "skin"), (19, 23, 0.04, "skin")),
    *((25, 26, 0.05, "shirt"), (26, 27, 0.037, "skin"), (27, 31, 0.04, "skin")),
    (32, 33, 0.08, "hair"),
)
MATERIALS = ("trousers", "shirt", "shoe", "skin", "hair")
STAND = '<geom type="cylinder" size=".05 .5" pos="{} {} .5" rgba=".1 .1 .1 1"/>'
LEG = '<geom type="box" size=".02 .02 .2" pos="{} {} .2" rgba=".2 .2 .2 1"/>'
MJCF = f"""<mujoco>
  <visual><map znear=".02"/><headlight ambient=".5 .5 .5" diffuse=".35 .35 .35"/></visual>
  <statistic extent="8" center="0 0 1"/>
  <asset>
    <texture name="floor" type="2d" builtin="checker" width="64" height="64"
      rgb1=".55 .40 .30" rgb2=".48 .34 .27"/>
    <texture name="wall" type="2d" builtin="gradient" width="64" height="64"
      rgb1=".80 .80 .76" rgb2=".62 .62 .60"/>
    <material name="floor" texture="floor" texuniform="true" texrepeat="1 1" specular="0"/>
    <material name="wall" texture="wall" specular="0"/>
    {"".join(f'<material name="{name}" specular=".1"/>' for name in MATERIALS)}
  </asset>
  <worldbody>
    {CAMERA_MJCF}
    <light pos="0 0 4" dir=".3 .2 -1" directional="true" diffuse=".5 .5 .5"/>
    <geom type="plane" size="4 4 .1" material="floor"/>
    <geom type="box" size="4 .1 2.5" pos="0 4 2.5" material="wall"/>
    <geom type="box" size="4 .1 2.5" pos="0 -4 2.5" rgba=".30 .33 .38 1"/>
    <geom type="box" size=".1 4 2.5" pos="4 0 2.5" rgba=".70 .68 .60 1"/>
    <geom type="box" size=".1 4 2.5" pos="-4 0 2.5" rgba=".50 .55 .60 1"/>
    <geom type="box" size=".5 .02 .9" pos="-1.5 3.88 .9" rgba=".45 .30 .20 1"/>
    <geom type="box" size=".02 1 .5" pos="3.88 .5 1.6" rgba=".15 .25 .20 1"/>
    <geom type="box" size="1 .3 .35" pos="1.5 -3.5 .35" rgba=".60 .50 .35 1"/>
    {"".join(STAND.format(x, y) for x, y in CORNERS)}
    {"".join(CAPSULE.format(f"limb{i}", name) for i, (*_, name) in enumerate(LIMBS))}
    <body name="shadow" mocap="true">
      <geom type="ellipsoid" size=".33 .3 .003" rgba="0 0 0 .35"/>
    </body>
    <body name="chair" mocap="true">
      <geom type="box" size=".21 .21 .02" pos="0 0 .4" rgba=".75 .62 .40 1"/>
      <geom type="box" size=".21 .02 .2" pos="0 -.21 .68" rgba=".75 .62 .40 1"/>
      {"".join(LEG.format(x, y) for x in (-0.18, 0.18) for y in (-0.18, 0.18))}
    </body>
  </worldbody>
</mujoco>"""


label = partial(nth_label, list(ACTIONS))


def file_name(clip: int) -> str:
    """Path of the folder with a clip's frames, whose names end in 000001, 000006, ..."""
    (_, take), (subject, action, camera, _) = _performance(clip), traits(0, clip).values()
    return f"{action}/{subject}_{action}{f'_{take}' if take else ''}.{camera}"


def traits(seed: int, clip: int) -> dict[str, str]:
    """Person, action and camera; the room never changes."""
    subject, camera = nth_label(SUBJECTS, clip), nth_label(CAMERAS, clip)
    return {"subject": subject, "action": label(clip), "camera": camera, "room": "laboratory"}


def _performance(clip: int) -> tuple[int, int]:
    """Number of the performance, the same for all cameras, and how often it was done before.

    The numbers of people, actions and cameras have no common factor, so all combinations occur.
    """
    kinds = len(SUBJECTS) * len(ACTIONS)
    return clip % kinds, clip // (kinds * len(CAMERAS))


def write(path: Path, frames: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
    """Write frames (H, W, 3) uint8 as .jpg files, and joints (32, 2) as an annotation.

    The folder `path` appears atomically, after the annotation: `part` (N, 32, 2) in a .h5 file and
    the names of the frames in a text file, both in the folder `annot` beside those of the actions.
    """
    temporary, annot = path.with_name(TEMPORARY + path.name), path.parents[1] / "annot"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    annot.mkdir(exist_ok=True)
    names, joints = [], []
    for i, (frame, points) in enumerate(frames):
        names.append(f"{path.name}_{1 + STEP * i:06d}.jpg")
        joints.append(points)
        Image.fromarray(frame).save(temporary / names[-1], quality=90)
    with atomic_write(annot / f"{path.name}.h5") as part, h5py.File(part, "w") as file:
        file["part"] = np.stack(joints)
    (annot / f"{path.name}_images.txt").write_text("".join(f"{name}\n" for name in names))
    temporary.rename(path)


_laboratory = cache(partial(Scene, MJCF))  # with one figure, which all people share


def render(seed: int, clip: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames (160, 160, 3) uint8 with joints (32, 2) of a clip of 30 to 42 frames."""
    scene, action = _laboratory(), ACTIONS[label(clip)]
    rng = np.random.default_rng(clip % len(SUBJECTS))
    paints = {
        "trousers": 0.6 * colour(rng, vivid=0.5),
        "shirt": colour(rng),
        "shoe": rng.uniform(0.1, 0.9) * np.ones(3),
        "skin": rng.uniform(0.45, 1) * np.array([1, 0.78, 0.65]),
        "hair": rng.uniform(0.1, 0.6) * np.array([1, 0.8, 0.6]),
    }
    for name, paint in paints.items():
        scene.model.material(name).rgba[:3] = paint
    height, girth = rng.uniform(1.6, 1.88), rng.uniform(0.85, 1.25)  # girth of the limbs

    rng = np.random.default_rng([seed, *_performance(clip)])
    performance = perform(rng, action, height, int(rng.integers(30, 43)))
    x, y = CORNERS[clip % len(CAMERAS)]
    scene.aim(np.array([0, 0, 0.95]), np.hypot(x, y), np.arctan2(-x, -y), 0.12)

    joints = performance[0]  # the chair is behind the feet, or below the floor
    across, feet = joints[1] - joints[6], (joints[3] + joints[8]) / 2
    yaw, floor = np.arctan2(across[1], across[0]), 0 if action.seat != (0, 0) else -9
    back = 0.23 * height * np.array([np.sin(yaw), -np.cos(yaw), 0])
    scene.move("chair", np.array([*(feet + back)[:2], floor]), yaw)

    for joints in performance:
        face = np.cross([0, 0, 1.0], joints[1] - joints[6])
        hair = joints[14:16] - 0.035 * face / np.linalg.norm(face) + [0, 0, 0.02]
        points = np.concatenate([joints, hair])
        for i, (a, b, radius, _) in enumerate(LIMBS):
            scene.stretch(f"limb{i}", points[a], points[b], radius * girth)
        scene.move("shadow", np.array([*joints[0, :2], 0.002]), 0.0)
        yield scene.frame(SIDE, SIDE), scene.project(joints, UNITS)


def perform(rng: Generator, action: Action, height: float, count: int) -> np.ndarray:
    """Draw a performance of an action: joints (count, 32, 3) in the room."""
    pace, phase = rng.uniform(0.4, 0.8), rng.uniform(0, 2 * np.pi)
    arms = np.array([action.right, action.left]) + rng.normal(0, 0.08, (2, 4))
    radius, side = rng.uniform(0.5, 0.95), rng.choice((-1, 1))
    start, speed = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.9, 1.3) / radius
    heading, turn = rng.uniform(0, 2 * np.pi), rng.uniform(0.1, 0.6)
    joints = np.empty((count, 32, 3))
    for i in range(count):
        seconds = i / RATE
        if action.walks:
            pace, angle = 0.9, start + speed * seconds
            yaw = angle + (0 if side > 0 else np.pi)  # tangent to the circle
        else:
            angle = start
            yaw = heading + turn * np.sin(0.5 * pace * seconds * 2 * np.pi) * (1 - action.seat[0])
        wave = np.sin(2 * np.pi * pace * seconds + phase + np.array([0, np.pi, np.pi / 2]))
        local = skeleton(action, arms, wave, height)
        cos, sin = np.cos(yaw), np.sin(yaw)
        local[:, :2] = local[:, :2] @ np.array([[cos, sin], [-sin, cos]])
        joints[i] = local + radius * np.array([np.cos(angle), np.sin(angle), 0])
    return joints


def skeleton(action: Action, arms: np.ndarray, wave: np.ndarray, height: float) -> np.ndarray:
    """Joints (32, 3) in Human3.6M's order of a person whose feet are at the origin.

    arms: (2, 4) as in Action, right then left. wave: (3,) in -1..1, the phase of the right side, of
    the left side, and a quarter period ahead of the right side.
    """
    joints, stride = np.zeros((32, 3)), 0.45 * action.walks
    lean = action.lean[0] + action.lean[1] * wave[0]
    seat = action.seat[0] + action.seat[1] * wave[2]
    up, ahead = np.array([0, np.sin(lean), np.cos(lean)]), np.array([0, 1.0, 0])
    joints[12:16] = np.outer([0.13, 0.28, 0.37, 0.42], up)
    for i, side in enumerate((1, -1)):
        hip, hand = (1, 25) if side > 0 else (6, 17)
        thigh = -stride * wave[i] + 1.45 * seat  # swings against the arm
        knee = 0.1 + 1.35 * seat + stride * max(0.0, side * -wave[2])
        joints[hip] = [side * 0.055, 0, 0]
        joints[hip + 1] = joints[hip] + 0.245 * _hanging(thigh, side * 0.06)
        joints[hip + 2] = joints[hip + 1] + 0.245 * _hanging(thigh - knee, side * 0.03)
        joints[hip + 3] = joints[hip + 2] + 0.08 * ahead - [0, 0, 0.015]
        joints[hip + 4] = joints[hip + 3] + 0.03 * ahead
        raised, spread, bend, swing = arms[i]
        raised, bend = raised + swing * wave[i], bend + 0.8 * swing * wave[i]
        joints[hand - 1] = joints[13]
        joints[hand] = joints[13] + [side * 0.1, 0, -0.01]
        joints[hand + 1] = joints[hand] + 0.165 * _hanging(raised, side * spread)
        along = _hanging(raised + bend, side * (spread - 0.35 * bend))
        wrist = joints[hand + 1] + 0.14 * along
        joints[hand + 2 : hand + 6] = wrist
        joints[hand + 4] += 0.03 * ahead
        joints[hand + 6] = joints[hand + 5] = wrist + 0.06 * along
    joints *= height
    feet = (joints[3] + joints[8]) / 2
    lowest = joints[[3, 4, 8, 9], 2].min() - 0.04
    return joints - [feet[0], feet[1], lowest]


def _hanging(forward: float, aside: float) -> np.ndarray:
    """Unit vector of a limb that hangs down and is raised forward and to the right by angles."""
    down = np.cos(forward)
    return np.array([np.sin(aside) * abs(down), np.sin(forward), -np.cos(aside) * down])
