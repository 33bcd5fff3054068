"""A road through the world and boxes along it, drawn with polygons from far to near.

Places are given in road coordinates: metres along the road, aside of its middle (to the right), and
up from its surface. World axes: x to the right, y away, z up from where the road begins.
"""

from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 128, 72
FINE = 2  # drawn pixels for each pixel of a frame, either way
FOCAL = 112 * FINE  # drawn pixels
BAY, BAYS = 4.0, 45  # the road is drawn in pieces of 4 m, so many of them ahead
NEAR, DETAIL = 1.2, 70.0  # metres ahead where the drawn world begins, and where details end
BARK, GLASS, HILLS = (0.3, 0.22, 0.15), (0.25, 0.3, 0.36), (0.3, 0.38, 0.36)

LAMPS = np.array([[0.05, 0.25], [0.75, 0.95]]), np.array([0.5, 0.8])  # on a car's end: across, up

# Corners of a box have the number 4 * far + 2 * right + upper. Faces, seen from outside, turn the
# same way: near, left, right, upper.
FACES = np.array([[0, 2, 3, 1], [4, 0, 1, 5], [2, 6, 7, 3], [1, 3, 7, 5]])

RGB = tuple[float, float, float]  # in 0..1


class Weather(NamedTuple):
    """Colours of the sky above and at the horizon, of the light, and what hides far things."""

    zenith: RGB
    horizon: RGB
    light: RGB
    shade: float  # how bright a side is that the sun does not reach
    sight: float  # metres in which contrast falls to a third
    dark: bool = False  # lamps are lit


class Box(NamedTuple):
    """A thing at the road, between places in road coordinates, and what is on it."""

    along: tuple[float, float]
    aside: tuple[float, float]
    up: tuple[float, float]
    paint: np.ndarray  # (3,) in 0..1; of the leaves, if there are any
    floors: int = 0  # rows of windows
    crown: float = 0.0  # metres: radius of the leaves on top; below zero, of a fir's
    lamps: RGB | None = None  # on the side that faces us, of a car


class Surface(NamedTuple):
    """The ground across the road: strips between edges, and lines on them."""

    edges: np.ndarray  # (6,) metres aside
    paints: np.ndarray  # (length in bays, 5, 3)
    lines: np.ndarray  # (L,) metres aside
    line_paints: np.ndarray  # (L, 3)
    solid: np.ndarray  # (L,) bool; others are dashed


class Eye(NamedTuple):
    """Where the camera is, in road coordinates, and the row of the horizon in the drawn picture."""

    along: float
    aside: float
    up: float
    horizon: float


class Road:
    """A line through the world that bends and goes up and down."""

    def __init__(self, rng: Generator, length: float) -> None:
        self._along = np.arange(0, length, 2.0)
        wave = 2 * np.pi * self._along / rng.uniform(120, 320) + rng.uniform(0, 2 * np.pi)
        bend = rng.uniform(0, 0.008) * np.sin(wave) + rng.uniform(-0.003, 0.003)
        self._yaw = np.cumsum(2 * bend)
        slope = rng.uniform(0, 0.03) * np.sin(0.7 * wave + rng.uniform(0, 2 * np.pi))
        self._line = np.cumsum(2 * np.stack([np.sin(self._yaw), np.cos(self._yaw), slope]), axis=1)

    def yaw(self, along: np.ndarray | float) -> np.ndarray:
        """Heading in radians, to the right."""
        return np.interp(along, self._along, self._yaw)

    def at(self, along: np.ndarray, aside: np.ndarray, up: np.ndarray) -> np.ndarray:
        """World coordinates (..., 3) of places."""
        along, aside, up = np.broadcast_arrays(along, aside, up)
        x, y, z = (np.interp(along, self._along, line) for line in self._line)
        yaw = self.yaw(along)
        return np.stack([x + aside * np.cos(yaw), y - aside * np.sin(yaw), z + up], axis=-1)


