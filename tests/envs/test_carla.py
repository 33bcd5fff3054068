"""The CARLA environment and client against a fake server that follows CARLA's documentation."""

import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import envs
from envs import carla

real = pytest.importorskip("carla")  # Linux on x86_64 only
import fake_carla  # noqa: E402
from fake_carla import SERVERS, Simulator  # noqa: E402

ROOT = Path(__file__).parents[2]
SERVER = envs.ServerConfig("fake {port}", answer_seconds=0.5)
GAS, REST = np.array([0, 1], np.float32), np.zeros(2, np.float32)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    fake_carla.install(monkeypatch)
    SERVERS.clear()


@pytest.fixture
def make():
    made = []

    def make(task="clear-noon"):
        made.append(envs.make("carla", task, server=SERVER).unwrapped)
        return made[-1]

    yield make
    for env in made:
        env.close()


def simulator(env):
    return env._server.simulator


def car(env):
    return env._vehicle


def drive(env, action=GAS, steps=1):
    for _ in range(steps):
        result = env.step(action)
    return result


# Episodes


def test_world_settings_and_actors_are_the_papers(make):
    env = make("wet-sunset")
    env.reset(seed=0)
    machine = simulator(env)
    assert machine.settings.synchronous_mode and not machine.settings.no_rendering_mode
    assert machine.settings.fixed_delta_seconds == 0.05
    assert machine.weather == real.WeatherParameters.WetSunset
    vehicles = [a for a in machine.actors.values() if a._kind.startswith("vehicle.")]
    assert [v._kind for v in vehicles if v._autopilot is None] == ["vehicle.audi.a2"]
    others = [v for v in vehicles if v._autopilot is not None]
    assert 15 <= len(others) <= 20
    assert not any(v._kind == "vehicle.yamaha.yzf" for v in others)  # two wheels
    (port, manager), *more = machine.managers.items()
    assert port == env._traffic_port and not more and manager._synchronous
    assert (manager._distance, manager._slower) == (2.0, 30.0)
    (camera,) = (a for a in machine.actors.values() if a._kind == "sensor.camera.rgb")
    about = {name: each.as_str() for name, each in camera._about._attributes.items()}
    assert about == {"image_size_x": "64", "image_size_y": "64", "fov": "60"} | {
        "enable_postprocess_effects": "True"
    }
    assert camera._parent is car(env)
    assert camera._at == real.Transform(real.Location(x=1.6, z=1.7))


def test_episode_begins_on_road_45_in_a_random_lane(make):
    env = make()
    places = set()
    for seed in range(12):
        env.reset(seed=seed)
        at = car(env).get_location()
        places.add(round(at.y, 3))
        assert (at.x, at.z) == pytest.approx((100, 0))
    assert places == {1.75, 5.25, 8.75, 12.25}


@pytest.mark.parametrize(
    ("action", "throttle", "brake"), [((0.5, 0.25), 0.25, 0), ((-1, -0.75), 0, 0.75)]
)
def test_action_sets_steering_throttle_and_brake(make, action, throttle, brake):
    env = make()
    env.reset(seed=0)
    env.step(np.array(action))
    control = car(env)._control
    assert (control.steer, control.throttle, control.brake) == (action[0], throttle, brake)
    assert not control.hand_brake and not control.reverse


def test_frame_is_the_cameras_image(make):
    env = make()
    frame, _ = env.reset(seed=0)
    assert frame[0, 0].tolist() == [90, 160, 242]  # sky above, channels RGB
    assert [75, 70, 70] in frame[-1].tolist()  # the road
    assert (env.render()[::4, ::4] == frame).all()


