"""CARLA's Town04 motorway as in the paper: lane keeping at speed, in fixed or dynamic weather.

The simulator is a server, which `carla_server.py` starts. A server that dies or hangs ends the run
with an EnvError; a retry resumes from the last checkpoint. docs/carla.md explains how to get a
server, and what was never tested with one.
"""

import contextlib
import importlib.util
import logging
import queue
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import highway, weather
from envs.carla_server import EXAMPLE, HOST, Server, ServerConfig, free_port
from envs.errors import EnvError
from envs.pixels import SIZE, PixelEnv

_PRESETS = """
    ClearNoon CloudyNoon WetNoon WetCloudyNoon MidRainyNoon HardRainNoon SoftRainNoon
    ClearSunset CloudySunset WetSunset WetCloudySunset MidRainSunset HardRainSunset SoftRainSunset
"""
# task -> the name of CARLA's weather preset; None: dynamic weather
TASKS = {re.sub(r"(?<=.)(?=[A-Z])", "-", preset).lower(): preset for preset in _PRESETS.split()} | {
    "dynamic": None
}

MAP = "Town04"
VEHICLES = 20  # besides the agent's; fewer if spawn positions collide
CAMERA = {"image_size_x": SIZE, "image_size_y": SIZE, "fov": 60, "enable_postprocess_effects": True}
LIFT = 0.1  # metres above the road at which vehicles are spawned
GRAIN = 0.02  # metres between the waypoints of CARLA's maps


