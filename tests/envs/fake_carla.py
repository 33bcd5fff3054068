"""A fake of CARLA's client: a small motorway behind the interface of the installed `carla` package.

Values (Transform, WeatherParameters, VehicleControl, most commands, ...) are the package's own
classes. Classes that need a server are faked by the rules of CARLA's documentation: in synchronous
mode time advances only in ticks; sensors call back from another thread, after the tick returns; an
actor is at the origin until the first tick; calls to a dead server time out.

`mirrors` checks a fake against the real class. Boost.Python puts the signatures of its functions
into their docstrings. Every public name of a fake must exist in the real class, and every call must
fit one of its signatures in names, number and types. A member that cannot be checked raises.
"""

import contextlib
import fnmatch
import inspect
import itertools
import math
import queue
import random
import re
import sys
import threading
import time
import types
import weakref

import carla as real

from envs import carla

DT = 0.05
LANE = 3.5  # metres
# road: its start along the route (m), its length (m), its lanes
ROADS, _at = {}, 0
for _road, _length in ((45, 583), (103, 50), (46, 176), (659, 58), (47, 117), (558, 34), (48, 81)):
    _right = (-1, -2, -3, -4, -5) if _road == 45 else (-1, -2, -3, -4)  # -5 is an exit lane
    ROADS[_road] = (_at, _length, (1, 2, 3, 4) if _road in (659, 558) else _right)
    _at += _length
END = _at

# The signatures

PARAMETER = re.compile(r"\((\w+)\)(\w+)(=?)")
FAKES = {}  # name of a real class -> its fake


def signatures(function):
    """Signature and parameter types of each overload of a Boost.Python function."""
    found = []
    for line in (function.__doc__ or "").splitlines():
        if not re.match(rf"{function.__name__}\(.*\) -> \w+ :$", line):
            continue
        parameters, kinds = [], {}
        for kind, name, default in PARAMETER.findall(line):
            unnamed = re.fullmatch(r"arg\d+", name)
            p = inspect.Parameter
            parameters.append(
                p(
                    name,
                    p.POSITIONAL_ONLY if unnamed else p.POSITIONAL_OR_KEYWORD,
                    default=None if default else p.empty,
                )
            )
            kinds[name] = kind
        found.append((inspect.Signature(parameters), kinds))
    if not found:
        raise TypeError(f"{function!r} documents no signature")
    return found


def suits(value, kind):
    """Whether Boost.Python would convert the value; it rejects numpy scalars."""
    match kind:
        case "object":
            return True
        case "float":
            return isinstance(value, (int, float))
        case "int" | "GBufferTextureID":  # an enum registered in place of int
            return isinstance(value, int)
        case "bool":
            return isinstance(value, (bool, int))
        case "str" | "list":
            return isinstance(value, {"str": str, "list": list}[kind])
    classes = (FAKES.get(kind), getattr(real, kind, None))
    found = tuple(c for c in classes if c is not None)
    return isinstance(value, found) if found else False


def fitting(function, receiver, arguments, named):
    """The given arguments by name, in order; TypeError if no overload accepts them."""
    for signature, kinds in signatures(function):
        with contextlib.suppress(TypeError):
            bound = signature.bind(receiver, *arguments, **named)
            given = list(bound.arguments.items())[1:]
            if all(suits(value, kinds[name]) for name, value in given):
                return dict(given)
    shown = ", ".join([*map(repr, arguments), *(f"{n}={v!r}" for n, v in named.items())])
    raise TypeError(f"the real {function.__name__} does not take ({shown}): {function.__doc__}")


def mirrors(original):
    """Class decorator: check public names and calls against those of `original`."""

    def decorate(imitation):
        for name, mine in list(vars(imitation).items()):
            if name.startswith("_") and name not in ("__init__", "__iter__", "__len__"):
                continue
            theirs = getattr(original, name, None)
            if name == "__init__" and type(theirs).__name__ == "builtin_function_or_method":
                continue  # "this class cannot be instantiated from Python"
            if theirs is None:
                raise TypeError(f"{original} has no {name}")
            if isinstance(mine, property) != isinstance(theirs, property):
                raise TypeError(f"{name} is a property in one only of {original} and its imitation")
            if callable(mine) and name not in ("__iter__", "__len__"):
                setattr(imitation, name, _checked(mine, theirs))
        FAKES[original.__name__] = imitation
        return imitation

    return decorate


