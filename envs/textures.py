"""Procedural textures: tiles for floors and objects, landscapes for skies."""

import colorsys

import numpy as np
from numpy.random import Generator

KINDS = ("plain", "clouds", "stripes", "checks", "dots", "planks")


def colour(rng: Generator, vivid: float = 0.85) -> np.ndarray:
    """A random RGB colour (3,) in 0..1 of medium brightness; `vivid` bounds the saturation."""
    hue, saturation, value = rng.random(), rng.uniform(0.05, vivid), rng.uniform(0.35, 0.95)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value))


def tile(rng: Generator, size: int, vivid: float = 0.85) -> np.ndarray:
    """A periodic texture in two colours with a random phase, uint8 (size, size, 3)."""
    kind = rng.choice(KINDS)
    first, second = colour(rng, vivid), colour(rng, vivid)
    second = first + (second - first) * rng.uniform(0.3, 0.8)
    mix = _pattern(rng, kind, size)[..., None]
    grain = rng.normal(0, 0.015, (size, size, 1))
    pixels = first + (second - first) * mix + grain
    pixels = np.roll(pixels, rng.integers(size, size=2), axis=(0, 1))
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def landscape(rng: Generator, size: int) -> np.ndarray:
    """A cloudy sky above up to four ridges, periodic in x, uint8 (size, size, 3)."""
    x, y = np.arange(size) / size, np.arange(size)[:, None] / size
    above, horizon, haze = colour(rng), colour(rng), colour(rng, 0.2)
    pixels = above + (horizon - above) * y[..., None]
    clouds = _clouds(rng, size)
    pixels = pixels + (haze - pixels) * (clouds**2 * (1 - y))[..., None]
    fine = np.tile(_clouds(rng, size // 8), (8, 8))
    for base in np.sort(rng.uniform(0.2, 0.8, rng.integers(5))):
        waves, phases = rng.integers(1, 12, 4), rng.uniform(0, 2 * np.pi, 4)
        outline = np.sin(2 * np.pi * np.outer(x, waves) + phases) / waves
        ridge = base + 0.1 * outline.sum(1)
        below = y > ridge
        grain = clouds[::-1][below] + rng.uniform(0, 1.5) * fine[below]
        pixels[below] = colour(rng) * (0.4 + 0.5 * grain[:, None])
    return (np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _pattern(rng: Generator, kind: str, size: int) -> np.ndarray:
    """The share of the second colour in each pixel, (size, size) in 0..1; periodic."""
    y, x = np.mgrid[:size, :size] / size
    count = int(rng.integers(2, 6))
    match kind:
        case "plain":
            return np.zeros((size, size))
        case "clouds":
            return _clouds(rng, size)
        case "stripes":
            along = x if rng.random() < 0.5 else y
            return _edge(np.sin(2 * np.pi * count * along))
        case "checks":
            return _edge(np.sin(2 * np.pi * count * x) * np.sin(2 * np.pi * count * y))
        case "dots":
            u, v = (count * x) % 1 - 0.5, (count * y) % 1 - 0.5
            return _edge(rng.uniform(0.2, 0.35) - np.hypot(u, v))
        case "planks":
            grain = np.sin(2 * np.pi * (3 * y + 0.6 * _clouds(rng, size)))
            seams = (count * x) % 1 < 0.06
            return np.where(seams, 1.0, 0.25 + 0.2 * grain)
    raise ValueError(kind)


def _edge(signal: np.ndarray) -> np.ndarray:
    """A step function with a soft edge: 0 below zero, 1 above."""
    return np.clip(signal * 6 + 0.5, 0, 1)


def _clouds(rng: Generator, size: int) -> np.ndarray:
    """Smooth periodic noise (size, size) in 0..1: random waves, weaker at higher frequencies."""
    y, x = np.mgrid[:size, :size] * (2 * np.pi / size)
    waves = np.zeros((size, size))
    for _ in range(8):
        a, b = rng.integers(-4, 5, size=2)
        waves += np.sin(a * x + b * y + rng.uniform(0, 2 * np.pi)) / (1 + np.hypot(a, b))
    low, high = waves.min(), waves.max()
    return (waves - low) / max(high - low, 1e-6)
