"""Stand-in for YouTube Driving: what a camera behind a windscreen sees, on many roads.

Every clip has a road of its own, with bends, hills, lanes, buildings, trees and other cars; cities
and weathers recur. The camera always goes forward along the road.
"""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from cwm.videos.encode import H264, encode
from cwm.videos.synthetic.road import (
    BAY,
    BAYS,
    FINE,
    HEIGHT,
    RGB,
    Box,
    Eye,
    Painter,
    Road,
    Surface,
    Weather,
)

VERSION = 1  # a change of what is drawn makes new files
RATE = 20
LANE = 3.3  # metres


class City(NamedTuple):
    """What is along the roads of a city; shares are of the bays of 4 m on either side."""

    ground: RGB
    walls: RGB
    built: float  # share with a building
    floors: int  # of the usual building
    planted: float  # share with a tree
    firs: bool  # trees are cones
    parked: float  # share with a parked car
    pavement: float  # metres
    lanes: int  # in each direction
    line: RGB  # paint of the middle line


WHITE, YELLOW, GRASS, SAND = (0.9, 0.9, 0.9), (0.9, 0.7, 0.15), (0.3, 0.45, 0.2), (0.7, 0.6, 0.42)
CITIES = {
    "centre": City((0.5, 0.5, 0.48), (0.6, 0.6, 0.65), 0.95, 9, 0.1, False, 0.2, 4, 2, WHITE),
    "old-town": City((0.5, 0.46, 0.42), (0.75, 0.55, 0.4), 0.95, 4, 0, False, 0.3, 2.5, 1, WHITE),
    "boulevard": City((0.45, 0.47, 0.4), (0.8, 0.75, 0.6), 0.8, 5, 0.5, False, 0.3, 5, 2, WHITE),
    "suburb": City(GRASS, (0.75, 0.7, 0.65), 0.4, 2, 0.35, False, 0.15, 2.5, 1, YELLOW),
    "village": City((0.38, 0.5, 0.22), (0.8, 0.6, 0.5), 0.25, 2, 0.2, False, 0.05, 0.5, 1, WHITE),
    "forest": City((0.22, 0.32, 0.15), (0.45, 0.35, 0.25), 0.02, 1, 0.9, True, 0, 0.7, 1, YELLOW),
    "desert": City(SAND, (0.8, 0.65, 0.5), 0.08, 1, 0.05, False, 0, 1.5, 1, YELLOW),
    "motorway": City((0.4, 0.5, 0.25), (0.6, 0.6, 0.6), 0.05, 3, 0.3, False, 0, 2.5, 3, WHITE),
    "harbour": City((0.42, 0.42, 0.4), (0.5, 0.4, 0.4), 0.6, 3, 0.03, False, 0.1, 2, 1, YELLOW),
}
WEATHERS = {
    "clear": Weather((0.25, 0.5, 0.85), (0.75, 0.85, 0.95), (1.05, 1.02, 0.95), 0.6, 400),
    "overcast": Weather((0.6, 0.63, 0.68), (0.78, 0.8, 0.82), (0.8, 0.82, 0.85), 0.85, 220),
    "dusk": Weather((0.2, 0.2, 0.38), (0.9, 0.55, 0.35), (0.5, 0.42, 0.45), 0.6, 250, True),
    "fog": Weather((0.7, 0.72, 0.74), (0.75, 0.76, 0.77), (0.8, 0.8, 0.82), 0.9, 32),
}


def label(clip: int) -> str:
    """City of a clip; cities and weathers have equal shares of any number of clips."""
    return list(CITIES)[clip % len(CITIES)]


def place(clip: int) -> str:
    """File of a clip."""
    return f"{label(clip)}/{clip:06d}.mp4"


def traits(seed: int, clip: int) -> dict[str, str]:
    """Every clip has its own road, in one of a few cities and weathers."""
    weather = list(WEATHERS)[clip % len(WEATHERS)]
    return {"road": f"{seed}-{clip}", "city": label(clip), "weather": weather}


write = partial(encode, rate=RATE, codec=H264)


class Studio:
    """Keeps nothing from clip to clip."""

    def film(self, seed: int, clip: int) -> Iterator[np.ndarray]:
        """Frames (72, 128, 3) uint8 of one clip of 40 to 60 frames."""
        rng, looks = np.random.default_rng([seed, clip]), traits(seed, clip)
        city, weather = CITIES[looks["city"]], WEATHERS[looks["weather"]]
        count, speed = int(rng.integers(40, 61)), rng.uniform(7, 16) * (1 + 0.2 * city.lanes)
        length = BAY * (BAYS + 3) + speed * count / RATE
        painter = Painter(rng, Road(rng, length), surface(rng, city, length), weather)
        things, cars = scenery(rng, city, length), traffic(rng, city, speed)
        up, horizon = rng.uniform(1.2, 1.8), FINE * HEIGHT * rng.uniform(0.42, 0.52)
        phase = rng.uniform(0, 2 * np.pi)
        for seconds in np.arange(count) / RATE:
            moved = [
                box._replace(along=tuple(np.add(box.along, own * seconds)))
                for own, boxes in cars
                for box in boxes
            ]
            aside = LANE * (city.lanes - 0.5) + 0.25 * np.sin(0.8 * seconds + phase)
            shaken = horizon + 0.8 * FINE * np.sin(9 * seconds + phase)
            yield painter.frame(Eye(speed * seconds, aside, up, shaken), things + moved)


