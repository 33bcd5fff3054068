"""CARLA's Town04 motorway as in the paper: keep the lane, fast, in one weather or in changing ones.

The simulator is a server, so an environment has three parts: the server, which `carla_server.py`
looks after; `Town04`, the client, in a process of its own; and `Carla`, which begins anew with
both when either fails. docs/carla.md says how to get a server, and what was never tried with one.
"""

import importlib.util
import logging
import queue
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import highway, weather
from envs.apart import Apart
from envs.carla_server import Server, ServerConfig
from envs.errors import EnvError, Interrupted
from envs.pixels import SIZE, PixelEnv

_PRESETS = """
    ClearNoon CloudyNoon WetNoon WetCloudyNoon MidRainyNoon HardRainNoon SoftRainNoon
    ClearSunset CloudySunset WetSunset WetCloudySunset MidRainSunset HardRainSunset SoftRainSunset
"""
# task -> the weather's name in CARLA; None: it changes
TASKS = {re.sub(r"(?<=.)(?=[A-Z])", "-", preset).lower(): preset for preset in _PRESETS.split()} | {
    "dynamic": None
}

MAP = "Town04"
VEHICLES = 20  # besides the agent's; where two would stand in one place there are fewer
TRAFFIC = 6001  # port of the traffic manager, counted from the server's
CAMERA = {"image_size_x": SIZE, "image_size_y": SIZE, "fov": 60, "enable_postprocess_effects": True}
LIFT = 0.1  # metres above the road, where vehicles are put
GRAIN = 0.02  # metres between the waypoints of CARLA's maps

Step = tuple[NDArray[np.uint8], float, bool, bool, dict[str, float]]


