"""Dynamic weather: a moving sun, and storms that grow and decay."""

import math
from typing import NamedTuple

import numpy as np

SPEED = 0.1  # of the change, relative to CARLA's example of dynamic weather
DRIEST, WETTEST = -250.0, 100.0


class Sky(NamedTuple):
    """State of the simulation."""

    azimuth: float  # of the sun, degrees
    phase: float  # of the sun's altitude, radians
    storm: float  # from DRIEST to WETTEST; it rains above 0
    rising: bool  # the storm grows


class Weather(NamedTuple):
    """The weather of one tick, in percent and degrees; names as in `carla.WeatherParameters`."""

    cloudiness: float
    precipitation: float
    wetness: float
    sun_altitude_angle: float
    sun_azimuth_angle: float = 40.0
    precipitation_deposits: float = 0.0  # puddles
    wind_intensity: float = 0.0
    fog_density: float = 0.0


def begin(rng: np.random.Generator) -> Sky:
    """A random initial state; with probability 5/7 it is dry, with the storm at -50."""
    storm = rng.uniform(DRIEST, WETTEST)
    azimuth, phase = rng.uniform(0, 360), rng.uniform(0, 2 * math.pi)
    return Sky(azimuth, phase, storm if storm > 0 else -50.0, True)


def advance(sky: Sky) -> Sky:
    """The state one tick later."""
    step = 1.3 * SPEED if sky.rising else -1.3 * SPEED
    storm = min(max(sky.storm + step, DRIEST), WETTEST)
    rising = {DRIEST: True, WETTEST: False}.get(storm, sky.rising)
    azimuth = (sky.azimuth + 0.25 * SPEED) % 360
    return Sky(azimuth, (sky.phase + 0.008 * SPEED) % (2 * math.pi), storm, rising)


def weather(sky: Sky) -> Weather:
    """Clouds start at a storm of -40, puddles at 10; in a decaying storm puddles last until -90."""
    clouds = min(max(sky.storm + 40, 0.0), 60.0)
    return Weather(
        cloudiness=clouds,
        precipitation=min(max(sky.storm, 0.0), 80.0),
        precipitation_deposits=min(max(sky.storm + (-10 if sky.rising else 90), 0.0), 85.0),
        wind_intensity=5.0 if clouds <= 20 else 40.0,
        sun_azimuth_angle=sky.azimuth,
        sun_altitude_angle=22.5 + 22.5 * math.cos(sky.phase),
        wetness=min(max(5 * sky.storm, 0.0), 100.0),
    )
