"""`driving`: a curved highway with four lanes and traffic, seen through the windscreen.

A substitute for CARLA's highway without a server. Observations, actions and rewards are those of
`envs.carla`: a camera of 60 degrees, (steering; throttle or brake), `highway.reward`, 20 steps per
second, 1,000 steps per episode, one task per weather. MuJoCo only renders. The agent's car is a
kinematic bicycle in the road's coordinates; the other cars keep their lanes. Each episode has a new
road, so curved that a car that does not steer leaves it within seconds, which ends the episode.

Mean returns of 20 episodes (standard deviation): 792 (98) for `expert`, which follows its lane and
the car ahead, 72 (46) for the best of 121 constant actions, -121 (84) for a random policy. The
return is roughly the distance in metres less the steering. Weather affects only the frames.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import highway, scenery, weather
from envs.highway import DT
from envs.pixels import MujocoEnv
from envs.rendering import load
from envs.scenery import CARS, EDGE, HOUSES, PAINTS, PIECE, PIECES, TREES, Appearance
from envs.weather import Weather

STEPS = 1000
LANES = np.array([-5.25, -1.75, 1.75, 5.25])  # centres; metres to the left of the road's middle
START = 50.0  # metres along the road

# The agent's car: largest wheel angle (radians), wheelbase (m), largest lateral acceleration.
STEER, WHEELBASE, GRIP = 0.35, 2.7, 7.0
THROTTLE, BRAKE, TOP_SPEED, MASS = 4.0, 8.0, 30.0, 1200.0
LENGTH, WIDTH = 4.4, 1.8

RING = 600.0  # metres; the other cars wrap around a ring of this length
SCENERY = 200.0  # metres after which trees and houses repeat, at other distances from the road

_SKIES = {
    "clear": (5, 0, 0),
    "cloudy": (70, 0, 0),
    "wet": (20, 0, 60),
    "wet-cloudy": (75, 0, 60),
    "soft-rain": (60, 25, 60),
    "mid-rain": (80, 55, 80),
    "hard-rain": (100, 100, 100),
}
WEATHERS = {
    f"{sky}-{hour}": Weather(*numbers, altitude)
    for sky, numbers in _SKIES.items()
    for hour, altitude in (("noon", 60), ("sunset", 8))
}
WEATHERS["mid-rainy-noon"] = WEATHERS.pop("mid-rain-noon")  # CARLA's name
TASKS = [*WEATHERS, "dynamic"]


class Driving(MujocoEnv):
    """The highway in one weather, such as `wet-sunset`; for the other arguments see PixelEnv.

    An episode terminates when the car leaves the road, or stands still at a multiple of 100 steps.
    Collisions reduce the reward without terminating it. `info` holds `highway.costs`.
    """

    def __init__(self, task: str, **options: Any) -> None:
        super().__init__(2, **options)
        self._mujoco = load("mujoco")
        self._task = task
        self._painted: bytes | None = None
        model = self._mujoco.MjModel.from_xml_string(scenery.scene())
        self.attach(model, self._mujoco.MjData(model), "windscreen")
        # The road's pieces overlap. Raise every other one: light adds up where surfaces coincide.
        self.data.mocap_pos[1 : PIECES + 1 : 2, 2] = 0.01

    def begin(self, seed: int) -> None:
        """Start an episode; the seed determines road, traffic, scenery and weather."""
        rng = np.random.default_rng(seed)
        self._road = RoadCurve.draw(rng)
        # Position along and left of the road, heading relative to it, speed, wheel angle.
        self.ego = np.array([START, rng.choice(LANES), 0.0, 0.0, 0.0])
        # Of the other cars: position along the road, lane, speed, desired speed.
        slots = (np.arange(CARS) + rng.uniform(0.2, 0.8, CARS)) * (RING - 60) / CARS
        wishes = rng.uniform(11, 17, CARS)
        self.cars = np.stack([80 + slots, rng.choice(LANES, CARS), wishes, wishes])
        # Of trees and houses: position along the scenery, side (-1 or 1), distance from the road.
        things = TREES + HOUSES
        along, far = rng.uniform(0, SCENERY, things), rng.uniform(size=things)
        self._scenery = np.stack([along, rng.choice([-1, 1], things), far])
        for i, colour in enumerate(rng.choice(PAINTS, CARS)):
            self.model.geom(f"paint-{i}").rgba[:3] = colour
        self._sky = weather.begin(rng)
        self._elapsed = 0
        self._show()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step of 0.05 s: reward, terminated (off the road or stuck), truncated, costs."""
        steer, pedal = map(float, action)
        self._drive(steer, pedal)
        self._flow()
        impulse = self._collide()
        self._sky = weather.advance(self._sky)
        self._elapsed += 1
        at, left, heading, speed, _ = self.ego
        off_road = abs(left) > EDGE or at < 0
        # As in CARLA: without a lane, the speed along it is 0 and the distance 100 m.
        along = 0.0 if off_road else speed * np.cos(heading)
        off_centre = 100.0 if off_road else np.abs(LANES - left).min()
        costs = highway.costs(float(along), float(off_centre), impulse, steer)
        stuck = self._elapsed % 100 == 0 and speed < 0.02
        self._show()
        return highway.reward(costs), bool(off_road or stuck), self._elapsed >= STEPS, costs

    def expert(self) -> NDArray[np.float32]:
        """Action (2,) of a controller that keeps lane and distance and slows down in curves."""
        at, left, heading, speed, _ = self.ego
        lane = LANES[np.abs(LANES - left).argmin()]
        bend = np.abs(self._road.curvature(at + np.arange(0, 40, 5))).max()
        (pace,) = self._pace(self.ego[:1], np.array([lane]), speed)
        pedal = min(24.0, np.sqrt(0.6 * GRIP / bend), pace) - speed + (speed / TOP_SPEED) ** 2
        speed = max(speed, 5.0)
        turn = self._road.curvature(at + 0.15 * speed)
        turn -= (left - lane) / speed**2 + 2 * heading / speed
        steer = np.arctan(WHEELBASE * turn) / STEER
        return np.clip([steer, pedal], -1, 1).astype(np.float32)

    def _drive(self, steer: float, pedal: float) -> None:
        """Move the agent's car: a kinematic bicycle in the road's coordinates."""
        at, left, heading, speed, wheel = self.ego
        wheel += 0.4 * (STEER * steer - wheel)
        drag = THROTTLE * (speed / TOP_SPEED) ** 2 + 0.1
        force = THROTTLE * pedal if pedal > 0 else BRAKE * pedal
        speed = max(0.0, speed + DT * (force - drag))
        limit = GRIP / max(speed, 1.0) ** 2
        turn = np.clip(np.tan(wheel) / WHEELBASE, -limit, limit)
        bend = self._road.curvature(at)
        along = speed * np.cos(heading) / (1 - bend * left)
        left += DT * speed * np.sin(heading)
        heading += DT * (speed * turn - along * bend)
        self.ego[:] = at + DT * along, left, heading, speed, wheel

    def _pace(self, at: Any, lane: Any, speed: Any) -> NDArray[np.float64]:
        """The speed (m/s) that the next car ahead in its lane allows each of n cars, (n,)."""
        ego = self.ego[0], self.ego[1], self.ego[3] * np.cos(self.ego[2])
        places, lanes, speeds = np.column_stack([self.cars[:3], ego])
        gaps = (places - at[:, None] - 0.1) % RING  # (n, all cars)
        gaps = np.where(np.abs(lanes - lane[:, None]) < 1.75, gaps, RING)
        return speeds[gaps.argmin(1)] + 0.5 * (gaps.min(1) - 8 - 0.5 * speed)

    def _flow(self) -> None:
        """Move the other cars: at their desired speed, or slower behind another car."""
        places, lanes, speeds, wishes = self.cars
        change = np.minimum(wishes, self._pace(places, lanes, speeds)) - speeds
        speeds[:] = np.maximum(0, speeds + np.clip(change, -6 * DT, 2 * DT))
        places += DT * speeds
        # Cars wrap around the ring: one that is 60 m behind reappears ahead.
        places[:] = self.ego[0] + (places - self.ego[0] + 60) % RING - 60

    def _collide(self) -> float:
        """Resolve collisions of the agent's car; return the sum of their impulses (N s)."""
        total = 0.0
        for car in range(CARS):
            along = self.cars[0, car] - self.ego[0]
            aside = self.cars[1, car] - self.ego[1]
            deep, wide = LENGTH - abs(along), WIDTH - abs(aside)
            if deep <= 0 or wide <= 0:
                continue
            heading, speed = self.ego[2:4]
            if wide < deep:  # side collision: the lateral speed is lost
                total += MASS * abs(speed * np.sin(heading))
                self.ego[1] -= np.copysign(wide, aside)
                self.ego[2] = 0.0 if np.cos(heading) > 0 else np.pi
                self.ego[3] = speed * abs(np.cos(heading))
            else:  # rear-end collision: both continue at their mean speed
                other = self.cars[2, car]
                total += MASS / 2 * abs(speed * np.cos(heading) - other)
                self.ego[0] -= np.copysign(deep, along)
                self.ego[3] = self.cars[2, car] = max(0.0, (speed * np.cos(heading) + other) / 2)
        return total

    @property
    def weather(self) -> Weather:
        """The current weather."""
        return WEATHERS.get(self._task) or weather.weather(self._sky)

    def _show(self) -> None:
        """Write positions, light and colours into the model."""
        road, (at, left, heading, *_) = self._road, self.ego
        ends = PIECE * (at // PIECE - 2 + np.arange(PIECES + 1))
        ends, places = road.at(ends, 0.0), self.cars[0]
        way = np.diff(ends, axis=0)
        # The scenery repeats, each time at other distances from the road.
        lap = np.ceil((at - 20 - self._scenery[0]) / SCENERY)
        along = self._scenery[0] + lap * SCENERY
        far = (self._scenery[2] + 0.618 * lap) % 1
        aside = np.where(np.arange(len(far)) < TREES, 13 + 30 * far**2, 24 + 20 * far)
        spots = [
            road.at(at, left)[None],
            ends[:-1] + way / 2,
            road.at(places, self.cars[1]),
            road.at(along, self._scenery[1] * aside),
        ]
        yaws = [
            np.array([road.heading(at) + heading]),
            np.arctan2(way[:, 1], way[:, 0]),
            road.heading(places),
            road.heading(along),
        ]
        half = np.concatenate(yaws) / 2
        self.data.mocap_pos[:, :2] = np.concatenate(spots)
        self.data.mocap_quat[:, 0], self.data.mocap_quat[:, 3] = np.cos(half), np.sin(half)
        self._light(scenery.appearance(self.weather))
        self._mujoco.mj_kinematics(self.model, self.data)
        self._mujoco.mj_camlight(self.model, self.data)

    def _light(self, appearance: Appearance) -> None:
        model = self.model
        sun = model.light("sun")
        sun.dir[:] = -appearance.sun
        sun.pos[:] = self.data.mocap_pos[0] + 40 * appearance.sun  # shadows exist only nearby
        sun.diffuse[:] = appearance.sunlight
        model.vis.headlight.ambient[:] = appearance.ambient
        model.mat("asphalt").rgba[:3] = appearance.asphalt
        model.mat("grass").rgba[:3] = appearance.grass
        sky = scenery.sky(appearance)
        self._renderer.haze(appearance.horizon, *appearance.haze)
        if sky.tobytes() != self._painted:
            self._renderer.paint("sky", sky)
            self._painted = sky.tobytes()


class RoadCurve(NamedTuple):
    """The middle of a road of 2,400 m whose heading is a sum of two sine waves along it."""

    swing: NDArray[np.float64]  # amplitudes (2,), radians
    length: NDArray[np.float64]  # wavelengths (2,), metres
    phase: NDArray[np.float64]  # (2,), radians
    points: NDArray[np.float64]  # (2400, 2), one per metre

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "RoadCurve":
        """A random road; its curves have radii from 60 m, typically 200 m."""
        swing, length = np.array([[0.35, 0.08], [300.0, 120.0]]) * rng.uniform(0.8, 1.2, (2, 2))
        road = cls(swing, length, rng.uniform(0, 2 * np.pi, 2), np.empty(0))
        heading = road.heading(np.arange(2400) + 0.5)
        points = np.cumsum([np.cos(heading), np.sin(heading)], axis=1).T
        return road._replace(points=points)

    def _wave(self, at: Any, function: Any, size: NDArray[np.float64]) -> NDArray[np.float64]:
        angle = 2 * np.pi * np.asarray(at)[..., None] / self.length + self.phase
        return (size * function(angle)).sum(-1)

    def heading(self, at: Any) -> NDArray[np.float64]:
        """Heading (radians) at distances along the road."""
        return self._wave(at, np.sin, self.swing)

    def curvature(self, at: Any) -> NDArray[np.float64]:
        """Curvature (1/m) at distances along the road; positive to the left."""
        return self._wave(at, np.cos, self.swing * 2 * np.pi / self.length)

    def at(self, at: Any, left: Any) -> NDArray[np.float64]:
        """Points (..., 2) at distances along the road and to the left of its middle."""
        heading, metres = self.heading(at), np.arange(1, len(self.points) + 1)
        x, y = (np.interp(at, metres, axis) for axis in self.points.T)
        return np.stack([x - left * np.sin(heading), y + left * np.cos(heading)], axis=-1)