def _checked(mine, theirs):
    signatures(theirs)  # raises now if there are none

    def call(self, *arguments, **named):
        given = fitting(theirs, self, arguments, named)
        unnamed = [name for name in given if re.fullmatch(r"arg\d+", name)]
        return mine(self, *(given.pop(name) for name in unnamed), **given)

    return call


class Imitation:
    """Base class of fakes: only attributes of the real class can be set."""

    def __setattr__(self, name, value):
        place = getattr(type(self), name, None)
        if not name.startswith("_") and not (isinstance(place, property) and place.fset):
            raise AttributeError(f"{type(self).__name__} has no {name} to be set")
        object.__setattr__(self, name, value)


# The server


class Simulator:
    """A server on a port, which tests can kill, delay and inspect."""

    def __init__(self, port=2000, version=None):
        self.port, self.version = port, version or CLIENT_VERSION
        self.alive, self.hung, self.delay, self.dies_in = True, False, 0.0, None
        self.silent = False  # cameras send no images
        self.ids, self.episodes, self.roads = itertools.count(100), 0, dict(ROADS)
        self.managers, self.weathers, self.calls = {}, [], []
        self.clear()
        self.spoken = queue.Queue()
        threading.Thread(target=self._speak, daemon=True).start()
        SIMULATORS[port] = self

    def clear(self):
        self.actors, self.frame, self.settings = {}, 1, real.WorldSettings()
        self.weather = real.WeatherParameters()

    def kill(self):
        self.alive = False

    def _speak(self):
        """The thread that runs the sensors' callbacks."""
        while True:
            sensor, data = self.spoken.get()
            time.sleep(self.delay)
            callback = sensor._callback
            if callback is not None:
                callback(data)

    def spawn(self, blueprint, transform, parent=None):
        """Create an actor; None if the place is occupied."""
        if blueprint.id.startswith("vehicle."):
            here = transform.location
            others = [a for a in self.actors.values() if a._kind.startswith("vehicle.")]
            if any(abs(a._x - here.x) < 4.5 and abs(a._y - here.y) < 1.8 for a in others):
                return None
            actor = FakeVehicle(self, blueprint, transform)
        else:
            actor = FakeSensor(self, blueprint, transform, parent)
        self.actors[actor._id] = actor
        return actor

    def destroy(self, number):
        actor = self.actors.pop(number, None)
        if actor is not None:
            actor._alive = False
        return actor is not None

    def tick(self):
        """Advance all vehicles by 50 ms, then queue the sensors' data."""
        assert self.settings.synchronous_mode and self.settings.fixed_delta_seconds == DT
        self.frame += 1
        vehicles = [a for a in self.actors.values() if isinstance(a, FakeVehicle)]
        for vehicle in vehicles:
            vehicle._move()
        sensors = [a for a in self.actors.values() if isinstance(a, FakeSensor)]
        for sensor in sensors:
            for data in sensor._sense(vehicles):
                self.spoken.put((sensor, data))
        if self.dies_in is not None:
            self.dies_in -= 1
            if self.dies_in < 0:
                self.kill()
        return self.frame

    def answer(self, timeout, what=""):
        """Record a call; raise like the real client if the server is dead."""
        self.calls.append(what)
        if not self.alive:
            ms = round(timeout * 1000)
            raise RuntimeError(
                f"time-out of {ms}ms while waiting for the simulator, make sure the simulator is"
                f" ready and connected to 127.0.0.1:{self.port}"
            )


SIMULATORS = {}
CLIENT_VERSION = "0.9.16"


class _Nobody:
    alive = False

    def __init__(self, port):
        self.port, self.calls = port, []

    answer = Simulator.answer


# The client