class Carla(PixelEnv):
    """The motorway in one weather, such as `wet-sunset`; for the other arguments see PixelEnv.

    Actions are steering (right is positive) and pedals (throttle, or brake if negative). `info`
    holds `highway.costs`. The server starts with the first episode.

    Args:
        task: the weather.
        server: how to start a server.

    Raises:
        EnvError: no `carla` package or no server command. `reset` and `step` raise it if the
            server does not start, fails, does not answer in time, or has another version or map.
    """

    _images: queue.Queue[Any]
    _collisions: queue.Queue[Any]

    def __init__(self, task: str, server: ServerConfig | None = None, **options: Any) -> None:
        super().__init__(2, **options)
        if importlib.util.find_spec("carla") is None:
            raise EnvError("no module 'carla': pip install 'contextwm[carla]'")
        if server is None:
            raise EnvError(
                "set env.server.command to a command that starts a CARLA server, such as"
                f" {EXAMPLE!r}; or use the suite `driving`, which needs none (docs/carla.md)"
            )
        self._preset = TASKS[task]
        self._server, self._seconds = Server(server), server.answer_seconds
        self._client: Any = None  # while a server runs
        self._image = np.zeros((SIZE, SIZE, 3), np.uint8)

    def begin(self, seed: int) -> None:
        """Start an episode; the first one starts the server."""
        rng = np.random.default_rng(seed)
        with self._failing():
            if self._client is None:
                self._connect()
            self._clear()
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
            self._attach(self._camera, front, self._images)
            self._attach(self._collision_sensor, self._carla.Transform(), self._collisions)
            self._ticks = 0
            self._tick()

    def control(self, action: NDArray[np.float32]) -> tuple[float, bool, bool, dict[str, Any]]:
        """One tick of 50 ms: reward, failed (`highway.failed`), 999 steps done, costs."""
        steer, pedals = map(float, action)
        throttle, brake = max(pedals, 0.0), max(-pedals, 0.0)
        with self._failing():
            command = self._carla.VehicleControl(throttle=throttle, steer=steer, brake=brake)
            self._vehicle.apply_control(command)
            self._tick()
            location, velocity = self._vehicle.get_location(), self._vehicle.get_velocity()
            road, distance, along = self._follow(location, velocity)
            if self._preset is None:
                self._sky = weather.advance(self._sky)
                self._show_weather()
        costs = highway.costs(along or 0.0, distance, self._impulse(), steer)
        speed = float(np.hypot(velocity.x, velocity.y))
        on_the_way = along is not None
        failed = highway.failed(self._ticks, road, on_the_way, speed, velocity.z, location.z)
        if failed:
            logging.debug("episode ended in tick %d: %s", self._ticks, failed)
        late = self._ticks >= highway.TICKS and not failed
        return highway.reward(costs), bool(failed), late, costs

    def frame(self, height: int = SIZE, width: int = SIZE) -> NDArray[np.uint8]:
        """The camera's image enlarged and centred, black at the sides: uint8 (height, width, 3)."""
        row = np.arange(height) * SIZE // height
        column = (np.arange(width) - (width - height) // 2) * SIZE // height
        inside = (column >= 0) & (column < SIZE)
        return self._image[row[:, None], column.clip(0, SIZE - 1)] * inside[:, None]

    def close(self) -> None:
        """Destroy our actors, stop the traffic manager's thread, then stop the server."""
        if self._client is not None:
            with contextlib.suppress(RuntimeError):
                self._clear()
                self._manager.shut_down()
        self._client = None
        self._server.stop()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """If the server fails, stop it, end the episode and raise EnvError."""
        try:
            yield
        except (RuntimeError, EnvError) as error:
            self._client, self._over = None, True
            self._server.stop()
            if isinstance(error, EnvError):
                raise
            raise EnvError(f"the CARLA server failed: {error} (log: {self._server.log})") from error

    def _connect(self) -> None:
        """Start the server and prepare what lasts longer than an episode."""
        import carla

        self._server.start()
        self._carla = carla
        client = carla.Client(HOST, self._server.port)
        client.set_timeout(self._seconds)
        ours, theirs = client.get_client_version(), client.get_server_version()
        if ours != theirs:
            raise EnvError(
                f"the CARLA server is {theirs} and the client {ours}; install the server {ours}"
                f" or the client: pip install carla=={theirs}"
            )
        self._actors: list[int] = []
        self._sensors: list[Any] = []
        self._world = client.load_world(MAP)
        synchronous = carla.WorldSettings(
            synchronous_mode=True, no_rendering_mode=False, fixed_delta_seconds=highway.DT
        )
        self._world.apply_settings(synchronous)
        self._map = self._world.get_map()
        self._check_roads()
        self._traffic_port = free_port()
        self._manager = client.get_trafficmanager(self._traffic_port)
        library = self._world.get_blueprint_library()
        self._car = library.find("vehicle.audi.a2")
        self._camera = library.find("sensor.camera.rgb")
        for name, value in CAMERA.items():
            self._camera.set_attribute(name, str(value))
        self._collision_sensor = library.find("sensor.other.collision")
        vehicles = [v for v in library.filter("vehicle.*") if v.has_attribute("number_of_wheels")]
        wheels = [(v.id, v.get_attribute("number_of_wheels").as_int()) for v in vehicles]
        self._others = [library.find(name) for name, n in sorted(wheels) if n == 4]
        self._client = client

    def _tick(self) -> None:
        """Advance the world by one tick and wait for that tick's image, which may arrive late."""
        frame = self._world.tick(self._seconds)
        self._ticks += 1
        while True:
            try:
                image = self._images.get(timeout=self._seconds)
            except queue.Empty:
                raise RuntimeError(f"no image within {self._seconds:g} s") from None
            if image.frame == frame:
                break
        pixels = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
        self._image = pixels[..., 2::-1].copy()  # BGRA

    def _follow(self, location: Any, velocity: Any) -> tuple[int, float, float | None]:
        """Road to keep to, distance from its lane (m), speed along it (m/s, None without lane)."""
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
        """Sum of the collision impulses received since the last step (N s)."""
        total = 0.0
        while not self._collisions.empty():
            total += self._collisions.get().normal_impulse.length()
        return total

    def _show_weather(self) -> None:
        kinds = self._carla.WeatherParameters
        if self._preset is None:
            now = kinds(**weather.weather(self._sky)._asdict())
        else:
            now = getattr(kinds, self._preset)
        self._world.set_weather(now)

    def _add_traffic(self, rng: np.random.Generator) -> None:
        """Spawn other vehicles all along the route; they drive 30 % below the speed limit."""
        command, manager = self._carla.command, self._manager
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
            drive = command.SetAutopilot(command.FutureActor, True, self._traffic_port)
            batch.append(command.SpawnActor(kind, self._above(road, lane, s)).then(drive))
        answers = self._client.apply_batch_sync(batch, False)
        self._actors += [answer.actor_id for answer in answers if not answer.has_error()]

    def _attach(self, kind: Any, where: Any, to: queue.Queue) -> None:
        sensor = self._world.spawn_actor(kind, where, attach_to=self._vehicle)
        self._sensors.append(sensor)
        sensor.listen(to.put)

    def _clear(self) -> None:
        """Destroy the actors of the last episode."""
        for sensor in self._sensors:
            sensor.stop()
        gone = [sensor.id for sensor in self._sensors] + self._actors
        destroy = [self._carla.command.DestroyActor(actor) for actor in gone]
        self._client.apply_batch_sync(destroy, False)
        self._sensors, self._actors = [], []
        self._world.tick(self._seconds)  # destroyed actors occupy their places until a tick

    def _above(self, road: int, lane: int, s: float) -> Any:
        place = self._map.get_waypoint_xodr(road, lane, s).transform
        place.location.z += LIFT
        return place

    def _check_roads(self) -> None:
        """Check that the map has the roads of the route; other versions may have other road ids."""
        start = highway.Stretch(highway.START_ROAD, highway.START, highway.START, highway.RIGHT)
        for stretch in (start, *highway.ROUTE):
            for lane in stretch.lanes:
                s = (stretch.begin + stretch.end) / 2
                if self._map.get_waypoint_xodr(stretch.road, lane, s) is None:
                    raise EnvError(
                        f"{MAP} has no road {stretch.road} with lane {lane} at {s:g} m; the route"
                        " needs the map of CARLA 0.9.8 (docs/carla.md)"
                    )
