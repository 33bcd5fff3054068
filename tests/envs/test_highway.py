"""The highway task against hand-computed numbers."""

import pytest

from envs import highway
from envs.highway import LENGTH, costs, failed, lane_to_keep, place, reward


@pytest.mark.parametrize(
    ("given", "terms", "total"),
    [
        ((20, 0, 0, 0), (1, 0, 0, 0), 1),  # 20 m/s for 0.05 s
        ((20, 1.75, 0, 0), (1, 0, 0, 0), 1),  # at the edge of the lane
        ((20, 2.75, 0, 0), (1, 1.5, 0, 0), 0.4),  # 1 / 2.5
        ((20, 0, 500, 0), (1, 0, 0.5, 0), 0.5),
        ((20, 0, 50_000, 0), (1, 0, 10, 0), -9),  # capped at 10
        ((20, 0, 0, -0.25), (1, 0, 0, 0.25), 0.75),
        ((-10, 3.75, 2000, 1), (-0.5, 3, 2, 1), -3.125),  # -0.5 / 4 - 2 - 1
        ((0, 100, 0, 0), (0, 147.375, 0, 0), 0),
    ],
)
def test_costs_and_reward(given, terms, total):
    found = costs(*given)
    assert list(found) == ["distance", "centering", "collision", "steer"]
    assert tuple(found.values()) == pytest.approx(terms)
    assert reward(found) == pytest.approx(total)


@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ((45, -2), (45, -2)),
        ((45, 1), (45, -1)),
        ((50, 1), (50, -1)),
        ((48, -5), (48, -4)),
        ((51, 1), (51, 1)),
        ((660, -1), (659, 1)),
        ((559, -1), (558, 1)),
        ((718, -1), (717, 1)),
        ((660, 2), (660, 2)),
        ((93, 1), (103, -3)),
        ((94, -2), (103, -3)),
        ((103, -4), (103, -3)),
        ((103, -2), (103, -2)),
        ((102, 1), (102, 1)),  # the official code tries to move it, without effect
    ],
)
def test_lane_to_keep(where, keep):
    assert lane_to_keep(*where) == keep


ON_THE_WAY = dict(ticks=50, road=45, on_the_way=True, speed=10, rise=0, height=0)


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ({}, ""),
        ({"on_the_way": False}, "no lane to follow"),
        *(({"road": road}, "off the route") for road in (22, 34, 7, 15)),
        ({"ticks": 20, "rise": 1.1}, "thrown into the air by the simulator"),
        ({"ticks": 20, "height": 0.6}, "thrown into the air by the simulator"),
        ({"ticks": 20, "rise": 1.0, "height": 0.5}, ""),
        ({"ticks": 21, "rise": 1.1, "height": 0.6}, ""),
        ({"ticks": 100, "speed": 0.01}, "stuck"),
        ({"ticks": 900, "speed": 0.01}, "stuck"),
        ({"ticks": 100, "speed": 0.02}, ""),
        ({"ticks": 99, "speed": 0}, ""),
        ({"ticks": 101, "speed": 0}, ""),
    ],
)
def test_failures(differs, reason):
    assert failed(**ON_THE_WAY | differs) == reason


@pytest.mark.parametrize(
    ("metres", "lane", "found"),
    [
        (0, 0, (45, -1, 200)),
        (383, 3, (45, -4, 583)),
        (384, 1, (103, -2, 1)),
        (383 + 50 + 176 + 10, 2, (659, 3, 10)),
        (LENGTH, 0, (48, -1, 81)),
    ],
)
def test_place_maps_distance_to_road_and_lane(metres, lane, found):
    assert place(metres, lane) == found


def test_place_beyond_the_route_raises():
    assert LENGTH == 383 + 50 + 176 + 58 + 117 + 34 + 81
    with pytest.raises(ValueError, match="the route ends 1 m before that"):
        highway.place(LENGTH + 1, 0)