@mirrors(real.Client)
class FakeClient(Imitation):
    def __init__(self, host="127.0.0.1", port=2000, worker_threads=0):
        self._port, self._timeout = port, 5.0

    @property
    def _server(self):
        server = SIMULATORS.get(self._port) or _Nobody(self._port)
        server.answer(self._timeout)
        return server

    def set_timeout(self, seconds):
        self._timeout = seconds

    def get_client_version(self):
        return CLIENT_VERSION

    def get_server_version(self):
        return self._server.version

    def get_world(self):
        return FakeWorld(self._server, self)

    def load_world(self, map_name, reset_settings=True, map_layers=None):
        server = self._server
        assert map_name == "Town04"
        for number in list(server.actors):
            server.destroy(number)
        settings = server.settings
        server.clear()
        server.episodes += 1
        if not reset_settings:
            server.settings = settings
        return FakeWorld(server, self)

    def get_trafficmanager(self, port=8000):
        return self._server.managers.setdefault(port, FakeTrafficManager())

    def apply_batch_sync(self, commands, do_tick=False):
        server = self._server
        answers = [_execute(server, command) for command in commands]
        if do_tick:
            server.tick()
        return answers


def _execute(server, command):
    if isinstance(command, real.command.DestroyActor):
        found = server.destroy(command.actor_id)
        return FakeResponse(command.actor_id, "" if found else "unable to destroy actor: not found")
    if isinstance(command, FakeSpawnActor):
        actor = server.spawn(command._blueprint, command._transform)
        if actor is None:
            return FakeResponse(0, "Spawn failed because of collision at spawn position")
        for then in command._then:
            assert isinstance(then, real.command.SetAutopilot)
            assert then.actor_id == real.command.FutureActor
            actor._autopilot = server.managers[then.tm_port] if then.enabled else None
            actor._rng = random.Random(actor._autopilot._seed)
        return FakeResponse(actor._id, "")
    raise TypeError(f"the fake knows no command {command!r}")


@mirrors(real.command.Response)
class FakeResponse(Imitation):
    def __init__(self, actor_id, error):
        self._actor_id, self._error = actor_id, error

    @property
    def actor_id(self):
        return self._actor_id

    @property
    def error(self):
        return self._error

    def has_error(self):
        return bool(self._error)


@mirrors(real.ActorAttribute)
class FakeAttribute(Imitation):
    def __init__(self, name, value, recommended=()):
        self._name, self._value, self._recommended = name, value, list(recommended)

    @property
    def recommended_values(self):
        return list(self._recommended)

    def as_int(self):
        return int(self._value)

    def as_str(self):
        return self._value


@mirrors(real.ActorBlueprint)
class FakeBlueprint(Imitation):
    def __init__(self, id_, **attributes):
        self._id, self._attributes = id_, attributes

    @property
    def id(self):
        return self._id

    def has_attribute(self, name):
        return name in self._attributes

    def get_attribute(self, name):
        return self._attributes[name]

    def set_attribute(self, name, value):
        if name not in self._attributes:
            raise RuntimeError(f"ActorBlueprint '{self._id}' has no attribute '{name}'")
        old = self._attributes[name]
        self._attributes[name] = FakeAttribute(name, value, old._recommended)

    def _copy(self):
        return FakeBlueprint(self._id, **self._attributes)


def _vehicle(name, wheels=4, colours=("255,0,0", "0,0,255"), drivers=()):
    attributes = {
        "number_of_wheels": FakeAttribute("number_of_wheels", str(wheels)),
        "role_name": FakeAttribute("role_name", "autopilot"),
    }
    if colours:
        attributes["color"] = FakeAttribute("color", colours[0], colours)
    if drivers:
        attributes["driver_id"] = FakeAttribute("driver_id", drivers[0], drivers)
    return FakeBlueprint(f"vehicle.{name}", **attributes)


