"""Stand-in for Something-Something: hands that move everyday things in very many scenes.

Every clip has its own table, wall, light, camera, things and hand. A push to the right is, as a
distribution over clips, the time reversal of a push to the left: where a thing is and how the hand
holds it says nothing about the direction, so that one frame (at a random time) cannot tell the two
apart and two frames can. The hand therefore holds a thing from above instead of from behind. (The
very first frame says a little: a thing begins more often on the side it comes from.)

World axes: x to the right, y away from the camera, z up; metres.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from cwm.videos.encode import VP9, encode
from cwm.videos.synthetic.camera import BONE, NAME, Camera
from envs.textures import colour, tile

VERSION = 1  # a change of what is drawn makes new files
WIDTH, HEIGHT = 128, 96
LABELS = ("pushing-left-to-right", "pushing-right-to-left", "lifting-up", "turning")
SHAPES = ("box", "sphere", "cylinder", "capsule", "ellipsoid")
TILE, PROPS, FINGERS = 64, 3, 5
UP = np.array([0, 0, 1.0])

GEOMS = "".join(f'<geom name="{{0}}-{shape}" type="{shape}" size=".1 .1 .1"/>' for shape in SHAPES)
SHADE = '<geom name="{0}-shade" type="ellipsoid" size=".1 .1 .002" rgba="0 0 0 .35"/>'
THING = (
    f'<body name="{{0}}" mocap="true">{GEOMS}</body>'
    f'<body name="{{0}}-shade" mocap="true">{SHADE}</body>'
)
BONES = "".join(BONE.format(f"bone{i}", "skin") for i in range(2 * FINGERS))
SCENE = f"""<mujoco>
  <visual><map znear=".02"/></visual>
  <statistic extent="2" center="0 0 0"/>
  <asset>
    <texture name="table" type="2d" builtin="flat" width="{TILE}" height="{TILE}"/>
    <texture name="wall" type="2d" builtin="flat" width="{TILE}" height="{TILE}"/>
    <texture name="thing" type="cube" builtin="flat" width="{TILE}" height="{TILE}"/>
    <material name="table" texture="table" texuniform="true" texrepeat="1 1" specular=".1"/>
    <material name="wall" texture="wall" texuniform="true" texrepeat="1 1" specular="0"/>
    <material name="thing" texture="thing" specular=".3"/>
    <material name="skin" specular=".1"/><material name="sleeve" specular="0"/>
  </asset>
  <worldbody>
    <camera name="{NAME}" pos="0 -1 1" euler="9 9 9"/>
    <light name="lamp" pos="0 0 3" dir="0 0 -1" directional="true"/>
    <geom name="table" type="plane" size="4 4 .1" material="table"/>
    <geom name="wall" type="plane" size="4 4 .1" euler="90 0 0" material="wall"/>
    {THING.format("thing")}
    {"".join(THING.format(f"prop{i}") for i in range(PROPS))}
    <body name="hand" mocap="true">
      <geom name="palm" type="ellipsoid" size=".1 .1 .1" pos="1 1 1" material="skin"/>{BONES}
    </body>
    <body name="arm" mocap="true">
      {BONE.format("wrist", "skin")}{BONE.format("sleeve", "sleeve")}
    </body>
  </worldbody>
