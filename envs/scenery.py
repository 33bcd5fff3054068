"""Appearance of the `driving` suite: colours of a weather, and the MJCF of the scene."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.weather import Weather

CARS, TREES, HOUSES = 16, 40, 6
PIECES, PIECE = 34, 6.0  # boxes that make up the visible road, and their length in metres
EDGE = 9.5  # metres from the road's middle to its edge


class Appearance(NamedTuple):
    """How a weather looks; colours are RGB (3,) in [0, 1]."""

    sun: NDArray[np.float64]  # unit vector towards it
    sunlight: NDArray[np.float64]
    ambient: NDArray[np.float64]
    zenith: NDArray[np.float64]
    horizon: NDArray[np.float64]
    asphalt: NDArray[np.float64]
    grass: NDArray[np.float64]
    haze: tuple[float, float]  # distances (m) where it begins and where it is opaque


def appearance(weather: Weather) -> Appearance:
    """Colours of sky, light and ground, and the range of sight, for a weather."""

    def mix(one: Any, other: Any, share: float) -> NDArray[np.float64]:
        return (1 - share) * np.asarray(one) + share * np.asarray(other)

    shares = (weather.cloudiness, weather.precipitation, weather.wetness)
    clouds, rain, wet = (np.clip(x / 100, 0, 1) for x in shares)
    altitude = weather.sun_altitude_angle
    high, turn = np.radians([altitude, weather.sun_azimuth_angle])
    sun = np.array([np.cos(turn) * np.cos(high), np.sin(turn) * np.cos(high), np.sin(high)])
    low = float(np.clip(1 - altitude / 30, 0, 1))  # 1: the sun is at the horizon
    dark = 1 - 0.45 * low
    grey = mix([0.66, 0.69, 0.73], [0.42, 0.44, 0.48], rain) * dark
    zenith = mix(mix([0.20, 0.42, 0.80], [0.22, 0.24, 0.46], low), grey, clouds)
    horizon = mix(mix([0.72, 0.82, 0.92], [0.96, 0.58, 0.30], low), grey, 0.85 * clouds)
    sunlight = mix([0.75, 0.73, 0.68], [0.85, 0.50, 0.25], low) * (1 - 0.9 * clouds)
    ambient = mix([0.42, 0.43, 0.46], [0.36, 0.30, 0.32], low) + 0.3 * clouds * dark
    asphalt = mix([0.46, 0.46, 0.47], 0.25 * horizon + 0.3 * zenith, 0.8 * wet)
    grass = mix([0.55, 0.75, 0.40], [0.33, 0.50, 0.28], wet)
    haze = (float(mix(60, 10, rain)), float(2000 * 0.06 ** max(rain, 0.4 * clouds)))
    return Appearance(sun, sunlight, ambient, zenith, horizon, asphalt, grass, haze)


def sky(appearance: Appearance) -> NDArray[np.uint8]:
    """The six faces of the sky's cube map, (6 * 16, 16, 3)."""
    height = np.clip(np.linspace(1, -1, 16), 0, 1)[:, None, None] ** 0.6
    horizon, zenith = appearance.horizon, appearance.zenith
    side = np.broadcast_to(horizon + height * (zenith - horizon), (16, 16, 3))
    up, down = (np.broadcast_to(colour, (16, 16, 3)) for colour in (zenith, horizon))
    faces = np.concatenate([side, side, up, down, side, side])
    return (255 * np.clip(faces, 0, 1)).astype(np.uint8)


# Colours of the other cars, RGB in [0, 1].
PAINTS = np.array(
    [
        [0.85, 0.85, 0.85],
        [0.08, 0.08, 0.09],
        [0.55, 0.57, 0.60],
        [0.75, 0.10, 0.08],
        [0.10, 0.22, 0.60],
        [0.90, 0.75, 0.15],
        [0.10, 0.40, 0.22],
        [0.85, 0.40, 0.10],
    ]
)