def _library():
    names = ("image_size_x", "image_size_y", "fov", "enable_postprocess_effects")
    camera = {name: FakeAttribute(name, "0") for name in names}
    return [
        _vehicle("tesla.model3"),
        _vehicle("audi.a2"),
        _vehicle("carlamotors.firetruck", colours=()),
        _vehicle("yamaha.yzf", wheels=2, drivers=("0", "1")),
        FakeBlueprint("sensor.camera.rgb", **camera),
        FakeBlueprint("sensor.other.collision"),
    ]


@mirrors(real.BlueprintLibrary)
class FakeLibrary(Imitation):
    def __init__(self, blueprints):
        self._blueprints = blueprints

    def filter(self, wildcard_pattern):
        return FakeLibrary([b for b in self._blueprints if fnmatch.fnmatch(b.id, wildcard_pattern)])

    def find(self, id):
        for blueprint in self._blueprints:
            if blueprint.id == id:
                return blueprint._copy()
        raise IndexError(f"blueprint '{id}' not found")

    def __iter__(self):
        return (blueprint._copy() for blueprint in self._blueprints)

    def __len__(self):
        return len(self._blueprints)


@mirrors(real.World)
class FakeWorld(Imitation):
    def __init__(self, server, client):
        self._here, self._client, self._episode = server, client, server.episodes

    @property
    def _server(self):
        self._here.answer(self._client._timeout)
        if self._here.episodes != self._episode:
            raise RuntimeError("trying to access an expired episode")
        return self._here

    def get_settings(self):
        return self._server.settings

    def apply_settings(self, settings, seconds=0.0):
        self._server.settings = settings
        return self._server.frame

    def get_map(self):
        found = FakeMap.__new__(FakeMap)  # the real constructor takes an OpenDRIVE text
        found._roads = self._server.roads
        return found

    def get_blueprint_library(self):
        self._server.answer(0)
        return FakeLibrary(_library())

    def get_weather(self):
        return self._server.weather

    def set_weather(self, weather):
        self._server.weather = weather
        self._server.weathers.append(weather)

    def tick(self, seconds=0.0):
        server = self._server
        if server.hung:
            time.sleep(seconds)
            server.kill()
        frame = server.tick()
        server.answer(seconds)  # raises if this tick killed the server
        return frame

    def spawn_actor(self, blueprint, transform, attach_to=None, attachment_type=None, bone=""):
        actor = self._server.spawn(blueprint, transform, attach_to)
        if actor is None:
            raise RuntimeError("Spawn failed because of collision at spawn position")
        return actor