def surface(rng: Generator, city: City, length: float) -> Surface:
    """Ground, pavement and road, a little different from bay to bay; lines between the lanes."""
    edge, grey = _edge(city), rng.uniform(0.25, 0.42) + rng.uniform(-0.02, 0.02, 3)
    outer, pavement = edge + city.pavement, 0.4 * np.array(city.ground) + 0.3
    paints = np.array([city.ground, pavement, grey, pavement, city.ground])
    rough = np.array([0.09, 0.06, 0.02, 0.06, 0.09]) * rng.normal(size=(int(length / BAY) + 1, 5))
    lanes = LANE * np.arange(1 - city.lanes, city.lanes)
    lines = np.array([*lanes, 0.25 - edge, edge - 0.25])
    solid = (np.abs(lines) > lanes.max()) | (lines == 0) & (rng.random() < 0.4)
    return Surface(
        edges=np.array([-70, -outer, -edge, edge, outer, 70]),
        paints=paints * (1 + rough[..., None]),
        lines=lines,
        line_paints=np.where(lines[:, None] == 0, city.line, WHITE),
        solid=solid,
    )


def scenery(rng: Generator, city: City, length: float) -> list[Box]:
    """What stands on both sides of the road."""
    boxes, leaves = [], np.array([0.2, 0.36, 0.14]) * rng.uniform(0.7, 1.3, 3)
    edge, street = _edge(city), city.built > 0.3
    kerb = edge + city.pavement - 0.4
    for side in (-1, 1):
        left = 0  # bays that the present building still has; below zero, the present gap
        for along in np.arange(0, length, BAY):
            if left == 0:
                left = int(rng.integers(2, 7)) if rng.random() < city.built else -1
                floors = max(1, round(city.floors * rng.uniform(0.6, 1.5)))
                wall = np.array(city.walls) * rng.uniform(0.6, 1.2) + rng.uniform(-0.1, 0.1, 3)
                front = kerb + rng.uniform(0.6, 1.4 + 14 * (1 - city.built))
            if left > 0:
                aside = _between(side * (front + 5), 10)
                boxes.append(Box((along, along + BAY), aside, (0, 3.2 * floors), wall, floors))
            elif rng.random() < city.planted:
                boxes.append(tree(rng, along, side * (front + rng.uniform(0, 14)), leaves, city))
            left -= np.sign(left)
            if street and rng.random() < 0.4 * city.planted:
                boxes.append(tree(rng, along, side * kerb, leaves, city))
            if street and along % 32 == 0:
                lamp = _between(side * kerb, 0.2)
                boxes.append(Box((along, along + 0.2), lamp, (0, 6), np.full(3, 0.3)))
            if rng.random() < city.parked:
                boxes += car(rng, along, side * (edge + 0.8), side > 0)
    return boxes


def traffic(rng: Generator, city: City, speed: float) -> list[tuple[float, list[Box]]]:
    """Cars with their speeds, m/s: one before us, others in every lane but the outermost."""
    own = [(LANE * (city.lanes - 0.5), rng.uniform(12, 60), speed * rng.uniform(0.9, 1.3))]
    own += [
        (LANE * (i + 0.5), rng.uniform(0, 80), speed * rng.uniform(0.9, 1.5))
        for i in range(city.lanes - 1)
    ]
    own += [(-LANE / 2, rng.uniform(20, 160), -rng.uniform(6, 12)) for _ in range(2)]
    return [(own_speed, car(rng, along, aside, own_speed > 0)) for aside, along, own_speed in own]


def tree(rng: Generator, along: float, aside: float, leaves: np.ndarray, city: City) -> Box:
    """A tree of a city, whose leaves differ a little from other ones (3,)."""
    crown = -rng.uniform(1.5, 2.6) if city.firs else rng.uniform(1.2, 2.4)
    paint, trunk = leaves * rng.uniform(0.75, 1.25), (0, rng.uniform(1.5, 3))
    return Box((along, along + 0.3), _between(aside, 0.3), trunk, paint, crown=crown)


def car(rng: Generator, along: float, aside: float, ahead: bool) -> list[Box]:
    """Shade, body and cabin of a car whose back, or else whose front, faces us."""
    paint = rng.uniform(0.05, 0.9) + rng.uniform(-0.15, 0.15, 3)
    glass = np.array([0.12, 0.14, 0.17])
    end, tall = along + rng.uniform(3.8, 5), rng.uniform(1.4, 1.9)
    lamps = (0.8, 0.1, 0.05) if ahead else (1.0, 1.0, 0.85)
    return [
        Box((along, end), _between(aside, 2.0), (0, 0.02), np.full(3, 0.1)),
        Box((along, end), _between(aside, 1.8), (0.25, 0.6 * tall), paint, lamps=lamps),
        Box((along + 0.6, end - 1), _between(aside, 1.5), (0.6 * tall, tall), glass),
    ]


def _edge(city: City) -> float:
    """Half the width of the road, metres."""
    return LANE * city.lanes + 0.4


def _between(middle: float, width: float) -> tuple[float, float]:
    return middle - width / 2, middle + width / 2