def test_rewards_equal_hand_computed_ones(make):
    env = make()
    env.reset(seed=0)
    vehicle = car(env)
    vehicle._x, vehicle._y, vehicle._speed, vehicle._yaw = 150, 8.75 + 1.5, 9.6, 0.0  # lane -3
    _, reward, terminated, truncated, info = drive(env, np.array([0, 1.0]))  # 9.6 + 8 x 0.05 = 10
    assert info == pytest.approx(dict(distance=0.5, centering=0, collision=0, steer=0), abs=1e-6)
    assert reward == pytest.approx(0.5, abs=1e-6)
    assert (terminated, truncated) == (False, False)
    vehicle._y, vehicle._speed = 15.75, 9.6  # on road 45's lane -5, so 3.5 m from -4's middle
    _, reward, _, _, info = drive(env, np.array([0, 1.0]))
    assert info["centering"] == pytest.approx(1.5 * 1.75, abs=1e-5)
    assert reward == pytest.approx(0.5 / (1 + 2.625), abs=1e-5)
    vehicle._speed, vehicle._yaw = 0.0, 0.0
    _, reward, *_ = drive(env, np.array([-0.25, -1.0]))
    assert reward == pytest.approx(-0.25)


def test_driving_across_or_backwards_earns_no_distance(make):
    env = make()
    env.reset(seed=0)
    car(env)._y, car(env)._speed, car(env)._yaw = 8.75, 10.0, np.pi / 2
    assert drive(env, REST)[4]["distance"] == pytest.approx(0, abs=1e-6)
    car(env)._y, car(env)._yaw = 8.75, np.pi
    assert drive(env, REST)[4]["distance"] == pytest.approx(-0.5)


@pytest.mark.parametrize(("speed", "cost"), [(8.0, 8.0), (12.0, 10.0)])
def test_collision_costs_once_and_does_not_terminate(make, speed, cost):
    env = make()
    env.reset(seed=0)
    machine = simulator(env)
    other, *more = (a for a in machine.actors.values() if getattr(a, "_autopilot", None))
    for each in more:
        machine.destroy(each._id)
    other._autopilot, other._speed = None, 0.0
    me = car(env)
    me._x, me._y, me._speed, me._yaw = other._x - 4.6, other._y, speed, 0.0
    steps = [drive(env, REST)]
    time.sleep(0.05)  # the sensor's thread reports it
    steps += [drive(env, REST), drive(env, REST)]
    assert sum(step[4]["collision"] for step in steps) == pytest.approx(cost)
    assert not any(step[2] for step in steps)


def test_episode_is_truncated_after_999_steps(make):
    env = make()
    env.action_repeat = 111
    env.reset(seed=0)
    env._ticks = 1
    slow = np.array([0, 0.001], np.float32)  # neither stuck nor at the end of the route
    ends = [env.step(slow)[2:4] for _ in range(9)]
    assert ends == [(False, False)] * 8 + [(False, True)]


@pytest.mark.parametrize(
    ("cause", "step"), [("stuck", 99), ("end of the route", 1), ("in the air", 1)]
)
def test_failures_terminate(make, cause, step):
    env = make()
    env.reset(seed=0)
    if cause == "end of the route":
        car(env)._x = fake_carla.END - 0.05
    if cause == "in the air":
        car(env)._z, car(env)._rise = 0.6, 0.5
    for i in range(1, step + 1):
        *_, terminated, truncated, _ = env.step(REST)
        assert (terminated, truncated) == (i == step, False)


def test_dynamic_weather_advances_and_follows_the_seed(make):
    env = make("dynamic")
    env.reset(seed=3)
    machine = simulator(env)
    before = machine.weather.sun_azimuth_angle
    drive(env, steps=4)
    assert (machine.weather.sun_azimuth_angle - before) % 360 == pytest.approx(0.1, abs=1e-4)
    assert machine.weather.precipitation == pytest.approx(
        max(0, machine.weather.cloudiness - 40), abs=20
    )
    env.reset(seed=3)
    assert machine.weather.sun_azimuth_angle == before