@mirrors(real.Map)
class FakeMap(Imitation):
    """A straight line along x; lanes lie side by side, to the right (y) of each other."""

    def get_waypoint(self, location, project_to_road=True, lane_type=real.LaneType.Driving):
        assert project_to_road and lane_type == real.LaneType.Driving
        x = min(max(location.x, 0.0), END - 1e-3)
        road, (begin, length, lanes) = next(
            (road, about) for road, about in self._roads.items() if x < about[0] + about[1]
        )
        lane = lanes[min(max(int(location.y // LANE), 0), len(lanes) - 1)]
        s = x - begin if lane < 0 else begin + length - x
        return FakeWaypoint(self._roads, road, lane, s)

    def get_waypoint_xodr(self, road_id, lane_id, s):
        _, length, lanes = self._roads.get(road_id, (0, 0, ()))
        if lane_id not in lanes or not 0 <= s <= length:
            return None
        return FakeWaypoint(self._roads, road_id, lane_id, s)


@mirrors(real.Waypoint)
class FakeWaypoint(Imitation):
    def __init__(self, roads, road, lane, s):
        self._roads, self._road, self._lane, self._s = roads, road, lane, s
        begin, length, _ = roads[road]
        self._x = begin + s if lane < 0 else begin + length - s

    @property
    def road_id(self):
        return self._road

    @property
    def lane_id(self):
        return self._lane

    @property
    def s(self):
        return self._s

    @property
    def transform(self):
        return real.Transform(real.Location(self._x, (abs(self._lane) - 0.5) * LANE, 0.0))

    def next(self, distance):
        """The waypoint further along the lane; none beyond the end of the route."""
        x = self._x + distance
        for road, (begin, length, lanes) in self._roads.items():
            if begin <= x < begin + length:
                lane = lanes[min(abs(self._lane), len(lanes)) - 1]
                s = x - begin if lane < 0 else begin + length - x
                return [FakeWaypoint(self._roads, road, lane, s)]
        return []


class FakeActor(Imitation):
    def _born(self, server, blueprint, transform):
        self._server, self._kind, self._id = weakref.proxy(server), blueprint.id, next(server.ids)
        self._x, self._y, self._z = (getattr(transform.location, axis) for axis in "xyz")
        self._alive, self._colour = True, blueprint._attributes.get("color")

    def _living(self):
        if not self._alive:
            raise RuntimeError(
                "trying to operate on a destroyed actor; an actor's function was called, but the"
                " actor is already destroyed."
            )


@mirrors(real.Vehicle)
class FakeVehicle(FakeActor):
    def __init__(self, server, blueprint, transform):
        self._born(server, blueprint, transform)
        self._yaw = self._speed = self._rise = 0.0
        self._control, self._autopilot, self._seen, self._rng = None, None, False, None

    @property
    def id(self):
        return self._id

    def apply_control(self, control):
        self._living()
        self._server.answer(0)
        self._control = control

    def get_location(self):
        self._living()
        return real.Location(self._x, self._y, self._z) if self._seen else real.Location()

    def get_velocity(self):
        self._living()
        way = math.cos(self._yaw), math.sin(self._yaw)
        return real.Vector3D(self._speed * way[0], self._speed * way[1], self._rise)

    def _move(self):
        self._seen, self._z = True, self._z if self._rise else 0.0
        if self._autopilot is not None:
            target = 20 * (1 - self._autopilot._slower / 100)
            self._speed += (target - self._speed) * 0.1 + self._rng.uniform(-0.1, 0.1)
        elif self._control is not None:
            push = 8 * self._control.throttle - 12 * self._control.brake
            self._speed = max(0.0, self._speed + push * DT)
            self._yaw += self._control.steer * self._speed * 0.05 * DT
        self._x += self._speed * math.cos(self._yaw) * DT
        self._y += self._speed * math.sin(self._yaw) * DT


@mirrors(real.Sensor)
class FakeSensor(FakeActor):
    def __init__(self, server, blueprint, transform, parent):
        self._born(server, blueprint, transform)
        self._about, self._callback, self._parent = blueprint, None, parent
        self._at, self._stopped = transform, False

    @property
    def id(self):
        return self._id

    def listen(self, callback):
        self._living()
        self._callback = callback

    def stop(self):
        self._living()
        self._server.answer(0)
        self._callback, self._stopped = None, True

    def _sense(self, vehicles):
        others = [v for v in vehicles if v is not self._parent]
        if self._kind == "sensor.camera.rgb":
            return [] if self._server.silent else [self._picture(others)]
        me = self._parent
        touched = [v for v in others if abs(v._x - me._x) < 4.5 and abs(v._y - me._y) < 1.8]
        hits = []
        for other in touched:
            hits.append(FakeCollision(self._server.frame, 1000 * (me._speed - other._speed)))
            me._speed = other._speed
        return hits

    def _picture(self, others):
        """Sky, ground, lane marks, and other cars as boxes, seen by a pinhole camera."""
        get = self._about.get_attribute
        width, height = get("image_size_x").as_int(), get("image_size_y").as_int()
        focus = width / 2 / math.tan(math.radians(int(get("fov")._value)) / 2)
        sky = round(255 * (1 - self._server.weather.cloudiness / 100))
        rows = [bytearray((sky, 160, 90, 255) * width) for _ in range(height // 2)]
        rows += [bytearray((70, 70, 75, 255) * width) for _ in range(height - height // 2)]
        x, y, z = (
            getattr(self._parent, f"_{axis}") + getattr(self._at.location, axis) for axis in "xyz"
        )
        for row in range(height // 2, height):
            away = focus * z / (row - height / 2 + 0.5)
            for line in range(5):
                column = round(width / 2 + focus * (line * LANE - y) / away)
                if 0 <= column < width and (x + away) % 6 < 3:
                    rows[row][4 * column : 4 * column + 4] = b"\xff\xff\xff\xff"
        for other in sorted(others, key=lambda v: -v._x):
            away = other._x - x
            if away > 2:
                self._box(rows, other, focus, away, other._y - y, z, width, height)
        return FakeImage(self._server.frame, width, height, b"".join(rows))

    def _box(self, rows, other, focus, away, right, eye, width, height):
        colour = other._colour._value if other._colour else "9,9,9"
        bgra = bytes((*map(int, colour.split(",")[::-1]), 255))
        lowest = height / 2 + focus * (eye - other._z) / away
        highest = lowest - max(focus * 1.5 / away, 1)
        left, right = (width / 2 + focus * (right + side) / away for side in (-0.9, 0.9))
        first, last = max(0, round(left)), min(width, max(round(right), round(left) + 1))
        for row in range(max(0, round(highest)), min(height, round(lowest))):
            rows[row][4 * first : 4 * last] = bgra * max(0, last - first)


@mirrors(real.Image)
class FakeImage(Imitation):
    def __init__(self, frame, width, height, raw_data):
        self._frame, self._width, self._height, self._raw = frame, width, height, raw_data

    @property
    def frame(self):
        return self._frame

    @property
    def width(self):
        return self._width

    @property
    def height(self):
        return self._height

    @property
    def raw_data(self):
        return memoryview(self._raw)


@mirrors(real.CollisionEvent)
class FakeCollision(Imitation):
    def __init__(self, frame, impulse):
        self._frame, self._impulse = frame, impulse

    @property
    def frame(self):
        return self._frame

    @property
    def normal_impulse(self):
        return real.Vector3D(-self._impulse, 0.0, 0.0)


@mirrors(real.TrafficManager)
class FakeTrafficManager(Imitation):
    def __init__(self):
        self._synchronous, self._seed, self._distance, self._slower = False, None, None, 0.0

    def set_synchronous_mode(self, mode_switch):
        self._synchronous = mode_switch

    def set_random_device_seed(self, value):
        self._seed = value

    def set_global_distance_to_leading_vehicle(self, distance):
        self._distance = distance

    def global_percentage_speed_difference(self, percentage):
        self._slower = percentage

    def shut_down(self):
        self._synchronous = False


@mirrors(real.command.SpawnActor)
class FakeSpawnActor(Imitation):
    def __init__(self, blueprint, transform):
        self._blueprint, self._transform, self._then = blueprint._copy(), transform, ()

    def then(self, command):
        self._then = (*self._then, command)
        return self


FAKES["Actor"] = FakeActor

VALUES = """
    LaneType Location Rotation Transform Vector3D VehicleControl WeatherParameters WorldSettings
"""


def module():
    """The fake `carla` module: value classes of the package, fakes of the others."""
    fake = types.ModuleType("carla")
    fake.__spec__ = real.__spec__  # for importlib.util.find_spec
    for name in VALUES.split():
        setattr(fake, name, getattr(real, name))
    fake.Client = FakeClient
    fake.command = types.ModuleType("carla.command")
    for name in ("DestroyActor", "FutureActor", "SetAutopilot"):
        setattr(fake.command, name, getattr(real.command, name))
    fake.command.SpawnActor = FakeSpawnActor
    return fake


class FakeServer:
    """Replaces `envs.carla_server.Server`: a Simulator on a new port."""

    def __init__(self, cfg):
        self.cfg, self.log, self.stopped = cfg, "a log", False
        self.port = next(PORTS)
        self.simulator = Simulator(self.port)
        SERVERS.append(self)

    def start(self):
        pass

    def stop(self):
        self.simulator.kill()
        self.stopped = True


SERVERS, PORTS = [], itertools.count(3000, 10)


def install(patch):
    """Replace the `carla` package and `envs.carla.Server`."""
    patch.setitem(sys.modules, "carla", module())
    patch.setattr(carla, "Server", FakeServer)
