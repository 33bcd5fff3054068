"""Dynamic weather against hand-computed numbers."""

import math

import numpy as np
import pytest

from envs.weather import Sky, advance, begin, weather


def test_advance_moves_sun_and_storm():
    sky = advance(Sky(azimuth=359.99, phase=1.0, storm=10.0, rising=True))
    assert sky == pytest.approx((0.015, 1.0008, 10.13, True))
    assert advance(Sky(0, 0, 10.0, False)).storm == pytest.approx(9.87)


def test_storm_reverses_at_its_limits():
    assert advance(Sky(0, 0, 99.9, True))[2:] == (100, False)
    assert advance(Sky(0, 0, -249.9, False))[2:] == (-250, True)
    assert advance(Sky(0, 0, 100, False))[2:] == (pytest.approx(99.87), False)


# storm, rising: clouds, rain, puddles, wind, wetness
@pytest.mark.parametrize(
    ("storm", "rising", "expected"),
    [
        (-250, True, (0, 0, 0, 5, 0)),
        (-50, True, (0, 0, 0, 5, 0)),
        (-50, False, (0, 0, 40, 5, 0)),
        (-20, True, (20, 0, 0, 5, 0)),
        (-19, True, (21, 0, 0, 40, 0)),
        (4, True, (44, 4, 0, 40, 20)),
        (15, True, (55, 15, 5, 40, 75)),
        (15, False, (55, 15, 85, 40, 75)),
        (90, True, (60, 80, 80, 40, 100)),
        (100, True, (60, 80, 85, 40, 100)),
    ],
)
def test_weather_of_a_storm(storm, rising, expected):
    found = weather(Sky(7.0, math.pi / 3, storm, rising))
    names = ["cloudiness", "precipitation", "precipitation_deposits", "wind_intensity", "wetness"]
    assert tuple(getattr(found, name) for name in names) == expected
    assert found.sun_azimuth_angle == 7 and found.fog_density == 0
    assert found.sun_altitude_angle == pytest.approx(33.75)  # 22.5 (1 + cos 60)


def test_sun_stays_above_the_horizon():
    heights = [weather(Sky(0, t, 0, True)).sun_altitude_angle for t in np.linspace(0, 7, 99)]
    assert min(heights) >= 0 and max(heights) == 45


def test_initial_sky_distribution():
    skies = [begin(np.random.default_rng(seed)) for seed in range(200)]
    storms = [sky.storm for sky in skies]
    assert 0.6 < storms.count(-50) / 200 < 0.82  # 5 of 7 draws are dry
    assert all(sky.storm == -50 or 0 < sky.storm <= 100 for sky in skies)
    assert all(sky.rising and 0 <= sky.azimuth < 360 and 0 <= sky.phase < 7 for sky in skies)
    assert begin(np.random.default_rng(1)) == skies[1] != skies[2]