class Carla(PixelEnv):
    """One weather of the motorway, such as `wet-sunset`; PixelEnv explains the other arguments.

    Actions are the wheel (right is positive) and the pedals (throttle, or brake if negative).
    `info` holds what highway.costs says. A server that fails is started again, or waited for;
    within an episode Interrupted is raised then, as no simulation can be gone on with.

    Args:
        task: the weather.
        server: where the servers are.
    """

    def __init__(
        self,
        task: str,
        render: str = "fast",
        action_repeat: int = 1,
        render_mode: str | None = None,
        server: ServerConfig | None = None,
    ) -> None:
        super().__init__(2, render, action_repeat, render_mode)
        if importlib.util.find_spec("carla") is None:
            raise EnvError("no module 'carla': pip install carla==0.9.16")
        self._preset = TASKS[task]
        self._client: Apart | None = None
        self._broken = 0  # episodes in a row
        self._image = np.zeros((SIZE, SIZE, 3), np.uint8)
        self._server = Server(server or ServerConfig())
        try:
            self._server.start(wait=False)
        except EnvError:
            self._server.close()
            raise

    def begin(self, seed: int) -> None:
        """Start the episode that the seed stands for, with a new server if it takes one."""
        if not self._over:  # the last episode was left, and had not broken off
            self._broken = 0
        for left in reversed(range(self._server.cfg.attempts)):
            try:
                self._image = self._connected().call("begin", seed)
                return
            except RuntimeError as error:
                where = f"the CARLA server at {self._server.address} begins no episode: {error}"
                if not left:
                    raise EnvError(where) from error
                logging.warning("%s; it is restarted", where)
                self._restart()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One tick of 50 ms: reward, whether it ended badly, whether 999 steps are done, costs."""
        steer, pedals = map(float, action)
        try:
            step = self._client.call("control", steer, pedals)
        except RuntimeError as error:
            self._over = True
            self._broken += 1
            what = f"the CARLA server at {self._server.address} broke off an episode: {error}"
            if self._broken >= self._server.cfg.attempts:
                raise EnvError(f"{what}; that makes {self._broken} in a row") from error
            self._restart()
            raise Interrupted(what) from error
        self._image, reward, terminated, truncated, costs = step
        if terminated or truncated:
            self._broken = 0
        return reward, terminated, truncated, costs

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The camera's picture enlarged, or what of it fits: uint8 (height, width, 3)."""
        row = np.arange(height) * SIZE // height
        column = (np.arange(width) - (width - height) // 2) * SIZE // height
        inside = (column >= 0) & (column < SIZE)
        return self._image[row[:, None], column.clip(0, SIZE - 1)] * inside[:, None]

    def close(self) -> None:
        """Take our vehicles away, and stop the server if it is ours."""
        if self._client is not None:
            try:
                self._client.call("close")
            except RuntimeError as error:
                logging.info("the CARLA server did not say goodbye: %s", error)
        self._disconnect()
        self._server.close()

    def _connected(self) -> Apart:
        if self._client is None:
            cfg = self._server.cfg
            arguments = (self._preset, cfg.host, self._server.port, cfg.answer_seconds)
            self._server.start()
            # A call takes several answers of the server, and loading the map takes longest.
            seconds = cfg.start_seconds + cfg.answer_seconds
            self._client = Apart(Town04, *arguments, seconds=seconds)
        return self._client

    def _restart(self) -> None:
        self._disconnect()
        self._server.restart()

    def _disconnect(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Town04:
    """The client: the agent's car, the traffic around it and the sky above, tick by tick.

    Whatever fails on the side of the server is a RuntimeError. In a process of its own, because a
    tick steps the traffic managers of all servers that a process knows, and one whose server is
    dead ends the process.

    Args:
        preset: the weather's name in CARLA, or None for the changing one.
        host: of the server.
        port: of the server.
        seconds: to wait for any answer of it.

    Raises:
        EnvError: the server is of another version, or its Town04 is another one.
    """

    def __init__(self, preset: str | None, host: str, port: int, seconds: float) -> None:
        import carla

        self._carla, self._preset, self._port, self._seconds = carla, preset, port, seconds
        self._client = carla.Client(host, port)
        self._client.set_timeout(seconds)
        ours, theirs = self._client.get_client_version(), self._client.get_server_version()
        if ours != theirs:
            raise EnvError(
                f"the CARLA server at {host}:{port} is {theirs}, the client {ours}; they must be"
                f" equal: take the server {ours}, or pip install carla=={theirs}"
            )
        self._actors: list[int] = []
        self._sensors: list[Any] = []
        self._world = self._client.load_world(MAP)  # which removes whatever was in it
        self._freely = self._world.get_settings()
        in_step = carla.WorldSettings(
            synchronous_mode=True, no_rendering_mode=False, fixed_delta_seconds=highway.DT
        )
        self._world.apply_settings(in_step)
        self._map = self._world.get_map()
        self._check_roads()
        library = self._world.get_blueprint_library()
        self._car = library.find("vehicle.audi.a2")
        self._eye = library.find("sensor.camera.rgb")
        for name, value in CAMERA.items():
            self._eye.set_attribute(name, str(value))
        self._bumper = library.find("sensor.other.collision")
        wheels = [(each.id, each.get_attribute("number_of_wheels")) for each in self._all(library)]
        self._others = [library.find(name) for name, n in sorted(wheels) if n.as_int() == 4]

    def begin(self, seed: int) -> NDArray[np.uint8]:
        """The first frame of the episode that the seed stands for."""
        self._clear()
        rng = np.random.default_rng(seed)
        self._sky = weather.advance(weather.begin(rng))
        self._show_weather()
        lane = int(rng.choice(highway.RIGHT))
        self._vehicle = self._world.spawn_actor(
            self._car, self._above(highway.START_ROAD, lane, highway.START)
        )
        self._actors.append(self._vehicle.id)
        self._world.tick(self._seconds)
        self._add_traffic(rng)
        self._world.tick(self._seconds)
        self._images, self._collisions = queue.Queue(), queue.Queue()
        front = self._carla.Transform(self._carla.Location(x=1.6, z=1.7))
        self._attach(self._eye, front, self._images)
        self._attach(self._bumper, self._carla.Transform(), self._collisions)
        self._ticks = 0
        return self._tick()

    def control(self, steer: float, pedals: float) -> Step:
        """Turn the wheel, press a pedal, let 50 ms pass; frame, reward, two kinds of end, costs."""
        self._vehicle.apply_control(
            self._carla.VehicleControl(
                throttle=max(pedals, 0.0), steer=steer, brake=max(-pedals, 0.0)
            )
        )
        image = self._tick()
        location, velocity = self._vehicle.get_location(), self._vehicle.get_velocity()
        road, distance, along = self._follow(location, velocity)
        costs = highway.costs(along or 0.0, distance, self._impulse(), steer)
        failed = highway.failed(
            self._ticks,
            road,
            along is not None,
            float(np.hypot(velocity.x, velocity.y)),
            velocity.z,
            location.z,
        )
        if failed:
            logging.debug("the episode ends in tick %d: %s", self._ticks, failed)
        if self._preset is None:
            self._sky = weather.advance(self._sky)
            self._show_weather()
        late = self._ticks >= highway.TICKS and not failed
        return image, highway.reward(costs), bool(failed), late, costs

    def close(self) -> None:
        """Leave the server as it was found, with its own time."""
        self._clear()
        self._world.apply_settings(self._freely)

    def _tick(self) -> NDArray[np.uint8]:
        """Let the world take a step; the picture of that very step, which may come late."""
        frame = self._world.tick(self._seconds)
        self._ticks += 1
        while True:
            try:
                image = self._images.get(timeout=self._seconds)
            except queue.Empty:
                raise RuntimeError(f"no picture within {self._seconds:g} s") from None
            if image.frame == frame:
                break
        pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
        return pixels[..., 2::-1].copy()  # BGRA

    def _follow(self, location: Any, velocity: Any) -> tuple[int, float, float | None]:
        """Road to keep to, distance from the lane to keep, speed along it (None: there is none)."""
        driving = self._carla.LaneType.Driving
        here = self._map.get_waypoint(location, project_to_road=True, lane_type=driving)
        road, lane = highway.lane_to_keep(here.road_id, here.lane_id)
        for s in (here.s, here.s - GRAIN, here.s + GRAIN):
            goal = self._map.get_waypoint_xodr(road, lane, s)
            if goal is not None:
                break
        else:
            return road, 100.0, None
        middle = goal.transform.location
        distance = float(np.hypot(location.x - middle.x, location.y - middle.y))
        ahead = goal.next(0.1)
        if not ahead:
            return road, distance, None
        further = ahead[0].transform.location
        way = np.array([further.x - middle.x, further.y - middle.y])
        way /= np.linalg.norm(way)
        return road, distance, float(way @ [velocity.x, velocity.y])

    def _impulse(self) -> float:
        """All collisions since the last step. One that is told late counts in a later step."""
        total = 0.0
        while not self._collisions.empty():
            total += self._collisions.get().normal_impulse.length()
        return total

    def _show_weather(self) -> None:
        kinds = self._carla.WeatherParameters
        if self._preset is None:
            self._world.set_weather(kinds(**weather.weather(self._sky)._asdict()))
        else:
            self._world.set_weather(getattr(kinds, self._preset))

    def _add_traffic(self, rng: np.random.Generator) -> None:
        """Other vehicles all along the route, 30 % below the speed limit."""
        command, port = self._carla.command, self._port + TRAFFIC
        manager = self._client.get_trafficmanager(port)
        manager.set_synchronous_mode(True)
        manager.set_random_device_seed(int(rng.integers(2**31)))
        manager.set_global_distance_to_leading_vehicle(2.0)
        manager.global_percentage_speed_difference(30.0)
        batch = []
        for _ in range(VEHICLES):
            road, lane, s = highway.place(rng.uniform(0, highway.LENGTH), int(rng.integers(4)))
            kind = self._others[rng.integers(len(self._others))]
            for name in ("color", "driver_id"):
                if kind.has_attribute(name):
                    values = kind.get_attribute(name).recommended_values
                    kind.set_attribute(name, values[rng.integers(len(values))])
            kind.set_attribute("role_name", "autopilot")
            drive = command.SetAutopilot(command.FutureActor, True, port)
            batch.append(command.SpawnActor(kind, self._above(road, lane, s)).then(drive))
        answers = self._client.apply_batch_sync(batch, False)
        self._actors += [answer.actor_id for answer in answers if not answer.has_error()]

    def _attach(self, kind: Any, where: Any, to: queue.Queue) -> None:
        sensor = self._world.spawn_actor(kind, where, attach_to=self._vehicle)
        self._sensors.append(sensor)
        sensor.listen(to.put)

    def _clear(self) -> None:
        """Take away what the last episode put into the world."""
        for sensor in self._sensors:
            sensor.stop()
        gone = [sensor.id for sensor in self._sensors] + self._actors
        destroy = [self._carla.command.DestroyActor(actor) for actor in gone]
        self._client.apply_batch_sync(destroy, False)
        self._sensors, self._actors = [], []
        self._world.tick(self._seconds)  # so that their places are free

    def _above(self, road: int, lane: int, s: float) -> Any:
        place = self._map.get_waypoint_xodr(road, lane, s).transform
        place.location.z += LIFT
        return place

    def _all(self, library: Any) -> list[Any]:
        """The kinds of vehicle that say how many wheels they have."""
        vehicles = library.filter("vehicle.*")
        return [each for each in vehicles if each.has_attribute("number_of_wheels")]

    def _check_roads(self) -> None:
        """The route is one of road numbers, which another edition of the map may have changed."""
        start = highway.Stretch(highway.START_ROAD, highway.START, highway.START, highway.RIGHT)
        for stretch in (start, *highway.ROUTE):
            for lane in stretch.lanes:
                s = (stretch.begin + stretch.end) / 2
                if self._map.get_waypoint_xodr(stretch.road, lane, s) is None:
                    raise EnvError(
                        f"this {MAP} has no road {stretch.road} with lane {lane} at {s:g} m: it is"
                        " not the map of CARLA 0.9.8 that the route was made for (docs/carla.md)"
                    )
