"""`driving`: a curving highway of four lanes with other cars, seen through the windscreen.

A stand-in for CARLA's highway that runs anywhere. What the agent sees, does and is paid for is
CARLA's: a camera of 60 degrees, (steering; throttle or brake), highway.reward, 20 steps a second,
1,000 steps an episode, tasks that are weathers. MuJoCo only draws; a kinematic bicycle drives in
the road's own coordinates, and traffic keeps its lanes. The road is new in each episode and is
never straight for long: who does not steer is off it within seconds, which ends the episode.

Over 20 episodes `expert`, which keeps its lane behind whoever is slower, gets 792 (a standard
deviation of 98), the best of 121 constant actions 72 (46), a random policy -121 (84). The return
is about the metres driven less the steering; the weather changes what is seen and nothing else.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs import highway, scenery, weather
from envs.highway import DT
from envs.pixels import MujocoEnv
from envs.rendering import load
from envs.scenery import CARS, EDGE, HOUSES, PAINTS, PIECE, PIECES, TREES, Appearance, Weather

STEPS = 1000
LANES = np.array([-5.25, -1.75, 1.75, 5.25])  # their centres; metres to the left of the road's
START = 50.0  # metres along the road

# The agent's car. Its wheels turn by at most STEER (radians), and grip bounds its acceleration.
STEER, WHEELBASE, GRIP = 0.35, 2.7, 7.0
THROTTLE, BRAKE, TOP_SPEED, MASS = 4.0, 8.0, 30.0, 1200.0
LENGTH, WIDTH = 4.4, 1.8

RING = 600.0  # of traffic: the car last overtaken comes up ahead as the next
SCENERY = 200.0  # of which the same trees and houses come again, at other distances

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
    """The highway in one weather; `info` holds what highway.costs says.

    An episode ends off the road, and at each hundredth step for a car that stands still. Collisions
    cost, but end nothing. The arguments are explained in PixelEnv.
    """

    def __init__(
        self,
        task: str,
        render: str = "fast",
        action_repeat: int = 1,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(2, render, action_repeat, render_mode)
        self._mujoco = load("mujoco")
        self._task = task
        self._painted: bytes | None = None
        model = self._mujoco.MjModel.from_xml_string(scenery.scene())
        self.attach(model, self._mujoco.MjData(model), "windscreen")
        # The road's pieces overlap, and light adds up where surfaces coincide.
        self.data.mocap_pos[1 : PIECES + 1 : 2, 2] = 0.01

    def begin(self, seed: int) -> None:
        """Start the episode that the seed stands for."""
        rng = np.random.default_rng(seed)
        self._road = RoadCurve.draw(rng)
        # Position along the road and left of it, heading off its direction, speed, wheels' angle.
        self.ego = np.array([START, rng.choice(LANES), 0.0, 0.0, 0.0])
        # Of each other car: position, lane, speed, the speed it would like.
        slots = (np.arange(CARS) + rng.uniform(0.2, 0.8, CARS)) * (RING - 60) / CARS
        wishes = rng.uniform(11, 17, CARS)
        self.cars = np.stack([80 + slots, rng.choice(LANES, CARS), wishes, wishes])
        # Of each tree and house: where along the scenery, on which side, how far from the road.
        things = TREES + HOUSES
        along, far = rng.uniform(0, SCENERY, things), rng.uniform(size=things)
        self._scenery = np.stack([along, rng.choice([-1, 1], things), far])
        for i, colour in enumerate(rng.choice(PAINTS, CARS)):
            self.model.geom(f"paint-{i}").rgba[:3] = colour
        self._sky = weather.begin(rng)
        self._elapsed = 0
        self._show()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One step of 0.05 s: reward, whether off the road or stuck, whether 1,000 are done."""
        steer, pedal = map(float, action)
        self._drive(steer, pedal)
        self._flow()
        impulse = self._collide()
        self._sky = weather.advance(self._sky)
        self._elapsed += 1
        at, left, heading, speed, _ = self.ego
        off_road = abs(left) > EDGE or at < 0
        # Where CARLA knows no lane, it counts no speed and a distance of 100 m.
        along = 0.0 if off_road else speed * np.cos(heading)
        off_centre = 100.0 if off_road else np.abs(LANES - left).min()
        costs = highway.costs(float(along), float(off_centre), impulse, steer)
        stuck = self._elapsed % 100 == 0 and speed < 0.02
        self._show()
        return highway.reward(costs), bool(off_road or stuck), self._elapsed >= STEPS, costs

    def expert(self) -> NDArray[np.float32]:
        """A driver who keeps the lane, the distance and, in curves, the speed: float32 (2,)."""
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
        """The bicycle, in the road's coordinates."""
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
        """What the next one ahead in its lane allows each of some cars: m/s, (n,)."""
        ego = self.ego[0], self.ego[1], self.ego[3] * np.cos(self.ego[2])
        places, lanes, speeds = np.column_stack([self.cars[:3], ego])
        gaps = (places - at[:, None] - 0.1) % RING  # (n, everybody)
        gaps = np.where(np.abs(lanes - lane[:, None]) < 1.75, gaps, RING)
        return speeds[gaps.argmin(1)] + 0.5 * (gaps.min(1) - 8 - 0.5 * speed)

    def _flow(self) -> None:
        """Traffic: everybody as fast as they like, or as the one ahead of them lets them."""
        places, lanes, speeds, wishes = self.cars
        change = np.minimum(wishes, self._pace(places, lanes, speeds)) - speeds
        speeds[:] = np.maximum(0, speeds + np.clip(change, -6 * DT, 2 * DT))
        places += DT * speeds
        # Whoever is far behind is far ahead.
        places[:] = self.ego[0] + (places - self.ego[0] + 60) % RING - 60

    def _collide(self) -> float:
        """Push the agent's car out of the others; the impulse of that, N s."""
        total = 0.0
        for car in range(CARS):
            along = self.cars[0, car] - self.ego[0]
            aside = self.cars[1, car] - self.ego[1]
            deep, wide = LENGTH - abs(along), WIDTH - abs(aside)
            if deep <= 0 or wide <= 0:
                continue
            heading, speed = self.ego[2:4]
            if wide < deep:  # side against side: what drove them together is lost
                total += MASS * abs(speed * np.sin(heading))
                self.ego[1] -= np.copysign(wide, aside)
                self.ego[2] = 0.0 if np.cos(heading) > 0 else np.pi
                self.ego[3] = speed * abs(np.cos(heading))
            else:  # one into the other: both go on with their mean speed
                other = self.cars[2, car]
                total += MASS / 2 * abs(speed * np.cos(heading) - other)
                self.ego[0] -= np.copysign(deep, along)
                self.ego[3] = self.cars[2, car] = max(0.0, (speed * np.cos(heading) + other) / 2)
        return total

    @property
    def weather(self) -> Weather:
        """The present weather."""
        if self._task != "dynamic":
            return WEATHERS[self._task]
        now = weather.weather(self._sky)
        return Weather(
            now.cloudiness,
            now.precipitation,
            now.wetness,
            now.sun_altitude_angle,
            now.sun_azimuth_angle,
        )

    def _show(self) -> None:
        """Move everything to where it is, and light it."""
        road, (at, left, heading, *_) = self._road, self.ego
        ends = PIECE * (at // PIECE - 2 + np.arange(PIECES + 1))
        ends, places = road.at(ends, 0.0), self.cars[0]
        way = np.diff(ends, axis=0)
        # The scenery comes again and again, each time at other distances from the road.
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

    def _light(self, look: Appearance) -> None:
        model = self.model
        sun = model.light("sun")
        sun.dir[:] = -look.sun
        sun.pos[:] = self.data.mocap_pos[0] + 40 * look.sun  # shadows are cast near it only
        sun.diffuse[:] = look.sunlight
        model.vis.headlight.ambient[:] = look.ambient
        model.mat("asphalt").rgba[:3] = look.asphalt
        model.mat("grass").rgba[:3] = look.grass
        sky = scenery.sky(look)
        self._renderer.haze(look.horizon, *look.haze)
        if sky.tobytes() != self._painted:
            self._renderer.paint("sky", sky)
            self._painted = sky.tobytes()


class RoadCurve(NamedTuple):
    """The middle of a road whose direction is a sum of waves along it, from 0 to 2,400 m."""

    swing: NDArray[np.float64]  # radians
    length: NDArray[np.float64]  # of each wave
    phase: NDArray[np.float64]
    points: NDArray[np.float64]  # (2400, 2), one a metre

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "RoadCurve":
        """A new road: curves of radii down to 60 m, typically 200."""
        swing, length = np.array([[0.35, 0.08], [300.0, 120.0]]) * rng.uniform(0.8, 1.2, (2, 2))
        road = cls(swing, length, rng.uniform(0, 2 * np.pi, 2), np.empty(0))
        heading = road.heading(np.arange(2400) + 0.5)
        points = np.cumsum([np.cos(heading), np.sin(heading)], axis=1).T
        return road._replace(points=points)

    def _wave(self, at: Any, function: Any, size: NDArray[np.float64]) -> NDArray[np.float64]:
        angle = 2 * np.pi * np.asarray(at)[..., None] / self.length + self.phase
        return (size * function(angle)).sum(-1)

    def heading(self, at: Any) -> NDArray[np.float64]:
        """Direction (radians) at distances along the road."""
        return self._wave(at, np.sin, self.swing)

    def curvature(self, at: Any) -> NDArray[np.float64]:
        """Its derivative; positive to the left."""
        return self._wave(at, np.cos, self.swing * 2 * np.pi / self.length)

    def at(self, at: Any, left: Any) -> NDArray[np.float64]:
        """Points (..., 2) at distances along the road and to the left of its middle."""
        heading, metres = self.heading(at), np.arange(1, len(self.points) + 1)
        x, y = (np.interp(at, metres, axis) for axis in self.points.T)
        return np.stack([x - left * np.sin(heading), y + left * np.cos(heading)], axis=-1)
