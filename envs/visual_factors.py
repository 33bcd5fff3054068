"""The visual factors of a DMC Remastered episode, sampled from its visual seed.

The ranges, the order of sampling and Python's own generator are those of the official code
(`wmlib/envs/dmcr/`), so a visual seed gives the same factors there. All factors are always sampled,
so fixing one does not change the others.
"""

import math
import random
from dataclasses import dataclass
from typing import Literal, get_args

Factor = Literal["bg", "floor", "body", "target", "reflectance", "camera", "light"]
FACTORS: tuple[Factor, ...] = get_args(Factor)

Range = tuple[float, float]
TINT = [(-0.02, 0.02)] * 3  # offsets of red, green and blue from their common value

# The light at the camera: the common value of its colour, then the three offsets.
HEADLIGHT: dict[str, list[Range]] = {
    "ambient": [(0.1, 0.8)] + [(-0.05, 0.05)] * 3,
    "diffuse": [(0.4, 0.9)] + [(-0.1, 0.1)] * 3,
    "specular": [(0.05, 0.3), *TINT],
}

# Ranges of each domain, in sampling order. `camera` and `light` are positions (x, y, z) relative to
# the body that they track; `angles` (degrees about x, y, z) and `tilt` (about x) turn the camera.
DOMAINS: dict[str, dict[str, list[Range]]] = {
    "ball_in_cup": {
        "camera": [(-0.05, 0.05), (-0.9, -1.1), (0.8, 1.0)],
        "light": [(-0.5, 0.5), (-0.5, 0.5), (1.2, 2.7)],
    },
    "cartpole": {
        "camera": [(-0.15, 0.15), (-5.0, -3.0), (0.8, 1.2)],
        "light": [(-1, 1), (-1, 1), (4.5, 7.5)],
    },
    "cheetah": {
        "camera": [(-0.25, 0.25), (-3.2, -2.8), (-0.25, 0.25)],
        "light": [(-2, 2), (-2, 2), (1, 5)],
    },
    "finger": {
        "camera": [(-0.02, 0.02), (-1.01, -0.99), (0.7, 1.0)],
        "light": [(-0.8, 0.8), (-0.8, 0.8), (1.0, 3.0)],
        "diffuse": [(0.5, 1.1), *TINT],
        "specular": [(0.0, 1.2), *TINT],
    },
    "fish": {
        "camera": [(-0.05, 0.05), (-0.05, 0.05), (0.8, 1.2)],
        "light": [(-0.3, 0.3), (-0.3, 0.3), (0.0, 1.0)],
    },
    "hopper": {
        "camera": [(-0.15, 0.15), (-3.0, -2.6), (0.6, 1.0)],
        "angles": [(85, 95), (-5, 5), (-5, 5)],
    },
    "humanoid": {
        "camera": [(-3.5, -2.5), (-0.5, 0.5), (0.5, 1.5)],
        "light": [(-0.7, 0.7), (-0.7, 0.7), (1.2, 1.8)],
    },
    "pendulum": {
        "tilt": [(0.4, 0.6)],
        "camera": [(0.0, 0.2), (-1.1, -0.97), (1.3, 1.6)],
        "light": [(-0.5, 0.5), (-0.2, 0.2), (1.2, 2.8)],
    },
    "reacher": {
        "camera": [(-0.05, 0.05), (-0.05, 0.05), (0.7, 0.8)],
        "light": [(-0.2, 0.2), (-0.2, 0.2), (0.15, 0.75)],
    },
    "walker": {
        "camera": [(-0.3, 0.3), (-2.05, -1.95), (0.6, 0.8)],
    },
}

Numbers = tuple[float, ...]


@dataclass(frozen=True)
class VisualFactors:
    """All factors of a visual seed. Colours are RGB or RGBA in 0..1, and may exceed 1."""

    sky: int  # index of a picture
    floor: int
    reflectance: float  # of the floor
    body: Numbers
    effector: Numbers
    target: Numbers
    headlight: dict[str, Numbers]  # ambient, diffuse, specular
    shadow_size: int  # unused: fixed once a renderer exists
    camera: Numbers
    angles: Numbers | None  # of the camera; None: unchanged
    lamp: dict[str, Numbers]  # of the scene's light: pos, diffuse, specular; only those that vary


def sample(domain: str, seed: int, skies: int, floors: int) -> VisualFactors:
    """The factors of a visual seed, given the numbers of pictures to choose from."""
    rng = random.Random(seed)
    sky, floor = rng.choice(range(skies)), rng.choice(range(floors))
    reflectance = rng.uniform(0.0, 0.5)
    body, effector, target = (_rgba(rng) for _ in range(3))
    headlight = {name: _tinted(_uniform(rng, ranges)) for name, ranges in HEADLIGHT.items()}
    shadows = rng.randint(1548, 2548)
    rng.seed(seed)  # as in the official code
    own = {name: _uniform(rng, ranges) for name, ranges in DOMAINS[domain].items()}
    if "tilt" in own:
        own["angles"] = (math.degrees(math.atan2(1, *own["tilt"])), 0.0, 0.0)
    lamp = {"pos": own["light"]} if "light" in own else {}
    lamp |= {name: _tinted(own[name]) for name in ("diffuse", "specular") if name in own}
    camera, angles = own["camera"], own.get("angles")
    return VisualFactors(
        sky, floor, reflectance, body, effector, target, headlight, shadows, camera, angles, lamp
    )


def _uniform(rng: random.Random, ranges: list[Range]) -> Numbers:
    return tuple(rng.uniform(*ends) for ends in ranges)


def _tinted(drawn: Numbers) -> Numbers:
    common, *differences = drawn
    return tuple(common + difference for difference in differences)


def _rgba(rng: random.Random) -> Numbers:
    alpha = rng.uniform(0.75, 1.0)
    return (rng.random(), rng.random(), rng.random(), alpha)