</mujoco>"""


class Motion(NamedTuple):
    """What happens to the thing in a clip, and when."""

    start: np.ndarray  # (3,) metres
    shift: np.ndarray  # (3,) metres
    turn: float  # radians about the vertical
    grasp: float  # when the hand has arrived and the motion begins, in 0..1 of the clip
    release: float  # when the motion has ended
    leaves: bool  # whether the hand goes away then
    away: np.ndarray  # (3,) from the thing to where the hand comes from


def label(clip: int) -> str:
    """Motion class of a clip; every class has the same share of any number of clips."""
    return LABELS[clip % len(LABELS)]


def place(clip: int) -> str:
    """File of a clip."""
    return f"{label(clip)}/{clip:06d}.webm"


def traits(seed: int, clip: int) -> dict[str, str]:
    """All that one sees is drawn anew for each clip."""
    return dict.fromkeys(("scene", "table", "wall", "thing", "hand"), f"{seed}-{clip}")


write = partial(encode, rate=12, codec=VP9)  # as Something-Something V2 is published


def motion(rng: Generator, name: str, away: np.ndarray) -> Motion:
    """Draw the motion of a class.

    For pushes the middle of the way is drawn, not its start, and waiting times at both ends are
    alike: that makes the two directions each other's reversal in time.
    """
    middle = np.array([rng.uniform(-0.34, 0.34), rng.uniform(-0.1, 0.1), 0.0])
    distance, shift, turn = rng.uniform(0.28, 0.45), np.zeros(3), 0.0
    match name:
        case "pushing-left-to-right":
            shift[0] = distance
        case "pushing-right-to-left":
            shift[0] = -distance
        case "lifting-up":
            shift[2] = 0.65 * distance
        case "turning":
            turn = rng.choice((-1, 1)) * rng.uniform(1.2, 2.6)
    start = middle - shift * [0.5, 0.5, 0]
    grasp, release = rng.uniform(0, 0.25), 1 - rng.uniform(0, 0.25)
    return Motion(start, shift, turn, grasp, release, name != "lifting-up", away)


def pose(plan: Motion, time: float) -> tuple[np.ndarray, float, np.ndarray]:
    """Position of the thing, its turn, and how far the hand is from it, at a time in 0..1."""
    done = _smooth((time - plan.grasp) / (plan.release - plan.grasp))
    absent = 1 - _smooth(time / plan.grasp)
    if plan.leaves:
        absent += _smooth((time - plan.release) / (1 - plan.release))
    return plan.start + done * plan.shift, done * plan.turn, absent * plan.away


def _smooth(x: float) -> float:
    """From 0 to 1, slow at both ends; the same forwards and backwards in time."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


