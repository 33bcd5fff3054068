"""Synthetic Something-Something: hands move everyday objects in many different scenes.

Every clip has its own table, wall, light, camera, objects and hand. Over all clips, pushes to the
right are pushes to the left played backwards: the start position of the object and the grip of the
hand say nothing about the direction. A linear probe can therefore not tell the two apart from one
frame at a random time, but can from two frames. The hand holds the object from above for this
reason, not from behind. (Only the first frame gives a hint: an object starts more often on the side
it comes from.)

World axes: x to the right, y away from the camera, z up; metres.
"""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from cwm.videos.encode import VP9, encode
from cwm.videos.synthetic import nth_file, nth_label
from cwm.videos.synthetic.scene import CAMERA_MJCF, CAPSULE, Scene
from envs.textures import colour, tile

VERSION = 1
WIDTH, HEIGHT = 128, 96
LABELS = ("pushing-left-to-right", "pushing-right-to-left", "lifting-up", "turning")
SHAPES = ("box", "sphere", "cylinder", "capsule", "ellipsoid")
TILE = 64  # pixels of a texture's side
PROPS, FINGERS = 3, 5
UP = np.array([0, 0, 1.0])

OBJECT = """
    <body name="{0}" mocap="true"><geom name="{0}" size=".1 .1 .1"/></body>
    <body name="{0}-shadow" mocap="true">
      <geom name="{0}-shadow" type="ellipsoid" size=".1 .1 .002" rgba="0 0 0 .35"/>
    </body>"""
BONES = "".join(CAPSULE.format(f"bone{i}", "skin") for i in range(2 * FINGERS))
MJCF = f"""<mujoco>
  <visual><map znear=".02"/></visual>
  <statistic extent="2" center="0 0 0"/>
  <asset>
    <texture name="table" type="2d" builtin="flat" width="{TILE}" height="{TILE}"/>
    <texture name="wall" type="2d" builtin="flat" width="{TILE}" height="{TILE}"/>
    <texture name="object" type="cube" builtin="flat" width="{TILE}" height="{TILE}"/>
    <material name="table" texture="table" texuniform="true" texrepeat="1 1" specular=".1"/>
    <material name="wall" texture="wall" texuniform="true" texrepeat="1 1" specular="0"/>
    <material name="object" texture="object" specular=".3"/>
    <material name="skin" specular=".1"/><material name="sleeve" specular="0"/>
  </asset>
  <worldbody>
    {CAMERA_MJCF}
    <light name="lamp" pos="0 0 3" dir="0 0 -1" directional="true"/>
    <geom name="table" type="plane" size="4 4 .1" material="table"/>
    <geom name="wall" type="plane" size="4 4 .1" euler="90 0 0" material="wall"/>
    {OBJECT.format("object")}
    {"".join(OBJECT.format(f"prop{i}") for i in range(PROPS))}
    <body name="hand" mocap="true">
      <geom name="palm" type="ellipsoid" size=".1 .1 .1" pos="1 1 1" material="skin"/>{BONES}
    </body>
    <body name="arm" mocap="true">
      {CAPSULE.format("wrist", "skin")}{CAPSULE.format("sleeve", "sleeve")}
    </body>
  </worldbody>
</mujoco>"""


label = partial(nth_label, LABELS)
file_name = partial(nth_file, LABELS, ".webm")
write = partial(encode, rate=12, codec=VP9)  # as Something-Something V2 is published


def traits(seed: int, clip: int) -> dict[str, str]:
    """Nothing recurs: every clip has a scene, table, wall, object and hand of its own."""
    return dict.fromkeys(("scene", "table", "wall", "thing", "hand"), f"{seed}-{clip}")