def test_reset_and_close_destroy_the_actors(make):
    env = make()
    machine = simulator(env)
    stray = next(b for b in fake_carla._library() if b.id == "vehicle.audi.a2")
    machine.spawn(stray, real.Transform(real.Location(100, 8.75, 0)))
    counts = set()
    for seed in range(5):
        env.reset(seed=seed)
        kinds = [a._kind.split(".")[0] for a in machine.actors.values()]
        counts.add(kinds.count("sensor"))
        assert kinds.count("vehicle") <= 21
        drive(env, steps=3)
    assert counts == {2}
    env.close()
    assert machine.actors == {} and env._server.stopped


def test_step_waits_for_late_images(make):
    env = make()
    simulator(env).delay = 0.02
    frames = [env.reset(seed=0)[0]] + [drive(env)[0] for _ in range(5)]
    simulator(env).delay = 0.0
    again = [env.reset(seed=0)[0]] + [drive(env)[0] for _ in range(5)]
    assert np.array_equal(frames, again)


# Servers


def test_each_environment_has_its_own_server(make):
    training, evaluation = make(), make()
    training.reset(seed=0), evaluation.reset(seed=0)
    before = simulator(evaluation).frame
    drive(training, steps=3)
    assert simulator(evaluation).frame == before


def test_missing_server_command_raises():
    with pytest.raises(envs.EnvError) as error:
        envs.make("carla", "clear-noon")
    for words in ("env.server.command", "CarlaUE4.sh", "-carla-rpc-port={port}", "`driving`"):
        assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_version_mismatch_raises(make):
    env = make()
    simulator(env).version = "0.9.11"
    with pytest.raises(envs.EnvError, match=r"server is 0.9.11 and the client 0.9.16; install"):
        env.reset(seed=0)
    assert env._server.stopped


def test_changed_map_raises(make):
    env = make()
    del simulator(env).roads[659]
    with pytest.raises(envs.EnvError, match="has no road 659 with lane 1 at 29 m"):
        env.reset(seed=0)


@pytest.mark.parametrize("when", ["before the first episode", "in an episode", "between episodes"])
@pytest.mark.parametrize(
    ("how", "reason"),
    [("dies", "time-out of"), ("hangs", "time-out of"), ("sends no images", "no image within")],
)
def test_failed_server_is_stopped_and_raises(make, how, reason, when):
    env = make()
    if when != "before the first episode":
        env.reset(seed=7)
    machine = simulator(env)
    machine.alive, machine.hung = how != "dies", how == "hangs"
    machine.silent = how == "sends no images"
    began = time.monotonic()
    with pytest.raises(envs.EnvError, match=f"the CARLA server failed: {reason}") as error:
        drive(env) if when == "in an episode" else env.reset(seed=8)
    assert "\n" not in str(error.value) and "(log: " in str(error.value)
    assert env._server.stopped and time.monotonic() - began < 5
    with pytest.raises(envs.EnvError, match=r"call reset\(\)"):
        env.step(REST)


def test_real_client_times_out(make, monkeypatch):
    """A server that accepts connections and never answers."""
    env = make()
    monkeypatch.setitem(sys.modules, "carla", real)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        env._server.port = deaf.getsockname()[1]
        with pytest.raises(envs.EnvError, match="the CARLA server failed: time-out of 500ms"):
            env.reset(seed=0)


# Runs