class Painter:
    """Draws what is seen of a road, in a weather, with the sun and clouds somewhere."""

    def __init__(self, rng: Generator, road: Road, surface: Surface, weather: Weather) -> None:
        self.road, self.surface, self.weather = road, surface, weather
        sides = rng.permutation([1.0, weather.shade])
        self._shades = np.array([0.85, *sides, 1.1])[:, None]  # of faces
        self._sky = self._panorama(rng)

    def frame(self, eye: Eye, things: list[Box]) -> np.ndarray:
        """A picture (72, 128, 3) uint8."""
        canvas = Image.fromarray(self._backdrop(eye))
        self._draw = ImageDraw.Draw(canvas)
        first, last = eye.along + NEAR, (eye.along // BAY + BAYS) * BAY
        shown = [box for box in things if box.along[1] > first and box.along[0] < last]
        shown.sort(key=lambda box: -abs(sum(box.aside)))  # of equally far ones, the nearest last
        along, aside, up = (np.array([box[i] for box in shown]) for i in range(3))
        far, right, upper = np.indices((2, 2, 2)).reshape(3, 8)
        along = np.maximum(along, first)[:, far]
        corners, depths = self._see(eye, along, aside[:, right], up[:, upper])
        bays: list[list] = [[] for _ in range(BAYS)]
        for box, *seen in zip(shown, corners, depths.min(1), strict=True):
            bays[max(int(box.along[0] // BAY - eye.along // BAY), 0)].append((box, *seen))
        for ground, bay in reversed(list(zip(self._ground(eye), bays, strict=True))):
            for quad, paint in ground:
                self._draw.polygon(quad, paint)
            for thing in bay:
                self._stand(*thing)
        return np.asarray(canvas.reduce(FINE))

    def _see(self, eye: Eye, along: np.ndarray, aside: np.ndarray, up: np.ndarray) -> tuple:
        """Drawn pixels (..., 2) and depths (...) of places."""
        x, y, z = np.moveaxis(self.road.at(along, aside, up) - self.road.at(*eye[:3]), -1, 0)
        yaw = self.road.yaw(eye.along)
        right, depth = x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw)
        depth = np.maximum(depth, 0.5)
        pixels = [WIDTH * FINE / 2 + FOCAL * right / depth, eye.horizon - FOCAL * z / depth]
        return np.stack(pixels, axis=-1), depth

    def _fade(self, paints: np.ndarray | RGB, depth: np.ndarray | float) -> np.ndarray:
        """Paints (..., 3) as they are seen, lit and through so much air; uint8."""
        horizon = np.array(self.weather.horizon)
        clear = np.exp(-np.asarray(depth) / self.weather.sight)[..., None]
        return _bytes(horizon + (paints * np.array(self.weather.light) - horizon) * clear)

    def _panorama(self, rng: Generator) -> np.ndarray:
        """Sky and far hills all around, uint8: rows down to the horizon, columns to the right."""
        rows, turn = HEIGHT * FINE, np.linspace(0, 2 * np.pi, int(2 * np.pi * FOCAL))
        height, waves = np.arange(rows)[::-1, None] / rows, np.arange(1, 13)[:, None, None]
        phases = rng.uniform(0, 2 * np.pi, (2, 12, 1, 1))
        tilt = rng.uniform(5, 40, (12, 1, 1)) * height
        cloud = np.clip(np.sin(waves * turn + tilt + phases[0]).mean(0) * 2.5, 0, 0.5)
        hills = (np.sin(waves * turn + phases[1]) / waves).sum(0)
        zenith, horizon = np.array(self.weather.zenith), np.array(self.weather.horizon)
        blue = (np.clip(1.3 * height, 0, 1) - 0.8 * cloud * height)[..., None]
        sky = _bytes(horizon + (zenith - horizon) * blue)
        sky[height < rng.uniform(0.01, 0.05) * (hills + 2)] = self._fade(HILLS, 300)
        return sky

    def _backdrop(self, eye: Eye) -> np.ndarray:
        """The sky as the camera is turned, and far ground below it."""
        columns = int(FOCAL * self.road.yaw(eye.along)) + np.arange(WIDTH * FINE)
        canvas = np.empty((HEIGHT * FINE, WIDTH * FINE, 3), np.uint8)
        canvas[:] = self._fade(self.surface.paints[0, 0], 250)
        above = int(eye.horizon)
        canvas[:above] = self._sky[-above:, columns % self._sky.shape[1]]
        return canvas

    def _ground(self, eye: Eye) -> list[list[tuple]]:
        """Polygons with their colours, for each bay: strips, then lines on them."""
        surface, bays = self.surface, int(eye.along // BAY) + np.arange(BAYS + 1)
        along = np.maximum(bays * BAY, eye.along + NEAR)[:, None]
        edges, depth = self._see(eye, along, surface.edges, 0)
        paints = _tuples(self._fade(surface.paints[bays[:-1]], depth[:-1, :1]))
        ground = [list(zip(*bay, strict=True)) for bay in zip(_quads(edges), paints, strict=True)]
        ribs = surface.lines[:, None] + np.array([-0.09, 0.09])
        edges, depth = self._see(eye, along, ribs.ravel(), 0)
        paints = _tuples(self._fade(surface.line_paints, depth[:-1, :1]))
        for i, quads in enumerate(_quads(edges)[: int(DETAIL / BAY)]):
            painted = surface.solid | (bays[i] % 2 == 1)
            ground[i] += [(quads[2 * j], paints[i][j]) for j in np.flatnonzero(painted)]
        return ground

    def _stand(self, box: Box, corners: np.ndarray, depth: float) -> None:
        """Draw a thing with corners (8, 2)."""
        faces = corners[FACES]
        (ax, ay), (bx, by) = (faces[:, 1] - faces[:, 0]).T, (faces[:, 3] - faces[:, 0]).T
        bare = np.array(BARK) if box.crown else box.paint
        paints = _tuples(self._fade(bare * self._shades, depth))
        for i in np.flatnonzero(ax * by < ay * bx):  # the others are turned away
            self._draw.polygon(faces[i].ravel().tolist(), paints[i])
            if box.floors and i < 3 and depth < DETAIL:
                self._windows(faces[i], box, 1 if i else 2, depth)
        if box.lamps:
            paint = np.array(box.lamps)
            paint = _bytes(paint) if self.weather.dark else self._fade(paint, depth)
            for quad in _panes(faces[0], *LAMPS):
                self._draw.polygon(quad, _tuples(paint))
        if box.crown:
            self._leaves(corners[[1, 3]].mean(0), box, depth)

    def _windows(self, face: np.ndarray, box: Box, columns: int, depth: float) -> None:
        """Rows of windows on a face (4, 2), some of them lit when it is dark."""
        glass, lamp = _tuples(self._fade(GLASS, depth)), (255, 217, 128)
        row, column = np.divmod(np.arange(box.floors * columns), columns)
        across, up = np.add.outer(column, (0.22, 0.78)) / columns, np.add.outer(row, (0.3, 0.8))
        for i, quad in enumerate(_panes(face, across, up / box.floors)):
            lit = self.weather.dark and (box.along[0] + 3 * i) % 5 < 2
            self._draw.polygon(quad, lamp if lit else glass)

    def _leaves(self, top: np.ndarray, box: Box, depth: float) -> None:
        """Leaves about the top of a trunk: a ball lit from above, or a cone from one side."""
        dim, bright = _tuples(self._fade(np.outer([0.75, 1.1], box.paint), depth))
        (x, y), r = top.tolist(), float(FOCAL * abs(box.crown) / depth)
        if box.crown < 0:
            self._draw.polygon([x - r, y + r / 2, x + r, y + r / 2, x, y - 3.2 * r], dim)
            self._draw.polygon([x - r, y + r / 2, x, y + r / 2, x, y - 3.2 * r], bright)
        else:
            self._draw.ellipse([x - r, y - 1.6 * r, x + r, y + 0.4 * r], dim)
            self._draw.ellipse([x - 0.85 * r, y - 1.55 * r, x + 0.55 * r, y - 0.15 * r], bright)


def _panes(face: np.ndarray, across: np.ndarray, up: np.ndarray) -> list[list[float]]:
    """Parts of a face (4, 2), from and to shares across (N, 2) and up (N, 2), as N lists of 8."""
    u, v = np.broadcast_arrays(across[..., [0, 1, 1, 0]], up[..., [0, 0, 1, 1]])
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), u * v, (1 - u) * v], axis=-1)
    return (weights @ face).reshape(-1, 8).tolist()


def _quads(edges: np.ndarray) -> list:
    """Quadrangles between points (N + 1, M + 1, 2) as N lists of M lists of 8 numbers."""
    corners = [edges[:-1, :-1], edges[:-1, 1:], edges[1:, 1:], edges[1:, :-1]]
    return np.concatenate(corners, axis=-1).tolist()


def _bytes(paints: np.ndarray) -> np.ndarray:
    return (255 * np.clip(paints, 0, 1)).astype(np.uint8)


def _tuples(paints: np.ndarray) -> list | tuple:
    """Paints (..., 3) uint8 as Pillow takes them: tuples, in lists."""
    return tuple(paints.tolist()) if paints.ndim == 1 else [_tuples(part) for part in paints]
