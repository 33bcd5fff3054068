"""The paper's highway task without a simulator: route, reward, failures.

Town04's motorway is a chain of OpenDRIVE roads. The car starts on road 45. The reward favours speed
along the lane and penalises distance from its middle, collisions and steering. Lengths are in
metres, speeds in m/s, impulses in N s.
"""

from typing import NamedTuple

DT = 0.05  # seconds of a tick
TICKS = 1000  # per episode; the first frame takes one
START_ROAD, START = 45, 100.0
RIGHT, LEFT = (-1, -2, -3, -4), (1, 2, 3, 4)  # lane ids along and against a road's direction
OFF_ROUTE = (22, 34, 7, 15)  # roads that leave the route
SETTLED = 20  # ticks within which the simulator may throw a new car into the air


class Stretch(NamedTuple):
    """A part of the route where traffic is spawned."""

    road: int
    begin: float
    end: float
    lanes: tuple[int, ...]


ROUTE = (
    Stretch(45, 200, 583, RIGHT),
    Stretch(103, 0, 50, RIGHT),
    Stretch(46, 0, 176, RIGHT),
    Stretch(659, 0, 58, LEFT),
    Stretch(47, 0, 117, RIGHT),
    Stretch(558, 0, 34, LEFT),
    Stretch(48, 0, 81, RIGHT),
)
LENGTH = sum(stretch.end - stretch.begin for stretch in ROUTE)


def place(metres: float, lane: int) -> tuple[int, int, float]:
    """Road, lane id and position on the road, given metres along the route and a lane, 0 to 3.

    Raises:
        ValueError: the route is shorter.
    """
    for stretch in ROUTE:
        if metres <= stretch.end - stretch.begin:
            return stretch.road, stretch.lanes[lane], stretch.begin + metres
        metres -= stretch.end - stretch.begin
    raise ValueError(f"the route ends {metres} m before that")


def lane_to_keep(road: int, lane: int) -> tuple[int, int]:
    """The road and lane that a car should keep to; shoulders and exits map to the nearest lane."""
    if 45 <= road <= 50:
        lane = {1: -1, -5: -4}.get(lane, lane)
    elif road in (660, 559, 718) and lane == -1:
        road, lane = road - 1, 1
    if road in (93, 94) or (road, lane) == (103, -4):
        road, lane = 103, -3
    return road, lane


def costs(speed: float, distance: float, impulse: float, steer: float) -> dict[str, float]:
    """The terms of the reward of one tick.

    Args:
        speed: of the car along its lane.
        distance: of the car from the middle of its lane.
        impulse: sum of the norms of the collision impulses.
        steer: steering action in [-1, 1].
    """
    return {
        "distance": speed * DT,
        "centering": 1.5 * max(0.0, distance - 1.75),
        "collision": min(1e-3 * impulse, 10.0),
        "steer": abs(steer),
    }


def reward(cost: dict[str, float]) -> float:
    """`distance / (1 + centering) - collision - steer`."""
    return cost["distance"] / (1 + cost["centering"]) - cost["collision"] - cost["steer"]


def failed(
    ticks: int, road: int, on_the_way: bool, speed: float, rise: float, height: float
) -> str:
    """The reason why the episode terminates, or an empty string. Collisions do not terminate it.

    Args:
        ticks: of the episode, including this one.
        road: the road that the car should keep to.
        on_the_way: the lane to keep to exists and continues.
        speed: of the car in any horizontal direction.
        rise: vertical speed.
        height: above the ground.
    """
    if not on_the_way:
        return "no lane to follow"
    if road in OFF_ROUTE:
        return "off the route"
    if ticks <= SETTLED and (rise > 1 or height > 0.5):
        return "thrown into the air by the simulator"
    if ticks % 100 == 0 and speed < 0.02:
        return "stuck"
    return ""