class Motion(NamedTuple):
    """Motion of the object and of the hand; times are fractions of the clip."""

    start: np.ndarray  # (3,) metres
    shift: np.ndarray  # (3,) metres
    turn: float  # radians about the vertical
    grasp: float  # time when the hand has arrived and the motion begins
    release: float  # time when the motion ends
    withdraws: bool  # whether the hand goes away after the release
    away: np.ndarray  # (3,) from the object to where the hand comes from

    @classmethod
    def draw(cls, rng: Generator, name: str, away: np.ndarray) -> "Motion":
        """Draw a motion of a class.

        The middle of a push is drawn, not its start, and the waiting times at both ends have the
        same distribution: this makes the two directions each other's reversal in time.
        """
        middle = np.array([rng.uniform(-0.34, 0.34), rng.uniform(-0.1, 0.1), 0.0])
        way = {
            "pushing-left-to-right": [1.0, 0, 0],
            "pushing-right-to-left": [-1.0, 0, 0],
            "lifting-up": [0, 0, 0.65],
        }
        shift = rng.uniform(0.28, 0.45) * np.array(way.get(name, [0.0, 0, 0]))
        turn = rng.choice((-1, 1)) * rng.uniform(1.2, 2.6) if name == "turning" else 0.0
        start = middle - shift * [0.5, 0.5, 0]
        grasp, release = rng.uniform(0, 0.25), 1 - rng.uniform(0, 0.25)
        return cls(start, shift, turn, grasp, release, name != "lifting-up", away)

    def at(self, time: float) -> tuple[np.ndarray, float, np.ndarray]:
        """Position (3,) and turn of the object, and the hand's offset (3,), at a time in 0..1."""
        done = _smoothstep((time - self.grasp) / (self.release - self.grasp))
        absent = 1 - _smoothstep(time / self.grasp)
        if self.withdraws:
            absent += _smoothstep((time - self.release) / (1 - self.release))
        return self.start + done * self.shift, done * self.turn, absent * self.away