def test_run_resumes_after_a_dead_server(tmp_path, monkeypatch):
    from cwm import config
    from cwm.commands.run_spec import run_spec
    from cwm.infra.run_dir import RunDir
    from cwm.train.finetune import FinetuneLoop, finetune

    monkeypatch.chdir(tmp_path)
    names = ("suite/carla", "scale/smoke", "model/contextwm", "variant/standard")
    files = [ROOT / f"config/{name}.yaml" for name in names]
    sets = ["finetune.eval_envs=1", "finetune.eval_episodes=1", "env.time_limit=12"]
    sets += ["finetune.steps=40", "finetune.prefill=10", "finetune.eval_every=20"]
    sets += ["env.processes=false", "env.server={command: 'fake {port}', answer_seconds: 1}"]
    cfg = config.load(files, sets, "clear-noon")
    spec = run_spec("finetune", "carla/clear-noon", cfg, files, {}, 0)
    assert "server" not in spec.config["env"]

    def run(die=False):
        with RunDir(spec, tmp_path / "out", 0.0) as folder:
            work = FinetuneLoop(cfg.runtime, cfg.model, cfg.env, cfg.finetune, None, folder)
            if die:
                SERVERS[0].simulator.dies_in = 30
            finetune(work)

    with pytest.raises(envs.EnvError, match="the CARLA server failed"):
        run(die=True)
    assert not (tmp_path / "out/scores.csv").exists()
    run()
    rows = (tmp_path / "out/scores.csv").read_text().splitlines()[1:]
    assert {row.split(",")[4] for row in rows} == {"12"}  # every episode is complete
    logged = (tmp_path / "out/metrics.jsonl").read_text()
    for name in ("distance", "centering", "collision", "steer"):
        assert f"eval/{name}" in logged


# The fake itself


def test_actor_is_at_the_origin_before_a_tick():
    Simulator(2000)
    client = sys.modules["carla"].Client("127.0.0.1", 2000)
    world = client.get_world()
    kind = world.get_blueprint_library().find("vehicle.audi.a2")
    actor = world.spawn_actor(kind, real.Transform(real.Location(10, 1.75, 0)))
    assert actor.get_location() == real.Location()


@pytest.mark.parametrize(
    "misuse",
    [
        lambda client: client.spawn_everything(),
        lambda client: client.set_timeout(secs=3.0),
        lambda client: client.set_timeout("3"),
        lambda client: client.set_timeout(3.0, 4.0),
        lambda client: client.get_trafficmanager(port=8000.0),
        lambda client: client.get_world().spawn_actor("vehicle.audi.a2", real.Transform()),
        lambda client: sys.modules["carla"].Client(hostname="here"),
        lambda client: setattr(client, "timeout", 3.0),
        lambda client: client.get_world().get_settings().nonsense,
        lambda client: sys.modules["carla"].VehicleControl(throtle=1.0),
    ],
)
def test_fake_rejects_calls_that_the_real_client_rejects(misuse):
    Simulator(2000)
    with pytest.raises((TypeError, AttributeError)):
        misuse(sys.modules["carla"].Client("127.0.0.1", 2000))


def test_fake_without_a_real_counterpart_raises():
    def imitation(**names):
        return lambda: fake_carla.mirrors(real.Client)(type("Fake", (), names))

    def undocumented():
        pass

    class Original:
        method = undocumented

    mistakes = [
        imitation(teleport=lambda self: None),
        imitation(get_world=property(lambda self: None)),
        lambda: fake_carla.mirrors(Original)(type("Fake", (), {"method": lambda self: None})),
    ]
    for mistake in mistakes:
        with pytest.raises(TypeError):
            mistake()


def test_fake_times_out_with_the_real_message():
    client = real.Client("127.0.0.1", 2990)
    client.set_timeout(0.2)
    with pytest.raises(RuntimeError) as truth:
        client.get_server_version()
    mine = fake_carla.FakeClient("127.0.0.1", 2990)
    mine.set_timeout(0.2)
    with pytest.raises(RuntimeError) as fake_error:
        mine.get_server_version()
    assert str(fake_error.value) == str(truth.value)
    assert client.get_client_version() == fake_carla.CLIENT_VERSION


def test_every_weather_is_a_preset_of_the_package():
    presets = [preset for preset in carla.TASKS.values() if preset]
    assert len(carla.TASKS) == 15 and carla.TASKS["mid-rainy-noon"] == "MidRainyNoon"
    for preset in presets:
        assert isinstance(getattr(real.WeatherParameters, preset), real.WeatherParameters)