class Studio:
    """One MuJoCo scene whose every look is overwritten for each clip: nothing is recompiled."""

    def __init__(self) -> None:
        self.camera = Camera(SCENE)
        self.model = self.camera.model

    def film(self, seed: int, clip: int) -> Iterator[np.ndarray]:
        """Frames (96, 128, 3) uint8 of one clip of 30 to 42 frames."""
        count, shoot = self.prepare(seed, clip)
        return map(shoot, range(count))

    def prepare(self, seed: int, clip: int) -> tuple[int, Callable[[int], np.ndarray]]:
        """Number of frames of a clip, and what films any of them until the next is prepared."""
        rng = np.random.default_rng([seed, clip])
        target, *view = self._decorate(rng)
        half, yaw = self._thing("thing", rng, rng.uniform(0.13, 0.19)), rng.uniform(0, 2 * np.pi)
        plan = motion(rng, label(clip), self._hand(rng, half))
        count = int(rng.integers(30, 43))
        sway, phase = rng.choice((0, 0, 0.015)), rng.uniform(0, 2 * np.pi, 3)

        def shoot(t: int) -> np.ndarray:
            where, turn, absent = pose(plan, t / (count - 1))
            self._stand("thing", where, half, yaw + turn)
            grip = where + 2 * half[2] * UP + absent
            self.camera.place("hand", grip, turn)
            self.camera.place("arm", grip, 0.0)
            self.camera.aim(target + sway * np.sin(phase + 6 * t / count), *view)
            return self.camera.shoot(HEIGHT, WIDTH)

        return count, shoot

    def _decorate(self, rng: Generator) -> tuple[np.ndarray, float, float, float]:
        """Table, wall, lamp and things that stand about; returns how the camera is aimed."""
        for name in ("table", "wall"):
            self.camera.paint(name, tile(rng, TILE, vivid=0.5))
            self.model.material(name).texrepeat[:] = rng.uniform(0.7, 2.0)
        depth = rng.uniform(0.5, 1.1)
        self.model.geom("wall").pos[:] = [0, depth, 0]
        for i in range(PROPS):
            half = self._thing(f"prop{i}", rng, rng.uniform(0.06, 0.16))
            x, y = rng.uniform(-0.8, 0.8), rng.uniform(0.35, depth - 0.15)
            shown = 0 if rng.random() < 0.5 else -9  # an absent thing is under the table
            self._stand(f"prop{i}", np.array([x, y, shown]), half, rng.uniform(0, 2 * np.pi))
        bright, lamp = rng.uniform(0.45, 0.8), self.model.light("lamp")
        lamp.diffuse[:] = bright * (1 - 0.25 * rng.random(3))
        lamp.dir[:] = [rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.8), -1]
        self.model.vis.headlight.ambient[:] = rng.uniform(0.25, 0.45)
        self.model.vis.headlight.diffuse[:] = rng.uniform(0.1, 0.35)
        target = np.array([rng.uniform(-0.08, 0.08), rng.uniform(-0.05, 0.1), 0.2])
        azimuth, elevation = rng.uniform(-0.25, 0.25), rng.uniform(0.35, 0.75)
        return target, rng.uniform(1.05, 1.35), azimuth, elevation

    def _stand(self, name: str, foot: np.ndarray, half: np.ndarray, yaw: float) -> None:
        """Stand a thing at a place, its shade on the table below it."""
        self.camera.place(name, foot + half[2] * UP, yaw)
        self.model.geom(f"{name}-shade").size[:2] = 1.12 * half[:2]
        self.camera.place(f"{name}-shade", np.array([*foot[:2], min(foot[2], 0.003)]), yaw)

    def _thing(self, name: str, rng: Generator, radius: float) -> np.ndarray:
        """Give a thing a shape, sizes and a look; returns half its extent (3,), standing."""
        shape = rng.choice(SHAPES)
        half = radius * np.array([1, rng.uniform(0.55, 1), rng.uniform(0.6, 1)])
        if shape in ("cylinder", "capsule", "sphere"):
            half[1] = half[0]
        if shape == "sphere":
            half[2] = half[0]
        material, painted = self.model.material("thing").id, name == "thing" and rng.random() < 0.6
        if painted:
            self.camera.paint("thing", np.tile(tile(rng, TILE), (6, 1, 1)))
        look = colour(rng)
        for other in SHAPES:
            geom = self.model.geom(f"{name}-{other}")
            geom.matid[:] = material if painted else -1
            geom.rgba[:] = [*(np.ones(3) if painted else look), float(other == shape)]
        geom = self.model.geom(f"{name}-{shape}")
        geom.size[:] = half
        if shape == "cylinder":
            geom.size[:2] = half[0], half[2]
        if shape == "capsule":
            half[2] = max(half[2], 1.3 * half[0])
            geom.size[:2] = half[0], half[2] - half[0]
        return half

    def _hand(self, rng: Generator, half: np.ndarray) -> np.ndarray:
        """Shape a hand that holds the thing from above; returns the way by which it comes, (3,).

        The arm comes from either side of the viewer, whatever the motion will be.
        """
        side = np.deg2rad(-90 + rng.choice((-1, 1)) * rng.uniform(20, 80))
        rise = np.deg2rad(rng.uniform(30, 60))
        along = np.array([np.cos(rise) * np.cos(side), np.cos(rise) * np.sin(side), np.sin(rise)])
        self.model.material("skin").rgba[:3] = rng.uniform(0.3, 1) * np.array([1, 0.78, 0.65])
        self.model.material("sleeve").rgba[:3] = colour(rng, vivid=0.5)
        thick, knuckle = rng.uniform(0.022, 0.03), np.array([0, 0, 0.05])
        self.model.geom("palm").pos[:] = knuckle
        self.model.geom("palm").size[:] = [0.085, 0.085, 0.045]
        reach = max(half[:2]) + thick / 2
        spread = np.deg2rad([0, 130, 160, 190, 220])  # the thumb, then the fingers
        for i, angle in enumerate(side + spread):
            out = np.array([np.cos(angle), np.sin(angle), 0])
            bend, tip = reach * out + thick * UP, reach * out - 0.7 * half[2] * UP
            self.camera.lay(f"bone{2 * i}", knuckle + 0.05 * out, bend, thick)
            self.camera.lay(f"bone{2 * i + 1}", bend, tip, thick)
        cuff = rng.uniform(0.15, 0.5)
        self.camera.lay("wrist", knuckle, knuckle + cuff * along, 0.04)
        self.camera.lay("sleeve", knuckle + cuff * along, knuckle + 1.3 * along, 0.055)
        return 0.8 * along