def _smoothstep(x: float) -> float:
    """From 0 to 1, slow at both ends, and its own reversal in time."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3 - 2 * x)


class Tabletop(Scene):
    """One compiled scene; each clip overwrites all shapes, sizes, colours and textures."""

    def prepare(
        self, seed: int, clip: int, look: int | None = None
    ) -> tuple[int, Callable[[int], np.ndarray]]:
        """Number of frames of a clip, and its function t -> frame, valid until the next call.

        With `look`, table, wall, props, light and all colours are those of that look, while camera,
        hand and object move as without it.
        """
        rng = np.random.default_rng([seed, clip])
        self._decorate(rng)
        target, *view = _view(rng)
        half, yaw = self._shape("object", rng, rng.uniform(0.13, 0.19)), rng.uniform(0, 2 * np.pi)
        motion = Motion.draw(rng, label(clip), self._shape_hand(rng, half))
        count = int(rng.integers(30, 43))
        sway, phase = rng.choice((0, 0, 0.015)), rng.uniform(0, 2 * np.pi, 3)
        if look is not None:
            rng = np.random.default_rng([seed, look, 1])
            self._decorate(rng)
            self._colour_object("object", rng)
            self._colour_hand(rng)

        def frame(t: int) -> np.ndarray:
            foot, turn, offset = motion.at(t / (count - 1))
            self._stand("object", foot, half, yaw + turn)
            grip = foot + 2 * half[2] * UP + offset
            self.move("hand", grip, turn)
            self.move("arm", grip, 0.0)
            self.aim(target + sway * np.sin(phase + 6 * t / count), *view)
            return self.frame(HEIGHT, WIDTH)

        return count, frame

    def _decorate(self, rng: Generator) -> None:
        """Draw table, wall, light and props."""
        for name in ("table", "wall"):
            self.paint(name, tile(rng, TILE, vivid=0.5))
            self.model.material(name).texrepeat[:] = rng.uniform(0.7, 2.0)
        depth = rng.uniform(0.5, 1.1)
        self.model.geom("wall").pos[:] = [0, depth, 0]
        for i in range(PROPS):
            half = self._shape(f"prop{i}", rng, rng.uniform(0.06, 0.16))
            x, y = rng.uniform(-0.8, 0.8), rng.uniform(0.35, depth - 0.15)
            height = 0 if rng.random() < 0.5 else -9  # half of the props are hidden
            self._stand(f"prop{i}", np.array([x, y, height]), half, rng.uniform(0, 2 * np.pi))
        bright, lamp = rng.uniform(0.45, 0.8), self.model.light("lamp")
        lamp.diffuse[:] = bright * (1 - 0.25 * rng.random(3))
        lamp.dir[:] = [rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.8), -1]
        self.model.vis.headlight.ambient[:] = rng.uniform(0.25, 0.45)
        self.model.vis.headlight.diffuse[:] = rng.uniform(0.1, 0.35)

    def _stand(self, name: str, foot: np.ndarray, half: np.ndarray, yaw: float) -> None:
        """Stand an object of half extents (3,) at a point (3,), with its shadow on the table."""
        self.move(name, foot + half[2] * UP, yaw)
        self.model.geom(f"{name}-shadow").size[:2] = 1.12 * half[:2]
        self.move(f"{name}-shadow", np.array([*foot[:2], min(foot[2], 0.003)]), yaw)

    def _shape(self, name: str, rng: Generator, radius: float) -> np.ndarray:
        """Draw shape, size and colour or texture of an object; returns its half extents (3,)."""
        shape = rng.choice(SHAPES)
        half = radius * np.array([1, rng.uniform(0.55, 1), rng.uniform(0.6, 1)])
        if shape in ("cylinder", "capsule", "sphere"):
            half[1] = half[0]
        if shape == "sphere":
            half[2] = half[0]
        if shape == "capsule":
            half[2] = max(half[2], 1.3 * half[0])
        geom = self.model.geom(name)
        geom.type[:] = getattr(self._mujoco.mjtGeom, f"mjGEOM_{shape.upper()}")
        geom.size[:] = half
        if shape in ("cylinder", "capsule"):  # MuJoCo's order; caps are not part of the length
            geom.size[1] = half[2] - half[0] * (shape == "capsule")
        self._colour_object(name, rng)
        return half

    def _colour_object(self, name: str, rng: Generator) -> None:
        """Draw a colour, or for the object that moves often a texture."""
        material, textured = -1, name == "object" and rng.random() < 0.6
        if textured:
            self.paint("object", np.tile(tile(rng, TILE), (6, 1, 1)))
            material = self.model.material("object").id
        paint = colour(rng)
        self.model.geom(name).matid[:] = material
        self.model.geom(name).rgba[:3] = 1 if textured else paint

    def _shape_hand(self, rng: Generator, half: np.ndarray) -> np.ndarray:
        """Shape a hand that holds the object from above, and draw the side it comes from.

        Returns where it comes from, (3,); it does not depend on the motion.
        """
        side = np.deg2rad(-90 + rng.choice((-1, 1)) * rng.uniform(20, 80))
        rise = np.deg2rad(rng.uniform(30, 60))
        along = np.array([np.cos(rise) * np.cos(side), np.cos(rise) * np.sin(side), np.sin(rise)])
        self._colour_hand(rng)
        thick, knuckle = rng.uniform(0.022, 0.03), np.array([0, 0, 0.05])
        self.model.geom("palm").pos[:] = knuckle
        self.model.geom("palm").size[:] = [0.085, 0.085, 0.045]
        reach = max(half[:2]) + thick / 2
        spread = np.deg2rad([0, 130, 160, 190, 220])  # the thumb, then the fingers
        for i, angle in enumerate(side + spread):
            out = np.array([np.cos(angle), np.sin(angle), 0])
            bend, tip = reach * out + thick * UP, reach * out - 0.7 * half[2] * UP
            self.stretch(f"bone{2 * i}", knuckle + 0.05 * out, bend, thick)
            self.stretch(f"bone{2 * i + 1}", bend, tip, thick)
        cuff = rng.uniform(0.15, 0.5)
        self.stretch("wrist", knuckle, knuckle + cuff * along, 0.04)
        self.stretch("sleeve", knuckle + cuff * along, knuckle + 1.3 * along, 0.055)
        return 0.8 * along

    def _colour_hand(self, rng: Generator) -> None:
        """Draw the colours of skin and sleeve."""
        self.model.material("skin").rgba[:3] = rng.uniform(0.3, 1) * np.array([1, 0.78, 0.65])
        self.model.material("sleeve").rgba[:3] = colour(rng, vivid=0.5)


def _view(rng: Generator) -> tuple[np.ndarray, float, float, float]:
    """Draw the camera: the arguments of `aim`."""
    target = np.array([rng.uniform(-0.08, 0.08), rng.uniform(-0.05, 0.1), 0.2])
    azimuth, elevation = rng.uniform(-0.25, 0.25), rng.uniform(0.35, 0.75)
    return target, rng.uniform(1.05, 1.35), azimuth, elevation


_tabletop = cache(partial(Tabletop, MJCF))


def render(seed: int, clip: int, look: int | None = None) -> Iterator[np.ndarray]:
    """Frames (96, 128, 3) uint8 of a clip of 30 to 42 frames; for `look` see `prepare`."""
    count, frame = _tabletop().prepare(seed, clip, look)
    return map(frame, range(count))