_EGO = '<camera name="windscreen" pos="1.6 0 1.7" xyaxes="0 -1 0 0 0 1" fovy="60"/>'
_PIECE = f"""
  <geom material="asphalt" size="{PIECE / 2 + 0.4} {EDGE} 0.05"/>
  <geom size="1.5 0.1 0.01" pos="0 0 0.06" class="line"/>
  <geom size="1.5 0.1 0.01" pos="0 3.5 0.06" class="line"/>
  <geom size="1.5 0.1 0.01" pos="0 -3.5 0.06" class="line"/>
  <geom size="{PIECE / 2 + 0.2} 0.1 0.01" pos="0 7 0.06" class="line"/>
  <geom size="{PIECE / 2 + 0.2} 0.1 0.01" pos="0 -7 0.06" class="line"/>
  <geom size="{PIECE / 2 + 0.2} 0.05 0.18" pos="0 10 0.65" rgba="0.7 0.72 0.75 1"/>
  <geom size="{PIECE / 2 + 0.2} 0.05 0.18" pos="0 -10 0.65" rgba="0.7 0.72 0.75 1"/>"""
_CAR = """
  <geom name="paint-{i}" size="2.2 0.9 0.35" pos="0 0 0.7"/>
  <geom size="1.2 0.8 0.28" pos="-0.2 0 1.3" rgba="0.12 0.14 0.17 1"/>
  <geom size="1.0 0.75 0.03" pos="-0.2 0 1.6" rgba="0.5 0.5 0.5 1"/>
  <geom size="1.7 0.92 0.2" pos="0 0 0.25" rgba="0.04 0.04 0.04 1"/>
  <geom size="0.02 0.2 0.08" pos="-2.2 0.65 0.85" rgba="0.9 0.05 0.05 1"/>
  <geom size="0.02 0.2 0.08" pos="-2.2 -0.65 0.85" rgba="0.9 0.05 0.05 1"/>"""
_TREE = """
  <geom type="cylinder" size="0.25 1.2" pos="0 0 1.2" rgba="0.32 0.22 0.14 1"/>
  <geom type="ellipsoid" size="{a} {a} {b}" pos="0 0 {z}" rgba="{r} {g} 0.14 1"/>"""
_HOUSE = """
  <geom size="5 4 2.5" pos="0 0 2.5" rgba="{r} {g} 0.6 1"/>
  <geom size="5.4 3 0.15" pos="0 2.2 6.2" euler="-40 0 0" rgba="0.5 0.2 0.15 1"/>
  <geom size="5.4 3 0.15" pos="0 -2.2 6.2" euler="40 0 0" rgba="0.5 0.2 0.15 1"/>"""


def scene() -> str:
    """MJCF of all bodies, in the order in which Driving positions them."""
    bodies = [("ego", _EGO)]
    bodies += [(f"piece-{i}", _PIECE) for i in range(PIECES)]
    bodies += [(f"car-{i}", _CAR.format(i=i)) for i in range(CARS)]
    for i in range(TREES):
        a, b = 1.4 + 0.3 * (i % 4), 2.2 + 0.5 * (i % 3)
        colour = {"r": 0.12 + 0.05 * (i % 5), "g": 0.30 + 0.05 * (i % 4)}
        bodies += [(f"tree-{i}", _TREE.format(a=a, b=b, z=1.6 + b, **colour))]
    for i in range(HOUSES):
        bodies += [(f"house-{i}", _HOUSE.format(r=0.9 - 0.06 * i, g=0.8 - 0.04 * i))]
    moved = "".join(f'<body name="{name}" mocap="true">{geoms}</body>' for name, geoms in bodies)
    return f"""
<mujoco model="driving">
  <option><flag contact="disable"/></option>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <global offwidth="64" offheight="64"/>
    <quality numquads="1" numslices="8" numstacks="6" shadowsize="2048"/>
    <map znear="0.4" zfar="400" shadowclip="60"/>
    <headlight diffuse="0 0 0" specular="0 0 0"/>
  </visual>
  <asset>
    <texture name="sky" type="skybox" builtin="flat" width="16" height="96"/>
    <texture name="grass" type="2d" builtin="flat" mark="random" random="0.3" width="64" height="64"
      rgb1="0.60 0.62 0.55" markrgb="0.75 0.72 0.65"/>
    <material name="grass" texture="grass" texrepeat="0.1 0.1" texuniform="true"/>
    <material name="asphalt"/>
  </asset>
  <default>
    <geom type="box" contype="0" conaffinity="0"/>
    <default class="line"><geom rgba="0.92 0.92 0.88 1"/></default>
  </default>
  <worldbody>
    <light name="sun" directional="true" castshadow="true" pos="0 0 50" dir="0 0 -1"
      ambient="0 0 0" specular="0.1 0.1 0.1"/>
    <geom name="ground" type="plane" size="0 0 1" material="grass"/>
    {moved}
  </worldbody>
</mujoco>"""
